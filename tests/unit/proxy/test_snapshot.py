"""What a Service resolves to, held against kube-proxy's documented behaviour."""

import copy
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kube.objects import key_of
from proxy.diff import diff
from proxy.model import Frontend, HealthCheck, NodeFacts, Protocol, ServicePort, Snapshot, Target, WhenEmpty
from proxy.snapshot import Resolution, build, node_facts

NODE = NodeFacts("n1", (ip_address("192.168.77.11"),), (ip_network("10.244.1.0/24"),), zone="east")
READY: dict[str, Any] = {"ready": True}
NOT_READY = {"ready": False, "serving": False, "terminating": False}
TERMINATING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}


def service(name: str = "web", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    base = {"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{"port": 80}]}
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    return {"metadata": metadata, "spec": {**base, **spec}}


def endpoint(address: str, conditions: Any = None, node: str = "n1", **more: Any) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions or {}, "nodeName": node, **more}


def slice_of(*endpoints: Any, name: str = "web", suffix: str = "1", **more: Any) -> dict[str, Any]:
    base = {
        "metadata": {
            "name": f"{name}-{suffix}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": list(endpoints),
        "ports": [{"port": 8080}],
    }
    return {**base, **more}


def frontend(address: str, port: int, protocol: str = "TCP") -> Frontend:
    return Frontend(ip_address(address), port, Protocol(protocol))


def at(snapshot: Snapshot, address: str = "10.96.0.1", port: int = 80, protocol: str = "TCP") -> Target:
    return snapshot.targets[frontend(address, port, protocol)]


def addresses(snapshot: Snapshot, address: str = "10.96.0.1", port: int = 80) -> list[str]:
    return [str(entry) for entry in at(snapshot, address, port).inside.endpoints]


def test_a_cluster_ip_leads_to_its_ready_endpoints_sorted() -> None:
    found = build([service()], [slice_of(endpoint("10.0.0.10", READY), endpoint("10.0.0.9", READY))], NODE)
    assert addresses(found) == ["10.0.0.9:8080", "10.0.0.10:8080"]
    assert at(found).service == ServicePort("default", "web", "80")
    assert at(found).inside == at(found).outside
    assert found.problems == ()


@pytest.mark.parametrize(
    ("conditions", "chosen", "because"),
    [
        ([READY, NOT_READY], [0], "only ready ones"),
        ([{}, {"ready": None}], [0, 1], "an unknown condition counts as ready"),
        ([READY, TERMINATING], [0], "terminating ones only as a last resort"),
        ([TERMINATING, NOT_READY, GONE], [0], "none is ready: those that serve while they terminate"),
        ([NOT_READY, GONE], [], "nobody serves"),
        (
            [{"ready": False, "terminating": True}],
            [0],
            "terminating and serving, as it does not say otherwise",
        ),
        ([{"ready": False, "serving": True}], [], "not ready, not terminating: never used"),
        ([{"ready": True, "terminating": True}], [0], "publishNotReadyAddresses keeps ready true"),
    ],
)
def test_conditions(conditions: list[Any], chosen: list[int], because: str) -> None:
    entries = [endpoint(f"10.0.0.{i}", c) for i, c in enumerate(conditions)]
    found = build([service()], [slice_of(*entries)], NODE)
    assert addresses(found) == [f"10.0.0.{i}:8080" for i in chosen], because


@pytest.mark.parametrize(
    "left_alone",
    [
        service(clusterIP="None", clusterIPs=["None"]),
        service(type="ExternalName", externalName="example.org"),
        service(clusterIP=""),
        service(labels={"service.kubernetes.io/service-proxy-name": "netplane-dns"}),
        service(labels={"service.kubernetes.io/headless": ""}),
    ],
)
def test_services_that_are_not_ours(left_alone: dict[str, Any]) -> None:
    found = build([left_alone], [slice_of(endpoint("10.0.0.1", READY))], NODE)
    assert not found.targets
    assert not found.problems


def test_no_endpoints_is_a_rejection() -> None:
    for slices in ([], [slice_of()], [slice_of(endpoint("10.0.0.1", NOT_READY))]):
        target = at(build([service()], slices, NODE))
        assert target.empty
        assert target.inside.when_empty is WhenEmpty.REJECT


def test_ports_are_matched_by_name_and_protocol() -> None:
    ports = [
        {"name": "http", "port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "lost", "port": 99},
    ]
    endpoint_ports = [
        {"name": "dns", "port": 5353, "protocol": "TCP"},
        {"name": "dns", "port": 5300, "protocol": "UDP"},
        {"name": "http", "port": 8080},
    ]
    found = build([service(ports=ports)], [slice_of(endpoint("10.0.0.1", READY), ports=endpoint_ports)], NODE)
    assert addresses(found, port=80) == ["10.0.0.1:8080"]
    assert at(found, port=80).service.port == "http"
    assert [e.port for e in at(found, port=53, protocol="UDP").inside.endpoints] == [5300]
    assert at(found, port=99).empty


def test_node_port_external_ips_and_ingress_addresses() -> None:
    spec = {
        "type": "LoadBalancer",
        "ports": [{"port": 80, "nodePort": 30080}],
        "externalIPs": ["203.0.113.7", "2001:db8::7"],
        "loadBalancerSourceRanges": ["198.51.100.0/24"],
    }
    one = service(**spec)
    one["status"] = {
        "loadBalancer": {
            "ingress": [{"ip": "192.0.2.9"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}, {"hostname": "x"}]
        }
    }
    found = build([one], [slice_of(endpoint("10.0.0.1", READY))], NODE)
    assert set(found.targets) == {
        frontend("10.96.0.1", 80),
        frontend("0.0.0.0", 30080),
        frontend("203.0.113.7", 80),
        frontend("192.0.2.9", 80),
    }
    assert at(found, "192.0.2.9").allowed == (ip_network("198.51.100.0/24"),)
    assert at(found, "203.0.113.7").allowed == ()


@pytest.mark.parametrize(
    ("ranges", "allowed"),
    [
        ([], []),
        (["198.51.100.0/24"], ["198.51.100.0/24"]),
        (["198.51.100.7/24"], ["198.51.100.0/24"]),
        ([" 198.51.100.0/24", "203.0.113.9/32\t"], ["198.51.100.0/24", "203.0.113.9/32"]),
        (["0.0.0.0/0"], ["0.0.0.0/0"]),
        (["2001:db8::1/64"], ["0.0.0.0/32"]),
    ],
    ids=["none", "one", "host bits", "whitespace", "everybody", "other IP version: nobody of this one"],
)
def test_source_ranges_as_the_api_takes_them(ranges: list[str], allowed: list[str]) -> None:
    one = service(type="LoadBalancer", loadBalancerSourceRanges=ranges)
    one["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
    found = build([one], [], NODE)
    assert [str(network) for network in at(found, "192.0.2.9").allowed] == allowed
    assert at(found).allowed == (), "the cluster's own clients come by the ClusterIP"
    shut = "Service default/web: loadBalancerSourceRanges: none is of IPv4, so nobody is let in at 192.0.2.9"
    assert found.problems == ((shut,) if allowed == ["0.0.0.0/32"] else ())


def test_a_node_port_left_over_on_a_cluster_ip_service_is_not_opened() -> None:
    found = build([service(ports=[{"port": 80, "nodePort": 30080}])], [], NODE)
    assert set(found.targets) == {frontend("10.96.0.1", 80)}


LOCAL, AWAY = endpoint("10.0.0.1", READY), endpoint("10.0.0.2", READY, "n2")


@pytest.mark.parametrize(
    ("endpoints", "inside", "outside", "when_empty"),
    [
        ([LOCAL, AWAY], ["10.0.0.1:8080", "10.0.0.2:8080"], ["10.0.0.1:8080"], WhenEmpty.REJECT),
        ([AWAY], ["10.0.0.2:8080"], [], WhenEmpty.DROP),
        ([], [], [], WhenEmpty.REJECT),
        (
            [endpoint("10.0.0.1", TERMINATING), AWAY],
            ["10.0.0.2:8080"],
            ["10.0.0.1:8080"],
            WhenEmpty.REJECT,
        ),
    ],
)
def test_external_traffic_policy_local(
    endpoints: list[Any], inside: list[str], outside: list[str], when_empty: WhenEmpty
) -> None:
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "externalTrafficPolicy": "Local"}
    target = at(build([service(**spec)], [slice_of(*endpoints)], NODE), "0.0.0.0", 30080)
    assert [str(e) for e in target.inside.endpoints] == inside, "the cluster's own clients reach all"
    assert [str(e) for e in target.outside.endpoints] == outside
    assert target.outside.when_empty is when_empty
    assert target.keep_outside_address


def test_internal_traffic_policy_local() -> None:
    one = service(internalTrafficPolicy="Local")
    assert addresses(build([one], [slice_of(LOCAL, AWAY)], NODE)) == ["10.0.0.1:8080"]
    silent = at(build([one], [slice_of(AWAY)], NODE)).inside
    assert (silent.endpoints, silent.when_empty) == ((), WhenEmpty.DROP)
    assert at(build([one], [], NODE)).inside.when_empty is WhenEmpty.REJECT


def hinted(
    address: str, zone: str | None = None, node: str | None = None, at_node: str = "n2"
) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    if zone:
        hints["forZones"] = [{"name": zone}]
    if node:
        hints["forNodes"] = [{"name": node}]
    return endpoint(address, READY, at_node, hints=hints)


@pytest.mark.parametrize(
    ("endpoints", "chosen", "because"),
    [
        ([hinted("10.0.0.1", "east"), hinted("10.0.0.2", "west")], [1], "our zone's"),
        ([hinted("10.0.0.1", "east"), hinted("10.0.0.2")], [1, 2], "one without a hint: hints are off"),
        ([hinted("10.0.0.1", "west"), hinted("10.0.0.2", "west")], [1, 2], "none for our zone"),
        ([hinted("10.0.0.1", "east", "n1"), hinted("10.0.0.2", "east", "n2")], [1], "node hints win"),
        ([hinted("10.0.0.1", "east", "n3"), hinted("10.0.0.2", "west", "n2")], [1], "else the zone's"),
    ],
)
def test_topology_hints(endpoints: list[Any], chosen: list[int], because: str) -> None:
    found = build([service()], [slice_of(*endpoints)], NODE)
    assert addresses(found) == [f"10.0.0.{i}:8080" for i in chosen], because


@pytest.mark.parametrize(
    ("name", "address", "networks", "said"),
    [
        ("kubernetes", "10.43.0.1", ["10.96.0.0/12"], True),
        ("kubernetes", "10.43.0.1", ["10.96.0.0/12", "10.43.0.0/16"], False),
        ("kubernetes", "10.43.0.1", [], False),
        ("kubernetes", "10.96.0.1", ["10.96.0.0/12"], False),
        ("web", "10.43.0.1", ["10.96.0.0/12"], False),
    ],
)
def test_a_service_network_that_is_not_the_clusters_is_named_once(
    name: str, address: str, networks: list[str], said: bool
) -> None:
    """By the one Service that every cluster has, at the first address of its network."""
    node = replace(NODE, service_cidrs=tuple(map(ip_network, networks)))
    problem = (
        "Service default/kubernetes: its address 10.43.0.1 is in none of the Service networks 10.96.0.0/12: "
        "--service-cidrs names others"
    )
    assert build([service(name, clusterIP=address)], [], node).problems == ((problem,) if said else ())


def test_session_affinity_is_carried() -> None:
    assert at(build([service()], [], NODE)).affinity is None
    assert at(build([service(sessionAffinity="ClientIP")], [], NODE)).affinity == 10800
    config = {"clientIP": {"timeoutSeconds": 60}}
    one = service(sessionAffinity="ClientIP", sessionAffinityConfig=config)
    assert at(build([one], [], NODE)).affinity == 60


def test_dual_stack_serves_each_family_from_its_own_slices() -> None:
    one = service(clusterIPs=["10.96.0.1", "fd00::1"])
    slices = [
        slice_of(endpoint("10.0.0.1", READY)),
        slice_of(endpoint("fd00:1::1", READY), suffix="2", addressType="IPv6"),
    ]
    found = build([one], slices, NODE)
    assert addresses(found) == ["10.0.0.1:8080"]
    assert addresses(found, "fd00::1") == ["[fd00:1::1]:8080"]


def test_overlapping_slices_count_an_endpoint_once_in_its_best_condition() -> None:
    slices = [slice_of(endpoint("10.0.0.1", NOT_READY)), slice_of(endpoint("10.0.0.1", READY), suffix="2")]
    for order in (slices, slices[::-1]):
        assert addresses(build([service()], order, NODE)) == ["10.0.0.1:8080"]


def test_the_older_service_keeps_a_frontend_that_two_claim() -> None:
    older, newer = service("older"), service("newer")
    older["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    newer["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    for order in ([older, newer], [newer, older]):
        found = build(order, [], NODE)
        assert at(found).service.name == "older"
        assert found.problems == (
            "Service default/newer: 10.96.0.1:80/tcp is already served for default/older:80",
        )


@pytest.mark.parametrize(
    "broken",
    [
        service("bad", clusterIP="not an address"),
        service("bad", clusterIP="10.96.0.2", ports=[{"port": "http"}]),
        service("bad", clusterIP="10.96.0.2", ports=[{"port": 80, "protocol": "QUIC"}]),
        service("bad", clusterIP="10.96.0.2", sessionAffinity="ClientIP", sessionAffinityConfig=[])
        | {"spec": 3},
        service(
            "bad",
            clusterIP="10.96.0.2",
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort="nonsense",
        ),
    ],
)
def test_nonsense_costs_only_itself_and_is_named(broken: dict[str, Any]) -> None:
    if broken["spec"] == 3:
        broken["spec"] = {"clusterIP": "10.96.0.2", "ports": 3}
    found = build([broken, service()], [slice_of(endpoint("10.0.0.1", READY))], NODE)
    assert addresses(found) == ["10.0.0.1:8080"]
    assert any("default/bad" in problem for problem in found.problems)


def test_a_nonsense_endpoint_costs_only_itself() -> None:
    slices = [slice_of(endpoint("nobody", READY), {"conditions": READY}, endpoint("10.0.0.1", READY))]
    found = build([service()], slices, NODE)
    assert addresses(found) == ["10.0.0.1:8080"]
    assert len(found.problems) == 2
    assert all("EndpointSlice web-1: endpoint left out" in problem for problem in found.problems)


def test_node_facts_come_from_the_node_object() -> None:
    obj = {
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "east"}},
        "spec": {"podCIDR": "10.244.1.0/24"},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "192.168.77.11"},
            ]
        },
    }
    assert node_facts(obj, [ip_network("10.244.0.0/16")], ()) == replace(
        NODE, cluster_cidrs=(ip_network("10.244.0.0/16"),)
    )
    assert node_facts(obj, (), ()) == replace(NODE, cluster_cidrs=NODE.pod_cidrs), (
        "this node's pods, at least"
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([("InternalIP", "192.0.2.1"), ("ExternalIP", "203.0.113.1")], ["192.0.2.1"]),
        ([("ExternalIP", "203.0.113.1"), ("Hostname", "n1")], ["203.0.113.1"]),
        (
            [("ExternalIP", "203.0.113.1"), ("InternalIP", "192.0.2.1"), ("InternalIP", "fd00::1")],
            ["192.0.2.1", "fd00::1"],
        ),
        ([("Hostname", "n1")], []),
    ],
)
def test_a_node_is_known_by_internal_addresses_and_by_external_ones_where_it_has_no_other(
    said: list[tuple[str, str]], expected: list[str]
) -> None:
    listed = [{"type": kind, "address": address} for kind, address in said]
    obj = {"metadata": {"name": "n1"}, "status": {"addresses": listed}}
    assert [str(address) for address in node_facts(obj, (), ()).addresses] == expected


