"""10250 answers the API server's certificate and nobody else's; logs as `kubectl logs` asks for them."""

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest

from controlplane.auth.pki import Authority
from netplane.node import logs
from netplane.node.sandbox.containers import split
from netplane.node.server import AgentServer, Certificates, serving

LINES = b"""2026-01-01T00:00:00.000000001Z stdout F one
2026-01-01T00:00:01.000000001Z stderr P tw
2026-01-01T00:00:01.000000002Z stderr F o
2026-01-01T00:00:02.000000001Z stdout F three
"""


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")
    ours, theirs = Authority.create(directory / "ours"), Authority.create(directory / "theirs")
    ours.issue_server("n1", ["127.0.0.1"]).write(directory / "node.crt", directory / "node.key")
    for name, authority, cn, groups in (
        ("api", ours, "kube-apiserver-kubelet-client", ("system:masters",)),
        ("admin", ours, "kubernetes-admin", ("system:masters",)),
        ("forged", theirs, "kube-apiserver-kubelet-client", ("system:masters",)),
    ):
        authority.issue_client(cn, groups).write(directory / f"{name}.crt", directory / f"{name}.key")
    return directory


class Worker:
    running = False

    def __init__(self):
        self.pod = {"metadata": {"name": "p", "namespace": "d", "uid": "u"}}

    def attempt_of(self, container):
        return 1 if container == "c" else None

    def is_running(self, container, attempt):
        return self.running and attempt == 1


@pytest.fixture
async def door(pki, tmp_path, unused_tcp_port):
    (tmp_path / "1.log").write_bytes(LINES)
    worker = Worker()
    pods = SimpleNamespace(
        find=lambda ns, name: worker if (ns, name) == ("d", "p") else None, objects=lambda: [worker.pod]
    )
    app = AgentServer(pods, lambda pod, container, attempt: tmp_path / f"{attempt}.log").app()
    tls = Certificates(pki / "ours/ca.crt", pki / "node.crt", pki / "node.key").context()
    async with serving(app, "127.0.0.1", unused_tcp_port, tls):
        yield SimpleNamespace(
            url=f"https://127.0.0.1:{unused_tcp_port}", worker=worker, log=tmp_path / "1.log"
        )


async def get(pki, door, path, who="api", **query):
    context = ssl.create_default_context(cafile=str(pki / "ours/ca.crt"))
    if who:
        context.load_cert_chain(pki / f"{who}.crt", pki / f"{who}.key")
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(door.url + path, params=query) as response,
    ):
        return response.status, await response.text()


@pytest.mark.parametrize("path", ["/healthz", "/pods", "/containerLogs/d/p/c", "/nothing"])
async def test_only_the_api_server_is_answered(pki, door, path):
    assert (await get(pki, door, path, who=""))[0] == 401
    status, text = await get(pki, door, path, who="admin")
    assert (status, text) == (403, "Forbidden: kubernetes-admin is not the API server\n")
    with pytest.raises((aiohttp.ClientError, ssl.SSLError, ConnectionError)):
        await get(pki, door, path, who="forged")


async def test_the_api_server_is(pki, door):
    assert await get(pki, door, "/healthz") == (200, "ok")
    assert '"name":"p"' in (await get(pki, door, "/pods"))[1]


async def test_logs(pki, door):
    path = "/containerLogs/d/p/c"
    assert await get(pki, door, path) == (200, "one\ntwo\nthree\n")
    assert (await get(pki, door, path, tailLines="1"))[1] == "three\n"
    stamped = (await get(pki, door, path, tailLines="1", timestamps="true"))[1]
    assert stamped == "2026-01-01T00:00:02.000000001Z three\n"
    assert (await get(pki, door, path, sinceTime="2026-01-01T00:00:02Z"))[1] == "three\n"
    assert (await get(pki, door, path, limitBytes="5"))[1] == "one\nt"


@pytest.mark.parametrize(
    ("path", "query", "status", "text"),
    [
        ("/containerLogs/d/none/c", {}, 404, "pod d/none is not on this node"),
        (
            "/containerLogs/d/p/none",
            {},
            400,
            'container "none" in pod "p" is waiting to start: ContainerCreating',
        ),
        ("/containerLogs/d/p/c", {"tailLines": "x"}, 400, "tailLines must be a whole number"),
        ("/containerLogs/d/p/c", {"sinceTime": "x"}, 400, "sinceTime 'x' is not a time"),
        (
            "/containerLogs/d/p/c",
            {"previous": "true"},
            400,
            'previous terminated container "c" in pod "p" not found',
        ),
    ],
)
async def test_log_requests_that_cannot_be_answered(pki, door, path, query, status, text):
    found, said = await get(pki, door, path, **query)
    assert found == status
    assert text in said


async def test_following_sees_what_is_added_also_over_a_rotation(tmp_path):
    path, state = tmp_path / "0.log", SimpleNamespace(over=False)
    path.write_bytes(LINES)
    found = []
    gate = asyncio.Event()

    async def follow():
        async for line in logs.read(path, logs.LogOptions(follow=True, tail=1), lambda: state.over):
            found.append(line)
            gate.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        await gate.wait()
        path.rename(Path(f"{path}.1"))
        path.write_bytes(b"2026-01-01T00:00:03.000000001Z stdout F four\n")
        gate.clear()
        await gate.wait()
        with path.open("ab") as file:
            file.write(b"2026-01-01T00:00:04.000000001Z stdout F five\n")
        state.over = True
    assert found == [b"three\n", b"four\n", b"five\n"]


def test_options_refuse_nothing_silently():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert logs.LogOptions.parse({"sinceSeconds": "60"}, now).since == datetime(
        2025, 12, 31, 23, 59, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("data", "ended", "entries", "rest"),
    [
        (b"a\nb", False, [(b"a", True)], b"b"),
        (b"a\nb", True, [(b"a", True), (b"b", True)], b""),
        (b"x" * 20000 + b"\n", False, [(b"x" * 16384, False), (b"x" * 3616, True)], b""),
        (b"x" * 20000, False, [(b"x" * 16384, False)], b"x" * 3616),
        (b"", True, [], b""),
    ],
)
def test_cutting_output_into_entries(data, ended, entries, rest):
    assert split(data, ended=ended) == (entries, rest)
