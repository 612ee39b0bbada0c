"""The ConfigMaps, Secrets and Services that this node's pods are told about, followed while a pod needs them.

Each ConfigMap and Secret is followed on its own, by name: a node may read no other (the API's Node authorizer).
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping

from netplane.errors import PeerError
from netplane.kube.cache import Cache
from netplane.kube.client import Client
from netplane.kube.following import follow
from netplane.kube.objects import Object, namespace_of, uid_of
from netplane.kube.references import Reference, references_of
from netplane.kube.resources import SERVICES
from netplane.node.background import Background

PATIENCE = 2.0  # seconds that a pod's worker waits for the API before it looks at everything again

Found = Mapping[Reference, Object | None]
"""Of each object that a pod uses what it is now; None where there is none."""


class _Followed:
    """One ConfigMap or Secret and who is to hear of its changes."""

    def __init__(self, namespace: str, reference: Reference) -> None:
        self.namespace, self.reference = namespace, reference
        self.cache = Cache(reference.resource)
        self.synced = asyncio.Event()
        self.wake: dict[str, Callable[[], None]] = {}

    async def run(self, client: Client) -> None:
        await follow(
            client,
            self.cache,
            namespace=self.namespace,
            field_selector=f"metadata.name={self.reference.name}",
            on_change=lambda _: self._tell(),
            on_synced=self.synced.set,
        )

    def _tell(self) -> None:
        for wake in list(self.wake.values()):
            wake()

    @property
    def object(self) -> Object | None:
        return self.cache.get(self.namespace, self.reference.name)


class Configs:
    """``open`` it before a pod uses it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._followed: dict[tuple[str, Reference], _Followed] = {}
        self._used: dict[str, list[tuple[str, Reference]]] = defaultdict(list)
        self._background = Background()
        self._services = Cache(SERVICES)
        self._services_synced = asyncio.Event()

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """The group that owns what follows the API from now on."""
        self._background.open(tasks)
        self._background.start("services", self._follow_services())

    async def _follow_services(self) -> None:
        await follow(self._client, self._services, on_synced=self._services_synced.set)

    def use(self, pod: Object, wake: Callable[[], None]) -> None:
        """Follow what the pod names, until `release`; ``wake`` is called at each change. Repeating is fine."""
        for reference in references_of(pod):
            key = (namespace_of(pod), reference)
            followed = self._followed.get(key)
            if followed is None:
                followed = self._followed[key] = _Followed(*key)
                self._background.start(_name(key), followed.run(self._client))
            if uid_of(pod) not in followed.wake:
                self._used[uid_of(pod)].append(key)
            followed.wake[uid_of(pod)] = wake

    def release(self, pod: Object) -> None:
        """The pod needs nothing any more; what no other pod uses is forgotten."""
        for key in self._used.pop(uid_of(pod), ()):
            followed = self._followed[key]
            followed.wake.pop(uid_of(pod), None)
            if not followed.wake:
                del self._followed[key]
                self._background.cancel(_name(key))

    async def read(self, pod: Object) -> Found:
        """What the pod names, as last heard. Raises PeerError while the API has not answered for all of it."""
        namespace = namespace_of(pod)
        wanted = {reference: self._followed[namespace, reference] for reference in references_of(pod)}
        try:
            async with asyncio.timeout(PATIENCE):
                for followed in wanted.values():
                    await followed.synced.wait()
        except TimeoutError:
            missing = ", ".join(
                f"{reference.resource.plural} {namespace}/{reference.name}"
                for reference, followed in wanted.items()
                if not followed.synced.is_set()
            )
            raise PeerError(f"cannot read {missing}: the API server has not answered") from None
        return {reference: followed.object for reference, followed in wanted.items()}

    def heard(self, pod: Object) -> bool:
        """Whether `read` would answer at once."""
        used = (self._followed.get((namespace_of(pod), reference)) for reference in references_of(pod))
        return all(followed is not None and followed.synced.is_set() for followed in used)

    async def services(self) -> list[Object]:
        """All Services. Raises PeerError while the API has not answered."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._services_synced.wait()
        except TimeoutError:
            raise PeerError("cannot read services: the API server has not answered") from None
        return list(self._services.values())


def _name(key: tuple[str, Reference]) -> str:
    namespace, (resource, name) = key
    return f"{resource.plural} {namespace}/{name}"
