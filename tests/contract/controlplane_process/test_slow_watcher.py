"""A watcher that does not read, at a real server: bounded, cut off, and nobody else notices."""

import asyncio
import socket
import ssl

from netplane.bench.place import memory_bytes
from netplane.kube.client import Client
from netplane.kube.resources import CONFIGMAPS
from tests.contract.controlplane_process.conftest import configmap

LARGE = "v" * 100_000
WRITES = 200  # 20 MB, of which 4 may wait for each watcher


def connected(kubeconfig) -> ssl.SSLSocket:
    """A watch that has begun, on a connection whose buffers are small."""
    port = int(kubeconfig.server.rpartition(":")[2])
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    plain.connect(("127.0.0.1", port))
    watching = kubeconfig.ssl_context().wrap_socket(plain, server_hostname="127.0.0.1")
    path = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0"
    watching.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert watching.recv(1000).startswith(b"HTTP/1.1 200")
    return watching


def read_to_the_end(watching) -> int:
    count = 0
    try:
        while piece := watching.recv(1 << 16):
            count += len(piece)
    except OSError:
        pass  # cut off, not ended
    return count


async def test_a_watcher_that_does_not_read_is_cut_off(plane) -> None:
    await plane.start()
    async with Client(plane.kubeconfig) as client, asyncio.TaskGroup() as group:
        slow = [await asyncio.to_thread(connected, plane.kubeconfig) for _ in range(20)]
        since = (await client.list(CONFIGMAPS, "default")).resource_version
        seen = asyncio.Queue()

        async def watch() -> None:
            async for event in client.watch(CONFIGMAPS, "default", resource_version=since):
                if event["type"] != "BOOKMARK":
                    seen.put_nowait(event["object"]["data"]["n"].partition("-")[0])

        task = group.create_task(watch())
        await client.create(CONFIGMAPS, configmap("x", ""), "default")
        before = memory_bytes(plane.pid)
        for number in range(WRITES):
            await client.patch(CONFIGMAPS, "x", {"data": {"n": f"{number}-{LARGE}"}}, namespace="default")
        async with asyncio.timeout(30):
            assert [await seen.get() for _ in range(WRITES + 1)] == ["", *map(str, range(WRITES))]
        task.cancel()
        # What twenty watchers may keep waiting, and as much again; without bounds it were 400 MB.
        assert memory_bytes(plane.pid) - before < 200e6
    for watching in slow:
        assert read_to_the_end(watching) < 10e6
        watching.close()
