"""The maps are true at every moment: between any two writes a reader finds a whole route, the old or the new one."""

import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.errors import KernelError
from netplane.linux import bpf
from netplane.linux.sockdiag import Sockets
from proxy.ebpf import pins
from proxy.ebpf.layout import STRUCTS, slot_parts
from proxy.ebpf.routes import Route, route_of
from proxy.ebpf.tables import MAPS, Tables, read
from proxy.model import Endpoint, Frontend, Pool, Protocol, ServicePort, Target
from tests.bpf_place import BpfPlace, bpf_place

pytestmark = pytest.mark.netns

FRONTENDS = [
    Frontend(ip_address(f"10.96.0.{n}"), 80, p) for n in (1, 2) for p in (Protocol.TCP, Protocol.UDP)
]
ENDPOINTS = [Endpoint(ip_address(f"10.244.1.{n}"), 8080, local=n % 2 == 0) for n in range(2, 6)]
ROUTES = st.builds(
    Route,
    st.builds(ServicePort, st.just("default"), st.sampled_from(["a", "b"]), st.just("80")),
    st.sets(st.sampled_from(ENDPOINTS), max_size=3).map(
        lambda few: tuple(sorted(few, key=lambda e: e.order))
    ),
    st.sampled_from([0, 10]),
)
STATES = st.dictionaries(st.sampled_from(FRONTENDS), ROUTES)
State = Mapping[Frontend, Route]


class Killed(Exception):
    """As if the process had ended here."""


class Fuse:
    """Lets so many writes through."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def burn(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


class FusedMap:
    """A map of the kernel; writes burn the fuse."""

    def __init__(self, inner: bpf.Map, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, key: bytes, value: bytes) -> None:
        self._fuse.burn()
        self._inner.put(key, value)

    def put_all(self, entries: Mapping[bytes, bytes]) -> None:
        for key, value in entries.items():
            self.put(key, value)

    def delete(self, key: bytes) -> bool:
        self._fuse.burn()
        return self._inner.delete(key)


class FusedSlots:
    """The slots' memory; writes burn the fuse."""

    def __init__(self, inner: memoryview, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, slot: int) -> int:
        return self._inner[slot]

    def __setitem__(self, slot: int, word: int) -> None:
        self._fuse.burn()
        self._inner[slot] = word

    def release(self) -> None:
        self._inner.release()


@pytest.fixture(scope="module")
def place() -> Iterator[BpfPlace]:
    with bpf_place() as made:
        pins.ensure_mounted(made.mount)
        with pins.programs(made.pins):
            pass
        yield made


def opened(place: BpfPlace, fuse: Fuse | None = None) -> Tables:
    maps: dict[str, Any] = dict(kept(place))
    if fuse is None:
        return Tables(maps)
    tables = Tables(maps)
    for name in MAPS:
        maps[name] = FusedMap(maps[name], fuse)
    tables._slots = FusedSlots(tables._slots, fuse)  # type: ignore[assignment]
    return tables


def kept(place: BpfPlace) -> dict[str, bpf.Map]:
    maps = place.pins.open_maps()
    assert maps is not None
    return maps


def make(tables: Tables, state: State) -> None:
    for frontend, route in state.items():
        tables.point(frontend, route)
    for frontend in tables.routes.keys() - state.keys():
        tables.remove(frontend)


def nothing_left_over(maps: Mapping[str, bpf.Map], state: State) -> None:
    routes = [STRUCTS["route"].unpack(value) for _, value in maps["frontends"].items()]
    words = [
        int.from_bytes(maps["slots"].get(slot.to_bytes(4, "little")) or b"", "little")
        for slot, _, _ in routes
    ]
    assert len(list(maps["endpoints"].items())) == sum(slot_parts(word)[1] for word in words)
    names = {(route.service, frontend.protocol) for frontend, route in state.items()}
    assert len(list(maps["services"].items())) == len(list(maps["counts"].items())) == len(names)


