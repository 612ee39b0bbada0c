"""The patches, by the examples of their specifications and of Kubernetes' own documentation."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.kinds.shapes import ListOf
from controlplane.api.schema.published import shape_of
from controlplane.api.writing import strategic
from controlplane.api.writing.patch import (
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    apply,
    json_patch,
    merge_patch,
)
from controlplane.api.writing.strategic import DIRECTIVE, ORDER_PREFIX, strategic_merge
from netplane.kube.errors import StatusError
from netplane.kube.resources import DEPLOYMENTS, ENDPOINTSLICES, NODES, PODS, SERVICES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)
WITHOUT_NULL = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3),
    lambda inner: st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=8,
)

POD, SERVICE, NODE, SLICE = (shape_of(kind) for kind in (PODS, SERVICES, NODES, ENDPOINTSLICES))

# RFC 7386, appendix A.
MERGE_CASES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), MERGE_CASES)
def test_merge_patch_does_what_rfc_7386_says(target, patch, result) -> None:
    assert merge_patch(target, patch) == result


@given(target=JSON, patch=JSON)
def test_merging_twice_is_merging_once_and_never_changes_the_target(target, patch) -> None:
    before = copy.deepcopy(target)
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert target == before


# RFC 6902, appendix A (the cases that hold of objects).
JSON_PATCH_CASES = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "q"}], {"baz": "q", "foo": "bar"}),
    ({"foo": ["a", "b"]}, [{"op": "add", "path": "/foo/1", "value": "q"}], {"foo": ["a", "q", "b"]}),
    ({"foo": ["a"]}, [{"op": "add", "path": "/foo/-", "value": ["b"]}], {"foo": ["a", ["b"]]}),
    ({"baz": "q", "foo": "b"}, [{"op": "remove", "path": "/baz"}], {"foo": "b"}),
    ({"foo": ["a", "b", "c"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["a", "c"]}),
    ({"baz": "q"}, [{"op": "replace", "path": "/baz", "value": "z"}], {"baz": "z"}),
    ({"foo": ["a", "b"]}, [{"op": "replace", "path": "/foo/0", "value": "z"}], {"foo": ["z", "b"]}),
    ({"a": {"x": 1}, "b": {}}, [{"op": "move", "from": "/a/x", "path": "/b/y"}], {"a": {}, "b": {"y": 1}}),
    ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}], {"a": 1}),
    ({"m~/n": 1}, [{"op": "remove", "path": "/m~0~1n"}], {}),
]


@pytest.mark.parametrize(("target", "patch", "result"), JSON_PATCH_CASES)
def test_json_patch_does_what_rfc_6902_says(target, patch, result) -> None:
    assert json_patch(target, patch) == result


@pytest.mark.parametrize(
    ("patch", "cause"),
    [
        ([{"op": "test", "path": "/a", "value": 2}], "testing value /a failed"),
        ([{"op": "remove", "path": "/nope"}], "there is no 'nope'"),
        ([{"op": "replace", "path": "/nope", "value": 1}], "there is no 'nope'"),
        ([{"op": "add", "path": "/list/7", "value": 1}], "beyond the list's 1 elements"),
        ([{"op": "add", "path": "/list/x", "value": 1}], "'x' is not a list index"),
        ([{"op": "add", "path": "a", "value": 1}], "must begin with /"),
        ([{"op": "add", "path": "/a"}], "value is missing"),
        ([{"op": "frob", "path": "/a"}], "unknown op 'frob'"),
        (["x"], "must be an object with op and path"),
    ],
)
def test_a_json_patch_that_fails_names_the_operation_and_changes_nothing(patch, cause) -> None:
    target = {"a": 1, "list": [1]}
    with pytest.raises(StatusError) as raised:
        json_patch(target, [{"op": "add", "path": "/b", "value": 1}, *patch])
    assert raised.value.code == 422
    assert "operation 1" in str(raised.value)
    assert cause in str(raised.value)
    assert target == {"a": 1, "list": [1]}


def test_containers_merge_by_name_and_ports_by_number() -> None:
    pod = {
        "spec": {"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}, {"name": "b"}]}
    }
    patch = {
        "spec": {
            "containers": [
                {"name": "a", "image": "2", "ports": [{"containerPort": 80, "name": "http"}]},
                {"name": "c"},
            ]
        }
    }
    assert strategic_merge(pod, patch, POD)["spec"]["containers"] == [
        {"name": "a", "image": "2", "ports": [{"containerPort": 80, "name": "http"}]},
        {"name": "b"},
        {"name": "c"},
    ]


def test_service_ports_merge_by_port() -> None:
    service = {"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}}
    merged = strategic_merge(service, {"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}, SERVICE)
    assert merged["spec"]["ports"] == [{"port": 80, "nodePort": 30080, "targetPort": 8080}, {"port": 443}]


def test_slice_ports_and_tolerations_are_replaced() -> None:
    assert strategic_merge({"ports": [{"port": 1}]}, {"ports": [{"port": 2}]}, SLICE) == {
        "ports": [{"port": 2}]
    }
    pod = {"spec": {"tolerations": [{"key": "a"}]}}
    assert strategic_merge(pod, {"spec": {"tolerations": [{"key": "b"}]}}, POD) == {
        "spec": {"tolerations": [{"key": "b"}]}
    }


def test_conditions_and_node_addresses_merge_by_type() -> None:
    node = {
        "status": {
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "x"},
                {"type": "Disk", "status": "True"},
            ],
            "addresses": [{"type": "InternalIP", "address": "1"}, {"type": "Hostname", "address": "n"}],
        }
    }
    patch = {
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "2"}],
        }
    }
    assert strategic_merge(node, patch, NODE)["status"] == {
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "x"},
            {"type": "Disk", "status": "True"},
        ],
        "addresses": [{"type": "InternalIP", "address": "2"}, {"type": "Hostname", "address": "n"}],
    }


def test_directives_delete_replace_and_retain() -> None:
    pod = {"spec": {"containers": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {}}]}}
    gone = strategic_merge(pod, {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}, POD)
    assert gone["spec"]["containers"] == [{"name": "b"}]
    only = strategic_merge(pod, {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}, POD)
    assert only["spec"]["containers"] == [{"name": "z"}]
    whole = strategic_merge(pod, {"spec": {"$patch": "replace", "nodeName": "n"}}, POD)
    assert whole == {"spec": {"nodeName": "n"}}
    volume = {"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}
    retained = strategic_merge(pod, {"spec": {"volumes": [volume]}}, POD)
    assert retained["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_finalizers_are_a_set_from_which_elements_can_be_deleted() -> None:
    obj = {"metadata": {"finalizers": ["a", "b"]}}
    added = strategic_merge(obj, {"metadata": {"finalizers": ["b", "c"]}}, POD)
    assert added["metadata"]["finalizers"] == ["a", "b", "c"]
    removed = strategic_merge(added, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "c"]}}, POD)
    assert removed["metadata"]["finalizers"] == ["b"]


def test_element_order_is_as_asked() -> None:
    pod = {"spec": {"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}]}}
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new"}],
        }
    }
    names = [c["name"] for c in strategic_merge(pod, patch, POD)["spec"]["containers"]]
    assert names == ["x", "b", "new", "a"]


@given(target=WITHOUT_NULL, patch=WITHOUT_NULL)
def test_without_lists_and_nulls_a_strategic_patch_is_a_merge_patch(target, patch) -> None:
    if isinstance(patch, dict):
        assert strategic_merge(target, patch) == merge_patch(target, patch)


@pytest.mark.parametrize(
    ("content_type", "patch", "cause"),
    [
        (MERGE_PATCH, [1], "must be a JSON object"),
        (STRATEGIC_PATCH, None, "must be a JSON object"),
        (JSON_PATCH, {}, "must be a list"),
        (JSON_PATCH, [{"op": "replace", "path": "", "value": 1}], "not an object"),
        (
            STRATEGIC_PATCH,
            {"spec": {"containers": [{"image": "x"}]}},
            "does not contain declared merge key: name",
        ),
        (STRATEGIC_PATCH, {"$patch": "frob"}, "Unknown patch type found: 'frob'"),
        (STRATEGIC_PATCH, {"$deleteFromPrimitiveList/finalizers": 3}, "must be a list"),
    ],
)
def test_a_patch_that_makes_no_sense_is_a_400_that_says_why(content_type, patch, cause) -> None:
    with pytest.raises(StatusError) as raised:
        apply(content_type, {"spec": {"containers": []}}, patch, POD)
    assert raised.value.code == 400
    assert cause in str(raised.value)


def test_only_the_list_with_merge_keys_of_its_own_merges() -> None:
    """A Deployment's containers merge in its template; the arguments of one are replaced."""
    deployment = {
        "spec": {"template": {"spec": {"containers": [{"name": "a", "args": ["x", "y"], "image": "i"}]}}}
    }
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "a", "args": ["z"]}]}}}}
    merged = strategic_merge(deployment, patch, shape_of(DEPLOYMENTS))
    assert merged["spec"]["template"]["spec"]["containers"] == [{"name": "a", "args": ["z"], "image": "i"}]


