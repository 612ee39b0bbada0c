"""Pods from the API's object to processes and back, against an API in memory and a plugin of three lines."""

import asyncio
import os
import signal
from pathlib import Path, PurePosixPath

import pytest

from netplane.kube.objects import ObjectKey
from netplane.kube.resources import EVENTS, PODS
from netplane.linux import cgroups
from netplane.linux.orphans import own
from netplane.node.cni_client import CniClient
from netplane.node.cni_config import parse
from netplane.node.configs import Configs
from netplane.node.events import Events
from netplane.node.metrics import NodeMetrics
from netplane.node.names import Dns
from netplane.node.pod_context import NetworkNotReady, PodContext, PodSettings
from netplane.node.pods import Pods
from netplane.node.runtimes.process import ProcessRuntime
from netplane.node.volumes import Places
from tests.unit.node_fakes import FakeApi, background, calls, write_plugin

pytestmark = pytest.mark.netns


class Node:
    """A node agent's pod side, which can be ended at any moment and begun again on the same files."""

    def __init__(self, directory: Path, api):
        self.directory, self.api = directory, api
        self.bin = directory / "bin"
        write_plugin(self.bin, "fake")
        self.network_problem = ""
        self.group = PurePosixPath(f"netplane-test-{os.getpid()}-{directory.name[-20:]}")
        self.layout = cgroups.detect()
        self.pods = None

    def _network(self):
        if self.network_problem:
            raise NetworkNotReady(self.network_problem)
        return parse({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "fake"}]}, "test")

    def runtime(self):
        return ProcessRuntime(self.directory / "run", self.group, self.layout)

    def begin(self, *, register=True):
        """A fresh agent: nothing is carried over but the files and what runs."""
        events = Events("n1")
        context = PodContext(
            node="n1",
            addresses=lambda: ["192.168.77.11"],
            client=self.api,
            runtime=self.runtime(),
            cni=CniClient([self.bin], self.directory / "cni"),
            network=self._network,
            events=events,
            metrics=NodeMetrics(),
            dns=Dns(["10.96.0.10"], "cluster.local"),
            logs=self.directory / "logs",
            configs=Configs(self.api),
            volumes=Places(self.directory / "scratch", self.directory / "written"),
            settings=PodSettings(restart_base=0.2, retry=0.1),
        )
        self.pods = Pods(context)
        registered = asyncio.Event()
        if register:
            registered.set()
        return background(self.pods.run(registered), events.run(self.api))

    def verbs(self):
        return [call["verb"] for call in calls(self.bin)]


@pytest.fixture
async def node(tmp_path):
    made = Node(tmp_path, FakeApi())
    own(cgroups.Cgroup(made.layout, made.group))
    yield made
    for sandbox in await made.runtime().adopt():
        await sandbox.remove()
    cgroups.Cgroup(made.layout, made.group).remove()


def pod(name, script="exec sleep 60", **spec):
    container = {"name": "c", "image": "any", "command": ["sh", "-c", script], **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "d", "uid": f"{name}-uid-0000000000"},
        "spec": {"nodeName": "n1", "containers": [container], **spec},
    }


def status(api, name):
    found = api.objects.get(("pods", "d", name), {})
    return found.get("status") or {}


def container(api, name):
    return next(iter(status(api, name).get("containerStatuses") or []), {})


def waits_with_message(api):
    waiting = container(api, "a").get("state", {}).get("waiting", {})
    return waiting if waiting.get("message") else None


def is_ready(name):
    def test(api):
        conditions = {c["type"]: c["status"] for c in status(api, name).get("conditions") or []}
        return conditions.get("Ready") == "True"

    return test


def has_event(reason):
    return lambda api: [o for key, o in api.objects.items() if key[0] == "events" and o["reason"] == reason]


async def delete(api, name, seconds=5):
    """As the API server: a deletion timestamp now, the object goes when the agent says so."""
    due = {"deletionTimestamp": "2999-01-01T00:00:00Z", "deletionGracePeriodSeconds": seconds}
    await api.patch(PODS, name, {"metadata": due}, namespace="d")


