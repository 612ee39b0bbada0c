"""The main job, shown from end to end on a lab: a Deployment, its Services, balanced requests, the explained route.

Everything goes the way a user's own cluster would: the API calls that kubectl makes, requests from real pods.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from netplane.debug import explain
from netplane.debug.explain import Explanation
from netplane.errors import ConfigError, PeerError
from netplane.kube.client import Client
from netplane.kube.errors import StatusError, is_conflict
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.objects import Object, condition, is_deleting, name_of, namespace_of
from netplane.kube.resources import ALL, DEPLOYMENTS, ENDPOINTSLICES, EVENTS, PODS, SERVICES, Resource
from netplane.lab import demo_text, place, spawn, up
from netplane.lab.demo_text import Answers
from netplane.lab.spec import OUTSIDE, OUTSIDE_ADDRESS, LabSpec

Say = Callable[[str], None]

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello.yaml"
NAMESPACE = "default"
SERVICE = "hello"
NODE_PORT_SERVICE = "hello-nodeport"
REQUESTS = 12
READY_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What was seen: who answered whom, and one connection explained."""

    spec: LabSpec
    answers: tuple[Answers, ...]
    explanation: Explanation

    @property
    def works(self) -> bool:
        """Every request was answered and the explained route works."""
        return all(not one.failures for one in self.answers) and self.explanation.exit_code == 0

    def render(self, program: str) -> str:
        """For people; `program` is how they call netplane."""
        kubeconfig = place.outside_kubeconfig(self.spec.directory)
        return demo_text.render(program, self.spec.name, kubeconfig, self.answers, self.explanation.render())


def run(name: str, mode: str, say: Say) -> Demonstration:
    """Show it on the lab of that name, which is made, with `mode` as its data path, if it is not there.

    Raises NetplaneError naming what does not work.
    """
    if not EXAMPLE.exists():
        raise ConfigError(
            f"cannot show the demo: {EXAMPLE} is missing", "Run it from netplane's source directory"
        )
    spec = LabSpec(name, mode=mode)
    if place.is_alive(spec.directory):
        spec = place.load(name)
    else:
        up.up(spec, say=say)
    return asyncio.run(_show(spec, say))


async def _show(spec: LabSpec, say: Say) -> Demonstration:
    kubeconfig = Kubeconfig.load(place.outside_kubeconfig(spec.directory))
    async with Client(kubeconfig, user_agent="netplane-demo") as client:
        say(f"applying {EXAMPLE.name}")
        for document in yaml.safe_load_all(EXAMPLE.read_text()):
            await apply(client, document)
        pods = await _ready_pods(client, say)
        say("sending requests")
        answers = await _requests(spec, client, pods)
        say("explaining one of them")
        explanation = await explain.run(
            f"{NAMESPACE}/{name_of(pods[0])}",
            f"svc/{SERVICE}.{NAMESPACE}:80",
            client=client,
            spawn=spawn.on_nodes(spec),
            probe=True,
            lab=spec.name,
        )
    return Demonstration(spec, tuple(answers), explanation)


async def apply(client: Client, document: Object) -> None:
    """Create the object; where it exists already, make it so by a strategic merge patch."""
    resource = _resource(document)
    try:
        await client.create(resource, document, NAMESPACE)
    except StatusError as error:
        if error.reason != "AlreadyExists" and not is_conflict(error):
            raise
        where = namespace_of(document) or NAMESPACE
        await client.patch(resource, name_of(document), document, namespace=where, kind="strategic")


def _resource(document: Object) -> Resource:
    for resource in ALL:
        if (resource.api_version, resource.kind) == (document.get("apiVersion"), document.get("kind")):
            return resource
    raise ConfigError(
        f"cannot apply {EXAMPLE.name}: {document.get('kind')!r} is not a kind that netplane serves"
    )


async def _ready_pods(client: Client, say: Say) -> list[Object]:
    """The Deployment's pods by node, once all are ready and the Services lead to all of them."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        deployment = await client.get(DEPLOYMENTS, SERVICE, NAMESPACE)
        wanted = int(deployment["spec"]["replicas"])
        listed = await client.list(PODS, NAMESPACE, label_selector=f"app={SERVICE}")
        pods = [pod for pod in listed.items if _is_ready(pod)]
        led_to = [await _ready_endpoints(client, name) for name in (SERVICE, NODE_PORT_SERVICE)]
        if len(pods) == wanted and all(count == wanted for count in led_to):
            return sorted(pods, key=lambda pod: (str(pod["spec"]["nodeName"]), name_of(pod)))
        missing = f"{len(pods)} of {wanted} pods ready, {min(led_to)} behind the Services"
        if time.monotonic() > deadline:
            raise PeerError(
                f"cannot show the demo: after {READY_SECONDS:.0f} s still {missing}",
                await _what_happened(client),
            )
        say(missing)
        await asyncio.sleep(0.1)


async def _what_happened(client: Client) -> str:
    """The last warnings, which say why; none mean that nobody has acted on the Deployment."""
    events = (await client.list(EVENTS, NAMESPACE)).items
    warnings = [event for event in events if event.get("type") == "Warning"]
    said = [f"{event['involvedObject'].get('name')}: {event.get('message')}" for event in warnings[-2:]]
    return (
        " | ".join(said) or f"Of {len(events)} events none is a warning; the control plane's log may say more"
    )


def _is_ready(pod: Object) -> bool:
    return not is_deleting(pod) and (condition(pod, "Ready") or {}).get("status") == "True"


async def _ready_endpoints(client: Client, service: str) -> int:
    selector = f"kubernetes.io/service-name={service}"
    slices = await client.list(ENDPOINTSLICES, NAMESPACE, label_selector=selector)
    endpoints = [endpoint for one in slices.items for endpoint in one.get("endpoints") or []]
    return sum(endpoint.get("conditions", {}).get("ready", False) for endpoint in endpoints)


async def _requests(spec: LabSpec, client: Client, pods: list[Object]) -> list[Answers]:
    """From one pod on each node by the Service's name, and from outside by a NodePort: all at once."""
    by_name = f"http://{SERVICE}.{NAMESPACE}.svc.cluster.local/"
    node_port = (await client.get(SERVICES, NODE_PORT_SERVICE, NAMESPACE))["spec"]["ports"][0]["nodePort"]
    by_node = {str(pod["spec"]["nodeName"]): pod for pod in reversed(pods)}
    first_node = next(machine for machine in spec.machines if not machine.is_master)
    by_port = f"http://{first_node.address}:{node_port}/"
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_from_pod(spec, node, pod, by_name)) for node, pod in sorted(by_node.items())
        ]
        running.append(tasks.create_task(_from_outside(spec, by_port)))
    return [task.result() for task in running]


async def _from_pod(spec: LabSpec, node: str, pod: Object, url: str) -> Answers:
    address = str(pod["status"]["podIP"])
    command = spawn.in_pod(address, spawn.python_module("netplane.lab.ask", url, str(REQUESTS)))
    output = await spawn.output_of(spec, node, command)
    return Answers(f"{name_of(pod)} on {node}", address, url, _parse(output))


async def _from_outside(spec: LabSpec, url: str) -> Answers:
    command = spawn.python_module("netplane.lab.ask", url, str(REQUESTS))
    return Answers(
        "outside the nodes", str(OUTSIDE_ADDRESS), url, _parse(await spawn.output_of(spec, OUTSIDE, command))
    )


def _parse(output: bytes) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(output))
