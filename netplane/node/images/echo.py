"""The image `netplane/echo`: a server that says who it is and whom it saw.

Demos and tests need one thing from a pod: an answer that proves which pod, on which node, was reached, from
which client address. Every pod of a test starts one, so it starts fast: it imports nothing but the standard
library.

  PORT       HTTP/1.1 (default 8080): any path answers JSON, `/healthz` answers for probes, `?delay=MS` waits
             first
  ECHO_PORT  TCP and UDP echo (default 8081): the first line says who answers, then every byte comes back

SIGTERM stops accepting, lets open requests finish, closes idle connections and exits with 0.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 16 * 1024 * 1024
DELAY_LIMIT_MS = 60_000
DATAGRAM_LIMIT = 64 * 1024
BACKLOG = 1024
LATE_REQUEST_SECONDS = 1.0
ACCEPT_TURNS = 8
"""Turns of the event loop from a connection in the kernel's queue to its first read, with room to spare."""


class BadRequestError(ValueError):
    """The peer's request cannot be served; the connection ends after the answer."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answers; the node agent gives it to every container by environment."""

    pod: str
    namespace: str
    node: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Identity":
        """Falls back to the host name, so that the image also runs by hand."""
        return cls(
            pod=environment.get("NETPLANE_POD") or socket.gethostname(),
            namespace=environment.get("NETPLANE_NAMESPACE", ""),
            node=environment.get("NETPLANE_NODE", ""),
        )

    def banner(self, client: str, port: int) -> bytes:
        """The first line of the echo ports, the same facts as the JSON has, on one line."""
        return f"pod={self.pod} namespace={self.namespace} node={self.node} client={client}:{port}\n".encode()


@dataclass(frozen=True, slots=True)
class Request:
    """One parsed request head (RFC 9112); the body is only ever skipped."""

    method: str
    target: str
    host: str
    keep_alive: bool
    body_length: int
    expects_continue: bool

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path or "/"

    @property
    def delay(self) -> float:
        """Seconds to wait before answering. Raises BadRequestError for a delay that is no number in range."""
        text = parse_qs(urlsplit(self.target).query).get("delay", ["0"])[-1]
        if not text.isascii() or not text.isdigit() or int(text) > DELAY_LIMIT_MS:
            raise BadRequestError(
                HTTPStatus.BAD_REQUEST, f"delay: {text!r} is not between 0 and {DELAY_LIMIT_MS} ms"
            )
        return int(text) / 1000


def parse_head(head: bytes) -> Request:
    """The request in `head`, which ends with an empty line. Raises BadRequestError."""
    lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[0].isupper() or not parts[2].startswith("HTTP/1."):
        raise BadRequestError(HTTPStatus.BAD_REQUEST, f"not an HTTP/1 request line: {lines[0][:80]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequestError(HTTPStatus.BAD_REQUEST, f"not a header line: {line[:80]!r}")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise BadRequestError(
            HTTPStatus.NOT_IMPLEMENTED, "transfer-encoding: send a body with content-length instead"
        )
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > BODY_LIMIT:
        raise BadRequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"content-length: {length[:40]!r} is not taken"
        )
    connection = headers.get("connection", "").lower()
    wanted = "keep-alive" in connection if parts[2] == "HTTP/1.0" else "close" not in connection
    return Request(
        method=parts[0],
        target=parts[1],
        host=headers.get("host", ""),
        keep_alive=wanted,
        body_length=int(length),
        expects_continue=headers.get("expect", "").lower() == "100-continue",
    )


def render_answer(
    status: HTTPStatus, body: Mapping[str, object], *, keep_alive: bool, head_only: bool
) -> bytes:
    """One whole HTTP answer with a JSON body that ends in a newline."""
    content = json.dumps(body).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(content)}\r\n"
        f"connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    ).encode()
    return head if head_only else head + content


def peer_of(address: tuple[object, ...]) -> tuple[str, int]:
    """Address and port as a person writes them: a v4 client on a dual-stack socket is shown as v4."""
    host, port = str(address[0]), address[1]
    assert isinstance(port, int)
    return host.removeprefix("::ffff:"), port


