"""One pod's sandbox and its attachment to the network, made and unmade as a pair."""

import asyncio
import logging
from collections.abc import Sequence

from netplane.errors import KernelError, NetplaneError
from netplane.kube.objects import Object, name_of, namespace_of, uid_of
from netplane.node import capabilities, names
from netplane.node.cni_client import Attachment, Cached, addresses
from netplane.node.pod_context import PodContext
from netplane.node.runtimes import Mount, Sandbox, SandboxSpec
from netplane.node.runtimes.process import new_sandbox_id

log = logging.getLogger(__name__)


class PodSandbox:
    """What holds a pod's namespaces, and the addresses it has there. ``sandbox`` is None before and after."""

    def __init__(self, context: PodContext, sandbox: Sandbox | None) -> None:
        self._context = context
        self.sandbox = sandbox
        self.addresses: list[str] = []
        if sandbox is not None and sandbox.alive:
            self._recall(sandbox)

    @property
    def sandbox_id(self) -> str:
        """The id of the sandbox, "" when there is none."""
        return self.sandbox.sandbox_id if self.sandbox is not None else ""

    @property
    def usable(self) -> bool:
        """Alive and attached: containers may be started in it."""
        return self.sandbox is not None and self.sandbox.alive and bool(self.addresses)

    def _recall(self, sandbox: Sandbox) -> None:
        """An earlier agent's sandbox: its addresses are in what ADD answered then."""
        if _host_network(sandbox.pod):
            self.addresses = list(self._context.addresses())
            return
        for cached in self._attachments(sandbox.sandbox_id):
            self.addresses += addresses(cached.result)

    def _attachments(self, sandbox_id: str) -> list[Cached]:
        return [c for c in self._context.cni.attachments() if c.attachment.container_id == sandbox_id]

    async def make(self, pod: Object, mounts: Sequence[Mount] = ()) -> Sandbox:
        """A new sandbox, attached. Raises KernelError, ConfigError, CniError, NetworkNotReady; nothing is left then."""
        context = self._context
        host_network = _host_network(pod)
        network = None if host_network else context.network()
        node_text = await asyncio.to_thread(_read, context)
        spec = SandboxSpec(
            new_sandbox_id(),
            pod,
            context.node if host_network else names.hostname(pod),
            names.hosts(pod, [], context.dns.zone),
            names.resolv_conf(pod, context.dns, node_text),
            host_network,
            mounts,
        )
        self.sandbox = sandbox = await context.runtime.create(spec)
        try:
            if network is None:
                self.addresses = list(context.addresses())
            else:
                attachment = attachment_of(pod, sandbox)
                capabilities.require(network, attachment.capability_args)
                self.addresses = addresses(await context.cni.add(network, attachment))
            if not self.addresses:
                raise KernelError("cannot use the network: its plugins gave the pod no address")
            sandbox.set_hosts(names.hosts(pod, self.addresses, context.dns.zone))
        except BaseException:
            await asyncio.shield(self.unmake())
            raise
        return sandbox

    async def unmake(self) -> None:
        """Detach, end, leave nothing. Raises CniError or KernelError; the next call goes on where this stopped."""
        sandbox = self.sandbox
        if sandbox is None:
            return
        for cached in await asyncio.to_thread(self._attachments, sandbox.sandbox_id):
            await self._context.cni.delete(cached, netns=sandbox.netns)
        await sandbox.remove()
        self.sandbox = None
        self.addresses = []


def attachment_of(pod: Object, sandbox: Sandbox) -> Attachment:
    """What the plugins are told. Raises ConfigError. Source: the conventions of the CNI project, "CNI_ARGS"."""
    return Attachment(
        sandbox.sandbox_id,
        sandbox.netns,
        "eth0",
        {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": namespace_of(pod),
            "K8S_POD_NAME": name_of(pod),
            "K8S_POD_INFRA_CONTAINER_ID": sandbox.sandbox_id,
            "K8S_POD_UID": uid_of(pod),
        },
        capabilities.asked(pod),
    )


async def sweep(context: PodContext, living: Sequence[str]) -> None:
    """Detach what belongs to no sandbox: after a reboot, leases and routes of pods that died with the machine."""
    stale = [c for c in context.cni.attachments() if c.attachment.container_id not in living]
    for cached in stale:
        try:
            await context.cni.delete(cached, netns="")
        except NetplaneError as error:
            log.warning("cannot detach what is left of %s: %s", cached.attachment.container_id, error)


def _host_network(pod: Object) -> bool:
    return bool((pod.get("spec") or {}).get("hostNetwork"))


def _read(context: PodContext) -> str:
    try:
        return context.node_resolv_conf.read_text(errors="replace")
    except OSError:
        return ""  # a node without one gives its pods the cluster's DNS only
