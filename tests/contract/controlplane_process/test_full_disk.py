"""No space left: writes say so, everything else goes on, and nothing that was acknowledged is lost."""

import asyncio
import subprocess
import sys

import pytest

from netplane.kube.client import Client
from netplane.kube.errors import StatusError
from netplane.kube.objects import name_of, resource_version_of
from netplane.kube.resources import CONFIGMAPS
from tests.contract.controlplane_process.conftest import configmap, control_plane

LARGE = "v" * 50_000


@pytest.fixture
async def plane(tmp_path):
    """Its state directory is a file system of 3 MiB."""
    async with control_plane(tmp_path, size="3m") as made:
        await made.start()
        yield made


def fill(plane) -> None:
    """Take all the room that is left."""
    done = subprocess.run(
        ["dd", "if=/dev/zero", f"of={plane.state}/ballast", "bs=4k"], capture_output=True, check=False
    )
    assert b"No space left" in done.stderr


async def write_until_full(client) -> tuple[dict[str, str], StatusError]:
    """What was acknowledged, and the first refusal."""
    acknowledged = {}
    for number in range(200):
        try:
            made = await client.create(CONFIGMAPS, configmap(f"x{number}", LARGE), "default")
        except StatusError as error:
            return acknowledged, error
        acknowledged[name_of(made)] = resource_version_of(made)
    raise AssertionError("200 objects of 50 kB fit into 3 MiB")


async def held(client) -> dict[str, str]:
    listed = await client.list(CONFIGMAPS, "default")
    return {name_of(o): resource_version_of(o) for o in listed.items if name_of(o).startswith("x")}


async def test_writes_are_refused_by_name_and_work_again_when_there_is_room(plane) -> None:
    async with Client(plane.kubeconfig) as client:
        fill(plane)
        acknowledged, error = await write_until_full(client)
        assert (error.code, error.reason) == (507, "InsufficientStorage")
        assert "cannot write to" in error.message
        assert "state.db: there is no space left. Free some; writes work again at once." in error.message
        assert await held(client) == acknowledged
        (plane.state / "ballast").unlink()
        made = await client.create(CONFIGMAPS, configmap("x-after", LARGE), "default")
        assert await held(client) == {**acknowledged, "x-after": resource_version_of(made)}


async def test_who_watches_goes_on_watching(plane) -> None:
    async with Client(plane.kubeconfig) as client, asyncio.TaskGroup() as group:
        since = (await client.list(CONFIGMAPS, "default")).resource_version
        seen = asyncio.Queue()

        async def watch() -> None:
            async for event in client.watch(CONFIGMAPS, "default", resource_version=since):
                if event["type"] != "BOOKMARK":
                    seen.put_nowait(name_of(event["object"]))

        task = group.create_task(watch())
        fill(plane)
        acknowledged, _ = await write_until_full(client)
        (plane.state / "ballast").unlink()
        await client.create(CONFIGMAPS, configmap("x-after", "0"), "default")
        async with asyncio.timeout(10):
            names = [await seen.get() for _ in range(len(acknowledged) + 1)]
        assert names == [*acknowledged, "x-after"]
        task.cancel()


async def test_a_kill_on_a_full_disk_loses_nothing_and_a_start_there_serves(plane) -> None:
    async with Client(plane.kubeconfig) as client:
        fill(plane)
        acknowledged, _ = await write_until_full(client)
        await plane.end()
        await plane.start()
        assert await held(client) == acknowledged
        with pytest.raises(StatusError) as refused:
            await client.create(CONFIGMAPS, configmap("y", LARGE), "default")
        assert refused.value.code == 507
        (plane.state / "ballast").unlink()
        await client.create(CONFIGMAPS, configmap("y", LARGE), "default")


async def test_a_backup_that_has_no_room_leaves_nothing(plane) -> None:
    fill(plane)
    async with Client(plane.kubeconfig) as client:
        await write_until_full(client)
    before = sorted((plane.state / "backups").iterdir())
    inside = ["nsenter", f"--mount=/proc/{plane.launcher.pid}/ns/mnt", sys.executable, "-m", "netplane"]
    command = [*inside, "controlplane", "backup", "--root", str(plane.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no space left" in done.stderr
    assert sorted((plane.state / "backups").iterdir()) == before
