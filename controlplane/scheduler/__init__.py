"""Which node runs which pod: filters, a choice that can be explained, and books that never over-commit."""

from typing import Never

from controlplane.controllers.loop.frame import run_controllers
from controlplane.controllers.options import Options
from controlplane.scheduler.scheduler import Scheduler
from netplane.kube.client import Client

__all__ = ["Scheduler", "run"]


async def run(client: Client) -> Never:
    """Run the scheduler on caches of its own until cancelled.

    To share caches with the controllers, give ``Scheduler`` to ``controlplane.controllers.run`` instead.
    """
    await run_controllers(client, Options(), [Scheduler], Scheduler.resources)
