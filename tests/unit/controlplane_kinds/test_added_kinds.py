"""ConfigMap to PriorityClass: defaults, refusals in kube-apiserver's words, rows, and what may not change."""

import base64
import copy

import pytest

from controlplane.api.kinds.listed import LISTED
from controlplane.api.kinds.registry import KINDS
from controlplane.api.writing.pod_admission import Patience, give_account, give_priority, give_tolerations
from netplane.kube.errors import StatusError
from netplane.kube.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DAEMONSETS,
    JOBS,
    NETWORKPOLICIES,
    PODDISRUPTIONBUDGETS,
    PODS,
    PRIORITYCLASSES,
    SECRETS,
    SERVICEACCOUNTS,
)
from tests.unit.controlplane_kinds import kind_samples
from tests.unit.controlplane_kinds.kind_samples import made, pod
from tests.unit.controlplane_kinds.test_printing import row
from tests.unit.controlplane_kinds.test_rules import causes_of, put

ADDED = (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DAEMONSETS,
    JOBS,
    NETWORKPOLICIES,
    PODDISRUPTIONBUDGETS,
    PRIORITYCLASSES,
    SECRETS,
    SERVICEACCOUNTS,
)


def sample(resource):
    return getattr(kind_samples, resource.kind.lower())()


def stored(resource, obj=None):
    obj = sample(resource) if obj is None else obj
    KINDS[resource].default(obj)
    KINDS[resource].prepare_create(obj)
    return obj


@pytest.mark.parametrize("resource", ADDED, ids=lambda resource: resource.kind)
def test_a_good_object_is_good_and_stays_so(resource):
    obj = sample(resource)
    assert causes_of(resource, obj) == []
    assert causes_of(resource, copy.deepcopy(obj), obj) == []


def encoded(text):
    return base64.b64encode(text.encode()).decode()


# Defaults


def test_a_secret_s_plain_strings_become_its_data():
    obj = made(SECRETS, data={"a": encoded("1"), "b": encoded("2")}, stringData={"b": "3", "c": "ü"})
    KINDS[SECRETS].default(obj)
    assert "stringData" not in obj
    assert obj["data"] == {"a": encoded("1"), "b": encoded("3"), "c": encoded("ü")}
    assert obj["type"] == "Opaque"


