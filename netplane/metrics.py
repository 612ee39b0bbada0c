"""The small HTTP doors of the daemons: ``/metrics`` for Prometheus, ``/healthz`` and ``/livez`` for probes."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from netplane.errors import KernelError

Page = Callable[[], web.Response | Awaitable[web.Response]]


def render(registry: CollectorRegistry) -> web.Response:
    """The registry in Prometheus' text format."""
    headers = {"Content-Type": CONTENT_TYPE_LATEST}
    return web.Response(body=generate_latest(registry), headers=headers)


@asynccontextmanager
async def serve_http(addresses: Iterable[tuple[str, int]], pages: Mapping[str, Page]) -> AsyncIterator[None]:
    """Serve GET ``pages`` on all ``addresses`` while the context is open.

    Raises KernelError naming the address that cannot be bound.
    """
    app = web.Application()
    for path, page in pages.items():
        app.router.add_get(path, _answering(page))
    # A connection that comes while the server closes may never be heard; nobody waits a minute for it.
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        for host, port in addresses:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise KernelError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        yield
    finally:
        await runner.cleanup()


def _answering(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        found = page()
        return await found if inspect.isawaitable(found) else found

    return answer
