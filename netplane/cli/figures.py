"""What the benchmarks' figures look like in a table: columns, and a row of text for each figure."""

from collections.abc import Mapping
from typing import Any

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
    "stoodStill": "STOOD STILL MS, MEDIAN",
    "stoodStillLongest": "LONGEST",
    "slowest": "SLOWEST MESSAGE MS, MEDIAN",
    "slowestLongest": "LONGEST",
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


def proxy(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``netplane bench proxy``."""
    return {
        **row,
        "median": f"{row['median']:.2f}",
        "ratio": f"{row['ratio']:.2f}" if row.get("ratio") else "",
        "interval": f"{row['low']:.2f}-{row['high']:.2f}" if row.get("low") else "",
    }


def datapath(row: Mapping[str, Any]) -> dict[str, str]:
    """Of ``netplane bench datapath``."""

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


def cni(one: Mapping[str, Any]) -> dict[str, str]:
    """Of ``netplane bench cni``."""
    return {
        "network": f"{one['network']} / {one['reference']}",
        "figure": one["figure"],
        "ours": _interval(one["ours"]),
        "theirs": _interval(one["theirs"]),
        "ratio": f"{one['ratio']:.1f} [{one['low']:.1f} {one['high']:.1f}]",
        "target": "" if one["target"] is None else f"{one['target']:g}",
        "verdict": one["verdict"],
    }


def api(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``netplane bench api``."""
    return {
        **row,
        "median": f"{row['median']:.2f}",
        "interval": f"{row['low']:.2f}-{row['high']:.2f}" if "low" in row else "",
        "p99": f"{row['p99']:.2f}" if "p99" in row else "",
    }


def sync(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``netplane bench sync``."""
    load, work, update = row["load"], row["work"], row["update"]
    return {
        "subject": row["subject"],
        "services": row["services"],
        "load": f"{load['median']:.3f}",
        "loadInterval": f"{load['low']:.3f}-{load['high']:.3f}",
        "work": f"{work['median']:.3f}",
        "update": f"{update['median'] * 1000:.2f}",
        "updateInterval": f"{update['low'] * 1000:.2f}-{update['high'] * 1000:.2f}",
        "p99": f"{update['p99'] * 1000:.2f}",
    }


def idle(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``netplane bench idle``."""
    return {**row, **{key: round(row[key], 2) for key in ("value", "low", "high")}}


def losses(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``netplane bench losses``."""
    shown = dict(row)
    for figure in ("stoodStill", "slowest"):
        summary = row[figure]
        shown[figure] = _interval(summary) if summary else ""
        shown[f"{figure}Longest"] = f"{summary['largest']:.1f}" if summary else ""
    return shown


def programming(row: Mapping[str, Any]) -> dict[str, str]:
    """Of ``netplane bench programming``: milliseconds."""
    return {key: str(value) if key == "count" else f"{value * 1000:.1f}" for key, value in row.items()}


def _interval(summary: Mapping[str, Any]) -> str:
    """Median, and the interval that holds it with 95 %."""
    digits = 2 if summary["median"] < 10 else 1 if summary["median"] < 100 else 0
    return f"{summary['median']:.{digits}f} [{summary['low']:.{digits}f} {summary['high']:.{digits}f}]"
