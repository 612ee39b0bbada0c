"""One pod's volumes on this node: made before its sandbox, kept true while it runs, removed after it."""

import asyncio
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from netplane.errors import KernelError, NetplaneError
from netplane.kube.objects import Object, uid_of
from netplane.node import volume_files
from netplane.node.environment import Missing
from netplane.node.pod_context import PodContext
from netplane.node.runtimes import Mount
from netplane.node.volumes import File, Places, files_of, is_written, mounts_of, volumes_of


class VolumeNotReady(NetplaneError):
    """A volume cannot be made yet; the message is kubelet's."""


class PodVolumes:
    """The pod is given to each call, as the API shows it now."""

    def __init__(self, context: PodContext) -> None:
        self._context = context
        self._told = ""

    def mounts(self, pod: Object) -> list[Mount]:
        """What the pod's sandbox is to show."""
        return mounts_of(pod, uid_of(pod), self._context.volumes)

    async def write(self, pod: Object) -> None:
        """Bring every volume up to date. Raises VolumeNotReady, told as an Event once; PeerError, KernelError."""
        volumes = volumes_of(pod)
        if not volumes:
            return
        found = await self._context.configs.read(pod)
        wanted: list[tuple[Path, Mapping[str, File] | None]] = []
        for volume in volumes:
            place = self._context.volumes.of(uid_of(pod), volume)
            try:
                wanted.append((place, files_of(pod, volume, found) if is_written(volume) else None))
            except Missing as error:
                raise self._not_ready(pod, volume, str(error)) from None
        await asyncio.to_thread(_make, wanted, [mount.source for mount in self.mounts(pod)])
        self._told = ""

    def _not_ready(self, pod: Object, volume: Mapping[str, Any], why: str) -> VolumeNotReady:
        text = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {why}'
        if text != self._told:
            self._told = text
            self._context.events.warn(pod, "FailedMount", text)
        return VolumeNotReady(text)

    async def refresh(self, pod: Object) -> None:
        """Like `write` for a pod that runs: what has gone missing leaves the files as they are, and so does an API
        that is away.
        """
        if not self._context.configs.heard(pod):
            return
        try:
            await self.write(pod)
        except VolumeNotReady:
            return

    async def remove(self, pod: Object) -> None:
        """Nothing is left of them."""
        await asyncio.to_thread(remove_volumes, self._context.volumes, uid_of(pod))


def _make(wanted: Iterable[tuple[Path, Mapping[str, File] | None]], sources: Iterable[Path]) -> None:
    for place, files in wanted:
        if files is not None:
            volume_files.write(place, files)
            continue
        try:
            if not place.exists():
                place.mkdir(parents=True)
                place.chmod(0o777)  # whoever the container runs as, as kubelet makes it
        except OSError as error:
            raise KernelError(f"cannot make volume {place.name}: {error.strerror}") from None
    for source in sources:
        if not source.exists():  # a subPath that nobody has made yet
            source.mkdir(parents=True, exist_ok=True)


def remove_volumes(places: Places, uid: str) -> None:
    """All volumes of a pod."""
    for base in (places.scratch, places.written):
        shutil.rmtree(base / uid, ignore_errors=True)


def sweep(places: Places, living: Iterable[str]) -> None:
    """Remove the volumes of pods that are gone: they ended while no agent was there."""
    kept = set(living)
    for base in (places.scratch, places.written):
        if base.is_dir():
            for path in base.iterdir():
                if path.name not in kept:
                    remove_volumes(places, path.name)
