"""From SOURCE and TARGET to a verdict, with nodes whose answers are made up: the rules of judging."""

import re
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from netplane.config import CLUSTER_CIDRS, SERVICE_CIDRS
from netplane.debug.ends import World
from netplane.debug.explain import Explanation
from netplane.debug.eyes import Eyes
from netplane.debug.facts import (
    Facts,
    Listener,
    Lookup,
    Pod,
    Request,
    Route,
    Rules,
    decode_facts,
    decode_request,
    encode,
)
from netplane.debug.hops import State
from netplane.debug.intent import Intent, resolve
from netplane.debug.verdict import Outcome, Verdict, judge
from netplane.debug.walk import requests, walk
from netplane.errors import ConfigError, PeerError
from proxy.model import Protocol

PODS = {"client": ("n1", "10.244.1.3"), "a": ("n1", "10.244.1.7"), "b": ("n2", "10.244.2.9")}
NODES = {"n1": "192.168.77.11", "n2": "192.168.77.12"}


def pod(name: str) -> dict[str, Any]:
    node, address = PODS[name]
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"nodeName": node},
        "status": {"podIP": address, "podIPs": [{"ip": address}]},
    }


def node(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDRs": [f"10.244.{name[1]}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": NODES[name]}]},
    }


def service(name: str, address: str, *ports: dict[str, Any], **labels: str) -> dict[str, Any]:
    spec = {"type": "NodePort", "clusterIP": address, "clusterIPs": [address], "ports": list(ports)}
    metadata = {"namespace": "default", "name": name, "resourceVersion": "7", "labels": labels}
    return {"metadata": metadata, "spec": spec}


def endpoints(of: str, *states: tuple[str, dict[str, bool]]) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": f"{of}-1", "labels": {"kubernetes.io/service-name": of}}
    listed = [
        {"addresses": [PODS[name][1]], "nodeName": PODS[name][0], "conditions": conditions}
        for name, conditions in states
    ]
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": listed, "ports": ports}


READY = {"ready": True}
HTTP = {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}
WORLD = World(
    services=[
        service("hello", "10.96.0.20", HTTP),
        service("none", "10.96.0.21", HTTP | {"nodePort": 30081}),
        service("dns", "10.96.0.10", HTTP, **{"service.kubernetes.io/service-proxy-name": "netplane-dns"}),
        service("two", "10.96.0.22", {"name": "x", "port": 1}, {"name": "y", "port": 2}),
    ],
    slices=[
        endpoints("hello", ("a", READY), ("b", READY)),
        endpoints(
            "none", ("a", {"ready": False}), ("b", {"ready": False, "serving": False, "terminating": True})
        ),
    ],
    pods=[pod(name) for name in PODS],
    nodes=[node(name) for name in NODES],
    cluster_cidrs=CLUSTER_CIDRS,
    service_cidrs=SERVICE_CIDRS,
)


def answers(intent: Intent) -> dict[str, Facts]:
    """What the nodes of a healthy cluster say to the questions of this walk."""
    found = {}
    for name, request in requests(intent).items():
        routes = {lookup.key: healthy_route(name, lookup, intent) for lookup in request.lookups}
        both: tuple[str, ...] = ("10.244.1.7:8080", "10.244.2.9:8080")
        targets = dict.fromkeys(request.frontends, both)
        pods = {
            address: Pod(f"np{address[-1]}", True, True, 4026, (Listener("0.0.0.0", 8080),))
            for address in request.pods
        }
        listeners = tuple(
            Listener(str(intent.address), port, "netplane proxy (pid 9)") for port in request.ports
        )
        found[name] = Facts(name, pods, routes, listeners, Rules(True, True, True), True, targets)
    return found


def healthy_route(name: str, lookup: Lookup, intent: Intent) -> Route:
    if lookup.namespace:
        return Route("unicast", "eth0", "169.254.1.1", "0.0.0.0/0")
    if lookup.mark or (
        lookup.to in (NODES[name], str(intent.address)) and lookup.to not in pods_by_address()
    ):
        return Route("local", "lo", "", f"{lookup.to}/32", 96, 255)
    at = pods_by_address().get(lookup.to)
    if at == name:
        return Route("unicast", f"np{lookup.to[-1]}", "", f"{lookup.to}/32", 97)
    return Route("unicast", "eth0", NODES.get(at or "", ""), "10.244.0.0/16", 98)


