"""The fields of a Pod and of a pod template, as in Kubernetes 1.32 `core/v1`.

Volume sources that no netplane runtime mounts, affinity terms and the like are objects whose inner fields are
not looked at: they travel through unchanged.
"""

from __future__ import annotations

from controlplane.api.kinds.label_selector import LABEL_SELECTOR
from controlplane.api.kinds.metadata import METADATA, object_shape
from controlplane.api.kinds.shapes import (
    BOOLEAN,
    INTEGER,
    INTEGER_OR_STRING,
    LABELS,
    LONG,
    OBJECT,
    QUANTITIES,
    QUANTITY,
    STRING,
    STRINGS,
    TIME,
    ListOf,
    Shape,
    Struct,
    strings,
)

_HTTP_GET = Struct(
    {
        **strings("path", "host", "scheme"),
        "port": INTEGER_OR_STRING,
        "httpHeaders": ListOf(Struct(strings("name", "value"))),
    }
)
_HANDLER: dict[str, Shape] = {
    "exec": Struct({"command": STRINGS}),
    "httpGet": _HTTP_GET,
    "tcpSocket": Struct({"port": INTEGER_OR_STRING, "host": STRING}),
}
PROBE = Struct(
    {
        **_HANDLER,
        "grpc": Struct({"port": INTEGER, "service": STRING}),
        "initialDelaySeconds": INTEGER,
        "timeoutSeconds": INTEGER,
        "periodSeconds": INTEGER,
        "successThreshold": INTEGER,
        "failureThreshold": INTEGER,
        "terminationGracePeriodSeconds": LONG,
    }
)
_LIFECYCLE = Struct({**_HANDLER, "sleep": Struct({"seconds": LONG})})
_FIELD_REF = Struct(strings("apiVersion", "fieldPath"))
_RESOURCE_FIELD_REF = Struct({**strings("containerName", "resource"), "divisor": QUANTITY})
_KEY_REF = Struct({**strings("name", "key"), "optional": BOOLEAN})
_NAMED_REF = Struct({"name": STRING, "optional": BOOLEAN})
_ENV = Struct(
    {
        **strings("name", "value"),
        "valueFrom": Struct(
            {
                "fieldRef": _FIELD_REF,
                "resourceFieldRef": _RESOURCE_FIELD_REF,
                "configMapKeyRef": _KEY_REF,
                "secretKeyRef": _KEY_REF,
            }
        ),
    }
)
_ENV_FROM = Struct({"prefix": STRING, "configMapRef": _NAMED_REF, "secretRef": _NAMED_REF})
_PORT = Struct({**strings("name", "protocol", "hostIP"), "containerPort": INTEGER, "hostPort": INTEGER})
RESOURCES = Struct({"limits": QUANTITIES, "requests": QUANTITIES, "claims": ListOf(OBJECT)})
_MOUNT = Struct(
    {
        **strings("name", "mountPath", "subPath", "subPathExpr", "mountPropagation", "recursiveReadOnly"),
        "readOnly": BOOLEAN,
    }
)
CONTAINER_FIELDS: dict[str, Shape] = {
    **strings("name", "image", "workingDir", "restartPolicy", "imagePullPolicy"),
    **strings("terminationMessagePath", "terminationMessagePolicy"),
    "command": STRINGS,
    "args": STRINGS,
    "ports": ListOf(_PORT),
    "env": ListOf(_ENV),
    "envFrom": ListOf(_ENV_FROM),
    "resources": RESOURCES,
    "resizePolicy": ListOf(Struct(strings("resourceName", "restartPolicy"))),
    "volumeMounts": ListOf(_MOUNT),
    "volumeDevices": ListOf(Struct(strings("name", "devicePath"))),
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
    "startupProbe": PROBE,
    "lifecycle": Struct({"postStart": _LIFECYCLE, "preStop": _LIFECYCLE, "stopSignal": STRING}),
    "securityContext": OBJECT,
    "stdin": BOOLEAN,
    "stdinOnce": BOOLEAN,
    "tty": BOOLEAN,
}
CONTAINER = Struct(CONTAINER_FIELDS)
_EPHEMERAL = Struct({**CONTAINER_FIELDS, "targetContainerName": STRING})

