"""The rows of `kubectl get`, kind by kind, as kubectl 1.32's users see them."""

from datetime import UTC, datetime

import pytest

from controlplane.api.kinds.registry import KINDS
from controlplane.api.memory.tables import cells, table
from netplane.kube.resources import (
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
)
from tests.unit.controlplane_kinds.kind_samples import deployment, endpointslice, event, lease, made

NOW = datetime(2026, 5, 4, 12, 10, tzinfo=UTC)
BORN = "2026-05-04T12:00:00Z"


def row(resource, obj):
    obj["metadata"].setdefault("creationTimestamp", BORN)
    found = table(KINDS[resource], [(cells(KINDS[resource], obj), None)], {}, version="v1", now=NOW)
    return found["rows"][0]["cells"]


HEADERS = {
    PODS: "Name Ready Status Restarts Age | IP,Node,Nominated Node,Readiness Gates",
    SERVICES: "Name Type Cluster-IP External-IP Port(s) Age | Selector",
    DEPLOYMENTS: "Name Ready Up-to-date Available Age | Containers,Images,Selector",
    REPLICASETS: "Name Desired Current Ready Age | Containers,Images,Selector",
    NODES: "Name Status Roles Age Version | Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime",
    NAMESPACES: "Name Status Age |",
    ENDPOINTS: "Name Endpoints Age |",
    ENDPOINTSLICES: "Name AddressType Ports Endpoints Age |",
    LEASES: "Name Holder Age |",
}


@pytest.mark.parametrize("resource", HEADERS, ids=lambda resource: resource.kind)
def test_headers(resource):
    columns = KINDS[resource].columns
    narrow = " ".join(column.name for column in columns if not column.priority)
    wide = ",".join(column.name for column in columns if column.priority)
    assert f"{narrow} | {wide}".strip() == HEADERS[resource]
    assert columns[0].format == "name"


RUNNING = {"ready": True, "restartCount": 0, "state": {"running": {"startedAt": BORN}}}


def waiting(reason, restarts=0, **more):
    return {"ready": False, "restartCount": restarts, "state": {"waiting": {"reason": reason}}, **more}


def ended(code=0, reason="", signal=0, restarts=0):
    terminated = {"exitCode": code, "signal": signal, "reason": reason}
    return {"ready": False, "restartCount": restarts, "state": {"terminated": terminated}}


def status(phase, *containers, init=(), **more):
    def named(entries, prefix):
        return [{"name": f"{prefix}{index}", **entry} for index, entry in enumerate(entries)]

    return {
        "phase": phase,
        "containerStatuses": named(containers, "c"),
        "initContainerStatuses": named(init, "i"),
        **more,
    }


def conditions(**states):
    return {"conditions": [{"type": kind, "status": state} for kind, state in states.items()]}


FIVE_MINUTES_AGO = {"terminated": {"finishedAt": "2026-05-04T12:05:00Z"}}

