"""Data on stdout, as a table for a person or as JSON or YAML for a program."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-o table|json|yaml``."""
    formats = click.Choice(["table", "json", "yaml"])
    return click.option("-o", "--output", type=formats, default="table", help="How to print.")(command)


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: str) -> None:
    """Print rows; ``columns`` are the keys of the table, in its order. JSON and YAML print all keys."""
    if output == "json":
        click.echo(json.dumps(list(rows), indent=2, default=str))
    elif output == "yaml":
        plain = json.loads(json.dumps(list(rows), default=str))
        click.echo(yaml.safe_dump(plain, sort_keys=False), nl=False)
    else:
        click.echo(table(rows, columns), nl=False)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A plain table without lines, as kubectl prints one."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(column.upper().replace("_", " "), no_wrap=True)
    for row in rows:
        found.add_row(*(_cell(row.get(column)) for column in columns))
    console = Console(width=1000, highlight=False)
    with console.capture() as capture:
        console.print(found)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "-"
    return str(value)
