"""The sockets that the API answers on: opened before anything is read or written, served when all is ready."""

import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from netplane.config import IPAddress
from netplane.errors import ConfigError, KernelError

STOP_SECONDS = 2.0


def listen(address: IPAddress, port: int) -> socket.socket:
    """A listening TCP socket: who connects now is answered later. Raises KernelError naming the cause."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((str(address), port))
        sock.listen(1024)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise KernelError(f"cannot listen on {address} port {port}: {error.strerror}") from None
    return sock


def tls_context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """TLS that asks for a client certificate and checks it against the cluster's authority.

    Raises ConfigError naming the file that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    load_pair(context, certificate, key)
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise ConfigError(f"cannot use {authority}: {error.strerror or error}") from None
    return context


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give a context its own certificate, also in place of an older one. Raises ConfigError."""
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"cannot use {certificate} with {key}: {error.strerror or error}") from None


@asynccontextmanager
async def serving(
    application: web.Application, sockets: Iterable[socket.socket], tls: ssl.SSLContext
) -> AsyncIterator[None]:
    """Answer on these sockets while the context is open; it closes them."""
    runner = web.AppRunner(
        application,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=STOP_SECONDS,
    )
    await runner.setup()
    try:
        for sock in sockets:
            await web.SockSite(runner, sock, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()