PODS_TABLE = [
    # (containers, init containers), status, deleting, READY STATUS RESTARTS
    ((1, 0), {}, False, ("0/1", "", "0")),
    ((1, 0), {"phase": "Pending"}, False, ("0/1", "Pending", "0")),
    ((1, 0), status("Pending", waiting("ContainerCreating")), False, ("0/1", "ContainerCreating", "0")),
    ((1, 0), status("Running", RUNNING), False, ("1/1", "Running", "0")),
    (
        (2, 0),
        status("Running", RUNNING, waiting("CrashLoopBackOff", 3)),
        False,
        ("1/2", "CrashLoopBackOff", "3"),
    ),
    (
        (1, 0),
        status("Running", {**RUNNING, "restartCount": 2, "lastState": FIVE_MINUTES_AGO}),
        False,
        ("1/1", "Running", "2 (5m ago)"),
    ),
    ((1, 0), status("Running", {**RUNNING, "ready": False}), False, ("0/1", "Running", "0")),
    ((1, 0), status("Succeeded", ended(0, "Completed")), False, ("0/1", "Completed", "0")),
    ((1, 0), status("Failed", ended(1, "Error")), False, ("0/1", "Error", "0")),
    ((1, 0), status("Failed", ended(3)), False, ("0/1", "ExitCode:3", "0")),
    ((1, 0), status("Failed", ended(137, signal=9)), False, ("0/1", "Signal:9", "0")),
    (
        (2, 0),
        status("Running", ended(0, "Completed"), RUNNING, **conditions(Ready="True")),
        False,
        ("1/2", "Running", "0"),
    ),
    (
        (2, 0),
        status("Running", ended(0, "Completed"), RUNNING, **conditions(Ready="False")),
        False,
        ("1/2", "NotReady", "0"),
    ),
    ((1, 0), status("Running", RUNNING), True, ("1/1", "Terminating", "0")),
    ((1, 0), status("Succeeded", ended(0, "Completed")), True, ("0/1", "Completed", "0")),
    ((1, 0), status("Running", RUNNING, reason="NodeLost"), True, ("1/1", "Unknown", "0")),
    ((1, 0), status("Failed", reason="Evicted"), False, ("0/1", "Evicted", "0")),
    ((1, 2), status("Pending", init=[ended(0), waiting("PodInitializing")]), False, ("0/1", "Init:1/2", "0")),
    (
        (1, 1),
        status("Pending", init=[waiting("CrashLoopBackOff", 4)]),
        False,
        ("0/1", "Init:CrashLoopBackOff", "4"),
    ),
    ((1, 1), status("Pending", init=[ended(1, "Error")]), False, ("0/1", "Init:Error", "0")),
    ((1, 1), status("Pending", init=[ended(5)]), False, ("0/1", "Init:ExitCode:5", "0")),
    ((1, 1), status("Running", RUNNING, init=[ended(0, restarts=7)]), False, ("1/1", "Running", "0")),
    (
        (1, 0),
        {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
        },
        False,
        ("0/1", "SchedulingGated", "0"),
    ),
]


@pytest.mark.parametrize(("counts", "state", "deleting", "expected"), PODS_TABLE)
def test_pods(counts, state, deleting, expected):
    containers = [{"name": f"c{index}"} for index in range(counts[0])]
    init = [{"name": f"i{index}"} for index in range(counts[1])]
    pod = made(PODS, spec={"containers": containers, "initContainers": init}, status=state)
    if deleting:
        pod["metadata"]["deletionTimestamp"] = BORN
    cells = row(PODS, pod)
    assert tuple(cells[1:4]) == expected
    assert cells[0] == "x"
    assert cells[4] == "10m"


def test_sidecars_count_as_containers():
    spec = {"containers": [{"name": "c0"}], "initContainers": [{"name": "i0", "restartPolicy": "Always"}]}
    sidecar = {**RUNNING, "started": True, "restartCount": 1}
    pod = made(PODS, spec=spec, status=status("Running", RUNNING, init=[sidecar]))
    assert row(PODS, pod)[1:4] == ["2/2", "Running", "1"]


def test_wide_pods():
    pod = made(
        PODS,
        spec={"nodeName": "n1", "readinessGates": [{"conditionType": "lb"}, {"conditionType": "db"}]},
        status={"podIPs": [{"ip": "10.244.1.2"}, {"ip": "::2"}], **conditions(lb="True", db="False")},
    )
    assert row(PODS, pod)[5:] == ["10.244.1.2", "n1", "<none>", "1/2"]
    assert row(PODS, made(PODS, spec={}, status={}))[5:] == ["<none>"] * 4


@pytest.mark.parametrize(
    ("spec", "balancer", "cells"),
    [
        (
            {"type": "ClusterIP", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80, "protocol": "TCP"}]},
            {},
            ["ClusterIP", "10.96.0.5", "<none>", "80/TCP", "10m", "<none>"],
        ),
        (
            {
                "type": "NodePort",
                "clusterIPs": ["10.96.0.5"],
                "ports": [
                    {"port": 80, "nodePort": 30080, "protocol": "TCP"},
                    {"port": 53, "nodePort": 30053, "protocol": "UDP"},
                ],
                "selector": {"b": "2", "a": "1"},
            },
            {},
            ["NodePort", "10.96.0.5", "<none>", "80:30080/TCP,53:30053/UDP", "10m", "a=1,b=2"],
        ),
        (
            {"type": "LoadBalancer", "clusterIPs": ["10.96.0.5"]},
            {},
            ["LoadBalancer", "10.96.0.5", "<pending>", "<none>", "10m", "<none>"],
        ),
        (
            {"type": "LoadBalancer", "clusterIPs": ["10.96.0.5"], "externalIPs": ["192.0.2.9"]},
            {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb"}]},
            ["LoadBalancer", "10.96.0.5", "192.0.2.1,lb,192.0.2.9", "<none>", "10m", "<none>"],
        ),
        (
            {"type": "ExternalName", "externalName": "example.com"},
            {},
            ["ExternalName", "<none>", "example.com", "<none>", "10m", "<none>"],
        ),
        (
            {"type": "ClusterIP", "clusterIPs": ["None"]},
            {},
            ["ClusterIP", "None", "<none>", "<none>", "10m", "<none>"],
        ),
    ],
)
def test_services(spec, balancer, cells):
    assert row(SERVICES, made(SERVICES, spec=spec, status={"loadBalancer": balancer}))[1:] == cells


