"""The hot path's messages are pyroute2's own, byte by byte, whatever the values."""

import string
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import templates as t

NUMBERS = st.integers(0, 2**31 - 1)
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: ":".join(f"{byte:02x}" for byte in raw))
ADDRESSES = {4: st.integers(0, 2**32 - 1).map(IPv4Address), 6: st.integers(0, 2**128 - 1).map(IPv6Address)}
NAMES = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=15)


def same(template: t.Template, **values: object) -> None:
    assert bytes(template.fill(**values)) == template.encode(**values)


@given(NUMBERS, NAMES, NAMES, MACS, MACS, NUMBERS, NUMBERS, NUMBERS)
def test_a_veth_pair(index, host, pod, host_mac, pod_mac, mtu, group, netns):
    values = {"host": host, "pod": pod, "host_mac": host_mac, "pod_mac": pod_mac}
    same(t.veth(len(host), len(pod)), index=index, mtu=mtu, group=group, netns=netns, **values)


@given(NUMBERS, st.text(string.printable, min_size=1, max_size=255), st.booleans(), st.booleans())
def test_a_label_and_its_settings(index, alias, localnet, ipv6):
    same(t.label(len(alias), localnet=localnet, ipv6=ipv6), index=index, alias=alias)


@given(NUMBERS, NAMES)
def test_links_and_groups(number, name):
    same(t.link_up(), index=number)
    same(t.no_link_local(), index=number)
    same(t.no_multicast_route(), index=number)
    same(t.regroup(len(name)), name=name, group=number)
    same(t.delete_group(), group=number)


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data(), index=NUMBERS, mac=MACS)
def test_addresses_neighbours_and_routes(version, data, index, mac):
    address = data.draw(ADDRESSES[version])
    same(t.address(version), index=index, address=address)
    same(t.neighbour(version), index=index, address=address, mac=mac)
    same(t.host_route(version, 97), index=index, address=address)
    same(t.default_route(version, 97), index=index, gateway=address)


@given(
    st.sampled_from([t.NFT_NEWSETELEM, t.NFT_DELSETELEM]),
    st.binary(min_size=4, max_size=40).filter(lambda key: len(key) % 4 == 0),
    st.binary(max_size=24).filter(lambda value: len(value) % 4 == 0),
)
def test_elements_of_sets_and_maps(kind, key, value):
    template = t.element(kind, 1, "netplane_cni", "some", len(key), len(value))
    same(template, key=key, **({"value": value} if value else {}))


def test_a_batch_is_of_nftables():
    begin, end = (bytes(t.batch(kind).fill()) for kind in (t.BATCH_BEGIN, t.BATCH_END))
    assert (begin[4], end[4]) == (0x10, 0x11)
    assert begin[-2:] == end[-2:] == b"\0\x0a", "the subsystem, in network order"


def test_a_sequence_number_changes_nothing_else():
    message = t.link_up().fill(index=7)
    before = bytes(message)
    t.stamp(message, 0x01020304)
    assert message[8:12] == (0x01020304).to_bytes(4, "little")
    assert (bytes(message[:8]), bytes(message[12:])) == (before[:8], before[12:])


def test_to_ask_for_an_answer_changes_one_flag():
    message = t.link_up().fill(index=7)
    before = bytes(message)
    t.acknowledge(message)
    assert int.from_bytes(message[6:8], "little") == int.from_bytes(before[6:8], "little") | t.ACK
    assert (bytes(message[:6]), bytes(message[8:])) == (before[:6], before[8:])
