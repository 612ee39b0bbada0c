"""Events: counted, combined and rationed, in the time the test says."""

from datetime import UTC, datetime, timedelta

from controlplane.controllers.actions import Create, Patch, Record
from controlplane.controllers.loop.recorder import BURST, EventLog
from netplane.kube.objects import Object

START = datetime(2026, 1, 1, tzinfo=UTC)
POD: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop", "uid": "u1"}}


def record(message: str = "m", about: Object = POD, reason: str = "FailedScheduling") -> Record:
    return Record(about, "Warning", reason, message)


def test_a_new_event_names_its_object_and_its_source() -> None:
    made = EventLog("default-scheduler").plan(record(), START)
    assert isinstance(made, Create)
    event = made.object
    assert event["metadata"]["namespace"] == "shop"
    assert event["involvedObject"]["uid"] == "u1"
    assert event["source"] == {"component": "default-scheduler"}
    assert (event["count"], event["firstTimestamp"]) == (1, "2026-01-01T00:00:00Z")


def test_the_same_again_raises_the_count_of_the_same_event() -> None:
    log = EventLog("c")
    made = log.plan(record(), START)
    again = log.plan(record(), START + timedelta(seconds=5))
    assert isinstance(made, Create)
    assert isinstance(again, Patch)
    assert again.key.name == made.object["metadata"]["name"]
    assert again.body["count"] == 2
    assert again.body["lastTimestamp"] == "2026-01-01T00:00:05Z"


def test_names_differ_within_one_instant() -> None:
    log = EventLog("c")
    plans = [log.plan(record(f"m{i}"), START) for i in range(5)]
    assert len({p.object["metadata"]["name"] for p in plans if isinstance(p, Create)}) == 5


def test_many_different_messages_become_one_event() -> None:
    log = EventLog("c")
    plans = [log.plan(record(f"m{i}"), START) for i in range(14)]
    assert [type(p) for p in plans] == [Create] * 11 + [Patch] * 3
    last = plans[-1]
    assert isinstance(last, Patch)
    assert last.body["message"] == "(combined from similar events): m13"


def test_an_object_has_a_budget_that_grows_back_slowly() -> None:
    log = EventLog("c")
    told = [log.plan(record(), START) for _ in range(40)]
    assert sum(plan is not None for plan in told) == BURST
    assert log.plan(record(about={**POD, "metadata": {**POD["metadata"], "uid": "u2"}}), START) is not None
    assert log.plan(record(), START + timedelta(minutes=5)) is not None
    assert log.plan(record(), START + timedelta(minutes=5)) is None


def test_cluster_scoped_objects_have_their_events_in_default() -> None:
    made = EventLog("c").plan(record(about={"kind": "Node", "metadata": {"name": "n1", "uid": "n1"}}), START)
    assert isinstance(made, Create)
    assert made.object["metadata"]["namespace"] == "default"


def test_a_forgotten_event_is_made_anew() -> None:
    log = EventLog("c")
    made = log.plan(record(), START)
    assert isinstance(made, Create)
    log.forget(("shop", made.object["metadata"]["name"]))  # type: ignore[arg-type]
    assert isinstance(log.plan(record(), START), Create)
