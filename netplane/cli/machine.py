"""`netplane up`, `init`, `token`, `uninstall`: this machine as a part of a cluster."""

import os
import sys
from pathlib import Path

import click

from netplane.cli.daemons import run_daemon
from netplane.cli.main import root_option


def _need_root(action: str) -> None:
    from netplane.errors import ConfigError

    if os.geteuid() != 0:
        raise ConfigError(f"cannot {action}: it needs root", "Run it with sudo")


@click.command()
@root_option
@click.option("--address", help="The machine's own address.  [default: the one that others can reach]")
@click.option("--name", help="The node's name.  [default: the host name]")
def up(root: Path, address: str | None, name: str | None) -> None:
    """All in one on this machine: control plane, CNI, node, proxy, dns; runs until SIGTERM or Ctrl-C.

    Pods go on running when it ends; `netplane uninstall` removes them, too.

    \b
    Example:
      netplane up --address 192.168.56.10
    """
    _need_root("run a cluster on this machine")
    from netplane.config import Paths
    from netplane.machine import setup

    made = setup.configure(root, setup.Role.ALL_IN_ONE, address, name)
    click.echo(f"node {made.node}, API server {made.server}", err=True)
    click.echo(f"export KUBECONFIG={Paths(root.absolute()).kubeconfig('admin')}", err=True)
    run_daemon("supervise", "netplane.node.supervise.serve", root.absolute(), None, None, loop="asyncio")


@click.command()
@root_option
@click.option(
    "--role",
    type=click.Choice(["all-in-one", "control-plane"]),
    default="all-in-one",
    show_default=True,
    help="What this machine is to be.",
)
@click.option("--address", help="The machine's own address.  [default: the one that others can reach]")
@click.option("--name", help="The machine's name.  [default: the host name]")
def init(root: Path, role: str, address: str | None, name: str | None) -> None:
    """Write certificates, kubeconfigs and settings; start nothing. Safe to repeat.

    \b
    Example:
      netplane init --role control-plane --address 192.168.56.10
    """
    from netplane.machine import setup

    made = setup.configure(root, setup.Role(role), address, name)
    click.echo(f"{made.role} {made.node} at {made.address}, API server {made.server}", err=True)


@click.command()
@root_option
@click.option("--use", metavar="TOKEN", help="Accept this token, instead of a new one.")
def token(root: Path, use: str | None) -> None:
    """Make a token for a further machine (24 hours) and print the line to run there.

    \b
    Example:
      netplane token
    """
    from netplane.machine import invite

    click.echo(invite.invite(root, use))


@click.command()
@root_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def uninstall(root: Path, yes: bool) -> None:
    """Leave the machine as it was: stop everything, end the pods, remove kernel objects and files.

    \b
    Example:
      netplane uninstall --yes
    """
    _need_root("uninstall")
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove netplane, its pods and its data under {root}?", abort=True, err=True)
    from netplane.machine import uninstall as removing

    removing.uninstall(root, click.echo)
