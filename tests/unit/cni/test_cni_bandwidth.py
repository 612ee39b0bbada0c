"""Rates that are asked for in bits and kept in bytes."""

import pytest

from cni.bandwidth import Bandwidth, Bucket, parse


def test_each_direction_alone_and_none():
    assert parse({}) is None
    assert parse({"ingressRate": 0, "ingressBurst": 0}) is None
    assert parse({"ingressRate": 8000, "ingressBurst": 80}) == Bandwidth(Bucket(1000, 10))
    assert parse({"egressRate": 8000, "egressBurst": 80}) == Bandwidth(None, Bucket(1000, 10))


def test_what_is_written_down_is_read_back():
    found = parse({"ingressRate": 8000, "ingressBurst": 80, "egressRate": 16, "egressBurst": 2**40})
    assert found is not None
    assert parse(found.as_plain()) == found
    assert found.egress == Bucket(2, 2**32 - 1), "what tbf can say"


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"ingressRate": 1000}, "ingressBurst 0"),
        ({"egressBurst": 1000}, "egressRate 0"),
        ({"egressRate": -1}, "egressRate -1"),
        ({"egressRate": "1M"}, "egressRate '1M'"),
        ({"ingressRate": True, "ingressBurst": 8}, "ingressRate True"),
    ],
)
def test_what_cannot_be_is_named(entry, named):
    with pytest.raises(ValueError, match=named):
        parse(entry)
