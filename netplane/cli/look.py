"""The nouns: what this node does, as it says itself. They look and never change anything."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from netplane.cli.main import root_option
from netplane.cli.output import dump, output_option, show

Found = Sequence[Mapping[str, Any]]
SERVICES = {
    "service": "SERVICE",
    "frontends": "FRONTENDS",
    "endpoints": "ENDPOINTS",
    "local": "LOCAL",
    "affinity": "AFFINITY",
}
ENDPOINTS = {
    "service": "SERVICE",
    "endpoint": "ENDPOINT",
    "local": "LOCAL",
    "state": "STATE",
    "clients": "CLIENTS",
}
FLOWS = {
    "service": "SERVICE",
    "client": "CLIENT",
    "frontend": "FRONTEND",
    "source": "SOURCE",
    "endpoint": "ENDPOINT",
    "state": "STATE",
}
STATUS = {"part": "PART", "state": "STATE", "detail": "DETAIL"}


def _asked(root: Path, what: str, of_the_kernel: Callable[[], Found]) -> Found:
    """As the proxy says; where none runs, as the kernel has it all the same."""
    from netplane.config import Paths
    from netplane.errors import PeerError
    from proxy.userspace import observe

    try:
        found: Found = observe.ask(Paths(root.absolute()).proxy_socket, what)
    except PeerError:
        found = of_the_kernel()
        if not found:
            raise
    return found


def _targets(root: Path) -> Found:
    from proxy.codec import encode_targets
    from proxy.nftables import observe as table

    return _asked(root, "targets", lambda: encode_targets(table.targets()))


def _flows(root: Path) -> Found:
    from netplane.config import Paths
    from proxy.ebpf import observe as told
    from proxy.nftables import flows as translated

    paths = Paths(root.absolute())
    return _asked(root, "flows", lambda: [*told.conversations(paths), *translated.describe()])


@click.command()
@root_option
@output_option
def services(root: Path, output: str) -> None:
    """The Services that this node's proxy serves, and where.

    \b
    Example:
      netplane services -o json
    """
    from netplane.cli import views

    show(views.services(_targets(root)), SERVICES, output)


@click.command()
@root_option
@click.argument("service", required=False)
@output_option
def endpoints(root: Path, service: str | None, output: str) -> None:
    """Where each Service leads from this node; SERVICE is [NAMESPACE/]NAME[:PORT], by default all.

    Without a namespace it is one of namespace "default". CLIENTS "inside": policy Local keeps clients from
    outside the cluster off that endpoint here.

    \b
    Example:
      netplane endpoints hello
      netplane endpoints shop/web:http
    """
    from netplane.cli import views

    targets = _targets(root)
    show(views.endpoints(targets, service), ENDPOINTS, output)
    if output == "table":
        for line in views.silences(targets, service):
            click.echo(line)


@click.command()
@root_option
@output_option
def flows(root: Path, output: str) -> None:
    """The connections to Services that this node carries now.

    \b
    Example:
      netplane flows -o json
    """
    from netplane.cli import views

    show(views.flows(_flows(root)), FLOWS, output)


@click.command()
@root_option
@output_option
def status(root: Path, output: str) -> None:
    """Whether the parts of netplane on this machine answer.

    \b
    Example:
      netplane status
    """
    from netplane.cli import views

    rows = views.status(root.absolute())
    show(rows, STATUS, output)
    if any(row["state"] != "works" for row in rows):
        raise click.exceptions.Exit(1)


@click.command()
@root_option
@click.argument("source")
@click.argument("target")
@click.option(
    "--probe", is_flag=True, help="Also send one real request and show its packets; SOURCE is a pod."
)
@click.option("--lab", "lab_name", metavar="NAME", help="Explain in that lab, all of its nodes in sight.")
@click.option(
    "--kubeconfig",
    envvar="KUBECONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
    help="How to reach the API server.  [default: KUBECONFIG or ROOT/etc/netplane/admin.kubeconfig]",
)
@output_option
def explain(
    root: Path,
    source: str,
    target: str,
    probe: bool,
    lab_name: str | None,
    kubeconfig: Path | None,
    output: str,
) -> None:
    """Where a connection goes, hop by hop, each from the kernel's own state.

    SOURCE and TARGET: ns/pod[:port], svc/name.ns:port, node/name[:port], address[:port]; a TARGET
    also a Service's DNS name or URL, and of UDP with /udp after its port; a lab's SOURCE also "outside".
    Exit 0: works. 1: broken. 2: undetermined.

    \b
    Example:
      netplane explain default/web-0 svc/hello:80
      netplane explain --lab demo node/n1 svc/hello:80 -o json
    """
    from netplane.cli import explaining

    found = explaining.explain(root.absolute(), source, target, probe, lab_name, kubeconfig)
    if output == "table":
        click.echo(found.render(), nl=False)
    else:
        dump(found.as_json(), output)
    raise click.exceptions.Exit(found.exit_code)
