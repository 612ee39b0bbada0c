"""Which ports are asked for, and which cannot both be."""

import pytest

from cni import ports
from cni.ports import PortMapping, parse


def entry(**keys):
    return {"hostPort": 8080, "containerPort": 80, **keys}


def test_defaults_and_spelling():
    assert parse(entry()) == PortMapping("tcp", 8080, 80)
    assert parse(entry(protocol="UDP", hostIP="")) == PortMapping("udp", 8080, 80)
    assert parse(entry(hostPort=0)) is None, "a container's port that is not mapped"
    assert parse(entry(hostIP="0.0.0.0")).versions == (4,)
    assert parse(entry(hostIP="::")).versions == (6,)
    assert str(parse(entry(hostIP="192.0.2.1"))) == "192.0.2.1:8080/tcp"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hostPort": 70000}, "hostPort 70000"),
        ({"hostPort": "80"}, "hostPort '80'"),
        ({"containerPort": 0}, "containerPort 0"),
        ({"protocol": "sctp"}, "protocol 'sctp'"),
        ({"protocol": 6}, "protocol 6"),
        ({"hostIP": "nowhere"}, "hostIP 'nowhere'"),
        ({"hostIP": 7}, "hostIP 7"),
    ],
)
def test_what_cannot_be_is_named(changed, named):
    with pytest.raises(ValueError, match=named):
        parse(entry(**changed))


@pytest.mark.parametrize(
    ("one", "other", "conflicting"),
    [
        ({}, {}, True),
        ({}, {"protocol": "udp"}, False),
        ({}, {"hostPort": 8081}, False),
        ({}, {"hostIP": "192.0.2.1"}, True),
        ({"hostIP": "192.0.2.1"}, {"hostIP": "192.0.2.1"}, True),
        ({"hostIP": "192.0.2.1"}, {"hostIP": "192.0.2.2"}, False),
        ({"hostIP": "0.0.0.0"}, {"hostIP": "::"}, False),
        ({"hostIP": "0.0.0.0"}, {"hostIP": "2001:db8::1"}, False),
        ({"hostIP": "::"}, {"hostIP": "2001:db8::1"}, True),
    ],
)
def test_conflicts_are_symmetric(one, other, conflicting):
    first, second = parse(entry(**one)), parse(entry(**other))
    assert bool(ports.conflict([first], [second])) is conflicting
    assert bool(ports.conflict([second], [first])) is conflicting
    assert bool(ports.conflict([first, second], [])) is conflicting


@pytest.mark.parametrize("keys", [{}, {"hostIP": "192.0.2.1"}, {"hostIP": "::"}, {"hostIP": "0.0.0.0"}])
def test_what_is_written_down_is_read_back(keys):
    mapping = parse(entry(**keys))
    assert parse(mapping.as_plain()) == mapping
