"""Several worker processes behave as one proxy, whichever of its processes is lost."""

import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from proxy.userspace.streams.preface import LENGTH
from tests import flows
from tests.netns.proxy.daemon import (
    Supervisor,
    children,
    comm,
    eventually,
    family,
    first_word,
    inhabitants,
    named,
    visit,
    workers,
)

pytestmark = pytest.mark.netns
HEADER = LENGTH[4]
SAMPLE = 'netplane_service_connections_total{namespace="default",port="80",protocol="TCP",service="web"}'


@pytest.fixture
def several(world, api, start, tmp_path) -> Iterator[Supervisor]:
    """Two workers to begin with, and few descriptors each, so that more are soon needed."""
    start()  # so that every trace in n1 is removed at the end
    made = Supervisor(world, tmp_path, settings="workers: 2", descriptors=400)
    made.start()
    eventually(lambda: visit(world) in ("web1", "web2"))
    eventually(lambda: len(keepers(made)) == 2)
    yield made
    made.close()


def serve(world: Any, api: Any, name: str, address: str, annotation: str, value: str) -> None:
    """A Service of one endpoint with an annotation of ours, once it is served."""
    made = flows.service(name, address)
    made["metadata"]["annotations"] = {f"netplane.io/{annotation}": value}
    api.put("endpointslices", flows.endpoint_slice(name, "web1"))
    api.put("services", made)
    eventually(lambda: visit(world, address))


def keepers(supervisor: Supervisor) -> list[int]:
    return named(supervisor, "keeper")


def open_many(world: Any, stack: ExitStack, count: int) -> list[socket.socket]:
    socks = [stack.enter_context(world.connect("client", "10.96.0.10", 80)) for _ in range(count)]
    for sock in socks:
        assert first_line(sock) in (b"web1", b"web2")
    return socks


def first_line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += sock.recv(1)
    return line.split()[0]


def all_answer(socks: list[socket.socket]) -> bool:
    for sock in socks:
        sock.sendall(b"still here?")
    return all(sock.recv(11) == b"still here?" for sock in socks)


def connections(world: Any) -> float:
    command = ["curl", "-s", f"http://{flows.NODES['n1']}:10249/metrics"]

    def fetch() -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return float(world.run("outside", fetch).partition(SAMPLE)[2].split()[0])


def test_more_connections_than_one_process_may_have_descriptors_for(world, several) -> None:
    """400 descriptors are room for less than 100 connections: workers are added, and nobody is turned away."""
    with ExitStack() as stack:
        socks = open_many(world, stack, 300)
        status = several.ask("status")
        assert status["flows"] == 300
        assert status["workers"] > 3
        assert all_answer(socks)
        assert len(several.ask("flows")) == 300


def test_the_sum_of_the_counters_never_falls(world, several) -> None:
    for _ in range(20):
        visit(world)
    eventually(lambda: connections(world) >= 20)  # the page is there once the node's addresses are known
    before = connections(world)
    for keeper in keepers(several):
        (worker,) = children(keeper)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda keeper=keeper, worker=worker: children(keeper) not in ([], [worker]))
    eventually(lambda: visit(world))
    assert connections(world) >= before


def test_a_client_with_affinity_stays_with_its_endpoint(world, api, several) -> None:
    made = flows.service("sticky", "10.96.0.70")
    made["spec"] |= {"sessionAffinity": "ClientIP"}
    api.put("endpointslices", flows.endpoint_slice("sticky", "web1", "web2"))
    api.put("services", made)
    eventually(lambda: visit(world, "10.96.0.70"))
    assert len(Counter(visit(world, "10.96.0.70") for _ in range(30))) == 1