def pods_by_address() -> dict[str, str]:
    return {address: name for name, address in PODS.values()}


def judged(intent: Intent, facts: dict[str, Facts]) -> Verdict:
    return judge(intent, walk(intent, Eyes(facts)))


SERVICE = resolve("default/client", "svc/hello:http", WORLD)


def test_a_service_becomes_its_frontend_its_endpoints_and_who_they_see() -> None:
    assert (str(SERVICE.address), SERVICE.port, SERVICE.balancer) == ("10.96.0.20", 80, "n1")
    assert SERVICE.frontend == "10.96.0.20:80/tcp|inside"
    assert [(c.place.pod, c.place.node, c.port, str(c.seen_as), c.kept) for c in SERVICE.choices] == [
        ("default/a", "n1", 8080, "10.244.1.3", True),
        ("default/b", "n2", 8080, "10.244.1.3", True),
    ]


def test_a_pod_that_reaches_itself_is_seen_as_its_node() -> None:
    itself = resolve("default/a", "svc/hello:80", WORLD).choices[0]
    assert (itself.place.pod, str(itself.seen_as), itself.kept) == ("default/a", NODES["n1"], False)


def test_a_node_port_is_accepted_on_the_node_that_has_the_address() -> None:
    found = resolve("default/b", "192.168.77.11:30080", WORLD)
    assert (found.balancer, found.frontend) == ("n1", "0.0.0.0:30080/tcp|inside")
    outside = resolve("192.0.2.1", "node/n2:30080", WORLD)
    assert (outside.source.node, outside.balancer, outside.frontend) == (
        "",
        "n2",
        "0.0.0.0:30080/tcp|outside",
    )


@pytest.mark.parametrize(
    ("source", "target", "outcome", "cause"),
    [
        ("default/client", "svc/none:80", Outcome.BROKEN, "no endpoint of the Service is ready"),
        ("default/client", "10.96.0.99:80", Outcome.BROKEN, "^no Service has this address$"),
        ("default/client", "10.96.0.20:81", Outcome.BROKEN, "its Service has ports 80/TCP, not 81/TCP"),
        ("192.0.2.1", "10.96.0.20:80", Outcome.BROKEN, "from inside the cluster only"),
        ("192.0.2.1", "svc/dns:http", Outcome.BROKEN, "from inside the cluster only"),
        ("default/client", "svc/dns:http", Outcome.WORKS, "^$"),
        ("default/client", "10.244.2.77:80", Outcome.BROKEN, r"^no pod has this address \(n2's network\)$"),
        (
            "default/client",
            "203.0.113.9:443",
            Outcome.UNDETERMINED,
            "nothing beyond this node is ours to see",
        ),
        ("192.0.2.1", "node/n1:30080", Outcome.WORKS, "^$"),
        ("192.0.2.1", "default/b:8080", Outcome.UNDETERMINED, "the client is outside the cluster"),
    ],
)
def test_verdicts_that_follow_from_the_intent(source: str, target: str, outcome: Outcome, cause: str) -> None:
    intent = resolve(source, target, WORLD)
    found = judged(intent, answers(intent))
    assert found.outcome is outcome, found
    assert re.search(cause, found.cause), found.cause


def test_excluded_endpoints_say_why() -> None:
    found = resolve("default/client", "svc/none:80", WORLD)
    assert found.excluded == ("10.244.1.7 not ready (excluded)", "10.244.2.9 terminating (excluded)")


UDP = {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080}


def spoken(*ports: dict[str, Any]) -> World:
    """hello with these ports, each served by both pods."""
    pieces = endpoints("hello", ("a", READY), ("b", READY))
    pieces["ports"] = [{"name": p["name"], "port": 8080, "protocol": p["protocol"]} for p in ports]
    return replace(WORLD, services=[service("hello", "10.96.0.20", *ports)], slices=[pieces])


