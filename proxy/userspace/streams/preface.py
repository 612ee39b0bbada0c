"""The PROXY protocol's first bytes, for endpoints that want to be told who the client is.

Why, where addresses are kept anyway: they are not for outside clients under policy Cluster, nor in a hairpin.
Version 2, binary: HAProxy's ``doc/proxy-protocol.txt``, section 2.2.
"""

import socket
import struct
from ipaddress import ip_address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
VERSION_AND_PROXY = 0x21
STREAM = {4: 0x11, 6: 0x21}

LENGTH = {4: 28, 6: 52}  # bytes of a header, by IP version


def header(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """A TCP connection from ``source`` to ``destination``, both of one IP version."""
    one, other = (ip_address(address.partition("%")[0]) for address, _ in (source, destination))
    body = one.packed + other.packed + struct.pack("!HH", source[1], destination[1])
    return SIGNATURE + struct.pack("!BBH", VERSION_AND_PROXY, STREAM[one.version], len(body)) + body


def of_accepted(fd: int) -> bytes:
    """The header for an accepted socket. Raises OSError where the client has gone."""
    sock = socket.socket(fileno=fd)
    try:
        return header(sock.getpeername()[:2], sock.getsockname()[:2])
    finally:
        sock.detach()
