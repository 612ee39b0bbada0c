"""Jobs: how many pods run, when it is over, and that every pod that ended is counted once."""

from datetime import UTC, datetime, timedelta
from itertools import count as counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.api.writing.patch import merge_patch
from controlplane.controllers.actions import Create, Delete, Patch, Record
from controlplane.controllers.workloads.job import decide, job_key
from controlplane.controllers.workloads.job_rules import backoff_left, manage, verdict
from controlplane.controllers.workloads.job_status import status
from controlplane.controllers.workloads.job_tally import (
    FINALIZER,
    INDEX,
    Tally,
    count,
    format_indexes,
    parse_indexes,
)
from netplane.kube.objects import condition, is_true, key_of, name_of, rfc3339
from netplane.kube.resources import JOBS, PODS

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
NONE = Tally(0, 0, 0, 0, (), (), frozenset(), ())


def job(status=None, restart="Never", **spec):
    template = {"metadata": {"labels": {"job": "x"}}, "spec": {"containers": [{"name": "c"}]}}
    template["spec"]["restartPolicy"] = restart
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "x", "namespace": "default", "uid": "uid-x", "resourceVersion": "1"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "template": template, **spec},
        "status": status or {},
    }


def pod(name, phase="Running", *, held=True, ended=None, restarts=0, index=None, **metadata):
    annotations = {} if index is None else {INDEX: str(index)}
    statuses = {"restartCount": restarts}
    if ended is not None:
        statuses["state"] = {"terminated": {"finishedAt": rfc3339(NOW - timedelta(seconds=ended))}}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "finalizers": [FINALIZER] if held else [],
            "annotations": annotations,
            "ownerReferences": [{"uid": "uid-x", "kind": "Job", "name": "x", "controller": True}],
            "creationTimestamp": rfc3339(NOW - timedelta(seconds=3600)),
            **metadata,
        },
        "spec": {},
        "status": {"phase": phase, "containerStatuses": [statuses]},
    }


GOING = {"deletionTimestamp": rfc3339(NOW)}


def names():
    numbers = counter()
    return lambda: f"s{next(numbers)}"


def totals(succeeded=0, failed=0):
    return Tally(succeeded, failed, succeeded, failed, (), (), frozenset(), ())


MANAGED = [
    # spec, tally, pods, created, deleted
    ("the first", {}, NONE, [], 1, []),
    ("it runs", {}, NONE, [pod("a")], 0, []),
    ("three side by side", {"parallelism": 3, "completions": 5}, NONE, [pod("a")], 2, []),
    ("no more than lack", {"parallelism": 3, "completions": 5}, totals(4), [], 1, []),
    ("a queue starts all", {"parallelism": 3, "completions": None}, NONE, [], 3, []),
    ("a queue that is drained", {"parallelism": 3, "completions": None}, totals(1), [pod("a")], 0, []),
    (
        "fewer wanted now",
        {"parallelism": 1, "completions": 5},
        NONE,
        [pod("a"), pod("b", "Pending")],
        0,
        ["b"],
    ),
    ("suspended", {"suspend": True}, NONE, [pod("a")], 0, ["a"]),
    ("a leaving pod is replaced", {}, totals(0, 1), [pod("a", **GOING)], 1, []),
    (
        "or waited for",
        {"podReplacementPolicy": "Failed"},
        NONE,
        [pod("a", **GOING)],
        0,
        [],
    ),
    ("after a failure it rests", {}, totals(0, 1), [pod("a", "Failed", ended=5)], 0, []),
    ("ten seconds", {}, totals(0, 1), [pod("a", "Failed", ended=10)], 1, []),
]


@pytest.mark.parametrize(
    ("spec", "tally", "pods", "created", "deleted"), [row[1:] for row in MANAGED], ids=[r[0] for r in MANAGED]
)
def test_how_many_run(spec, tally, pods, created, deleted):
    actions = manage(job(**spec), tally, pods, NOW, names())
    assert sum(isinstance(a, Create) for a in actions) == created
    assert [a.key.name for a in actions if isinstance(a, Delete)] == deleted


def test_a_pod_that_is_stopped_on_purpose_is_not_a_failure():
    first, second = manage(job(suspend=True), NONE, [pod("a")], NOW, names())
    assert isinstance(first, Patch)
    assert first.body["metadata"]["finalizers"] == []
    assert isinstance(second, Delete)


RESTS = [
    ([], 0),
    ([4], 6),
    ([4, 30], 16),
    ([1, 30, 60, 90], 79),
    ([0] * 40, 600),
]


