"""Watches over HTTPS: what is there, what was missed, what happens now, and how each of them ends."""

import asyncio
from contextlib import asynccontextmanager

import orjson

from controlplane.store.contract import StoreError
from netplane.kube.cache import Cache
from netplane.kube.client import Client
from netplane.kube.following import follow
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.resources import PODS as POD_RESOURCE
from tests.contract.controlplane_api.conftest import ADMIN, until

PODS = "/api/v1/namespaces/default/pods"
MERGE = "application/merge-patch+json"
SECONDS = 10


def pod(name, **labels):
    containers = [{"name": "c", "image": "netplane/echo"}]
    return {"metadata": {"name": name, "labels": labels}, "spec": {"containers": containers}}


class Stream:
    """The events of one open watch, in order."""

    def __init__(self, content) -> None:
        self._content = content

    async def next(self):
        async with asyncio.timeout(SECONDS):
            return orjson.loads(await self._content.readline())

    async def words(self, count):
        found = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name")) for event in found]

    async def rest(self):
        async with asyncio.timeout(SECONDS):
            return [orjson.loads(line) for line in (await self._content.read()).splitlines()]


@asynccontextmanager
async def watch(server, path=PODS, accept="", **query):
    headers = {"Accept": accept} if accept else {}
    parameters = {"watch": "1", **query}
    async with server.session(*ADMIN).get(path, params=parameters, headers=headers) as response:
        assert response.status == 200, await response.text()
        yield Stream(response.content)


async def test_without_a_version_a_watch_begins_with_what_is_there(server) -> None:
    await server.ok("POST", PODS, pod("b"))
    await server.ok("POST", PODS, pod("a"))
    for query in ({}, {"resourceVersion": "0"}):
        async with watch(server, **query) as stream:
            assert await stream.words(2) == [("ADDED", "a"), ("ADDED", "b")]


async def test_with_a_version_a_watch_replays_what_was_missed_and_goes_on(server) -> None:
    start = (await server.ok("GET", PODS))["metadata"]["resourceVersion"]
    await server.ok("POST", PODS, pod("a"))
    await server.ok("PATCH", f"{PODS}/a", {"metadata": {"labels": {"x": "y"}}}, kind=MERGE)
    async with watch(server, resourceVersion=start) as stream:
        assert await stream.words(2) == [("ADDED", "a"), ("MODIFIED", "a")]
        gone = await server.ok("GET", f"{PODS}/a")
        await server.ok("DELETE", f"{PODS}/a")
        event = await stream.next()
    assert event["type"] == "DELETED"
    assert int(event["object"]["metadata"]["resourceVersion"]) > int(gone["metadata"]["resourceVersion"])


async def test_a_list_and_a_watch_from_it_miss_nothing_and_repeat_nothing(server) -> None:
    """Writers are at work while the watch begins; the cache ends equal to the server."""

    async def write(worker):
        for number in range(15):
            name = f"w{worker}-{number}"
            await server.ok("POST", PODS, pod(name))
            await server.ok("PATCH", f"{PODS}/{name}", {"metadata": {"labels": {"n": "1"}}}, kind=MERGE)
            if number % 3 == 0:
                await server.ok("DELETE", f"{PODS}/{name}")

    async def read():
        listed = await server.ok("GET", PODS)
        cache = Cache(POD_RESOURCE)
        cache.replace(listed["items"], listed["metadata"]["resourceVersion"])
        async with watch(server, resourceVersion=cache.resource_version) as stream:
            last = 0
            while cache.get("default", "end") is None:
                event = await stream.next()
                revision = int(event["object"]["metadata"]["resourceVersion"])
                assert revision > last
                last = revision
                assert cache.apply(event) is not None
        return {key.name: obj for key, obj in cache.objects.items()}

    async def write_all():
        async with asyncio.TaskGroup() as writers:
            for worker in range(4):
                writers.create_task(write(worker))
        await server.ok("POST", PODS, pod("end"))

    async with asyncio.TaskGroup() as group:
        group.create_task(write_all())
        readers = [group.create_task(read()) for _ in range(5)]
    now = {o["metadata"]["name"]: o for o in (await server.ok("GET", PODS))["items"]}
    assert all(reader.result() == now for reader in readers)


async def test_moving_into_and_out_of_a_selection(server) -> None:
    await server.ok("POST", PODS, pod("a", app="db"))
    start = (await server.ok("GET", PODS))["metadata"]["resourceVersion"]
    async with watch(server, resourceVersion=start, labelSelector="app=web") as live:
        for app in ("web", "web2", "web"):
            await server.ok("PATCH", f"{PODS}/a", {"metadata": {"labels": {"app": app}}}, kind=MERGE)
        want = [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]
        assert await live.words(3) == want
    async with watch(server, resourceVersion=start, labelSelector="app=web") as replayed:
        assert await replayed.words(3) == want


