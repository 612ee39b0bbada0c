"""ConfigMaps, Secrets and scratch space in real pods: as variables, as files, and as files that follow."""

import asyncio
import base64
import stat
from pathlib import Path

import pytest

from netplane.kube.resources import CONFIGMAPS, PODS, SECRETS, SERVICES
from tests.netns.node.test_pods import absent, container, delete, has_event, is_ready, node, pod, status

__all__ = ["node"]
pytestmark = pytest.mark.netns

MARK = "netplane-test-volumes"  # a name that no host has, directly below / and below /etc


def config(name="settings", **data):
    return {"metadata": {"name": name, "namespace": "d"}, "data": data}


def secret(name="keys", **data):
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"name": name, "namespace": "d"}, "data": encoded}


def key_ref(kind, name, key, **more):
    return {"name": key.upper(), "valueFrom": {f"{kind}KeyRef": {"name": name, "key": key, **more}}}


async def written(path, wanted):
    """The file's text, once it is as wanted: the pod writes it itself."""
    async with asyncio.timeout(10):
        while not (path.exists() and wanted(path.read_text())):
            await asyncio.sleep(0.02)
    return path.read_text()


async def test_variables_and_files_arrive_and_files_follow(node):
    out = node.directory / "out"
    script = f"""
        env > {out}.env
        touch /{MARK}/scratch/mine 2>/dev/null || echo refused > {out}.refused
        touch /etc/{MARK}/settings/x 2>/dev/null || echo refused > {out}.readonly
        while :; do
            cat /etc/{MARK}/settings/color /{MARK}/keys/deep/pw /{MARK}/one > {out}.new && mv {out}.new {out}.files
            sleep 0.05
        done
    """
    volumes = [
        {"name": "c", "configMap": {"name": "settings"}},
        {
            "name": "s",
            "secret": {
                "secretName": "keys",
                "defaultMode": 0o400,
                "items": [{"key": "pw", "path": "deep/pw"}],
            },
        },
        {"name": "e", "emptyDir": {}},
    ]
    mounts = [
        {"name": "c", "mountPath": f"/etc/{MARK}/settings"},
        {"name": "s", "mountPath": f"/{MARK}/keys"},
        {"name": "e", "mountPath": f"/{MARK}/scratch"},
        {"name": "c", "mountPath": f"/{MARK}/one", "subPath": "color"},
    ]
    env = [
        key_ref("configMap", "settings", "color"),
        key_ref("secret", "keys", "pw"),
        key_ref("configMap", "none", "absent", optional=True),
        {"name": "BOTH", "value": "$(COLOR)-$(PW)-$(KUBERNETES_SERVICE_HOST)"},
    ]
    spec = {"env": env, "envFrom": [{"prefix": "X_", "configMapRef": {"name": "settings"}}]}
    service = {"metadata": {"name": "kubernetes", "namespace": "default"}}
    service["spec"] = {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}
    await node.api.create(SERVICES, service)
    await node.api.create(CONFIGMAPS, config(color="red"))
    await node.api.create(SECRETS, secret(pw="word"))
    async with node.begin():
        await node.api.create(
            PODS, pod("a", script, container={**spec, "volumeMounts": mounts}, volumes=volumes)
        )
        await node.api.until(is_ready("a"))
        lines = (await written(Path(f"{out}.env"), lambda text: "BOTH" in text)).splitlines()
        assert {"COLOR=red", "PW=word", "X_color=red", "BOTH=red-word-10.96.0.1"} <= set(lines)
        assert not any(line.startswith("ABSENT=") for line in lines)
        assert await written(Path(f"{out}.files"), bool) == "redwordred"
        assert await written(Path(f"{out}.readonly"), bool) == "refused\n"
        assert not Path(f"{out}.refused").exists()

        await node.api.patch(CONFIGMAPS, "settings", {"data": {"color": "blue"}}, namespace="d")
        # A subPath is a file of its own, and stays: as in Kubernetes.
        assert await written(Path(f"{out}.files"), lambda text: text.startswith("blue")) == "bluewordred"

        (kept,) = (node.directory / "written" / "a-uid-0000000000" / "s").glob("..data/deep/pw")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o400
        assert [p.name for p in (node.directory / "scratch" / "a-uid-0000000000" / "e").iterdir()] == ["mine"]
        await delete(node.api, "a", seconds=1)
        await node.api.until(absent("a"))
    assert list((node.directory / "written").iterdir()) == []
    assert list((node.directory / "scratch").iterdir()) == []
    assert not Path(f"/{MARK}").exists(), "nothing is made on the host"
    assert not Path(f"/etc/{MARK}").exists(), "nothing is made on the host"


async def test_a_volume_waits_for_what_it_shows(node):
    volumes = [{"name": "c", "configMap": {"name": "settings"}}]
    mounts = [{"name": "c", "mountPath": f"/{MARK}"}]
    async with node.begin():
        await node.api.create(PODS, pod("a", container={"volumeMounts": mounts}, volumes=volumes))
        (event,) = await node.api.until(has_event("FailedMount"))
        assert event["message"] == (
            'MountVolume.SetUp failed for volume "c" : configmap "settings" not found'
        )
        assert container(node.api, "a")["state"]["waiting"]["reason"] == "ContainerCreating"
        await node.api.create(CONFIGMAPS, config())
        await node.api.until(is_ready("a"))


@pytest.mark.parametrize(
    ("env", "present", "text"),
    [
        (key_ref("configMap", "settings", "color"), None, 'configmap "settings" not found'),
        (
            key_ref("configMap", "settings", "color"),
            config(size="1"),
            "couldn't find key color in ConfigMap d/settings",
        ),
        (key_ref("secret", "keys", "pw"), None, 'secret "keys" not found'),
    ],
)
async def test_a_variable_waits_for_its_value(node, env, present, text):
    if present is not None:
        await node.api.create(CONFIGMAPS, present)

    def said(api):
        waiting = container(api, "a").get("state", {}).get("waiting", {})
        return waiting if waiting.get("message") else None

    async with node.begin():
        await node.api.create(PODS, pod("a", container={"env": [env]}))
        waiting = await node.api.until(said)
        assert (waiting["reason"], waiting["message"]) == ("CreateContainerConfigError", text)
        (event,) = await node.api.until(has_event("Failed"))
        assert event["message"] == f"Error: {text}"
        if present is not None:
            await node.api.patch(CONFIGMAPS, "settings", {"data": {"color": "red"}}, namespace="d")
        elif "secret" in text:
            await node.api.create(SECRETS, secret(pw="word"))
        else:
            await node.api.create(CONFIGMAPS, config(color="red"))
        await node.api.until(is_ready("a"))
        assert status(node.api, "a")["containerStatuses"][0]["restartCount"] == 0


async def test_a_container_starts_again_with_what_it_knew_while_the_api_is_away(node):
    go, out = node.directory / "go", node.directory / "out"
    script = f"while [ ! -e {go} ]; do sleep 0.02; done; rm {go}; echo $COLOR >> {out}; exit 1"
    await node.api.create(CONFIGMAPS, config(color="red"))
    async with node.begin():
        env = [key_ref("configMap", "settings", "color")]
        await node.api.create(PODS, pod("a", script, container={"env": env}))
        await node.api.until(is_ready("a"))
    await node.api.go_away()
    async with node.begin():
        go.touch()
        await written(out, lambda text: text == "red\n")
        go.touch()
        await written(out, lambda text: text == "red\nred\n")
