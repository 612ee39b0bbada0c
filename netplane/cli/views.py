"""What the parts say of themselves, as rows for a table. Pure, except `status`, which asks them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from netplane.config import Paths
from netplane.errors import ConfigError, KernelError, NetplaneError, PeerError

Row = dict[str, Any]
Target = Mapping[str, Any]


def services(targets: Sequence[Target]) -> list[Row]:
    """One row a Service port: `frontends` and `endpoints` as the proxy has them."""
    rows: dict[str, Row] = {}
    for target in targets:
        name = _service(target)
        pool = target["inside"]
        row = rows.setdefault(
            name,
            {
                "service": name,
                "frontends": [],
                "endpoints": len(pool["endpoints"]),
                "local": sum(bool(endpoint["local"]) for endpoint in pool["endpoints"]),
                "affinity": target.get("affinitySeconds") or None,
            },
        )
        row["frontends"].append(_frontend(target["frontend"]))
    return [rows[name] for name in sorted(rows)]


def endpoints(targets: Sequence[Target], service: str | None = None) -> list[Row]:
    """One row an endpoint of a Service port; `service` is [namespace/]name[:port], namespace `default` where none is.

    `clients`: "inside" where policy Local keeps clients from outside the cluster off it at this node, else "all".
    Raises ConfigError for a Service unknown here.
    """
    rows: dict[tuple[str, str], Row] = {}
    for target in _of_service(targets, service):
        name = _service(target)
        outside = {_address(endpoint) for endpoint in target.get("outside", target["inside"])["endpoints"]}
        for endpoint in target["inside"]["endpoints"]:
            address = _address(endpoint)
            known = rows.get((name, address), {}).get("clients", "all")
            rows[name, address] = {
                "service": name,
                "endpoint": address,
                "local": "yes" if endpoint["local"] else "no",
                "state": "terminating" if endpoint["terminating"] else "ready",
                "clients": known if address in outside else "inside",
            }
    return [rows[key] for key in sorted(rows)]


def silences(targets: Sequence[Target], service: str | None = None) -> list[str]:
    """A line for each frontend at which clients meet silence, for policy Local leaves them no endpoint on this node."""
    found = []
    for target in _of_service(targets, service):
        who = "clients from outside the cluster" if "outside" in target else "clients"
        pool = target.get("outside", target["inside"])
        if not pool["endpoints"] and pool["whenEmpty"] == "drop":
            where = f"{_service(target)} at {_frontend(target['frontend'])}"
            found.append(
                f"{where}: {who} get no answer from this node: policy Local, and no endpoint is here"
            )
    return sorted(found)


def _of_service(targets: Sequence[Target], service: str | None) -> Sequence[Target]:
    """Those of one Service, or of all. Raises ConfigError for one unknown here."""
    if service is None:
        return targets
    wanted = service if "/" in service else f"default/{service}"
    found = [one for one in targets if wanted in (_service(one), _service(one).rpartition(":")[0])]
    if not found:
        served = sorted({_service(target).rpartition(":")[0] for target in targets})
        raise ConfigError(
            f"cannot find Service {wanted}: this node's proxy serves {', '.join(served) or 'none'}"
        )
    return found


def flows(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row a connection, as the proxy gives them."""
    return [{**flow, "state": "connected" if flow["connected"] else "connecting"} for flow in found]


def sync(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What a sync did, and what is wanted and does not work, a line each."""
    counts = ", ".join(f"{report[what]} {what}" for what in ("added", "changed", "removed") if report[what])
    did = [f"revision {report['revision']}: {report['frontends']} frontends, {counts or 'none changed'}"]
    did += [f"mended: {one}" for one in report["done"]]
    if not counts and not report["done"]:
        did.append("the kernel has it all: nothing to mend")
    return did, [*(f"not served: {one}" for one in report["unserved"]), *report["warnings"]]


def _service(target: Target) -> str:
    service = target["service"]
    return f"{service['namespace']}/{service['name']}:{service['port']}"


def _frontend(frontend: Mapping[str, Any]) -> str:
    return f"{_address(frontend)}/{frontend['protocol']}"


def _address(place: Mapping[str, Any]) -> str:
    address = str(place["address"])
    return f"[{address}]:{place['port']}" if ":" in address else f"{address}:{place['port']}"


def status(root: Path) -> list[Row]:
    """One row for each part that this machine is set up for: `works`, or what keeps it from working."""
    paths = Paths(root)
    questions: list[tuple[str, Callable[[Paths], tuple[bool, str]]]] = []
    if paths.supervise_socket.exists():
        questions.append(("daemons", _daemons))
    if (paths.etc / "node.kubeconfig").exists():
        questions += [("cni", _cni), ("proxy", _proxy)]
    rows = [_answer(part, ask, paths) for part, ask in questions]
    if not rows:
        rows.append(
            {"part": "machine", "state": "not set up", "detail": f"nothing of netplane is under {root}"}
        )
    return rows


def _answer(part: str, ask: Callable[[Paths], tuple[bool, str]], paths: Paths) -> Row:
    try:
        works, detail = ask(paths)
    except NetplaneError as error:
        works, detail = False, str(error)
    return {"part": part, "state": "works" if works else "broken", "detail": detail}


def _daemons(paths: Paths) -> tuple[bool, str]:
    from netplane.node.supervise import control as supervisor

    daemons = supervisor.ask(paths.supervise_socket, {"op": "status"})["daemons"]
    detail = ", ".join(f"{daemon['name']} {daemon['state']}" for daemon in daemons)
    return all(daemon["state"] == "running" for daemon in daemons), detail


def _cni(paths: Paths) -> tuple[bool, str]:
    from cni.client import status as ask

    found = ask(paths.root)
    return found.running, found.reason or f"attachments: {sum(found.attachments.values())}"


def _proxy(paths: Paths) -> tuple[bool, str]:
    from proxy.userspace import observe

    try:
        found = observe.ask(paths.proxy_socket, "status")
    except PeerError as error:
        return False, f"{error}{_goes_on()}"
    silent = found.get("apiSilentSeconds")
    routing = f" (host routing {found['hostRouting']})" if found.get("hostRouting") else ""
    detail = f"{found['mode']}{routing}, {found['frontends']} frontends, {found['flows']} flows"
    detail += f", revision {found['revision']}"
    heard = "not yet since it was started" if silent is None else f"{silent:.0f} s ago"
    detail += f", heard of the API server {heard}"
    if interpreted := found.get("interpreted"):
        detail += f", in plain Python ({interpreted})"
    problems = [*found.get("problems", []), *found.get("unserved", [])]
    return not problems, "; ".join([detail, *map(str, problems)])


def _goes_on() -> str:
    """What the kernel forwards with no proxy running."""
    from proxy.nftables import observe as table

    try:
        number = table.count()
    except KernelError:
        return ""
    return f"; the kernel goes on forwarding {number} frontends" if number else ""
