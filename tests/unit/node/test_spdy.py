"""SPDY/3.1 framing: a client of its own to talk to, any cut of the bytes, and what is malformed."""

import itertools
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.node.streams import spdy
from netplane.node.streams.spdy import Data, GoneAway, Opened, Pinged, Reset, Session, SpdyError
from netplane.node.streams.spdy_dictionary import DICTIONARY


class Client:
    """The other side: writes what kubectl writes."""

    def __init__(self):
        self.deflate = zlib.compressobj(zdict=DICTIONARY)
        self.inflate = zlib.decompressobj(zdict=DICTIONARY)

    def headers(self, headers):
        block = struct.pack(">I", len(headers))
        for text in (text for pair in headers.items() for text in pair):
            block += struct.pack(">I", len(text.encode())) + text.encode()
        return self.deflate.compress(block) + self.deflate.flush(zlib.Z_SYNC_FLUSH)

    def open(self, stream, headers, flags=0):
        return control(1, struct.pack(">IIH", stream, 0, 0) + self.headers(headers), flags)


def control(kind, body, flags=0, version=3):
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(body)) + body


def test_the_dictionary_is_the_specifications():
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2


def transcript():
    """What a client sends, and what it means."""
    client = Client()
    pair = {"Streamtype": "error", "Port": "8080", "Requestid": "0"}
    sent = (
        client.open(1, pair, spdy.FLAG_FIN)
        + control(4, struct.pack(">I", 0))  # SETTINGS
        + client.open(3, pair | {"Streamtype": "data"})
        + spdy.data(3, b"GET / HTTP/1.1\r\n\r\n")
        + control(9, struct.pack(">II", 3, 65536))  # WINDOW_UPDATE
        + control(6, struct.pack(">I", 7))
        + spdy.data(3, b"", finished=True)
        + control(8, struct.pack(">I", 3) + client.headers({"a": "b"}))  # HEADERS
        + spdy.reset(3, spdy.CANCEL)
        + client.open(5, {"Streamtype": "data"})
        + control(7, struct.pack(">II", 5, 0))
    )
    lower = {"streamtype": "error", "port": "8080", "requestid": "0"}
    events = [
        Opened(1, lower, True),
        Opened(3, lower | {"streamtype": "data"}, False),
        Data(3, b"GET / HTTP/1.1\r\n\r\n", False),
        Pinged(7),
        Data(3, b"", True),
        Reset(3),
        Opened(5, {"streamtype": "data"}, False),
        GoneAway(),
    ]
    return sent, events


def test_a_conversation_byte_by_byte():
    sent, events = transcript()
    session = Session()
    assert [event for byte in sent for event in session.receive(bytes([byte]))] == events


@given(st.lists(st.integers(min_value=0, max_value=len(transcript()[0]))))
def test_the_cut_of_the_bytes_does_not_matter(cuts):
    sent, events = transcript()
    places = [0, *sorted(cuts), len(sent)]
    session = Session()
    parts = [sent[a:b] for a, b in itertools.pairwise(places)]
    assert [event for part in parts for event in session.receive(part)] == events


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_an_error(data):
    session = Session()
    try:
        for event in session.receive(data):
            assert event
    except SpdyError:
        pass


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (control(1, b"", version=2), "SPDY version 2 is not 3"),
        (control(1, b"\0" * 10 + b"junk"), "cannot be decompressed"),
        (control(6, b"\0"), "cut short"),
        (struct.pack(">II", 1, spdy.MAX_FRAME + 1), "is more than"),
        (Client().open(1, {"a": "b" * spdy.MAX_HEADERS}), "larger than"),
    ],
)
def test_what_is_malformed_is_named(sent, complaint):
    with pytest.raises(SpdyError, match=complaint):
        list(Session().receive(sent))


def test_a_header_that_promises_more_than_it_has():
    client = Client()
    lie = client.deflate.compress(struct.pack(">III", 1, 1, 0x7FFFFFFF) + b"a")
    lie += client.deflate.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(SpdyError, match="cut short"):
        list(Session().receive(control(1, struct.pack(">IIH", 1, 0, 0) + lie)))


def test_our_frames_are_the_specifications():
    client, session = Client(), Session()
    for stream in (1, 3):
        frame = session.reply(stream)
        assert frame[:4] == bytes.fromhex("80030002")
        assert struct.unpack(">I", frame[8:12])[0] == stream
        assert client.inflate.decompress(frame[12:]) == b"\0\0\0\0"
    assert spdy.data(3, b"abc", finished=True) == bytes.fromhex("00000003 01000003") + b"abc"
    assert spdy.reset(3, spdy.PROTOCOL_ERROR) == bytes.fromhex("80030003 00000008 00000003 00000001")
    assert spdy.pong(7) == bytes.fromhex("80030006 00000004 00000007")
