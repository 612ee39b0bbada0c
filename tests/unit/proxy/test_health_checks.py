"""Where healthCheckNodePorts are answered, and that nothing which a Service does meanwhile ends the proxy."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import aiohttp
import pytest

from netplane.errors import KernelError
from proxy.health_checks import HealthChecks, hosts
from proxy.model import HealthCheck, IPAddress, NodeFacts, Snapshot

FOUR, BOTH = ("192.168.77.11",), ("192.168.77.11", "fd00:77::11")
HERE = ("127.0.0.1", "192.168.77.11", "10.9.9.9", "::1", "fd00:77::11", "fe80::1")


def node(addresses: tuple[str, ...], *networks: str) -> NodeFacts:
    return NodeFacts(
        "n1", tuple(map(ip_address, addresses)), node_port_networks=tuple(map(ip_network, networks))
    )


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (node(FOUR), ("0.0.0.0",)),
        (node(BOTH), ("0.0.0.0", "::")),
        (node(BOTH[1:]), ("0.0.0.0", "::")),
        (node(BOTH, "192.168.0.0/16", "::/0"), ("192.168.77.11", "::")),
        (node(BOTH, "10.0.0.0/8", "127.0.0.0/8", "fd00::/8"), ("127.0.0.1", "10.9.9.9", "fd00:77::11")),
        (node(BOTH, "10.8.0.0/16", "fe80::/10"), ()),
        (node(FOUR, "0.0.0.0/0", "10.0.0.0/8"), ("0.0.0.0",)),
    ],
)
def test_checks_are_answered_where_node_ports_are(of: NodeFacts, expected: tuple[str, ...]) -> None:
    assert hosts(of, [ip_address(text) for text in HERE]) == expected


@asynccontextmanager
async def running(here: Callable[[], Sequence[IPAddress]] = tuple) -> AsyncIterator[HealthChecks]:
    """What the checks raise ends the test, as it would end the proxy."""
    checks = HealthChecks(lambda: True, here)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(checks.run())
        yield checks
        task.cancel()


def asked(of: NodeFacts, *ports: int) -> Snapshot:
    return Snapshot(of, checks={port: HealthCheck("default", "web", 1) for port in ports})


async def answers(host: str, port: int) -> bool:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        try:
            async with session.get(f"http://{host}:{port}/") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


async def until(host: str, port: int, expected: bool) -> None:
    async with asyncio.timeout(5):
        while await answers(host, port) is not expected:
            await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def test_both_ip_versions_and_then_another_choice_of_addresses() -> None:
    port = free_port()
    async with running(lambda: [ip_address("127.0.0.1"), ip_address("127.0.0.2")]) as checks:
        checks.want(asked(node(BOTH), port))
        await until("127.0.0.1", port, True)
        await until("[::1]", port, True)
        checks.want(asked(node(BOTH, "127.0.0.2/32"), port))
        await until("127.0.0.1", port, False)
        await until("127.0.0.2", port, True)
        checks.want(asked(node(BOTH)))
        await until("127.0.0.2", port, False)


async def test_a_service_that_goes_while_its_port_is_found_taken(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with socket.create_server(("0.0.0.0", 0)) as taken:
        async with running() as checks:
            checks.want(asked(node(FOUR), int(taken.getsockname()[1])))
            await asyncio.sleep(0)  # the attempt is under way
            checks.want(asked(node(FOUR), port))
            await until("127.0.0.1", port, True)
    assert "health check of web: cannot listen on 0.0.0.0" in caplog.text


async def test_a_kernel_that_does_not_tell_its_addresses_leaves_checks_open() -> None:
    def silent() -> Sequence[IPAddress]:
        raise KernelError("cannot look at this node's addresses: no")

    port = free_port()
    async with running(silent) as checks:
        checks.want(asked(node(FOUR, "192.168.0.0/16"), port))
        await until("127.0.0.1", port, True)
