"""What the API says of a cluster, read once: the explanation and the packets start from the same objects."""

import asyncio

from netplane.config import IPNetwork
from netplane.debug.ends import World
from netplane.kube.client import Client
from netplane.kube.resources import ENDPOINTSLICES, NODES, PODS, SERVICES


async def world_of(
    client: Client, cluster_cidrs: tuple[IPNetwork, ...], service_cidrs: tuple[IPNetwork, ...]
) -> World:
    """The API's objects that a connection depends on."""
    lists = [client.list(resource) for resource in (SERVICES, ENDPOINTSLICES, PODS, NODES)]
    services, slices, pods, nodes = await asyncio.gather(*lists)
    return World(services.items, slices.items, pods.items, nodes.items, cluster_cidrs, service_cidrs)
