"""Python's Kubernetes clients, as their users write them: objects, watches, logs, exec and port-forward.

lightkube has no port-forward of its own; kubernetes_asyncio gives its user the WebSocket, with the channels to read;
kr8s sends no stdin (it asks for v4 and wants v5 for that).
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import kr8s
import kr8s.asyncio
import lightkube
import pytest
from kr8s.asyncio.objects import ConfigMap as Kr8sConfigMap
from kr8s.asyncio.objects import Pod as Kr8sPod
from kubernetes_asyncio import client as ka
from kubernetes_asyncio import config as ka_config
from kubernetes_asyncio import watch as ka_watch
from kubernetes_asyncio.stream import WsApiClient
from lightkube.core.exceptions import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Pod
from lightkube.types import PatchType

from tests.e2e.cluster.driver import Lab, eventually, ready

POD = "clients"


@pytest.fixture(autouse=True)
def leftovers() -> Iterator[None]:
    """What a client left open is found here, and not in the middle of whatever runs next."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Iterator[str]:
    """A pod with a container that answers HTTP on 8080 and has a line in its log."""
    lab.kubectl("run", POD, "--image=netplane/echo", "--restart=Never", "--grace-period=1")
    eventually(lambda: ready(lab.get("pod", POD)), "the pod ready")
    yield POD
    lab.kubectl("delete", "pod", POD, "--grace-period=0", "--wait=false")


REQUEST = b"GET /from-python HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"


async def test_lightkube(lab: Lab, pod: str) -> None:
    kubeconfig = lightkube.KubeConfig.from_file(lab.kubeconfig)
    client = lightkube.AsyncClient(config=kubeconfig, namespace="default")
    try:
        name = "lightkube"
        made = await client.create(
            ConfigMap(metadata=ObjectMeta(name=name, labels={"by": name}), data={"a": "1"})
        )
        assert made.metadata is not None
        version = made.metadata.resourceVersion
        watching = client.watch(ConfigMap, labels={"by": name}, resource_version=version)
        await client.patch(ConfigMap, name, {"data": {"b": "2"}})
        await client.patch(ConfigMap, name, {"data": {"c": "3"}}, patch_type=PatchType.MERGE)
        async with asyncio.timeout(20):
            seen = [(await anext(watching))[1].data for _ in range(2)]
        assert seen == [{"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": "3"}]
        listed = [item async for item in client.list(ConfigMap, labels={"by": name})]
        assert [item.data for item in listed] == seen[1:]
        made = await client.get(ConfigMap, name)
        made.data = {"d": "4"}
        assert (await client.replace(made)).data == {"d": "4"}
        await client.delete(ConfigMap, name)
        with pytest.raises(ApiError) as missing:
            await client.get(ConfigMap, name)
        assert missing.value.status.reason == "NotFound"
        assert missing.value.status.code == 404

        assert [line async for line in client.log(pod, tail_lines=1)] != []
        script = "cat; echo problem >&2; exit 3"
        done = await client.exec(pod, command=["sh", "-c", script], stdin="said", stdout=True, stderr=True)
        assert (done.stdout, done.stderr, done.exit_code) == ("said", "problem\n", 3)
        found = await client.get(Pod, pod)
        assert found.status is not None
        assert found.status.phase == "Running"
    finally:
        await client.close()


async def test_kubernetes_asyncio(lab: Lab, pod: str) -> None:
    configuration = ka.Configuration()
    await ka_config.load_kube_config(lab.kubeconfig, client_configuration=configuration)
    async with ka.ApiClient(configuration) as api:
        core = ka.CoreV1Api(api)
        name = "kubernetes-asyncio"
        body = ka.V1ConfigMap(metadata=ka.V1ObjectMeta(name=name, labels={"by": name}), data={"a": "1"})
        made = await core.create_namespaced_config_map("default", body)
        patched = await core.patch_namespaced_config_map(name, "default", {"data": {"b": "2"}})
        assert patched.data == {"a": "1", "b": "2"}
        patched.data = {"c": "3"}
        await core.replace_namespaced_config_map(name, "default", patched)
        seen = []
        async with asyncio.timeout(20), ka_watch.Watch() as watcher:
            async for event in watcher.stream(
                core.list_namespaced_config_map,
                "default",
                label_selector=f"by={name}",
                resource_version=made.metadata.resource_version,
            ):
                seen.append((event["type"], event["object"].data))
                if len(seen) == 2:
                    watcher.stop()
        assert seen == [("MODIFIED", {"a": "1", "b": "2"}), ("MODIFIED", {"c": "3"})]
        assert len((await core.list_namespaced_config_map("default", label_selector=f"by={name}")).items) == 1
        await core.delete_namespaced_config_map(name, "default")
        with pytest.raises(ka.ApiException) as missing:
            await core.read_namespaced_config_map(name, "default")
        assert missing.value.status == 404
        assert await core.read_namespaced_pod_log(pod, "default", tail_lines=1)

    async with WsApiClient(configuration) as api:
        core = ka.CoreV1Api(api)
        said = await core.connect_get_namespaced_pod_exec(
            pod, "default", command=["echo", "hello"], stdout=True, stderr=True, stdin=False, tty=False
        )
        assert said == "hello\n"
        opening = await core.connect_get_namespaced_pod_exec(
            pod, "default", command=["sh", "-c", "exit 4"], stdout=True, stderr=True, _preload_content=False
        )
        async with opening as ws:
            last = [message.data async for message in ws][-1]
        assert WsApiClient.parse_error_data(last[1:]) == 4

        opening = await core.connect_get_namespaced_pod_portforward(
            pod, "default", ports=8080, _preload_content=False
        )
        async with opening as ws, asyncio.timeout(20):
            assert await ws.receive_bytes() == b"\x00" + (8080).to_bytes(2, "little")
            assert await ws.receive_bytes() == b"\x01" + (8080).to_bytes(2, "little")
            await ws.send_bytes(b"\x00" + REQUEST)
            answer = b"".join([message.data[1:] async for message in ws if message.data[0] == 0])
        assert b'"path": "/from-python"' in answer


async def test_kr8s(lab: Lab, pod: str) -> None:
    api = await kr8s.asyncio.api(kubeconfig=lab.kubeconfig)
    name = "kr8s"
    spec = {"metadata": {"name": name, "namespace": "default", "labels": {"by": name}}, "data": {"a": "1"}}
    made = await Kr8sConfigMap(spec, api=api)
    await made.create()
    watched = api.watch("configmaps", namespace="default", label_selector={"by": name})
    async with aclosing(watched) as watching, asyncio.timeout(20):
        assert (await anext(watching))[0] == "ADDED"
        await made.patch({"data": {"b": "2"}})
        kind, changed = await anext(watching)
    assert (kind, changed.data) == ("MODIFIED", {"a": "1", "b": "2"})
    found = [item async for item in api.get("configmaps", namespace="default", label_selector={"by": name})]
    assert [item.name for item in found] == [name]
    await made.delete()
    await eventually_gone(made)

    running = await Kr8sPod.get(pod, namespace="default", api=api)
    assert [line async for line in running.logs(tail_lines=1)] != []
    done = await running.exec(["sh", "-c", "echo said; echo problem >&2; exit 3"], check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"said\n", b"problem\n", 3)
    async with running.portforward(remote_port=8080, local_port="auto") as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert b'"path": "/from-python"' in await reader.read()
        writer.close()
        await writer.wait_closed()
    await (
        api._session.aclose()
    )  # kr8s has no word for it, and leaves it to the garbage collector of another test


async def eventually_gone(thing: Any) -> None:
    deadline = time.monotonic() + 20
    while await thing.exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
