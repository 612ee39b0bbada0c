"""DaemonSets, Jobs, budgets, ConfigMaps and Secrets, as a user has them: kubectl against a whole cluster."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.e2e.cluster.driver import Lab, eventually, ready

NAMESPACE = "kinds"


@pytest.fixture
def kinds(lab: Lab) -> Iterator[Lab]:
    """A namespace of this test's own; nodes as they were afterwards."""
    lab.kubectl("create", "namespace", NAMESPACE, "--validate=false")
    try:
        yield lab
    finally:
        lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
        for node in lab.get("nodes")["items"]:
            name = node["metadata"]["name"]
            lab.kubectl("uncordon", name)
            with suppress(AssertionError):
                lab.kubectl("taint", "node", name, "maintenance-")


def create(lab: Lab, *objects: dict[str, Any]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    lab.kubectl("create", "-n", NAMESPACE, "--validate=false", "-f", "-", stdin=text)


def get(lab: Lab, *arguments: str) -> Any:
    return lab.get("-n", NAMESPACE, *arguments)


def kubectl(lab: Lab, *arguments: str, check: bool = True) -> str:
    return lab.kubectl("-n", NAMESPACE, *arguments, check=check)


def made(version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}


def template(app: str, script: str = "", **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "c", "image": "netplane/echo", **spec.pop("container", {})}
    if script:
        container |= {"command": ["sh", "-c", script]}
    whole = {"terminationGracePeriodSeconds": 1, "containers": [container], **spec}
    return {"metadata": {"labels": {"app": app}}, "spec": whole}


def workload(kind: str, app: str, **spec: Any) -> dict[str, Any]:
    whole = {"selector": {"matchLabels": {"app": app}}, "template": template(app), **spec}
    return made("apps/v1", kind, app, spec=whole)


def by_node(lab: Lab, app: str) -> dict[str, str]:
    """The ready pods of an application: node → name."""
    pods = [
        p for p in get(lab, "pods", "-l", f"app={app}")["items"] if "deletionTimestamp" not in p["metadata"]
    ]
    return {p["spec"]["nodeName"]: p["metadata"]["name"] for p in pods if ready(p)}


def test_jobs_complete_and_fail(kinds: Lab) -> None:
    sums = made("batch/v1", "Job", "sums", spec={"completions": 3, "parallelism": 2})
    sums["spec"]["template"] = template("sums", "echo 42", restartPolicy="Never")
    fails = made("batch/v1", "Job", "fails", spec={"backoffLimit": 0})
    fails["spec"]["template"] = template("fails", "exit 3", restartPolicy="Never")
    create(kinds, sums, fails)
    kubectl(kinds, "wait", "--for=condition=Complete", "job/sums", "--timeout=60s")
    kubectl(kinds, "wait", "--for=condition=Failed", "job/fails", "--timeout=60s")
    job = get(kinds, "job", "sums")
    assert job["status"]["succeeded"] == 3
    pods = get(kinds, "pods", "-l", "batch.kubernetes.io/job-name=sums")["items"]
    assert len(pods) == 3
    assert "Complete   3/3" in kubectl(kinds, "get", "jobs")
    assert "BackoffLimitExceeded" in kubectl(kinds, "describe", "job", "fails")
    kubectl(kinds, "delete", "job", "sums", "fails")
    eventually(lambda: not get(kinds, "pods")["items"], "a deleted job's pods are gone")


def test_a_daemonset_runs_everywhere_and_rolls(kinds: Lab) -> None:
    create(kinds, workload("DaemonSet", "agent"))
    kubectl(kinds, "rollout", "status", "ds/agent", "--timeout=60s")
    first = by_node(kinds, "agent")
    assert sorted(first) == ["n1", "n2", "n3"]
    kubectl(kinds, "set", "env", "ds/agent", "VERSION=2")
    kubectl(kinds, "rollout", "status", "ds/agent", "--timeout=60s")
    second = by_node(kinds, "agent")
    assert sorted(second) == ["n1", "n2", "n3"]
    assert not set(first.values()) & set(second.values())
    assert kubectl(kinds, "rollout", "history", "ds/agent").split()[-4:] == ["1", "<none>", "2", "<none>"]
    kubectl(kinds, "rollout", "undo", "ds/agent")
    kubectl(kinds, "rollout", "status", "ds/agent", "--timeout=60s")
    (container,) = get(kinds, "ds", "agent")["spec"]["template"]["spec"]["containers"]
    assert "env" not in container


def test_configs_arrive_as_variables_and_files_and_files_follow(kinds: Lab) -> None:
    kubectl(kinds, "create", "configmap", "settings", "--from-literal=color=red", "--validate=false")
    kubectl(kinds, "create", "secret", "generic", "keys", "--from-literal=pw=word", "--validate=false")
    env = [
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "pw"}}},
    ]
    script = (
        "while :; do echo $COLOR-$PW-$KUBERNETES_SERVICE_PORT-$(cat /conf/color /keys/pw); sleep 0.2; done"
    )
    spec = template(
        "reader",
        script,
        container={
            "env": env,
            "volumeMounts": [{"name": "c", "mountPath": "/conf"}, {"name": "s", "mountPath": "/keys"}],
        },
        volumes=[
            {"name": "c", "configMap": {"name": "settings"}},
            {"name": "s", "secret": {"secretName": "keys"}},
        ],
    )["spec"]
    create(kinds, made("v1", "Pod", "reader", spec=spec))
    kubectl(kinds, "wait", "--for=condition=Ready", "pod/reader", "--timeout=60s")

    def says(text: str) -> Any:
        return eventually(
            lambda: text in kubectl(kinds, "logs", "reader", "--tail=1"), f"the pod says {text}"
        )

    says("red-word-443-redword")
    kubectl(kinds, "patch", "configmap", "settings", "--type=merge", "-p", '{"data":{"color":"blue"}}')
    says("red-word-443-blueword")  # the file follows, the variable does not


