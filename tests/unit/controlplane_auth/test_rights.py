"""Who is calling, and the table of who may do what."""

import pytest

from controlplane.auth.authn import User, of_certificate
from controlplane.auth.authz import allowed, allowed_path, restriction, unrelated
from netplane.kube.resources import CONFIGMAPS, PODS, SECRETS

ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"))
NODE = User("system:node:n1", ("system:nodes", "system:authenticated"))
NAMELESS = User("n1", ("system:nodes", "system:authenticated"))
PROXY = User("system:kube-proxy:n1", ("system:node-proxier", "system:authenticated"))
DNS = User("system:dns:n1", ("netplane:dns", "system:authenticated"))
NOBODY = User("somebody", ("system:authenticated",))

SLICES = ("discovery.k8s.io", "endpointslices")
LEASES = ("coordination.k8s.io", "leases")
CORE = {plural: ("", plural) for plural in ("pods", "services", "endpoints", "nodes", "namespaces", "events")}

# user, verb, (group, resource), subresource, namespace, name, allowed
TABLE = [
    (ADMIN, "deletecollection", CORE["pods"], "", "default", "", True),
    (NODE, "list", CORE["pods"], "", "", "", True),
    (NODE, "watch", CORE["services"], "", "", "", True),
    (NODE, "watch", SLICES, "", "", "", True),
    (NODE, "create", CORE["nodes"], "", "", "", True),
    (NODE, "patch", CORE["nodes"], "status", "", "n1", True),
    (NODE, "patch", CORE["nodes"], "status", "", "n2", False),
    (NODE, "update", CORE["nodes"], "", "", "n1", True),
    (NODE, "update", CORE["nodes"], "", "", "n2", False),
    (NODE, "delete", CORE["nodes"], "", "", "n1", False),
    (NODE, "patch", CORE["pods"], "status", "default", "web", True),
    (NODE, "patch", CORE["pods"], "", "default", "web", False),
    (NODE, "create", CORE["pods"], "", "default", "", False),
    (NODE, "create", CORE["pods"], "binding", "default", "web", False),
    (NODE, "delete", CORE["pods"], "", "default", "web", True),
    (NODE, "create", CORE["events"], "", "default", "", True),
    (NODE, "update", LEASES, "", "kube-node-lease", "n1", True),
    (NODE, "create", LEASES, "", "kube-node-lease", "", True),
    (NODE, "update", LEASES, "", "kube-node-lease", "n2", False),
    (NODE, "update", LEASES, "", "kube-system", "n1", False),
    (NODE, "create", CORE["services"], "", "default", "", False),
    (NODE, "get", ("", "configmaps"), "", "default", "c", True),
    (NODE, "watch", ("", "secrets"), "", "default", "s", True),
    (NODE, "list", ("", "secrets"), "", "default", "", False),
    (NODE, "list", ("", "secrets"), "", "", "s", False),
    (NODE, "update", ("", "configmaps"), "", "default", "c", False),
    (PROXY, "get", ("", "secrets"), "", "default", "s", False),
    (NAMELESS, "list", CORE["pods"], "", "", "", False),
    (PROXY, "watch", CORE["services"], "", "", "", True),
    (PROXY, "list", SLICES, "", "", "", True),
    (PROXY, "get", CORE["nodes"], "", "", "n1", True),
    (PROXY, "patch", CORE["events"], "", "default", "e", True),
    (PROXY, "list", CORE["pods"], "", "", "", False),
    (PROXY, "update", CORE["services"], "status", "default", "web", False),
    (DNS, "watch", CORE["namespaces"], "", "", "", True),
    (DNS, "list", CORE["pods"], "", "", "", True),
    (DNS, "create", CORE["pods"], "", "default", "", False),
    (NOBODY, "list", CORE["pods"], "", "default", "", False),
    (NOBODY, "create", ("authorization.k8s.io", "selfsubjectaccessreviews"), "", "", "", True),
    (NOBODY, "create", ("authentication.k8s.io", "selfsubjectreviews"), "", "", "", True),
]


@pytest.mark.parametrize(("user", "verb", "resource", "subresource", "namespace", "name", "expected"), TABLE)
def test_table(user, verb, resource, subresource, namespace, name, expected):
    group, plural = resource
    assert allowed(user, verb, group, plural, subresource, namespace, name) is expected


@pytest.mark.parametrize("user", [NODE, PROXY, DNS, NOBODY])
@pytest.mark.parametrize("resource", [("", "secrets"), ("apps", "deployments"), ("", "services")])
@pytest.mark.parametrize("verb", ["create", "update", "patch", "delete", "deletecollection"])
def test_no_daemon_writes_what_is_not_its_own(user, resource, verb):
    assert not allowed(user, verb, *resource, "", "default", "x")


