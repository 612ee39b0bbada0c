"""A picture of a comparison: every subject is in it, as long as its ratio."""

from xml.etree import ElementTree

from netplane.bench.plot import bars

SVG = "{http://www.w3.org/2000/svg}"


def row(measure: str, subject: str, ratio: float) -> dict[str, object]:
    return {"measure": measure, "subject": subject, "direct": {"ratio": ratio, "low": ratio, "high": ratio}}


def test_a_bar_is_as_long_as_its_ratio():
    rows = [{"measure": "bulk", "subject": "direct"}, row("bulk", "a<b", 0.5), row("requests", "ours", 1.0)]
    picture = ElementTree.fromstring(bars(rows, "direct", frozenset({"ours"})))
    half, whole = picture.findall(f"{SVG}rect")[1:]
    assert float(whole.attrib["width"]) == 2 * float(half.attrib["width"])
    assert half.attrib["fill"] != whole.attrib["fill"]
    words = [text.text for text in picture.findall(f"{SVG}text")]
    assert words == [
        "bulk, × direct", "a<b", "0.50 [0.50 0.50]",
        "requests, × direct", "ours", "1.00 [1.00 1.00]",
    ]  # fmt: skip
