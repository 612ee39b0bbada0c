"""A comparison as a picture: for each measure a bar a subject, against the subject that all are compared with.

Why our own: three groups of bars are forty lines of SVG, and the text in them stays text. Pure: rows in, SVG out.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LABELS, ROW, GAP = 760, 190, 20, 34  # pixels
BAR, OURS, INK = "#b8c4d0", "#3b7dd8", "#222"


def bars(rows: Sequence[Mapping[str, Any]], base: str, ours: frozenset[str]) -> str:
    """Each subject's rate as a multiple of `base`'s, with its 95 % interval; `ours` are drawn in colour.

    ``rows``: in order of their ``measure``, each with ``subject`` and, but for the base's own, ``row[base]`` as
    {"ratio", "low", "high"}. Rows without are left out.
    """
    shown = [row for row in rows if base in row]
    most = max((row[base]["high"] for row in shown), default=1.0)
    scale = (WIDTH - LABELS - 90) / max(most, 1.0)
    parts: list[str] = []
    top = 8.0
    for measure, group in groupby(shown, key=lambda row: row["measure"]):
        members = list(group)
        parts.append(_text(LABELS, top + 14, f"{measure}, × {base}", weight="bold"))
        top += 22
        parts.append(_line(LABELS + scale, top, LABELS + scale, top + ROW * len(members), dash="3,3"))
        for row in members:
            parts += _bar(row, row[base], top, scale, OURS if row["subject"] in ours else BAR)
            top += ROW
        top += GAP - ROW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:.0f}" font-family="sans-serif"'
    )
    return "\n".join(
        [f'{head} font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""]
    )


def _bar(
    row: Mapping[str, Any], found: Mapping[str, float], top: float, scale: float, colour: str
) -> list[str]:
    middle = top + ROW / 2
    low, high = LABELS + found["low"] * scale, LABELS + found["high"] * scale
    figure = f"{found['ratio']:.2f} [{found['low']:.2f} {found['high']:.2f}]"
    size = f'width="{found["ratio"] * scale:.1f}" height="{ROW - 6}"'
    return [
        _text(LABELS - 8, middle + 4, str(row["subject"]), anchor="end"),
        f'<rect x="{LABELS}" y="{top + 3:.1f}" {size} fill="{colour}"/>',
        _line(low, middle, high, middle),
        _text(max(high, LABELS) + 6, middle + 4, figure),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, *, dash: str = "none") -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{INK}" stroke-dasharray="{dash}"/>'
