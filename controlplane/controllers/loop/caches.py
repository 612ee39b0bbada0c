"""One cache per resource, shared by all controllers, and the indexes that keep their questions cheap.

A pod event must not cost a walk over all Services: whoever asks "which objects belong to X" declares an
``Index`` once, and it is kept true by the same changes that feed the controllers.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NoReturn

from netplane.kube.cache import Cache, Change
from netplane.kube.client import Client
from netplane.kube.following import follow
from netplane.kube.objects import Object, ObjectKey
from netplane.kube.resources import Resource


class Index:
    """Objects of one resource by what they refer to, such as pods by node name."""

    def __init__(self, terms: Callable[[Object], Iterable[Hashable]]) -> None:
        self._terms = terms
        self._found: dict[Hashable, dict[ObjectKey, Object]] = defaultdict(dict)
        self._listed: dict[ObjectKey, tuple[Hashable, ...]] = {}

    def update(self, change: Change) -> None:
        """Follow one change; every change of the resource must come here, in order."""
        key = change.key
        for term in self._listed.pop(key, ()):
            del self._found[term][key]
            if not self._found[term]:
                del self._found[term]
        if change.new is None:
            return
        terms = tuple(dict.fromkeys(self._terms(change.new)))
        self._listed[key] = terms
        for term in terms:
            self._found[term][key] = change.new

    def get(self, term: Hashable) -> list[Object]:
        """The objects listed under a term."""
        return list(self._found[term].values()) if term in self._found else []

    def count(self, term: Hashable) -> int:
        """How many objects are listed under a term."""
        return len(self._found[term]) if term in self._found else 0

    def terms(self) -> list[Hashable]:
        """All terms under which anything is listed."""
        return list(self._found)


class Caches:
    """The caches of some resources. Subscribers hear a change after cache and indexes show it."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._caches = {resource: Cache(resource) for resource in dict.fromkeys(resources)}
        self._indexes: dict[Resource, dict[str, Index]] = defaultdict(dict)
        self._subscribers: dict[Resource, list[Callable[[Change], None]]] = defaultdict(list)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """What is followed."""
        return tuple(self._caches)

    @property
    def by_resource(self) -> Mapping[Resource, Cache]:
        """The caches themselves."""
        return self._caches

    def __getitem__(self, resource: Resource) -> Cache:
        return self._caches[resource]

    @property
    def synced(self) -> bool:
        """Whether every resource has been listed once: no decision is made before."""
        return all(cache.synced for cache in self._caches.values())

    def index(self, resource: Resource, name: str, terms: Callable[[Object], Iterable[Hashable]]) -> Index:
        """The index of this name; equal names share one. Declare it before the caches are fed."""
        if name not in self._indexes[resource]:
            self._indexes[resource][name] = Index(terms)
        return self._indexes[resource][name]

    def subscribe(self, resource: Resource, subscriber: Callable[[Change], None]) -> None:
        """Call ``subscriber`` for every change of a resource."""
        self._subscribers[resource].append(subscriber)

    def changed(self, resource: Resource, change: Change) -> None:
        """Hand a change that the cache already shows to indexes, then to subscribers."""
        for index in self._indexes[resource].values():
            index.update(change)
        for subscriber in self._subscribers[resource]:
            subscriber(change)

    async def follow(self, client: Client, resource: Resource, on_synced: Callable[[], None]) -> NoReturn:
        """Feed one resource's cache for ever."""
        await follow(
            client,
            self._caches[resource],
            on_change=lambda change: self.changed(resource, change),
            on_synced=on_synced,
        )
