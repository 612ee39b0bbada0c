"""What is written, and what is written again because somebody else wrote over it."""

import asyncio
from contextlib import asynccontextmanager

from netplane.kube.resources import PODS
from netplane.node.status_writer import StatusWriter
from tests.unit.node_fakes import FakeApi

READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
NOT_READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}


def shown(api):
    return api.objects[("pods", "d", "p")]


async def until_written(api, status):
    async with asyncio.timeout(5), api.changed:
        await api.changed.wait_for(lambda: shown(api).get("status") == status)


@asynccontextmanager
async def writing(api):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"}, "spec": {}}
    await api.create(PODS, pod)
    writer = StatusWriter(api, lambda seconds: None)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writer.run())
        yield writer
        task.cancel()


async def test_a_status_that_somebody_else_changed_is_written_again():
    """The node lifecycle controller calls the pods of a silent node not ready; the node may come back."""
    api = FakeApi()
    async with writing(api) as writer:
        writer.offer(shown(api), READY)
        await until_written(api, READY)
        await api.patch(PODS, "p", {"status": NOT_READY}, namespace="d", subresource="status")
        writer.offer(shown(api), READY)
        await until_written(api, READY)


async def test_the_echo_of_our_own_write_is_no_reason_to_write():
    api = FakeApi()
    async with writing(api) as writer:
        writer.offer(shown(api), READY)
        await until_written(api, READY)
        revision = api.revision
        writer.offer(shown(api), READY)
        await asyncio.sleep(0)
        assert api.revision == revision
