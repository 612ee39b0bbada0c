"""What is in a pod's volumes, where it is shown, and how its files are replaced."""

import base64

import pytest

from netplane.kube.references import Reference
from netplane.kube.resources import CONFIGMAPS, SECRETS
from netplane.node import volume_files
from netplane.node.environment import Missing, Surroundings, environment
from netplane.node.pod_volumes import sweep
from netplane.node.service_links import service_variables
from netplane.node.volumes import File, Places, files_of, mounts_of

POD = {
    "metadata": {"name": "p", "namespace": "d", "labels": {"b": "2", "a": 'say "hi"'}},
    "spec": {"nodeName": "n1"},
}
FOUND = {
    Reference(CONFIGMAPS, "c"): {"data": {"color": "red", "size": "1"}, "binaryData": {"raw": "AAE="}},
    Reference(SECRETS, "s"): {"data": {"pw": base64.b64encode(b"word").decode()}},
    Reference(CONFIGMAPS, "none"): None,
}

FILES = [
    ({"configMap": {"name": "c"}}, {"color": b"red", "size": b"1", "raw": b"\0\1"}),
    ({"configMap": {"name": "c", "items": [{"key": "color", "path": "x/y"}]}}, {"x/y": b"red"}),
    ({"configMap": {"name": "c", "optional": True, "items": [{"key": "no", "path": "x"}]}}, {}),
    ({"configMap": {"name": "none", "optional": True}}, {}),
    ({"secret": {"secretName": "s"}}, {"pw": b"word"}),
    (
        {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"l": b'a="say \\"hi\\""\nb="2"'},
    ),
    (
        {
            "projected": {
                "sources": [
                    {"secret": {"name": "s"}},
                    {"configMap": {"name": "c", "items": [{"key": "color", "path": "c"}]}},
                    {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ]
            }
        },
        {"pw": b"word", "c": b"red", "n": b"p"},
    ),
]


@pytest.mark.parametrize(("volume", "expected"), FILES)
def test_the_files_of_a_volume(volume, expected):
    found = files_of(POD, {"name": "v", **volume}, FOUND)
    assert {name: file.data for name, file in found.items()} == expected


def test_modes():
    items = [{"key": "pw", "path": "a", "mode": 0o440}]
    volume = {"name": "v", "secret": {"secretName": "s", "items": items, "defaultMode": 0o400}}
    assert files_of(POD, volume, FOUND)["a"].mode == 0o440
    volume["secret"]["items"] = None
    assert files_of(POD, volume, FOUND)["pw"].mode == 0o400


MISSING = [
    ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
    ({"secret": {"secretName": "gone"}}, 'secret "gone" not found'),
    (
        {"configMap": {"name": "c", "items": [{"key": "no", "path": "x"}]}},
        "references non-existent config key: no",
    ),
    (
        {"secret": {"secretName": "s", "items": [{"key": "no", "path": "x"}]}},
        "references non-existent secret key: no",
    ),
]


@pytest.mark.parametrize(("volume", "text"), MISSING)
def test_what_is_missing_is_said_in_kubelet_s_words(volume, text):
    with pytest.raises(Missing) as caught:
        files_of(POD, {"name": "v", **volume}, FOUND)
    assert str(caught.value) == text


def test_where_volumes_are_shown(tmp_path):
    places = Places(tmp_path / "scratch", tmp_path / "written")
    pod = {
        "spec": {
            "volumes": [{"name": "c", "configMap": {"name": "c"}}, {"name": "e", "emptyDir": {}}],
            "containers": [
                {"volumeMounts": [{"name": "c", "mountPath": "/c"}, {"name": "e", "mountPath": "/e"}]},
                {"volumeMounts": [{"name": "e", "mountPath": "/x", "subPath": "in", "readOnly": True}]},
            ],
        }
    }
    found = {
        m.target: (str(m.source.relative_to(tmp_path)), m.read_only) for m in mounts_of(pod, "u", places)
    }
    assert found == {
        "/c": ("written/u/c", True),
        "/e": ("scratch/u/e", False),
        "/x": ("scratch/u/e/in", True),
    }


def test_files_are_replaced_in_one_step(tmp_path):
    volume = tmp_path / "v"
    assert volume_files.write(volume, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o400)})
    assert not volume_files.write(volume, {"a": File(b"1", 0o644), "d/b": File(b"2", 0o400)})
    before = (volume / "..data").readlink()
    assert volume_files.write(volume, {"a": File(b"3", 0o644), "c": File(b"4", 0o644)})
    assert (volume / "..data").readlink() != before
    assert {p.name: p.read_bytes() for p in volume.iterdir() if p.is_file()} == {"a": b"3", "c": b"4"}
    assert sorted(p.name for p in volume.iterdir() if p.name.startswith("..")) == sorted(
        ["..data", str((volume / "..data").readlink())]
    )
    assert volume_files.write(volume, {})
    assert [p.name for p in volume.iterdir() if not p.name.startswith("..")] == []


