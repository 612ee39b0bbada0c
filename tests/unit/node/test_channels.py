"""The channel protocols of exec and attach: what each message means, and the Status at the end."""

from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.node.streams import channels
from netplane.node.streams.channels import V4, V5, EndOfInput, Input, Resize


@pytest.mark.parametrize(
    ("message", "protocol", "meaning"),
    [
        (b"\0hello", V4, Input(b"hello")),
        (b"\0", V4, Input(b"")),
        (b"", V4, None),
        (b"\4" + b'{"Width":80,"Height":24}', V4, Resize(80, 24)),
        (b"\xff\0", V5, EndOfInput()),
        (b"\xff\1", V5, None),  # only stdin is the client's to close
        (b"\xff\0", V4, None),  # v4 has no such message
        (b"\1out", V5, None),
        (b"\x09what", V5, None),
    ],
)
def test_messages(message, protocol, meaning):
    assert channels.read(message, protocol) == meaning


@pytest.mark.parametrize(
    "message",
    [b"\4", b"\4{}", b"\4[]", b'\4{"Width":1}', b'\4{"Width":-1,"Height":1}', b'\4{"Width":70000,"Height":1}',
     b'\4{"Width":true,"Height":1}', b"\xff", b"\xff\0\0"],
)  # fmt: skip
def test_what_is_malformed_is_named(message):
    with pytest.raises(ValueError, match="must"):
        channels.read(message, V5)


@given(st.binary(max_size=100), st.sampled_from([V4, V5]))
def test_any_message_is_read_or_refused(message, protocol):
    with suppress(ValueError):
        assert channels.read(message, protocol) is None or message


def status(message):
    assert message[0] == channels.ERROR
    return orjson.loads(message[1:])


def test_the_last_message():
    assert status(channels.ended(0)) == status(channels.success()) == {"metadata": {}, "status": "Success"}
    ended = status(channels.ended(3))
    assert (ended["status"], ended["reason"]) == ("Failure", "NonZeroExitCode")
    assert ended["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}
    failed = status(channels.failed("no such thing"))
    assert (failed["reason"], failed["code"]) == ("InternalError", 500)
    assert "no such thing" in failed["message"]
