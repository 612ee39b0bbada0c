"""Traffic by endpoint: each has what its clients had with it, and all of them together have what the Service had."""

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import Endpoint, Frontend, NodeFacts, Pool, Protocol, ServicePort, Target
from proxy.userspace.traffic import Traffic, TrafficKey
from proxy.userspace.worker import Worker
from proxy.userspace.workers.crew import Crew

HOST = ip_address("127.0.0.1")
WEB = ServicePort("default", "web", "80")
NOBODY = ip_network("203.0.113.0/24")


def target(ports: Iterable[int], *, closed: bool = False) -> Target:
    pool = Pool(tuple(Endpoint(HOST, port) for port in ports))
    return Target(WEB, pool, pool, allowed=(NOBODY,) if closed else ())


def listening() -> tuple[Frontend, socket.socket]:
    sock = socket.create_server((str(HOST), 0), backlog=64)
    sock.setblocking(False)
    return Frontend(HOST, sock.getsockname()[1], Protocol.TCP), sock


@asynccontextmanager
async def endpoints(alive: int, dead: int) -> AsyncIterator[tuple[list[int], list[int]]]:
    """Ports of servers that say their port and then echo, and ports where nobody listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d\n" % writer.get_extra_info("sockname")[1])
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    servers = [await asyncio.start_server(serve, str(HOST), 0) for _ in range(alive)]
    closed = [socket.socket() for _ in range(dead)]
    for sock in closed:
        sock.bind((str(HOST), 0))
    try:
        yield (
            [server.sockets[0].getsockname()[1] for server in servers],
            [sock.getsockname()[1] for sock in closed],
        )
    finally:
        for server in servers:
            server.close()
        for sock in closed:
            sock.close()


@dataclass
class Client:
    """A connection that is open. ``port``: its endpoint's."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    port: int

    async def exchange(self, size: int) -> None:
        self.writer.write(b"x" * size)
        await self.reader.readexactly(size)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def connect(frontend: Frontend) -> Client | None:
    """None where the client is turned away."""
    try:
        reader, writer = await asyncio.open_connection(str(frontend.address), frontend.port)
    except ConnectionResetError:
        return None
    try:
        return Client(reader, writer, int(await reader.readline()))
    except ConnectionResetError:
        writer.close()
        return None


async def until(check: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.005)


def run(story: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(story, 30))


def at(port: int, protocol: Protocol = Protocol.TCP) -> TrafficKey:
    return TrafficKey(WEB, protocol, f"{HOST}:{port}")


# -- one worker ------------------------------------------------------------------------------------------

# How many bytes a new client sends; which of the open ones goes; which endpoints (two of them dead) there are.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(0, 40_000)),
        st.tuples(st.just("come"), st.integers(1, 10)),
        st.tuples(st.just("go"), st.integers(0, 20)),
        st.tuples(st.just("serve"), st.sets(st.integers(0, 3))),
        st.tuples(st.just("shut out"), st.booleans()),
    ),
    max_size=25,
)


@asynccontextmanager
async def one_worker(*, by_endpoint: bool) -> AsyncIterator[Worker]:
    made = Worker(by_endpoint=by_endpoint)
    try:
        yield made
    finally:
        await made.close(keep=False)


@dataclass
class Truth:
    """What the clients know."""

    taken: int = 0
    received: Counter[int] = field(default_factory=Counter)  # by the endpoint's port
    sent: Counter[int] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    open: list[Client] = field(default_factory=list)

    async def come(self, frontend: Frontend, size: int, served: list[int], *, shut_out: bool) -> None:
        client = await connect(frontend)
        if served and not shut_out:
            self.taken += 1
        if client is None:
            answers = "source_range" if shut_out else "unreachable"
            self.rejected[answers if served else "no_endpoints"] += 1
            return
        await client.exchange(size)
        self.open.append(client)
        self.received[client.port] += size
        self.sent[client.port] += size + len(b"%d\n" % client.port)


def summed(counted: Mapping[TrafficKey, Traffic]) -> Traffic:
    total = Traffic()
    for traffic in counted.values():
        total.add(traffic)
    return total


@settings(max_examples=25, deadline=None)
@given(STEPS)
@pytest.mark.parametrize("by_endpoint", [True, False])
def test_each_endpoint_has_its_own_and_the_sum_is_what_the_service_had(
    by_endpoint: bool, steps: list[tuple[str, Any]]
) -> None:
    async def story() -> None:
        truth = Truth()
        frontend, sock = listening()
        async with one_worker(by_endpoint=by_endpoint) as worker, endpoints(alive=2, dead=2) as (alive, dead):
            served, shut_out = [*alive, *dead], False
            worker.point(frontend, target(served), sock)
            for step, value in steps:
                if step == "come":
                    await truth.come(frontend, value, served, shut_out=shut_out)
                elif step == "go" and truth.open:
                    await truth.open.pop(value % len(truth.open)).close()
                elif step == "serve":
                    served = [[*alive, *dead][index] for index in sorted(value)]
                elif step == "shut out":
                    shut_out = value
                worker.point(frontend, target(served, closed=shut_out), None)
            await until(lambda: worker.active == len(truth.open))
            holds_true(worker.traffic, truth, by_endpoint=by_endpoint, alive=alive, dead=dead)
            for client in truth.open:
                await client.close()
            await until(lambda: worker.active == 0)
            assert {traffic.active for traffic in worker.traffic.values()} == {0}
        sock.close()

    run(story())


