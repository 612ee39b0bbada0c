"""What the API's objects say of a Service that does not answer, and of a node that is no good."""

from ipaddress import ip_network

import pytest

from netplane.debug.ailments import of_node, of_others, of_routes, of_services
from netplane.debug.facts import Route
from netplane.debug.hops import State

SCHEDULED = {"type": "PodScheduled", "status": "True"}


def service(**spec):
    ports = [{"name": "http", "port": 80, "targetPort": "web"}]
    return {
        "metadata": {"namespace": "d", "name": "s"},
        "spec": {"selector": {"app": "a"}, "ports": ports, **spec},
    }


def piece(*ready, ports=({"name": "http", "port": 8080},)):
    endpoints = [{"addresses": ["10.244.1.2"], "conditions": {"ready": one}} for one in ready]
    metadata = {"namespace": "d", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": list(ports)}


def pod(*conditions, app="a", namespace="d", port="web", **status):
    return {
        "metadata": {"namespace": namespace, "name": "p", "labels": {"app": app, "x": "y"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": port, "containerPort": 8080}]}]},
        "status": {"conditions": [SCHEDULED, *conditions], **status},
    }


READY = {"type": "Ready", "status": "True"}
HOMELESS = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}
CRASHES = {
    "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}]
}


@pytest.mark.parametrize(
    ("spec", "slices", "pods", "cause"),
    [
        ({}, [piece(False)], [pod(app="b")], "no pod of its namespace has the labels app=a"),
        ({}, [], [pod(namespace="e")], "no pod of its namespace has the labels app=a"),
        (
            {},
            [],
            [{**pod(), "status": {"conditions": [HOMELESS]}}],
            "pod p is on no node: 0/2 nodes are available",
        ),
        ({}, [], [pod(**CRASHES)], "pod p does not run: CrashLoopBackOff back-off"),
        ({}, [], [pod(phase="Running"), pod()], "its readiness probe has not succeeded, and 1 more"),
        ({}, [], [pod(phase="Pending")], "pod p is Pending"),
        ({}, [], [pod(READY, port="other")], "targetPort 'web' is the name of no port of its pods"),
        ({}, [], [pod(READY)], "its pods are ready, and no EndpointSlice says so"),
        ({}, [piece(True, ports=[{"name": "x", "port": 1}])], [pod(READY)], "no EndpointSlice says so"),
        ({"selector": None}, [], [], "it has no selector, and nobody has written endpoints for it"),
        ({}, [], None, "its pods may not be read with this kubeconfig"),
    ],
)
def test_a_service_that_leads_nowhere_says_why(spec, slices, pods, cause):
    broken, summary = of_services([service(**spec)], slices, pods)
    assert (broken.subject, broken.state) == ("service d/s:http", State.BROKEN)
    assert cause in broken.text
    assert summary.text == "0 have ready endpoints"


@pytest.mark.parametrize("ready", [(True,), (None,), (False, True)])
def test_a_service_with_a_ready_endpoint_is_well(ready):
    (summary,) = of_services([service()], [piece(*ready)], [])
    assert (summary.state, summary.text) == (State.OK, "1 have ready endpoints")


def test_what_is_another_programs_to_serve_is_passed_over():
    foreign = service()
    foreign["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "netplane-dns"}
    found = list(of_services([foreign, service(type="ExternalName")], [], []))
    assert [one.subject for one in found] == ["services"]


@pytest.mark.parametrize(
    ("conditions", "spec", "state", "text"),
    [
        ({"Ready": ("True", "")}, {"podCIDR": "10.244.1.0/24"}, State.OK, "Ready"),
        ({"Ready": ("True", "")}, {}, State.BROKEN, "it has no pod network"),
        ({"Ready": ("Unknown", "silent")}, {}, State.BROKEN, "not Ready: R: silent"),
        ({}, {}, State.BROKEN, "not Ready: it: has never said so"),
        (
            {"Ready": ("True", ""), "NetworkUnavailable": ("True", "full")},
            {"podCIDR": "10.244.1.0/24"},
            State.BROKEN,
            "it takes no further pods: full",
        ),
    ],
)
def test_a_node_says_what_it_lacks(conditions, spec, state, text):
    listed = [
        {"type": kind, "status": status, "reason": "R", "message": message}
        for kind, (status, message) in conditions.items()
    ]
    (found,) = of_node({"metadata": {"name": "n1"}, "spec": spec, "status": {"conditions": listed}})
    assert (found.subject, found.state) == ("node n1", state)
    assert text in found.text


def other(name, ready="True", cidr="10.244.2.0/24"):
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "192.168.77.12"}],
            "conditions": [
                {"type": "Ready", "status": ready, "reason": "NodeStatusUnknown", "message": "silent"}
            ],
        },
    }


def test_another_node_that_is_not_ready_is_named():
    broken, summary = of_others([other("n1", "Unknown"), other("n2", "Unknown"), other("n3")], "n1")
    assert (broken.subject, broken.state) == ("node n2", State.BROKEN)
    assert broken.text == "not Ready: NodeStatusUnknown: silent"
    assert (summary.state, summary.text) == (State.OK, "1 of 2 are Ready")


@pytest.mark.parametrize(
    ("route", "text"),
    [
        (Route(network="10.244.2.0/24", gateway="192.168.77.12", device="eth0"), ""),
        (
            Route(network="0.0.0.0/0", gateway="192.168.77.1", device="eth0"),
            "there is no route to its pods, 10.244.2.0/24: they leave by 0.0.0.0/0 eth0",
        ),
        (Route(error="no route"), "there is no route to its pods, 10.244.2.0/24: no route"),
        (
            Route(network="10.244.2.0/24", gateway="192.168.77.99"),
            "the route to its pods, 10.244.2.0/24, leads to 192.168.77.99, not to it",
        ),
    ],
)
def test_a_route_to_another_nodes_pods_that_is_missing_is_named(route, text):
    nodes = [other("n1", cidr="10.244.1.0/24"), other("n2"), other("n3", cidr="nonsense")]
    *broken, summary = of_routes(nodes, "n1", {ip_network("10.244.2.0/24"): route})
    assert [(one.subject, one.state, one.text) for one in broken] == (
        [("route to n2", State.BROKEN, text)] if text else []
    )
    assert summary.text == f"{0 if text else 1} lead to other nodes' pods"
