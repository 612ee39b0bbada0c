"""Keeping this machine's Node and Lease in the API: create, renew, report, and notice who else claims them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from netplane.errors import ConfigError, NetplaneError
from netplane.kube import errors
from netplane.kube.cache import Cache
from netplane.kube.client import Backoff, Client
from netplane.kube.objects import Object, now_rfc3339, rfc3339_micro, uid_of
from netplane.kube.resources import LEASES, NODES
from netplane.node import registration
from netplane.node.registration import LEASE_NAMESPACE, Machine

log = logging.getLogger(__name__)

FULL_REPORT_SECONDS = 300.0  # kubelet's nodeStatusReportFrequency
REFUSALS = (403, 409, 422)


class NodeObject:
    """``nodes`` is the followed cache of all Nodes; ``problem()`` says what keeps this one from being ready, and
    ``closed()`` what keeps it from taking more pods.
    """

    def __init__(
        self,
        client: Client,
        machine: Machine,
        nodes: Cache,
        problem: Callable[[], str],
        closed: Callable[[], str],
        notice: Callable[[], str],
    ) -> None:
        self._client = client
        self._machine = machine
        self._nodes = nodes
        self._problem, self._closed, self._notice = problem, closed, notice
        self._written: dict[str, Any] | None = None
        self.changed = asyncio.Event()
        self._duration = 40

    @property
    def current(self) -> Object:
        """Our Node as the API last showed it; a name only before that."""
        found = self._nodes.get("", self._machine.name)
        return found or registration.node_object(self._machine)

    async def register(self, duration: int) -> None:
        """Create the Node, or take up the one that is there. Waits for an API that is away.

        Raises ConfigError when the name or the address is another living machine's.
        """
        backoff = Backoff(0.2, 5.0)
        while True:
            try:
                self._duration = duration
                await self._register()
                return
            except ConfigError:
                raise
            except NetplaneError as error:
                log.warning("cannot register node %s yet: %s", self._machine.name, error)
                await asyncio.sleep(backoff.delay())

    async def _register(self) -> None:
        name = self._machine.name
        try:
            node = await self._client.get(NODES, name)
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
            fresh = registration.node_object(self._machine)
            conditions = registration.ready_condition([], self._problem(), "", now_rfc3339())
            fresh["status"] = registration.node_status(self._machine, conditions)
            node = await self._refusable(self._client.create(NODES, fresh))
        lease = await self._lease()
        registration.refuse_namesake(self._machine, node, lease, datetime.now(UTC))
        await self._client.patch(NODES, name, {"metadata": {"labels": registration.labels(self._machine)}})
        await self._report(node)
        await self.renew(self._duration)

    async def _refusable(self, request: Any) -> Object:
        """An answer that no repetition will change is the user's to act on, such as an address in use."""
        try:
            answer: Object = await request
            return answer
        except errors.StatusError as error:
            if (
                error.code in REFUSALS
                and not errors.is_already_exists(error)
                and not errors.is_conflict(error)
            ):
                raise ConfigError(
                    f"cannot register node {self._machine.name}: {error.message}",
                    "Two nodes never share a name or an address",
                ) from None
            raise

    async def _lease(self) -> Object | None:
        try:
            return await self._client.get(LEASES, self._machine.name, LEASE_NAMESPACE)
        except errors.StatusError as error:
            if errors.is_not_found(error):
                return None
            raise

    async def keep_lease(self, every: float, duration: int) -> None:
        """The heartbeat, until cancelled. A failed renewal is repeated soon: others count the silence."""
        while True:
            delay = every
            try:
                await self.renew(duration)
            except NetplaneError as error:
                log.warning("cannot renew the Lease of node %s: %s", self._machine.name, error)
                delay = min(every, 2.0)
            await asyncio.sleep(delay)

    async def renew(self, duration: int) -> None:
        """One heartbeat."""
        now = rfc3339_micro(datetime.now(UTC))
        lease = registration.lease_object(self._machine.name, duration, now)
        spec = {"spec": lease["spec"]}
        try:
            await self._client.patch(LEASES, self._machine.name, spec, namespace=LEASE_NAMESPACE)
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
            await self._client.create(LEASES, lease)

    async def keep_status(self) -> None:
        """Report whenever something changed, and in full now and then, until cancelled.

        Raises ConfigError when another machine has taken this Node over.
        """
        backoff = Backoff(0.2, 10.0)
        while True:
            self.changed.clear()
            try:
                await self._keep()
                backoff.reset()
                delay = FULL_REPORT_SECONDS
            except ConfigError:
                raise
            except NetplaneError as error:
                log.warning("cannot report the status of node %s: %s", self._machine.name, error)
                delay = backoff.delay()
            try:
                async with asyncio.timeout(delay):
                    await self.changed.wait()
            except TimeoutError:
                self._written = None

    async def _keep(self) -> None:
        node = self._nodes.get("", self._machine.name)
        if node is None and self._nodes.synced:
            await self._register()  # somebody deleted it; its pods are still here
            return
        if node is not None:
            self._still_ours(node)
            await self._report(node)

    def _still_ours(self, node: Object) -> None:
        info = (node.get("status") or {}).get("nodeInfo") or {}
        other = info.get("machineID")
        if other and other != self._machine.machine_id:
            raise ConfigError(
                f"cannot go on as node {self._machine.name}: machine {other} has registered under that name",
                "Give one of the two another nodeName",
            )

    async def _report(self, node: Object) -> None:
        """Write the status, if it says anything new."""
        old = (node.get("status") or {}).get("conditions") or []
        now = now_rfc3339()
        conditions = registration.ready_condition(old, self._problem(), self._notice(), now)
        conditions = registration.closed_condition(conditions, self._closed(), now)
        status = registration.node_status(self._machine, conditions)
        said = {**status, "conditions": _timeless(conditions), "uid": uid_of(node)}
        if said == self._written and said["conditions"] == _timeless(old):
            return
        await self._refusable(
            self._client.patch(NODES, self._machine.name, {"status": status}, subresource="status")
        )
        self._written = said


def _timeless(conditions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("lastHeartbeatTime", "lastTransitionTime")
    return [{key: value for key, value in c.items() if key not in times} for c in conditions]