async def test_field_selectors_follow_a_pod_to_its_node(server) -> None:
    async with watch(server, "/api/v1/pods", fieldSelector="spec.nodeName=n1") as stream:
        await server.ok("POST", PODS, pod("a"))
        await server.ok("POST", PODS, pod("other"))
        await server.ok("POST", f"{PODS}/a/binding", {"target": {"name": "n1"}})
        event = await stream.next()
        assert (event["type"], event["object"]["spec"]["nodeName"]) == ("ADDED", "n1")


async def test_history_that_is_gone_is_an_error_event(server) -> None:
    start = (await server.ok("GET", PODS))["metadata"]["resourceVersion"]
    await server.ok("POST", PODS, pod("a"))
    await server.ok("POST", PODS, pod("b"))
    await server.store.compact(server.store.revision)
    async with watch(server, resourceVersion=start) as stream:
        (event,) = await stream.rest()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["kind"] == "Status"


async def test_history_of_other_kinds_may_go(server) -> None:
    """Nothing of Nodes has happened: their watchers need no replay, whatever was compacted."""
    start = (await server.ok("GET", "/api/v1/nodes"))["metadata"]["resourceVersion"]
    await server.ok("POST", PODS, pod("a"))
    await server.store.compact(server.store.revision)
    async with watch(server, "/api/v1/nodes", resourceVersion=start) as stream:
        await server.ok("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
        assert await stream.words(1) == [("ADDED", "n1")]


async def test_a_version_from_another_life_of_the_store_must_list_again(server) -> None:
    async with watch(server, resourceVersion="999999") as stream:
        (event,) = await stream.rest()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


async def test_a_watch_ends_when_its_time_is_over_with_a_bookmark(server) -> None:
    async with watch(server, timeoutSeconds="1", allowWatchBookmarks="true") as stream:
        made = await server.ok("POST", PODS, pod("a"))
        events = await stream.rest()
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    bookmark = events[1]["object"]
    assert bookmark["kind"] == "Pod"
    assert bookmark["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_bookmarks_say_how_far_the_store_is(server) -> None:
    async with watch(server, allowWatchBookmarks="true") as stream:
        await server.ok("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
        server.api.fanout.mark(server.store.revision)
        event = await stream.next()
    assert event["type"] == "BOOKMARK"
    assert event["object"]["metadata"]["resourceVersion"] == str(server.store.revision)


async def test_a_streaming_list_ends_with_the_bookmark_that_says_so(server) -> None:
    await server.ok("POST", PODS, pod("a"))
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    async with watch(server, **query) as stream:
        assert await stream.words(1) == [("ADDED", "a")]
        end = await stream.next()
        await server.ok("POST", PODS, pod("b"))
        assert await stream.words(1) == [("ADDED", "b")]
    assert end["type"] == "BOOKMARK"
    assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_table_watch_sends_tables(server) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    async with watch(server, accept=accept) as stream:
        await server.ok("POST", PODS, pod("a"))
        event = await stream.next()
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"][0] == "a"


async def test_one_object_can_be_watched(server) -> None:
    async with watch(server, f"{PODS}/a") as stream:
        await server.ok("POST", PODS, pod("b"))
        await server.ok("POST", PODS, pod("a"))
        assert await stream.words(1) == [("ADDED", "a")]


async def test_a_client_that_leaves_is_forgotten(server) -> None:
    async with watch(server) as stream:
        await server.ok("POST", PODS, pod("a"))
        await stream.next()
        assert server.api.fanout.watchers()[POD_RESOURCE] == 1
    await until(lambda: not server.api.fanout.watchers()[POD_RESOURCE])


async def test_our_own_client_follows(server) -> None:
    pair = server.authority.issue_client(*ADMIN[:1], ADMIN[1:])
    kubeconfig = Kubeconfig(
        server=f"https://127.0.0.1:{server.port}",
        ca=server.authority.certificate_pem,
        certificate=pair.certificate_pem,
        key=pair.key_pem,
    )
    cache, seen = Cache(POD_RESOURCE), asyncio.Queue()
    async with Client(kubeconfig) as client, asyncio.TaskGroup() as group:
        task = group.create_task(follow(client, cache, on_change=seen.put_nowait))
        await server.ok("POST", PODS, pod("a"))
        async with asyncio.timeout(SECONDS):
            assert (await seen.get()).key.name == "a"
            await server.ok("DELETE", f"{PODS}/a")
            assert (await seen.get()).kind == "DELETED"
        task.cancel()


async def test_a_store_that_cannot_replay_is_an_error_event(server, monkeypatch) -> None:
    start = (await server.ok("GET", PODS))["metadata"]["resourceVersion"]
    await server.ok("POST", PODS, pod("a"))

    async def failing(prefix, since):
        raise StoreError("cannot read state.db: the disk failed")

    monkeypatch.setattr(server.store, "changes", failing)
    async with watch(server, resourceVersion=start) as stream:
        (event,) = await stream.rest()
    assert (event["type"], event["object"]["code"]) == ("ERROR", 500)
