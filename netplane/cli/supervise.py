"""`netplane supervise`: run PID 1 of a node, or ask the one that runs."""

from pathlib import Path
from typing import Any

import click

from netplane.cli.daemons import daemon_options, run
from netplane.cli.output import output_option, show
from netplane.config import Paths


@click.group(invoke_without_command=True)
@daemon_options
@click.pass_context
def supervise(context: click.Context, root: Path, config_file: Path | None) -> int | None:
    """Start and keep this node's daemons; with a sub-command, ask the supervisor that runs.

    \b
    Example: netplane supervise status
    """
    context.obj = Paths(root.absolute()).supervise_socket
    if context.invoked_subcommand is not None:
        return None
    from netplane.node.supervise import Settings, serve

    return run("supervise", Settings, serve, root, config_file, "asyncio")


def _ask(socket: Path, **request: Any) -> dict[str, Any]:
    from netplane.node.supervise_control import ask

    return ask(socket, request, timeout=30)


@supervise.command()
@output_option
@click.pass_obj
def status(socket: Path, output: str) -> None:
    """Every daemon: state, pid, restarts.

    \b
    Example: netplane supervise status
    """
    rows = _ask(socket, op="status")["daemons"]
    show(rows, list(rows[0]) if rows else ["name"], output)


def _command(op: str, help_text: str) -> None:
    @supervise.command(name=op, help=f"{help_text}\n\n\b\nExample: netplane supervise {op} proxy")
    @click.argument("daemon")
    @click.pass_obj
    def command(socket: Path, daemon: str) -> None:
        _ask(socket, op=op, daemon=daemon)


_command("start", "Start a daemon that was stopped.")
_command("stop", "Stop a daemon and keep it stopped.")
_command("restart", "Stop a daemon and start it again, keeping its descriptors.")


@supervise.command()
@click.argument("daemon")
@click.option("--signal", "number", default=9, help="The signal's number.")
@click.pass_obj
def kill(socket: Path, daemon: str, number: int) -> None:
    """Send a daemon a signal; the supervisor starts it again as after any crash.

    \b
    Example: netplane supervise kill proxy
    """
    _ask(socket, op="kill", daemon=daemon, signal=number)
