"""`netplane top`: what the Services of this node carry now, by two looks at what the proxy counts."""

import time
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from netplane.cli.main import root_option
from netplane.cli.output import output_option, show

COLUMNS = {
    "service": "SERVICE",
    "connections": "CONNECTIONS/S",
    "active": "OPEN",
    "in": "IN B/S",
    "out": "OUT B/S",
    "retries": "RETRIES/S",
    "rejected": "REJECTED/S",
}
GAUGE = "netplane_service_active_connections"
COUNTERS = {
    ("netplane_service_connections_total", ""): "connections",
    ("netplane_service_bytes_total", "in"): "in",
    ("netplane_service_bytes_total", "out"): "out",
    ("netplane_service_connect_retries_total", ""): "retries",
    ("netplane_service_rejected_total", ""): "rejected",
}
FIGURES = ("active", *COUNTERS.values())
Series = tuple[str, str]  # a Service port; and an endpoint of it, where the proxy tells them apart
Counts = dict[Series, dict[str, float]]  # what → how many


@click.command()
@root_option
@click.option("--seconds", default=1.0, show_default=True, help="Between the two looks.")
@click.option("--endpoints", is_flag=True, help="A row for each endpoint, where the proxy tells them apart.")
@output_option
def top(root: Path, seconds: float, endpoints: bool, output: str) -> None:
    """What the Services of this node carry now, the busiest first.

    \b
    Example:
      netplane top --seconds 5 --endpoints
    """
    from netplane.config import Paths
    from netplane.errors import ConfigError
    from proxy.agent import load_settings
    from proxy.userspace import observe

    if seconds <= 0:
        raise ConfigError(f"cannot look twice within {seconds:g} seconds: --seconds is above 0")
    paths = Paths(root.absolute())
    status = observe.ask(paths.proxy_socket, "status")
    mode = status["mode"]
    if endpoints and not (status.get("endpointMetrics") and mode == "userspace"):
        raise ConfigError(
            f"cannot tell endpoints apart: in mode {mode} the proxy does not count by endpoint",
            "endpointMetrics: true in proxy.yaml does that in mode userspace",
        )
    url = f"http://127.0.0.1:{load_settings(paths.etc / 'proxy.yaml').metrics_port}/metrics"
    before, began = counts(_page(url)), time.monotonic()
    if not before and mode != "userspace":
        raise ConfigError(
            f"cannot tell what Services carry: mode {mode} counts nothing", "netplane flows lists it"
        )
    time.sleep(seconds)
    after = counts(_page(url))
    rows = busiest(before, after, time.monotonic() - began)
    if endpoints:
        show(rows, {"service": "SERVICE", "endpoint": "ENDPOINT", **COLUMNS}, output)
    else:
        show(together(rows), COLUMNS, output)


def counts(page: str) -> Counts:
    """What a metrics page says of each Service port, or each endpoint."""
    from prometheus_client.parser import text_string_to_metric_families

    found: Counts = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            what = _what(sample.name, sample.labels)
            if what:
                labels = sample.labels
                name = (
                    f"{labels['namespace']}/{labels['service']}:{labels['port']}/{labels['protocol'].lower()}"
                )
                own = found.setdefault((name, labels.get("endpoint", "")), {})
                own[what] = own.get(what, 0.0) + sample.value
    return found


def _what(name: str, labels: Mapping[str, str]) -> str:
    return "active" if name == GAUGE else COUNTERS.get((name, labels.get("direction", "")), "")


def busiest(before: Counts, after: Counts, seconds: float) -> list[dict[str, Any]]:
    """A row for each series that carries anything: rates, and what is open; None for what is not counted.

    A counter that went back was begun anew in between: it counts from nothing.
    """
    rows = []
    for series, now in after.items():
        service, endpoint = series
        row: dict[str, Any] = {"service": service, "endpoint": endpoint, "active": now.get("active")}
        for what in COUNTERS.values():
            was, value = before.get(series, {}).get(what, 0.0), now.get(what)
            grown = None if value is None else value - was if value >= was else value
            row[what] = None if grown is None else round(grown / seconds, 1)
        if any(row[what] for what in FIGURES):
            rows.append(row)
    return _ordered(rows)


def together(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same by Service port.

    Rates are summed up, not counters: these vanish with an endpoint that has left, and the sum would go back.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        own = found.setdefault(row["service"], {"service": row["service"], **dict.fromkeys(FIGURES)})
        for what in FIGURES:
            if row[what] is not None:
                own[what] = round((own[what] or 0.0) + row[what], 1)
    return _ordered(found.values())


def _ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (-(row["in"] or 0) - (row["out"] or 0), -(row["connections"] or 0)))


def _page(url: str) -> str:
    from netplane.errors import PeerError, cause_of

    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError as error:
        cause = cause_of(getattr(error, "reason", None) or error)
        raise PeerError(f"cannot read {url}: {cause}", "Is `netplane proxy` running?") from None