@pytest.mark.parametrize(
    "target", ["svc/hello:80", "svc/hello:udp", "svc/hello", "10.96.0.20:80", "node/n1:30080"]
)
def test_a_service_that_speaks_udp_only_is_explained_over_udp(target: str) -> None:
    intent = resolve("default/client", target, spoken(UDP))
    assert intent.protocol is Protocol.UDP
    assert "/UDP " in intent.title
    assert len(intent.choices) == 2
    assert "/udp|inside" in intent.frontend
    facts = answers(intent)
    found = judged(intent, facts)
    assert "nothing listens at" in found.cause, "healthy TCP listeners are none of UDP"
    assert "port unreachable [/proc/net/udp]" in found.cause
    for name, said in facts.items():
        taking = tuple(replace(one, protocol="UDP") for one in said.listeners)
        pods = {
            a: replace(p, listeners=(Listener("0.0.0.0", 8080, protocol="UDP"),))
            for a, p in said.pods.items()
        }
        facts[name] = replace(said, listeners=taking, pods=pods)
    assert judged(intent, facts) == Verdict(Outcome.WORKS)


@pytest.mark.parametrize(
    ("target", "protocol"),
    [
        ("svc/hello:80", Protocol.TCP),
        ("svc/hello:80/udp", Protocol.UDP),
        ("svc/hello:udp/udp", Protocol.UDP),
        ("svc/hello:udp", Protocol.UDP),
        ("10.96.0.20:80", Protocol.TCP),
        ("10.96.0.20:80/udp", Protocol.UDP),
        ("node/n1:30080/UDP", Protocol.UDP),
        ("default/b:8080/udp", Protocol.UDP),
        ("10.244.2.9:8080", Protocol.TCP),
    ],
)
def test_of_two_transports_tcp_is_meant_unless_the_other_is_said(target: str, protocol: Protocol) -> None:
    intent = resolve("default/client", target, spoken(HTTP, UDP))
    assert (intent.protocol, bool(intent.choices)) == (protocol, True)


def test_ports_of_either_transport_are_named_to_whom_asks_for_another() -> None:
    world = spoken(HTTP, UDP)
    refusal = resolve("default/client", "10.96.0.20:81", world).refusal
    assert refusal == "its Service has ports 80/TCP, 80/UDP, not 81/TCP"


def local(**spec: Any) -> World:
    """hello with policies of its own, and one pod only, on n2."""
    hello = service("hello", "10.96.0.20", HTTP)
    hello["spec"] |= spec
    return replace(
        WORLD, services=[hello], slices=[endpoints("hello", ("b", READY), ("a", {"ready": False}))]
    )


@pytest.mark.parametrize("rules", [Rules(True, True, True), Rules(translates=True)])
def test_a_local_policy_names_itself_and_the_nodes_to_ask(rules: Rules) -> None:
    world = local(externalTrafficPolicy="Local")
    intent = resolve("192.0.2.1", "node/n1:30080", world)
    assert "NodePort 192.168.77.11:30080/TCP etp=Local" in intent.title
    assert intent.excluded == (
        "10.244.2.9 on n2, and externalTrafficPolicy is Local (excluded)",
        "10.244.1.7 not ready (excluded)",
    )
    facts = answers(intent)
    facts["n1"] = replace(facts["n1"], rules=rules, translations=dict.fromkeys([intent.frontend], ()))
    found = walk(intent, Eyes(facts))
    cause = "1 endpoint is ready, but none on n1, and externalTrafficPolicy is Local: ask n2"
    assert judge(intent, found).cause == cause
    assert "dropped, as it must be" in found.out[-1].text
    assert not any("accepted" in hop.text or "refused" in hop.text for hop in found.out)
    # The cluster's own clients reach every endpoint, and n2 has one.
    assert resolve("node/n1", "node/n1:30080", world).choices
    assert resolve("192.0.2.1", "node/n2:30080", world).choices


def test_an_internal_policy_is_for_the_cluster_ip_only() -> None:
    world = local(internalTrafficPolicy="Local")
    intent = resolve("default/client", "svc/hello:80", world)
    assert "itp=Local" in intent.title
    assert intent.refusal == "1 endpoint is ready, but none on n1, and internalTrafficPolicy is Local: ask n2"
    assert "etp=Cluster" in resolve("default/client", "node/n1:30080", world).title


def test_without_any_endpoint_and_with_none_ready_are_told_apart() -> None:
    nothing = replace(WORLD, slices=[])
    assert "has no endpoints" in resolve("default/client", "svc/hello:80", nothing).refusal
    intent = resolve("default/client", "svc/none:80", WORLD)
    assert intent.refusal == "no endpoint of the Service is ready"
    facts = answers(intent)
    facts["n1"] = replace(
        facts["n1"], rules=Rules(translates=True), translations=dict.fromkeys([intent.frontend], ())
    )
    assert "leads to no endpoint: refused, as it must be" in walk(intent, Eyes(facts)).out[-1].text


