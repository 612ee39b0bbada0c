"""Whose rules have a say in what pods send each other, and what follows from it."""

import pytest

from netplane.linux.nfnetlink import BaseChain
from proxy.ebpf.hostrouting.deciding import HostRouting, in_the_way, refusal

FORWARD = BaseChain("inet", "firewalld", "filter_FORWARD", hook=2, rules=3, drops=False)


@pytest.mark.parametrize(
    ("chain", "counts"),
    [
        (FORWARD, True),
        (BaseChain("ip", "nat", "PREROUTING", hook=0, rules=1, drops=False), True),
        (BaseChain("ip6", "nat", "POSTROUTING", hook=4, rules=1, drops=False), True),
        (BaseChain("ip", "filter", "FORWARD", hook=2, rules=0, drops=True), True),
        (BaseChain("ip", "filter", "FORWARD", hook=2, rules=0, drops=False), False),
        (BaseChain("ip", "filter", "INPUT", hook=1, rules=5, drops=True), False),
        (BaseChain("ip", "filter", "OUTPUT", hook=3, rules=5, drops=False), False),
        (BaseChain("inet", "netplane_services", "prerouting", hook=0, rules=9, drops=False), False),
        (BaseChain("inet", "netplane_cni", "postrouting", hook=4, rules=9, drops=False), False),
        (BaseChain("ip", "netplane_cni", "postrouting", hook=4, rules=9, drops=False), True),
        (BaseChain("netdev", "mine", "in", hook=0, rules=1, drops=False, devices=("eth0",)), False),
        (BaseChain("netdev", "mine", "in", hook=0, rules=1, drops=False, devices=("eth0", "np*")), True),
        (BaseChain("netdev", "mine", "out", hook=1, rules=1, drops=False, devices=("np0123456789ab",)), True),
    ],
    ids=str,
)
def test_who_has_a_say(chain: BaseChain, counts: bool) -> None:
    assert bool(in_the_way([chain])) is counts


def test_where_nobody_has_a_say_packets_go_past_the_stack() -> None:
    assert refusal(HostRouting.AUTO, []) == ""


def test_somebody_elses_chain_is_named() -> None:
    others = in_the_way([FORWARD, BaseChain("ip", "nat", "PREROUTING", hook=0, rules=1, drops=False)])
    said = refusal(HostRouting.AUTO, others)
    assert said.startswith("nft chain inet firewalld filter_FORWARD and 1 more may have a say")
    assert "hostRouting: bpf" in said


def test_the_asked_for_is_done_whatever_there_is() -> None:
    assert refusal(HostRouting.BPF, in_the_way([FORWARD])) == ""
    assert refusal(HostRouting.LEGACY, []) == "hostRouting is legacy"
