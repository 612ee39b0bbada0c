"""kill -9 in the midst of making, swapping and taking away what ebpf mode pins: the next one goes on from there."""

from collections.abc import Iterator
from typing import Any

import pytest

from proxy import routes
from proxy.flush import flush
from proxy.modes import Mode
from tests.bpf_place import BpfPlace
from tests.netns.proxy.flows import destination, visit
from tests.netns.proxy.killed import ANY, Killing, killing
from tests.netns.proxy.test_mode_switch import Switching, traces

pytestmark = pytest.mark.netns
WEB = ("web1", "web2")


@pytest.fixture
def killer(world: Any, place: BpfPlace) -> Iterator[Killing]:
    with killing(world.netns["n1"], place.paths.root) as made:
        yield made
        flushed(world, place)


def served(world: Any) -> bool:
    return visit(world, "client", *destination("web"))[0] in WEB


def begun(world: Any, place: BpfPlace) -> None:
    """By a process that has ended since."""
    Switching(world, Mode.EBPF, place.paths).stop(keep=True)


def recovered(world: Any, place: BpfPlace) -> None:
    """The next process serves, and the kernel has what it was told."""
    node = Switching(world, Mode.EBPF, place.paths)
    try:
        assert node.call(node.datapath.observe()) == node.datapath.targets
        assert node.datapath.host_routing == "bpf"
        assert served(world)
    finally:
        node.stop(keep=True)


def flushed(world: Any, place: BpfPlace) -> None:
    """Nothing is left, and `netplane flush` knows it."""
    world.run("n1", lambda: list(flush(place.paths)))
    assert traces(world, place) == set()
    assert world.run("n1", routes.routed) == []
    assert not place.mount.is_mount()
    assert world.run("n1", lambda: list(flush(place.paths))) == []


def check(
    world: Any, place: BpfPlace, killer: Killing, what: str, change: tuple[str, int], *, then: str
) -> list[str]:
    """Kill it at this change; the changes it came to."""
    if what != "begin":
        begun(world, place)
    made = killer.kill("flush" if what == "flush" else "sync", *change)
    if what == "swap":
        assert served(world), "no process is needed, and whatever is swapped was there before"
    if then == "recover":
        recovered(world, place)
    flushed(world, place)
    return made


@pytest.mark.parametrize(
    ("what", "change", "then"),
    [
        ("begin", ("mkdir", 6), "flush"),
        ("begin", ("BPF_LINK_CREATE", 5), "flush"),
        ("begin", ("BPF_PROG_ATTACH", 3), "recover"),
        ("swap", ("BPF_LINK_UPDATE", 4), "recover"),
        ("flush", ("BPF_LINK_DETACH", 4), "flush"),
    ],
)
def test_what_a_killed_process_left_is_gone_on_with_or_taken_away(
    world: Any, place: BpfPlace, killer: Killing, what: str, change: tuple[str, int], then: str
) -> None:
    made = check(world, place, killer, what, change, then=then)
    assert (made[-1], made.count(made[-1]) - 1) == change


@pytest.mark.long
@pytest.mark.parametrize("then", ["recover", "flush"])
@pytest.mark.parametrize("what", ["begin", "swap", "flush"])
def test_killed_at_each_change(world: Any, place: BpfPlace, killer: Killing, what: str, then: str) -> None:
    at = 0
    while len(made := check(world, place, killer, what, (ANY, at), then=then)) > at:
        at += 1
    assert {"begin": "BPF_LINK_CREATE", "swap": "BPF_LINK_UPDATE", "flush": "BPF_LINK_DETACH"}[what] in made