def test_a_missing_config_is_waited_for_and_named(kinds: Lab) -> None:
    source = {"configMapKeyRef": {"name": "later", "key": "x"}}
    spec = template("waits", container={"env": [{"name": "X", "valueFrom": source}]})["spec"]
    create(kinds, made("v1", "Pod", "waits", spec=spec))

    def waiting() -> Any:
        statuses = get(kinds, "pod", "waits")["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("waiting", {}).get("message")

    assert eventually(waiting, "the pod says what is missing") == 'configmap "later" not found'
    kubectl(kinds, "create", "configmap", "later", "--from-literal=x=1", "--validate=false")
    kubectl(kinds, "wait", "--for=condition=Ready", "pod/waits", "--timeout=60s")


def test_drain_respects_a_budget(kinds: Lab) -> None:
    budget = {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}}
    create(
        kinds,
        workload("Deployment", "web", replicas=3),
        made("policy/v1", "PodDisruptionBudget", "web", spec=budget),
    )
    kubectl(kinds, "rollout", "status", "deploy/web", "--timeout=60s")
    eventually(
        lambda: get(kinds, "pdb", "web").get("status", {}).get("currentHealthy") == 3, "the budget is counted"
    )
    node = sorted(by_node(kinds, "web"))[0]
    here = "--pod-selector=app=web"
    refused = kinds.kubectl("drain", node, here, "--timeout=2s", check=False)
    assert "Cannot evict pod as it would violate the pod's disruption budget." in refused
    assert node in by_node(kinds, "web")
    kubectl(kinds, "patch", "pdb", "web", "--type=merge", "-p", '{"spec":{"minAvailable":2}}')
    eventually(
        lambda: get(kinds, "pdb", "web")["status"]["disruptionsAllowed"] == 1, "the budget has room for one"
    )
    assert "drained" in kinds.kubectl("drain", node, here, "--timeout=60s")
    eventually(
        lambda: len(get(kinds, "pods", "-l", "app=web")["items"]) == 3 and node not in by_node(kinds, "web"),
        "three pods are elsewhere",
    )
    assert "SchedulingDisabled" in kinds.kubectl("get", "node", node)
    kinds.kubectl("uncordon", node)
    assert "SchedulingDisabled" not in kinds.kubectl("get", "node", node)


def test_a_taint_moves_pods_and_daemons_that_do_not_tolerate_it(kinds: Lab) -> None:
    tolerant = workload("DaemonSet", "tolerant")
    tolerant["spec"]["template"]["spec"]["tolerations"] = [{"operator": "Exists"}]
    create(kinds, workload("DaemonSet", "plain"), tolerant)
    for name in ("plain", "tolerant"):
        kubectl(kinds, "rollout", "status", f"ds/{name}", "--timeout=60s")
    kinds.kubectl("taint", "node", "n2", "maintenance=yes:NoExecute")
    eventually(lambda: sorted(by_node(kinds, "plain")) == ["n1", "n3"], "the plain daemon left n2")
    assert sorted(by_node(kinds, "tolerant")) == ["n1", "n2", "n3"]
    kinds.kubectl("taint", "node", "n2", "maintenance-")
    eventually(lambda: sorted(by_node(kinds, "plain")) == ["n1", "n2", "n3"], "it is back")
    # What else stood on n2 has moved: spread it again for the tests that follow
    kinds.kubectl("rollout", "restart", "deploy/hello")
    kinds.kubectl("rollout", "status", "deploy/hello", "--timeout=60s")


def test_what_is_not_served_is_empty_and_refused_by_name(kinds: Lab) -> None:
    listed = "statefulsets,cronjobs,persistentvolumeclaims,ingresses,resourcequotas,customresourcedefinitions"
    assert get(kinds, listed)["items"] == []
    said = kinds.kubectl(
        "create",
        "--validate=false",
        "-f",
        "-",
        check=False,
        stdin=json.dumps(made("apiextensions.k8s.io/v1", "CustomResourceDefinition", "a.b")),
    )
    assert "netplane does not serve customresourcedefinitions.apiextensions.k8s.io" in said


def test_accounts_and_priorities_are_given(kinds: Lab) -> None:
    eventually(lambda: get(kinds, "serviceaccounts")["items"], "the namespace has its account")
    spec = template("p", priorityClassName="system-cluster-critical")["spec"]
    create(kinds, made("v1", "Pod", "p", spec=spec))
    pod = get(kinds, "pod", "p")["spec"]
    assert (pod["priority"], pod["serviceAccountName"]) == (2_000_000_000, "default")
    lost = json.dumps(made("v1", "Pod", "q", spec={**spec, "priorityClassName": "none"}))
    said = kinds.kubectl("create", "-n", NAMESPACE, "--validate=false", "-f", "-", check=False, stdin=lost)
    assert "no PriorityClass with name none was found" in said