def test_a_target_port_that_no_pod_has_is_named() -> None:
    misnamed = endpoints("hello", ("a", READY), ("b", READY)) | {"ports": None}
    named = service("hello", "10.96.0.20", HTTP | {"targetPort": "wbe"})
    found = resolve("default/client", "svc/hello:80", replace(WORLD, services=[named], slices=[misnamed]))
    said = "its slice has no port for Service port http/TCP"
    assert found.refusal == f"{said}: no pod of it has a port that is named wbe"
    assert found.excluded == (f"10.244.1.7 {said} (excluded)", f"10.244.2.9 {said} (excluded)")


def test_an_endpoint_that_is_meant_for_others_says_for_whom() -> None:
    near = endpoints("hello", ("a", READY), ("b", READY))
    for entry in near["endpoints"]:
        entry["hints"] = {"forNodes": [{"name": entry["nodeName"]}], "forZones": [{"name": "east"}]}
    found = resolve("default/client", "svc/hello:80", replace(WORLD, slices=[near]))
    assert [str(choice.place.address) for choice in found.choices] == ["10.244.1.7"]
    assert found.excluded == ("10.244.2.9 meant for n2, east (excluded)",)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("default/none", "svc/hello:80", "no pod none in namespace default"),
        ("node/n9", "svc/hello:80", "no node n9"),
        ("somewhere", "svc/hello:80", "not an address.*with --lab, outside"),
        ("10.244.1.77", "svc/hello:80", r"no pod has this address \(n1's network\)"),
        ("default/client", "svc/hello.other:80", "no Service hello in namespace other"),
        ("default/client", "svc/two", "port '' is not one of the Service's ports"),
        ("default/client", "svc/two:z", "x=1/TCP, y=2/TCP"),
        ("default/client", "10.96.0.20:http", "not a port number"),
        ("default/client", "nowhere:80", "not an address"),
        (
            "default/client",
            "svc/hello:80/udp",
            "port '80'/UDP is not one of the Service's ports .http=80/TCP.",
        ),
        ("default/client", "svc/hello:80/sctp", "sctp is not a transport that can be explained: tcp or udp"),
    ],
)
def test_what_names_nothing_is_refused_by_name(source: str, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(source, target, WORLD)


@pytest.mark.parametrize(
    "target",
    [
        "hello:80",
        "hello.default:80",
        "hello.default.svc:http",
        "hello.default.svc.cluster.local:80",
        "hello.default.svc.cluster.local.:80",
        "hello.default.svc.cluster.local",
        "hello.default:80/tcp",
        "svc/hello.default.svc.cluster.local:80",
        "http://hello.default/",
        "http://hello/index.html?q=1:2",
        "http://hello.default.svc.cluster.local:80",
        "http://10.96.0.20/",
    ],
)
def test_a_service_is_known_by_the_names_that_pods_have_for_it(target: str) -> None:
    assert resolve("default/client", target, WORLD) == SERVICE


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("svc/hello.web:80", "no Service hello in namespace web; there is one in default$"),
        ("hello.web.svc.cluster.local:80", "no Service hello in namespace web; there is one in default$"),
        ("nosuch.default:80", "no Service nosuch in namespace default$"),
        (
            "svc/hello:30080",
            r"'30080' is not one .*http=80/TCP.*It is its nodePort, which nodes have: node/NAME:30080",
        ),
        ("https://hello.default/", "port '443' is not one of the Service's ports"),
        ("ftp://hello.default/", "ftp is not a URL's scheme"),
        ("http://nowhere/", "not an address"),
        ("http://", "not an address"),
    ],
)
def test_a_name_that_is_nearly_right_is_told_what_is(target: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("default/client", target, WORLD)
    assert re.search(message, str(caught.value)), caught.value


def test_an_external_address_is_no_cluster_ip() -> None:
    hello = service("hello", "10.96.0.20", HTTP)
    hello["spec"] |= {"externalIPs": ["203.0.113.9"], "externalTrafficPolicy": "Local"}
    world = replace(WORLD, services=[hello])
    intent = resolve("node/n1", "203.0.113.9:80", world)
    assert "external address 203.0.113.9:80/TCP etp=Local" in intent.title
    assert len(intent.choices) == 2
    with pytest.raises(
        ConfigError, match="from outside the cluster: the node that it arrives at is not known"
    ):
        resolve("192.0.2.1", "203.0.113.9:80", world)


def test_a_node_that_is_gone_from_the_api_balances_all_the_same() -> None:
    intent = resolve("default/client", "svc/hello:80", replace(WORLD, nodes=[]))
    assert (intent.balancer, len(intent.choices)) == ("n1", 2)
    assert judged(intent, {}).outcome is Outcome.UNDETERMINED


def test_a_url_may_have_an_address_of_either_version_and_a_port() -> None:
    assert resolve("default/client", "http://10.244.2.9:8080/x", WORLD).port == 8080
    assert resolve("2001:db8::1", "http://[2001:db8::2]:81/", WORLD).port == 81


def test_healthy_is_works_and_every_question_is_asked_once() -> None:
    found = judged(SERVICE, answers(SERVICE))
    assert found == Verdict(Outcome.WORKS)
    for request in requests(SERVICE).values():
        assert len({lookup.key for lookup in request.lookups}) == len(request.lookups)


def test_nothing_seen_is_undetermined_never_broken() -> None:
    for target in ("svc/hello:80", "default/b:8080", "node/n2:30080", "192.0.2.7:80"):
        intent = resolve("default/client", target, WORLD)
        found = walk(intent, Eyes({}))
        assert judge(intent, found).outcome is Outcome.UNDETERMINED
        hops = [*found.out, *found.back, *(hop for branch in found.branches for hop in branch.hops)]
        assert {hop.state for hop in hops} == {State.UNSEEN}


def test_one_endpoint_broken_is_a_suspect_because_the_proxy_tries_another() -> None:
    facts = answers(SERVICE)
    facts["n2"] = replace(facts["n2"], pods={"10.244.2.9": Pod("np9", True, True, 4026, ())})
    found = judged(SERVICE, facts)
    assert found.outcome is Outcome.WORKS
    assert "nothing listens at 10.244.2.9:8080" in found.suspects[0]
    straight = resolve("default/client", "default/b:8080", WORLD)
    facts = answers(straight)
    facts["n2"] = replace(facts["n2"], pods={"10.244.2.9": Pod("np9", True, True, 4026, ())})
    assert judged(straight, facts).outcome is Outcome.BROKEN


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"rules": Rules(True, True, False)}, "divert rule is missing"),
        ({"listeners": ()}, "nothing listens at 10.96.0.20:80"),
        ({"listeners": (Listener("0.0.0.0", 80),)}, "nothing listens at 10.96.0.20:80"),
        ({"targets": {}}, "lacks 10.244.1.7:8080"),
        ({"pods": {"10.244.1.3": Pod("np3", True, False, 4026), "10.244.1.7": Pod()}}, "np3 is DOWN"),
    ],
)
def test_a_fault_on_the_balancing_node_is_named(change: dict[str, Any], cause: str) -> None:
    facts = answers(SERVICE)
    facts["n1"] = replace(facts["n1"], **change)
    found = judged(SERVICE, facts)
    assert found.outcome is Outcome.BROKEN
    assert cause in found.cause