def test_a_daemonset():
    spec = stored(DAEMONSETS)["spec"]
    assert spec["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
    }
    assert spec["revisionHistoryLimit"] == 10
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    by_hand = made(DAEMONSETS, spec={"updateStrategy": {"type": "OnDelete"}})
    KINDS[DAEMONSETS].default(by_hand)
    assert by_hand["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_a_job():
    obj = stored(JOBS)
    spec, generated = obj["spec"], {"batch.kubernetes.io/controller-uid": "u1"}
    defaults = {
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "suspend": False,
        "manualSelector": False,
        "podReplacementPolicy": "TerminatingOrFailed",
    }
    assert {field: spec[field] for field in defaults} == defaults
    assert spec["selector"] == {"matchLabels": generated}
    labels = {
        **generated,
        "batch.kubernetes.io/job-name": "x",
        "controller-uid": "u1",
        "job-name": "x",
    }
    assert spec["template"]["metadata"]["labels"] == obj["metadata"]["labels"] == labels


def test_a_job_that_is_a_queue_keeps_its_completions_open():
    obj = put(sample(JOBS), "spec.parallelism", 3)
    assert "completions" not in stored(JOBS, obj)["spec"]


def test_a_job_with_a_selector_of_its_own_keeps_it():
    labels = {"mine": "yes"}
    obj = put(sample(JOBS), "spec.template.metadata", {"labels": labels})
    obj["spec"] |= {"manualSelector": True, "selector": {"matchLabels": labels}}
    assert causes_of(JOBS, obj) == []
    assert obj["spec"]["selector"] == {"matchLabels": labels}
    assert obj["spec"]["template"]["metadata"]["labels"] == labels


POLICY_TYPES = [
    ({}, ["Ingress"]),
    ({"ingress": [{}]}, ["Ingress"]),
    ({"egress": [{}]}, ["Ingress", "Egress"]),
    ({"egress": [{}], "policyTypes": ["Egress"]}, ["Egress"]),
]


@pytest.mark.parametrize(("spec", "types"), POLICY_TYPES)
def test_a_network_policy_s_types(spec, types):
    obj = made(NETWORKPOLICIES, spec=copy.deepcopy(spec))
    KINDS[NETWORKPOLICIES].default(obj)
    assert obj["spec"]["policyTypes"] == types
    assert "restricts no traffic" in KINDS[NETWORKPOLICIES].warnings(obj)[0]


def test_a_priority_class_preempts():
    obj = made(PRIORITYCLASSES, value=7)
    KINDS[PRIORITYCLASSES].default(obj)
    assert obj["preemptionPolicy"] == "PreemptLowerPriority"


# Refusals

S = "spec"
T = "spec.template"
BIG = "x" * (1024 * 1024 + 1)
CREATE = [
    (CONFIGMAPS, "data", {"a b": ""}, "data[a b]", "a valid config key must consist of alphanumeric"),
    (CONFIGMAPS, "data", {"..": ""}, "data[..]", "must not be '..'"),
    (CONFIGMAPS, "data", {"..a": ""}, "data[..a]", "must not start with '..'"),
    (CONFIGMAPS, "data", {"a" * 254: ""}, f"data[{'a' * 254}]", "must be no more than 253 characters"),
    (CONFIGMAPS, "data", {"logo": ""}, "data[logo]", "duplicate of key present in binaryData"),
    (CONFIGMAPS, "data", {"a": BIG}, "data", "Too long: may not be more than 1048576 bytes"),
    (CONFIGMAPS, "data", {"a": 1}, "data[a]", "must be a string"),
    (CONFIGMAPS, "binaryData", {"a": "?"}, "binaryData[a]", "base64"),
    (SECRETS, "data", {"a": "not base64"}, "data[a]", "base64"),
    (SECRETS, "data", {"a b": ""}, "data[a b]", "a valid config key must consist of"),
    (SECRETS, "stringData", {"a": BIG}, "data", "Too long: may not be more than 1048576 bytes"),
    (SECRETS, "type", "kubernetes.io/tls", "data[tls.crt]", "Required value"),
    (SECRETS, "type", "kubernetes.io/ssh-auth", "data[ssh-privatekey]", "Required value"),
    (SECRETS, "type", "kubernetes.io/basic-auth", "data[username]", "Required value"),
    (
        SECRETS,
        "type",
        "kubernetes.io/service-account-token",
        "metadata.annotations[kubernetes.io/service-account.name]",
        "Required value",
    ),
    (SECRETS, "type", "kubernetes.io/dockerconfigjson", "data[.dockerconfigjson]", "Required value"),
    (SERVICEACCOUNTS, "metadata.name", "A", "metadata.name", "a lowercase RFC 1123 subdomain must"),
    (SERVICEACCOUNTS, "secrets", "no", "secrets", "must be a list"),
    (DAEMONSETS, "spec.selector", ..., f"{T}.metadata.labels", "`selector` does not match template `labels`"),
    (DAEMONSETS, "spec.selector", {}, "spec.selector", "empty selector is invalid for daemonset"),
    (
        DAEMONSETS,
        f"{T}.metadata.labels",
        {"app": "other"},
        f"{T}.metadata.labels",
        "`selector` does not match template `labels`",
    ),
    (
        DAEMONSETS,
        f"{T}.spec.restartPolicy",
        "Never",
        f"{T}.spec.restartPolicy",
        'Unsupported value: "Never": supported values: "Always"',
    ),
    (
        DAEMONSETS,
        f"{T}.spec.activeDeadlineSeconds",
        3,
        f"{T}.spec.activeDeadlineSeconds",
        "activeDeadlineSeconds in DaemonSet is not Supported",
    ),
    (DAEMONSETS, "spec.updateStrategy.type", "Now", "spec.updateStrategy", 'Unsupported value: "Now"'),
    (
        DAEMONSETS,
        "spec.updateStrategy.rollingUpdate.maxUnavailable",
        0,
        "spec.updateStrategy.rollingUpdate.maxUnavailable",
        "Required value: cannot be 0 when maxSurge is 0",
    ),
    (
        DAEMONSETS,
        "spec.updateStrategy.rollingUpdate.maxSurge",
        1,
        "spec.updateStrategy.rollingUpdate.maxSurge",
        "may not be set when maxUnavailable is non-zero",
    ),
    (DAEMONSETS, "spec.minReadySeconds", -1, "spec.minReadySeconds", "must be greater than or equal to 0"),
    (DAEMONSETS, f"{T}.spec.containers", [], f"{T}.spec.containers", "Required value"),
    (CONTROLLERREVISIONS, "revision", -1, "revision", "must be greater than or equal to 0"),
    (CONTROLLERREVISIONS, "data", ..., "data", "Required value: data is mandatory"),
    (
        JOBS,
        f"{T}.spec.restartPolicy",
        "Always",
        f"{T}.spec.restartPolicy",
        'Required value: valid values: "OnFailure", "Never"',
    ),
    (JOBS, "spec.parallelism", -1, "spec.parallelism", "must be greater than or equal to 0"),
    (JOBS, "spec.backoffLimit", -1, "spec.backoffLimit", "must be greater than or equal to 0"),
    (JOBS, "spec.completionMode", "Some", "spec.completionMode", 'Unsupported value: "Some"'),
    (
        JOBS,
        "spec.selector",
        {"matchLabels": {"a": "b"}},
        "spec.selector",
        "`selector` not auto-generated",
    ),
    (
        JOBS,
        f"{T}.metadata",
        {"labels": {"job-name": "other"}},
        f"{T}.metadata.labels[job-name]",
        "must be 'x'",
    ),
    (JOBS, "spec.manualSelector", True, "spec.selector", "Required value"),
    (JOBS, "spec.managedBy", "me", "spec.managedBy", "netplane does not serve this field"),
    (JOBS, "spec.podFailurePolicy", {}, "spec.podFailurePolicy", "netplane does not serve this field"),
    (
        JOBS,
        "spec.podReplacementPolicy",
        "Never",
        "spec.podReplacementPolicy",
        'Unsupported value: "Never": supported values: "Failed", "TerminatingOrFailed"',
    ),
    (
        PODDISRUPTIONBUDGETS,
        "spec.maxUnavailable",
        1,
        "spec",
        "minAvailable and maxUnavailable cannot be both set",
    ),
    (
        PODDISRUPTIONBUDGETS,
        "spec.minAvailable",
        -1,
        "spec.minAvailable",
        "must be greater than or equal to 0",
    ),
    (
        PODDISRUPTIONBUDGETS,
        "spec.minAvailable",
        "half",
        "spec.minAvailable",
        "a valid percent string must be",
    ),
    (PODDISRUPTIONBUDGETS, "spec.minAvailable", "101%", "spec.minAvailable", "must not be greater than 100%"),
    (
        PODDISRUPTIONBUDGETS,
        "spec.unhealthyPodEvictionPolicy",
        "Never",
        "spec.unhealthyPodEvictionPolicy",
        'Unsupported value: "Never"',
    ),
    (NETWORKPOLICIES, "spec.ingress[0].from[0]", {}, "spec.ingress[0].from[0]", "must specify a peer"),
    (
        NETWORKPOLICIES,
        "spec.ingress[0].from[1].podSelector",
        {},
        "spec.ingress[0].from[1]",
        "may not specify both ipBlock and another peer",
    ),
    (
        NETWORKPOLICIES,
        "spec.ingress[0].from[1].ipBlock.cidr",
        "10.0.0.0",
        "spec.ingress[0].from[1].ipBlock.cidr",
        "must be a valid CIDR value",
    ),
    (
        NETWORKPOLICIES,
        "spec.ingress[0].from[1].ipBlock.except",
        ["11.0.0.0/16"],
        "spec.ingress[0].from[1].ipBlock.except[0]",
        "must be a strict subset of `cidr`",
    ),
    (NETWORKPOLICIES, "spec.ingress[0].ports[0].port", 0, "spec.ingress[0].ports[0].port", "between 1 and"),
    (
        NETWORKPOLICIES,
        "spec.ingress[0].ports[0].endPort",
        7,
        "spec.ingress[0].ports[0].endPort",
        "must be greater than or equal to `port`",
    ),
    (
        NETWORKPOLICIES,
        "spec.ingress[0].ports[1].endPort",
        7,
        "spec.ingress[0].ports[1].endPort",
        "may not be specified when `port` is non-numeric",
    ),
    (NETWORKPOLICIES, "spec.policyTypes", ["Both"], "spec.policyTypes[0]", 'Unsupported value: "Both"'),
    (
        PRIORITYCLASSES,
        "metadata.name",
        "system-mine",
        "metadata.name",
        "priority class names with 'system-' prefix are reserved for system use only",
    ),
    (
        PRIORITYCLASSES,
        "value",
        1_000_000_001,
        "value",
        "maximum allowed value of a user defined priority is 1000000000",
    ),
    (PRIORITYCLASSES, "preemptionPolicy", "Maybe", "preemptionPolicy", 'Unsupported value: "Maybe"'),
]
C = "spec.containers[0]"
V = "spec.volumes[0]"
KEY_REF = {"valueFrom": {"configMapKeyRef": {"name": "c"}}}
PODS_CREATE = [
    (f"{C}.envFrom", [{}], f"{C}.envFrom[0]", "must specify one of: `configMapRef` or `secretRef`"),
    (
        f"{C}.envFrom",
        [{"secretRef": {"name": "s"}, "configMapRef": {"name": "c"}}],
        f"{C}.envFrom[0]",
        "may not have more than one field specified at a time",
    ),
    (f"{C}.envFrom", [{"secretRef": {}}], f"{C}.envFrom[0].secretRef.name", "Required value"),
    (
        f"{C}.envFrom",
        [{"prefix": "a=b", "secretRef": {"name": "s"}}],
        f"{C}.envFrom[0].prefix",
        "must consist",
    ),
    (f"{C}.env", [{"name": "A", **KEY_REF}], f"{C}.env[0].valueFrom.configMapKeyRef.key", "Required value"),
    (f"{C}.volumeMounts[0].subPath", "/a", f"{C}.volumeMounts[0].subPath", "must be a relative path"),
    (f"{C}.volumeMounts[0].subPath", "a/../b", f"{C}.volumeMounts[0].subPath", "must not contain '..'"),
    (V, {"name": "v", "configMap": {}}, f"{V}.configMap.name", "Required value"),
    (V, {"name": "v", "secret": {}}, f"{V}.secret.secretName", "Required value"),
    (
        V,
        {"name": "v", "secret": {"secretName": "s", "defaultMode": 512}},
        f"{V}.secret.defaultMode",
        "must be a number between 0 and 0777 (octal), both inclusive",
    ),
    (
        V,
        {"name": "v", "configMap": {"name": "c", "items": [{"key": "a", "path": "../b"}]}},
        f"{V}.configMap.items[0].path",
        "must not contain '..'",
    ),
    (
        V,
        {"name": "v", "downwardAPI": {"items": [{"path": "a"}]}},
        f"{V}.downwardAPI.items[0]",
        "Required value: one of fieldRef and resourceFieldRef is required",
    ),
    (
        V,
        {
            "name": "v",
            "projected": {
                "sources": [
                    {"configMap": {"name": "c", "items": [{"key": "a", "path": "p"}]}},
                    {"secret": {"name": "s", "items": [{"key": "a", "path": "p"}]}},
                ]
            },
        },
        f"{V}.projected.sources[1].secret",
        "conflicting duplicate paths",
    ),
]


def check(resource, obj, field, text):
    found = causes_of(resource, obj)
    assert (field, True) in [(cause.field, text in cause.message) for cause in found], found


@pytest.mark.parametrize(("resource", "path", "value", "field", "text"), CREATE)
def test_what_is_wrong_is_named(resource, path, value, field, text):
    obj = sample(resource)
    KINDS[resource].default(obj)
    check(resource, put(obj, path, value), field, text)


@pytest.mark.parametrize(("path", "value", "field", "text"), PODS_CREATE)
def test_what_is_wrong_with_a_pod_s_configuration_is_named(path, value, field, text):
    check(PODS, put(pod(), path, value), field, text)


SEALED = {"immutable": True}
SEALED_TEXT = "Forbidden: field is immutable when `immutable` is set"
UPDATE = [
    (CONFIGMAPS, SEALED, "data", {"key": "other"}, "data", SEALED_TEXT),
    (CONFIGMAPS, SEALED, "binaryData", ..., "binaryData", SEALED_TEXT),
    (CONFIGMAPS, SEALED, "immutable", False, "immutable", SEALED_TEXT),
    (SECRETS, SEALED, "data", {}, "data", SEALED_TEXT),
    (SECRETS, {}, "type", "mine", "type", 'Invalid value: "mine": field is immutable'),
    (DAEMONSETS, {}, "spec.selector", {"matchLabels": {"a": "b"}}, "spec.selector", "field is immutable"),
    (CONTROLLERREVISIONS, {}, "data", {}, "data", "field is immutable"),
    (JOBS, {}, "spec.completions", 3, "spec.completions", "field is immutable"),
    (JOBS, {}, f"{T}.spec.containers[0].image", "other", "spec.template", "field is immutable"),
    (JOBS, {}, "spec.selector", {"matchLabels": {"job-name": "x"}}, "spec.selector", "field is immutable"),
    (PRIORITYCLASSES, {}, "value", 3, "value", "Forbidden: may not be changed in an update."),
    (PRIORITYCLASSES, {}, "preemptionPolicy", "Never", "preemptionPolicy", "field is immutable"),
]


@pytest.mark.parametrize(("resource", "fields", "path", "value", "field", "text"), UPDATE)
def test_what_may_not_change(resource, fields, path, value, field, text):
    old = stored(resource, {**sample(resource), **fields})
    new = put(old, path, value)
    KINDS[resource].default(new)
    KINDS[resource].prepare_update(new, old)
    found = KINDS[resource].validate(new, old)
    assert (field, True) in [(cause.field, text in cause.message) for cause in found], found


def test_an_indexed_job_may_grow():
    old = stored(JOBS, put(sample(JOBS), "spec.completionMode", "Indexed"))
    new = copy.deepcopy(old)
    new["spec"] |= {"completions": 4, "parallelism": 4}
    assert causes_of(JOBS, new, old) == []


# Rows


def done(**status):
    return put(stored(JOBS), "status", status)


def said(kind):
    return {"conditions": [{"type": kind, "status": "True"}]}


STARTED = {"startTime": "2026-05-04T12:09:00Z"}
ROWS = [
    (CONFIGMAPS, sample(CONFIGMAPS), ["x", 3, "10m"]),
    (SECRETS, stored(SECRETS), ["x", "Opaque", 2, "10m"]),
    (SERVICEACCOUNTS, sample(SERVICEACCOUNTS), ["x", 1, "10m"]),
    (
        DAEMONSETS,
        put(stored(DAEMONSETS), "status", {"desiredNumberScheduled": 3, "numberReady": 2}),
        ["x", 3, 0, 2, 0, 0, "<none>", "10m", "c", "i", "app=hello"],
    ),
    (CONTROLLERREVISIONS, sample(CONTROLLERREVISIONS), ["x", "<none>", 1, "10m"]),
    (JOBS, done(**STARTED), ["x", "Running", "0/1", "60s", "10m"]),
    (
        JOBS,
        done(**STARTED, **said("Complete"), succeeded=1, completionTime="2026-05-04T12:09:07Z"),
        ["x", "Complete", "1/1", "7s", "10m"],
    ),
    (JOBS, done(**said("Failed")), ["x", "Failed", "0/1", "", "10m"]),
    (JOBS, done(**said("Suspended")), ["x", "Suspended", "0/1", "", "10m"]),
    (
        PODDISRUPTIONBUDGETS,
        put(sample(PODDISRUPTIONBUDGETS), "status", {"disruptionsAllowed": 1}),
        ["x", "50%", "N/A", 1, "10m"],
    ),
    (NETWORKPOLICIES, sample(NETWORKPOLICIES), ["x", "<none>", "10m"]),
    (PRIORITYCLASSES, stored(PRIORITYCLASSES), ["x", 1000, False, "10m", "PreemptLowerPriority"]),
]


@pytest.mark.parametrize(("resource", "obj", "cells"), ROWS)
def test_rows(resource, obj, cells):
    assert row(resource, copy.deepcopy(obj))[: len(cells)] == cells


def test_field_selectors():
    assert KINDS[SECRETS].fields(stored(SECRETS))["type"] == "Opaque"
    assert KINDS[JOBS].fields(done(succeeded=2))["status.successful"] == "2"


# What is merely listed


@pytest.mark.parametrize("resource", LISTED, ids=lambda resource: resource.qualified)
def test_what_is_listed_only_has_no_objects_to_speak_of(resource):
    kind = KINDS[resource]
    assert not kind.stored
    assert [column.name for column in kind.columns] == ["Name", "Age"]


# What a pod gets from others


def priority_class(name, value, **fields):
    return stored(PRIORITYCLASSES, made(PRIORITYCLASSES, name, value=value, **fields))


CLASSES = [priority_class("high", 1000), priority_class("low", -5, preemptionPolicy="Never")]


def prioritised(spec, classes):
    obj = {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}
    give_priority(obj, classes)
    return obj["spec"]


def test_a_pod_gets_its_priority_by_name():
    assert prioritised({}, CLASSES) == {"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}
    assert prioritised({"priorityClassName": "low"}, CLASSES)["priority"] == -5
    assert prioritised({"priorityClassName": "low"}, CLASSES)["preemptionPolicy"] == "Never"
    marked = [*CLASSES, priority_class("usual", 50, globalDefault=True)]
    assert prioritised({}, marked)["priorityClassName"] == "usual"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"priorityClassName": "none"}, "no PriorityClass with name none was found"),
        (
            {"priorityClassName": "high", "priority": 7},
            r"the integer value of priority \(7\) must not be provided in pod spec; .* computed 1000 from",
        ),
    ],
)
def test_a_priority_that_cannot_be_is_refused(spec, text):
    with pytest.raises(StatusError, match=text) as caught:
        prioritised(spec, CLASSES)
    assert caught.value.code == 403


