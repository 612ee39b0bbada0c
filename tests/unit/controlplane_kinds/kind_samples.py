"""One good object of each kind, as a client sends it."""

import base64

from netplane.kube.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DAEMONSETS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    JOBS,
    LEASES,
    NAMESPACES,
    NETWORKPOLICIES,
    NODES,
    PODDISRUPTIONBUDGETS,
    PODS,
    PRIORITYCLASSES,
    SECRETS,
    SERVICEACCOUNTS,
    SERVICES,
)


def made(resource, name="x", **fields):
    metadata = {"name": name, **({"namespace": "default"} if resource.namespaced else {})}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **fields}


def pod():
    container = {
        "name": "c",
        "image": "netplane/echo",
        "ports": [{"name": "web", "containerPort": 8080}],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi", "cpu": 1}},
        "readinessProbe": {"httpGet": {"port": "web"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }
    return made(PODS, spec={"containers": [container], "volumes": [{"name": "v"}]})


def service():
    return made(SERVICES, spec={"selector": {"app": "hello"}, "ports": [{"port": 80, "targetPort": "web"}]})


def deployment():
    template = {
        "metadata": {"labels": {"app": "hello"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    selector = {"matchLabels": {"app": "hello"}}
    return made(DEPLOYMENTS, spec={"replicas": 3, "selector": selector, "template": template, "strategy": {}})


def node():
    return made(NODES, spec={}, status={"capacity": {"cpu": "2", "memory": "4Gi", "pods": 110}})


def namespace():
    return made(NAMESPACES)


def endpointslice():
    return made(
        ENDPOINTSLICES,
        addressType="IPv4",
        endpoints=[{"addresses": ["10.244.1.2"], "conditions": {"ready": True}, "nodeName": "n1"}],
        ports=[{"name": "", "port": 8080, "protocol": "TCP"}],
    )


def endpoints():
    subset = {"addresses": [{"ip": "192.168.77.10"}], "ports": [{"name": "https", "port": 6443}]}
    return made(ENDPOINTS, subsets=[subset])


def event():
    return made(
        EVENTS,
        involvedObject={"kind": "Pod", "namespace": "default", "name": "web"},
        reason="Failed",
        message="cannot start",
        type="Warning",
        count=2,
        firstTimestamp="2026-05-04T12:00:00Z",
    )


def lease():
    spec = {"holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": "2026-05-04T12:00:00.123456Z"}
    return made(LEASES, spec=spec)


def configmap():
    return made(CONFIGMAPS, data={"key": "value", "app.conf": "a=1"}, binaryData={"logo": "AAEC"})


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def secret():
    return made(SECRETS, data={"pin": encoded("x")}, stringData={"user": "me"})


def serviceaccount():
    return made(SERVICEACCOUNTS, secrets=[{"name": "s"}], imagePullSecrets=[{"name": "p"}])


def daemonset():
    spec = {k: v for k, v in deployment()["spec"].items() if k in ("selector", "template")}
    return made(DAEMONSETS, spec=spec)


def controllerrevision():
    return made(CONTROLLERREVISIONS, data={"spec": {"template": {}}}, revision=1)


def job():
    containers = [{"name": "c", "image": "i"}]
    made_job = made(JOBS, spec={"template": {"spec": {"containers": containers, "restartPolicy": "Never"}}})
    made_job["metadata"]["uid"] = "u1"
    return made_job


def poddisruptionbudget():
    return made(
        PODDISRUPTIONBUDGETS, spec={"minAvailable": "50%", "selector": {"matchLabels": {"app": "hello"}}}
    )


def networkpolicy():
    peers = [{"podSelector": {"matchLabels": {"app": "x"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    rule = {"from": peers, "ports": [{"port": 80, "endPort": 90}, {"port": "web", "protocol": "UDP"}]}
    return made(NETWORKPOLICIES, spec={"podSelector": {}, "ingress": [rule]})


def priorityclass():
    return made(PRIORITYCLASSES, value=1000, description="important")
