"""`netplane bench`: what netplane costs, measured on this machine beside what it is compared with."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from netplane.cli.main import say
from netplane.cli.output import dump, output_option, show, table

PROXY = {
    "measure": "MEASURE",
    "figure": "FIGURE",
    "path": "PATH",
    "median": "MEDIAN",
    "unit": "UNIT",
    "ratio": "NETPLANE/PATH",
    "interval": "95 %",
}
CNI = {
    "network": "NETWORK",
    "figure": "FIGURE",
    "ours": "NETPLANE",
    "theirs": "REFERENCE",
    "ratio": "TIMES BETTER",
    "target": "ASKED",
    "verdict": "VERDICT",
}
API = {
    "measure": "MEASURE",
    "figure": "FIGURE",
    "median": "MEDIAN",
    "unit": "UNIT",
    "interval": "95 %",
    "p99": "P99",
}
LOSSES = {
    "loss": "LOST",
    "connections": "CONNECTIONS",
    "cut": "CUT",
    "median": "SLOWEST EXCHANGE MS, MEDIAN",
    "longest": "LONGEST",
}
IDLE = {"figure": "FIGURE", "value": "MEDIAN", "low": "95 %, FROM", "high": "TO"}
DATAPATH = {
    "measure": "MEASURE",
    "subject": "SUBJECT",
    "rate": "MEDIAN",
    "unit": "UNIT",
    "cpu": "CPU µS (S/GB)",
    "direct": "× DIRECT",
    "nftables": "× NFTABLES",
    "kubeProxy": "× KUBE-PROXY'S NFT",
}
SYNC = {
    "subject": "SUBJECT",
    "services": "SERVICES",
    "load": "LOAD S",
    "loadInterval": "95 %",
    "work": "PROCESSOR S",
    "update": "ONE ENDPOINT MS",
    "updateInterval": "95 %",
    "p99": "P99",
}
PROGRAMMING = {"count": "SERVICES", "median": "MEDIAN MS", "low": "LOW", "high": "HIGH", "p99": "P99"}


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

    before = measured.load_average()
    rows = measured.measure(rounds, seconds, say)
    if output != "table":
        dump({"loadBefore": before, "loadAfter": measured.load_average(), "figures": rows}, output)
        return
    shown = [
        {
            **row,
            "median": f"{row['median']:.2f}",
            "ratio": f"{row['ratio']:.2f}" if row.get("ratio") else "",
            "interval": f"{row['low']:.2f}-{row['high']:.2f}" if row.get("low") else "",
        }
        for row in rows
    ]
    click.echo(table(shown, PROXY), nl=False)
    say(f"load averages of this machine before {before}, after {measured.load_average()}")


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

    rows = measure(connections, workers, rounds, say)
    show(
        [{**row, **{key: round(row[key], 2) for key in ("value", "low", "high")}} for row in rows],
        IDLE,
        output,
    )


@bench.command()
@click.option("--connections", default=5000, show_default=True, help="Open at once, and all in use.")
@click.option("--rounds", default=5, show_default=True, help="Of each loss, in random order.")
@output_option
def losses(connections: int, rounds: int, output: str) -> None:
    """What open connections notice when a process of the userspace proxy is restarted or killed.

    \b
    Example:
      netplane bench losses --connections 1000
    """
    from netplane.bench.losses import measure

    rows = measure(connections, rounds, say)
    show(
        [{**row, "median": round(row["median"]), "longest": round(row["longest"])} for row in rows],
        LOSSES,
        output,
    )


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
    from netplane.bench.proxy import load_average

    before = load_average()
    rows = measured.measure(rounds, seconds, only, say)
    if plot:
        plot.write_text(
            bars(rows, measured.DIRECT, frozenset({"userspace", measured.NFTABLES, measured.EBPF}))
        )
    if many:
        rows += crowded.measure(rounds, seconds, only, say)
    if output != "table":
        dump({"loadBefore": before, "loadAfter": load_average(), "figures": rows}, output)
        return
    click.echo(table([_datapath_row(row) for row in rows], DATAPATH), nl=False)
    say(f"load averages of this machine before {before}, after {load_average()}")


def _datapath_row(row: Mapping[str, Any]) -> dict[str, str]:
    def ratio(base: str) -> str:
        found = row.get(base)
        return f"{found['ratio']:.2f} [{found['low']:.2f} {found['high']:.2f}]" if found else ""

    summary = row.get("summary")
    return {
        **{key: str(row[key]) for key in ("measure", "subject", "unit")},
        "rate": _interval(summary) if summary else f"{row['rate']:.1f}",
        "cpu": f"{row['cpu']:.2f}" if "cpu" in row else "",
        "direct": ratio("direct"),
        "nftables": ratio("nftables"),
        "kubeProxy": ratio("kube-proxy's nftables"),
    }


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
    from netplane.bench.proxy import load_average

    before = load_average()
    measured = measure(count, bursts, say)
    if output != "table":
        figures = [{**asdict(one), "verdict": one.verdict} for one in measured]
        dump({"loadBefore": before, "loadAfter": load_average(), "figures": figures}, output)
        return
    show([_cni_row({**asdict(one), "verdict": one.verdict}) for one in measured], CNI, output)
    say(f"load averages of this machine before {before}, after {load_average()}")


def _cni_row(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "network": f"{one['network']} / {one['reference']}",
        "figure": one["figure"],
        "ours": _interval(one["ours"]),
        "theirs": _interval(one["theirs"]),
        "ratio": f"{one['ratio']:.1f} [{one['low']:.1f} {one['high']:.1f}]",
        "target": "" if one["target"] is None else f"{one['target']:g}",
        "verdict": one["verdict"],
    }


def _interval(summary: Mapping[str, Any]) -> str:
    """Median, and the interval that holds it with 95 %."""
    digits = 2 if summary["median"] < 10 else 1 if summary["median"] < 100 else 0
    return f"{summary['median']:.{digits}f} [{summary['low']:.{digits}f} {summary['high']:.{digits}f}]"


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
    from netplane.bench.proxy import load_average

    before = load_average()
    rows = measure(Plan(watchers, rate, seconds, pods, readers), say)
    if output != "table":
        dump({"loadBefore": before, "loadAfter": load_average(), "figures": rows}, output)
        return
    shown = [
        {
            **row,
            "median": f"{row['median']:.2f}",
            "interval": f"{row['low']:.2f}-{row['high']:.2f}" if "low" in row else "",
            "p99": f"{row['p99']:.2f}" if "p99" in row else "",
        }
        for row in rows
    ]
    click.echo(table(shown, API), nl=False)
    say(f"load averages of this machine before {before}, after {load_average()}")


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

    async def run() -> dict[str, Any]:
        async with Client(Kubeconfig.load(kubeconfig)) as client:
            return asdict(await measure(client, count))

    found = asyncio.run(run())
    if output != "table":
        dump(found, output)
        return
    shown = {key: str(value) if key == "count" else f"{value * 1000:.1f}" for key, value in found.items()}
    show([shown], PROGRAMMING, output)


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
    rows = measuring.measure(sizes, endpoints=endpoints, loads=loads, updates=updates)
    show(
        [
            {
                "subject": row.subject,
                "services": row.services,
                "load": f"{row.load.median:.3f}",
                "loadInterval": f"{row.load.low:.3f}-{row.load.high:.3f}",
                "work": f"{row.work.median:.3f}",
                "update": f"{row.update.median * 1000:.2f}",
                "updateInterval": f"{row.update.low * 1000:.2f}-{row.update.high * 1000:.2f}",
                "p99": f"{row.update.p99 * 1000:.2f}",
            }
            for row in rows
        ],
        SYNC,
        output,
    )
