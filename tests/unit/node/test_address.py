"""A node's address is the one that routes to the API server, never a NAT-like first interface's."""

from ipaddress import ip_address

import pytest

from netplane.errors import ConfigError
from netplane.node.address import Facts, Local, choose

NAT = Local("eth0", ip_address("10.0.2.15"))
PRIVATE = Local("eth1", ip_address("192.168.56.11"))
OTHER = Local("eth2", ip_address("172.16.0.5"))


def test_vagrants_first_interface_is_passed_over():
    facts = Facts([NAT, PRIVATE], [PRIVATE.address])
    assert choose(facts) == PRIVATE.address


def test_a_route_by_the_nat_interface_does_not_make_it_the_address():
    # The API server behind the NAT's default route: nobody reaches this machine by 10.0.2.15.
    assert choose(Facts([NAT, PRIVATE], [NAT.address])) == PRIVATE.address


def test_peers_decide_where_the_api_server_does_not():
    assert choose(Facts([PRIVATE, OTHER], [None, OTHER.address])) == OTHER.address


def test_the_setting_wins():
    assert choose(Facts([NAT, PRIVATE], [PRIVATE.address]), wanted=NAT.address) == NAT.address


def test_a_setting_that_no_interface_has_is_refused():
    with pytest.raises(
        ConfigError, match=r"nodeIp 192\.0\.2\.1: no interface has it .*192\.168\.56\.11 \(eth1\)"
    ):
        choose(Facts([PRIVATE], []), wanted=ip_address("192.0.2.1"))


def test_several_candidates_and_no_route_is_an_error_that_names_them():
    with pytest.raises(ConfigError, match=r"192\.168\.56\.11 \(eth1\), 172\.16\.0\.5 \(eth2\).*nodeIp"):
        choose(Facts([NAT, PRIVATE, OTHER], [None]))


def test_only_the_nat_is_an_error():
    with pytest.raises(ConfigError, match=r"10\.0\.2\.15"):
        choose(Facts([NAT], [NAT.address]))


def test_loopback_sources_do_not_count():
    assert choose(Facts([PRIVATE], [ip_address("127.0.0.1")])) == PRIVATE.address
