"""Back-off, and one container over its attempts."""

import pytest

from netplane.node.backoff import Restarts
from netplane.node.container_slot import ContainerSlot, Step
from netplane.node.probes import Purpose, Verdict, probes_of
from netplane.node.runtimes import ContainerState
from netplane.node.status import Memory

S = 10**9


def test_at_once_then_doubling_to_the_limit():
    history, delays = Restarts(), []
    for _ in range(8):
        history = history.after(100, 101)
        delays.append(history.due - 101)
        history = history.restarted()
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_long_run_resets():
    history = Restarts(delay=300.0).after(0, 600)
    assert history.due == 600


def ended(attempt, code, started=0, finished=1):
    return ContainerState("c", attempt, started * S, finished * S, code)


def running(attempt):
    return ContainerState("c", attempt, 0)


def slot(**probes):
    spec = {"name": "c", **probes}
    return ContainerSlot(spec, Restarts(), probes_of(spec))


READY = {"readinessProbe": {"tcpSocket": {"port": 1}}}


@pytest.mark.parametrize(
    ("policy", "code", "step"),
    [
        ("Always", 0, Step.START),
        ("Always", 1, Step.START),
        ("OnFailure", 0, Step.LEAVE),
        ("OnFailure", 1, Step.START),
        ("Never", 1, Step.LEAVE),
    ],
)
def test_restart_policy(policy, code, step):
    c = slot()
    assert c.next_step(policy, 0) is Step.START
    c.observe(running(0), 0)
    assert c.next_step(policy, 0) is Step.LEAVE
    c.observe(ended(0, code), 1)
    assert c.next_step(policy, 1) is step


def test_the_second_restart_waits():
    c = slot()
    c.observe(ended(0, 1), now=1)
    assert c.next_step("Always", 1) is Step.START
    c.observe(running(1), 1)
    c.observe(ended(1, 1), now=2)
    assert c.next_step("Always", 2) is Step.WAIT
    assert c.due == 12
    assert c.next_step("Always", 12) is Step.START
    assert c.next_attempt == 2
    assert c.last == ended(0, 1)


def test_news_of_an_older_attempt_is_none():
    c = slot()
    c.observe(running(1), 0)
    assert not c.observe(ended(0, 1), 0)
    assert c.current == running(1)


def test_an_end_is_final_for_its_attempt():
    c = slot()
    c.observe(ended(0, 1), 0)
    assert not c.observe(running(0), 0)


def test_not_ready_until_probed_and_never_after_its_end():
    c = slot(**READY)
    c.observe(running(0), 0)
    assert c.started
    assert not c.ready
    c.verdicts[Purpose.READINESS] = Verdict(healthy=True)
    assert c.ready
    c.observe(ended(0, 1), 0)
    assert not c.ready


def test_readiness_waits_for_startup():
    c = slot(startupProbe={"tcpSocket": {"port": 1}})
    c.observe(running(0), 0)
    assert not c.started
    assert not c.ready
    c.verdicts[Purpose.STARTUP] = Verdict(healthy=True)
    assert c.ready


def test_an_agent_that_comes_back_keeps_readiness_and_counts_nothing():
    c = slot(**READY)
    c.observe(running(3), 0)
    c.recall(Memory(restarts=3, ready=True, started=True, last=ended(2, 1), current=running(3)), 0)
    assert c.ready
    view = c.view()
    assert (view.restarts, view.last) == (3, ended(2, 1))


def test_a_lost_sandbox_is_one_restart():
    c = slot()
    c.recall(Memory(restarts=3, current=running(3)), 5 * S)
    assert c.current.exit_code == 137
    assert c.next_step("Always", 0) is Step.START
    assert c.next_attempt == 4
    assert c.next_step("Never", 0) is Step.LEAVE
