"""`netplane doctor` on a node of a whole cluster: healthy, and with Services that lead nowhere."""

import json
import re
from typing import Any

from tests.e2e.cluster.driver import Lab, eventually

WRONG = """
apiVersion: v1
kind: Service
metadata: {name: wrong}
spec: {selector: {app: hello}, ports: [{port: 80, targetPort: 9999}]}
"""


def test_what_is_well_and_what_is_not(lab: Lab, service: str) -> None:
    def seen() -> dict[str, Any]:
        found = lab.exec("n1", "sh", "-c", "netplane doctor -o json; true")
        return {one["subject"]: one for one in json.loads(found)}

    whole = seen()
    parts = (
        "daemons",
        "cni",
        "proxy",
        "certificates",
        "kernel",
        "other proxies",
        "network",
        "dns 10.96.0.10",
        "other nodes",
        "routes",
        "listeners",
    )
    assert {name: whole[name]["state"] for name in (*parts, "api", "node n1")} == dict.fromkeys(
        (*parts, "api", "node n1"), "ok"
    ), whole
    assert "service default/hello:http" not in whole
    lab.kubectl("create", "service", "clusterip", "lonely", "--tcp=80:80")
    try:
        lonely = eventually(lambda: seen().get("service default/lonely:80-80"), "the lonely Service is named")
        assert "no pod of its namespace has the labels app=lonely" in lonely["text"]
        text = lab.exec("n1", "sh", "-c", "netplane doctor; echo status $?")
        assert "status 1" in text
        assert "netplane explain SOURCE svc/NAME" in text.splitlines()[-2]
        lab.kubectl("create", "-f", "-", stdin=WRONG)
        wrong = eventually(lambda: seen().get("service default/wrong:80"), "the wrong port is named")
        assert re.fullmatch(r"pod hello-\S+: nothing listens at 10\.244\.\S+:9999", wrong["text"]), wrong
        assert "It listens at 8080" in wrong["hint"]
    finally:
        lab.kubectl("delete", "service", "lonely", "wrong", "--ignore-not-found")
