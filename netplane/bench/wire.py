"""HTTP over TLS as cheaply as Python can: a load that costs more than what it measures measures itself.

Requests are bytes made beforehand, answers are read just as far as is needed. The TLS, the certificates and the
requests are those of any client.
"""

import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from netplane.errors import PeerError
from netplane.kube.kubeconfig import Kubeconfig

SECONDS = 30.0  # how long one answer may take
ENOUGH = 1 << 18  # bytes to read at most at once


@dataclass(frozen=True, slots=True)
class Door:
    """Where the API server is and who we are there."""

    host: str
    port: int
    tls: ssl.SSLContext

    @classmethod
    def of(cls, kubeconfig: Kubeconfig) -> "Door":
        """The same for a kubeconfig. Raises PeerError where its server is not https."""
        tls = kubeconfig.ssl_context()
        if tls is None:
            raise PeerError(f"cannot measure {kubeconfig.server}: it is not https")
        parts = urlsplit(kubeconfig.server)
        return cls(parts.hostname or "", parts.port or 443, tls)

    def connect(self) -> ssl.SSLSocket:
        """A connection of one's own. Raises OSError."""
        plain = socket.create_connection((self.host, self.port), timeout=SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.tls.wrap_socket(plain, server_hostname=self.host)


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """One request of HTTP/1.1, with a JSON body where there is one."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "User-Agent: netplane-bench"]
    lines += [f"{name}: {value}" for name, value in (headers or {"Accept": "application/json"}).items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(connection: ssl.SSLSocket, asked: bytes) -> bytes:
    """Send a request and read its whole answer's body. Raises PeerError for an answer that is an error."""
    connection.sendall(asked)
    head, body = read_head(connection)
    length = _length(head)
    whole = bytearray(length)
    whole[: len(body)] = body
    view, have = memoryview(whole), len(body)
    while have < length:
        count = connection.recv_into(view[have:])
        if not count:
            raise PeerError("cannot measure: the server ended the connection within an answer")
        have += count
    return bytes(whole)


def read_head(connection: ssl.SSLSocket) -> tuple[bytes, bytes]:
    """An answer's head, and what has come of its body. Raises PeerError unless the code is a success."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(ENOUGH)
        if not piece:
            raise PeerError("cannot measure: the server ended the connection")
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 2"):
        raise PeerError(f"cannot measure: the server answered {head[:60]!r} {body[:200]!r}")
    return head, body


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise PeerError("cannot measure: an answer without Content-Length")


def receive(connection: ssl.SSLSocket, into: memoryview) -> int:
    """What has come and is decrypted, as far as there is room; 0 bytes at the end.

    For a connection that does not block and that epoll found readable: half a TLS record is waited for.
    """
    while True:
        try:
            count = connection.recv_into(into)
            break
        except ssl.SSLWantReadError:
            select.select([connection], [], [])
    while connection.pending() and count < len(into):
        count += connection.recv_into(into[count:])
    return count


def poller(connections: Mapping[int, ssl.SSLSocket]) -> select.epoll:
    """An epoll set of them all; they no longer block."""
    made = select.epoll()
    for descriptor, connection in connections.items():
        connection.setblocking(False)
        made.register(descriptor, select.EPOLLIN)
    return made
