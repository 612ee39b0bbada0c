"""Ready endpoints that give no answer: what the sockets of this node's own and a policy's word mean."""

import pytest

from netplane.debug.facts import Facts, Listener, Pod, Request
from netplane.debug.hops import State
from netplane.debug.silent import locals_of, of_listeners, of_policies, question
from tests.unit.debug.test_ailments import READY, service

NODE_ADDRESS = "192.168.77.11"


def node(name="n1", *conditions):
    addresses = [{"type": "InternalIP", "address": NODE_ADDRESS}]
    return {
        "metadata": {"name": name},
        "status": {"addresses": addresses, "conditions": list(conditions or [READY])},
    }


def piece(*endpoints, port=8080, protocol="TCP"):
    entries = [
        {
            "addresses": [address],
            "nodeName": at,
            "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": f"p-{address.rpartition('.')[2]}"},
        }
        for address, at, ready in endpoints
    ]
    metadata = {"namespace": "d", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}}
    ports = [{"name": "http", "port": port, "protocol": protocol}]
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": entries, "ports": ports}


HERE = ("10.244.1.2", "n1", True)


def said(listeners, *endpoints, port=8080, **others):
    """What is said of endpoints whose pods have these listeners, (address, port)."""
    here = locals_of([service()], [piece(*(endpoints or [HERE]), port=port, **others)], node())
    found = tuple(Listener(*one) for one in listeners)
    pods = {address: Pod(namespace=1, listeners=found) for address in question(here).pods}
    return list(of_listeners(here, Facts("n1", pods=pods, listeners=found)))


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.244.1.2", "::ffff:10.244.1.2"])
def test_an_endpoint_that_listens_is_well(address):
    (summary,) = said([(address, 8080)])
    assert summary.state is State.OK
    assert summary.text == "1 of 1 TCP endpoints on this node listen; each node looks at its own"


def test_who_takes_datagrams_at_the_port_is_no_listener():
    broken, _ = said([("0.0.0.0", 8080, "", "UDP")])
    assert broken.text == "pod p-2: nothing listens at 10.244.1.2:8080"
    assert not broken.hint


def test_nothing_listens_at_the_target_port():
    broken, summary = said([("0.0.0.0", 8080), ("127.0.0.1", 81)], port=9090)
    assert (broken.subject, broken.state) == ("service d/s:http", State.BROKEN)
    assert broken.text == "pod p-2: nothing listens at 10.244.1.2:9090"
    assert broken.hint == "Is targetPort right? It listens at 81, 8080"
    assert summary.text.startswith("0 of 1 ")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_program_that_listens_on_loopback_only(address):
    broken, _ = said([(address, 8080)])
    assert broken.text == f"pod p-2: it listens on {address}:8080 only, and not on 10.244.1.2"
    assert broken.hint == "Have the program listen on 0.0.0.0"


def test_a_pod_of_the_nodes_own_network_has_the_nodes_sockets():
    endpoint = (NODE_ADDRESS, "n1", True)
    here = locals_of([service()], [piece(endpoint)], node())
    assert question(here) == Request(ports=(8080,))
    (summary,) = said([("0.0.0.0", 8080)], endpoint)
    assert summary.state is State.OK
    broken, _ = said([("0.0.0.0", 22)], endpoint)
    assert (broken.text, broken.hint) == ("pod p-11: nothing listens at 192.168.77.11:8080", "")


def test_a_port_without_a_name_is_named_by_its_own_number():
    unnamed = service(ports=[{"port": 80, "targetPort": 9090}])
    slice_ = {**piece(HERE), "ports": [{"name": "", "port": 9090}]}
    (here,) = locals_of([unnamed], [slice_], node())
    assert (here.service, here.port) == ("d/s:80", 9090)


def test_what_is_elsewhere_not_ready_or_not_tcp_is_not_looked_at():
    (summary,) = said([], ("10.244.2.2", "n2", True), ("10.244.1.3", "n1", False))
    assert summary.text.startswith("0 of 0 ")
    (summary,) = said([], HERE, protocol="UDP")
    assert summary.text.startswith("0 of 0 ")


def test_several_endpoints_of_a_service_are_one_finding():
    broken, _ = said([], HERE, ("10.244.1.3", "n1", True))
    assert broken.text == "pod p-2: nothing listens at 10.244.1.2:8080, and 1 more here"


def test_a_pod_that_cannot_be_looked_into_is_no_sign_of_health():
    here = locals_of([service()], [piece(HERE)], node())
    unseen, summary = of_listeners(here, Facts("n1", pods={"10.244.1.2": Pod()}))
    assert unseen.state is State.UNSEEN
    assert "pod p-2 listens at 10.244.1.2:8080" in unseen.text
    assert summary.text.startswith("0 of 1 ")


WITHOUT = "n2, n3, where none of its pods is"
LOCAL = {"externalTrafficPolicy": "Local", "type": "NodePort"}


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        ({}, []),
        (
            LOCAL,
            [f"externalTrafficPolicy Local: clients from outside the cluster get no answer at {WITHOUT}"],
        ),
        (
            {"internalTrafficPolicy": "Local"},
            [f"internalTrafficPolicy Local: clients get no answer on {WITHOUT}"],
        ),
        ({**LOCAL, "type": "ClusterIP"}, []),
    ],
)
def test_where_policy_local_means_silence_is_noted(spec, texts):
    dead = node("n4", {"type": "Ready", "status": "Unknown"})
    nodes = [node("n1"), node("n2"), node("n3"), dead]
    found = list(of_policies([service(**spec)], [piece(HERE)], nodes))
    assert [one.text for one in found] == texts
    assert all((one.subject, one.state) == ("service d/s", State.OK) for one in found)


def test_policy_local_with_a_pod_everywhere_or_nowhere_is_no_note():
    assert not list(of_policies([service(**LOCAL)], [piece(HERE)], [node("n1")]))
    assert not list(of_policies([service(**LOCAL)], [piece()], [node("n1")]))
