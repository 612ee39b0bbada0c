"""Rates that are asked for in bits and kept in bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.tcmsg import sched_tbf

from cni.bandwidth import LATENCY_MS, Bandwidth, Bucket, parse


def test_each_direction_alone_and_none():
    assert parse({}) is None
    assert parse({"ingressRate": 0, "ingressBurst": 0}) is None
    assert parse({"ingressRate": 8000, "ingressBurst": 80}) == Bandwidth(Bucket(1000, 10))
    assert parse({"egressRate": 8000, "egressBurst": 80}) == Bandwidth(None, Bucket(1000, 10))


def test_what_is_written_down_is_read_back():
    found = parse({"ingressRate": 8000, "ingressBurst": 80, "egressRate": 2**34, "egressBurst": 2**40})
    assert found is not None
    assert parse(found.as_plain()) == found


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"ingressRate": 1000}, "ingressBurst 0"),
        ({"egressBurst": 1000}, "egressRate 0"),
        ({"egressRate": -1}, "egressRate -1"),
        ({"egressRate": "1M"}, "egressRate '1M'"),
        ({"ingressRate": True, "ingressBurst": 8}, "ingressRate True"),
        ({"ingressRate": 10**15, "ingressBurst": 8}, "ingressRate 10+ is more than 34359738360 bits"),
    ],
)
def test_what_cannot_be_is_named(entry, named):
    with pytest.raises(ValueError, match=named):
        parse(entry)


@given(rate=st.integers(8, 34_359_738_360), burst=st.integers(8, 10**18))
def test_what_is_accepted_fits_the_kernels_message(rate, burst):
    found = parse({"egressRate": rate, "egressBurst": burst})
    assert found is not None
    assert found.egress is not None
    options = {"rate": found.egress.rate, "burst": found.egress.burst, "latency": f"{LATENCY_MS}ms"}
    (_, parameters), _ = sched_tbf.get_parameters(options)["attrs"]
    assert all(0 <= parameters[name] < 2**32 for name in ("rate", "limit", "buffer")), parameters
