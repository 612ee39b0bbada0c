"""Starting one attempt of a container: from the pod's spec to the runtime, and what is told when it fails."""

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from netplane.errors import KernelError
from netplane.kube.objects import Object
from netplane.kube.quantity import milli, whole
from netplane.linux.cgroups import Limits
from netplane.node import environment, names
from netplane.node.container_slot import ContainerSlot
from netplane.node.pod_context import PodContext
from netplane.node.runtimes import ContainerSpec, ContainerState, Sandbox
from netplane.node.runtimes.process import StartError
from netplane.node.surroundings import surroundings

KEPT_LOGS = 2  # attempts whose logs stay: the newest and the one that `kubectl logs --previous` shows


def limits_of(container: Object, pids: int | None) -> Limits:
    """`resources` as cgroup limits. Raises ValueError naming a quantity that is none."""
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    share = requests.get("cpu", limits.get("cpu"))
    return Limits(
        memory=whole(limits["memory"]) if "memory" in limits else None,
        cpu=milli(limits["cpu"]) if "cpu" in limits else None,
        cpu_share=milli(share) if share is not None else None,
        pids=pids,
    )


def spec_of(
    context: PodContext,
    pod: Object,
    container: Object,
    attempt: int,
    addresses: Sequence[str],
    around: environment.Surroundings = environment.NOWHERE,
) -> ContainerSpec:
    """What the runtime is asked to run. Raises ValueError naming the field that cannot be used."""
    host = list(context.addresses())
    facts: Mapping[str, str] = {
        "hostname": names.hostname(pod),
        "status.podIP": addresses[0] if addresses else "",
        "status.podIPs": ",".join(addresses),
        "status.hostIP": host[0] if host else "",
        "status.hostIPs": ",".join(host),
    }
    argv, brought = context.runtime.command(container)
    variables = environment.environment(pod, container, facts, brought, around)
    security = {
        **((pod.get("spec") or {}).get("securityContext") or {}),
        **(container.get("securityContext") or {}),
    }
    return ContainerSpec(
        str(container["name"]),
        attempt,
        environment.command(container, argv, variables),
        variables,
        str(container.get("workingDir") or "/"),
        context.log_file(pod, str(container["name"]), attempt),
        limits_of(container, context.settings.pids),
        uid=security.get("runAsUser"),
        gid=security.get("runAsGroup"),
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        tty=bool(container.get("tty")),
    )


async def start_container(
    context: PodContext, pod: Object, sandbox: Sandbox, slot: ContainerSlot, addresses: Sequence[str]
) -> None:
    """One attempt. A program that cannot be executed is an attempt that has ended (128, StartError); a spec that
    cannot be used leaves the container waiting.
    """
    attempt = slot.next_attempt
    around = await surroundings(context, pod)
    try:
        spec = spec_of(context, pod, slot.spec, attempt, addresses, around)
    except ValueError as error:
        if slot.message != str(error):
            where = "" if isinstance(error, environment.Missing) else f"{slot.name}: "
            context.events.warn(pod, "Failed", f"Error: {where}{error}")
        slot.waiting, slot.message = "CreateContainerConfigError", str(error)
        return
    pids_missing = "pids" in context.missing_controllers
    spec = replace(spec, limits=replace(spec.limits, pids=None)) if pids_missing else spec
    await asyncio.to_thread(_drop_logs, context, pod, slot.name, attempt)
    began = time.time_ns()
    try:
        await sandbox.start(spec)
    except StartError as error:
        context.events.warn(pod, "Failed", f"Error: failed to start container {slot.name}: {error}")
        ended = ContainerState(slot.name, attempt, began, time.time_ns(), 128, 0, "StartError", error.message)
        slot.observe(ended, context.clock())
        return
    except KernelError as error:
        if slot.message != str(error):
            context.events.warn(pod, "Failed", f"Error: cannot create container {slot.name}: {error}")
        slot.waiting, slot.message = "CreateContainerError", str(error)
        raise
    if slot.current is None or slot.current.attempt < attempt:
        slot.observe(ContainerState(slot.name, attempt, began), context.clock())
    context.events.normal(pod, "Started", f"Started container {slot.name}")


def _drop_logs(context: PodContext, pod: Object, container: str, attempt: int) -> None:
    directory = context.log_directory(pod) / container
    for path in directory.glob("*.log*"):
        number = path.name.partition(".")[0]
        if number.isdigit() and int(number) <= attempt - KEPT_LOGS:
            path.unlink(missing_ok=True)


def drop_all_logs(context: PodContext, pod: Object) -> None:
    """The pod is gone, and so are its logs."""
    shutil.rmtree(context.log_directory(pod), ignore_errors=True)
