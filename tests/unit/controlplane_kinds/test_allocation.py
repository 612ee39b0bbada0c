"""Addresses and node ports: what is asked for, what is chosen, what is refused, and what is free again."""

import copy
import ipaddress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from controlplane.api.kinds.allocation import (
    ServiceAllocator,
    choose,
    cluster_addresses,
    node_ports,
    static_band,
)
from controlplane.api.kinds.registry import KINDS
from netplane.kube.errors import StatusError
from netplane.kube.objects import key_of
from netplane.kube.resources import SERVICES
from tests.unit.controlplane_kinds.kind_samples import made

KIND = KINDS[SERVICES]
V4 = ipaddress.ip_network("10.96.0.0/12")
V6 = ipaddress.ip_network("fd00:10:96::/112")
RESERVED = frozenset(ipaddress.ip_address(text) for text in ("10.96.0.1", "10.96.0.10"))
CLUSTER = ServiceAllocator((V4,), reserved=RESERVED)
DUAL = ServiceAllocator((V4, V6), reserved=RESERVED)


def service(name="web", **spec):
    obj = made(SERVICES, name, spec={"selector": {"app": name}, "ports": [{"port": 80}], **spec})
    KIND.default(obj)
    KIND.prepare_create(obj)
    assert KIND.validate(obj, None) == []
    return obj


def created(allocator=CLUSTER, others=(), **fields):
    obj = service(**fields)
    allocator(obj, None, others)
    assert KIND.validate(obj, None) == []
    return obj


def updated(old, change, others=(), allocator=CLUSTER):
    """The stored service after a PUT of a copy that `change` has edited."""
    new = copy.deepcopy(old)
    change(new["spec"])
    KIND.default(new)
    KIND.prepare_update(new, old)
    assert KIND.validate(new, old) == []
    allocator(new, old, [old, *others])
    return new


def refusal(allocator=CLUSTER, others=(), **fields):
    with pytest.raises(StatusError) as caught:
        allocator(service(**fields), None, others)
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")
    (cause,) = caught.value.details["causes"]
    return cause["field"], cause["message"]


def test_a_cluster_address_is_chosen_above_the_static_band():
    spec = created()["spec"]
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert ipaddress.ip_address(spec["clusterIP"]) in V4
    assert int(ipaddress.ip_address(spec["clusterIP"])) - int(V4[0]) > static_band(V4.num_addresses)
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")
    assert "nodePort" not in spec["ports"][0]


def test_a_requested_address_is_given_even_a_reserved_one():
    assert created(clusterIP="10.96.0.10")["spec"]["clusterIPs"] == ["10.96.0.10"]


def test_a_taken_address_is_refused():
    field, message = refusal(others=[created(clusterIP="10.96.7.7")], name="b", clusterIP="10.96.7.7")
    assert field == "spec.clusterIPs"
    assert message.endswith("failed to allocate IP 10.96.7.7: provided IP is already allocated")


@pytest.mark.parametrize("address", ["192.168.1.1", "10.96.0.0", "10.111.255.255", "10.112.0.1"])
def test_an_address_outside_the_range_is_refused(address):
    field, message = refusal(clusterIP=address)
    assert field == "spec.clusterIPs"
    assert f"the provided IP ({address}) is not in the valid range" in message
    assert message.endswith("The range of valid IPs is 10.96.0.0/12")


def test_a_full_range_is_refused():
    tiny = ServiceAllocator((ipaddress.ip_network("10.96.0.0/29"),))
    services = []
    for index in range(6):
        services.append(created(tiny, services, name=f"s{index}"))
    assert len({s["spec"]["clusterIP"] for s in services}) == 6
    field, message = refusal(tiny, services, name="s6")
    assert (field, message.split(": ", 2)[2]) == (
        "spec.clusterIPs",
        "failed to allocate a serviceIP: range is full",
    )
    created(tiny, services[1:], name="s6")


def test_headless_and_external_name_take_nothing():
    headless = created(clusterIP="None")["spec"]
    assert (headless["clusterIP"], headless["clusterIPs"]) == ("None", ["None"])
    assert headless["ipFamilies"] == ["IPv4"]
    assert cluster_addresses({"spec": headless}) == frozenset()
    external = created(type="ExternalName", externalName="example.com")["spec"]
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & set(external)


