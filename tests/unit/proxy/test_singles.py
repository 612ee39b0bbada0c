"""Which Service addresses outside the Service networks a node may take as its own."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from proxy.singles import Around, decide

LINK, HERE, ROUTER = ip_network("192.168.77.0/24"), ip_network("192.168.99.1/32"), ip_address("192.168.77.12")
ADDRESSES = st.sets(
    st.sampled_from(["192.168.77.12", "192.168.77.13", "192.168.99.1", "203.0.113.7", "2001:db8::7"]).map(
        ip_address
    )
)
AROUND = st.builds(
    Around,
    st.just((HERE,)),
    st.lists(st.sampled_from([LINK, ip_network("0.0.0.0/0"), ip_network("::/0")]), unique=True).map(tuple),
    st.just(frozenset({ROUTER})),
    st.booleans(),
)


@given(addresses=ADDRESSES, around=AROUND, held=ADDRESSES, sockets=st.booleans())
def test_nothing_is_taken_from_this_machine_or_from_one_that_packets_go_through(
    addresses, around, held, sockets
) -> None:
    found = decide(addresses, around, held & addresses, sockets=sockets)
    assert found.own <= addresses
    assert not any(address in HERE for address in found.own)
    led = any(ROUTER in network for network in around.beyond if network.version == ROUTER.version)
    if not (around.relayed and not sockets):
        assert ROUTER not in found.own or (not sockets and not led)
    assert found.own.isdisjoint(found.others)


@given(addresses=ADDRESSES, around=AROUND)
def test_where_the_kernel_translates_only_what_no_route_leads_to_is_taken(addresses, around) -> None:
    own = decide(addresses, around, (), sockets=False).own
    for address in addresses:
        led = any(address in net for net in (HERE, *around.beyond) if net.version == address.version)
        assert (address in own) is not led


def test_a_socket_needs_an_address_that_a_default_route_leads_to() -> None:
    """A router before the nodes sends them what is for it; nobody else here has it."""
    around = Around(beyond=(ip_network("0.0.0.0/0"),), gateways=frozenset({ip_address("192.168.77.1")}))
    assert decide([ip_address("203.0.113.7")], around, (), sockets=True).own == {ip_address("203.0.113.7")}


def test_the_reason_names_the_address() -> None:
    others = decide([ROUTER], Around(gateways=frozenset({ROUTER})), (), sockets=True).others
    assert others == {ROUTER: "192.168.77.12 is another machine's: routes of this node go through it"}
