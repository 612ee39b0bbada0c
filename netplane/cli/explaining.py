"""Where `netplane explain` looks: in a lab at all of its nodes, on a plain machine at this one."""

import asyncio
import socket
from pathlib import Path

from netplane.config import Paths
from netplane.debug import explain as explaining
from netplane.debug import places
from netplane.debug.explain import Explanation
from netplane.kube.client import Client
from netplane.kube.kubeconfig import Kubeconfig


def explain(
    root: Path, source: str, target: str, probe: bool, lab_name: str | None, kubeconfig: Path | None
) -> Explanation:
    """Run it. Raises NetplaneError when SOURCE or TARGET name nothing, or the API does not answer."""
    if lab_name is not None:
        from netplane.lab import place, spawn

        spec = place.load(lab_name)
        source = in_lab(source)
        where = spawn.on_nodes(spec)
        access = Kubeconfig.load(place.outside_kubeconfig(spec.directory))
    else:
        where = places.only_here(own_name(root))
        access = Kubeconfig.load(kubeconfig or Paths(root).kubeconfig("admin"))
    return asyncio.run(_explain(access, where, source, target, probe, lab_name or ""))


def in_lab(source: str) -> str:
    """SOURCE, where a lab has a name of its own for it: its caller is outside all nodes."""
    from netplane.lab.spec import OUTSIDE, OUTSIDE_ADDRESS

    return str(OUTSIDE_ADDRESS) if source == OUTSIDE else source


async def _explain(
    access: Kubeconfig, where: places.Spawn, source: str, target: str, probe: bool, lab: str
) -> Explanation:
    async with Client(access, user_agent="netplane-explain") as client:
        return await explaining.run(source, target, client=client, spawn=where, probe=probe, lab=lab)


def own_name(root: Path) -> str:
    """The name under which this machine is a node."""
    from netplane.machine.setup import read_settings

    return str(read_settings(Paths(root).etc / "node.yaml").get("nodeName") or socket.gethostname().lower())
