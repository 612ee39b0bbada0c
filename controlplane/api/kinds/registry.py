"""All the kinds the API server serves, by resource."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from controlplane.api.kinds import (
    accounts,
    budgets,
    configs,
    daemonsets,
    endpoints,
    events,
    events_v1,
    jobs,
    leases,
    namespaces,
    networkpolicies,
    nodes,
    pods,
    priorityclasses,
    services,
    workloads,
)
from controlplane.api.kinds.kind import Kind
from controlplane.api.kinds.listed import LISTED, listed_kind
from controlplane.api.kinds.reviews import REVIEWS
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
            events_v1.KIND,
            endpoints.ENDPOINTSLICE_KIND,
            leases.KIND,
            workloads.REPLICASET_KIND,
            workloads.DEPLOYMENT_KIND,
            configs.CONFIGMAP_KIND,
            configs.SECRET_KIND,
            accounts.KIND,
            daemonsets.DAEMONSET_KIND,
            daemonsets.CONTROLLERREVISION_KIND,
            jobs.KIND,
            budgets.KIND,
            networkpolicies.KIND,
            priorityclasses.KIND,
            *(listed_kind(resource) for resource in LISTED),
            *REVIEWS,
        )
    }
)