def test_an_object_with_the_delete_directive_is_removed() -> None:
    deployment = {"spec": {"strategy": {"type": "Recreate"}, "replicas": 1}}
    assert strategic_merge(deployment, {"spec": {"strategy": {"$patch": "delete"}}}) == {
        "spec": {"replicas": 1}
    }


def test_retain_keys_switches_the_strategy_as_kubectl_apply_does() -> None:
    deployment = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(deployment, patch, shape_of(DEPLOYMENTS)) == {
        "spec": {"strategy": {"type": "Recreate"}}
    }


def test_an_element_that_the_order_does_not_name_is_refused() -> None:
    patch = {"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}
    with pytest.raises(StatusError, match="doesn't match"):
        strategic_merge({"spec": {"containers": []}}, patch, POD)


# A client-side diff, as kubectl apply and edit make it, for the properties below.
NAMES = st.sampled_from("abcde")
ENV = st.fixed_dictionaries({"name": NAMES}, optional={"value": st.sampled_from("xyz")})
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={
            "image": st.sampled_from("ij"),
            "args": st.lists(st.sampled_from("pq"), max_size=2),
            "env": st.lists(ENV, max_size=3, unique_by=lambda item: item["name"]),
        },
    ),
    max_size=4,
    unique_by=lambda item: item["name"],
)
PODS_TO_BE = st.builds(
    lambda containers, finalizers, labels: {
        "metadata": {"finalizers": finalizers, "labels": labels},
        "spec": {"containers": containers},
    },
    CONTAINERS,
    st.lists(st.sampled_from(["f/1", "f/2", "f/3"]), unique=True, max_size=3),
    st.dictionaries(NAMES, NAMES, max_size=3),
)


