"""Data on stdout in the form that was asked for; progress on stderr, only where a person watches."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from netplane.cli.main import Command

FORMATS = ("table", "json", "yaml")
Row = Mapping[str, Any]


def output_option(command: Command) -> Command:
    """`-o table|json|yaml`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Form of what is printed.",
    )(command)


def show(rows: Sequence[Row], columns: Mapping[str, str], output: str) -> None:
    """Rows as a table of `columns` (key → heading), or whole as JSON or YAML."""
    if output == "table":
        click.echo(table(rows, columns), nl=False)
    else:
        dump(list(map(dict, rows)), output)


def dump(data: Any, output: str) -> None:
    """Plain values as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, default=str))
    else:
        import yaml

        click.echo(yaml.safe_dump(json.loads(json.dumps(data, default=str)), sort_keys=False), nl=False)


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Aligned columns with a heading, as kubectl prints them; text that `cut` and `awk` can take apart."""
    cells = [list(columns.values())]
    cells += [[_text(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = (
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
    return "".join(f"{line}\n" for line in lines)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return str(value)


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done: on stderr, on a terminal, once it takes longer than a second."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    began = time.monotonic()
    status = console.status(title)
    showing = False

    def say(text: str) -> None:
        nonlocal showing
        if not showing and time.monotonic() - began > 1.0:
            showing = True
            status.start()
        status.update(f"{title}: {text}  [dim]{time.monotonic() - began:.0f} s[/dim]")

    try:
        yield say
    finally:
        if showing:
            status.stop()
