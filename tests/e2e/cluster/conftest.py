"""One lab for all the tests that use a whole cluster."""

import os
from collections.abc import Iterator

import pytest

from tests.e2e.cluster.driver import ROOT, Lab, eventually, hello_is_whole, ready

ECHO = """
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: hello}
  ports:
  - {name: tcp, port: 81, targetPort: 8081, protocol: TCP}
  - {name: udp, port: 81, targetPort: 8081, protocol: UDP}
"""


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three nodes and the hello example, ready."""
    lab = Lab(f"e{os.getpid()}")  # two runs on one machine never meet
    lab.down()
    try:
        lab.up()
        lab.kubectl("create", "-f", str(ROOT / "examples/hello.yaml"))
        eventually(lambda: sum(map(ready, lab.pods("app=hello"))) == 3, "three hello pods ready")
        yield lab
    finally:
        lab.down()


@pytest.fixture
def service(lab: Lab) -> str:
    """The hello Service's URL by ClusterIP, with all its pods ready on all three nodes."""
    eventually(lambda: hello_is_whole(lab), "three hello pods ready on three Ready nodes", 90)
    address = lab.get("service", "hello")["spec"]
    return f"http://{address['clusterIP']}:{address['ports'][0]['port']}/"


@pytest.fixture
def echo(lab: Lab) -> Iterator[str]:
    """The ClusterIP of a Service for the echo ports of the hello pods."""
    lab.kubectl("create", "-f", "-", stdin=ECHO)
    eventually(lambda: hello_is_whole(lab), "hello whole")
    address = lab.get("service", "echo")["spec"]["clusterIP"]
    hello = f"head -1 < /dev/tcp/{address}/81"
    eventually(lambda: lab.exec("n1", "bash", "-c", hello, check=False), "an answer")
    yield address
    lab.kubectl("delete", "service", "echo")