@pytest.mark.parametrize("lost", ["worker", "proxy"])
def test_a_client_with_an_open_connection_stays_with_its_endpoint(world, api, several, lost: str) -> None:
    """Whoever goes on with the connection knows where its client belongs."""
    made = flows.service("sticky", "10.96.0.72")
    made["spec"] |= {"sessionAffinity": "ClientIP"}
    api.put("endpointslices", flows.endpoint_slice("sticky", "web2"))
    api.put("services", made)
    eventually(lambda: visit(world, "10.96.0.72"))
    with world.connect("client", "10.96.0.72", 80) as sock:
        assert first_line(sock) == b"web2"
        # By its turn alone a client would be given the first of them.
        api.put("endpointslices", flows.endpoint_slice("sticky", "web1", "web2"))
        eventually(
            lambda: visit(world, "10.96.0.72", 80) == "web2" and "web1" in endpoints(several, "10.96.0.72")
        )
        if lost == "worker":
            for worker in workers(several):
                os.kill(worker, signal.SIGKILL)
            eventually(lambda: all_answer([sock]))
        else:
            several.end(signal.SIGTERM)
            several.start()
            eventually(lambda: several.ask("status")["flows"] == 1)
        assert {visit(world, "10.96.0.72") for _ in range(4)} == {"web2"}


def endpoints(supervisor: Supervisor, address: str) -> set[str]:
    """The pods that a frontend has as endpoints."""
    names = {address: name for name, address in flows.ADDRESSES.items()}
    found = next(one for one in supervisor.ask("targets") if one["frontend"]["address"] == address)
    return {names[endpoint["address"]] for endpoint in found["inside"]["endpoints"]}


@pytest.mark.parametrize("lost", ["worker", "proxy"])
def test_a_udp_client_is_answered_again_after_a_loss(world, api, several, lost: str) -> None:
    """Its flow begins anew, perhaps at another endpoint: the client notices no more than a datagram lost."""
    api.put("endpointslices", flows.endpoint_slice("names", "web1", "web2", protocol="UDP"))
    api.put("services", flows.service("names", "10.96.0.73", protocol="UDP"))

    def answered(sock: socket.socket) -> bool:
        sock.send(b"who?")
        return sock.recv(100).split()[0] in (b"web1", b"web2")

    with world.open("client", socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.connect(("10.96.0.73", 80))
        eventually(lambda: answered(sock))
        if lost == "worker":
            for worker in workers(several):
                os.kill(worker, signal.SIGKILL)
        else:
            several.end(signal.SIGTERM)
            several.start()
        eventually(lambda: answered(sock))
        assert all(answered(sock) for _ in range(5))


def test_a_lost_keeper_costs_no_connection(world, several) -> None:
    with ExitStack() as stack:
        socks = open_many(world, stack, 60)
        victim = keepers(several)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in keepers(several) and several.ask("status")["flows"] == 60)
        assert all_answer(socks)
        assert visit(world)


@pytest.mark.parametrize("newest", ["zygote", "keeper", "worker"])
def test_a_proxy_stopped_while_it_starts_leaves_nobody_behind(
    world, api, start, tmp_path, newest: str
) -> None:
    """Workers that it has not heard of yet, or only asked for, are told as well: none waits for a next proxy."""
    start()  # so that every trace in n1 is removed at the end
    with closing(Supervisor(world, tmp_path, settings="workers: 4")) as made:
        made.start()
        assert made.process is not None
        pid = made.process.pid
        eventually(lambda: f"netplane-{newest}" in map(comm, family(pid)))
        made.end(signal.SIGTERM)
        eventually(lambda: inhabitants(world.netns["n1"]) == [])
        assert "Traceback" not in made.log.read_text()


def test_a_killed_proxy_costs_no_connection(world, several) -> None:
    """Its workers serve on, new clients too, and give all to the workers of the next proxy."""
    with ExitStack() as stack:
        socks = open_many(world, stack, 100)
        several.end(signal.SIGKILL)
        assert all_answer(socks)
        socks += open_many(world, stack, 10)
        several.start()
        eventually(lambda: several.ask("status")["flows"] == 110)
        assert all_answer(socks)
        assert visit(world)
    eventually(lambda: several.ask("status")["flows"] == 0)
    assert list((several.root / "run/netplane").glob("proxy-flows-*")) == []


def test_a_worker_that_holds_for_the_next_proxy_may_be_killed_too(world, several) -> None:
    held = keepers(several)
    with ExitStack() as stack:
        socks = open_many(world, stack, 60)
        several.end(signal.SIGKILL)
        for keeper in held:
            (worker,) = children(keeper)
            os.kill(worker, signal.SIGKILL)
        assert all_answer(socks)
        several.start()
        eventually(lambda: several.ask("status")["flows"] == 60)
        assert all_answer(socks)


