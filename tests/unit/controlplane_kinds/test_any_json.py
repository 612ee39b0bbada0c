"""Whatever a client sends, a kind answers with causes and never with a traceback."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.api.kinds.registry import KINDS
from controlplane.api.kinds.shapes import unknown
from controlplane.api.kinds.workloads import DEPLOYMENT_KIND
from controlplane.api.schema.published import shape_of
from netplane.kube.resources import ALL
from tests.unit.controlplane_kinds import kind_samples

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["TCP", "None", "10.96.0.1", "10.0.0.0/8", "100m", "50%", "a" * 300, "x\n", "Always"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6) | st.sampled_from(["name", "port", "type", "matchLabels"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def paths(value, at=()):
    """Every place inside a JSON value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*at, key))


def replaced(obj, path, value):
    changed = copy.deepcopy(obj)
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return changed


def good(kind):
    """A good object with its defaults and a status, so that there is much to break."""
    maker = getattr(kind_samples, kind.resource.kind.lower(), kind_samples.deployment)
    obj = {**maker(), "apiVersion": kind.resource.api_version, "kind": kind.resource.kind}
    kind.default(obj)
    kind.prepare_create(obj)
    return obj


def exercise(kind, new, old):
    """Every function a write calls, in its order; gives the causes of the create and the update."""
    found = []
    for prepare, judge, before in (
        (kind.prepare_create, kind.validate, None),
        (lambda obj: kind.prepare_update(obj, old), kind.validate, old),
        (lambda obj: kind.prepare_status(obj, old), kind.validate_status, old),
    ):
        obj = copy.deepcopy(new)
        unknown(shape_of(kind.resource), obj)
        kind.default(obj)
        prepare(obj)
        causes = judge(obj, before)
        assert all(cause.field and cause.message and cause.reason for cause in causes)
        json.dumps([cause.message for cause in causes])
        if not causes:
            for column in kind.columns:
                assert column.value(obj) is not None or column.type == "date"
            assert all(isinstance(value, str) for value in kind.fields(obj).values())
        found.append(causes)
    return found


@pytest.mark.parametrize("resource", ALL, ids=lambda resource: resource.kind)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_good_object_with_anything_in_one_place(resource, data):
    kind = KINDS[resource]
    old = good(kind)
    path = data.draw(st.sampled_from([path for path in paths(old) if path]))
    exercise(kind, replaced(old, path, data.draw(JSON)), old)


@pytest.mark.parametrize("resource", ALL, ids=lambda resource: resource.kind)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_object(resource, data):
    kind = KINDS[resource]
    sections = st.sampled_from(
        ["metadata", "spec", "status", "subsets", "ports", "endpoints", "kind", "count"]
    )
    sent = data.draw(st.dictionaries(sections, JSON, max_size=5))
    created, *_ = exercise(kind, sent, good(kind))
    metadata = sent.get("metadata")
    named = isinstance(metadata, dict) and "name" in metadata
    assert created or named, "an object without a name is never good"


@pytest.mark.parametrize("resource", ALL, ids=lambda resource: resource.kind)
def test_an_empty_object_has_a_row_and_fields(resource):
    kind = KINDS[resource]
    for column in kind.columns:
        column.value({})
    assert {"metadata.name"} <= set(kind.fields({}))


@given(JSON)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_unknown_field_is_named_whatever_it_holds(value):
    obj = good(DEPLOYMENT_KIND)
    obj["spec"]["template"]["spec"]["containers"][0]["sidecar"] = value
    assert unknown(shape_of(DEPLOYMENT_KIND.resource), obj) == ["spec.template.spec.containers[0].sidecar"]
