"""Services' endpoints: rules by table, and slices equal to a naive model after any history."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.actions import Action, Create, Delete, Replace
from controlplane.controllers.services.endpoints import Memory, endpoints_of, families, ports_of
from controlplane.controllers.services.mirror import reconcile_mirror
from controlplane.controllers.services.slices import MOST, reconcile_slices
from netplane.kube.objects import Object, annotations_of, key_of, name_of, set_condition


def pod(name: str = "a", ip: str = "10.244.1.2", ready: bool = True, **more: Any) -> Object:
    conditions = set_condition([], "Ready", str(ready), "", "", "2026-01-01T00:00:00Z")
    made: Object = {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {
            "nodeName": "n1",
            "containers": [
                {
                    "ports": [
                        {"name": "http", "containerPort": 8080},
                        {"name": "http", "containerPort": 9090, "protocol": "UDP"},
                    ]
                }
            ],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions},
    }
    for path, value in more.items():
        section, _, field = path.partition("_")
        made[section][field] = value
    return made


def service(**spec: Any) -> Object:
    ports = [{"name": "web", "port": 80, "targetPort": "http"}]
    return {
        "metadata": {"name": "web", "namespace": "default", "uid": "uid-svc", "labels": {"team": "a"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ports": ports, **spec},
    }


def node(name: str) -> Object | None:
    labels = {"topology.kubernetes.io/zone": "east"}
    return {"metadata": {"name": name, "labels": labels}} if name == "n1" else None


def only(service: Object, *pods: Object) -> dict[str, Any]:
    [endpoints] = endpoints_of(service, pods, node).values()
    return endpoints[0].to_json()


CONDITIONS = [
    ("ready", {}, {}, (True, True, False)),
    ("not ready", {"ready": False}, {}, (False, False, False)),
    ("not ready but published", {"ready": False}, {"publishNotReadyAddresses": True}, (True, False, False)),
    ("draining", {"metadata_deletionTimestamp": "2026-01-01T00:00:00Z"}, {}, (False, True, True)),
    (
        "draining and not serving",
        {"ready": False, "metadata_deletionTimestamp": "2026-01-01T00:00:00Z"},
        {},
        (False, False, True),
    ),
    (
        "draining but published",
        {"metadata_deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"publishNotReadyAddresses": True},
        (True, True, True),
    ),
]


@pytest.mark.parametrize(
    ("of_pod", "of_service", "expected"), [row[1:] for row in CONDITIONS], ids=[row[0] for row in CONDITIONS]
)
def test_conditions(of_pod: dict[str, Any], of_service: dict[str, Any], expected: tuple[bool, ...]) -> None:
    entry = only(service(**of_service), pod(**of_pod))
    found = entry["conditions"]
    assert (found["ready"], found["serving"], found["terminating"]) == expected


def test_an_endpoint_says_where_it_is_and_whose() -> None:
    entry = only(service(), pod(spec_hostname="h", spec_subdomain="web"))
    assert entry["addresses"] == ["10.244.1.2"]
    assert entry["nodeName"] == "n1"
    assert entry["zone"] == "east"
    assert entry["hostname"] == "h"
    assert entry["targetRef"] == {"kind": "Pod", "namespace": "default", "name": "a", "uid": "uid-a"}
    assert "hostname" not in only(service(), pod(spec_hostname="h", spec_subdomain="other"))


IN_ZONE, ON_NODE = {"forZones": [{"name": "east"}]}, {"forNodes": [{"name": "n1"}]}


@pytest.mark.parametrize(
    ("distribution", "of_pod", "hints"),
    [
        (None, {}, None),
        ("PreferClose", {}, IN_ZONE),
        ("PreferSameZone", {}, IN_ZONE),
        ("PreferSameNode", {}, IN_ZONE | ON_NODE),
        ("PreferSameNode", {"spec_nodeName": "n2"}, {"forNodes": [{"name": "n2"}]}),
        ("PreferClose", {"spec_nodeName": "n2"}, None),
        ("PreferSameNode", {"ready": False}, None),
        ("PreferSameNode", {"metadata_deletionTimestamp": "2026-01-01T00:00:00Z"}, None),
    ],
)
def test_hints_follow_traffic_distribution(
    distribution: str | None, of_pod: dict[str, Any], hints: dict[str, Any] | None
) -> None:
    """n1 is in zone east, of n2 no zone is known."""
    assert only(service(trafficDistribution=distribution), pod(**of_pod)).get("hints") == hints


@pytest.mark.parametrize(
    "gone",
    [pod(status_phase="Succeeded"), pod(status_phase="Failed"), pod(status_podIP="", status_podIPs=[])],
)
def test_finished_pods_and_pods_without_address_are_no_endpoints(gone: Object) -> None:
    assert endpoints_of(service(), [gone], node) == {}


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80, "targetPort": 8000}, [8000]),
        ({"port": 80}, [80]),
        ({"port": 80, "targetPort": 0}, [80]),
        ({"port": 80, "targetPort": "http"}, [8080]),
        ({"port": 80, "targetPort": "http", "protocol": "UDP"}, [9090]),
        ({"port": 80, "targetPort": "nowhere"}, []),
    ],
)
def test_target_ports(port: dict[str, Any], expected: list[int]) -> None:
    assert [found.number for found in ports_of(service(ports=[port]), pod())] == expected


def test_pods_that_name_another_number_get_a_slice_of_their_own() -> None:
    other = pod("b", "10.244.1.3")
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = 8081
    assert len(endpoints_of(service(), [pod(), other], node)) == 2


def test_families_follow_the_service() -> None:
    both = pod(status_podIPs=[{"ip": "10.244.1.2"}, {"ip": "fd00::2"}])
    assert {group[0] for group in endpoints_of(service(), [both], node)} == {"IPv4"}
    dual = service(ipFamilies=["IPv4", "IPv6"])
    assert {group[0] for group in endpoints_of(dual, [both], node)} == {"IPv4", "IPv6"}
    assert families(service(clusterIP="fd00::9")) == ["IPv6"]
    assert families(service(clusterIP="None")) == ["IPv4"]


def test_what_is_remembered_is_what_would_be_worked_out_again() -> None:
    memory = Memory()
    svc, pods = service(), {name: pod(name, f"10.244.1.{i}") for i, name in enumerate("abcd", 2)}
    machines: dict[str, Object | None] = {"n1": node("n1")}
    for change in range(6):
        match change:
            case 1:
                pods["b"] = pod("b", "10.244.1.3", ready=False)
            case 2:
                del pods["a"]
            case 3:
                machines["n1"] = {"metadata": {"name": "n1", "labels": {}}}
            case 4:
                svc = service(publishNotReadyAddresses=True)
            case 5:
                pods["b"] = pod("b", "10.244.1.9")
        fresh = endpoints_of(svc, pods.values(), machines.get)
        assert memory.endpoints_of(svc, pods.values(), machines.get) == fresh
        assert memory.endpoints_of(svc, pods.values(), machines.get) == fresh


class Slices:
    """Applies the actions, as an API server would."""

    def __init__(self) -> None:
        self.objects: dict[Any, Object] = {}
        self.writes = 0
        self._names = (f"{number:05d}" for number in itertools.count())

    def reconcile(self, svc: Object, pods: list[Object], trigger: str | None = None) -> list[Action]:
        wanted = endpoints_of(svc, pods, node)
        actions = reconcile_slices(
            svc, wanted, list(self.objects.values()), trigger, lambda: next(self._names)
        )
        for action in actions:
            match action:
                case Create(_, obj):
                    assert key_of(obj) not in self.objects
                    obj["metadata"]["uid"] = f"uid-{name_of(obj)}"
                    self.objects[key_of(obj)] = obj
                case Replace(_, obj):
                    assert key_of(obj) in self.objects
                    self.objects[key_of(obj)] = obj
                case Delete(_, key):
                    del self.objects[key]
        self.writes += len(actions)
        return actions

    def endpoints(self) -> list[tuple[str, bool]]:
        return sorted(
            (endpoint["addresses"][0], endpoint["conditions"]["ready"])
            for s in self.objects.values()
            for endpoint in s["endpoints"]
        )


def test_no_endpoints_is_one_empty_slice_that_the_first_pod_fills() -> None:
    slices = Slices()
    numbered = service(ports=[{"name": "web", "port": 80, "targetPort": 8080}])
    slices.reconcile(numbered, [])
    [empty] = slices.objects.values()
    assert empty["endpoints"] == []
    [action] = slices.reconcile(numbered, [pod()], "2026-01-01T00:00:00.000001Z")
    assert isinstance(action, Replace)
    [filled] = slices.objects.values()
    assert filled["ports"] == [{"name": "web", "port": 8080, "protocol": "TCP"}]
    assert (
        annotations_of(filled)["endpoints.kubernetes.io/last-change-trigger-time"]
        == "2026-01-01T00:00:00.000001Z"
    )
    assert filled["metadata"]["labels"] == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert filled["metadata"]["ownerReferences"][0]["uid"] == "uid-svc"
    [action] = slices.reconcile(numbered, [])
    assert isinstance(action, Replace)


def test_hints_come_and_go_with_the_services_wish() -> None:
    slices, pods = Slices(), [pod(), pod("b", "10.244.1.3")]
    for distribution, said in (
        (None, None),
        ("PreferClose", IN_ZONE),
        ("PreferSameNode", IN_ZONE | ON_NODE),
        (None, None),
    ):
        wish = service(**({"trafficDistribution": distribution} if distribution else {}))
        slices.reconcile(wish, pods)
        [made] = slices.objects.values()
        assert [endpoint.get("hints") for endpoint in made["endpoints"]] == [said, said]
        assert slices.reconcile(wish, pods) == []


def test_slices_of_an_earlier_service_of_this_name_go() -> None:
    slices = Slices()
    slices.reconcile(service(), [pod()])
    reborn = service()
    reborn["metadata"]["uid"] = "uid-reborn"
    actions = slices.reconcile(reborn, [pod()])
    assert [type(action) for action in actions] == [Create, Delete]


def test_headless_services_say_so() -> None:
    slices = Slices()
    slices.reconcile(service(clusterIP="None"), [pod()])
    [made] = slices.objects.values()
    assert made["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_one_more_of_a_thousand_writes_one_slice() -> None:
    slices = Slices()
    pods = [pod(f"p{i:04d}", f"10.244.{i // 250}.{i % 250 + 1}") for i in range(1001)]
    slices.reconcile(service(), pods[:1000])
    assert len(slices.objects) == 10
    assert len(slices.reconcile(service(), pods)) == 1
    assert len(slices.reconcile(service(), pods[1:])) == 1
    assert slices.reconcile(service(), pods[1:]) == []


HISTORY = st.lists(st.dictionaries(st.integers(0, 260), st.booleans(), max_size=260), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(HISTORY)
def test_slices_equal_the_naive_model_after_any_history(history: list[dict[int, bool]]) -> None:
    slices = Slices()
    for present in history:
        pods = [pod(f"p{i}", f"10.244.{i // 250}.{i % 250 + 1}", ready) for i, ready in present.items()]
        slices.reconcile(service(), pods)
        naive = sorted((f"10.244.{i // 250}.{i % 250 + 1}", ready) for i, ready in present.items())
        assert slices.endpoints() == naive
        assert all(len(s["endpoints"]) <= MOST for s in slices.objects.values())
        assert slices.objects
        assert slices.reconcile(service(), pods) == []


def mirrored(svc: Object, pods: list[Object]) -> list[dict[str, Any]]:
    [action] = reconcile_mirror(svc, endpoints_of(svc, pods, node), None, None)
    assert isinstance(action, Create)
    return action.object["subsets"]


def test_the_mirror_splits_ready_from_not_ready_and_leaves_out_what_drains() -> None:
    draining = pod("c", "10.244.1.4", metadata_deletionTimestamp="2026-01-01T00:00:00Z")
    [subset] = mirrored(service(), [pod(), pod("b", "10.244.1.3", ready=False), draining])
    assert [a["ip"] for a in subset["addresses"]] == ["10.244.1.2"]
    assert [a["ip"] for a in subset["notReadyAddresses"]] == ["10.244.1.3"]
    assert subset["ports"] == [{"name": "web", "port": 8080, "protocol": "TCP"}]


def test_the_mirror_is_cut_at_a_thousand_and_says_so() -> None:
    pods = [pod(f"p{i}", f"10.{i // 65536}.{i // 256 % 256}.{i % 256}") for i in range(1001)]
    [action] = reconcile_mirror(service(), endpoints_of(service(), pods, node), None, None)
    assert isinstance(action, Create)
    assert len(action.object["subsets"][0]["addresses"]) == 1000
    assert annotations_of(action.object)["endpoints.kubernetes.io/over-capacity"] == "truncated"
