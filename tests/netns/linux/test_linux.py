"""The kernel primitives on the real kernel, in namespaces made here."""

import os
from collections.abc import Iterator

import pytest

from netplane.errors import KernelError
from netplane.linux import nft, sysctl
from netplane.linux.namespaces import entered_netns, netns_inode, new_netns, socket_in
from netplane.linux.rtnl import rtnl


@pytest.fixture
def netns() -> Iterator[int]:
    descriptor = new_netns()
    yield descriptor
    os.close(descriptor)


def test_a_new_namespace_is_empty_and_entering_it_is_temporary(netns: int) -> None:
    own = netns_inode("/proc/thread-self/ns/net")
    with entered_netns(netns):
        assert netns_inode("/proc/thread-self/ns/net") == netns_inode(f"/proc/self/fd/{netns}") != own
    assert netns_inode("/proc/thread-self/ns/net") == own
    with rtnl(netns) as ipr:
        assert [link.get("ifname") or link.get_attr("IFLA_IFNAME") for link in ipr.get_links()] == ["lo"]


def test_a_socket_keeps_its_namespace(netns: int) -> None:
    with socket_in(netns, 2) as sock:
        sock.bind(("0.0.0.0", 1))  # free in any fresh namespace
        with pytest.raises(OSError, match="unreachable"):
            sock.connect(("192.0.2.1", 1))


def test_nft_transactions_apply_whole_or_not_at_all(netns: int) -> None:
    with entered_netns(netns):
        with pytest.raises(KernelError, match="cannot change nftables"):
            nft.apply("add table inet t; add rule inet t missing accept")
        assert nft.listing("inet", "t") is None
        nft.apply("add table inet t; add chain inet t c")
        assert [next(iter(entry)) for entry in nft.listing("inet", "t") or []] == ["table", "chain"]
        assert nft.delete_table("inet", "t")
        assert not nft.delete_table("inet", "t")


def test_nft_of_a_process_with_many_descriptors(netns: int) -> None:
    """libnftables waits by select(2): a socket of number 1024 or more would end the process."""
    many = [os.dup(netns) for _ in range(1024)]
    try:
        with entered_netns(netns):
            nft.apply("add table inet t")
            assert nft.listing("inet", "t") is not None
            with pytest.raises(KernelError, match="cannot change nftables"):
                nft.apply("add rule inet t missing accept")
            assert nft.delete_table("inet", "t")
    finally:
        for descriptor in many:
            os.close(descriptor)


def test_sysctl_says_whether_it_changed(netns: int) -> None:
    with entered_netns(netns):
        sysctl.write("net.ipv4.ip_forward", "0")  # a new namespace may have what this machine has
        assert sysctl.write("net.ipv4.ip_forward", "1")
        assert not sysctl.write("net.ipv4.ip_forward", "1")
        with pytest.raises(KernelError, match=r"cannot read sysctl net\.ipv4\.nothing"):
            sysctl.read("net.ipv4.nothing")


def test_a_missing_namespace_is_named() -> None:
    missing = "/proc/1/ns/nothing"
    with (
        pytest.raises(KernelError, match=f"cannot enter network namespace {missing}"),
        entered_netns(missing),
    ):
        pass