def test_a_silent_proxy_is_not_observed() -> None:
    facts = answers(SERVICE)
    facts["n1"] = replace(facts["n1"], problems={"proxy": "cannot ask the proxy"})
    found = judged(SERVICE, facts)
    assert found.outcome is Outcome.UNDETERMINED
    assert "cannot ask the proxy" in found.cause


def test_facts_and_requests_survive_the_way_as_json() -> None:
    for name, facts in answers(SERVICE).items():
        assert decode_facts(encode(facts), name) == facts
    for request in requests(SERVICE).values():
        assert decode_request(encode(request)) == request
    assert decode_request(encode(Request())) == Request()
    with pytest.raises(PeerError, match="cannot read a node's answer"):
        decode_facts(b"Traceback", "n1")
    with pytest.raises(ConfigError, match="facts of n1"):
        decode_facts(b'{"pods": 3}', "n1")


@pytest.mark.parametrize(("lab", "words"), [("", ""), ("demo", " --lab demo")])
def test_what_to_run_next_can_be_pasted(lab: str, words: str) -> None:
    facts = answers(SERVICE)
    facts["n2"] = replace(facts["n2"], pods={"10.244.2.9": Pod("np9", True, True, 4026, ())})
    found = judge(SERVICE, walk(SERVICE, Eyes(facts)), lab)
    assert found.next == f"netplane explain{words} node/n2 10.244.2.9:8080"
    _, source, target = found.next.replace(words, "").removeprefix("netplane ").split()
    nearer = resolve(source, target, WORLD)
    assert (nearer.source.node, nearer.choices[0].place.pod) == ("n2", "default/b")
    assert not judge(nearer, walk(nearer, Eyes(facts)), lab).next, "nothing is nearer than its own node"
    udp = resolve("default/client", "default/b:8080/udp", WORLD)
    assert judge(udp, walk(udp, Eyes(answers(udp))), lab).next.endswith(" node/n2 10.244.2.9:8080/udp")


