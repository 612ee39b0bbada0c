"""Selectors: the text form, the JSON form, and that both mean what Kubernetes means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kube.selectors import FieldSelector, Requirement, Selector


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("", {}, True),
        ("app=web", {"app": "web"}, True),
        ("app==web", {"app": "web"}, True),
        ("app = web", {"app": "web"}, True),
        ("app=web", {"app": "api"}, False),
        ("app=web", {}, False),
        ("app!=web", {}, True),
        ("app!=web", {"app": "web"}, False),
        ("app", {"app": ""}, True),
        ("!app", {"app": "x"}, False),
        ("!app", {}, True),
        ("app in (web, api)", {"app": "api"}, True),
        ("app notin (web,api)", {}, True),
        ("app notin (web,api)", {"app": "web"}, False),
        ("app in (web,api),tier!=db,!old", {"app": "web"}, True),
        ("n>3", {"n": "4"}, True),
        ("n<3", {"n": "x"}, False),
        ("!service.kubernetes.io/headless", {"service.kubernetes.io/headless": ""}, False),
    ],
)
def test_text_form(text: str, labels: dict[str, str], matches: bool) -> None:
    assert Selector.parse(text).matches(labels) is matches


@pytest.mark.parametrize("text", ["=x", "a=b=c", "a in ()x", "a in (b", "a,,b", "a=!", "a b"])
def test_nonsense_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="unable to parse requirement"):
        Selector.parse(text)


def test_label_selector_of_a_spec() -> None:
    spec = {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}
    assert Selector.from_label_selector(spec).matches({"a": "1", "b": "x"})
    assert not Selector.from_label_selector(spec).matches({"a": "1"})
    with pytest.raises(ValueError, match="not a valid label selector operator"):
        Selector.from_label_selector({"matchExpressions": [{"key": "b", "operator": "Is"}]})


words = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
requirements = st.one_of(
    st.builds(Requirement, words, st.just("Exists")),
    st.builds(Requirement, words, st.just("DoesNotExist")),
    st.builds(Requirement, words, st.sampled_from(["In", "NotIn"]), st.lists(words, min_size=1).map(tuple)),
)


@given(st.lists(requirements).map(lambda r: Selector(tuple(r))), st.dictionaries(words, words))
def test_what_is_printed_is_what_is_read(selector: Selector, labels: dict[str, str]) -> None:
    assert Selector.parse(str(selector)).matches(labels) is selector.matches(labels)


def test_field_selector() -> None:
    selector = FieldSelector.parse("spec.nodeName=n1,metadata.name!=x")
    assert selector.fields == {"spec.nodeName", "metadata.name"}
    assert selector.required("spec.nodeName") == "n1"
    assert selector.matches({"spec.nodeName": "n1", "metadata.name": "y"})
    assert not selector.matches({"spec.nodeName": "n1", "metadata.name": "x"})
    with pytest.raises(ValueError, match="invalid field selector 'nonsense'"):
        FieldSelector.parse("nonsense")
