"""Asking a container how it is: the I/O of probes, from the node to the pod."""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from netplane.errors import NetplaneError
from netplane.node.probes import Exec, HttpGet, Probe, Purpose, TcpConnect, Verdict
from netplane.node.runtimes import Sandbox

EAGER_SECONDS = 1.0
BODY_LIMIT = 200  # characters of an answer that are worth an event


@dataclass(frozen=True, slots=True)
class Target:
    """The container a probe speaks to."""

    sandbox: Sandbox
    container: str
    address: str


async def ask(probe: Probe, target: Target) -> str:
    """ "" for success, else why it failed, as kubelet words it."""
    try:
        async with asyncio.timeout(probe.timeout):
            match probe.check:
                case HttpGet() as check:
                    return await _http(check, target.address)
                case TcpConnect() as check:
                    return await _tcp(check, target.address)
                case Exec() as check:
                    return await _exec(check, target, probe.timeout)
    except TimeoutError:
        return f"no answer within {probe.timeout:g} s"


async def _http(check: HttpGet, address: str) -> str:
    where = _authority(check.host or address, check.port)
    url = f"{check.scheme}://{where}{check.path}"
    # As kubelet: the certificate of a probe's target is nobody's to verify. So no store of authorities is read.
    connector = aiohttp.TCPConnector(ssl=False, force_close=True)
    headers = {"User-Agent": "netplane-probe", "Accept": "*/*", **dict(check.headers)}
    try:
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if 200 <= response.status < 400:
                return ""
            return f"HTTP probe failed with statuscode: {response.status}"
    except aiohttp.ClientConnectorError as error:
        return f'Get "{url}": {_not_connected(where, error.os_error)}'
    except aiohttp.ServerDisconnectedError:
        return f'Get "{url}": EOF'
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f'Get "{url}": {error}'


async def _tcp(check: TcpConnect, address: str) -> str:
    host = check.host or address
    try:
        _, writer = await asyncio.open_connection(host, check.port)
    except OSError as error:
        return _not_connected(_authority(host, check.port), error)
    writer.close()
    with suppress(OSError):  # a reset after the handshake: it did accept
        await writer.wait_closed()
    return ""


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _not_connected(where: str, error: OSError) -> str:
    """In Go's words (net.OpError), which kubelet's events have: tools look for them."""
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:  # its number is no errno
        return f"dial tcp {where}: {error}"
    return f"dial tcp {where}: connect: {os.strerror(error.errno).lower()}"


async def _exec(check: Exec, target: Target, timeout: float) -> str:
    try:
        result = await target.sandbox.execute(target.container, check.argv, timeout=timeout)
    except NetplaneError as error:
        return str(error)
    if result.exit_code == 0:
        return ""
    said = result.output.decode("utf-8", "replace").strip()[:BODY_LIMIT]
    return said or f"command exited with {result.exit_code}"


async def probe_for_ever(
    probe: Probe,
    target: Target,
    verdict: Verdict,
    report: Callable[[Verdict, str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Ask every period, and report every verdict with the reason of its last failure, until cancelled.

    Readiness is asked for each second until it is there once: the first answer of a program that has only just been
    started is no, and nothing is gained by waiting ten seconds to ask again.
    """
    eager = probe.purpose is Purpose.READINESS and not verdict.healthy
    await sleep(probe.initial_delay)
    while True:
        problem = await ask(probe, target)
        verdict = verdict.observe(probe, ok=not problem)
        report(verdict, problem)
        eager = eager and not verdict.healthy
        await sleep(min(probe.period, EAGER_SECONDS) if eager else probe.period)
