"""The loops that make the cluster what its objects say: level-based, each a pure decision and a thin doer.

``run`` starts all controllers on one set of caches; more of them (the scheduler) can share it.
"""

from collections.abc import Callable, Sequence
from typing import Never

from controlplane.controllers.accounts import ServiceAccountController
from controlplane.controllers.daemonset import DaemonSetController
from controlplane.controllers.deployment import DeploymentController
from controlplane.controllers.disruption import DisruptionController
from controlplane.controllers.endpointslice import EndpointsController, EndpointSliceController
from controlplane.controllers.frame import Controller, Kit, run_controllers
from controlplane.controllers.garbage import COLLECTED, garbage_controllers
from controlplane.controllers.job import JobController
from controlplane.controllers.namespaces import NamespaceController
from controlplane.controllers.nodelifecycle import NodeLifecycleController
from controlplane.controllers.options import Options
from controlplane.controllers.podcidr import PodCIDRController
from controlplane.controllers.podgc import PodGarbageController
from controlplane.controllers.replicaset import ReplicaSetController
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
