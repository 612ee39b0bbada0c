"""Every row of the table of flows, in every mode that it holds in, in a real kernel."""

from collections.abc import Iterator

import pytest

from tests import flows
from tests.flows import FLOWS, Failed, Flow, Seen, Served
from tests.netns.proxy.flows import DATA_PATHS, ask, destination, serving, visit

pytestmark = pytest.mark.netns
TRIES = {flows.USERSPACE: 9}  # it takes turns; the others choose at random
RANDOM_TRIES = 40


@pytest.fixture(scope="module")
def served(world, request: pytest.FixtureRequest) -> Iterator[str]:
    with serving(world, request.param):
        yield request.param


ROWS = [(mode, flow) for mode in DATA_PATHS for flow in FLOWS if mode in flow.modes]


@pytest.mark.parametrize(
    ("served", "flow"), ROWS, indirect=["served"], ids=[f"{mode}: {flow}" for mode, flow in ROWS]
)
def test_flow(world, served: str, flow: Flow) -> None:
    address, port = destination(flow.to)
    udp = flow.protocol == flows.UDP
    if isinstance(flow.expect, Served):
        go, tries = ask if udp else visit, TRIES.get(served, RANDOM_TRIES)
        answers = [go(world, flow.source, address, port) for _ in range(tries)]
        assert {name for name, _ in answers} == flow.expect.by
        for name, seen in answers:
            own = flow.expect.seen is Seen.ITS_OWN and name != flow.source
            assert seen == flows.ADDRESSES[flow.source if own else "n1"], name
    elif udp:
        silent = flow.expect is Failed.DROPPED
        with pytest.raises(TimeoutError if silent else ConnectionRefusedError):
            ask(world, flow.source, address, port, timeout=0.3)
    elif flow.expect is Failed.REFUSED:
        # A connection that found no endpoint in time may be accepted first: it ends by RST, never by EOF.
        with (
            pytest.raises((ConnectionRefusedError, ConnectionResetError)),
            world.connect(flow.source, address, port) as sock,
        ):
            sock.recv(1)
    else:
        with pytest.raises(TimeoutError):
            world.connect(flow.source, address, port, timeout=0.3)