def diff(old, new, shape):
    """The strategic merge patch that makes ``new`` of ``old``."""
    patch = {key: None for key in old if key not in new}
    for key, value in new.items():
        inner = strategic.field_of(shape, key)
        if key in old and old[key] == value:
            continue
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            patch[key] = diff(old[key], value, inner)
        elif isinstance(value, list) and isinstance(inner, ListOf) and inner.merges:
            patch |= list_diff(key, old.get(key, []), value, inner)
        else:
            patch[key] = value
    return patch


def list_diff(key, old, new, shape):
    if not shape.merge_key:
        gone = [item for item in old if item not in new]
        return {f"$deleteFromPrimitiveList/{key}": gone, ORDER_PREFIX + key: new, key: new}
    by = shape.merge_key
    before = {item[by]: item for item in old}
    items = [{by: item[by], **diff(before.get(item[by], {}), item, shape.item)} for item in new]
    gone = [{by: name, DIRECTIVE: "delete"} for name in before if name not in {item[by] for item in new}]
    return {ORDER_PREFIX + key: [{by: item[by]} for item in new], key: items + gone}


@given(old=PODS_TO_BE, new=PODS_TO_BE)
def test_the_patch_of_a_difference_makes_the_new_object_of_the_old(old, new) -> None:
    before = copy.deepcopy(old)
    assert strategic_merge(old, diff(old, new, POD), POD) == new
    assert old == before


@given(old=PODS_TO_BE, new=PODS_TO_BE, live=PODS_TO_BE)
def test_what_others_added_meanwhile_stays(old, new, live) -> None:
    """The three-way merge: elements that neither side of the difference names are kept."""
    merged = strategic_merge(live, diff(old, new, POD), POD)
    mine = {item["name"] for pod in (old, new) for item in pod["spec"]["containers"]}
    names = [item["name"] for item in merged["spec"]["containers"]]
    others = [item["name"] for item in live["spec"]["containers"] if item["name"] not in mine]
    assert [name for name in names if name not in mine] == others
    if old["spec"]["containers"] != new["spec"]["containers"]:
        ordered = [item["name"] for item in new["spec"]["containers"]]
        assert [name for name in names if name in ordered] == ordered
