"""The maps of a node: routes written in the order that readers rely on, and read back.

The order (see `bpf/maps.h`): a new block's endpoints, the slot that leads to it, then the old block goes. Killed
anywhere between two of these, what is left over leads nowhere, and the next process sweeps it up.
"""

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from netplane.linux.bpf import Map
from proxy.ebpf.layout import (
    STRUCTS,
    endpoint_bytes,
    endpoint_of,
    frontend_bytes,
    frontend_of,
    slot_parts,
    slot_word,
)
from proxy.ebpf.routes import Route, service_name, service_of
from proxy.model import Endpoint, Frontend, IPAddress, Protocol, ServicePort

MAPS = (
    *("frontends", "slots", "endpoints", "node_addresses", "services", "counts"),
    *("choices", "conversations", "origins", "said"),
)
_ROUTE, _POSITION = STRUCTS["route"], STRUCTS["position"]


@dataclass(slots=True)
class _Place:
    """Where a frontend's route is in the maps, and what it is."""

    slot: int
    service: int
    block: int
    route: Route


Lost = AbstractSet[tuple[int, IPAddress, int]]  # Service's number, and an endpoint it does not have any more


class Tables:
    """The maps by name, and where everything is in them. One process writes at a time."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self.maps = maps
        self._memory = maps["slots"].mapped()
        self._slots = memoryview(self._memory).cast("Q")
        self._places: dict[Frontend, _Place] = {}
        self._services: dict[str, int] = {}
        self._users: dict[int, int] = {}  # service → frontends that lead to it
        self._free: deque[int] = deque()  # slots; the longest unused first, in case a reader is still at one
        self._blocks: set[int] = set()
        self._most, self._entries = maps["endpoints"].max_entries, 0  # of endpoints: at most, and now
        self.left_out: set[Frontend] = set()  # for which there was no room
        self._next_block = 1
        self._next_service = 1
        self._recover()

    def close(self) -> None:
        """Let go of all descriptors and memory."""
        self._slots.release()
        self._memory.close()
        for one in self.maps.values():
            one.close()

    # --- reading ------------------------------------------------------------------------------------------

    def read(self) -> dict[Frontend, Route]:
        """All routes, as the kernel has them now."""
        return read(self.maps)

    def _recover(self) -> None:
        """Find what an earlier process wrote; what leads nowhere is removed."""
        names = dict(service_names(self.maps["services"]))
        blocks = _blocks(self.maps["endpoints"])
        self._entries = sum(map(len, blocks.values()))
        for key, value in self.maps["frontends"].items():
            slot, service, affinity = _ROUTE.unpack(value)
            block, count = slot_parts(self._slots[slot])
            found = blocks.pop(block, {}) if count else {}
            if service not in names or len(found) != count:
                self.maps["frontends"].delete(key)  # half-made by a process that was killed
                continue
            endpoints = tuple(found[index] for index in range(count))
            route = Route(service_of(names[service]), endpoints, affinity)
            self._places[frontend_of(key)] = _Place(slot, service, block, route)
            self._blocks.add(block)
            self._users[service] = self._users.get(service, 0) + 1
        for block, orphans in blocks.items():
            self._drop_block(block, orphans)
        for service, name in names.items():
            if service in self._users:
                self._services[name] = service
            else:
                self._forget_service(service)
        taken = {place.slot for place in self._places.values()}
        self._free.extend(slot for slot in range(len(self._slots)) if slot not in taken)
        self._next_block = max(self._blocks, default=0) % 0xFFFFFFFF + 1
        self._next_service = 1 + max(names, default=0)

    # --- writing ------------------------------------------------------------------------------------------

    @property
    def routes(self) -> dict[Frontend, Route]:
        """All routes as they were written last."""
        return {frontend: place.route for frontend, place in self._places.items()}

    def load(self, routes: Mapping[Frontend, Route]) -> None:
        """Add many routes at once, each to a frontend that has none yet; what finds no room is ``left_out``."""
        endpoints: dict[bytes, bytes] = {}
        entries: dict[bytes, bytes] = {}
        places: dict[Frontend, _Place] = {}
        for frontend, route in routes.items():
            if not self._has_room(route, new=True):
                self.left_out.add(frontend)
                continue
            self.left_out.discard(frontend)
            block, service, slot = (
                self._new_block(),
                self._service(route, frontend.protocol),
                self._free.popleft(),
            )
            endpoints |= _block_entries(block, route.endpoints)
            self._entries += len(route.endpoints)
            self._slots[slot] = slot_word(block, len(route.endpoints))
            entries[frontend_bytes(frontend)] = _ROUTE.pack(slot, service, route.affinity)
            places[frontend] = _Place(slot, service, block, route)
        self.maps["endpoints"].put_all(endpoints)
        self.maps["frontends"].put_all(entries)
        self._places |= places

    def point(self, frontend: Frontend, route: Route) -> Lost:
        """Make a frontend lead where it should; what its Service has lost there."""
        place = self._places.get(frontend)
        if place is None:
            self.load({frontend: route})
            return frozenset()
        if place.route == route:
            return frozenset()
        lost = _lost(place, () if place.route.service != route.service else route.endpoints)
        if not self._has_room(route, new=False):
            self.remove(frontend)
            self.left_out.add(frontend)
            return lost
        block = self._write_block(route.endpoints)
        renamed = place.route.service != route.service
        if renamed or place.route.affinity != route.affinity:
            service = self._service(route, frontend.protocol) if renamed else place.service
            self.maps["frontends"].put(
                frontend_bytes(frontend), _ROUTE.pack(place.slot, service, route.affinity)
            )
            if renamed:
                self._release_service(place.service, place.route, frontend.protocol)
                place.service = service
        self._slots[place.slot] = slot_word(block, len(route.endpoints))
        old, place.block, place.route = (place.block, place.route), block, route
        self._drop_block(old[0], range(len(old[1].endpoints)))
        return lost

    def remove(self, frontend: Frontend) -> Lost:
        """A frontend leads nowhere any more; what its Service has lost there."""
        self.left_out.discard(frontend)
        place = self._places.pop(frontend, None)
        if place is None:
            return frozenset()
        self.maps["frontends"].delete(frontend_bytes(frontend))
        self._slots[place.slot] = 0
        self._free.append(place.slot)
        self._drop_block(place.block, range(len(place.route.endpoints)))
        self._release_service(place.service, place.route, frontend.protocol)
        return _lost(place, ())

    def serve_at(self, addresses: Mapping[bytes, int]) -> None:
        """Where NodePorts are served: struct address → cookie of the only network namespace, 0 for all."""
        wanted = {key: cookie.to_bytes(8, sys.byteorder) for key, cookie in addresses.items()}
        held = self.maps["node_addresses"]
        have = dict(held.items())
        for key, value in wanted.items():
            if have.get(key) != value:
                held.put(key, value)
        for key in have.keys() - wanted.keys():
            held.delete(key)

    def connections(self) -> dict[tuple[ServicePort, Protocol], int]:
        """Connections (for UDP: conversations) of each Service so far: the sum over all processors."""
        found = {}
        for name, number in self._services.copy().items():  # a thread may be filling them in
            values = self.maps["counts"].get(_key(number)) or b""
            found[service_of(name), Protocol(name.rpartition("/")[2].upper())] = sum(
                memoryview(values).cast("Q")
            )
        return found

    def lacks(self, service: int, address: IPAddress, port: int) -> bool:
        """Whether no frontend of a Service leads to an endpoint."""
        routes = (place.route for place in self._places.values() if place.service == service)
        return not any((e.address, e.port) == (address, port) for route in routes for e in route.endpoints)

    # --- parts --------------------------------------------------------------------------------------------

    def _new_block(self) -> int:
        number = self._next_block
        while number in self._blocks:  # only after four thousand million changes
            number = number % 0xFFFFFFFF + 1
        self._next_block = number % 0xFFFFFFFF + 1
        self._blocks.add(number)
        return number

    def _has_room(self, route: Route, *, new: bool) -> bool:
        """A new block is written before an old one goes, so there must be room for both."""
        return bool(self._free or not new) and self._entries + len(route.endpoints) <= self._most

    def _write_block(self, endpoints: tuple[Endpoint, ...]) -> int:
        block = self._new_block()
        for key, value in _block_entries(block, endpoints).items():
            self.maps["endpoints"].put(key, value)
        self._entries += len(endpoints)
        return block

    def _drop_block(self, block: int, indexes: Mapping[int, Endpoint] | range) -> None:
        for index in indexes:
            self.maps["endpoints"].delete(_POSITION.pack(block, index))
        self._entries -= len(indexes)
        self._blocks.discard(block)

    def _service(self, route: Route, protocol: Protocol) -> int:
        """The number of a Service; a new one is written with its name and its counter first."""
        name = service_name(route.service, protocol)
        number = self._services.get(name)
        if number is None:
            number, self._next_service = self._next_service, self._next_service + 1
            self.maps["services"].put(_key(number), name.encode().ljust(160, b"\0"))
            self.maps["counts"].put(_key(number), bytes(self.maps["counts"].stored))
            self._services[name] = number
        self._users[number] = self._users.get(number, 0) + 1
        return number

    def _release_service(self, number: int, route: Route, protocol: Protocol) -> None:
        self._users[number] -= 1
        if not self._users[number]:
            del self._users[number]
            del self._services[service_name(route.service, protocol)]
            self._forget_service(number)

    def _forget_service(self, number: int) -> None:
        self.maps["counts"].delete(_key(number))
        self.maps["services"].delete(_key(number))


def read(maps: Mapping[str, Map]) -> dict[Frontend, Route]:
    """All routes in a set of maps; a frontend whose endpoints are not all there is left out."""
    names = dict(service_names(maps["services"]))
    blocks = _blocks(maps["endpoints"])
    found = {}
    for key, value in maps["frontends"].items():
        slot, service, affinity = _ROUTE.unpack(value)
        word = maps["slots"].get(_key(slot))
        block, count = slot_parts(int.from_bytes(word or b"", sys.byteorder))
        inside = blocks.get(block, {})
        if service in names and len(inside) == count:
            endpoints = tuple(inside[index] for index in range(count))
            found[frontend_of(key)] = Route(service_of(names[service]), endpoints, affinity)
    return found


def service_names(held: Map) -> Iterator[tuple[int, str]]:
    """Service number → ``ns/name:port/tcp``."""
    for key, value in held.items():
        yield int.from_bytes(key, sys.byteorder), value.rstrip(b"\0").decode()


def _blocks(held: Map) -> dict[int, dict[int, Endpoint]]:
    found: dict[int, dict[int, Endpoint]] = {}
    for key, value in held.items():
        block, index = _POSITION.unpack(key)
        found.setdefault(block, {})[index] = endpoint_of(value)
    return found


def _block_entries(block: int, endpoints: tuple[Endpoint, ...]) -> dict[bytes, bytes]:
    return {_POSITION.pack(block, index): endpoint_bytes(one) for index, one in enumerate(endpoints)}


def _lost(place: _Place, kept: tuple[Endpoint, ...]) -> Lost:
    still = {(endpoint.address, endpoint.port) for endpoint in kept}
    had = {(endpoint.address, endpoint.port) for endpoint in place.route.endpoints}
    return {(place.service, *endpoint) for endpoint in had - still}


def _key(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)
