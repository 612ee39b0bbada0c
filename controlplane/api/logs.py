"""`kubectl logs`: the pod's node agent is asked, as the API server, and its answer passed on as it comes.

Source: the kubelet's ``/containerLogs`` endpoint; query parameters are ``v1.PodLogOptions``'.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import web

from controlplane.api.hub import Hub
from controlplane.api.records import key_for
from netplane.errors import ConfigError
from netplane.kube.errors import StatusError, bad_request, unavailable
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import NODES

AGENT_PORT = 10250
_PASSED = ("follow", "previous", "sinceSeconds", "sinceTime", "tailLines", "timestamps", "limitBytes")


class LogProxy:
    """Connections to the node agents, with the certificate that they accept."""

    def __init__(self, pki: Path, hub: Hub) -> None:
        self._pki, self._hub = pki, hub
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def stream(self, request: web.Request, pod: Object, query: Mapping[str, str]) -> web.StreamResponse:
        """Answer one request for a container's log. Raises StatusError."""
        container = _container(pod, query.get("container", ""))
        url = self._agent(pod) + f"/containerLogs/{namespace_of(pod)}/{name_of(pod)}/{container}"
        parameters = {name: query[name] for name in _PASSED if name in query}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        try:
            async with self._open().get(url, params=parameters, timeout=timeout) as answer:
                if answer.status != 200:
                    raise _refusal(answer.status, await answer.text())
                return await _pass_on(request, answer)
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            node = pod["spec"]["nodeName"]
            raise unavailable(f"cannot read the log from node {node}: {error or 'timed out'}") from None

    def _agent(self, pod: Object) -> str:
        """The URL of the pod's node agent."""
        name = (pod.get("spec") or {}).get("nodeName")
        if not name:
            raise bad_request(f"pod {name_of(pod)} does not have a host assigned")
        node = self._hub.get(NODES, key_for(NODES, "", name))
        status = (node.obj.get("status") or {}) if node is not None else {}
        addresses = {a.get("type"): a.get("address") for a in status.get("addresses") or []}
        host = addresses.get("InternalIP")
        if not host:
            raise unavailable(f"cannot read the log: node {name} has no InternalIP")
        endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        host = f"[{host}]" if ":" in host else host
        return f"https://{host}:{endpoint.get('Port') or AGENT_PORT}"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ssl=self._tls())
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    def _tls(self) -> ssl.SSLContext:
        certificate = self._pki / "apiserver-kubelet-client.crt"
        try:
            context = ssl.create_default_context(cafile=str(self._pki / "ca.crt"))
            context.load_cert_chain(certificate, self._pki / "apiserver-kubelet-client.key")
        except OSError as error:
            raise ConfigError(f"cannot use {certificate}: {error.strerror or error}") from None
        return context


def _refusal(code: int, text: str) -> StatusError:
    reason = {400: "BadRequest", 404: "NotFound"}.get(code, "InternalError")
    return StatusError(code, reason, text[:500].strip() or f"the node agent answered {code}")


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """The agent's bytes as they come. Once the head is out, a failure can only be a cut connection."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    return response


def _container(pod: Object, wanted: str) -> str:
    spec = pod.get("spec") or {}
    names = [c["name"] for field in ("containers", "initContainers") for c in spec.get(field) or []]
    if wanted:
        if wanted not in names:
            raise bad_request(f"container {wanted} is not valid for pod {name_of(pod)}")
        return wanted
    regular = [c["name"] for c in spec.get("containers") or []]
    if len(regular) != 1:
        text = (
            f"a container name must be specified for pod {name_of(pod)}, choose one of: [{' '.join(regular)}]"
        )
        raise bad_request(text)
    return str(regular[0])
