"""The echo image: what it answers, what it refuses, and how it stops."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import pytest

from netplane.node.images import module_of
from netplane.node.images.echo import BadRequestError, Identity, main, parse_head, render_answer


@dataclass(frozen=True, slots=True)
class Running:
    process: asyncio.subprocess.Process
    http: int
    echo: int


@asynccontextmanager
async def echo_image() -> AsyncIterator[Running]:
    identity = {"NETPLANE_POD": "web-0", "NETPLANE_NAMESPACE": "default", "NETPLANE_NODE": "n1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "netplane.node.images.echo",
        env={**os.environ, "PORT": "0", "ECHO_PORT": "0", **identity},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        words = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().replace(",", "").split()
        yield Running(process, int(words[3]), int(words[6]))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], dict[str, object]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, json.loads(body)


async def get(port: int, target: str) -> tuple[int, dict[str, str], dict[str, object]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n".encode())
    try:
        return await answer(reader)
    finally:
        writer.close()


async def test_says_who_answers_and_whom_it_saw() -> None:
    async with echo_image() as image:
        status, _, body = await get(image.http, "/some/path?x=1")
        assert status == 200
        assert isinstance(body.pop("clientPort"), int)
        assert body == {
            "pod": "web-0",
            "namespace": "default",
            "node": "n1",
            "client": "127.0.0.1",
            "host": "hello",
            "path": "/some/path?x=1",
        }
        assert (await get(image.http, "/healthz"))[2] == {"status": "ok"}


async def test_a_connection_is_kept_for_more_requests() -> None:
    async with echo_image() as image:
        reader, writer = await asyncio.open_connection("127.0.0.1", image.http)
        for number in range(3):
            writer.write(f"POST /{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".encode())
            status, headers, body = await answer(reader)
            assert (status, headers["connection"], body["path"]) == (200, "keep-alive", f"/{number}")
        writer.close()


async def test_stop_finishes_open_requests_closes_idle_ones_and_exits_zero() -> None:
    async with echo_image() as image:
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", image.http)
        reader, writer = await asyncio.open_connection("127.0.0.1", image.http)
        writer.write(b"GET /?delay=700 HTTP/1.1\r\nHost: h\r\n\r\n")
        # An answer on a later connection proves that the earlier request has been taken up.
        await get(image.http, "/")
        image.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(idle_reader.read(), 10) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", image.http)
        status, headers, _ = await asyncio.wait_for(answer(reader), 10)
        assert (status, headers["connection"]) == (200, "close")
        assert await asyncio.wait_for(image.process.wait(), 10) == 0
        idle_writer.close()
        writer.close()


async def test_tcp_echo_says_who_answers_and_returns_every_byte() -> None:
    async with echo_image() as image:
        reader, writer = await asyncio.open_connection("127.0.0.1", image.echo)
        banner = (await reader.readline()).decode()
        assert banner.startswith("pod=web-0 namespace=default node=n1 client=127.0.0.1:")
        writer.write(b"some\nbytes")
        writer.write_eof()
        assert await reader.read() == b"some\nbytes"
        writer.close()


async def test_udp_echo_says_who_answers() -> None:
    async with echo_image() as image:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("127.0.0.1", image.echo))
            client.send(b"ping")
            received = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 2048), 10)
        first, rest = received.split(b"\n", 1)
        assert (first.split()[0], rest) == (b"pod=web-0", b"ping")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /?delay=never HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    ],
)
async def test_a_bad_request_is_answered_and_the_connection_closed(request_bytes: bytes, status: int) -> None:
    async with echo_image() as image:
        reader, writer = await asyncio.open_connection("127.0.0.1", image.http)
        writer.write(request_bytes)
        assert (await answer(reader))[0] == status
        assert await reader.read() == b""
        writer.close()


def test_head_parsing() -> None:
    request = parse_head(b"HEAD http://h/a?delay=5 HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n")
    assert (request.method, request.path, request.delay, request.keep_alive) == ("HEAD", "/a", 0.005, True)
    with pytest.raises(BadRequestError, match="not an HTTP/1 request line"):
        parse_head(b"GET / HTTP/2\r\n\r\n")


def test_head_has_the_length_but_not_the_body() -> None:
    raw = render_answer(HTTPStatus.OK, {"a": 1}, keep_alive=True, head_only=True)
    assert b"content-length: 9\r\n" in raw
    assert raw.endswith(b"\r\n\r\n")


def test_identity_falls_back_to_the_host_name() -> None:
    assert Identity.from_environment({}).pod != ""


def test_a_port_that_is_none_is_named() -> None:
    with pytest.raises(SystemExit, match="PORT='eighty' is not a port"):
        main({"PORT": "eighty"})


def test_built_in_images_by_name() -> None:
    for image in ("netplane/echo", "netplane/echo:v1", "netplane/echo@sha256:00"):
        assert module_of(image) == "netplane.node.images.echo"
    assert module_of("nginx:1") is None
    assert module_of("registry.example:5000/netplane/echo") is None
