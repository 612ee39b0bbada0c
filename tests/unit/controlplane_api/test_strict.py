"""Repeated and unknown fields, by kube-apiserver's own texts."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.kinds.shapes import prune, unknown
from controlplane.api.requests.strict import repeated
from controlplane.api.schema.published import shape_of
from netplane.kube.resources import DEPLOYMENTS

JSON = "application/json"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        (b'{"a":1}', []),
        (b'{ "a": 1 }', []),
        (b'{"a":1,"a":1}', ["a"]),
        (b'{"spec":{"replicas":1,"replicas":2,"replicas":3}}', ["spec.replicas"]),
        (b'{"spec":{"containers":[{"name":"a"},{"image":"x","image":"x"}]}}', ["spec.containers[1].image"]),
        (b'{"a":{"x":1},"a":{"x":1,"x":2},"b":"\\u003c"}', ["a", "a.x"]),
    ],
)
def test_repeated_fields_are_named_once(body, paths) -> None:
    assert repeated(JSON, body) == [f'duplicate field "{path}"' for path in paths]


@given(VALUES)
def test_what_an_encoder_wrote_repeats_nothing(value) -> None:
    assert repeated(JSON, orjson.dumps(value)) == []
    assert repeated(JSON, orjson.dumps(value, option=orjson.OPT_INDENT_2)) == []


def test_unknown_fields_stand_in_the_order_of_the_object_and_are_pruned() -> None:
    """From kube-apiserver's own test of field validation."""
    deployment = {
        "metadata": {"name": "x", "labels": {"app": "nginx"}},
        "spec": {
            "unknown1": "val1",
            "unknownDupe": {"a": 1},
            "replicas": 1,
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {"spec": {"containers": [{"name": "c", "unknownNested": "val1", "image": "i"}]}},
        },
    }
    shape = shape_of(DEPLOYMENTS)
    assert unknown(shape, deployment) == [
        "spec.unknown1",
        "spec.unknownDupe",
        "spec.template.spec.containers[0].unknownNested",
    ]
    prune(shape, deployment)
    assert unknown(shape, deployment) == []
    assert deployment["spec"]["template"]["spec"]["containers"] == [{"name": "c", "image": "i"}]
    assert deployment["metadata"]["labels"] == {"app": "nginx"}
