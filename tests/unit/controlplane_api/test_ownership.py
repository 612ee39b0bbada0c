"""Who owns what: FieldsV1 as kube-apiserver writes it, applies, conflicts, removal; and the laws of all of it."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.ownership import fields, managers, tracking
from controlplane.api.ownership.managers import APPLY, UPDATE, Entry, Manager
from controlplane.api.ownership.values import compare, merge, remove, set_of
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import StatusError
from netplane.kube.resources import DEPLOYMENTS, SERVICES

SHAPE, SERVICE = shape_of(DEPLOYMENTS), shape_of(SERVICES)
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
ALICE = Manager("alice", APPLY, "apps/v1")
BOB = Manager("bob", APPLY, "apps/v1")
EDITOR = Manager("kubectl-edit", UPDATE, "apps/v1")


def deployment(containers=(), labels=None, **spec):
    if containers:
        spec["template"] = {"spec": {"containers": list(containers)}}
    metadata = {"name": "web"} | ({"labels": labels} if labels else {})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        **({"spec": spec} if spec else {}),
    }


def apply(live, config, owners, me=ALICE, *, force=False, now=NOW):
    return managers.apply(SHAPE, copy.deepcopy(live), config, owners, me, force=force, now=now)


def names(obj):
    template = obj.get("spec", {}).get("template", {})
    return [container["name"] for container in template.get("spec", {}).get("containers", [])]


def test_a_creator_owns_what_it_said_written_as_kube_apiserver_writes_it() -> None:
    """What kubectl 1.32 create shows with --show-managed-fields, shortened."""
    port = {"containerPort": 80, "protocol": "TCP"}
    obj = deployment(
        [{"name": "web", "image": "i", "ports": [port], "resources": {}}], {"app": "web"}, replicas=1
    )
    (entry,) = tracking.created(SHAPE, obj, Manager("kubectl-create", UPDATE, "apps/v1"), NOW)
    assert entry == {
        "manager": "kubectl-create",
        "operation": "Update",
        "apiVersion": "apps/v1",
        "time": NOW,
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:template": {
                    "f:spec": {
                        "f:containers": {
                            'k:{"name":"web"}': {
                                ".": {},
                                "f:image": {},
                                "f:name": {},
                                "f:ports": {
                                    ".": {},
                                    'k:{"containerPort":80,"protocol":"TCP"}': {
                                        ".": {},
                                        "f:containerPort": {},
                                        "f:protocol": {},
                                    },
                                },
                                "f:resources": {},
                            }
                        }
                    }
                },
            },
        },
    }


def test_an_applier_owns_its_opinions_atomic_things_as_a_whole() -> None:
    config = deployment(labels={"a": "b"}, selector={"matchLabels": {"a": "b"}}, replicas=1)
    config["metadata"]["finalizers"] = ["x/y"]
    applied = apply(None, config, {})
    (entry,) = managers.encode(applied.managers)
    assert entry["fieldsV1"] == {
        "f:metadata": {"f:finalizers": {'v:"x/y"': {}}, "f:labels": {"f:a": {}}},
        "f:spec": {"f:replicas": {}, "f:selector": {}},
    }


def test_a_key_with_a_default_may_be_left_out() -> None:
    """Service ports have the keys port and protocol; protocol is TCP unless said."""
    with_it = {"spec": {"ports": [{"port": 80, "protocol": "TCP", "name": "a"}]}}
    without = {"spec": {"ports": [{"port": 80, "name": "b"}]}}
    assert merge(SERVICE, with_it, without)["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "name": "b"}]
    udp = {"spec": {"ports": [{"port": 80, "protocol": "UDP"}]}}
    assert len(merge(SERVICE, with_it, udp)["spec"]["ports"]) == 2


def test_another_value_for_an_owned_field_is_a_conflict_with_kubernetes_words() -> None:
    first = apply(None, deployment([{"name": "web", "image": "one"}], replicas=1), {})
    with pytest.raises(StatusError) as raised:
        apply(first.obj, deployment([{"name": "web", "image": "two"}]), first.managers, BOB)
    error = raised.value
    field = '.spec.template.spec.containers[name="web"].image'
    assert (error.code, error.reason) == (409, "Conflict")
    assert str(error) == f'Apply failed with 1 conflict: conflict with "alice": {field}'
    assert error.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "alice"', "field": field}
    ]


def test_conflicts_with_several_are_listed_by_manager() -> None:
    first = apply(None, deployment(labels={"a": "1"}, replicas=1), {})
    obj = {**first.obj, "spec": {**first.obj["spec"], "replicas": 5, "paused": True}}
    owners = managers.updated(SHAPE, first.obj, obj, first.managers, EDITOR, NOW)
    with pytest.raises(StatusError) as raised:
        apply(obj, deployment(labels={"a": "2"}, replicas=7, paused=False), owners, BOB)
    assert str(raised.value) == (
        'Apply failed with 3 conflicts: conflicts with "alice":\n- .metadata.labels.a\n'
        f'conflicts with "kubectl-edit" using apps/v1 at {NOW}:\n- .spec.paused\n- .spec.replicas'
    )


def test_the_same_value_is_shared_and_force_takes() -> None:
    first = apply(None, deployment(replicas=1), {})
    shared = apply(first.obj, deployment(replicas=1), first.managers, BOB)
    assert {m.name for m, e in shared.managers.items() if ("f:spec", "f:replicas") in e.owned} == {
        "alice",
        "bob",
    }
    taken = apply(shared.obj, deployment(replicas=2), shared.managers, BOB, force=True)
    assert taken.obj["spec"]["replicas"] == 2
    assert {m.name for m in taken.managers} == {"bob"}


def test_what_an_applier_omits_is_removed_unless_another_owns_it() -> None:
    both = deployment(
        [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}], {"x": "1", "y": "1"}, replicas=1
    )
    first = apply(None, both, {})
    second = apply(first.obj, deployment(labels={"y": "1"}), first.managers, BOB)
    third = apply(second.obj, deployment([{"name": "a", "image": "i"}]), second.managers)
    assert names(third.obj) == ["a"]
    assert third.obj["metadata"]["labels"] == {"y": "1"}
    assert "replicas" not in third.obj["spec"]


def test_an_omitted_element_stays_while_another_owns_a_field_in_it() -> None:
    first = apply(None, deployment([{"name": "a", "image": "i"}]), {})
    obj = copy.deepcopy(first.obj)
    obj["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = "Never"
    owners = managers.updated(SHAPE, first.obj, obj, first.managers, EDITOR, NOW)
    left = apply(obj, deployment(), owners)
    assert left.obj["spec"]["template"]["spec"]["containers"] == [{"name": "a", "imagePullPolicy": "Never"}]


def test_an_update_takes_what_it_changes_and_gives_up_what_it_removes() -> None:
    first = apply(None, deployment(replicas=1, paused=True), {})
    changed = deployment(replicas=3)
    owners = managers.updated(SHAPE, first.obj, changed, first.managers, EDITOR, LATER)
    assert set(owners) == {EDITOR}
    assert owners[EDITOR] == Entry(frozenset([("f:spec", "f:replicas")]), LATER)
    same = managers.updated(SHAPE, changed, changed, owners, Manager("other", UPDATE, "apps/v1"), LATER)
    assert same == owners


def test_an_apply_to_what_nobody_owns_finds_its_owner_of_before() -> None:
    with pytest.raises(StatusError, match='"before-first-apply" using apps/v1'):
        apply(deployment(replicas=1), deployment(replicas=2), {})


def test_old_updates_become_one_entry() -> None:
    obj, owners = {}, {}
    for index in range(15):
        new = deployment(labels={f"l{n}": "x" for n in range(index + 1)})
        who = Manager(f"m{index:02}", UPDATE, "apps/v1")
        owners = managers.updated(SHAPE, obj, new, owners, who, f"2026-01-{index + 1:02}T00:00:00Z")
        obj = new
    assert len(owners) <= managers.MOST_UPDATES + 1
    ancient = owners[Manager(managers.ANCIENT_CHANGES, UPDATE, "apps/v1")]
    assert ("f:metadata", "f:labels", "f:l0") in ancient.owned


def test_a_writer_may_edit_the_entries_and_reset_them_and_rubbish_is_named() -> None:
    old = {**deployment(replicas=1), "metadata": {"name": "web"}}
    old["metadata"]["managedFields"] = tracking.created(SHAPE, old, EDITOR, NOW)
    assert tracking.updated(SHAPE, old, old, EDITOR, LATER, None) == old["metadata"]["managedFields"]
    assert tracking.updated(SHAPE, old, old, EDITOR, LATER, [{}]) == []
    mine = [{**old["metadata"]["managedFields"][0], "manager": "me"}]
    assert tracking.updated(SHAPE, old, old, EDITOR, LATER, mine) == mine
    with pytest.raises(StatusError, match=r"metadata\.managedFields: managedFields: operation must be"):
        tracking.updated(SHAPE, old, old, EDITOR, LATER, [{"operation": "Guess"}])
    with pytest.raises(StatusError, match="is no path element"):
        tracking.updated(SHAPE, old, old, EDITOR, LATER, [{"operation": "Update", "fieldsV1": {"x": {}}}])


def test_status_and_spec_are_applied_by_their_own_doors() -> None:
    config = {**deployment(replicas=1), "status": {"replicas": 3}}
    live = {**deployment(replicas=1), "status": {"replicas": 1}}
    main = tracking.applied(SHAPE, live, config, ALICE, NOW, force=True, status=True)
    assert not fields.below(main.managers[ALICE].owned, ("f:status",))
    door = Manager("alice", APPLY, "apps/v1", "status")
    own = tracking.applied(SHAPE, live, config, door, NOW, force=True, status=True)
    assert own.managers[door].owned == {("f:status", "f:replicas")}


# Laws.

NAMES = st.sampled_from("abcd")
CONTAINER = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "image": st.sampled_from("ijk"),
        "args": st.lists(st.sampled_from("pq"), max_size=2),
        "ports": st.lists(
            st.fixed_dictionaries(
                {"containerPort": st.integers(1, 3)}, optional={"hostPort": st.integers(1, 3)}
            ),
            min_size=1,  # an empty keyed list is nobody's, and the same as none
            max_size=2,
            unique_by=lambda port: port["containerPort"],
        ),
    },
)
OBJECTS = st.builds(
    lambda containers, labels, spec: deployment(containers, labels, **spec),
    st.lists(CONTAINER, max_size=3, unique_by=lambda item: item["name"]),
    st.dictionaries(NAMES, st.sampled_from("xy"), max_size=3),
    st.fixed_dictionaries({}, optional={"replicas": st.integers(0, 3), "paused": st.booleans()}),
)


def holds(live, config):
    """Whether the live object says all that the configuration says."""
    return merge(SHAPE, live, config) == live


@given(live=OBJECTS, config=OBJECTS)
def test_after_a_forced_apply_the_object_says_what_was_applied(live, config) -> None:
    before = copy.deepcopy(live)
    applied = apply(live, config, {}, force=True)
    assert holds(applied.obj, config)
    assert live == before
    again = apply(applied.obj, config, applied.managers, now=LATER)
    assert again == applied


@given(first=OBJECTS, second=OBJECTS)
def test_one_applier_alone_gets_exactly_its_last_configuration(first, second) -> None:
    made = apply(None, first, {})
    then = apply(made.obj, second, made.managers)
    fresh = apply(None, second, {})
    assert set_of(SHAPE, then.obj) == set_of(SHAPE, fresh.obj)
    assert not compare(SHAPE, then.obj, merge(SHAPE, then.obj, second)).modified
    assert {m: e.owned for m, e in then.managers.items()} == {m: e.owned for m, e in fresh.managers.items()}


@given(first=OBJECTS, second=OBJECTS, third=OBJECTS)
def test_what_two_appliers_say_without_conflict_both_holds(first, second, third) -> None:
    made = apply(None, first, {})
    both = apply(made.obj, second, made.managers, BOB, force=True)
    left = apply(both.obj, third, both.managers, force=True)
    assert holds(left.obj, third)
    kept = left.managers.get(BOB, Entry(fields.NOTHING)).owned
    assert kept <= set_of(SHAPE, second)


@given(old=OBJECTS, new=OBJECTS)
def test_a_difference_names_every_change(old, new) -> None:
    difference = compare(SHAPE, old, new)
    assert bool(difference.written | difference.removed) == (old != new) or reordered(old, new)
    assert not difference.removed & set_of(SHAPE, new)
    assert difference.written <= set_of(SHAPE, new) | compare(SHAPE, {}, new).added


def reordered(old, new):
    """The order of a keyed list is nobody's."""
    return sorted(names(old)) == sorted(names(new))


@given(OBJECTS)
def test_sets_survive_their_text(obj) -> None:
    owned = set_of(SHAPE, obj)
    assert fields.decode(fields.encode(owned)) == owned
    everything = compare(SHAPE, {}, obj).added
    assert fields.decode(fields.encode(everything)) == everything


@given(obj=OBJECTS, data=st.data())
def test_removing_leaves_the_rest(obj, data) -> None:
    keys = {path for path in set_of(SHAPE, obj) if len(path) > 1 and path[-2].startswith("k:")}
    leaves = sorted(set_of(SHAPE, obj) - managers.UNOWNED - keys)
    chosen = frozenset(data.draw(st.lists(st.sampled_from(leaves), max_size=3))) if leaves else frozenset()
    left = set_of(SHAPE, remove(SHAPE, obj, chosen))
    assert not left & chosen
    gone = set_of(SHAPE, obj) - left
    assert all(any(path[: len(cut)] == cut for cut in chosen) for path in gone)