def test_workloads():
    obj = deployment()
    obj["status"] = {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1, "replicas": 3}
    assert row(DEPLOYMENTS, obj)[1:] == ["2/3", 3, 1, "10m", "c", "i", "app=hello"]
    assert row(REPLICASETS, obj)[1:] == [3, 3, 2, "10m", "c", "i", "app=hello"]


@pytest.mark.parametrize(
    ("spec", "state", "expected"),
    [
        ({}, {}, "Unknown"),
        ({}, conditions(Ready="True"), "Ready"),
        ({}, conditions(Ready="Unknown"), "NotReady"),
        ({"unschedulable": True}, conditions(Ready="True"), "Ready,SchedulingDisabled"),
    ],
)
def test_node_state(spec, state, expected):
    assert row(NODES, made(NODES, spec=spec, status=state))[1] == expected


def test_wide_nodes():
    node = made(
        NODES,
        spec={},
        status={
            "addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
            ],
            "nodeInfo": {"kubeletVersion": "v1.32.0", "osImage": "Debian", "kernelVersion": "6.1"},
        },
    )
    node["metadata"]["labels"] = {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}
    assert row(NODES, node)[2:] == [
        *("edge,worker", "10m", "v1.32.0"),
        *("10.0.0.1", "<none>", "Debian", "6.1", "<unknown>"),
    ]


def test_endpoints_and_slices():
    slice_ = endpointslice()
    assert row(ENDPOINTSLICES, slice_)[1:4] == ["IPv4", "8080", "10.244.1.2"]
    slice_["endpoints"] = [{"addresses": [f"10.244.1.{n}"]} for n in range(5)]
    slice_["ports"] = []
    assert row(ENDPOINTSLICES, slice_)[2:4] == ["<unset>", "10.244.1.0,10.244.1.1,10.244.1.2 + 2 more..."]
    subset = {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 81}]}
    shown = row(ENDPOINTS, made(ENDPOINTS, subsets=[subset]))[1]
    assert shown == "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more..."
    assert row(ENDPOINTS, made(ENDPOINTS))[1] == "<none>"


def test_events_leases_and_namespaces():
    cells = row(EVENTS, event())
    assert cells == ["10m", "Warning", "Failed", "pod/web", "", "", "cannot start", "10m", 2, "x"]
    series = {**event(), "series": {"count": 9, "lastObservedTime": "2026-05-04T12:09:00.000001Z"}}
    series["source"] = {"component": "kubelet", "host": "n1"}
    cells = row(EVENTS, series)
    assert (cells[0], cells[5], cells[8]) == ("59s", "kubelet, n1", 9)
    assert row(LEASES, lease()) == ["x", "n1", "10m"]
    assert row(NAMESPACES, made(NAMESPACES, status={"phase": "Active"})) == ["x", "Active", "10m"]


def test_field_selectors():
    pod = made(PODS, spec={"nodeName": "n1", "hostNetwork": True}, status={"phase": "Running"})
    fields = KINDS[PODS].fields(pod)
    assert fields["spec.nodeName"] == "n1"
    assert fields["status.phase"] == "Running"
    assert fields["spec.hostNetwork"] == "true"
    assert fields["metadata.namespace"] == "default"
    assert KINDS[EVENTS].fields(event())["involvedObject.name"] == "web"
    assert KINDS[NODES].fields(made(NODES))["spec.unschedulable"] == "false"
