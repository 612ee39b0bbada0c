"""`netplane bench`: what netplane costs, measured on this machine beside what it is compared with."""

import click

from netplane.cli.main import say
from netplane.cli.output import dump, output_option, table

PROXY = {
    "measure": "MEASURE",
    "figure": "FIGURE",
    "path": "PATH",
    "median": "MEDIAN",
    "unit": "UNIT",
    "ratio": "NETPLANE/PATH",
    "interval": "95 %",
}


@click.group()
def bench() -> None:
    """Measure side by side, in namespaces of its own; only ratios of one run say anything.

    \b
    Example:
      netplane bench proxy
    """


@bench.command()
@click.option("--rounds", default=40, show_default=True, help="Slices of each path, in random order.")
@click.option("--seconds", default=0.2, show_default=True, help="Length of a slice.")
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
