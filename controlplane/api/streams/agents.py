"""Connections to the node agents, with the certificate that they accept.

A node is reached by its InternalIP; the agent's certificate must be of our own CA and name that address.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import aiohttp

from controlplane.api.memory.hub import Hub
from controlplane.api.memory.records import key_for
from netplane.errors import ConfigError
from netplane.kube.errors import StatusError, bad_request, unavailable
from netplane.kube.objects import Object, name_of
from netplane.kube.resources import NODES

AGENT_PORT = 10250
MAX_MESSAGE = 16 * 1024 * 1024  # bytes of one WebSocket message, which is held whole
TEXT_LIMIT = 500  # characters of an agent's refusal


class Agents:
    """All node agents; nothing is connected before it is needed."""

    def __init__(self, pki: Path, hub: Hub) -> None:
        self._pki, self._hub = pki, hub
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    def url(self, pod: Object) -> str:
        """Where the agent of the pod's node is. Raises StatusError."""
        name = (pod.get("spec") or {}).get("nodeName")
        if not name:
            raise bad_request(f"pod {name_of(pod)} does not have a host assigned")
        node = self._hub.get(NODES, key_for(NODES, "", name))
        status = (node.obj.get("status") or {}) if node is not None else {}
        addresses = {a.get("type"): a.get("address") for a in status.get("addresses") or []}
        host = addresses.get("InternalIP")
        if not host:
            raise unavailable(f"cannot reach the agent of node {name}: it has no InternalIP")
        endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        host = f"[{host}]" if ":" in host else host
        return f"https://{host}:{endpoint.get('Port') or AGENT_PORT}"

    @property
    def session(self) -> aiohttp.ClientSession:
        """For plain requests; opened with the first. Raises ConfigError when there is no certificate."""
        if self._session is None:
            self._session = self._new_session()
        return self._session

    @asynccontextmanager
    async def conversation(
        self, url: str, query: Sequence[tuple[str, str]], protocols: Sequence[str]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket. What is left of it at the end is cut off: an agent that reads nothing would not let it go.

        Raises aiohttp's errors.
        """
        async with self._new_session() as session:
            agent = await session.ws_connect(
                url, params=query, protocols=protocols, compress=0, max_msg_size=MAX_MESSAGE
            )
            try:
                yield agent
            finally:
                assert session.connector is not None
                await session.connector.close(abort_ssl=True)
                await agent.close()  # nothing is sent any more: it only lets go of what was cut

    def _new_session(self) -> aiohttp.ClientSession:
        if self._context is None:
            self._context = self._tls()
        connector = aiohttp.TCPConnector(limit=0, ssl=self._context)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        return aiohttp.ClientSession(connector=connector, timeout=timeout)

    def _tls(self) -> ssl.SSLContext:
        certificate = self._pki / "apiserver-kubelet-client.crt"
        try:
            context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
            context.load_cert_chain(certificate, self._pki / "apiserver-kubelet-client.key")
        except OSError as error:
            raise ConfigError(f"cannot use {certificate}: {error.strerror or error}") from None
        return context


def refusal(code: int, text: str) -> StatusError:
    """What an agent answered, as a Status."""
    reason = {400: "BadRequest", 404: "NotFound"}.get(code, "InternalError")
    code = code if code >= 400 else 500
    return StatusError(code, reason, text[:TEXT_LIMIT].strip() or f"the node agent answered {code}")


def unreachable(pod: Object, error: Exception) -> StatusError:
    """No answer from the pod's node."""
    node = pod["spec"]["nodeName"]
    return unavailable(f"cannot reach the agent of node {node}: {error or 'timed out'}")