CONDITIONS = st.sampled_from([READY, NOT_READY, TERMINATING, GONE, {}])
HINTS = st.fixed_dictionaries(
    {},
    optional={
        "forZones": st.lists(st.sampled_from([{"name": "east"}, {"name": "west"}]), min_size=1, max_size=2),
        "forNodes": st.lists(st.sampled_from([{"name": "n1"}, {"name": "n2"}]), min_size=1, max_size=2),
    },
)
PREFIXES = {"IPv4": "10.0.0.", "IPv6": "fd00:1::"}


def endpoints_in(family: str) -> st.SearchStrategy[dict[str, Any]]:
    """Few addresses, so that slices overlap."""
    return st.builds(
        endpoint,
        st.integers(1, 6).map(lambda n: f"{PREFIXES[family]}{n}"),
        CONDITIONS,
        st.sampled_from(["n1", "n2"]),
        hints=HINTS,
    )


def some(*values: Any) -> st.SearchStrategy[list[Any]]:
    """Any of these, each at most once."""
    return st.lists(st.sampled_from(values), unique=True)


@st.composite
def services_named(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """All that a Service can say to a proxy; few addresses and ports, so that they are contested."""
    number = draw(st.integers(1, 3))
    made = service(
        name,
        clusterIPs=draw(
            st.sampled_from([["10.96.0.1"], ["fd00::1"], ["10.96.0.1", "fd00::1"], ["fd00::2", "10.96.0.2"]])
        ),
        type=draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"])),
        ports=[
            {
                "port": 80,
                "nodePort": 30000 + number,
                "protocol": draw(st.sampled_from(["TCP", "UDP", "SCTP"])),
            }
        ],
        externalTrafficPolicy=draw(st.sampled_from(["Cluster", "Local"])),
        internalTrafficPolicy=draw(st.sampled_from(["Cluster", "Local"])),
        externalIPs=draw(some("203.0.113.7", "2001:db8::7")),
        loadBalancerSourceRanges=draw(some("198.51.100.7/24", " 2001:db8:1::/48", "203.0.113.0/24")),
        sessionAffinity=draw(st.sampled_from(["None", "ClientIP"])),
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": draw(st.integers(1, 86400))}},
        healthCheckNodePort=draw(st.sampled_from([0, 32000, 32001])),
    )
    ingress = draw(some("192.0.2.8", "192.0.2.9", "2001:db8::9"))
    mode = draw(st.sampled_from(["VIP", "Proxy"]))
    made["status"] = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": mode} for ip in ingress]}}
    made["metadata"]["creationTimestamp"] = f"2026-01-0{draw(st.integers(1, 3))}T00:00:00Z"
    return made


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    services, slices = [], []
    for index in range(draw(st.integers(1, 4))):
        name = f"s{index}"
        services.append(draw(services_named(name)))
        protocol = services[-1]["spec"]["ports"][0]["protocol"]
        for suffix in range(draw(st.integers(0, 3))):
            family = draw(st.sampled_from(list(PREFIXES)))
            entries = draw(st.lists(endpoints_in(family), max_size=4))
            ports = [{"port": 8080, "protocol": protocol}]
            slices.append(slice_of(*entries, name=name, suffix=str(suffix), addressType=family, ports=ports))
    return services, slices


@given(st.lists(endpoints_in("IPv4"), max_size=5, unique_by=lambda entry: entry["addresses"][0]))
def test_hints_narrow_only_where_all_have_them_and_never_to_nothing(entries: list[dict[str, Any]]) -> None:
    """kube-proxy's three modes (``topologyModeFromHints``), told from the endpoints' side."""
    ready = [entry for entry in entries if entry["conditions"] in (READY, {})]
    chosen = set(addresses(build([service()], [slice_of(*entries)], NODE)))

    def meant(field: str, name: str) -> set[str]:
        """Those hinted for this name; none where anybody has no such hint."""
        if not all(entry["hints"].get(field) for entry in ready):
            return set()
        return {f"{e['addresses'][0]}:8080" for e in ready if {"name": name} in e["hints"][field]}

    if ready:
        everybody = {f"{entry['addresses'][0]}:8080" for entry in ready}
        assert chosen == (meant("forNodes", "n1") or meant("forZones", "east") or everybody)
    else:
        assert chosen == {f"{e['addresses'][0]}:8080" for e in entries if e["conditions"] == TERMINATING}


@given(clusters(), st.randoms())
def test_the_order_of_objects_never_matters(cluster: tuple[list[Any], list[Any]], random: Any) -> None:
    services, slices = copy.deepcopy(cluster)
    expected = build(services, slices, NODE)
    random.shuffle(services)
    random.shuffle(slices)
    for item in slices:
        random.shuffle(item["endpoints"])
    assert build(services, slices, NODE) == expected


@given(st.lists(clusters(), min_size=2, max_size=4), st.randoms())
def test_the_way_there_never_changes_the_answer(
    states: list[tuple[list[Any], list[Any]]], random: Any
) -> None:
    """Any sequence of events that ends in a state gives the snapshot of that state, and all before it stay."""
    resolution, before = Resolution(NODE), []
    have: dict[Any, Any] = {}
    for services, slices in states:
        node = random.choice([NODE, NodeFacts("n2", NODE.addresses)])
        want = {("service", key_of(s)): s for s in services} | {("slice", key_of(s)): s for s in slices}
        events = [*want, *(key for key in have if key not in want)]
        random.shuffle(events)
        for kind, key in events:
            if (kind, key) not in want:
                (resolution.drop_service if kind == "service" else resolution.drop_slice)(key)
            elif have.get((kind, key)) != want[kind, key]:
                put = resolution.put_service if kind == "service" else resolution.put_slice
                put(want[kind, key])
            if random.random() < 0.3:
                resolution.snapshot()
        resolution.set_node(node)
        have = want
        before.append((resolution.snapshot(), build(services, slices, node)))
        assert resolution.snapshot() is resolution.snapshot()
    for found, expected in before:
        assert found == expected
        assert dict(found.targets) == dict(expected.targets)


def test_a_slice_may_move_to_another_service() -> None:
    resolution = Resolution(NODE)
    resolution.put_service(service())
    resolution.put_service(service("other", clusterIP="10.96.0.2"))
    resolution.put_slice(slice_of(endpoint("10.0.0.1", READY)))
    assert addresses(resolution.snapshot()) == ["10.0.0.1:8080"]
    moved = slice_of(endpoint("10.0.0.1", READY))
    moved["metadata"]["labels"] = {"kubernetes.io/service-name": "other"}
    resolution.put_slice(moved)
    assert addresses(resolution.snapshot()) == []
    assert addresses(resolution.snapshot(), "10.96.0.2") == ["10.0.0.1:8080"]


def test_one_change_leaves_all_other_targets_the_same_objects() -> None:
    resolution = Resolution(NODE)
    for name, address in (("web", "10.96.0.1"), ("other", "10.96.0.2")):
        resolution.put_service(service(name, clusterIP=address))
        resolution.put_slice(slice_of(endpoint("10.0.0.1", READY), name=name))
    first = resolution.snapshot()
    resolution.put_slice(slice_of(endpoint("10.0.0.2", READY)))
    second = resolution.snapshot()
    changes = diff(first.targets, second.targets)
    assert (len(changes.added), len(changes.changed), len(changes.removed)) == (0, 1, 0)
    assert at(first, "10.96.0.2") is at(second, "10.96.0.2")
    assert (addresses(first), addresses(second)) == (["10.0.0.1:8080"], ["10.0.0.2:8080"])


@pytest.mark.parametrize(
    ("before", "after", "frontends"),
    [
        (
            {},
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]},
            {"10.96.0.1:80", "0.0.0.0:30080"},
        ),
        ({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}, {}, {"10.96.0.1:80"}),
        ({}, {"ports": [{"port": 81}]}, {"10.96.0.1:81"}),
        ({}, {"ports": [{"port": 80, "protocol": "UDP"}]}, {"10.96.0.1:80"}),
        ({}, {"type": "ExternalName", "externalName": "example.org"}, set()),
        ({}, {"clusterIP": "None"}, set()),
        ({"clusterIP": "None"}, {"clusterIP": "10.96.0.7"}, {"10.96.0.7:80"}),
        ({"externalIPs": ["203.0.113.7"]}, {}, {"10.96.0.1:80"}),
    ],
)
def test_a_live_service_may_change_in_every_way(
    before: dict[str, Any], after: dict[str, Any], frontends: set[str]
) -> None:
    resolution = Resolution(NODE)
    resolution.put_slice(slice_of(endpoint("10.0.0.1", READY)))
    resolution.put_service(service(**before))
    resolution.snapshot()
    resolution.put_service(service(**after))
    found = resolution.snapshot()
    assert {str(frontend).partition("/")[0] for frontend in found.targets} == frontends
    assert found == build([service(**after)], [slice_of(endpoint("10.0.0.1", READY))], NODE)


