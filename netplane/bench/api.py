"""What the API server costs: how old an event is when a thousand watchers have read it, and what lists take.

The server is the daemon that people run, controllers and scheduler included, in a process of its own; the watchers
are processes of their own, too. Updates come at a steady rate whether or not earlier ones have been answered, and
the clock of each event and watcher runs from just before the write is sent until the event's bytes have been read.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from netplane.bench.apiserver import ApiServer, api_server
from netplane.bench.statistics import bootstrap, summarize
from netplane.bench.watching import BUCKET, MARK, TABLE, Watchers, mark
from netplane.bench.wire import Door, exchange, request
from netplane.errors import PeerError
from netplane.kube.client import Client
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.objects import Object, name_of
from netplane.kube.resources import ENDPOINTSLICES, NODES, PODS, Resource

NAMESPACE = "default"
OBJECTS = 200  # which the updates go round
SETTLE_SECONDS = 2.0  # after the last write; an event that is older than that has been lost
PROXIES = {"labelSelector": "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it."""

    watchers: int = 1000
    rate: int = 100
    seconds: float = 20.0
    pods: int = 5000
    readers: int = 1  # processes that the watchers are spread over


@dataclass(frozen=True, slots=True)
class FanOut:
    """Objects of one resource, and who watches them. ``heard`` is how many of them hear of one update."""

    name: str
    resource: Resource
    watchers: tuple[Watchers, ...]
    heard: int


def measure(plan: Plan, say: Callable[[str], None]) -> list[Row]:
    """All of it, one row a figure. Raises PeerError where something is refused or events are lost."""
    rows: list[Row] = []
    for one in _fan_outs(plan.watchers):
        say(f"{one.name}: {plan.watchers} watchers, {plan.rate} updates/s for {plan.seconds:.0f} s")
        with api_server() as server:
            rows += _fan_out(one, server, plan)
    with api_server() as server:
        rows += _requests(server, plan, say)
    return rows


# --- watches ----------------------------------------------------------------------------------------------


def _fan_outs(count: int) -> Iterator[FanOut]:
    """Proxies and a few people, who all hear of everything; and kubelets, each of whom has a node to watch."""
    tables = count // 20
    slices, pods = ENDPOINTSLICES.path(), PODS.path()
    everyone = (Watchers(count - tables, slices, PROXIES), Watchers(tables, slices, {}, TABLE))
    yield FanOut("to everyone", ENDPOINTSLICES, everyone, count)
    kubelets = (Watchers(count, pods, {"fieldSelector": "spec.nodeName=node-{number}"}),)
    yield FanOut("to one node", PODS, kubelets, 1)


def _fan_out(one: FanOut, server: ApiServer, plan: Plan) -> list[Row]:
    objects = [_object(one.resource, number) for number in range(min(OBJECTS, plan.watchers))]
    since = _create_all(server.door, one.resource, objects)
    watching = [replace(each, query={**each.query, "resourceVersion": since}) for each in one.watchers]
    before = server.memory()
    with _reading(server, watching, plan.readers) as readers:
        held = (server.memory() - before) / plan.watchers / 1024
        used, began = server.cpu(), time.monotonic()
        asyncio.run(_write(Kubeconfig.load(server.admin), one.resource, objects, plan))
        took, used = time.monotonic() - began, server.cpu() - used
        time.sleep(SETTLE_SECONDS)
        found = [_told(reader) for reader in readers]
    ages = _merged(found)
    events, wanted = sum(map(Counter.total, ages.values())), round(plan.rate * plan.seconds) * one.heard
    if events != wanted:
        raise PeerError(f"cannot measure {one.name}: {events} of {wanted} events were read")
    figures = {
        "updates": (events / one.heard / took, "1/s"),
        "events read": (events / took, "1/s"),
        "server's processor": (used / took * 100, "%"),
        "watchers' processor": (sum(each["cpu"] for each in found) / took * 100, "%"),
        "memory a watcher": (held, "KiB"),
    }
    return [*_ages(one.name, ages), *(_row(one.name, figure, *value) for figure, value in figures.items())]


