"""`netplane bench`: what netplane costs, measured on this machine beside what it is compared with."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from netplane.cli import figures
from netplane.cli.main import say
from netplane.cli.output import dump, output_option, show

Figure = Mapping[str, Any]


def report(
    measure: Callable[[], Sequence[Figure]],
    columns: Mapping[str, str],
    row: Callable[[Figure], Figure],
    output: str,
) -> None:
    """Measure, and show: a row of text for each figure, or all of them as they are; and how busy the machine was."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # namespaces, cgroups and processes go then, too
    before = _load_average()
    found = measure()
    after = _load_average()
    if output == "table":
        show([row(one) for one in found], columns, output)
        say(f"load averages of this machine before {before}, after {after}")
    else:
        dump({"loadBefore": before, "loadAfter": after, "figures": found}, output)


def _load_average() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


@click.group()
def bench() -> None:
    """Measure side by side, in namespaces of its own; only ratios of one run say anything.

    \b
    Example:
      netplane bench proxy
    """


@bench.command()
@click.option("--rounds", default=80, show_default=True, help="Slices of each path, in random order.")
@click.option("--seconds", default=0.12, show_default=True, help="Length of a slice.")
@output_option
def proxy(rounds: int, seconds: float, output: str) -> None:
    """The userspace proxy beside HAProxy: tcp mode, one thread, with and without splice, client's address kept.

    \b
    Example:
      netplane bench proxy --rounds 10
    """
    from netplane.bench import proxy as measured

    report(lambda: measured.measure(rounds, seconds, say), figures.PROXY, figures.proxy, output)


@bench.command()
@click.option("--connections", default=20_000, show_default=True, help="Open at once, and idle.")
@click.option("--workers", default=0, show_default=True, help="Worker processes to begin with; 0: chosen.")
@click.option("--rounds", default=5, show_default=True, help="Each with a proxy of its own.")
@output_option
def idle(connections: int, workers: int, rounds: int, output: str) -> None:
    """What idle connections cost the userspace proxy: memory of all its processes, and how many it takes.

    \b
    Example:
      netplane bench idle --workers 3
    """
    from netplane.bench.idle import measure

    report(lambda: measure(connections, workers, rounds, say), figures.IDLE, figures.idle, output)


@bench.command()
@click.option("--connections", default=5000, show_default=True, help="Open at once, and all in use.")
@click.option("--rounds", default=20, show_default=True, help="Of each loss, in random order.")
@output_option
def losses(connections: int, rounds: int, output: str) -> None:
    """What open connections notice when a process of the userspace proxy is restarted or killed.

    \b
    Example:
      netplane bench losses --connections 1000
    """
    from netplane.bench.losses import measure

    report(lambda: measure(connections, rounds, say), figures.LOSSES, figures.losses, output)


@bench.command()
@click.option("--rounds", default=80, show_default=True, help="Slices of each subject, in random order.")
@click.option("--seconds", default=0.1, show_default=True, help="Length of a slice.")
@click.option("--only", multiple=True, metavar="SUBJECT", help="Just this one, and others named so.")
@click.option("--many/--no-many", default=True, show_default=True, help="Also with 10,000 Services.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file, as SVG."
)
@output_option
def datapath(
    rounds: int, seconds: float, only: tuple[str, ...], many: bool, plot: Path | None, output: str
) -> None:
    """All modes beside direct, HAProxy and kube-proxy's rules, each on a node of its own, one endpoint each.

    \b
    Example:
      netplane bench datapath --only direct --only ebpf --rounds 20
    """
    from netplane.bench import datapath as measured
    from netplane.bench import many as crowded
    from netplane.bench.plot import bars

    def measure() -> Sequence[Figure]:
        rows = measured.measure(rounds, seconds, only, say)
        if plot:
            ours = frozenset({"userspace", measured.NFTABLES, measured.EBPF})
            plot.write_text(bars(rows, measured.DIRECT, ours))
        return [*rows, *crowded.measure(rounds, seconds, only, say)] if many else rows

    report(measure, figures.DATAPATH, figures.datapath, output)


@bench.command()
@click.option("--count", default=200, show_default=True, help="ADDs and DELs of each, in turn.")
@click.option("--bursts", default=10, show_default=True, help="How often fifty at once.")
@output_option
def cni(count: int, bursts: int, output: str) -> None:
    """ADD and DEL beside Debian's reference plugins. Takes minutes: what is slow is the reference.

    Medians with their 95 % intervals; ratios are of pairs measured one after the other.

    \b
    Example:
      netplane bench cni --count 50
    """
    from netplane.bench.cni import measure

    def measured() -> Sequence[Figure]:
        return [{**asdict(one), "verdict": one.verdict} for one in measure(count, bursts, say)]

    report(measured, figures.CNI, figures.cni, output)


@bench.command()
@click.option("--watchers", default=1000, show_default=True, help="Watch connections open at once.")
@click.option("--rate", default=100, show_default=True, help="Updates a second.")
@click.option("--seconds", default=20.0, show_default=True, help="How long the updates go on.")
@click.option("--pods", default=5000, show_default=True, help="Pods in the lists.")
@click.option("--readers", default=1, show_default=True, help="Processes that the watchers share.")
@output_option
def api(watchers: int, rate: int, seconds: float, pods: int, readers: int, output: str) -> None:
    """The API server: how old an event is when each of the watchers has read it, and what lists and writes take.

    \b
    Example:
      netplane bench api --watchers 200 --seconds 5
    """
    from netplane.bench.api import Plan, measure

    plan = Plan(watchers, rate, seconds, pods, readers)
    report(lambda: measure(plan, say), figures.API, figures.api, output)


@bench.command()
@click.option("--count", default=50, show_default=True, help="Services, one after the other.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    envvar="KUBECONFIG",
    required=True,
    help="How to reach the API server.  [default: KUBECONFIG]",
)
@output_option
def programming(count: int, kubeconfig: Path, output: str) -> None:
    """From the write of an endpoint to the first connection at the ClusterIP; run it on a node of a cluster.

    \b
    Example:
      netplane bench programming --kubeconfig admin.kubeconfig
    """
    from netplane.bench.programming import measure
    from netplane.kube.client import Client
    from netplane.kube.kubeconfig import Kubeconfig

    async def run() -> list[Figure]:
        async with Client(Kubeconfig.load(kubeconfig)) as client:
            return [asdict(await measure(client, count))]

    report(lambda: asyncio.run(run()), figures.PROGRAMMING, figures.programming, output)


@bench.command()
@click.option("--services", default=10_000, show_default=True, help="Services of netplane's larger run.")
@click.option(
    "--beside", default=1_000, show_default=True, help="Services of the run beside kube-proxy's shape."
)
@click.option("--endpoints", default=5, show_default=True, help="Endpoints of each Service.")
@click.option("--loads", default=5, show_default=True, help="How often each is filled from nothing.")
@click.option("--updates", default=200, show_default=True, help="Single endpoints changed, in random order.")
@output_option
def sync(services: int, beside: int, endpoints: int, loads: int, updates: int, output: str) -> None:
    """Filling and changing nftables mode's rules, beside rules of the shape that kube-proxy writes.

    \b
    Example:
      netplane bench sync --services 10000
    """
    from netplane.bench import sync as measuring

    sizes = [("netplane", beside), ("kube-proxy", beside), ("netplane", services)]

    def measure() -> Sequence[Figure]:
        rows = measuring.measure(sizes, endpoints=endpoints, loads=loads, updates=updates)
        return [asdict(row) for row in rows]

    report(measure, figures.SYNC, figures.sync, output)
