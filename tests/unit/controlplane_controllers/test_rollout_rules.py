"""Rolling updates: kube's arithmetic by table, and its two promises under any interleaving."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.workloads.rollout import Bounds, Size, bounds, recreate, resize, rolling


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", Bounds(10, 3, 2)),
        (1, "25%", "25%", Bounds(1, 1, 0)),
        (3, 1, 0, Bounds(3, 1, 0)),
        (3, 0, 0, Bounds(3, 0, 1)),
        (3, "0%", "10%", Bounds(3, 0, 1)),
        (2, 0, 5, Bounds(2, 0, 2)),
    ],
)
def test_bounds_round_surge_up_and_unavailable_down(
    replicas: int, surge: object, unavailable: object, expected: Bounds
) -> None:
    assert bounds(replicas, surge, unavailable) == expected


def full(name: str, count: int) -> Size:
    return Size(name, count, count, count)


ROLLING = [
    ("first rollout", Bounds(3, 1, 0), Size("new", 0, 0, 0), [], {"new": 3}),
    ("surge first", Bounds(3, 1, 0), Size("new", 0, 0, 0), [full("old", 3)], {"new": 1}),
    ("shrink first", Bounds(3, 0, 1), Size("new", 0, 0, 0), [full("old", 3)], {"old": 2}),
    ("both", Bounds(10, 3, 2), Size("new", 0, 0, 0), [full("old", 10)], {"new": 3, "old": 8}),
    ("new is not available yet", Bounds(3, 1, 0), Size("new", 1, 1, 0), [full("old", 3)], {}),
    ("new is available", Bounds(3, 1, 0), full("new", 1), [full("old", 3)], {"old": 2}),
    (
        "the old set has not caught up: nothing grows",
        Bounds(3, 1, 0),
        full("new", 1),
        [Size("old", 2, 0, 0, settled=False)],
        {},
    ),
    ("old pods that still run are counted", Bounds(3, 1, 0), full("new", 1), [Size("old", 1, 3, 3)], {}),
    (
        "a stale count of the new set is not trusted",
        Bounds(3, 1, 0),
        Size("new", 1, 3, 3, settled=False),
        [full("old", 3)],
        {"old": 2},
    ),
    (
        "what is new and not available spares nothing",
        Bounds(3, 1, 0),
        Size("new", 1, 1, 0),
        [Size("old", 3, 3, 2)],
        {},
    ),
    ("broken old pods go first", Bounds(3, 1, 0), full("new", 1), [Size("old", 3, 3, 1)], {"old": 2}),
    ("scaled to nothing", Bounds(0, 1, 0), full("new", 2), [full("old", 1)], {"new": 0, "old": 0}),
    ("rolled back to a set that is too large", Bounds(2, 1, 0), full("new", 5), [], {"new": 2}),
]


@pytest.mark.parametrize(
    ("limits", "new", "old", "expected"), [row[1:] for row in ROLLING], ids=[row[0] for row in ROLLING]
)
def test_rolling(limits: Bounds, new: Size, old: list[Size], expected: dict[str, int]) -> None:
    assert rolling(limits, new, old) == expected


def test_recreate_waits_for_the_last_old_pod() -> None:
    limits = Bounds(3, 0, 0)
    assert recreate(limits, None, [full("old", 3)], old_pods=3) == {"old": 0}
    assert recreate(limits, Size("new", 0, 0, 0), [Size("old", 0, 0, 0)], old_pods=1) == {}
    assert recreate(limits, Size("new", 0, 0, 0), [Size("old", 0, 0, 0)], old_pods=0) == {"new": 3}


RESIZE = [
    ("only one runs", Bounds(5, 1, 0), full("new", 3), [Size("old", 0, 0, 0)], {"new": 5}),
    ("complete: the old go", Bounds(3, 1, 0), full("new", 3), [full("old", 1)], {"old": 0}),
    (
        "in proportion, as kube's own example: 10 to 15 with 8 and 5 of 13",
        Bounds(15, 3, 2),
        Size("new", 5, 5, 5, annotated_max=13),
        [Size("old", 8, 8, 8, annotated_max=13)],
        {"old": 11, "new": 7},
    ),
    (
        "the rest of rounding is more than the largest has",
        Bounds(1, 2, 1),
        Size("s4", 2, 2, 0, annotated_max=10),
        [Size(f"s{i}", 2, 2, 0, annotated_max=10) for i in range(4)],
        {"s0": 0, "s1": 0, "s2": 1, "s3": 1, "s4": 1},
    ),
    (
        "down to nothing",
        Bounds(0, 1, 0),
        Size("new", 2, 2, 2, annotated_max=4),
        [Size("old", 2, 2, 2, annotated_max=4)],
        {"new": 0, "old": 0},
    ),
]


@pytest.mark.parametrize(
    ("limits", "new", "old", "expected"), [row[1:] for row in RESIZE], ids=[row[0] for row in RESIZE]
)
def test_resize(limits: Bounds, new: Size, old: list[Size], expected: dict[str, int]) -> None:
    assert resize(limits, new, old, is_rolling=True) == expected


@given(
    replicas=st.integers(1, 30),
    surge=st.integers(0, 5),
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5),
)
@settings(deadline=None)
def test_resizing_ends_exactly_at_the_most(replicas: int, surge: int, sizes: list[int]) -> None:
    limits = bounds(replicas, surge, 1)
    running = [Size(f"s{i}", n, n, 0, annotated_max=sum(sizes)) for i, n in enumerate(sizes)]
    after = resize(limits, running[-1], running[:-1], is_rolling=True)
    assert sum(after.get(size.name, size.wanted) for size in running) == limits.most
    assert all(count >= 0 for count in after.values())


@dataclass
class ModelSet:
    """A ReplicaSet, its controller's lagging view of it, its pods (ready or not), and its written status."""

    name: str
    wanted: int
    generation: int = 1
    seen: tuple[int, int] = (0, 0)  # wanted, generation
    pods: list[bool] = field(default_factory=list)
    status: tuple[int, int, int] = (0, 0, 0)  # replicas, available, observedGeneration

    def see(self) -> None:
        self.seen = (self.wanted, self.generation)

    def sync(self) -> None:
        wanted, _ = self.seen
        self.pods.sort()  # those not ready are first, and go first
        self.pods = self.pods[max(0, len(self.pods) - wanted) :]
        self.pods += [False] * (wanted - len(self.pods))

    def ready(self) -> None:
        if False in self.pods:
            self.pods[self.pods.index(False)] = True

    def write_status(self) -> None:
        # The real controller writes none while its own pods are not visible: never before a sync of that view.
        if len(self.pods) == self.seen[0]:
            self.status = (len(self.pods), sum(self.pods), self.seen[1])

    def size(self) -> Size:
        replicas, available, observed = self.status
        return Size(self.name, self.wanted, replicas, available, settled=observed == self.generation)


