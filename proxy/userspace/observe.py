"""What the userspace data path is doing, for tools: read from the kernel, and from the proxy's own socket.

Why a public read side: ``netplane explain`` must say where a packet goes without importing the machinery
that sends it. The kernel knows the listeners; whom they lead to only the process knows, and tells on a unix
socket (one JSON line asks, one JSON line answers). Blocking functions; call them from a thread.
"""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import orjson

from netplane.errors import PeerError
from proxy.model import IPAddress

Listening = dict[int, tuple[IPAddress, int]]
TCP_LISTEN, UDP_UNCONNECTED = "0A", "07"
MAX_ANSWER = 64 * 1024 * 1024


def listening(proc: Path = Path("/proc/thread-self/net")) -> Listening:
    """All listening TCP sockets of the calling thread's network namespace: inode → (address, port)."""
    return _sockets(proc, ("tcp", "tcp6"), TCP_LISTEN)


def receiving(proc: Path = Path("/proc/thread-self/net")) -> Listening:
    """All UDP sockets that take datagrams from anybody, in the same form."""
    return _sockets(proc, ("udp", "udp6"), UDP_UNCONNECTED)


def retired(address: IPAddress, port: int, proc: Path = Path("/proc/thread-self/net")) -> bool:
    """Whether a UDP socket there is connected to itself, as ``listeners.retire`` leaves those that have copies."""
    here = ip_address("127.0.0.1" if address.version == 4 else "::1") if address.is_unspecified else address
    return any(
        one == (here, port) == other for one, other in _pairs(proc, "udp" if here.version == 4 else "udp6")
    )


def _pairs(proc: Path, name: str) -> Iterator[tuple[tuple[IPAddress, int], tuple[IPAddress, int]]]:
    """The two ends of all sockets of a kind."""
    for line in (proc / name).read_text().splitlines()[1:]:
        yield parse_address(line.split()[1]), parse_address(line.split()[2])


def _sockets(proc: Path, names: tuple[str, str], state: str) -> Listening:
    found: Listening = {}
    for name in names:
        try:
            lines = (proc / name).read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == state:
                found[int(fields[9])] = parse_address(fields[1])
    return found


def parse_address(text: str) -> tuple[IPAddress, int]:
    """``0100007F:1F90``: an address in 32-bit words of the host's byte order, and a port (proc(5))."""
    words, _, port = text.partition(":")
    packed = b"".join(
        int(words[start : start + 8], 16).to_bytes(4, "little") for start in range(0, len(words), 8)
    )
    address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return address, int(port, 16)


def ask(path: Path, op: str, *, timeout: float = 5.0) -> Any:
    """Ask a running proxy; ``op`` is ``targets``, ``flows`` or ``status``.

    ``targets`` are as ``proxy.codec.decode_targets`` reads them. A flow is ``{"client", "frontend",
    "service", "endpoint", "source", "connected"}``. Raises PeerError where nobody answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(str(path))
            sock.sendall(orjson.dumps({"op": op}) + b"\n")
            with sock.makefile("rb") as stream:
                line = stream.readline(MAX_ANSWER)
        answer = orjson.loads(line)
    except (OSError, orjson.JSONDecodeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise PeerError(f"cannot ask the proxy at {path}: {cause}", "Is `netplane proxy` running?") from None
    if "error" in answer:
        raise PeerError(f"cannot ask the proxy for {op}: {answer['error']}")
    return answer[op]
