"""`netplane cni`: put the plugin's executable in place, run its daemon, look, mend."""

import sys
from pathlib import Path

import click

from netplane.cli.daemons import daemon_options, run_daemon
from netplane.cli.main import root_option
from netplane.cli.output import output_option, show
from netplane.config import Paths

ATTACHMENT = {
    "network": "NETWORK",
    "containerID": "CONTAINER",
    "ifname": "IFNAME",
    "addresses": "ADDRESSES",
    "link": "LINK",
    "state": "STATE",
}


@click.group()
def cni() -> None:
    """The CNI plugin: install, serve, status, leases, gc.

    \b
    Example:
      netplane cni leases
    """


@cni.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@root_option
def install(directory: Path, root: Path) -> None:
    """Put the plugin's executable into DIRECTORY; its daemon is that of --root.

    \b
    Example:
      netplane cni install /opt/cni/bin
    """
    from cni.install import install as place

    installed = place(directory, Path(sys.executable), Paths(root.absolute()))
    click.echo(installed.path)
    if installed.kind != "shim":
        note = "it is the Python executable, 10 to 30 ms a call slower: ./dev setup builds the C shim"
        click.echo(f"netplane: {note}", err=True)


@cni.command()
@daemon_options
def serve(root: Path, config: Path | None, kubeconfig: Path | None) -> None:
    """Run the CNI daemon of this node.

    \b
    Example:
      netplane cni serve --config /etc/netplane/cni.yaml
    """
    run_daemon("cni", "cni.daemon", root, config, kubeconfig, loop="asyncio")


@cni.command()
@root_option
@output_option
def status(root: Path, output: str) -> None:
    """Does the daemon answer, and how many attachments does it hold?

    \b
    Example:
      netplane cni status -o json
    """
    from cni.client import status as ask

    found = ask(root.absolute())
    row = {
        "running": "yes" if found.running else "no",
        "attachments": sum(found.attachments.values()),
        "byState": dict(found.attachments),
        "reason": found.reason,
    }
    show([row], {"running": "RUNNING", "attachments": "ATTACHMENTS", "reason": "REASON"}, output)
    if not found.running:
        raise click.exceptions.Exit(1)


@cni.command()
@root_option
@output_option
def leases(root: Path, output: str) -> None:
    """Every address that is leased, and to whom.

    \b
    Example:
      netplane cni leases -o yaml
    """
    from cni.lease import describe
    from cni.leases import read, store_path

    show([describe(lease) for lease in read(store_path(Paths(root.absolute()).state))], ATTACHMENT, output)


@cni.command()
@root_option
def gc(root: Path) -> None:
    """Free what nothing can be using any more, and say what was freed.

    \b
    Example:
      netplane cni gc
    """
    from cni.client import gc as mend

    done = mend(root.absolute())
    for what, names in done.items():
        for name in names:
            click.echo(f"{what.replace('_', ' ')}: {name}")
    if done["failed"]:
        raise click.exceptions.Exit(1)
