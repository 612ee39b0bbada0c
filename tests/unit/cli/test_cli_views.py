"""What the proxy says, as rows."""

import pytest

from netplane.cli.views import endpoints, flows, services, silences, sync
from netplane.errors import ConfigError


def target(address, port, service, *pods):
    return {
        "frontend": {"address": address, "port": port, "protocol": "TCP"},
        "service": {"namespace": "default", "name": service, "port": "http"},
        "inside": {
            "endpoints": [
                {"address": pod, "port": 8080, "local": place == 0, "terminating": False}
                for place, pod in enumerate(pods)
            ],
            "whenEmpty": "reject",
        },
    }


TARGETS = [
    target("10.96.0.20", 80, "web", "10.244.1.2", "10.244.2.2"),
    target("0.0.0.0", 30080, "web", "10.244.1.2", "10.244.2.2"),
    target("fd00::1", 80, "six", "fd01::2"),
    target("10.96.0.30", 80, "empty"),
]


def test_a_service_is_one_row_with_all_its_frontends():
    rows = {row["service"]: row for row in services(TARGETS)}
    assert list(rows) == ["default/empty:http", "default/six:http", "default/web:http"]
    assert rows["default/web:http"]["frontends"] == ["10.96.0.20:80/TCP", "0.0.0.0:30080/TCP"]
    assert (rows["default/web:http"]["endpoints"], rows["default/web:http"]["local"]) == (2, 1)
    assert rows["default/empty:http"]["endpoints"] == 0
    assert rows["default/six:http"]["frontends"] == ["[fd00::1]:80/TCP"]


def test_an_endpoint_is_one_row_however_many_frontends_lead_to_it():
    rows = endpoints(TARGETS, "default/web")
    assert [(row["endpoint"], row["local"], row["state"]) for row in rows] == [
        ("10.244.1.2:8080", "yes", "ready"),
        ("10.244.2.2:8080", "no", "ready"),
    ]
    assert endpoints(TARGETS, "default/empty") == []
    assert len(endpoints(TARGETS, "default/six:http")) == 1
    assert len(endpoints(TARGETS)) == 3


def test_a_service_without_a_namespace_is_of_the_default_one():
    assert endpoints(TARGETS, "web") == endpoints(TARGETS, "default/web")
    assert endpoints(TARGETS, "web:http") == endpoints(TARGETS, "default/web:http")
    with pytest.raises(ConfigError, match="cannot find Service default/nobody: "):
        endpoints(TARGETS, "nobody")


def test_clients_that_policy_local_leaves_without_an_endpoint_are_told_of():
    """As on a node without a pod of the Service; at the ClusterIP all is well."""
    nobody = {"endpoints": [], "whenEmpty": "drop"}
    inside = target("10.96.0.40", 80, "near", "10.244.1.2")
    port = {**target("0.0.0.0", 30081, "near", "10.244.1.2"), "outside": nobody}
    (row,) = endpoints([inside, port, inside], "near")
    assert (row["state"], row["clients"]) == ("ready", "inside")
    why = "get no answer from this node: policy Local, and no endpoint is here"
    assert silences([*TARGETS, inside, port]) == [
        f"default/near:http at 0.0.0.0:30081/TCP: clients from outside the cluster {why}"
    ]
    assert silences([inside, port], "near") == silences([inside, port])
    none = {**target("10.96.0.41", 80, "here"), "inside": nobody}
    assert silences([none]) == [f"default/here:http at 10.96.0.41:80/TCP: clients {why}"]
    assert [row["clients"] for row in endpoints(TARGETS)] == ["all"] * 3


def test_a_service_that_is_not_there_is_named_with_those_that_are():
    wanted = (
        "cannot find Service default/nobody: this node's proxy serves default/empty, default/six, default/web"
    )
    with pytest.raises(ConfigError, match=wanted):
        endpoints(TARGETS, "default/nobody")


def test_a_flow_says_whether_it_is_connected():
    assert flows([{"client": "a", "connected": True}])[0]["state"] == "connected"


NOTHING = {
    "revision": 41,
    "frontends": 12,
    "added": 0,
    "changed": 0,
    "removed": 0,
    "done": [],
    "unserved": [],
    "warnings": [],
}


def test_a_sync_says_what_it_changed_and_what_does_not_work():
    assert sync(NOTHING) == (
        ["revision 41: 12 frontends, none changed", "the kernel has it all: nothing to mend"],
        [],
    )
    table = "nft table inet netplane_proxy"
    report = {**NOTHING, "added": 2, "removed": 1, "done": [table], "unserved": ["default/x:53 at ...: SCTP"]}
    assert sync(report) == (
        ["revision 41: 12 frontends, 2 added, 1 removed", f"mended: {table}"],
        ["not served: default/x:53 at ...: SCTP"],
    )
