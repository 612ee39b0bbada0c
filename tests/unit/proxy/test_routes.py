"""Which networks of a node a Service network may not overlap."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from proxy.routes import overlap

OWN = (ip_address("10.96.0.5"), ip_address("fd00:96::5"))


@pytest.mark.parametrize(
    ("network", "connected", "refused", "because"),
    [
        ("10.96.0.0/12", "10.100.0.5/24", True, "the LAN is within it"),
        ("10.96.0.0/12", "10.0.0.5/8", True, "it is within the LAN"),
        ("10.96.0.0/12", "10.112.0.5/24", False, "apart"),
        ("10.96.0.0/12", "192.168.77.11/24", False, "apart"),
        ("10.96.0.0/12", "10.96.0.5/32", True, "the node's own address, as clouds give them"),
        ("10.96.0.0/12", "10.96.0.10/32", False, "a Service address that somebody serves here"),
        ("fd00:96::/108", "fd00:96::5/64", True, "IPv6 too"),
        ("fd00:96::/108", "fd00:96::5/128", True, "IPv6 too"),
        ("fd00:96::/108", "fe80::1/64", False, "apart"),
        ("10.96.0.0/12", "fd00:96::5/64", False, "another IP version"),
    ],
)
def test_overlaps(network: str, connected: str, refused: bool, because: str) -> None:
    found = overlap(ip_network(network), [ip_interface(connected)], OWN)
    assert (found == ip_interface(connected)) is refused, because