def holds_true(
    counted: Mapping[TrafficKey, Traffic],
    truth: Truth,
    *,
    by_endpoint: bool,
    alive: list[int],
    dead: list[int],
) -> None:
    total = summed(counted)
    assert total.connections == truth.taken
    assert total.active == len(truth.open)
    assert (total.received, total.sent) == (truth.received.total(), truth.sent.total())
    assert total.rejected == truth.rejected
    if not by_endpoint:
        assert list(counted) == [TrafficKey(WEB, Protocol.TCP)]
        return
    for port in alive:
        own = counted.get(at(port), Traffic())
        assert own.active == sum(client.port == port for client in truth.open)
        assert (own.received, own.sent) == (truth.received[port], truth.sent[port])
        assert (own.retries, own.rejected) == (0, {})
    for port in dead:
        own = counted.get(at(port), Traffic())
        assert (own.active, own.received, own.sent, sum(own.buckets)) == (0, 0, 0, 0)
        assert own.retries + own.rejected.get("unreachable", 0) >= own.connections, "each has failed"
    nowhere = counted[TrafficKey(WEB, Protocol.TCP)]
    assert (nowhere.connections, nowhere.received, nowhere.retries) == (0, 0, 0)
    assert set(nowhere.rejected) <= {"source_range", "no_endpoints"}


def test_a_datagram_that_an_endpoint_refuses_counts_there_and_what_follows_at_the_next() -> None:
    async def story() -> None:
        (door, refuses, serves, *clients), ports = datagram_sockets(5)
        refuses.close()
        door.setblocking(False)
        async with one_worker(by_endpoint=True) as worker:
            worker.point(Frontend(HOST, ports[0], Protocol.UDP), target(ports[1:3]), door)
            for client in clients:  # it is each endpoint's turn once
                client.connect(door.getsockname())
                client.send(b"who?")
                data, whom = await asyncio.to_thread(serves.recvfrom, 100)
                assert data == b"who?"
                serves.sendto(b"me", whom)
                assert await asyncio.to_thread(client.recv, 100) == b"me"
            first, second = (worker.traffic[at(port, Protocol.UDP)] for port in ports[1:3])
            assert (first.connections, first.retries, first.active, first.sent) == (1, 1, 0, 0)
            assert (second.connections, second.retries, second.active, second.sent) == (1, 0, 2, 4)
            assert worker.active == 2
        assert (first.active, second.active) == (0, 0)
        for sock in (door, serves, *clients):
            sock.close()

    run(story())


def datagram_sockets(count: int) -> tuple[list[socket.socket], list[int]]:
    """Bound ones, with a deadline on everything; and their ports."""
    socks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(count)]
    for sock in socks:
        sock.bind((str(HOST), 0))
        sock.settimeout(5)
    return socks, [sock.getsockname()[1] for sock in socks]


# -- several workers -------------------------------------------------------------------------------------


@asynccontextmanager
async def crew(directory: Path) -> AsyncIterator[tuple[Crew, Frontend, socket.socket]]:
    """Two worker processes, whose counters end a second after their endpoint has left."""
    made = Crew(directory, workers=2, deadline=5.0, drain=0.0, by_endpoint=True, linger=1.0)
    frontend, sock = listening()
    made.set_node(NodeFacts(""))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.run())
        try:
            yield made, frontend, sock
        finally:
            await made.close(keep=False)
            running.cancel()
    sock.close()


async def looked(made: Crew) -> Mapping[TrafficKey, Traffic]:
    await made.refresh()
    return made.traffic


def test_rollouts_leave_no_counters_behind_but_those_of_open_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a worker is killed, which takes its counters with it and leaves its flows to the next one."""

    async def story() -> None:
        async with crew(tmp_path) as (made, frontend, sock), endpoints(alive=5, dead=0) as (ports, _):
            forgotten: set[TrafficKey] = set()
            forget = made.forget
            monkeypatch.setattr(made, "forget", lambda keys: (forgotten.update(keys), forget(keys)))
            made.point(frontend, target([1]), sock)  # nobody comes while it is there
            made.point(frontend, target(ports[:1]), sock)
            stays = await connect(frontend)
            assert stays is not None
            for port in ports:
                made.point(frontend, target([port]), sock)
                await made.settled()
                for _ in range(4):
                    client = await connect(frontend)
                    assert client is not None
                    assert client.port == port
                    await client.close()
            counted = await looked(made)
            assert {counted[at(port)].connections for port in ports[1:]} == {4}, "at hand for a while"
            for remote in made._remotes:
                os.kill(remote._pid, signal.SIGKILL)
            await stays.exchange(100)
            first, last = at(ports[0]), at(ports[-1])
            while set(counted := await looked(made)) != {TrafficKey(WEB, Protocol.TCP), first, last}:
                await asyncio.sleep(0.05)
            assert forgotten == {at(port) for port in (1, *ports[1:-1])}
            assert counted[first].active == 1
            assert counted[first].connections >= 5, "what a killed worker had counted goes on to count"
            await stays.exchange(100)
            assert (await looked(made))[first].received == counted[first].received + 100
            await stays.close()
            while first in await looked(made):
                await asyncio.sleep(0.05)

    run(story())
