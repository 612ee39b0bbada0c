"""The only place where controllers write to the API.

It notes every write, so that its controller does not decide again on a cache that does not show it yet.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import groupby

from controlplane.controllers.actions import Action, Adopt, Bind, Create, Delete, Patch, Record, Replace
from controlplane.controllers.loop.writes import Lost, PendingWrites, Removed, Written, revision
from netplane.errors import PeerError
from netplane.kube import errors
from netplane.kube.client import Client
from netplane.kube.objects import Object, ObjectKey, is_deleting, key_of, resource_version_of, uid_of
from netplane.kube.resources import PODS, Resource

PARALLEL = 16  # requests of one decision in flight


class Doer:
    """Performs actions on behalf of one controller."""

    def __init__(self, client: Client, pending: PendingWrites, record: Callable[[Record], None]) -> None:
        self._client = client
        self._pending = pending
        self._record = record

    async def perform(self, cause: ObjectKey, actions: Sequence[Action]) -> None:
        """Do the actions in order, neighbours of one kind side by side; tell of them when all are done.

        Stops at the first failure and raises it: StatusError where the API refused, PeerError where it did not
        answer.
        """
        told = [action for action in actions if isinstance(action, Record)]
        done = [action for action in actions if not isinstance(action, Record)]
        for kind, group in groupby([*done, *told], key=type):
            alike = list(group)
            batches = _slow_start(alike) if kind is Create else _chunks(alike, PARALLEL)
            for batch in batches:
                await self._together(cause, batch)

    async def ask_about_lost(self, cause: ObjectKey) -> None:
        """Learn how far the API is, for every write of ``cause`` that had no answer."""
        for lost in self._pending.lost(cause):
            found: Object | None = None
            try:
                found = await self._client.get(lost.resource, lost.key.name, lost.key.namespace or None)
            except errors.StatusError as error:
                if not errors.is_not_found(error):
                    raise
            self._pending.settle(cause, lost)
            if found is not None:
                self._wrote(cause, lost.resource, found)

    async def _together(self, cause: ObjectKey, batch: Sequence[Action]) -> None:
        results = await asyncio.gather(*(self._one(cause, a) for a in batch), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def _one(self, cause: ObjectKey, action: Action) -> None:
        match action:
            case Create(resource, obj):
                await self._write(cause, resource, key_of(obj), self._client.create(resource, obj))
            case Replace(resource, obj, subresource):
                replaced = self._client.replace(resource, obj, subresource=subresource)
                await self._write(cause, resource, key_of(obj), replaced)
            case Patch():
                await self._patch(cause, action)
            case Delete():
                await self._delete(cause, action)
            case Adopt():
                await self._adopt(cause, action)
            case Bind():
                await self._bind(action)
            case Record():
                self._record(action)

    async def _write(
        self, cause: ObjectKey, resource: Resource, key: ObjectKey, request: Awaitable[Object]
    ) -> None:
        try:
            answer = await request
        except PeerError:
            self._pending.note(cause, Lost(resource, key))
            raise
        self._wrote(cause, resource, answer)

    async def _patch(self, cause: ObjectKey, action: Patch) -> None:
        patched = self._client.patch(
            action.resource,
            action.key.name,
            action.body,
            namespace=action.key.namespace or None,
            kind=action.kind,
            subresource=action.subresource,
        )
        await self._write(cause, action.resource, action.key, patched)

    async def _delete(self, cause: ObjectKey, action: Delete) -> None:
        try:
            await self._client.delete(
                action.resource,
                action.key.name,
                action.key.namespace or None,
                grace_seconds=action.grace_seconds,
                propagation=action.propagation,
                uid=action.uid,
            )
        except errors.StatusError as error:
            # A conflict on the uid means that ours is gone and its name is taken again.
            if not (errors.is_not_found(error) or errors.is_conflict(error)):
                raise
        self._pending.note(cause, Removed(action.resource, action.key, action.uid))

    async def _adopt(self, cause: ObjectKey, action: Adopt) -> None:
        owner = action.owner
        found = await self._client.get(owner.resource, owner.key.name, owner.key.namespace or None)
        if uid_of(found) != owner.uid or is_deleting(found):
            raise errors.conflict(owner.resource, owner.key.name, "it is being deleted and adopts nothing")
        await self._patch(cause, action.patch)

    async def _bind(self, action: Bind) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": action.node}
        metadata = {"namespace": action.key.namespace, "name": action.key.name, "uid": action.uid}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        await self._client.create(PODS, body, subresource="binding")

    def _wrote(self, cause: ObjectKey, resource: Resource, answer: Object) -> None:
        number = revision(resource_version_of(answer))
        if number is not None:
            self._pending.note(cause, Written(resource, key_of(answer), number))


def _slow_start(actions: Sequence[Action]) -> Iterator[Sequence[Action]]:
    """Batches of 1, 2, 4, ... so that an object the API refuses is refused once, not five hundred times."""
    start, size = 0, 1
    while start < len(actions):
        yield actions[start : start + size]
        start, size = start + size, min(size * 2, PARALLEL)


def _chunks(actions: Sequence[Action], size: int) -> Iterator[Sequence[Action]]:
    for start in range(0, len(actions), size):
        yield actions[start : start + size]