@pytest.mark.parametrize(("failures", "left"), RESTS)
def test_rests_double(failures, left):
    pods = [pod(f"p{n}", "Failed", ended=ended) for n, ended in enumerate(failures)]
    assert backoff_left(pods, NOW) == left
    assert backoff_left([*pods, pod("ok", "Succeeded", ended=0)], NOW) == 0


STARTED = {"startTime": rfc3339(NOW - timedelta(seconds=60))}
OVER = [
    ("goes on", job(), NONE, [], None),
    ("done", job(), totals(1), [], "CompletionsReached"),
    ("half", job(completions=2), totals(1), [], None),
    ("a queue still works", job(completions=None), totals(1), [pod("a")], None),
    ("a queue is done", job(completions=None), totals(1), [], "CompletionsReached"),
    ("failed often", job(backoffLimit=2), totals(0, 3), [], "BackoffLimitExceeded"),
    ("not yet too often", job(backoffLimit=2), totals(0, 2), [], None),
    (
        "restarts",
        job(restart="OnFailure", backoffLimit=2),
        NONE,
        [pod("a", restarts=2)],
        "BackoffLimitExceeded",
    ),
    ("restarts elsewhere", job(restart="Never", backoffLimit=2), NONE, [pod("a", restarts=2)], None),
    ("too late", job(STARTED, activeDeadlineSeconds=60), NONE, [], "DeadlineExceeded"),
    ("in time", job(STARTED, activeDeadlineSeconds=61), NONE, [], None),
    ("waiting does not count", job(STARTED, activeDeadlineSeconds=6, suspend=True), NONE, [], None),
]


@pytest.mark.parametrize(
    ("given", "tally", "pods", "reason"), [row[1:] for row in OVER], ids=[row[0] for row in OVER]
)
def test_when_it_is_over(given, tally, pods, reason):
    found = verdict(given, tally, pods, NOW)
    assert (found.reason if found else None) == reason


COUNTS = [
    # status, pods, (succeeded, failed, settled)
    ("nothing", {}, [pod("a")], (0, 0, True)),
    ("one to note", {}, [pod("a", "Succeeded")], (1, 0, False)),
    (
        "noted, still held",
        {"uncountedTerminatedPods": {"succeeded": ["uid-a"]}},
        [pod("a", "Succeeded")],
        (1, 0, False),
    ),
    (
        "noted and released",
        {"uncountedTerminatedPods": {"succeeded": ["uid-a"]}},
        [pod("a", "Succeeded", held=False)],
        (1, 0, True),
    ),
    ("noted and gone", {"uncountedTerminatedPods": {"failed": ["uid-a"]}, "failed": 2}, [], (0, 3, True)),
    ("counted before", {"succeeded": 1}, [pod("a", "Succeeded", held=False)], (1, 0, True)),
    ("leaving is failing", {}, [pod("a", **GOING)], (0, 1, False)),
]


@pytest.mark.parametrize(
    ("given_status", "pods", "expected"), [row[1:] for row in COUNTS], ids=[row[0] for row in COUNTS]
)
def test_each_pod_is_counted_once(given_status, pods, expected):
    found = count(job(given_status), pods)
    assert (found.succeeded, found.failed, found.settled) == expected


INDEXES = [("", []), ("0", [0]), ("0,2", [0, 2]), ("1-3,7", [1, 2, 3, 7]), ("0,1", [0, 1])]


@pytest.mark.parametrize(("text", "indexes"), INDEXES)
def test_indexes_are_written_as_runs(text, indexes):
    assert parse_indexes(text) == set(indexes)
    assert format_indexes(indexes) == text


def test_an_indexed_job_runs_each_index_once():
    given = job({"completedIndexes": "1"}, completionMode="Indexed", completions=4, parallelism=4)
    pods = [pod("a", index=0), pod("b", "Succeeded", index=2)]
    tally = count(given, pods)
    assert (tally.succeeded, sorted(tally.indexes)) == (2, [1, 2])
    (made,) = manage(given, tally, pods, NOW, names())
    assert made.object["metadata"]["annotations"][INDEX] == "3"
    assert made.object["spec"]["hostname"] == "x-3"
    (variable,) = made.object["spec"]["containers"][0]["env"]
    assert variable["name"] == "JOB_COMPLETION_INDEX"
    assert "env" not in given["spec"]["template"]["spec"]["containers"][0]


def test_the_last_condition_waits_for_the_last_pod():
    given = job(backoffLimit=0)
    ended, running = pod("a", "Failed", held=False, ended=1), pod("b")
    given["status"] = {"failed": 1, **STARTED}
    tally = count(given, [ended, running])
    end = verdict(given, tally, [ended, running], NOW)
    announced = {"status": status(given, tally, [ended, running], end, NOW)}
    assert is_true(announced, "FailureTarget")
    assert not is_true(announced, "Failed")
    final = {"status": status(given, tally, [ended], end, NOW)}
    assert condition(final, "Failed")["reason"] == "BackoffLimitExceeded"
    assert "completionTime" not in final["status"]