@pytest.mark.parametrize(
    ("user", "verb", "path", "expected"),
    [
        (None, "get", "/version", True),
        (None, "get", "/version/", True),
        (None, "get", "/healthz", True),
        (None, "get", "/livez/ping", True),
        (None, "post", "/version", False),
        (None, "get", "/", False),
        (None, "get", "/api", False),
        (None, "get", "/apis/apps/v1", False),
        (None, "get", "/metrics", False),
        (None, "get", "/versions", False),
        (None, "post", "/netplane/v1/join", True),
        (None, "get", "/netplane/v1/join", False),
        (NOBODY, "get", "/apis", True),
        (NOBODY, "get", "/openapi/v3", True),
        (NOBODY, "get", "/apiserver", False),
        (NOBODY, "get", "/metrics", False),
        (ADMIN, "get", "/metrics", True),
        (User("scraper", ("system:monitoring",)), "get", "/metrics", True),
    ],
)
def test_paths(user, verb, path, expected):
    assert allowed_path(user, verb, path) is expected


def named(name: str, **spec: str) -> dict:
    return {"metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    ("user", "verb", "resource", "obj", "cause"),
    [
        (NODE, "create", CORE["nodes"], named("n1"), None),
        (NODE, "create", CORE["nodes"], named("n2"), 'node "n1" is not allowed to modify node "n2"'),
        (NODE, "create", LEASES, named("n2"), 'node "n1" is not allowed to modify lease "n2"'),
        (NODE, "delete", CORE["pods"], named("web", nodeName="n1"), None),
        (NODE, "delete", CORE["pods"], named("web", nodeName="n2"), "spec.nodeName set to itself"),
        (NODE, "delete", CORE["pods"], named("web"), "spec.nodeName set to itself"),
        (NODE, "get", CORE["pods"], named("web", nodeName="n2"), None),
        (ADMIN, "delete", CORE["pods"], named("web", nodeName="n2"), None),
        (PROXY, "create", CORE["events"], named("e"), None),
        (NODE, "delete", CORE["pods"], {"metadata": None, "spec": 3}, "spec.nodeName set to itself"),
    ],
)
def test_restriction(user, verb, resource, obj, cause):
    said = restriction(user, verb, *resource, "", obj)
    assert (said is None) if cause is None else (said is not None and cause in said)


def subject(*attributes: tuple[str, str]) -> dict:
    return {"subject": tuple((attribute,) for attribute in attributes)}


def test_the_certificate_names_user_and_groups():
    certificate = subject(
        ("organizationName", "system:masters"), ("organizationName", "ops"), ("commonName", "ann")
    )
    assert of_certificate(certificate) == User("ann", ("system:masters", "ops", "system:authenticated"))


def test_nobody_without_a_certificate_that_names_one():
    assert of_certificate(None) is None
    assert of_certificate({}) is None
    assert of_certificate(subject(("organizationName", "system:masters"))) is None
    assert of_certificate(subject(("commonName", ""))) is None


def pod_on(node, namespace="default", **spec):
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": {"nodeName": node, **spec}}


def container(**fields):
    return {"containers": [{"name": "c", **fields}]}


USES = [
    (CONFIGMAPS, container(env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "k"}}}])),
    (SECRETS, container(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}])),
    (CONFIGMAPS, container(envFrom=[{"configMapRef": {"name": "x"}}])),
    (SECRETS, container(envFrom=[{"secretRef": {"name": "x"}}])),
    (CONFIGMAPS, {"volumes": [{"name": "v", "configMap": {"name": "x"}}]}),
    (SECRETS, {"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}),
    (SECRETS, {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "x"}}]}}]}),
    (SECRETS, {"imagePullSecrets": [{"name": "x"}]}),
]


@pytest.mark.parametrize(("resource", "spec"), USES)
def test_a_node_reads_what_its_pods_use_and_nothing_else(resource, spec):
    other = SECRETS if resource == CONFIGMAPS else CONFIGMAPS
    mine, elsewhere = pod_on("n1", **spec), pod_on("n2", **spec)
    assert unrelated(NODE, resource, "default", "x", [elsewhere, mine]) == ""
    for asked in (
        (resource, "default", "y", [mine]),
        (other, "default", "x", [mine]),
        (resource, "other", "x", [mine]),
        (resource, "default", "x", [elsewhere]),
        (resource, "default", "x", []),
    ):
        assert unrelated(NODE, *asked) == "no relationship found between node 'n1' and this object"


def test_others_are_not_asked_for_pods():
    assert unrelated(ADMIN, SECRETS, "default", "x", []) == ""
    assert unrelated(NODE, PODS, "default", "x", []) == ""