def test_labels_that_hand_a_live_service_to_another_proxy() -> None:
    resolution = Resolution(NODE)
    resolution.put_service(service())
    assert resolution.snapshot().targets
    resolution.put_service(service(labels={"service.kubernetes.io/service-proxy-name": "other"}))
    assert not resolution.snapshot().targets
    resolution.put_service(service())
    assert resolution.snapshot().targets


@given(clusters())
def test_only_endpoints_that_may_serve_are_chosen(cluster: tuple[list[Any], list[Any]]) -> None:
    services, slices = cluster
    able = {
        e["addresses"][0]
        for item in slices
        for e in item["endpoints"]
        if e["conditions"] in (READY, TERMINATING, {})
    }
    for target in build(services, slices, NODE).targets.values():
        for pool in (target.inside, target.outside):
            assert {str(e.address) for e in pool.endpoints} <= able
            assert list(pool.endpoints) == sorted(pool.endpoints, key=lambda e: e.order)


def test_annotations_of_ours() -> None:
    made = service()
    made["metadata"]["annotations"] = {"netplane.io/balance": "p2c", "netplane.io/proxy-protocol": "v2"}
    found = at(build([made], [slice_of(endpoint("10.0.0.9", READY))], NODE))
    assert (found.balance, found.proxy_protocol) == ("p2c", True)
    made = service()
    made["metadata"]["annotations"] = {"netplane.io/balance": "fair", "netplane.io/proxy-protocol": "v1"}
    snapshot = build([made], [], NODE)
    assert at(snapshot).balance == "round-robin"
    assert snapshot.problems == (
        (
            "Service default/web: annotation netplane.io/balance=fair: not one of round-robin, random, "
            "least-connections, p2c"
        ),
        "Service default/web: annotation netplane.io/proxy-protocol=v1: only v2 is known",
    )


