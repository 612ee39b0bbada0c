"""Random Services, the same packets, every mode: the same outcome. No row was written for these by hand."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netplane.linux import conntrack
from proxy import modes
from proxy.model import Frontend, Protocol, Snapshot
from proxy.modes import Mode
from tests import flows
from tests.bpf_place import bpf_place
from tests.flows import UDP, Failed, Where, endpoint_slice, in_version, service
from tests.netns.proxy import conftest
from tests.netns.proxy.conftest import snapshot
from tests.netns.proxy.flows import HERE, ask, visit
from tests.netns.proxy.test_mode_switch import Switching

pytestmark = pytest.mark.netns
MODES = (Mode.USERSPACE, Mode.NFTABLES, Mode.EBPF)
TRIES = 6
TOGETHER = 32  # calls at a time: most of what they do is to listen to silence
SOURCES = tuple(Where)
CONDITIONS = ({"ready": True}, {"ready": False}, flows.TERMINATING)
PODS = ("web1", "web2", "remote", "remote2")
UNKNOWN_PORT = 81
# The node's own datagram that its kernel refuses or drops on the way out: sendmsg(2) says EPERM in either case.
NOT_SENT = "not sent"


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Any], list[Any], int]:
    """A few dual-stack Services of all kinds, each with its slices; and by which IP version they are called."""
    services, slices = [], []
    for number in range(draw(st.integers(1, 3))):
        name, protocol = f"s{number}", draw(st.sampled_from(["TCP", UDP]))
        spec: dict[str, Any] = {
            "internalTrafficPolicy": draw(st.sampled_from(["Cluster", "Local"])),
            "externalTrafficPolicy": draw(st.sampled_from(["Cluster", "Local"])),
            "sessionAffinity": draw(st.sampled_from(["None", "ClientIP"])),
            "externalIPs": draw(st.sampled_from([[], [f"203.0.113.{number + 1}"]])),
        }
        made = service(name, f"10.96.4.{number + 1}", 80, 30180 + number, protocol, **spec)
        if ranges := draw(st.sampled_from([None, ["192.168.77.0/28"], ["10.244.0.0/16", "172.16.0.0/12"]])):
            made["spec"] |= {"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}
            made["status"] = {"loadBalancer": {"ingress": [{"ip": f"198.51.100.{number + 1}"}]}}
        services.append(made)
        for index, conditions in enumerate(CONDITIONS):
            pods = draw(st.lists(st.sampled_from(PODS), unique=True, max_size=2))
            part = endpoint_slice(name, *pods, conditions=conditions, protocol=protocol)
            part["metadata"]["name"] = f"{name}-{index}"
            slices += [part, flows.slice_in_six(part)]
    return [flows.dual_stack(made) for made in services], slices, draw(st.sampled_from(flows.VERSIONS))


@pytest.fixture(scope="module")
def node(world) -> Iterator[Switching]:
    with pytest.MonkeyPatch.context() as patched, bpf_place() as place:
        patched.setattr(world, "makers", dict.fromkeys(HERE, place.open))
        patched.setattr(modes, "SETTLE", 0.02)
        patched.setattr(modes, "LEAVING_EVERY", 0.02)
        made = Switching(world, MODES[0], place.paths)
        yield made
        made.stop()


def places(services: list[Any], version: int) -> Iterator[tuple[str, int, str]]:
    """Where clients call: all addresses of every Service, and a port that it does not have."""
    for made in services:
        spec, protocol = made["spec"], made["spec"]["ports"][0]["protocol"]
        yield in_version(spec["clusterIP"], version), 80, protocol
        yield in_version(spec["clusterIP"], version), UNKNOWN_PORT, protocol
        yield in_version(flows.N1, version), spec["ports"][0]["nodePort"], protocol
        ingress = (made.get("status") or {}).get("loadBalancer", {}).get("ingress", ())
        for address in (*spec["externalIPs"], *(entry["ip"] for entry in ingress)):
            if ip_address(address).version == version:
                yield address, 80, protocol


def outcome(world, source: Where, address: str, port: int, protocol: str) -> Any:
    """Refused, dropped, or who may answer and whom each of them sees. Silence is believed when it lasts."""
    found = look(world, source, address, port, protocol, 0.3)
    return look(world, source, address, port, protocol, 2) if found is Failed.DROPPED else found


def look(world, source: Where, address: str, port: int, protocol: str, timeout: float) -> Any:
    seen: dict[str, str] = {}
    for _ in range(TRIES):
        try:
            if protocol == UDP:
                name, saw = ask(world, source, address, port, timeout=timeout)
            else:
                world.connect(source, address, port, timeout=timeout).close()
                name, saw = visit(world, source, address, port)
        except PermissionError:
            return NOT_SENT
        except (ConnectionRefusedError, ConnectionResetError):
            return Failed.REFUSED
        except TimeoutError:
            return Failed.DROPPED
        assert seen.setdefault(name, saw) == saw
    return seen


def reaches(source: Where, address: str) -> bool:
    """Whether packets of this client come to n1 at all: a Service network is led nowhere from elsewhere."""
    return source in HERE or ip_address(address) not in ip_network(
        in_version("10.96.0.0/12", ip_address(address).version)
    )


@settings(
    max_examples=settings().max_examples // 12,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes seconds: none is shrunk
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn=worlds())
def test_every_mode_has_the_same_outcome(
    world, node: Switching, drawn: tuple[list[Any], list[Any], int]
) -> None:
    services, slices, version = drawn
    want = snapshot(services, slices, conftest.node(*flows.VERSIONS))
    calls = [c for c in itertools.product(SOURCES, places(services, version)) if reaches(c[0], c[1][0])]
    found: dict[Any, dict[Mode, Any]] = {call: {} for call in calls}
    for mode in MODES:
        node.switch(mode)
        node.call(node.datapath.sync(want))
        world.run("n1", conntrack.forget_where, lambda _flow: True)
        node.left()
        with ThreadPoolExecutor(TOGETHER) as pool:
            outcomes = pool.map(lambda call: outcome(world, call[0], *call[1]), calls)
        for call, came in zip(calls, outcomes, strict=True):
            found[call][mode] = came
    for call, outcomes in found.items():
        first = outcomes[MODES[0]]
        for mode in MODES[1:]:
            if isinstance(first, Failed) or not isinstance(outcomes[mode], dict):
                assert outcomes[mode] in (first, NOT_SENT), (call, outcomes)
                assert isinstance(first, Failed), (call, outcomes)
                continue
            assert eligible(want, call) >= first.keys() | outcomes[mode].keys(), (call, outcomes)
            # A pod that reaches itself is seen as the node, or as itself where its socket was told (tests/flows.py).
            for name in (first.keys() & outcomes[mode].keys()) - {str(call[0])}:
                assert first[name] == outcomes[mode][name], (call, name, outcomes)


def eligible(want: Snapshot, call: tuple[Where, tuple[str, int, str]]) -> set[str]:
    """The pods that may answer this client."""
    source, (address, port, protocol) = call
    where = {flows.N1: "0.0.0.0", in_version(flows.N1, 6): "::"}.get(address, address)
    target = want.targets[Frontend(ip_address(where), port, Protocol(protocol))]
    pool = target.outside if source in (Where.OUTSIDE, Where.N2) else target.inside
    names = {address: pod for pod in flows.PODS for address in flows.addresses_of(pod)}
    return {names[str(endpoint.address)] for endpoint in pool.endpoints}
