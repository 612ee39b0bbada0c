"""What others say of their errors, as the cause in ours."""

import socket
from pathlib import Path

import pytest
import yaml

from netplane.errors import cause_of


def caught(function, *arguments):
    with pytest.raises(Exception) as info:  # noqa: PT011 - whatever it is
        function(*arguments)
    return info.value


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (caught(Path("/nowhere/at all").read_text), "No such file or directory"),
        (
            caught(socket.getaddrinfo, "no.such.host.invalid", 1, 0, 0, 0, socket.AI_NUMERICHOST),
            "Name or service not known",
        ),
        (
            caught(yaml.safe_load, "a: 1\nb: ["),
            "line 2, column 5: expected the node content, but found '<stream end>'",
        ),
        (ValueError("one\n  two"), "one two"),
        (OSError("without a number"), "without a number"),
    ],
)
def test_a_cause_is_one_line_without_numbers_of_the_system(error, cause):
    assert cause_of(error) == cause