def test_headless_without_selector_is_dual_stack():
    spec = created(clusterIP="None", selector={})["spec"]
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4", "IPv6"], "RequireDualStack")


def test_node_ports():
    obj = created(
        type="NodePort", ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30080}]
    )
    first, second = (port["nodePort"] for port in obj["spec"]["ports"])
    assert second == 30080
    assert first in range(30000, 32768)
    assert first != second


def test_one_port_over_two_protocols_gets_one_node_port():
    ports = [{"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53}]
    found = created(type="NodePort", ports=ports)["spec"]["ports"]
    assert found[0]["nodePort"] == found[1]["nodePort"]


def test_a_taken_or_impossible_node_port_is_refused():
    other = created(type="NodePort", ports=[{"port": 80, "nodePort": 30080}])
    wanted = {"name": "b", "type": "NodePort"}
    field, message = refusal(others=[other], ports=[{"port": 81, "nodePort": 30080}], **wanted)
    assert (field, message) == (
        "spec.ports[0].nodePort",
        "Invalid value: 30080: provided port is already allocated",
    )
    udp = [{"port": 81, "nodePort": 30080, "protocol": "UDP"}]
    assert refusal(others=[other], ports=udp, **wanted)[1] == message
    _, message = refusal(ports=[{"port": 81, "nodePort": 80}], **wanted)
    assert message == (
        "Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    )


def test_a_full_port_range_is_refused():
    two = ServiceAllocator((V4,), node_ports=range(30000, 30002))
    services = [created(two, name="a", type="NodePort")]
    services.append(created(two, services, name="b", type="NodePort"))
    field, message = refusal(two, services, name="c", type="NodePort")
    assert field == "spec.ports[0].nodePort"
    assert message.endswith("failed to allocate a nodePort: range is full")


def test_load_balancers():
    obj = created(type="LoadBalancer", externalTrafficPolicy="Local")
    assert len(node_ports(obj)) == 2, "one for the port, one for the health check"
    without = created(type="LoadBalancer", allocateLoadBalancerNodePorts=False)
    assert node_ports(without) == frozenset()


def test_a_change_of_type_takes_and_gives_back():
    old = created()
    node_port = updated(old, lambda spec: spec.update(type="NodePort"))
    assert node_port["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    (port,) = node_ports(node_port)
    back = updated(node_port, lambda spec: spec.update(type="ClusterIP"))
    assert node_ports(back) == frozenset()
    assert "externalTrafficPolicy" not in back["spec"]
    created(others=[back], name="b", type="NodePort", ports=[{"port": 1, "nodePort": port}])
    external = updated(back, lambda spec: spec.update(type="ExternalName", externalName="example.com"))
    assert "clusterIP" not in external["spec"]
    created(others=[external], name="b", clusterIP=old["spec"]["clusterIP"])
    again = updated(external, lambda spec: (spec.update(type="ClusterIP"), spec.pop("externalName")))
    assert again["spec"]["clusterIP"]


def test_an_update_keeps_what_the_writer_leaves_out():
    old = created(type="NodePort")

    def forget(spec):
        del spec["clusterIP"], spec["clusterIPs"], spec["ports"][0]["nodePort"]

    assert updated(old, forget) == old


def test_a_new_port_leaves_the_old_ones_alone():
    old = created(type="NodePort", ports=[{"name": "a", "port": 80}])
    new = updated(old, lambda spec: spec["ports"].append({"name": "b", "port": 81}))
    assert new["spec"]["ports"][0] == old["spec"]["ports"][0]
    assert len(node_ports(new)) == 2


def test_allocating_again_changes_nothing():
    obj = created(type="NodePort")
    before = copy.deepcopy(obj)
    CLUSTER(obj, before, [before])
    assert obj == before


def test_dual_stack():
    spec = created(DUAL, ipFamilyPolicy="PreferDualStack")["spec"]
    assert [ipaddress.ip_address(address).version for address in spec["clusterIPs"]] == [4, 6]
    six = created(DUAL, ipFamilies=["IPv6"])["spec"]
    assert ipaddress.ip_address(six["clusterIP"]) in V6
    assert created(CLUSTER, ipFamilyPolicy="PreferDualStack")["spec"]["ipFamilies"] == ["IPv4"]
    assert created(DUAL, clusterIP="fd00:10:96::a")["spec"]["ipFamilies"] == ["IPv6"]


@pytest.mark.parametrize(
    ("allocator", "spec", "field", "text"),
    [
        (
            CLUSTER,
            {"ipFamilyPolicy": "RequireDualStack"},
            "spec.ipFamilyPolicy",
            "not configured for dual-stack",
        ),
        (CLUSTER, {"ipFamilies": ["IPv6"]}, "spec.ipFamilies[0]", "not configured on this cluster"),
        (CLUSTER, {"clusterIP": "fd00:10:96::a"}, "spec.ipFamilies[0]", "not configured on this cluster"),
        (
            DUAL,
            {"ipFamilies": ["IPv4", "IPv6"]},
            "spec.ipFamilyPolicy",
            "must be RequireDualStack or PreferDual",
        ),
        (
            DUAL,
            {"ipFamilies": ["IPv6"], "clusterIP": "10.96.0.9"},
            "spec.clusterIPs[0]",
            "expected an IPv6 value",
        ),
    ],
)
def test_families_that_cannot_be(allocator, spec, field, text):
    found, message = refusal(allocator, **spec)
    assert found == field
    assert text in message


@given(st.integers(1, 400), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_choose_finds_the_free_number_if_there_is_one(size, data):
    taken = data.draw(st.sets(st.integers(0, size - 1)))
    number = choose(size, taken, data.draw(st.text()))
    if len(taken) == size:
        assert number is None
    else:
        assert number in range(size)
        assert number not in taken
        upper_free = set(range(static_band(size), size)) - taken
        assert not upper_free or number in upper_free, "the static band comes last"


class Allocations(RuleBasedStateMachine):
    """Any sequence of creates, changes of type and deletes on small ranges: nothing is ever held twice."""

    services = Bundle("services")

    def __init__(self):
        super().__init__()
        self.allocator = ServiceAllocator((ipaddress.ip_network("10.96.0.0/28"),), range(30000, 30006))
        self.stored = {}
        self.refusals = []

    def put(self, new, old):
        KIND.default(new)
        if old is None:
            KIND.prepare_create(new)
        else:
            KIND.prepare_update(new, old)
        assert KIND.validate(new, old) == []
        before = copy.deepcopy(new)
        try:
            self.allocator(new, old, self.stored.values())
        except StatusError as error:
            self.refusals.append(error)
            return None
        assert before["spec"].get("clusterIP") in (None, "", new["spec"].get("clusterIP"))
        self.stored[key_of(new)] = new
        return key_of(new)

    @rule(
        target=services,
        kind=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
        address=st.none() | st.integers(1, 14).map(lambda n: f"10.96.0.{n}"),
        port=st.none() | st.integers(30000, 30005),
        count=st.integers(1, 3),
    )
    def create(self, kind, address, port, count):
        spec = {"type": kind, "ports": [{"name": f"p{n}", "port": 80 + n} for n in range(count)]}
        if address:
            spec["clusterIP"] = address
        if port and kind != "ClusterIP":
            spec["ports"][0]["nodePort"] = port
        return self.put(made(SERVICES, f"s{len(self.stored)}-{id(spec)}", spec=spec), None)

    @rule(key=services, kind=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]))
    def change_type(self, key, kind):
        if key in self.stored:
            new = copy.deepcopy(self.stored[key])
            new["spec"]["type"] = kind
            new["spec"]["externalName"] = "example.com"
            self.put(new, self.stored[key])

    @rule(key=consumes(services))
    def delete(self, key):
        self.stored.pop(key, None)

    @invariant()
    def refusals_say_full_or_taken(self):
        for error in self.refusals:
            assert error.code == 422
            assert "range is full" in error.message or "already allocated" in error.message

    @invariant()
    def nothing_is_held_twice(self):
        for held in (cluster_addresses, node_ports):
            each = [held(service) for service in self.stored.values()]
            assert len(frozenset().union(*each)) == sum(map(len, each))

    @invariant()
    def everybody_has_what_the_type_says(self):
        for stored in self.stored.values():
            kind = stored["spec"]["type"]
            assert bool(cluster_addresses(stored)) == (kind != "ExternalName")
            ports = [port.get("nodePort") for port in stored["spec"]["ports"]]
            assert all(ports) if kind in ("NodePort", "LoadBalancer") else not any(ports)


TestAllocations = Allocations.TestCase
TestAllocations.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
