"""Kinds that clients list and netplane does not have: their collections are there, and always empty.

kubectl, its `apply --prune`, and other clients list these and stop at the first 404. So each answers lists,
watches and deletes as an empty collection does, and refuses by name whoever wants to create one.
"""

from __future__ import annotations

from collections.abc import Callable

from controlplane.api.kinds.kind import Asker, Kind
from controlplane.api.kinds.metadata import name_fields
from controlplane.api.kinds.printing import AGE, NAME
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import Resource

CLUSTER, NAMESPACED = False, True

# group, version, plural, kind, scope, short names, categories
_TABLE: tuple[tuple[str, str, str, str, bool, str, str], ...] = (
    ("", "v1", "componentstatuses", "ComponentStatus", CLUSTER, "cs", ""),
    ("", "v1", "limitranges", "LimitRange", NAMESPACED, "limits", ""),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", NAMESPACED, "pvc", ""),
    ("", "v1", "persistentvolumes", "PersistentVolume", CLUSTER, "pv", ""),
    ("", "v1", "podtemplates", "PodTemplate", NAMESPACED, "", ""),
    ("", "v1", "replicationcontrollers", "ReplicationController", NAMESPACED, "rc", "all"),
    ("", "v1", "resourcequotas", "ResourceQuota", NAMESPACED, "quota", ""),
    *(
        ("admissionregistration.k8s.io", "v1", plural, kind, CLUSTER, "", "api-extensions")
        for plural, kind in (
            ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
            ("validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
            ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
            ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
        )
    ),
    (
        *("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition"),
        *(CLUSTER, "crd crds", "api-extensions"),
    ),
    ("apiregistration.k8s.io", "v1", "apiservices", "APIService", CLUSTER, "", "api-extensions"),
    ("apps", "v1", "statefulsets", "StatefulSet", NAMESPACED, "sts", "all"),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", NAMESPACED, "hpa", "all"),
    ("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", NAMESPACED, "hpa", "all"),
    ("batch", "v1", "cronjobs", "CronJob", NAMESPACED, "cj", "all"),
    (
        *("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest"),
        *(CLUSTER, "csr", ""),
    ),
    *(
        ("flowcontrol.apiserver.k8s.io", "v1", plural, kind, CLUSTER, "", "")
        for plural, kind in (
            ("flowschemas", "FlowSchema"),
            ("prioritylevelconfigurations", "PriorityLevelConfiguration"),
        )
    ),
    ("networking.k8s.io", "v1", "ingressclasses", "IngressClass", CLUSTER, "", ""),
    ("networking.k8s.io", "v1", "ingresses", "Ingress", NAMESPACED, "ing", ""),
    ("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", CLUSTER, "", ""),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", CLUSTER, "", ""),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", CLUSTER, "", ""),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", NAMESPACED, "", ""),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", NAMESPACED, "", ""),
    ("storage.k8s.io", "v1", "csidrivers", "CSIDriver", CLUSTER, "", ""),
    ("storage.k8s.io", "v1", "csinodes", "CSINode", CLUSTER, "", ""),
    ("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", NAMESPACED, "", ""),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", CLUSTER, "sc", ""),
    ("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", CLUSTER, "", ""),
)

LISTED: tuple[Resource, ...] = tuple(
    Resource(group, version, plural, kind, scope, tuple(short.split()), tuple(categories.split()))
    for group, version, plural, kind, scope, short, categories in _TABLE
)


def _nothing(_obj: Object) -> None:
    """None of these is ever stored."""


def _no_causes(_new: Object, _old: Object | None) -> list[Cause]:
    return []


def listed_kind(resource: Resource, ask: Callable[[Asker, Object], Object] | None = None) -> Kind:
    """The Kind of an empty collection, or of questions that `ask` answers."""
    return Kind(
        resource=resource,
        default=_nothing,
        validate=_no_causes,
        columns=(NAME, AGE),
        fields=name_fields,
        stored=False,
        ask=ask,
    )
