"""All the kinds the API server serves, by resource."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from controlplane.api.kinds import endpoints, events, leases, namespaces, nodes, pods, services, workloads
from controlplane.api.kinds.kind import Kind
from netplane.kube.resources import Resource

KINDS: Mapping[Resource, Kind] = MappingProxyType(
    {
        kind.resource: kind
        for kind in (
            namespaces.KIND,
            nodes.KIND,
            pods.KIND,
            services.KIND,
            endpoints.ENDPOINTS_KIND,
            events.KIND,
            endpoints.ENDPOINTSLICE_KIND,
            leases.KIND,
            workloads.REPLICASET_KIND,
            workloads.DEPLOYMENT_KIND,
        )
    }
)