@dataclass
class Model:
    limits: Bounds
    sets: list[ModelSet]

    def deploy(self) -> None:
        sizes = rolling(self.limits, self.sets[-1].size(), [s.size() for s in self.sets[:-1]])
        for s in self.sets:
            if s.name in sizes:
                s.wanted, s.generation = sizes[s.name], s.generation + 1

    def new_template(self) -> None:
        self.sets.append(ModelSet(f"s{len(self.sets)}", 0))

    def roll_back(self) -> None:
        self.sets.insert(len(self.sets) - 1, self.sets.pop())
        self.sets.append(self.sets.pop(0))

    @property
    def active(self) -> int:
        return sum(len(s.pods) for s in self.sets)

    @property
    def available(self) -> int:
        return sum(sum(s.pods) for s in self.sets)


STEP_NAMES = [
    "deploy",
    "deploy",
    "see",
    "sync",
    "ready",
    "status",
    "template",
    "back",
    "act",
    "all ready",
    "all status",
]
STEPS = st.lists(st.tuples(st.sampled_from(STEP_NAMES), st.integers(0, 3)), max_size=60)


@settings(deadline=None)
@given(replicas=st.integers(1, 8), surge=st.integers(0, 3), unavailable=st.integers(0, 3), steps=STEPS)
def test_no_interleaving_breaks_availability_or_surge(
    replicas: int, surge: int, unavailable: int, steps: list[tuple[str, int]]
) -> None:
    limits = bounds(replicas, surge, unavailable)
    first = ModelSet("s0", replicas, 1, (replicas, 1), [True] * replicas, (replicas, replicas, 1))
    model = Model(limits, [first])
    for step, number in steps:
        chosen = model.sets[number % len(model.sets)]
        match step:
            case "deploy":
                model.deploy()
            case "template" if len(model.sets) < 4:
                model.new_template()
            case "back" if len(model.sets) > 1:
                model.roll_back()
            case "see":
                chosen.see()
            case "sync":
                chosen.sync()
            case "ready":
                chosen.ready()
            case "status":
                chosen.write_status()
            case "act":
                for s in model.sets:
                    s.see()
                    s.sync()
            case "all ready":
                for s in model.sets:
                    s.ready()
            case "all status":
                for s in model.sets:
                    s.write_status()
        assert model.active <= limits.most
        assert model.available >= limits.least_available
    for _ in range(40 * replicas):
        model.deploy()
        for s in model.sets:
            s.see()
            s.sync()
            s.ready()
            s.write_status()
    assert [len(s.pods) for s in model.sets] == [0] * (len(model.sets) - 1) + [replicas]
    assert model.available == replicas
