"""Query strings: what is asked for, and the 400 that names what makes no sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.reading.selection import Continue, parse
from netplane.kube.errors import StatusError
from tests.unit.controlplane_api.plain_kinds import PLAIN_PODS


def pod(name="x", namespace="a", node="", **labels):
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"metadata": metadata, "spec": {"nodeName": node}}


MATCHES = [
    ({}, pod(), True),
    ({"labelSelector": "app=web"}, pod(app="web"), True),
    ({"labelSelector": "app=web"}, pod(), False),
    ({"labelSelector": "app in (web,db),!old"}, pod(app="db"), True),
    ({"labelSelector": "app in (web,db),!old"}, pod(app="db", old="1"), False),
    ({"fieldSelector": "spec.nodeName=n1"}, pod(node="n1"), True),
    ({"fieldSelector": "spec.nodeName=n1"}, pod(), False),
    ({"fieldSelector": "spec.nodeName!=n1,metadata.name=x"}, pod(), True),
]


@pytest.mark.parametrize(("query", "obj", "want"), MATCHES)
def test_selectors_select(query, obj, want) -> None:
    assert parse(PLAIN_PODS, "", "", query, watch=False).selection.matches(obj) is want


def test_the_namespace_and_the_name_of_the_path_select_too() -> None:
    assert not parse(PLAIN_PODS, "b", "", {}, watch=False).selection.matches(pod())
    assert not parse(PLAIN_PODS, "a", "y", {}, watch=True).selection.matches(pod())


WRONG = [
    ({"labelSelector": "a=b=c"}, False, "a=b=c"),
    ({"labelSelector": "in (a"}, False, "in (a"),
    ({"fieldSelector": "spec.color=red"}, False, "field label not supported: spec.color"),
    ({"fieldSelector": "spec.nodeName"}, False, "spec.nodeName"),
    ({"resourceVersion": "x"}, False, "resourceVersion"),
    ({"resourceVersion": "-1"}, False, "resourceVersion"),
    ({"limit": "many"}, False, "limit"),
    ({"continue": "rubbish"}, False, "continue key is not valid"),
    ({"continue": Continue(3, "/k").encode(), "resourceVersion": "3"}, False, "resourceVersion"),
    ({"resourceVersionMatch": "Exact"}, False, "resourceVersionMatch"),
    ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, False, "resourceVersionMatch"),
    ({"resourceVersionMatch": "Roughly", "resourceVersion": "1"}, False, "Roughly"),
    ({"sendInitialEvents": "true"}, True, "resourceVersionMatch"),
    ({"allowWatchBookmarks": "perhaps"}, True, "allowWatchBookmarks"),
    ({"timeoutSeconds": "1.5"}, True, "timeoutSeconds"),
]


@pytest.mark.parametrize(("query", "watch", "named"), WRONG)
def test_a_query_that_makes_no_sense_is_a_400_that_names_it(query, watch, named) -> None:
    with pytest.raises(StatusError) as raised:
        parse(PLAIN_PODS, "", "", query, watch=watch)
    assert raised.value.code == 400
    assert named in str(raised.value)


@given(st.integers(1, 2**63), st.text())
def test_a_continue_token_comes_back_as_it_went(revision, key) -> None:
    token = Continue(revision, key)
    assert Continue.decode(token.encode()) == token


@given(st.text())
def test_any_other_token_is_a_400(text) -> None:
    with pytest.raises(StatusError) as raised:
        Continue.decode(text)
    assert raised.value.code == 400
