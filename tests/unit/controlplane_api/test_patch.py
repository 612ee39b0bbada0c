"""The patches, by the examples of their specifications and of Kubernetes' own documentation."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, apply, json_patch, merge_patch
from controlplane.api.strategic import strategic_merge
from netplane.kube.errors import StatusError

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
    assert strategic_merge(pod, patch)["spec"]["containers"] == [
        {"name": "a", "image": "2", "ports": [{"containerPort": 80, "name": "http"}]},
        {"name": "b"},
        {"name": "c"},
    ]


def test_service_ports_merge_by_port() -> None:
    service = {"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}}
    merged = strategic_merge(service, {"spec": {"ports": [{"port": 80, "targetPort": 8080}]}})
    assert merged["spec"]["ports"] == [{"port": 80, "nodePort": 30080, "targetPort": 8080}, {"port": 443}]


def test_slice_ports_and_tolerations_are_replaced() -> None:
    assert strategic_merge({"ports": [{"port": 1}]}, {"ports": [{"port": 2}]}) == {"ports": [{"port": 2}]}
    pod = {"spec": {"tolerations": [{"key": "a"}]}}
    assert strategic_merge(pod, {"spec": {"tolerations": [{"key": "b"}]}}) == {
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
    assert strategic_merge(node, patch)["status"] == {
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "x"},
            {"type": "Disk", "status": "True"},
        ],
        "addresses": [{"type": "InternalIP", "address": "2"}, {"type": "Hostname", "address": "n"}],
    }


def test_directives_delete_replace_and_retain() -> None:
    pod = {"spec": {"containers": [{"name": "a"}, {"name": "b"}], "volumes": [{"name": "v", "emptyDir": {}}]}}
    gone = strategic_merge(pod, {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}})
    assert gone["spec"]["containers"] == [{"name": "b"}]
    only = strategic_merge(pod, {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}})
    assert only["spec"]["containers"] == [{"name": "z"}]
    whole = strategic_merge(pod, {"spec": {"$patch": "replace", "nodeName": "n"}})
    assert whole == {"spec": {"nodeName": "n"}}
    volume = {"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}
    retained = strategic_merge(pod, {"spec": {"volumes": [volume]}})
    assert retained["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_finalizers_are_a_set_from_which_elements_can_be_deleted() -> None:
    obj = {"metadata": {"finalizers": ["a", "b"]}}
    added = strategic_merge(obj, {"metadata": {"finalizers": ["b", "c"]}})
    assert added["metadata"]["finalizers"] == ["a", "b", "c"]
    removed = strategic_merge(added, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "c"]}})
    assert removed["metadata"]["finalizers"] == ["b"]


def test_element_order_is_as_asked() -> None:
    pod = {"spec": {"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}]}}
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new"}],
        }
    }
    names = [c["name"] for c in strategic_merge(pod, patch)["spec"]["containers"]]
    assert names == ["b", "x", "new", "a"]


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
        (STRATEGIC_PATCH, {"spec": {"containers": [{"image": "x"}]}}, "no name, the key"),
        (STRATEGIC_PATCH, {"$patch": "frob"}, "unknown directive 'frob'"),
        (STRATEGIC_PATCH, {"$deleteFromPrimitiveList/finalizers": 3}, "must be a list"),
    ],
)
def test_a_patch_that_makes_no_sense_is_a_400_that_says_why(content_type, patch, cause) -> None:
    with pytest.raises(StatusError) as raised:
        apply(content_type, {"spec": {"containers": []}}, patch)
    assert raised.value.code == 400
    assert cause in str(raised.value)
