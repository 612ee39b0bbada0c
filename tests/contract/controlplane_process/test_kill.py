"""kill -9 at any moment: what was acknowledged is there, with the revision it was acknowledged at."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from netplane.errors import PeerError
from netplane.kube.cache import Cache
from netplane.kube.client import Client
from netplane.kube.errors import StatusError
from netplane.kube.objects import name_of, resource_version_of
from netplane.kube.resources import CONFIGMAPS
from tests.contract.controlplane_process.conftest import configmap

WRITERS = 8
ABSENT = None


@dataclass
class Told:
    """What a writer knows of an object: the state that was acknowledged, and one it has asked for since."""

    state: tuple[int, str] | None = ABSENT
    asked: tuple[str | None, ...] = ()


@dataclass
class Ledger:
    """Everything that anybody was told, through all lives."""

    told: dict[str, Told] = field(default_factory=dict)
    newest: int = 0
    acknowledged: int = 0

    async def write(self, client, number) -> None:
        """Create, change and remove objects until the server is gone."""
        try:
            while True:
                name = f"w{number}-{len(self.told)}"
                told = self.told[name] = Told()
                await self.note(told, "0", client.create(CONFIGMAPS, configmap(name, "0"), "default"))
                body = {"data": {"n": "1"}}
                patch = client.patch(CONFIGMAPS, name, body, namespace="default")
                await self.note(told, "1", patch)
                if random.random() < 0.3:
                    await self.note(told, None, client.delete(CONFIGMAPS, name, "default"))
        except PeerError:
            pass

    async def note(self, told, value, request) -> None:
        told.asked = (value,)
        obj = await request
        told.asked = ()
        revision = int(resource_version_of(obj) or 0)  # a removal is answered by a Status without one
        told.state = (revision, value) if value is not None else ABSENT
        self.newest = max(self.newest, revision)
        self.acknowledged += 1

    def compare(self, listed) -> None:
        """Each object is as it was acknowledged, or as its last request asked for; from now on it is that."""
        there = {
            name_of(o): (int(resource_version_of(o)), o["data"]["n"]) for o in listed.items if "data" in o
        }
        for name, told in self.told.items():
            found = there.get(name)
            kept = found == told.state
            done = any((found[1] if found else None) == value for value in told.asked)
            assert kept or done, f"{name}: acknowledged {told.state}, asked {told.asked}, found {found}"
            if found and not kept:
                assert found[0] > self.newest_before(told)
            told.state, told.asked = found, ()
        assert int(listed.resource_version) >= self.newest
        self.newest = int(listed.resource_version)

    def newest_before(self, told) -> int:
        return told.state[0] if told.state else 0


class Follower:
    """A client that watches through all lives, as controllers do."""

    def __init__(self) -> None:
        self.cache, self.newest = Cache(CONFIGMAPS), 0
        self.refusals: list[StatusError] = []

    async def follow(self, kubeconfig) -> None:
        """Until the server is gone."""
        async with Client(kubeconfig) as client:
            try:
                if not self.cache.resource_version:
                    listed = await client.list(CONFIGMAPS, "default")
                    self.cache.replace(listed.items, listed.resource_version)
                since = self.cache.resource_version
                async for event in client.watch(CONFIGMAPS, "default", resource_version=since):
                    revision = int(resource_version_of(event["object"]))
                    assert event["type"] == "BOOKMARK" or revision > self.newest, "a revision was given twice"
                    self.newest = max(self.newest, revision)
                    self.cache.apply(event)
            except StatusError as error:
                self.refusals.append(error)
            except PeerError:
                pass


async def live(plane, ledger, follower, seconds) -> None:
    """One life: everybody writes and watches until it is killed."""
    await plane.start()
    async with Client(plane.kubeconfig) as client, asyncio.TaskGroup() as group:
        ledger.compare(await client.list(CONFIGMAPS, "default"))
        group.create_task(follower.follow(plane.kubeconfig))
        for number in range(WRITERS):
            group.create_task(ledger.write(client, number))
        await asyncio.sleep(seconds)
        assert await plane.end() == -9


async def whole(plane, ledger, follower) -> None:
    """After all of it: nothing is missing, and who watched has seen everything."""
    await plane.start()
    async with Client(plane.kubeconfig) as client, asyncio.TaskGroup() as group:
        task = group.create_task(follower.follow(plane.kubeconfig))
        ledger.compare(await client.list(CONFIGMAPS, "default"))
        await client.create(CONFIGMAPS, configmap("last", "0"), "default")
        async with asyncio.timeout(10):
            while follower.cache.get("default", "last") is None:
                await asyncio.sleep(0.01)
        listed = await client.list(CONFIGMAPS, "default")
        task.cancel()
    versions = {name_of(item): resource_version_of(item) for item in listed.items}
    assert {name_of(obj): resource_version_of(obj) for obj in follower.cache.values()} == versions
    assert not follower.refusals  # no history is lost, so nobody has to list again


async def killed(plane, times) -> Ledger:
    ledger, follower = Ledger(), Follower()
    for _ in range(times):
        await live(plane, ledger, follower, random.uniform(0.02, 0.5))
    await whole(plane, ledger, follower)
    return ledger


async def test_what_was_acknowledged_survives_tens_of_kills(plane) -> None:
    ledger = await killed(plane, 20)
    assert ledger.acknowledged > 200


@pytest.mark.long
async def test_what_was_acknowledged_survives_hundreds_of_kills(plane) -> None:
    ledger = await killed(plane, 300)
    assert ledger.acknowledged > 3000