def test_a_pod_gets_its_account():
    obj = {"metadata": {"name": "p", "namespace": "default"}, "spec": {}}
    give_account(obj, [])
    assert obj["spec"] == {"serviceAccountName": "default", "serviceAccount": "default"}
    obj["spec"] = {"serviceAccountName": "robot"}
    with pytest.raises(
        StatusError, match='error looking up service account default/robot: serviceaccount "robot"'
    ):
        give_account(obj, [])
    give_account(obj, [made(SERVICEACCOUNTS, "robot")])


NOT_READY = {
    "key": "node.kubernetes.io/not-ready",
    "operator": "Exists",
    "effect": "NoExecute",
    "tolerationSeconds": 300,
}
UNREACHABLE = {**NOT_READY, "key": "node.kubernetes.io/unreachable", "tolerationSeconds": 7}


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        (None, [NOT_READY, UNREACHABLE]),
        ([{"operator": "Exists"}], [{"operator": "Exists"}]),
        (
            [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
            [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}, UNREACHABLE],
        ),
        (
            [{**NOT_READY, "effect": "NoSchedule"}, UNREACHABLE],
            [{**NOT_READY, "effect": "NoSchedule"}, UNREACHABLE, NOT_READY],
        ),
        (7, 7),
        ([7], [7]),
    ],
)
def test_pods_are_patient_with_nodes(own, wanted):
    obj = {"spec": {} if own is None else {"tolerations": own}}
    give_tolerations(obj, Patience(unreachable=7))
    assert obj["spec"]["tolerations"] == wanted


def test_a_daemonset_counts_its_templates():
    def template(image):
        spec = {"containers": [{"name": "c", "image": image}]}
        return {"metadata": {"labels": {"app": "d"}}, "spec": spec}

    def daemonset(image, **annotations):
        spec = {"selector": {"matchLabels": {"app": "d"}}, "template": template(image)}
        return made(DAEMONSETS, "d", spec=spec) | {
            "metadata": {"name": "d", "namespace": "x", "annotations": annotations}
        }

    def counted(obj):
        return obj["metadata"]["annotations"]["deprecated.daemonset.template.generation"]

    first = daemonset("a", **{"deprecated.daemonset.template.generation": "9"})
    KINDS[DAEMONSETS].prepare_create(first)
    assert counted(first) == "1"
    same, changed = daemonset("a"), daemonset("b")
    for new in (same, changed):
        KINDS[DAEMONSETS].prepare_update(new, first)
    assert (counted(same), counted(changed)) == ("1", "2")
