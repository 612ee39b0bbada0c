"""`netplane supervise`: PID 1 of a node, and the questions one can ask it."""

from pathlib import Path
from typing import Any

import click

from netplane.cli.main import Command, root_option
from netplane.cli.output import output_option, show

COLUMNS = {
    "name": "DAEMON",
    "state": "STATE",
    "pid": "PID",
    "restarts": "RESTARTS",
    "descriptors": "DESCRIPTORS",
    "status": "STATUS",
}


@click.group(invoke_without_command=True)
@root_option
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The settings file.  [default: ROOT/etc/netplane/supervise.yaml]",
)
@click.pass_context
def supervise(context: click.Context, root: Path, config: Path | None) -> None:
    """PID 1 of a node: starts and keeps the daemons in ROOT/etc/netplane/supervise.yaml.

    \b
    Example:
      netplane supervise --root /tmp/n1         run as the supervisor
      netplane supervise status                 look at the one that runs
      netplane supervise restart proxy
    """
    context.obj = root
    if context.invoked_subcommand is None:
        from netplane.cli.daemons import run_daemon

        run_daemon("supervise", "netplane.node.supervise.serve", root, config, None, loop="asyncio")


def of_root(command: Command) -> Command:
    """`--root DIR` of a command of the group: there, or before the command."""
    option = click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        callback=lambda context, _parameter, value: value or context.obj,
        help="Where the node's files are.  [default: what `supervise` was given]",
    )
    return option(command)


def _ask(root: Path, **request: Any) -> dict[str, Any]:
    from netplane.config import Paths
    from netplane.node.supervise import control as supervisor

    return supervisor.ask(Paths(root).supervise_socket, request, timeout=60.0)


@supervise.command()
@output_option
@of_root
def status(root: Path, output: str) -> None:
    """How the daemons are.

    \b
    Example:
      netplane supervise status -o json
    """
    daemons = _ask(root, op="status")["daemons"]
    show(daemons, COLUMNS, output)
    if any(daemon["state"] != "running" for daemon in daemons):
        raise click.exceptions.Exit(1)


@supervise.command()
@click.argument("daemon")
@of_root
def start(root: Path, daemon: str) -> None:
    """Start a daemon that was stopped, or end its back-off.

    \b
    Example:
      netplane supervise start proxy
    """
    _ask(root, op="start", daemon=daemon)


@supervise.command()
@click.argument("daemon")
@of_root
def stop(root: Path, daemon: str) -> None:
    """Stop a daemon and leave it stopped.

    \b
    Example:
      netplane supervise stop proxy
    """
    _ask(root, op="stop", daemon=daemon)


@supervise.command()
@click.argument("daemon")
@of_root
def restart(root: Path, daemon: str) -> None:
    """Stop a daemon in order, and start it.

    \b
    Example:
      netplane supervise restart node
    """
    _ask(root, op="restart", daemon=daemon)


@supervise.command()
@click.argument("daemon")
@click.option("--signal", "number", type=int, default=9, show_default=True, help="The signal's number.")
@of_root
def kill(root: Path, daemon: str, number: int) -> None:
    """Send a daemon a signal; the supervisor starts it again if it ends.

    \b
    Example:
      netplane supervise kill proxy --signal 9
    """
    _ask(root, op="kill", daemon=daemon, signal=number)
