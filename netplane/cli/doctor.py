"""`netplane doctor`: this machine's parts, its kernel and the API, looked at for whatever keeps Services silent."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netplane.cli.main import root_option
from netplane.cli.output import dump, output_option, table

if TYPE_CHECKING:
    from netplane.debug.ailments import Finding

NEXT = "Where one connection goes, and where it ends: netplane explain SOURCE svc/NAME"
COLUMNS = {"subject": "CHECK", "state": "STATE", "text": "SEEN"}


@click.command()
@root_option
@click.option(
    "--kubeconfig",
    envvar="KUBECONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    help="How to reach the API server.  [default: KUBECONFIG, or ROOT/etc/netplane/admin or proxy.kubeconfig]",
)
@output_option
def doctor(root: Path, kubeconfig: Path | None, output: str) -> None:
    """Look for what keeps Services from answering, on this machine and in the API.

    On a node: its daemons, kernel, network files, certificates and DNS; its routes to the other nodes' pods; whether
    the endpoints that are its own pods listen. In the API: Nodes, and Services without a ready endpoint.

    Exit 0: nothing is broken. 1: something is. 2: something could not be looked at.

    \b
    Example:
      netplane doctor
      netplane lab exec --name demo n1 -- netplane doctor
    """
    from netplane.debug.hops import State

    found = list(examine(root.absolute(), kubeconfig))
    rows = [
        {"subject": one.subject, "state": one.state.value, "text": one.text, "hint": one.hint}
        for one in found
    ]
    if output == "table":
        said = [
            {**row, "text": ". ".join(filter(None, (row["text"].rstrip("."), row["hint"])))} for row in rows
        ]
        click.echo(table(said, COLUMNS), nl=False)
        click.echo(NEXT)
    else:
        dump(rows, output)
    states = {one.state for one in found}
    raise click.exceptions.Exit(1 if State.BROKEN in states else 2 if State.UNSEEN in states else 0)


def examine(root: Path, kubeconfig: Path | None) -> Iterator["Finding"]:
    """All there is to say, as it is found."""
    from netplane.cli import views
    from netplane.cli.explaining import own_name
    from netplane.config import Paths, load
    from netplane.debug import doctor as looking
    from netplane.debug.ailments import Finding
    from netplane.debug.hops import State
    from netplane.dns.server import Settings
    from netplane.errors import NetplaneError
    from netplane.kube.kubeconfig import Kubeconfig

    paths = Paths(root)
    parts = views.status(root)
    for row in parts:
        works = State.OK if row["state"] == "works" else State.BROKEN
        yield Finding(row["part"], works, row["detail"])
    if parts[0]["part"] == "machine":  # not set up: there is nothing more to look at
        return
    yield from looking.machine(paths)
    is_node = (paths.etc / "node.kubeconfig").exists()
    if is_node:
        settings = load(Settings, paths.etc / "dns.yaml")
        yield from looking.names(settings.addresses, settings.cluster_domain)
    known = [paths.kubeconfig(name) for name in ("admin", "proxy")]
    access = kubeconfig or next((path for path in known if path.exists()), known[0])
    try:
        reached = Kubeconfig.load(access)
    except NetplaneError as error:
        yield Finding("api", State.UNSEEN, str(error))
        return
    yield from asyncio.run(looking.cluster(reached, own_name(root) if is_node else "", root))