def absent(name):
    return lambda api: ("pods", "d", name) not in api.objects


def lives(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def pids_of(node):
    return [sandbox.pid for sandbox in await node.runtime().adopt()]


async def test_a_pod_runs_is_ready_and_goes(node):
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        await node.api.until(is_ready("a"))
        now = status(node.api, "a")
        assert now["phase"] == "Running"
        assert now["hostIP"] == "192.168.77.11"
        (add,) = calls(node.bin)
        assert now["podIP"].startswith("10.244.1.")
        assert "K8S_POD_NAME=a" in add["env"]["CNI_ARGS"]
        assert "IgnoreUnknown=1" in add["env"]["CNI_ARGS"]
        assert add["env"]["CNI_NETNS"].startswith("/proc/")
        (pid,) = await pids_of(node)
        await delete(node.api, "a")
        await node.api.until(absent("a"))
        assert not lives(pid)
    assert node.verbs() == ["ADD", "DEL"]
    assert list((node.directory / "cni").iterdir()) == []
    assert list((node.directory / "run").iterdir()) == []
    assert list((node.directory / "logs").iterdir()) == []


async def test_an_agent_that_is_killed_finds_everything_again(node):
    async with node.begin():
        await node.api.create(PODS, pod("a", container={"readinessProbe": {"exec": {"command": ["true"]}}}))
        await node.api.until(is_ready("a"))
    before, pids = status(node.api, "a"), await pids_of(node)
    writes = node.api.revision
    async with node.begin():
        async with asyncio.timeout(5):
            while not (node.pods.cache.synced and node.pods.find("d", "a").attempt_of("c") == 0):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # long enough for a wrong decision to show
        assert await pids_of(node) == pids
        assert status(node.api, "a") == before
        assert node.api.revision == writes  # not even the status was written again
        assert node.verbs() == ["ADD"]


async def test_while_the_api_is_away_pods_are_restarted_and_none_is_removed(node):
    async with node.begin():
        await node.api.create(
            PODS,
            pod(
                "a",
                "while [ ! -e $GO ]; do sleep 0.02; done; rm $GO; exit 1",
                container={"env": [{"name": "GO", "value": str(node.directory / "go")}]},
            ),
        )
        await node.api.until(is_ready("a"))
    await node.api.go_away()
    async with node.begin():
        async with asyncio.timeout(5):
            while node.pods.find("d", "a") is None or node.pods.find("d", "a").attempt_of("c") is None:
                await asyncio.sleep(0.01)
        (node.directory / "go").touch()
        async with asyncio.timeout(5):
            while node.pods.find("d", "a").attempt_of("c") != 1:
                await asyncio.sleep(0.01)
        node.api.away = False
        await node.api.until(lambda api: container(api, "a").get("restartCount") == 1)
        assert container(node.api, "a")["lastState"]["terminated"]["exitCode"] == 1
    assert node.verbs() == ["ADD"]


async def test_before_registration_what_runs_is_tended_and_nothing_is_begun(node):
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        await node.api.until(is_ready("a"))
    await node.api.create(PODS, pod("b"))
    await node.api.delete(PODS, "a", "d")
    async with node.begin(register=False):
        async with asyncio.timeout(5):
            while node.pods.find("d", "a") is None or node.pods.find("d", "a").attempt_of("c") is None:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # long enough for a wrong decision to show
        assert node.pods.find("d", "b") is None
    assert node.verbs() == ["ADD"]


async def test_a_pod_that_went_while_the_agent_was_away_is_removed(node):
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        await node.api.until(is_ready("a"))
    (pid,) = await pids_of(node)
    await node.api.delete(PODS, "a", "d")
    async with node.begin():
        async with asyncio.timeout(10):
            while lives(pid):
                await asyncio.sleep(0.02)
            while await pids_of(node):
                await asyncio.sleep(0.02)
    assert node.verbs() == ["ADD", "DEL"]


async def test_a_sandbox_that_dies_is_made_anew_and_counted(node):
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        await node.api.until(is_ready("a"))
        first = status(node.api, "a")["podIP"]
        (pid,) = await pids_of(node)
        os.kill(pid, signal.SIGKILL)
        await node.api.until(lambda api: container(api, "a").get("restartCount") == 1 and is_ready("a")(api))
        last = container(node.api, "a")["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")
        assert status(node.api, "a")["podIP"]
    assert node.verbs() == ["ADD", "DEL", "ADD"]
    assert first


async def test_after_power_loss_leases_are_given_back_and_the_pod_comes_again(node):
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        await node.api.until(is_ready("a"))
    (sandbox,) = await node.runtime().adopt()
    await sandbox.remove()  # and /run is empty, as after a boot
    async with node.begin():
        await node.api.until(lambda api: container(api, "a").get("restartCount") == 1 and is_ready("a")(api))
    assert node.verbs() == ["ADD", "DEL", "ADD"]
    assert calls(node.bin)[1]["env"]["CNI_NETNS"] == ""


async def test_a_crash_loop_backs_off_and_says_so(node):
    async with node.begin():
        await node.api.create(PODS, pod("a", "exit 3"))
        waiting = await node.api.until(
            lambda api: (
                container(api, "a").get("restartCount", 0) >= 2
                and container(api, "a")["state"].get("waiting")
            )
        )
        assert waiting["reason"] == "CrashLoopBackOff"
        assert "back-off 0.4s restarting failed container=c pod=a_d(" in waiting["message"]
        assert container(node.api, "a")["lastState"]["terminated"]["exitCode"] == 3
        assert status(node.api, "a")["phase"] == "Running"
        await node.api.until(has_event("BackOff"))


async def test_a_pod_that_is_done_gives_its_address_back(node):
    async with node.begin():
        await node.api.create(PODS, pod("a", "exit 0", restartPolicy="Never"))
        await node.api.until(lambda api: status(api, "a").get("phase") == "Succeeded")
        async with asyncio.timeout(5):
            while node.verbs() != ["ADD", "DEL"] or any((node.directory / "cni").iterdir()):
                await asyncio.sleep(0.02)
            while await pids_of(node):
                await asyncio.sleep(0.02)
        assert (node.directory / "logs").exists()
    async with node.begin():
        async with asyncio.timeout(5):
            while not node.pods.cache.synced:
                await asyncio.sleep(0.02)
        assert node.verbs() == ["ADD", "DEL"]


async def test_a_plugin_that_fails_is_an_event_and_leaves_nothing(node):
    body = (
        'if verb == "ADD":\n    print(json.dumps({"code": 11, "msg": "no more addresses"}))\n    sys.exit(1)'
    )
    write_plugin(node.bin, "fake", body)
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        (event, *_) = await node.api.until(has_event("FailedCreatePodSandBox"))
        assert "cannot ADD by the CNI plugin fake: no more addresses" in event["message"]
        assert status(node.api, "a")["phase"] == "Pending"
        write_plugin(node.bin, "fake")
        await node.api.until(is_ready("a"))
    assert node.verbs()[:2] == ["ADD", "DEL"]
    assert len(await pids_of(node)) == 1


async def test_no_network_yet_is_said_and_waited_for(node):
    node.network_problem = "no network configuration in /x"
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        await node.api.until(has_event("NetworkNotReady"))
        node.network_problem = ""
        await node.api.until(is_ready("a"))


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        ({"container": {"command": None}}, "ErrImagePull", 'image "any" is not built in'),
        (
            {"volumes": [{"name": "v", "nfs": {}}]},
            "CreateContainerConfigError",
            "spec.volumes[0] (v).nfs is not served",
        ),
        (
            {"container": {"resources": {"limits": {"memory": "much"}}}},
            "CreateContainerConfigError",
            "'much' does not match a quantity",
        ),
        (
            {"container": {"livenessProbe": {"tcpSocket": {"port": "nope"}}}},
            "CreateContainerConfigError",
            "livenessProbe: port 'nope' is not a port of container c",
        ),
    ],
)
async def test_what_cannot_be_run_says_why(node, change, reason, text):
    async with node.begin():
        await node.api.create(PODS, pod("a", **change))
        waiting = await node.api.until(waits_with_message)
        assert waiting["reason"] == reason
        assert text in waiting["message"]
        (event, *_) = await node.api.until(has_event("Failed"))
        assert text in event["message"]
        await delete(node.api, "a")
        await node.api.until(absent("a"))


