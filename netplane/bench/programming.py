"""How long after a write to the API does a node's proxy answer at the ClusterIP?

Run on a node of a cluster. For each round: a Service without endpoints exists and its ClusterIP refuses; an
EndpointSlice is written; the clock runs from before that write until the first connection is accepted. So the
figure holds the API's write, the watch, the proxy's sync and the listener, as a client of the Service meets it.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from netplane.bench.statistics import Summary, summarize
from netplane.errors import PeerError
from netplane.kube.client import Client
from netplane.kube.objects import Object
from netplane.kube.resources import ENDPOINTSLICES, SERVICES

NAMESPACE = "default"
PORT = 80
DEADLINE = 10.0  # seconds


async def measure(client: Client, rounds: int) -> Summary:
    """Seconds from write to first accepted connection, over ``rounds`` Services one after the other.

    Raises PeerError where a listener does not come within ten seconds.
    """
    sample = []
    for number in range(rounds):
        async with _service(client, f"bench-programming-{number}") as (name, address):
            began = time.perf_counter()
            await client.create(ENDPOINTSLICES, _slice(name), NAMESPACE)
            sample.append(await _accepted(address, began))
    return summarize(sample)


@asynccontextmanager
async def _service(client: Client, name: str) -> AsyncIterator[tuple[str, str]]:
    spec = {"ports": [{"port": PORT, "protocol": "TCP"}]}
    body: Object = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    made = await client.create(SERVICES, body, NAMESPACE)
    try:
        yield name, made["spec"]["clusterIP"]
    finally:
        await client.delete(SERVICES, name, NAMESPACE)
        slices = await client.list(ENDPOINTSLICES, NAMESPACE, label_selector=f"bench={name}")
        for found in slices.items:
            await client.delete(ENDPOINTSLICES, found["metadata"]["name"], NAMESPACE)


def _slice(service: str) -> Object:
    """One ready endpoint that nobody has to answer at: the proxy accepts before it dials."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service, "bench": service}},
        "addressType": "IPv4",
        "ports": [{"port": PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.255.254"], "conditions": {"ready": True}}],
    }


async def _accepted(address: str, began: float) -> float:
    while (now := time.perf_counter()) - began < DEADLINE:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((address, PORT)) == 0:
                return time.perf_counter() - began
        await asyncio.sleep(0.0005)
    raise PeerError(f"cannot reach {address}:{PORT}: no listener {now - began:.0f} s after the endpoints")