def test_whose_pod_it_is():
    mine, orphan, other = pod("a"), pod("b"), pod("c")
    orphan["metadata"] |= {"ownerReferences": [], "labels": {"batch.kubernetes.io/job-name": "x"}}
    other["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet"
    assert [job_key(p) for p in (mine, orphan, other)] == [("default", "x"), ("default", "x"), None]
    orphan["metadata"]["finalizers"] = []
    assert job_key(orphan) is None


class World:
    """An API of one Job and its pods: as much of one as the decisions can tell."""

    def __init__(self, **spec):
        self.time, self.job, self.pods = NOW, job(**spec), {}
        self.suffix, self.ended, self.told = names(), {"Succeeded": 0, "Failed": 0}, []

    def now(self):
        """What a controller's kit says."""
        return self.time

    def step(self):
        """One decision, carried out whole."""
        for action in decide(self.job, list(self.pods.values()), self).actions:
            self.perform(action)

    def active(self):
        return [
            p for p in self.pods.values() if p["status"]["phase"] in ("Pending", "Running") and not going(p)
        ]

    def perform(self, action):
        match action:
            case Create(_, made):
                made["metadata"] |= {"uid": f"uid-{name_of(made)}", "creationTimestamp": rfc3339(self.time)}
                made["status"] = {"phase": "Pending"}
                self.pods[key_of(made)] = made
            case Patch(resource, key, body) if resource == PODS:
                self.pods[key] = merge_patch(self.pods[key], body)
                self.drop(key)
            case Patch(resource, _, body) if resource == JOBS:
                self.job = merge_patch(self.job, body)
            case Delete(resource, key) if resource == PODS:
                self.pods[key]["metadata"]["deletionTimestamp"] = rfc3339(self.time)
                self.drop(key)
            case Record():
                self.told.append(action.reason)

    def drop(self, key):
        found = self.pods[key]
        if going(found) and not found["metadata"]["finalizers"] and found["status"]["phase"] != "Running":
            del self.pods[key]

    def end(self, number, phase):
        """One of the active pods ends."""
        active = self.active()
        if active:
            chosen = active[number % len(active)]
            finished = {"state": {"terminated": {"finishedAt": rfc3339(self.time)}}}
            chosen["status"] = {"phase": phase, "containerStatuses": [finished]}
            self.ended[phase] += 1

    def remove(self, number):
        """Somebody deletes a pod that has ended."""
        done = [p for p in self.pods.values() if p["status"]["phase"] in ("Succeeded", "Failed")]
        if done:
            chosen = done[number % len(done)]
            chosen["metadata"]["deletionTimestamp"] = rfc3339(self.time)
            self.drop(key_of(chosen))


def going(found):
    return "deletionTimestamp" in found["metadata"]


EVENTS = st.tuples(st.sampled_from(["Succeeded", "Failed", "remove", "step", "wait"]), st.integers(0, 50))


@given(
    parallelism=st.integers(1, 4),
    completions=st.none() | st.integers(1, 6),
    limit=st.integers(0, 4),
    events=st.lists(EVENTS, max_size=60),
)
@settings(deadline=None)
def test_a_job_ends_and_counts_right_whatever_happens(parallelism, completions, limit, events):
    world = World(parallelism=parallelism, completions=completions, backoffLimit=limit)
    for kind, number in events:
        if kind == "step":
            world.step()
        elif kind == "wait":
            world.time += timedelta(seconds=number * 20)
        elif kind == "remove":
            world.remove(number)
        else:
            world.end(number, kind)
        assert len(world.active()) <= parallelism
    for _ in range(40):
        world.time += timedelta(seconds=700)
        world.end(0, "Succeeded")
        for _ in range(6):
            world.step()
    over = is_true(world.job, "Complete") or is_true(world.job, "Failed")
    assert over, world.job["status"]
    assert not world.active()
    counted = world.job["status"]
    assert not any((counted.get("uncountedTerminatedPods") or {}).values())
    assert not any(p["metadata"]["finalizers"] for p in world.pods.values())
    if is_true(world.job, "Complete"):
        assert (counted.get("succeeded", 0), counted.get("failed", 0)) == (
            world.ended["Succeeded"],
            world.ended["Failed"],
        )
        assert completions is None or counted["succeeded"] >= completions
        assert counted.get("failed", 0) <= limit
        assert world.told[-1] == "Completed"
    else:
        assert counted["failed"] > limit
        assert counted["failed"] >= world.ended["Failed"]
