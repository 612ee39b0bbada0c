"""Where people and programs look at a running proxy: metrics, health, and a socket for netplane's own tools.

Why a unix socket beside HTTP: flows and targets are this node's business, for its root only.
"""

import asyncio
import contextlib
import inspect
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from netplane.errors import KernelError, NetplaneError, cause_of
from netplane.metrics import Page, render
from proxy.health import Health
from proxy.metrics import SyncMetrics

log = logging.getLogger(__name__)

Answer = Callable[[], Any]
MAX_QUESTION = 4096


def metrics_pages(registry: CollectorRegistry, refresh: Callable[[], Awaitable[None]]) -> Mapping[str, Page]:
    """What port 10249 serves, once the workers have said what they counted."""

    async def metrics() -> web.Response:
        await refresh()
        return render(registry)

    return {"/metrics": metrics}


def health_pages(health: Health, metrics: SyncMetrics) -> Mapping[str, Page]:
    """What port 10256 serves."""

    def page(name: str, *, with_node: bool) -> web.Response:
        status, body = health.page(time(), with_node=with_node)
        metrics.health[name].labels(str(status)).inc()
        headers = {"X-Content-Type-Options": "nosniff"}
        return web.Response(status=status, text=body, content_type="application/json", headers=headers)

    return {
        "/healthz": lambda: page("healthz", with_node=True),
        "/livez": lambda: page("livez", with_node=False),
    }


@asynccontextmanager
async def tool_socket(path: Path, answers: Mapping[str, Answer]) -> AsyncIterator[None]:
    """Answer ``{"op": name}`` lines on a unix socket with ``{name: answer}`` lines, while the context is open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.LimitOverrunError):
            while line := await reader.readline():
                writer.write(orjson.dumps(await _answer(line, answers)) + b"\n")
                await writer.drain()
        writer.close()

    sock = _bind(path)
    server = await asyncio.start_unix_server(serve, sock=sock, limit=MAX_QUESTION)
    try:
        yield
    finally:
        server.close()


def _bind(path: Path) -> socket.socket:
    """A socket that root alone may use, in the place of one that a dead process left."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise KernelError(f"cannot open the tools' socket {path}: {cause_of(error)}") from None
    finally:
        os.umask(before)
    return sock


async def _answer(line: bytes, answers: Mapping[str, Answer]) -> dict[str, Any]:
    try:
        op = orjson.loads(line)["op"]
        answer = answers[op]()
        return {op: await answer if inspect.isawaitable(answer) else answer}
    except NetplaneError as error:
        return {"error": str(error)}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {"error": f'ask for one of {", ".join(sorted(answers))}, as {{"op": NAME}}'}