async def test_a_program_that_does_not_exist(node):
    async with node.begin():
        await node.api.create(PODS, pod("a", container={"command": ["/no/such"]}, restartPolicy="Never"))
        await node.api.until(lambda api: status(api, "a").get("phase") == "Failed")
        ended = container(node.api, "a")["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
        assert "cannot run /no/such" in ended["message"]


async def test_liveness_kills_and_restarts(node):
    probe = {"exec": {"command": ["test", "!", "-e", "$STUCK"]}, "periodSeconds": 1, "failureThreshold": 1}
    stuck = node.directory / "stuck"
    probe["exec"]["command"] = ["test", "!", "-e", str(stuck)]
    async with node.begin():
        spec = pod(
            "a",
            "trap '' TERM; while :; do sleep 0.1; done",
            container={"livenessProbe": probe},
            terminationGracePeriodSeconds=1,
        )
        await node.api.create(PODS, spec)
        await node.api.until(is_ready("a"))
        stuck.touch()
        await node.api.until(has_event("Unhealthy"))
        await node.api.until(has_event("Killing"))
        stuck.unlink()
        await node.api.until(
            lambda api: container(api, "a").get("restartCount", 0) >= 1 and is_ready("a")(api)
        )
        assert container(node.api, "a")["lastState"]["terminated"]["exitCode"] == 137


async def test_grace_then_kill(node):
    async with node.begin():
        await node.api.create(PODS, pod("a", "trap '' TERM; while :; do sleep 0.1; done"))
        await node.api.until(is_ready("a"))
        began = asyncio.get_running_loop().time()
        await delete(node.api, "a", seconds=1)
        await node.api.until(lambda api: not is_ready("a")(api))  # at once, long before it ends
        assert asyncio.get_running_loop().time() - began < 0.9
        await node.api.until(absent("a"))
        assert 0.9 < asyncio.get_running_loop().time() - began < 4


async def test_a_namesake_is_another_pod(node):
    async with node.begin():
        await node.api.create(PODS, pod("a"))
        await node.api.until(is_ready("a"))
        await node.api.delete(PODS, "a", "d")
        second = pod("a")
        second["metadata"]["uid"] = "second-uid-0000000000"
        await node.api.create(PODS, second)
        await node.api.until(is_ready("a"))
        async with asyncio.timeout(5):
            while sorted(node.verbs()) != ["ADD", "ADD", "DEL"]:
                await asyncio.sleep(0.02)


async def test_the_hosts_network(node):
    async with node.begin():
        await node.api.create(PODS, pod("a", hostNetwork=True))
        await node.api.until(is_ready("a"))
        assert status(node.api, "a")["podIP"] == "192.168.77.11"
        (sandbox,) = await node.runtime().adopt()
        assert Path(f"/proc/{sandbox.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    assert node.verbs() == []


async def test_events_that_repeat_are_counted(node):
    async with node.begin():
        worker_pod = await node.api.create(PODS, pod("a"))
        for _ in range(3):
            node.pods.context.events.warn(worker_pod, "Odd", "the same")
        (event,) = await node.api.until(lambda api: [o for o in has_event("Odd")(api) if o["count"] == 3])
        assert event["involvedObject"]["uid"] == worker_pod["metadata"]["uid"]
        assert ObjectKey(event["metadata"]["namespace"], "a").namespace == "d"
        assert EVENTS.plural == "events"
