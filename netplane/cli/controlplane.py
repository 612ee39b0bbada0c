"""`netplane controlplane`: the daemon, and what keeps its store when a disk does not."""

from datetime import UTC, datetime
from pathlib import Path

import click
from click.core import ParameterSource

from netplane.cli.daemons import daemon_options, run_daemon
from netplane.cli.main import root_option
from netplane.config import Paths

FILE = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))


@click.group(invoke_without_command=True)
@daemon_options
@click.pass_context
def controlplane(ctx: click.Context, root: Path, config: Path | None, kubeconfig: Path | None) -> None:
    """The API server, the controllers and the scheduler. With a command: back up or restore the store.

    \b
    Example:
      netplane controlplane --config /etc/netplane/controlplane.yaml
      netplane controlplane backup
    """
    if ctx.invoked_subcommand is None:
        run_daemon("controlplane", "controlplane.server", root, config, kubeconfig)
        return
    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"give --{name} after {ctx.invoked_subcommand}")


@controlplane.command()
@FILE
@root_option
def backup(file: Path | None, root: Path) -> None:
    """Copy the store to FILE, while the control plane runs or not.  [default: into var/lib/netplane/backups]

    \b
    Example:
      netplane controlplane backup /mnt/elsewhere/cluster.db
    """
    from controlplane.store.backup import back_up, name_for
    from controlplane.store.sqlite import directory_of, path_of

    state = Paths(root.absolute()).state
    target = file or directory_of(state) / name_for(datetime.now(UTC))
    made = back_up(path_of(state), target)
    click.echo(f"{made.path}: revision {made.revision}, {made.keys} keys")


@controlplane.command()
@FILE
@root_option
def restore(file: Path | None, root: Path) -> None:
    """Put FILE in the store's place, while no control plane runs.  [default: the newest backup that is good]

    FILE may be the store itself (var/lib/netplane/state.db): what is left in it is kept. What was there before stays
    beside it under another name. Docs: docs/recovery.md.

    \b
    Example:
      netplane controlplane restore /mnt/elsewhere/cluster.db
    """
    from controlplane.store.backup import newest_good
    from controlplane.store.backup import restore as put_back
    from controlplane.store.sqlite import directory_of, path_of

    state = Paths(root.absolute()).state
    done = put_back(path_of(state), file or newest_good(directory_of(state)), datetime.now(UTC))
    click.echo(f"restored from {done.source}: {done.keys} keys, and goes on at revision {done.revision}")
    for old in done.aside:
        click.echo(f"what was there is now {old}")
