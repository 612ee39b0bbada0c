"""The daemons' commands: read the settings, run the part until SIGTERM."""

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from netplane.cli.main import Command, root_option


class Networks(click.ParamType[tuple[str, ...]]):
    """CIDRs between commas; the settings' parser says what is wrong with one."""

    name = "CIDR,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The texts; none of an empty one."""
        return (
            value
            if isinstance(value, tuple)
            else tuple(one.strip() for one in value.split(",") if one.strip())
        )


NETWORKS = Networks()


def daemon_options(command: Command) -> Command:
    """What every daemon takes."""
    command = click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path, dir_okay=False),
        help="How to reach the API server.  [default: ROOT/etc/netplane/<daemon>.kubeconfig]",
    )(command)
    command = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="The settings file.  [default: ROOT/etc/netplane/<daemon>.yaml]",
    )(command)
    return root_option(command)


def run_daemon(
    name: str,
    module: str,
    root: Path,
    config: Path | None,
    kubeconfig: Path | None,
    loop: str = "uvloop",
    **more: Any,
) -> None:
    """Load `<module>.Settings`, run `<module>.serve`; leaves with the daemon's exit status."""
    import dataclasses

    from netplane import runner
    from netplane.config import Paths, load
    from netplane.errors import ConfigError

    part = importlib.import_module(module)
    settings_class: type[Any] = part.Settings
    serve: Callable[..., Any] = part.serve
    overrides: dict[str, Any] = {"root": root.absolute(), **more}
    if kubeconfig is not None:
        if "kubeconfig" not in {field.name for field in dataclasses.fields(settings_class)}:
            raise ConfigError(f"cannot give --kubeconfig to {name}: it reads those in its own directory")
        overrides["kubeconfig"] = kubeconfig
    path = config or Paths(root).etc / f"{name}.yaml"
    # A part may know other forms of its settings than our own.
    read: Callable[..., Any] = getattr(part, "load_settings", partial(load, settings_class))
    settings = read(path, **overrides)
    sys.exit(runner.run(lambda daemon: serve(settings, daemon), name=name, loop=loop))


@click.command()
@daemon_options
@click.option(
    "--join", metavar="TOKEN@HOST[:PORT]", help="Join this machine to a cluster, and run all of a node."
)
@click.option("--ca-hash", metavar="sha256:HEX", help="What the cluster's CA is recognised by, with --join.")
@click.option("--name", help="The node's name, with --join.  [default: the host name]")
@click.option("--configure-only", is_flag=True, help="With --join: write the files, run nothing.")
def node(
    root: Path,
    config: Path | None,
    kubeconfig: Path | None,
    join: str | None,
    ca_hash: str | None,
    name: str | None,
    configure_only: bool,
) -> None:
    """The node agent: registers the node and runs its pods. With --join: a further machine, all of it.

    \b
    Example:
      netplane node
      netplane node --join abcdef.0123456789abcdef@192.168.56.10 --ca-hash sha256:6c1b...
    """
    if join is None and (ca_hash or name or configure_only):
        raise click.UsageError("--ca-hash, --name and --configure-only go with --join")
    if join is not None:
        if ca_hash is None:
            raise click.UsageError("--join needs --ca-hash: without it anybody could be the cluster")
        from netplane.machine import joining

        joined = joining.join(root, join, ca_hash, name)
        click.echo(f"joined {joined.server} as node {joined.node}", err=True)
        if not configure_only:
            run_daemon("supervise", "netplane.node.supervise.serve", root, None, None, loop="asyncio")
        return
    run_daemon("node", "netplane.node.agent", root, config, kubeconfig, loop="asyncio")


@click.command()
@daemon_options
@click.option(
    "--mode",
    type=click.Choice(("auto", "userspace", "nftables", "ebpf")),
    help="The data path.  [default: what the settings file says, or userspace]",
)
@click.option(
    "--host-routing",
    type=click.Choice(("auto", "bpf", "legacy")),
    help="How packets between pods of this node go in mode ebpf: past the host's stack, or through it."
    "  [default: what the settings file says, or auto: past it where no rules of others are there]",
)
@click.option(
    "--cluster-cidrs",
    type=NETWORKS,
    help="The pods' networks, or '' for none: then only this node's pods count as the cluster's."
    "  [default: what the settings file says, or 10.244.0.0/16]",
)
@click.option(
    "--service-cidrs",
    type=NETWORKS,
    help="The networks of ClusterIPs, or '' for none: then each address is led to the node by itself."
    "  [default: what the settings file says, or 10.96.0.0/12]",
)
@click.option(
    "--endpoint-metrics/--no-endpoint-metrics",
    default=None,
    help="Tell endpoints apart in the metrics of traffic, in mode userspace."
    "  [default: what the settings file says, or not]",
)
def proxy(root: Path, config: Path | None, kubeconfig: Path | None, **more: Any) -> None:
    """The proxy: makes Services' addresses work on this node.

    \b
    Example:
      netplane proxy --kubeconfig /etc/netplane/proxy.kubeconfig --mode auto
      netplane proxy --config kube-proxy.conf --service-cidrs 10.43.0.0/16
    """
    run_daemon("proxy", "proxy.agent", root, config, kubeconfig, **more)


@click.command()
@daemon_options
def dns(root: Path, config: Path | None, kubeconfig: Path | None) -> None:
    """The cluster's DNS, answered on this node.

    \b
    Example:
      netplane dns --config /etc/netplane/dns.yaml
    """
    run_daemon("dns", "netplane.dns.server", root, config, kubeconfig)
