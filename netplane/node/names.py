"""The name files of a pod: its /etc/hosts and /etc/resolv.conf. Pure.

Source: Kubernetes documentation, "DNS for Services and Pods" and "Adding entries to Pod /etc/hosts".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from netplane.kube.objects import Object, name_of, namespace_of

MAX_NAMESERVERS = 3  # the resolver's own limit


@dataclass(frozen=True, slots=True)
class Dns:
    """The cluster's DNS servers and zone."""

    servers: Sequence[str]
    zone: str


def hostname(pod: Object) -> str:
    """`spec.hostname`, else the pod's name; the kernel takes 63 characters."""
    spec = pod.get("spec") or {}
    return str(spec.get("hostname") or name_of(pod))[:63].rstrip("-.")


def hosts(pod: Object, addresses: Sequence[str], zone: str) -> str:
    """The text of /etc/hosts; ``addresses`` is empty until the pod has one."""
    spec = pod.get("spec") or {}
    own = hostname(pod)
    if subdomain := spec.get("subdomain"):
        own = f"{own}.{subdomain}.{namespace_of(pod)}.svc.{zone} {own}"
    lines = [
        "# Managed by netplane.",
        "127.0.0.1 localhost",
        "::1 localhost ip6-localhost ip6-loopback",
        *(f"{address} {own}" for address in addresses),
    ]
    aliases = spec.get("hostAliases") or []
    lines += [f"{alias.get('ip')} {' '.join(alias.get('hostnames') or [])}" for alias in aliases]
    return "\n".join(lines) + "\n"


def resolv_conf(pod: Object, dns: Dns, node_text: str) -> str:
    """The text of /etc/resolv.conf by `dnsPolicy` and `dnsConfig`; ``node_text`` is the node's own file."""
    spec = pod.get("spec") or {}
    policy = str(spec.get("dnsPolicy") or "ClusterFirst")
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    servers, search, options = _parse(node_text)
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet"):
        servers = list(dns.servers)
        search = [f"{namespace_of(pod)}.svc.{dns.zone}", f"svc.{dns.zone}", dns.zone, *search]
        options = ["ndots:5"]
    elif policy == "None":
        servers, search, options = [], [], []
    config = spec.get("dnsConfig") or {}
    servers = _unique([*servers, *(config.get("nameservers") or [])])[:MAX_NAMESERVERS]
    search = _unique([*search, *(config.get("searches") or [])])
    wanted = [_option(option) for option in config.get("options") or []]
    named = {option.partition(":")[0] for option in wanted}
    options = [*(option for option in options if option.partition(":")[0] not in named), *wanted]
    lines = [f"nameserver {server}" for server in servers]
    if search:
        lines.append("search " + " ".join(search))
    if options:
        lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def _option(raw: dict[str, str]) -> str:
    return f"{raw['name']}:{raw['value']}" if raw.get("value") else str(raw["name"])


def _unique(items: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _parse(text: str) -> tuple[list[str], list[str], list[str]]:
    """Nameservers, search domains and options of a resolv.conf; the last `search` wins. Source: resolv.conf(5)."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        key, *values = line.split("#")[0].split() or [""]
        if key == "nameserver" and values:
            servers.append(values[0])
        elif key in ("search", "domain"):
            search = [domain for domain in values if domain != "."]
        elif key == "options":
            options += values
    return servers, search, options