@pytest.mark.parametrize(
    ("target", "lab", "command"),
    [
        ("svc/none:80", "", "netplane doctor"),
        ("svc/none:80", "demo", "netplane lab exec --name demo n1 -- netplane doctor"),
        ("10.96.0.99:80", "demo", "kubectl get services -A"),
        ("10.244.2.77:80", "demo", ""),
    ],
)
def test_a_refusal_says_who_knows_more(target: str, lab: str, command: str) -> None:
    intent = resolve("default/client", target, WORLD)
    assert judge(intent, walk(intent, Eyes({})), lab).next == command


def test_the_address_of_a_pod_that_is_gone_is_sought_where_it_was() -> None:
    intent = resolve("default/client", "10.244.2.77:80", WORLD)
    facts = answers(intent)
    facts["n2"] = replace(facts["n2"], pods={"10.244.2.77": Pod()})
    walked = walk(intent, Eyes(facts))
    text = Explanation(intent, walked, judge(intent, walked)).render()
    assert "outside the cluster" not in text
    assert "!n2   no route to 10.244.2.77/32: no link leads to it" in text


def test_the_text_numbers_hops_and_ends_with_the_verdict() -> None:
    seen = walk(SERVICE, Eyes(answers(SERVICE)))
    lines = Explanation(SERVICE, seen, judge(SERVICE, seen)).render().splitlines()
    assert lines[0].startswith(
        "INTENT    pod default/client (10.244.1.3 on n1) -> svc default/hello:http ClusterIP"
    )
    assert lines[1].startswith(
        "          endpoints 2: 10.244.1.7:8080 (default/a), 10.244.2.9:8080 (default/b)"
    )
    assert [line.split()[1] for line in lines if line.startswith("HOP")][:6] == ["1", "2", "3", "4", "5", "6"]
    assert all(line.endswith("]") for line in lines if line.startswith(("HOP", "RETURN")))
    assert lines[-1] == "VERDICT   WORKS"


def test_the_source_may_be_an_address_that_is_a_pods_or_a_nodes() -> None:
    assert resolve("10.244.1.3", "svc/hello:80", WORLD) == replace(
        SERVICE, source=SERVICE.source, choices=SERVICE.choices
    )
    assert resolve("192.168.77.11", "10.244.2.9", WORLD).source.node == "n1"
    assert resolve("node/n1", "10.244.2.9", WORLD).choices[0].place.address == ip_address("10.244.2.9")


def test_the_kernel_tries_no_other_endpoint() -> None:
    """The relay hides one broken endpoint of two; by the kernel's translation half of all connections break."""
    facts = {
        name: replace(found, rules=Rules(translates=True), translations=found.targets)
        for name, found in answers(SERVICE).items()
    }
    assert judged(SERVICE, facts).outcome is Outcome.WORKS
    attached = {a: replace(at, listeners=()) for a, at in facts["n2"].pods.items()}
    broken = facts | {"n2": replace(facts["n2"], pods=attached)}
    assert judged(SERVICE, broken).outcome is Outcome.BROKEN
    relayed = {name: replace(found, rules=Rules(True, True, True)) for name, found in broken.items()}
    assert judged(SERVICE, relayed).outcome is Outcome.WORKS


def test_a_service_that_another_program_answers_is_named_with_it() -> None:
    title = "svc default/dns ClusterIP 10.96.0.10:80/TCP, answered on this node by netplane-dns"
    assert resolve("default/client", "svc/dns:http", WORLD).title == title
