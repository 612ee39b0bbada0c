"""What a container's environment takes from the API, remembered on this machine.

A container that ends while the API is away, and the agent was restarted meanwhile, is started again with what was last
known. The memory is a file of the pod's written volumes' place: readable by root only, gone with the pod.
"""

import asyncio
import os
from pathlib import Path

import orjson

from netplane.errors import PeerError
from netplane.kube.objects import Object, uid_of
from netplane.kube.references import Reference
from netplane.kube.resources import CONFIGMAPS, SECRETS
from netplane.node.environment import Surroundings
from netplane.node.pod_context import PodContext
from netplane.node.service_links import service_variables

MEMORY = "..surroundings"  # no volume has such a name


async def surroundings(context: PodContext, pod: Object) -> Surroundings:
    """From the API; while it is away, what it said last. Raises PeerError where it has never said anything."""
    place = context.volumes.written / uid_of(pod) / MEMORY
    try:
        services = await context.configs.services()
        found = Surroundings(await context.configs.read(pod), service_variables(pod, services))
    except PeerError:
        remembered = await asyncio.to_thread(_recall, place)
        if remembered is None:
            raise
        return remembered
    await asyncio.to_thread(_remember, place, found)
    return found


def _remember(place: Path, found: Surroundings) -> None:
    configs = [[reference.resource.plural, reference.name, obj] for reference, obj in found.configs.items()]
    text = orjson.dumps({"configs": configs, "services": dict(found.services)})
    fresh = place.with_name(f"{MEMORY}.new")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text)
        fresh.replace(place)
    except OSError:
        return  # a full disk costs the memory, not the start


def _recall(place: Path) -> Surroundings | None:
    by_plural = {resource.plural: resource for resource in (CONFIGMAPS, SECRETS)}
    try:
        memory = orjson.loads(place.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    configs = {Reference(by_plural[plural], name): obj for plural, name, obj in memory["configs"]}
    return Surroundings(configs, memory["services"])