def test_volumes_of_pods_that_are_gone_are_removed(tmp_path):
    places = Places(tmp_path / "scratch", tmp_path / "written")
    for base in (places.scratch, places.written):
        for uid in ("here", "gone"):
            (base / uid / "v").mkdir(parents=True)
    sweep(places, ["here"])
    assert [p.name for p in places.scratch.iterdir()] == ["here"]
    assert [p.name for p in places.written.iterdir()] == ["here"]


FACTS = {"hostname": "p"}


def variables(container, **services):
    return environment(POD, container, FACTS, {}, Surroundings(FOUND, services))


def test_later_variables_win_and_see_the_earlier_ones():
    found = variables(
        {
            "envFrom": [{"configMapRef": {"name": "c"}}, {"prefix": "S_", "secretRef": {"name": "s"}}],
            "env": [{"name": "size", "value": "$(size)0"}, {"name": "HOST", "value": "$(WEB_SERVICE_HOST)"}],
        },
        WEB_SERVICE_HOST="10.96.0.7",
        color="never",
    )
    assert (found["color"], found["size"], found["S_pw"], found["HOST"]) == ("red", "10", "word", "10.96.0.7")


def test_what_is_optional_may_be_missing():
    optional = {"name": "none", "key": "x", "optional": True}
    found = variables(
        {
            "envFrom": [{"configMapRef": {"name": "none", "optional": True}}],
            "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": optional}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": True}}},
            ],
        }
    )
    assert not {"A", "B"} & set(found)


@pytest.mark.parametrize(
    ("container", "text"),
    [
        ({"envFrom": [{"secretRef": {"name": "gone"}}]}, 'secret "gone" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]},
            'configmap "none" not found',
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no"}}}]},
            "couldn't find key no in Secret d/s",
        ),
    ],
)
def test_a_missing_value_is_said_in_kubelet_s_words(container, text):
    with pytest.raises(Missing) as caught:
        variables(container)
    assert str(caught.value) == text


def service(name, namespace="d", address="10.96.0.7", ports=({"port": 80},)):
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": address, "ports": ports},
    }


KUBERNETES = service("kubernetes", "default", "10.96.0.1", ({"name": "https", "port": 443},))


def test_variables_for_services():
    ports = ({"name": "http-web", "port": 80}, {"port": 53, "protocol": "UDP"})
    found = service_variables(
        POD, [service("my-web", ports=ports), KUBERNETES, service("other", "elsewhere")]
    )
    assert found == {
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
        "MY_WEB_SERVICE_HOST": "10.96.0.7",
        "MY_WEB_SERVICE_PORT": "80",
        "MY_WEB_SERVICE_PORT_HTTP_WEB": "80",
        "MY_WEB_PORT": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP": "tcp://10.96.0.7:80",
        "MY_WEB_PORT_80_TCP_PROTO": "tcp",
        "MY_WEB_PORT_80_TCP_PORT": "80",
        "MY_WEB_PORT_80_TCP_ADDR": "10.96.0.7",
        "MY_WEB_PORT_53_UDP": "udp://10.96.0.7:53",
        "MY_WEB_PORT_53_UDP_PROTO": "udp",
        "MY_WEB_PORT_53_UDP_PORT": "53",
        "MY_WEB_PORT_53_UDP_ADDR": "10.96.0.7",
    }


def test_links_can_be_switched_off_and_headless_services_have_none():
    quiet = {**POD, "spec": {"enableServiceLinks": False}}
    assert all(
        name.startswith("KUBERNETES_") for name in service_variables(quiet, [service("web"), KUBERNETES])
    )
    assert service_variables(POD, [service("web", address="None"), service("ext", address="")]) == {}


def test_a_service_called_kubernetes_in_the_pod_s_own_namespace_wins():
    own = service("kubernetes", address="10.96.0.9", ports=({"port": 1},))
    for services in ([own, KUBERNETES], [KUBERNETES, own]):
        assert service_variables(POD, services)["KUBERNETES_SERVICE_HOST"] == "10.96.0.9"
