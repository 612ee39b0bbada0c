"""The loops that make the cluster what its objects say: level-based, each a pure decision and a thin doer.

``run`` starts all controllers on one set of caches; more of them (the scheduler) can share it.
"""

from collections.abc import Callable, Sequence
from typing import Never

from controlplane.controllers.loop.frame import Controller, Kit, run_controllers
from controlplane.controllers.nodes.nodelifecycle import NodeLifecycleController
from controlplane.controllers.nodes.podcidr import PodCIDRController
from controlplane.controllers.nodes.podgc import PodGarbageController
from controlplane.controllers.options import Options
from controlplane.controllers.services.endpointslice import EndpointsController, EndpointSliceController
from controlplane.controllers.upkeep.accounts import ServiceAccountController
from controlplane.controllers.upkeep.garbage import COLLECTED, garbage_controllers
from controlplane.controllers.upkeep.namespaces import NamespaceController
from controlplane.controllers.workloads.daemonset import DaemonSetController
from controlplane.controllers.workloads.deployment import DeploymentController
from controlplane.controllers.workloads.disruption import DisruptionController
from controlplane.controllers.workloads.job import JobController
from controlplane.controllers.workloads.replicaset import ReplicaSetController
from netplane.kube.client import Client

__all__ = ["Options", "run"]


async def run(client: Client, options: Options, *more: Callable[[Kit], Controller]) -> Never:
    """Run all controllers, and ``more`` beside them, until cancelled.

    Raises ConfigError where the options cannot be, before anything is done.
    """
    kinds: Sequence[Callable[[Kit], Controller]] = (
        EndpointSliceController,
        EndpointsController,
        ReplicaSetController,
        DeploymentController,
        DaemonSetController,
        JobController,
        DisruptionController,
        ServiceAccountController,
        PodCIDRController,
        NodeLifecycleController,
        PodGarbageController,
        NamespaceController,
        *garbage_controllers(),
        *more,
    )
    await run_controllers(client, options, kinds, COLLECTED)
