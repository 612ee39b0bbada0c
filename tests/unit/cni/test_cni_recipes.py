"""What a recipe sends and answers is what the plan says, byte by byte, whatever the pod."""

import string
from ipaddress import IPv4Address, IPv6Address, ip_network

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni import messages, plan, recipes, results, templates
from cni.bandwidth import Bandwidth, Bucket
from cni.lease import Lease, Terms
from cni.plan import CreateVeth, Firewall, Setting
from cni.ports import PortMapping
from cni.protocol import Attachment
from cni.results import VERSIONS

NAMES = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=80)
IFNAMES = st.text(string.ascii_letters + string.digits + "é~", min_size=1, max_size=7)
ADDRESSES = st.lists(
    st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address),
    min_size=1,
    max_size=3,
)
NUMBERS = st.integers(0, 2**31 - 1)
PORTS = st.integers(1, 65535)
NOTHING_TO_EXCLUDE = (ip_network("10.244.0.0/16"), ip_network("fd00:10::/32"))
MAPPINGS = st.builds(
    PortMapping,
    st.just("tcp"),
    PORTS,
    PORTS,
    st.sampled_from([None, IPv4Address("192.168.77.11")]),
    st.sampled_from([(4, 6), (4,)]),
)
LEASES = st.builds(
    lambda attachment, addresses, terms: Lease(attachment, tuple(addresses), terms),
    st.builds(Attachment, NAMES, NAMES, IFNAMES),
    ADDRESSES,
    st.builds(
        Terms,
        st.integers(0, 16**12 - 1).map(lambda number: f"np{number:012x}"),
        st.just("/run/netns/x"),
        st.just("4:1"),
        st.just("boot"),
        st.sampled_from([1500, 1450, 9000, 1000]),
        st.sampled_from([None, (), NOTHING_TO_EXCLUDE]),
        st.lists(MAPPINGS, max_size=3).map(tuple),
        st.sampled_from([None, "06:11:22:33:44:55"]),
    ),
)


def sent(lease: Lease, index: int, netns: int):
    """What the steps of the plan send, one send after the other; a setting as it is."""
    for steps in messages.batches(plan.attach(lease)):
        match steps:
            case [Setting() as setting]:
                yield setting
                continue
            case [CreateVeth() as pair]:
                made = [messages.veth(pair, index, netns)]
            case [Firewall()]:
                begin, end = (
                    templates.batch(kind).fill() for kind in (templates.BATCH_BEGIN, templates.BATCH_END)
                )
                made = [begin, *messages.elements(lease, adding=True), end]
            case _:
                made = [messages.of(step, index, ipv6=True) for step in steps]
        for number, message in enumerate(made, 1):
            templates.stamp(message, number)
        templates.acknowledge(made[-2] if isinstance(steps[0], Firewall) else made[-1])
        yield b"".join(made)


@given(LEASES, NUMBERS.filter(bool), NUMBERS)
@example(
    Lease(  # the name of its link is what a sample's port looked like
        Attachment("n", "c", "Z"),
        (IPv4Address("10.0.0.1"),),
        Terms("np000000000001", "/x", "4:1", "boot", 1500, None, (PortMapping("tcp", 1, 1),)),
    ),
    1,
    0,
)
def test_a_recipe_sends_what_the_plan_says(lease, index, netns):
    kind = recipes.kind(lease)
    assert kind is not None
    recipe = recipes.of(kind)
    assert recipe is not None
    values = recipes.values(lease, index, netns)
    filled = [part if isinstance(part, Setting) else bytes(part.fill(values)) for part in recipe]
    assert filled == list(sent(lease, index, netns))


@given(
    LEASES,
    st.sampled_from(VERSIONS),
    st.text(min_size=1),
    st.sampled_from([{}, {"nameservers": ["10.96.0.10"]}]),
)
def test_a_recipe_answers_what_was_made(lease, version, netns, dns):
    kind = recipes.kind(lease)
    assert kind is not None
    answered = recipes.answer(lease, netns, dns, kind, version)
    assert answered == orjson.dumps(results.render(plan.result(lease, dns, netns), version)) + b"\n"


@pytest.mark.parametrize(
    "asked",
    [
        {"ports": (PortMapping("udp", 53, 53),)},
        {"ports": tuple(PortMapping("tcp", port, 80) for port in range(1, 30))},
        {"bandwidth": Bandwidth(Bucket(1000, 1000), None)},
    ],
)
def test_what_few_pods_ask_for_has_no_recipe(asked):
    terms = Terms("np000000000001", "/x", "4:1", "boot", 1500, None, **asked)
    assert recipes.kind(Lease(Attachment("n", "c", "eth0"), (IPv4Address("10.0.0.1"),), terms)) is None
