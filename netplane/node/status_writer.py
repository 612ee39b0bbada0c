"""Writing a pod's status: the newest only, when it differs, for as long as it takes."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from netplane.errors import NetplaneError
from netplane.kube import errors
from netplane.kube.client import Backoff, Client
from netplane.kube.objects import Object, name_of, namespace_of, resource_version_of, uid_of
from netplane.kube.resources import PODS


class StatusWriter:
    """One pod's. ``observe(seconds)`` gets the lag of each write."""

    def __init__(self, client: Client, observe: Callable[[float], None]) -> None:
        self._client = client
        self._observe = observe
        self._wanted: dict[str, Any] | None = None
        self._written: dict[str, Any] | None = None
        self._pod: Object = {}
        self._version = ""  # of the object as our last write left it
        self._since = 0.0
        self._changed = asyncio.Event()

    @property
    def wanted(self) -> dict[str, Any] | None:
        """What was offered last."""
        return self._wanted

    @property
    def written(self) -> dict[str, Any] | None:
        """What the API server is known to have, or None before the first write."""
        return self._written

    def offer(self, pod: Object, status: dict[str, Any]) -> None:
        """This is the status now; ``pod`` is the object as the API last showed it.

        Shown a version that is not our own write and says otherwise, we write again: the node lifecycle
        controller calls the pods of a silent node not ready, and nobody else would take that back.
        """
        news = resource_version_of(pod) not in (resource_version_of(self._pod), self._version)
        self._pod = pod
        if news:
            self._written = None
        if status == self._wanted and not news:
            return
        known = self._written if self._written is not None else pod.get("status") or {}
        self._wanted = status
        if any(known.get(key) != value for key, value in status.items()):
            self._since = time.monotonic()
            self._changed.set()

    async def run(self) -> None:
        """Write whatever is offered, until cancelled; a server that is away or refuses costs time only."""
        backoff = Backoff(0.2, 5.0)
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            if wanted is None or wanted == self._written:
                continue
            try:
                await self._write(wanted)
                backoff.reset()
            except NetplaneError as error:
                if errors.is_not_found(error) or errors.is_conflict(error):
                    continue  # gone, or another pod of that name: the watch will tell
                await asyncio.sleep(backoff.delay())
                self._changed.set()

    async def _write(self, wanted: dict[str, Any]) -> None:
        # The uid is a precondition: this status is not of a namesake that came after.
        body = {"metadata": {"uid": uid_of(self._pod)}, "status": wanted}
        namespace = namespace_of(self._pod)
        name = name_of(self._pod)
        made = await self._client.patch(PODS, name, body, namespace=namespace, subresource="status")
        self._version = resource_version_of(made)
        self._written = wanted
        self._observe(time.monotonic() - self._since)