def _object(resource: Resource, number: int) -> Object:
    """About 1.7 kB of JSON, as such objects have."""
    metadata = {"name": f"bench-{number}", "namespace": NAMESPACE, "annotations": {MARK: mark()}}
    head = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
    if resource == PODS:
        return {**head, "spec": _pod_spec(f"node-{number}")}
    metadata["labels"] = {"kubernetes.io/service-name": f"bench-{number}"}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    endpoints = [
        {
            "addresses": [f"10.244.{number}.{last}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{last}",
            "targetRef": {"kind": "Pod", "name": f"bench-{number}-{last}", "namespace": NAMESPACE},
        }
        for last in range(6)
    ]
    return {**head, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}


def _pod_spec(node: str) -> Object:
    container = {
        "name": "c",
        "image": "netplane/echo",
        "ports": [{"containerPort": 8080}],
        "env": [{"name": f"SETTING_{number}", "value": f"value of setting {number}"} for number in range(10)],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    }
    scheduled = {"nodeName": node} if node else {"schedulerName": "nobody"}  # it shall stay as it is
    return {"containers": [container], **scheduled}


def _create_all(door: Door, resource: Resource, objects: Sequence[Object]) -> str:
    """Create them; the revision from which on only their updates are news."""
    with door.connect() as connection:
        for obj in objects:
            if node := obj.get("spec", {}).get("nodeName"):
                machine = {"metadata": {"name": node}}
                exchange(connection, request("POST", NODES.path(), orjson.dumps(machine)))
            exchange(connection, request("POST", resource.path(NAMESPACE), orjson.dumps(obj)))
        listed = orjson.loads(exchange(connection, request("GET", resource.path(NAMESPACE))))
    return str(listed["metadata"]["resourceVersion"])


@contextmanager
def _reading(
    server: ApiServer, watching: Sequence[Watchers], processes: int
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes whose watches have all begun."""
    command = [sys.executable, "-m", "netplane.bench.watching", str(server.admin)]
    running = []
    try:
        for number in range(processes):
            part = json.dumps([asdict(_share(one, number, processes)) for one in watching])
            running.append(
                subprocess.Popen([*command, part], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise PeerError("cannot measure: the watchers could not begin")
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _share(watchers: Watchers, number: int, processes: int) -> Watchers:
    count = watchers.count // processes + (number < watchers.count % processes)
    return Watchers(count, watchers.path, watchers.query, watchers.accept)


def _told(reader: subprocess.Popen[str]) -> dict[str, Any]:
    """Have it stop, and take what it found."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    found: dict[str, Any] = json.loads(reader.stdout.readline())
    if found["ended"]:
        raise PeerError(f"cannot measure: the server ended {found['ended']} watches")
    return found


async def _write(kubeconfig: Kubeconfig, resource: Resource, objects: Sequence[Object], plan: Plan) -> None:
    """So many updates a second, whether or not the earlier ones have been answered."""
    loop = asyncio.get_running_loop()
    async with Client(kubeconfig) as client, asyncio.TaskGroup() as group:
        began = loop.time()
        for number in range(round(plan.rate * plan.seconds)):
            await asyncio.sleep(began + number / plan.rate - loop.time())
            group.create_task(_update(client, resource, name_of(objects[number % len(objects)])))


async def _update(client: Client, resource: Resource, name: str) -> None:
    body = {"metadata": {"annotations": {MARK: mark()}}}
    await client.patch(resource, name, body, namespace=NAMESPACE)


def _merged(found: Sequence[Mapping[str, Any]]) -> dict[int, Counter[int]]:
    merged: dict[int, Counter[int]] = {}
    for one in found:
        for second, ages in one["ages"].items():
            counted = merged.setdefault(int(second), Counter())
            counted.update({int(age): count for age, count in ages.items()})
    return merged


def _ages(name: str, ages: Mapping[int, Counter[int]]) -> Iterator[Row]:
    """Percentiles over all events, each with the interval of the median of the same percentile second by second."""
    everything = sum(ages.values(), Counter())
    for figure, share in (("p50", 0.5), ("p99", 0.99), ("largest", 1.0)):
        low, high = bootstrap([_percentile(second, share) for second in ages.values()])
        yield _row(name, f"age of an event, {figure}", _percentile(everything, share), "ms") | {
            "low": low,
            "high": high,
        }


def _percentile(counted: Counter[int], share: float) -> float:
    """Milliseconds."""
    left = share * counted.total()
    for age in sorted(counted):
        left -= counted[age]
        if left <= 0:
            break
    return (age + 1) * BUCKET / 1e6


def _row(name: str, figure: str, value: float, unit: str) -> Row:
    return {"measure": name, "figure": figure, "median": value, "unit": unit}


# --- requests ---------------------------------------------------------------------------------------------


def _requests(server: ApiServer, plan: Plan, say: Callable[[str], None]) -> Iterator[Row]:
    """Lists, and single objects one after the other on one connection."""
    say(f"creating {plan.pods} pods")
    path = PODS.path(NAMESPACE)
    spec = _pod_spec("")
    with server.door.connect() as connection:
        created = []
        for number in range(plan.pods):
            obj = {"metadata": {"name": f"bench-{number:05}"}, "spec": spec}
            created.append(_timed(connection, request("POST", path, orjson.dumps(obj))))
        say("listing them")
        whole, table = request("GET", path), request("GET", path, headers={"Accept": TABLE})
        one = request("GET", f"{path}/bench-00000")
        samples: dict[str, list[float]] = {"JSON": [], "Table": [], "in pages of 500": [], "GET": []}
        for _ in range(40):
            samples["JSON"].append(_timed(connection, whole))
            samples["Table"].append(_timed(connection, table))
            samples["in pages of 500"].append(_paged(connection, path))
            samples["GET"] += [_timed(connection, one) for _ in range(50)]
    named = {
        f"list of {plan.pods} pods, {form}": samples[form] for form in ("JSON", "Table", "in pages of 500")
    }
    named |= {"get of a pod": samples["GET"], "create of a pod": created}
    for figure, sample in named.items():
        found = summarize([seconds * 1000 for seconds in sample])
        row = _row("requests", figure, found.median, "ms")
        yield row | {"low": found.low, "high": found.high, "p99": found.p99}


def _timed(connection: Any, asked: bytes) -> float:
    began = time.perf_counter()
    exchange(connection, asked)
    return time.perf_counter() - began


def _paged(connection: Any, path: str) -> float:
    """As `kubectl get` does it."""
    began, token = time.perf_counter(), ""
    while True:
        page = exchange(
            connection, request("GET", f"{path}?limit=500" + (f"&continue={token}" if token else ""))
        )
        token = orjson.loads(page[:400].partition(b',"items"')[0] + b"}")["metadata"].get("continue", "")
        if not token:
            return time.perf_counter() - began