@pytest.mark.parametrize("text", ["0", "-1", "1h", "1.5", " 1"])
def test_annotations_of_seconds(text: str) -> None:
    made = service()
    made["metadata"]["annotations"] = {"netplane.io/max-connection-age": "3600", "netplane.io/drain": "60"}
    found = at(build([made], [], NODE))
    assert (found.max_age, found.drain) == (3600, 60)
    made["metadata"]["annotations"] = {"netplane.io/max-connection-age": text, "netplane.io/drain": text}
    snapshot = build([made], [], NODE)
    assert (at(snapshot).max_age, at(snapshot).drain) == (None, None)
    assert snapshot.problems == tuple(
        f"Service default/web: annotation netplane.io/{name}={text}: not a number of seconds above 0"
        for name in ("drain", "max-connection-age")
    )


def test_health_checks_count_what_is_here() -> None:
    balanced = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    ports = [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081}]
    here = slice_of(
        endpoint("10.0.0.9", READY),
        endpoint("10.0.0.10", READY),
        endpoint("10.0.0.11", READY, node="n2"),
        ports=[{"name": "a", "port": 8080}, {"name": "b", "port": 8081}],
    )
    (check,) = build([service(ports=ports, **balanced)], [here], NODE).checks.items()
    assert check == (32000, HealthCheck("default", "web", 2))
    assert (
        build([service(ports=ports, **{**balanced, "externalTrafficPolicy": "Cluster"})], [here], NODE).checks
        == {}
    )
