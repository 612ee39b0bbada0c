"""The server's side of SPDY/3.1 framing, as far as port-forwarding needs it: bytes in, events out. Pure.

Source: SPDY Protocol draft 3.1, section 2. The only clients (Kubernetes' own) keep no flow-control windows and
ignore updates of them: none are kept here; the connection below holds both sides back.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from netplane.node.streams.spdy_dictionary import DICTIONARY

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FLAG_FIN = 0x01
PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 1, 3, 5
MAX_FRAME = 1024 * 1024  # bytes after a frame's head; Kubernetes' clients send 32 KiB
MAX_HEADERS = 64 * 1024  # bytes of one header block, decompressed
_HEAD = struct.Struct(">II")
_WORD = struct.Struct(">I")
_STREAM_MASK = 0x7FFFFFFF
_CONTROL = 0x80000000


class SpdyError(ValueError):
    """The peer broke the protocol: the connection cannot go on, since the compression state is lost."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The client opened a stream; ``finished``: and will send nothing on it. Header names are lower case."""

    stream: int
    headers: Mapping[str, str]
    finished: bool


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes on a stream; ``finished``: its last ones."""

    stream: int
    data: bytes
    finished: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The client has given a stream up."""

    stream: int


@dataclass(frozen=True, slots=True)
class Pinged:
    """To be answered with `pong`."""

    number: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The client opens no more streams."""


Event = Opened | Data | Reset | Pinged | GoneAway


class Session:
    """One connection's framing state: what is incomplete, and the compression of headers both ways."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> Iterator[Event]:
        """What the client said; bytes may come in any pieces. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            first, second = _HEAD.unpack_from(self._buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            if length > MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes is more than {MAX_FRAME}")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            plain = Data(first, body, bool(flags & FLAG_FIN))
            event = self._control(first, flags, body) if first & _CONTROL else plain
            if event is not None:
                yield event

    def _control(self, first: int, flags: int, body: bytes) -> Event | None:
        version, kind = (first >> 16) & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise SpdyError(f"SPDY version {version} is not {VERSION}")
        match kind:
            case 1:  # SYN_STREAM
                return Opened(_word(body), self._read_headers(body[10:]), bool(flags & FLAG_FIN))
            case 2 | 8:  # SYN_REPLY, HEADERS: of no use here, but part of the compression's history
                self._read_headers(body[4:])
                finished = bool(flags & FLAG_FIN)
                return Data(_word(body), b"", finished) if finished else None
            case 3:  # RST_STREAM
                return Reset(_word(body))
            case 6:  # PING
                return Pinged(_word(body))
            case 7:  # GOAWAY
                return GoneAway()
        return None  # SETTINGS, WINDOW_UPDATE, and what a later version may add

    def _read_headers(self, block: bytes) -> dict[str, str]:
        try:
            raw = self._inflate.decompress(block, MAX_HEADERS)
        except zlib.error as error:
            raise SpdyError(f"a header block cannot be decompressed: {error}") from None
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"a header block is larger than {MAX_HEADERS} bytes")
        return _headers(raw)

    def reply(self, stream: int) -> bytes:
        """SYN_REPLY without headers: the stream is accepted."""
        block = self._deflate.compress(_WORD.pack(0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control_frame(SYN_REPLY, _WORD.pack(stream) + block)


def _headers(raw: bytes) -> dict[str, str]:
    """A name/value block (2.6.10)."""
    found: dict[str, str] = {}
    place = _WORD.size
    texts: list[str] = []
    for _ in range(2 * _word(raw)):
        length = _word(raw, place)
        place += _WORD.size
        if place + length > len(raw):
            raise SpdyError("a header block is cut short")
        texts.append(raw[place : place + length].decode("utf-8", "replace"))
        place += length
    for name, value in zip(texts[::2], texts[1::2], strict=True):
        found[name.lower()] = value
    return found


def _word(body: bytes, place: int = 0) -> int:
    if len(body) < place + _WORD.size:
        raise SpdyError("a frame is cut short")
    return int(_WORD.unpack_from(body, place)[0]) & _STREAM_MASK


def _control_frame(kind: int, body: bytes, flags: int = 0) -> bytes:
    return _HEAD.pack(_CONTROL | VERSION << 16 | kind, flags << 24 | len(body)) + body


def data(stream: int, body: bytes, *, finished: bool = False) -> bytes:
    """A data frame; ``finished``: our last on this stream."""
    return _HEAD.pack(stream, (FLAG_FIN if finished else 0) << 24 | len(body)) + body


def reset(stream: int, status: int) -> bytes:
    """RST_STREAM: we have given a stream up."""
    return _control_frame(RST_STREAM, _WORD.pack(stream) + _WORD.pack(status))


def pong(number: int) -> bytes:
    """The answer to a PING."""
    return _control_frame(PING, _WORD.pack(number))
