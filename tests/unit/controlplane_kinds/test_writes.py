"""Who may write what: status and spec through their own doors, and the generation that counts specs."""

import copy

import pytest

from controlplane.api.kinds.registry import KINDS
from netplane.kube.resources import DEPLOYMENTS, NAMESPACES, NODES, PODS, REPLICASETS, SERVICES
from tests.unit.controlplane_kinds import kind_samples
from tests.unit.controlplane_kinds.kind_samples import deployment, namespace, node, pod, service


def stored(resource, obj, **status):
    kind = KINDS[resource]
    kind.default(obj)
    kind.prepare_create(obj)
    obj["metadata"] |= {"uid": "u1", "resourceVersion": "7"}
    obj["status"] = {**(obj.get("status") or {}), **status}
    return obj


def test_a_creator_does_not_say_how_things_are():
    made_pod = stored(PODS, {**pod(), "status": {"phase": "Running", "podIP": "10.0.0.1"}})
    assert made_pod["status"] == {"phase": "Pending", "qosClass": "Burstable"}
    for resource in (DEPLOYMENTS, REPLICASETS):
        obj = {**deployment(), "status": {"replicas": 9}}
        KINDS[resource].prepare_create(obj)
        assert "status" not in obj
        assert obj["metadata"]["generation"] == 1
    obj = {**service(), "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}
    KINDS[SERVICES].prepare_create(obj)
    assert obj["status"] == {"loadBalancer": {}}


def test_a_kubelet_creates_its_node_with_a_status():
    obj = node()
    KINDS[NODES].default(obj)
    KINDS[NODES].prepare_create(obj)
    assert obj["status"]["capacity"]["cpu"] == "2"


def test_a_namespace_is_active_and_has_its_finalizer():
    obj = stored(NAMESPACES, namespace())
    assert obj["status"] == {"phase": "Active"}
    assert obj["spec"] == {"finalizers": ["kubernetes"]}
    new = copy.deepcopy(obj)
    new["spec"] = {"finalizers": []}
    new["status"] = {"phase": "Terminating"}
    KINDS[NAMESPACES].prepare_update(new, obj)
    assert (new["spec"], new["status"]) == (obj["spec"], obj["status"])


@pytest.mark.parametrize("resource", [PODS, DEPLOYMENTS, SERVICES, NODES], ids=lambda resource: resource.kind)
def test_spec_and_status_have_a_door_each(resource):
    kind = KINDS[resource]
    old = stored(resource, getattr(kind_samples, resource.kind.lower())(), conditions=[])
    new = copy.deepcopy(old)
    new["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    new["spec"]["changed"] = True
    through_spec, through_status = copy.deepcopy(new), copy.deepcopy(new)
    kind.prepare_update(through_spec, old)
    assert through_spec["status"] == old["status"]
    assert through_spec["spec"]["changed"]
    kind.prepare_status(through_status, old)
    assert through_status["status"] == new["status"]
    assert through_status["spec"] == old["spec"]
    assert through_status["metadata"] == old["metadata"]


def test_a_status_write_without_a_status_clears_it():
    old = stored(DEPLOYMENTS, deployment(), replicas=3)
    new = {field: value for field, value in old.items() if field != "status"}
    KINDS[DEPLOYMENTS].prepare_status(new, old)
    assert "status" not in new


def test_a_status_of_the_wrong_type_is_named():
    kind = KINDS[PODS]
    old = stored(PODS, pod())
    new = {**old, "status": {"containerStatuses": [{"ready": "yes"}]}}
    assert [cause.field for cause in kind.validate_status(new, old)] == ["status.containerStatuses[0].ready"]


def test_generation_counts_changes_of_the_spec():
    kind = KINDS[DEPLOYMENTS]
    old = stored(DEPLOYMENTS, deployment())
    same = copy.deepcopy(old)
    same["metadata"]["labels"] = {"a": "b"}
    same["metadata"]["generation"] = 40
    kind.prepare_update(same, old)
    assert same["metadata"]["generation"] == 1
    scaled = copy.deepcopy(old)
    scaled["spec"]["replicas"] = 7
    kind.prepare_update(scaled, old)
    assert scaled["metadata"]["generation"] == 2


def test_a_node_s_own_labels_go_through_its_status():
    kind = KINDS[NODES]
    old = stored(NODES, node())
    new = copy.deepcopy(old)
    new["metadata"]["labels"] = {"kubernetes.io/arch": "amd64"}
    new["spec"] = {"podCIDR": "10.0.0.0/24"}
    kind.prepare_status(new, old)
    assert new["metadata"]["labels"] == {"kubernetes.io/arch": "amd64"}
    assert new["spec"] == old["spec"]