@settings(max_examples=8, deadline=None)
@given(before=STATES, after=STATES)
def test_killed_after_any_write(place: BpfPlace, before: State, after: State) -> None:
    maps = kept(place)
    writes = 0
    finished = False
    while not finished:
        tables = opened(place)
        make(tables, before)
        tables.close()
        tables = opened(place, Fuse(writes))
        try:
            make(tables, after)
            finished = True
        except Killed:
            writes += 1
        found = read(maps)
        for frontend in FRONTENDS:
            old, new, now = before.get(frontend), after.get(frontend), found.get(frontend)
            assert now in (old, new) or (
                now and old and new and now.endpoints in (old.endpoints, new.endpoints)
            )
        tables.close()
        recovered = opened(place)
        make(recovered, after)
        assert recovered.routes == recovered.read() == dict(after)
        nothing_left_over(maps, after)
        recovered.close()
    for one in maps.values():
        one.close()


@settings(max_examples=10, deadline=None)
@given(states=st.lists(STATES, max_size=4))
def test_any_sequence_of_states(place: BpfPlace, states: list[State]) -> None:
    tables = opened(place)
    for state in states:
        make(tables, state)
        assert tables.read() == dict(state)
        nothing_left_over(tables.maps, state)
    make(tables, {})
    nothing_left_over(tables.maps, {})
    tables.close()


def test_what_finds_no_room_is_left_out_until_there_is(place: BpfPlace) -> None:
    """Then the table beneath serves it, and all others are told as before."""
    tables, (one, another, third, _) = opened(place), FRONTENDS
    for frontend in tables.routes:
        tables.remove(frontend)
    tables._most = 3
    two, single = (Route(ServicePort("default", "a", "80"), tuple(ENDPOINTS[:n])) for n in (2, 1))
    tables.load({one: two, another: two})
    assert (tables.read(), tables.left_out) == ({one: two}, {another})
    tables.point(one, single)
    tables.point(another, two)
    assert (tables.read(), tables.left_out) == ({one: single, another: two}, set())
    lost = tables.point(another, single)
    assert (tables.read(), tables.left_out) == ({one: single}, {another}), "no room for old and new at once"
    assert {address for _, address, _ in lost} == {ENDPOINTS[1].address}
    tables._free.clear()
    tables.point(third, single)
    assert tables.left_out == {another, third}
    for frontend in (one, another, third):
        tables.remove(frontend)
    assert (tables.read(), tables.left_out) == ({}, set())
    assert tables._entries == 0
    tables.close()


def test_a_full_map_is_named(place: BpfPlace) -> None:
    numbers = {n.to_bytes(16, "big"): bytes(8) for n in range(1025)}
    maps = kept(place)
    with pytest.raises(
        KernelError, match=r"cannot write to BPF map node_addresses: its 1024 entries are full"
    ):
        maps["node_addresses"].put_all(numbers)
    for number in numbers:
        maps["node_addresses"].delete(number)
    for one in maps.values():
        one.close()


def test_threads_that_read_one_map_get_their_own_values(place: BpfPlace) -> None:
    """`netplane flows` and the end of drained connections look at the same map when they please."""
    with pins.programs(place.pins) as made:
        held = made.map("node_addresses")
        numbers = [number.to_bytes(16, "big") for number in range(2)]
        for key in numbers:
            held.put(key, key[8:])

        def read_often(key: bytes) -> bool:
            return all(held.get(key) == key[8:] for _ in range(20_000))

        with ThreadPoolExecutor() as pool:
            assert list(pool.map(read_often, numbers * 2)) == [True] * 4
        held.close()


def test_the_proxy_protocol_is_no_reason_to_translate() -> None:
    """Neither way speaks it, and `netplane status` says so."""
    pool = Pool((ENDPOINTS[0],))
    told = route_of(FRONTENDS[0], Target(ServicePort("default", "a", "80"), pool, pool, proxy_protocol=True))
    assert told == Route(ServicePort("default", "a", "80"), (ENDPOINTS[0],))


def test_a_kernel_that_does_not_answer_about_sockets_is_an_error_of_ours() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Sockets("/proc/thread-self/ns/net") as asked:
        asked._sock.close()
        asked._sock = ours
        ours.settimeout(0.01)
        with pytest.raises(KernelError, match="cannot list sockets: timed out"):
            asked.connected(6)


def test_a_place_for_pins_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KernelError, match=r"cannot make .*/file/bpf for a BPF file system: Not a directory"):
        pins.ensure_mounted(tmp_path / "file/bpf")
