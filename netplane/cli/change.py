"""The verbs of a node's proxy: they change something, and say what."""

from pathlib import Path

import click

from netplane.cli.main import root_option

MODES = ("auto", "userspace", "nftables", "ebpf")


@click.command()
@root_option
def sync(root: Path) -> None:
    """Look now whether the kernel forwards as the API wants it, mend it, and say what that changed.

    The proxy looks every 30 s by itself.

    \b
    Example:
      netplane sync
    """
    from netplane.cli import views
    from netplane.config import Paths
    from proxy.userspace import observe

    did, wrong = views.sync(observe.ask(Paths(root.absolute()).proxy_socket, "sync", timeout=60))
    for line in did:
        click.echo(line)
    for line in wrong:
        click.echo(f"netplane: {line}", err=True)
    if wrong:
        raise click.exceptions.Exit(1)


@click.command()
@root_option
@click.argument("mode", type=click.Choice(MODES))
def mode(root: Path, mode: str) -> None:
    """Switch this node's data path to MODE while connections go on, and for later starts.

    \b
    Example:
      netplane mode nftables
    """
    from netplane.config import Paths
    from netplane.machine import setup
    from proxy.userspace import observe

    paths = Paths(root.absolute())
    click.echo(observe.ask(paths.proxy_socket, f"mode {mode}", timeout=60))
    setup.merge(paths.etc / "proxy.yaml", {"mode": mode})


@click.command()
@root_option
def flush(root: Path) -> None:
    """Take every trace of a stopped proxy out of this node's kernel; connections to Services end.

    \b
    Example:
      systemctl stop netplane-proxy && netplane flush
    """
    from netplane.config import Paths
    from netplane.errors import ConfigError, PeerError
    from proxy.flush import flush as take_away
    from proxy.userspace import observe

    paths = Paths(root.absolute())
    try:
        observe.ask(paths.proxy_socket, "status")
    except PeerError:
        gone = list(take_away(paths))
        for line in gone:
            click.echo(f"removed {line}")
        if not gone:
            click.echo("nothing of the proxy was there")
    else:
        raise ConfigError("cannot flush: the proxy is running and would make it all anew", "Stop it first")
