"""A wish without effect is said, as long as somebody has it."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from proxy.model import Balance, Frontend, Pool, Protocol, ServicePort, Target
from proxy.targets import Targets
from proxy.unheard import WISHES, Unheard

HTTP = Frontend(ip_address("10.96.0.1"), 80, Protocol.TCP)
NODE_PORT = Frontend(ip_address("0.0.0.0"), 30080, Protocol.TCP)
PLAIN = Target(ServicePort("default", "web", "80"), Pool(), Pool())


@pytest.mark.parametrize(
    ("wish", "annotation", "modes"),
    [
        ({"balance": Balance.LEAST}, "netplane.io/balance", {"nftables", "ebpf"}),
        ({"balance": Balance.RANDOM}, "", set()),
        ({"proxy_protocol": True}, "netplane.io/proxy-protocol", {"nftables", "ebpf"}),
        ({"max_age": 60}, "netplane.io/max-connection-age", {"nftables", "ebpf"}),
        ({"drain": 0}, "netplane.io/drain", {"nftables"}),
    ],
)
def test_which_mode_hears_which_wish(wish, annotation, modes):
    asked = {HTTP: replace(PLAIN, **wish)}
    said = {mode: Unheard(mode).of(asked) for mode in ("userspace", *WISHES)}
    assert {mode for mode, lines in said.items() if lines} == modes
    for mode in modes:
        (line,) = said[mode]
        assert line.startswith(f"default/web:80: in mode {mode} ")
        assert line.endswith(f"({annotation})")


def test_it_is_said_once_a_service_and_until_the_last_frontend_that_asks_is_gone():
    unheard = Unheard("nftables")
    asking = replace(PLAIN, drain=5)
    both = Targets().derive({HTTP: asking, NODE_PORT: asking})
    assert len(unheard.of(both)) == 1
    one = both.derive({HTTP: None})
    assert len(unheard.of(one)) == 1
    assert unheard.of(one.derive({NODE_PORT: PLAIN})) == ()


@pytest.mark.parametrize("mode", ["userspace", *WISHES])
def test_metrics_by_endpoint_are_a_wish_that_the_kernels_data_paths_do_not_hear(mode):
    assert Unheard(mode).of({HTTP: PLAIN}) == ()
    said = Unheard(mode, endpoint_metrics=True).of({HTTP: PLAIN})
    if mode == "userspace":
        assert said == ()
    else:
        assert said == (f"in mode {mode} nothing is counted by endpoint (endpointMetrics in proxy.yaml)",)
