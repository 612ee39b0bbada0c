"""`netplane lab`: clusters of namespaces on this machine."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from netplane.cli.main import Command
from netplane.cli.output import dump, output_option, progress, show, table

MACHINES = {"name": "MACHINE", "address": "ADDRESS", "power": "POWER"}
DAEMONS = {
    "machine": "MACHINE",
    "name": "DAEMON",
    "state": "STATE",
    "restarts": "RESTARTS",
    "status": "STATUS",
    "log": "LOG",
}


def name_option(default: str = "lab") -> Callable[[Command], Command]:
    """`--name N`."""
    return click.option("--name", default=default, show_default=True, help="The lab's name.")


mode_option = click.option(
    "--mode", default="userspace", show_default=True, help="The proxy's data path; auto takes the best."
)


@click.group()
def lab() -> None:
    """A cluster of namespaces on this machine; nothing outside them is touched.

    \b
    Example:
      netplane lab up --name a --nodes 2
      netplane lab exec --name a n1 -- ip route
      netplane lab down --name a
    """


def shape_options(command: Command) -> Command:
    """What a lab may consist of; what is not served yet is refused by name."""
    for option in reversed(
        (
            click.option("--nodes", type=int, default=3, show_default=True, help="How many nodes, 1 to 9."),
            click.option("--masters", type=int, default=1, show_default=True, help="Control plane machines."),
            mode_option,
            click.option("--store", default="sqlite", show_default=True, help="The control plane's storage."),
            click.option("--overlay", default="routes", show_default=True, help="Pod traffic between nodes."),
            click.option(
                "--nat-interface",
                is_flag=True,
                help="Give every machine a first interface with 10.0.2.15, as VirtualBox does.",
            ),
        )
    ):
        command = option(command)
    return command


@lab.command()
@name_option()
@shape_options
@click.option("--keep", "keep_failed", is_flag=True, help="Leave a lab that fails, to look at it.")
def up(name: str, keep_failed: bool, **shape: Any) -> None:
    """Make a lab; returns when every node is Ready.

    \b
    Example:
      netplane lab up --name a --nodes 3
    """
    from netplane.lab import up as making
    from netplane.lab.spec import LabSpec

    with progress(f"lab {name}") as say:
        making.up(LabSpec(name=name, **shape), say=say, keep_failed=keep_failed, final=True)


@lab.command()
@name_option()
@click.option("--all", "every", is_flag=True, help="Remove every lab on this machine.")
def down(name: str, every: bool) -> None:
    """Remove a lab, whatever state it is in; twice is fine.

    \b
    Example:
      netplane lab down --name a
    """
    from netplane.lab import down as removing
    from netplane.lab import place
    from netplane.linux import orphans

    if every:
        orphans.sweep()
    with progress("removing") as say:
        for one in place.names() if every else [name]:
            say(one)
            if not removing.down(one) and not every:
                there = ", ".join(place.names())
                click.echo(f"there is no lab {one}" + (f", but {there}" if there else ""), err=True)


@lab.command()
@name_option()
@output_option
def status(name: str, output: str) -> None:
    """The lab's machines and their daemons.

    \b
    Example:
      netplane lab status --name a -o json
    """
    from netplane.lab import control, place

    found = control.status(place.load(name))
    if output == "table":
        click.echo(f"lab {name}: {'alive' if found.alive else 'dead'}\n")
        if found.alive:
            click.echo(table(found.machines, MACHINES))
            click.echo(table([asdict(daemon) for daemon in found.daemons], DAEMONS), nl=False)
    else:
        dump(asdict(found), output)
    if not found.works:
        raise click.exceptions.Exit(1)


@lab.command(name="list")
@output_option
def list_labs(output: str) -> None:
    """The labs on this machine.

    \b
    Example:
      netplane lab list
    """
    from netplane.lab import place
    from netplane.lab.spec import LABS

    rows = [
        {"name": name, "state": "alive" if place.is_alive(LABS / name) else "dead"} for name in place.names()
    ]
    show(rows, {"name": "NAME", "state": "STATE"}, output)


@lab.command()
@name_option()
def kubeconfig(name: str) -> None:
    """Print the path of a kubeconfig that kubectl can use on this machine.

    \b
    Example:
      export KUBECONFIG=$(netplane lab kubeconfig --name a); kubectl get pods
    """
    from netplane.lab import place

    click.echo(str(place.outside_kubeconfig(place.load(name).directory)))


@lab.command(context_settings={"ignore_unknown_options": True})
@name_option()
@click.argument("machine")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(name: str, machine: str, command: tuple[str, ...]) -> None:  # noqa: A001 - its name on the command line
    """Run a command in MACHINE (m1, n1, ...), or in the lab's own network with MACHINE "outside".

    \b
    Example:
      netplane lab exec --name a n2 -- ip route
      netplane lab exec --name a outside -- curl -s http://192.168.77.11:30080/
    """
    from netplane.lab import enter, place

    enter.become(place.load(name), machine, command)


@lab.command()
@name_option()
@click.argument("machine")
def kill(name: str, machine: str) -> None:
    """Cut a machine's power: its processes and its network end at once.

    \b
    Example:
      netplane lab kill --name a n2
    """
    from netplane.lab import control, place

    control.power(place.load(name), "kill", machine)


@lab.command()
@name_option()
@click.argument("machine")
def start(name: str, machine: str) -> None:
    """Boot a machine whose power was cut.

    \b
    Example:
      netplane lab start --name a n2
    """
    from netplane.lab import control, place

    control.power(place.load(name), "start", machine)


@lab.command()
@name_option("demo")
@mode_option
def demo(name: str, mode: str) -> None:
    """The main job, shown: a cluster, a Deployment, Services, balanced requests, the explained route.

    \b
    Example:
      netplane lab demo --mode nftables
    """
    from netplane.lab import demo as showing

    program = sys.argv[0] if "/" in sys.argv[0] else "netplane"
    with progress(f"lab {name}") as say:
        report = showing.run(name, mode, say)
    click.echo(report.render(program), nl=False)
    if not report.works:
        raise click.exceptions.Exit(1)
