"""kill -9 of workers, under load: whoever is connected stays connected, and every byte is checked."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests import flows
from tests.netns.proxy.daemon import Supervisor, ended, eventually, load, visit, workers

pytestmark = pytest.mark.netns
PORT = 9200


@pytest.fixture
def streamed(world, api, supervisor) -> Iterator[Supervisor]:
    """A Service at 10.96.0.90 whose endpoint is the load's server."""
    with load(world, "web1", "serve", str(PORT)) as server:
        api.put("endpointslices", flows.endpoint_slice("load", "web1", port=PORT))
        api.put("services", flows.service("load", "10.96.0.90"))
        eventually(lambda: world.connect("client", "10.96.0.90", 80).close() is None)
        yield supervisor
        server.kill()
        said, _ = server.communicate()
        assert said == "", "the server got a stream that was not what the client sent"


def kill_a_worker(world: Any, supervisor: Supervisor) -> None:
    """One of them, and wait until another one is at work in its place."""
    victim = eventually(lambda: workers(supervisor))[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in workers(supervisor) and visit(world))


def test_established_flows_survive_kill_9_of_their_worker(world, streamed) -> None:
    """One thread is killed, so one flow a kill at most can be between a read and its write: that one ends by RST."""
    bulk, idle, kills = 60, 200, 3
    with (
        load(world, "client", "stream", "10.96.0.90", "80", str(bulk), str(idle)) as streams,
        load(world, "client", "visit", "10.96.0.90", "80") as visits,
    ):
        for _ in range(kills):
            kill_a_worker(world, streamed)
        new, kept = ended(visits), ended(streams)
    print(new, kept)
    assert new["failures"] == []
    assert new["slowest"] < 1.0
    assert kept["corrupt"] == 0
    assert kept["idle"] == idle
    assert kept["kept"] >= bulk - kills
    eventually(lambda: streamed.ask("status")["flows"] == 0)
