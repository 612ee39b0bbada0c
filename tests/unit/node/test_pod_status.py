"""PodStatus: phases, conditions with their times, container states, and reading it back."""

import pytest

from netplane.kube.objects import parse_time
from netplane.node.pod_end import grace_left, grace_of
from netplane.node.runtimes import ContainerState
from netplane.node.status import ContainerView, PodView, build, phase, qos_class, remember

S = 10**9
RUNNING = ContainerState("c", 0, 10 * S)
OK = ContainerState("c", 0, 10 * S, 11 * S, 0, reason="Completed")
BAD = ContainerState("c", 1, 10 * S, 11 * S, 3, reason="Error")
SPEC = {"name": "c", "image": "i"}


def view(state=None, **more):
    return ContainerView(SPEC, state, **more)


@pytest.mark.parametrize(
    ("policy", "containers", "expected"),
    [
        ("Always", [view()], "Pending"),
        ("Always", [view(RUNNING)], "Running"),
        ("Always", [view(RUNNING), view()], "Pending"),
        ("Always", [view(OK)], "Running"),
        ("Never", [view(OK)], "Succeeded"),
        ("Never", [view(BAD)], "Failed"),
        ("Never", [view(OK), view(BAD)], "Failed"),
        ("Never", [view(OK), view(RUNNING)], "Running"),
        ("OnFailure", [view(OK)], "Succeeded"),
        ("OnFailure", [view(BAD)], "Running"),
        ("Always", [view(BAD, waiting="CrashLoopBackOff")], "Running"),
        ("Always", [view(waiting="ErrImagePull")], "Pending"),
    ],
)
def test_phase(policy, containers, expected):
    assert phase(policy, containers) == expected


def pod(status=None, **meta):
    return {
        "metadata": {"name": "p", "namespace": "d", "uid": "u", **meta},
        "spec": {},
        "status": status or {},
    }


def built(container, now="2026-01-01T00:00:00Z", **kwargs):
    return build(
        PodView(kwargs.pop("pod", pod()), [container], ["10.244.1.2"], ["192.0.2.1"], "sid", "t"), now
    )


def conditions(status):
    return {c["type"]: c for c in status["conditions"]}


def test_ready_and_its_transition_time():
    first = built(view(RUNNING, ready=False))
    assert conditions(first)["Ready"]["status"] == "False"
    assert conditions(first)["Ready"]["message"] == "containers with unready status: [c]"
    second = built(view(RUNNING, ready=True), "2026-01-01T00:00:09Z", pod=pod(first))
    ready = conditions(second)["Ready"]
    assert (ready["status"], ready["lastTransitionTime"]) == ("True", "2026-01-01T00:00:09Z")
    assert "message" not in ready
    third = built(view(RUNNING, ready=True), "2026-01-01T00:01:00Z", pod=pod(second))
    assert third == second


def test_conditions_of_others_stay():
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "x"}
    status = built(view(RUNNING), pod=pod({"conditions": [scheduled]}))
    assert conditions(status)["PodScheduled"] == scheduled


def test_deletion_ends_readiness_at_once():
    status = built(view(RUNNING, ready=True), pod=pod(deletionTimestamp="2026-01-01T00:00:30Z"))
    assert conditions(status)["Ready"]["status"] == "False"


def test_readiness_gates():
    gated = pod()
    gated["spec"] = {"readinessGates": [{"conditionType": "lb"}]}
    status = built(view(RUNNING, ready=True), pod=gated)
    assert conditions(status)["Ready"]["reason"] == "ReadinessGatesNotReady"
    assert conditions(status)["ContainersReady"]["status"] == "True"


def test_states_and_addresses():
    status = built(view(BAD, last=OK, restarts=1, waiting="CrashLoopBackOff", message="m"))
    (container,) = status["containerStatuses"]
    assert container["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "m"}}
    assert container["lastState"]["terminated"]["exitCode"] == 0
    assert container["restartCount"] == 1
    assert status["podIPs"] == [{"ip": "10.244.1.2"}]
    assert status["hostIPs"] == [{"ip": "192.0.2.1"}]


def test_what_is_written_is_read_back():
    status = built(view(RUNNING, ready=True, started=True, restarts=0))
    memory = remember(pod(status), "c")
    assert memory.current == RUNNING
    assert (memory.ready, memory.started, memory.restarts, memory.last) == (True, True, 0, None)
    status = built(view(BAD, last=OK, restarts=1))
    memory = remember(pod(status), "c")
    assert memory.current == BAD
    assert memory.last.exit_code == 0


def test_a_waiting_container_remembers_its_last_end():
    status = built(view(BAD, last=BAD, restarts=4, waiting="CrashLoopBackOff"))
    memory = remember(pod(status), "c")
    assert memory.current.exit_code == 3
    assert memory.current.attempt == 4


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_qos(resources, expected):
    assert qos_class({"containers": [{"resources": resources}]}) == expected


NOW = parse_time("2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("meta", "spec", "left"),
    [
        ({}, {}, 30),
        ({}, {"terminationGracePeriodSeconds": 5}, 5),
        ({"deletionGracePeriodSeconds": 3, "deletionTimestamp": "2026-01-01T00:00:02Z"}, {}, 2),
        ({"deletionGracePeriodSeconds": 0, "deletionTimestamp": "2026-01-01T00:00:00Z"}, {}, 0),
        ({"deletionGracePeriodSeconds": 3, "deletionTimestamp": "2027-01-01T00:00:00Z"}, {}, 3),
        ({"deletionGracePeriodSeconds": 3, "deletionTimestamp": "2025-01-01T00:00:00Z"}, {}, 0),
    ],
)
def test_grace(meta, spec, left):
    assert grace_left({"metadata": meta, "spec": spec}, NOW) == left
    assert grace_of({"metadata": {}, "spec": {}}) == 30


def test_conditions_are_kubelets_in_its_order():
    status = built(view(RUNNING, ready=True))
    assert [(c["type"], c["status"]) for c in status["conditions"]] == [
        ("PodReadyToStartContainers", "True"),
        ("Initialized", "True"),
        ("Ready", "True"),
        ("ContainersReady", "True"),
        ("PodScheduled", "True"),
    ]
    gated = pod({"conditions": [{"type": "lb", "status": "True"}]})
    assert built(view(RUNNING, ready=True), pod=gated)["conditions"][0]["type"] == "lb"
