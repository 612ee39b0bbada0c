"""The proxy as users meet it: restarts under load, and UDP, through a real cluster."""

import json
import sys
from functools import partial

import pytest

from tests.e2e.cluster.driver import Lab, eventually

ASK = """
import socket, sys
names = set()
for _ in range(int(sys.argv[2])):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((sys.argv[1], 81))
        sock.send(b"hello")
        names.add(sock.recv(1000).decode().split()[0])
print(len(names))
"""


def test_udp_reaches_every_pod(lab: Lab, echo: str) -> None:
    assert lab.exec("n1", sys.executable, "-c", ASK, echo, "9").strip() == "3"


LOSSES = {
    "restart": "netplane supervise restart proxy",
    "kill -9 of the proxy": "netplane supervise kill proxy",
    "kill -9 of its workers": "kill -9 $(pgrep -x netplane-worker)",
    "kill -9 of their keepers": "kill -9 $(pgrep -x netplane-keeper)",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_loss_of_a_process_cuts_a_stream_or_loses_a_request(
    lab: Lab, service: str, echo: str, loss: str
) -> None:
    """One stream may end with its worker: the one that was between a read and its write."""
    with lab.streams("n1", echo, 81, 50) as streams, lab.stream("n1", service) as report:
        for _ in range(2):
            before = processes(lab)
            lab.exec("n1", "sh", "-c", LOSSES[loss])
            eventually(partial(gone_on, lab, before), "the flows in the next process")
    assert "corrupt" not in streams.failures
    assert len(streams.failures) <= (2 if "workers" in loss else 0), streams
    assert streams.exchanges > 50
    assert len(report.failures) <= (2 if "workers" in loss else 0), report.failures


def gone_on(lab: Lab, before: str) -> bool:
    return processes(lab) not in ("", before) and flows(lab) >= 49


def processes(lab: Lab) -> str:
    """Those that relay."""
    return lab.exec("n1", "pgrep", "-x", "netplane-worker", check=False)


def flows(lab: Lab) -> int:
    found = lab.exec("n1", "netplane", "flows", "-o", "json", check=False)
    return len(json.loads(found)) if found.startswith("[") else 0


def test_the_mode_of_a_node_is_switched_under_load(lab: Lab, service: str, echo: str) -> None:
    """The commands as a person gives them; the nouns read the kernel; no request is lost on the way."""
    modes = ("nftables", "userspace", "auto", "userspace")
    with lab.stream("n1", service) as report:
        for mode in modes:
            assert "serves" in lab.exec("n1", "netplane", "mode", mode)
            assert lab.exec("n1", sys.executable, "-c", ASK, echo, "9").strip() in ("2", "3")
            listed = json.loads(lab.exec("n1", "netplane", "services", "-o", "json"))
            assert {"default/hello:http", "default/echo:udp"} <= {row["service"] for row in listed}
            if mode == "nftables":
                lab.exec("n1", "sh", "-c", f"for i in 1 2 3; do curl -sf {service} > /dev/null; done")
                carried = json.loads(lab.exec("n1", "netplane", "flows", "-o", "json"))
                assert "default/hello:http" in {flow["service"] for flow in carried}
                explained = lab.netplane("explain", "--lab", lab.name, "node/n1", "svc/hello:http")
                assert "nft inet netplane_services" in explained
                assert "VERDICT   WORKS" in explained
    assert report.failures == []
    assert report.total > 40
    refused = lab.exec("n1", "netplane", "flush", check=False)
    assert "removed" not in refused, "not while the proxy serves"
