"""The daemons as commands: read the settings, run the part. SIGTERM stops, SIGHUP reloads."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from netplane import config, runner
from netplane.config import Paths

Serve = Callable[[Any, runner.Daemon], Awaitable[None]]


def root_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--root DIR``: where this node keeps its files."""
    path = click.Path(path_type=Path, file_okay=False)
    return click.option(
        "--root", type=path, default="/", envvar="NETPLANE_ROOT", help="Where this node keeps its files."
    )(command)


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every daemon takes."""
    path = click.Path(path_type=Path, dir_okay=False)
    command = click.option(
        "--config", "config_file", type=path, help="Settings [ROOT/etc/netplane/DAEMON.yaml]."
    )(command)
    return root_option(command)


def run(
    name: str, settings: type[Any], serve: Serve, root: Path, config_file: Path | None, loop: str, **more: Any
) -> int:
    """Load a part's settings and run it until it is told to stop."""
    root = root.absolute()
    file = config_file or Paths(root).etc / f"{name}.yaml"
    loaded = config.load(settings, file, root=root, **more)
    return runner.run(lambda daemon: serve(loaded, daemon), name=name, loop=loop)


@click.command()
@daemon_options
def controlplane(root: Path, config_file: Path | None) -> int:
    """Run the control plane: API server, controllers, scheduler.

    \b
    Example: netplane controlplane --root /
    """
    from controlplane.server import Settings, serve

    return run("controlplane", Settings, serve, root, config_file, "uvloop")


@click.command()
@daemon_options
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="How to reach the API.")
def proxy(root: Path, config_file: Path | None, kubeconfig: Path | None) -> int:
    """Run the Service proxy of this node.

    \b
    Example: netplane proxy --root /
    """
    from proxy.agent import Settings, serve

    return run("proxy", Settings, serve, root, config_file, "uvloop", kubeconfig=kubeconfig)


@click.command()
@daemon_options
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="How to reach the API.")
def dns(root: Path, config_file: Path | None, kubeconfig: Path | None) -> int:
    """Answer cluster DNS on this node.

    \b
    Example: netplane dns --root /
    """
    from netplane.dns.server import Settings, serve

    return run("dns", Settings, serve, root, config_file, "uvloop", kubeconfig=kubeconfig)