@dataclass(slots=True)
class Server:
    """The open connections, and which of them may be closed without harm."""

    identity: Identity
    draining: bool = False
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    idle: set[asyncio.StreamWriter] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one HTTP connection until either side ends it."""
        self.open.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except BadRequestError as error:
            body = {"error": str(error)}
            writer.write(render_answer(error.status, body, keep_alive=False, head_only=False))
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            pass  # the peer went away, or asked for nothing: there is nobody to tell
        finally:
            await self._gone(writer)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; True when the connection stays open."""
        self.idle.add(writer)
        # Accepted while stopping: its request is on its way or never comes.
        async with asyncio.timeout(LATE_REQUEST_SECONDS if self.draining else None):
            first = await reader.readexactly(1)
        self.idle.discard(writer)
        try:
            request = parse_head(first + await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError as error:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise BadRequestError(status, f"more than {HEAD_LIMIT} bytes of headers") from error
        if request.expects_continue:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await skip(reader, request.body_length)
        await asyncio.sleep(request.delay)
        keep = request.keep_alive and not self.draining
        status = HTTPStatus.OK
        if request.path == "/healthz":
            body: dict[str, object] = {"status": "stopping" if self.draining else "ok"}
            status = HTTPStatus.SERVICE_UNAVAILABLE if self.draining else HTTPStatus.OK
        else:
            body = self._report(request, writer)
        writer.write(render_answer(status, body, keep_alive=keep, head_only=request.method == "HEAD"))
        await writer.drain()
        return keep

    def _report(self, request: Request, writer: asyncio.StreamWriter) -> dict[str, object]:
        client, port = peer_of(writer.get_extra_info("peername"))
        return {
            "pod": self.identity.pod,
            "namespace": self.identity.namespace,
            "node": self.identity.node,
            "client": client,
            "clientPort": port,
            "host": request.host,
            "path": request.target,
        }

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says who answers, then returns every byte until the peer has finished."""
        self.open.add(writer)
        try:
            writer.write(self.identity.banner(*peer_of(writer.get_extra_info("peername"))))
            while data := await self._read_idle(reader, writer):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the peer went away
        finally:
            await self._gone(writer)

    async def _read_idle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        self.idle.add(writer)
        data = await reader.read(64 * 1024)
        self.idle.discard(writer)
        return data

    async def _gone(self, writer: asyncio.StreamWriter) -> None:
        self.idle.discard(writer)
        writer.close()
        with contextlib.suppress(OSError):  # reset while closing: gone is gone
            await writer.wait_closed()
        self.open.discard(writer)
        if not self.open:
            self.empty.set()

    async def drain(self) -> None:
        """Ends idle connections and waits until the others have their answer."""
        self.draining = True
        for writer in tuple(self.idle):
            writer.close()
        while self.open:
            self.empty.clear()
            await self.empty.wait()


def echo_datagrams(sock: socket.socket, identity: Identity) -> None:
    """Returns every datagram that waits, each behind a first line that says who answers."""
    while True:
        try:
            data, address = sock.recvfrom(DATAGRAM_LIMIT)
            sock.sendto(identity.banner(*peer_of(address)) + data, address)
        except BlockingIOError:
            return
        except OSError:
            continue  # an earlier answer was refused, or this one is too long: the next datagram is another's


async def skip(reader: asyncio.StreamReader, length: int) -> None:
    """Reads and forgets a request's body."""
    while length:
        chunk = await reader.read(min(length, 64 * 1024))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(chunk)


def bind(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket for every address of both families, or of IPv4 alone where the host has no IPv6."""
    try:
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        address: tuple[str, int] = ("::", port)
    except OSError:
        sock = socket.socket(socket.AF_INET, kind)
        address = ("0.0.0.0", port)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.setblocking(False)
    return sock


async def serve(identity: Identity, http_port: int, echo_port: int) -> None:
    """Serves until SIGTERM or SIGINT; port 0 lets the kernel choose (the first line of output names it)."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(identity)
    http = bind(socket.SOCK_STREAM, http_port)
    echo = bind(socket.SOCK_STREAM, echo_port)
    datagrams = bind(socket.SOCK_DGRAM, echo.getsockname()[1])
    loop.add_reader(datagrams, echo_datagrams, datagrams, identity)
    listeners = [
        await asyncio.start_server(server.http, sock=http, limit=HEAD_LIMIT, backlog=BACKLOG),
        await asyncio.start_server(server.echo, sock=echo, backlog=BACKLOG),
    ]
    sys.stdout.write(f"echo: http on {http.getsockname()[1]}, echo on {echo.getsockname()[1]}\n")
    sys.stdout.flush()
    await stopping.wait()
    # A closed listener resets what waits in its queue: the turns before accept it, those after start it.
    await turns()
    for listener in listeners:
        listener.close()
    await turns()
    loop.remove_reader(datagrams)
    datagrams.close()
    await server.drain()


async def turns() -> None:
    """Lets what is ready in the event loop happen."""
    for _ in range(ACCEPT_TURNS):
        await asyncio.sleep(0)


def port_from(environment: Mapping[str, str], name: str, default: int) -> int:
    """The port in an environment variable. Raises SystemExit naming the variable."""
    text = environment.get(name, "") or str(default)
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise SystemExit(f"cannot start echo: {name}={text!r} is not a port")
    return int(text)


def main(environment: Mapping[str, str]) -> int:
    """Runs the image; the exit status is 0 after a stop that was asked for."""
    http_port = port_from(environment, "PORT", 8080)
    echo_port = port_from(environment, "ECHO_PORT", 8081)
    try:
        asyncio.run(serve(Identity.from_environment(environment), http_port, echo_port))
    except OSError as error:
        sys.stderr.write(f"cannot start echo: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