_ITEMS = ListOf(Struct({**strings("key", "path"), "mode": INTEGER}))
_DOWNWARD_ITEMS = ListOf(
    Struct({"path": STRING, "fieldRef": _FIELD_REF, "resourceFieldRef": _RESOURCE_FIELD_REF, "mode": INTEGER})
)
_PROJECTION = Struct(
    {
        "secret": Struct({"name": STRING, "items": _ITEMS, "optional": BOOLEAN}),
        "configMap": Struct({"name": STRING, "items": _ITEMS, "optional": BOOLEAN}),
        "downwardAPI": Struct({"items": _DOWNWARD_ITEMS}),
        "serviceAccountToken": Struct({**strings("audience", "path"), "expirationSeconds": LONG}),
        "clusterTrustBundle": OBJECT,
    }
)
_OTHER_SOURCES = (
    "awsElasticBlockStore azureDisk azureFile cephfs cinder csi ephemeral fc flexVolume flocker "
    "gcePersistentDisk gitRepo glusterfs image iscsi nfs photonPersistentDisk portworxVolume quobyte rbd "
    "scaleIO storageos vsphereVolume"
)
VOLUME_SOURCES: dict[str, Shape] = {
    "emptyDir": Struct({"medium": STRING, "sizeLimit": QUANTITY}),
    "hostPath": Struct(strings("path", "type")),
    "secret": Struct({"secretName": STRING, "items": _ITEMS, "defaultMode": INTEGER, "optional": BOOLEAN}),
    "configMap": Struct({"name": STRING, "items": _ITEMS, "defaultMode": INTEGER, "optional": BOOLEAN}),
    "projected": Struct({"sources": ListOf(_PROJECTION), "defaultMode": INTEGER}),
    "downwardAPI": Struct({"items": _DOWNWARD_ITEMS, "defaultMode": INTEGER}),
    "persistentVolumeClaim": Struct({"claimName": STRING, "readOnly": BOOLEAN}),
    **dict.fromkeys(_OTHER_SOURCES.split(), OBJECT),
}
TOLERATION = Struct({**strings("key", "operator", "value", "effect"), "tolerationSeconds": LONG})
_SPREAD = Struct(
    {
        **strings("topologyKey", "whenUnsatisfiable", "nodeAffinityPolicy", "nodeTaintsPolicy"),
        "maxSkew": INTEGER,
        "minDomains": INTEGER,
        "labelSelector": LABEL_SELECTOR,
        "matchLabelKeys": STRINGS,
    }
)
_DNS_CONFIG = Struct(
    {"nameservers": STRINGS, "searches": STRINGS, "options": ListOf(Struct(strings("name", "value")))}
)
POD_SPEC = Struct(
    {
        **strings(
            "restartPolicy", "dnsPolicy", "serviceAccountName", "serviceAccount", "nodeName", "hostname"
        ),
        **strings("subdomain", "schedulerName", "priorityClassName", "preemptionPolicy", "runtimeClassName"),
        "volumes": ListOf(Struct({"name": STRING, **VOLUME_SOURCES})),
        "initContainers": ListOf(CONTAINER),
        "containers": ListOf(CONTAINER),
        "ephemeralContainers": ListOf(_EPHEMERAL),
        "terminationGracePeriodSeconds": LONG,
        "activeDeadlineSeconds": LONG,
        "nodeSelector": LABELS,
        "automountServiceAccountToken": BOOLEAN,
        "hostNetwork": BOOLEAN,
        "hostPID": BOOLEAN,
        "hostIPC": BOOLEAN,
        "hostUsers": BOOLEAN,
        "shareProcessNamespace": BOOLEAN,
        "securityContext": OBJECT,
        "imagePullSecrets": ListOf(Struct(strings("name"))),
        "affinity": OBJECT,
        "tolerations": ListOf(TOLERATION),
        "hostAliases": ListOf(Struct({"ip": STRING, "hostnames": STRINGS})),
        "priority": INTEGER,
        "dnsConfig": _DNS_CONFIG,
        "readinessGates": ListOf(Struct(strings("conditionType"))),
        "enableServiceLinks": BOOLEAN,
        "overhead": QUANTITIES,
        "topologySpreadConstraints": ListOf(_SPREAD),
        "setHostnameAsFQDN": BOOLEAN,
        "os": Struct(strings("name")),
        "schedulingGates": ListOf(Struct(strings("name"))),
        "resourceClaims": ListOf(OBJECT),
        "resources": RESOURCES,
    }
)
TEMPLATE = Struct({"metadata": METADATA, "spec": POD_SPEC})

CONDITION = Struct(
    {
        **strings("type", "status", "reason", "message"),
        **dict.fromkeys(("lastProbeTime", "lastTransitionTime", "lastUpdateTime", "lastHeartbeatTime"), TIME),
        "observedGeneration": LONG,
    }
)
_STATE = Struct(
    {
        "waiting": Struct(strings("reason", "message")),
        "running": Struct({"startedAt": TIME}),
        "terminated": Struct(
            {
                **strings("reason", "message", "containerID"),
                "exitCode": INTEGER,
                "signal": INTEGER,
                "startedAt": TIME,
                "finishedAt": TIME,
            }
        ),
    }
)
_CONTAINER_STATUS = Struct(
    {
        **strings("name", "image", "imageID", "containerID", "stopSignal"),
        "state": _STATE,
        "lastState": _STATE,
        "ready": BOOLEAN,
        "started": BOOLEAN,
        "restartCount": INTEGER,
        "allocatedResources": QUANTITIES,
        "allocatedResourcesStatus": ListOf(OBJECT),
        "resources": RESOURCES,
        "volumeMounts": ListOf(OBJECT),
        "user": OBJECT,
    }
)
POD_STATUS = Struct(
    {
        **strings("phase", "reason", "message", "nominatedNodeName", "hostIP", "podIP", "qosClass", "resize"),
        "startTime": TIME,
        "observedGeneration": LONG,
        "conditions": ListOf(CONDITION),
        "hostIPs": ListOf(Struct(strings("ip"))),
        "podIPs": ListOf(Struct(strings("ip"))),
        "containerStatuses": ListOf(_CONTAINER_STATUS),
        "initContainerStatuses": ListOf(_CONTAINER_STATUS),
        "ephemeralContainerStatuses": ListOf(_CONTAINER_STATUS),
        "resourceClaimStatuses": ListOf(OBJECT),
    }
)
POD = object_shape(spec=POD_SPEC, status=POD_STATUS)