@pytest.mark.parametrize("lost", ["worker", "proxy"])
def test_an_age_is_kept_to_by_whoever_goes_on_with_the_connection(world, api, several, lost: str) -> None:
    serve(world, api, "aged", "10.96.0.71", "max-connection-age", "2")
    with world.connect("client", "10.96.0.71", 80) as sock:
        assert first_line(sock) == b"web1"
        if lost == "worker":
            for worker in workers(several):
                os.kill(worker, signal.SIGKILL)
        else:
            several.end(signal.SIGKILL)
            several.start()
        sock.settimeout(10)
        assert sock.recv(1) == b"", "ended like an idle connection, not reset, and not for ever"


@pytest.mark.parametrize("lost", ["worker", "proxy"])
def test_an_endpoint_that_had_left_before_is_drained_by_whoever_goes_on(
    world, api, several, lost: str
) -> None:
    """The worker before had counted the time; the next one counts anew, and not for ever."""
    serve(world, api, "drained", "10.96.0.74", "drain", "2")
    with world.connect("client", "10.96.0.74", 80) as sock:
        assert first_line(sock) == b"web1"
        api.put("endpointslices", flows.endpoint_slice("drained", "web2"))
        eventually(lambda: visit(world, "10.96.0.74") == "web2")
        if lost == "worker":
            for worker in workers(several):
                os.kill(worker, signal.SIGKILL)
        else:
            several.end(signal.SIGTERM)
            several.start()
        eventually(lambda: visit(world, "10.96.0.74") == "web2")
        sock.settimeout(10)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_flow_that_began_with_our_header_outlives_its_workers(world, api, several) -> None:
    """PROXY protocol: also a second time, by a worker that has it from another one's hand."""
    serve(world, api, "told", "10.96.0.75", "proxy-protocol", "v2")
    with world.connect("client", "10.96.0.75", 80) as sock:
        assert first_line(sock) == b"web1"
        header = read(sock, HEADER)  # the endpoint echoes what it is given
        assert header.startswith(b"\r\n\r\n")
        for lost in ("worker", "proxy", "worker"):
            if lost == "worker":
                for worker in eventually(lambda: workers(several)):
                    os.kill(worker, signal.SIGKILL)
            else:
                several.end(signal.SIGTERM)
                several.start()
            eventually(lambda: several.ask("status")["flows"] == 1)
            assert all_answer([sock])


def read(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += sock.recv(count - len(found))
    return found


def test_a_keeper_and_its_worker_lost_at_once_are_replaced(world, several) -> None:
    """Their connections end: nobody is left who has them. New ones are served."""
    victim = keepers(several)[0]
    for pid in (victim, *children(victim)):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: victim not in keepers(several) and len(keepers(several)) == 2)
    for _ in range(10):
        assert visit(world) in ("web1", "web2")


def test_a_lost_zygote_costs_nothing_and_the_next_keeper_comes_from_another(world, several) -> None:
    (zygote,) = named(several, "zygote")
    with ExitStack() as stack:
        socks = open_many(world, stack, 60)
        os.kill(zygote, signal.SIGKILL)
        assert all_answer(socks)
        victim = keepers(several)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in keepers(several) and several.ask("status")["flows"] == 60)
        assert named(several, "zygote") != [zygote]
        assert all_answer(socks)


def test_the_start_up_message_says_what_fits(world, several) -> None:
    said = eventually(lambda: [line for line in several.log.read_text().splitlines() if "room for" in line])
    found = re.search(
        r"(\d+) frontends of 144 that the descriptor limit of 400 allows; "
        r"room for (\d+) connections in 2 workers of at most 16",
        said[0],
    )
    assert found, said
    assert int(found[1]) == 6, "of the Services in ``api``"
    assert 100 < int(found[2]) <= 144, "two descriptors each, in either worker"


def test_clients_wait_at_a_killed_workers_listener_and_are_served(world, several) -> None:
    """All workers are stopped, so the client surely waits in the kernel's queue when they are killed."""
    victims = [worker for keeper in keepers(several) for worker in children(keeper)]
    for worker in victims:
        os.kill(worker, signal.SIGSTOP)
    with world.connect("client", "10.96.0.10", 80) as waiting:
        for worker in victims:
            os.kill(worker, signal.SIGKILL)
        assert first_word(waiting) in ("web1", "web2")
