"""The known causes of "my Service does not answer", looked for on this machine and in the API. Changes nothing.

Each check says what it saw. What could not be looked at is said to be so, and is no sign of health. Whether a single
connection arrives, and where it ends, is ``explain``'s to say.
"""

import asyncio
import importlib.metadata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
from cryptography import x509

from netplane.config import CLUSTER_DOMAIN, DNS_ADDRESSES, IPAddress, Paths
from netplane.debug import silent
from netplane.debug.ailments import Finding, of_node, of_others, of_routes, of_services, pod_networks
from netplane.debug.collect import collect
from netplane.debug.facts import Lookup
from netplane.debug.hops import State
from netplane.debug.routing import ask
from netplane.errors import ConfigError, KernelError, NetplaneError, cause_of
from netplane.kube import errors
from netplane.kube.client import Client
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.objects import Object, name_of
from netplane.kube.resources import ENDPOINTSLICES, NODES, PODS, SERVICES, Resource
from netplane.linux import sysctl
from netplane.linux.nfnetlink import Tables
from netplane.linux.rtnl import rtnl

NAMES = ("netplane", "cni", "proxy", "controlplane")  # what our wheel installs, and nobody else may
OTHER_PROXIES = (
    ("ip", "nat", "KUBE-SERVICES"),
    ("ip6", "nat", "KUBE-SERVICES"),
    ("ip", "kube-proxy", "services"),
)
CONFLIST = "10-netplane.conflist"
DNS_SECONDS = 2.0
SOON_DAYS = 7


def machine(paths: Paths) -> Iterator[Finding]:
    """What a node's own files and its kernel say. Blocking."""
    yield from _certificates(paths)
    yield from _owners()
    if not (paths.etc / "node.kubeconfig").exists():
        return
    yield from _settings()
    yield from _other_proxies()
    yield from _network_files(paths)


def names(addresses: Sequence[IPAddress] = DNS_ADDRESSES, domain: str = CLUSTER_DOMAIN) -> Iterator[Finding]:
    """Whether the cluster's DNS answers on this node. Blocking."""
    name = f"kubernetes.default.svc.{domain}"
    question = dns.message.make_query(f"{name}.", "A")
    for address in addresses:
        subject = f"dns {address}"
        try:
            answer = dns.query.udp(question, str(address), timeout=DNS_SECONDS)
        except (dns.exception.DNSException, OSError) as error:
            said = "no answer" if isinstance(error, dns.exception.Timeout) else cause_of(error)
            yield Finding(subject, State.BROKEN, f"cannot ask for {name}: {said}")
            continue
        good = answer.rcode() == dns.rcode.NOERROR and bool(answer.answer)
        said = str(answer.answer[0][0]) if good else dns.rcode.to_text(answer.rcode())
        yield Finding(subject, State.OK if good else State.BROKEN, f"{name} is {said}")


async def cluster(access: Kubeconfig, node: str, root: Path = Path("/")) -> list[Finding]:
    """What the API says of this node (\"\": of none), the others and all Services, and whether this node follows it."""
    try:
        async with Client(access, user_agent="netplane-doctor") as client:
            services, slices, nodes = await asyncio.gather(
                *(_list(client, one) for one in (SERVICES, ENDPOINTSLICES, NODES))
            )
            try:
                pods: Sequence[Object] | None = await _list(client, PODS)
            except errors.StatusError:
                pods = None
    except NetplaneError as error:
        return [Finding("api", State.BROKEN, str(error), "Does the control plane run?")]
    found = [Finding("api", State.OK, f"{access.server} answers")]
    own = next((one for one in nodes if name_of(one) == node), None)
    if node and own is None:
        text = "the API has no such Node"
        found.append(Finding(f"node {node}", State.BROKEN, text, "Does netplane-node run?"))
    found += [*(of_node(own) if own else ()), *of_others(nodes, node)]
    found += [*of_services(services, slices, pods), *silent.of_policies(services, slices, nodes)]
    if own is not None:
        here = silent.locals_of(services, slices, own)
        found += await asyncio.to_thread(lambda: [*routes(nodes, node), *listeners(here, node, root)])
    return found


def routes(nodes: Sequence[Object], own: str) -> Iterator[Finding]:
    """Whether the kernel leads to the other nodes' pods: asked for an address of each. Blocking."""
    networks = [one for node in nodes if name_of(node) != own for one in pod_networks(node)]
    with rtnl() as ipr:
        found = {
            network: ask(ipr, Lookup(to=str(network[min(2, network.num_addresses - 1)])))
            for network in networks
        }
    yield from of_routes(nodes, own, found)


def listeners(endpoints: Sequence[silent.Local], node: str, root: Path) -> Iterator[Finding]:
    """Whether somebody listens at these endpoints of this node. Blocking."""
    yield from silent.of_listeners(endpoints, collect(silent.question(endpoints), node, root))


async def _list(client: Client, resource: Resource) -> Sequence[Object]:
    return (await client.list(resource)).items


def _settings() -> Iterator[Finding]:
    try:
        forwards = sysctl.read("net.ipv4.ip_forward") == "1"
    except KernelError as error:
        yield Finding("kernel", State.UNSEEN, str(error))
        return
    if forwards:
        yield Finding("kernel", State.OK, "forwards packets")
    else:
        yield Finding(
            "kernel",
            State.BROKEN,
            "net.ipv4.ip_forward=0: no pod's packet goes on",
            "netplane cni gc sets it",
        )


def _other_proxies() -> Iterator[Finding]:
    """Two proxies on one node answer for the same addresses."""
    with Tables() as tables:
        for family, table, chain in OTHER_PROXIES:
            try:
                rules = tables.rules(family, table)
            except KernelError as error:
                yield Finding("other proxies", State.UNSEEN, str(error))
                return
            if rules.get(chain):
                text = f"another proxy's rules are here: nft {family} {table} {chain}"
                yield Finding("other proxies", State.BROKEN, text, "kube-proxy --cleanup takes them away")
                return
    yield Finding("other proxies", State.OK, "none")


def _network_files(paths: Paths) -> Iterator[Finding]:
    """Runtimes take the first file of the directory, and start the program that it names."""
    listed = [
        p.name for p in sorted(paths.cni_conf_dir.glob("*")) if p.suffix in (".conf", ".conflist", ".json")
    ]
    if not listed:
        yield Finding(
            "network",
            State.BROKEN,
            f"there is no network in {paths.cni_conf_dir}",
            "The node agent writes it",
        )
    elif listed[0] != CONFLIST:
        text = f"runtimes use {listed[0]}, which comes before {CONFLIST} in {paths.cni_conf_dir}"
        yield Finding("network", State.BROKEN, text, "Remove it, or mean it")
    elif not (program := paths.cni_bin_dir / "netplane").is_file():
        hint = f"netplane cni install {paths.cni_bin_dir}"
        yield Finding("network", State.BROKEN, f"the plugin {program} is not there", hint)
    else:
        yield Finding("network", State.OK, f"{paths.cni_conf_dir / CONFLIST}")


def _certificates(paths: Paths) -> Iterator[Finding]:
    """Of the daemons' kubeconfigs: one that has expired is nobody to the API server."""
    now = datetime.now(UTC)
    ends: dict[Path, datetime] = {}
    for path in sorted(paths.etc.glob("*.kubeconfig")):
        try:
            if certificate := Kubeconfig.load(path).certificate:
                ends[path] = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
        except (ConfigError, ValueError) as error:
            yield Finding(path.name, State.BROKEN, str(error))
    for path, end in ends.items():
        if end <= now:
            yield Finding(
                path.name,
                State.BROKEN,
                f"its certificate expired on {end:%Y-%m-%d}",
                "netplane init makes it anew",
            )
        elif (end - now).days < SOON_DAYS:
            yield Finding(path.name, State.OK, f"its certificate expires on {end:%Y-%m-%d %H:%M} UTC")
    if ends:
        first = min(ends.values())
        yield Finding("certificates", State.OK, f"of {len(ends)} the first expires on {first:%Y-%m-%d}")


def _owners() -> Iterator[Finding]:
    """Our top-level names are plain words: another package of one of them would be imported in our place."""
    owners = importlib.metadata.packages_distributions()
    for name in NAMES:
        others = sorted(set(owners.get(name, ())) - {"netplane"})
        if others:
            text = f"Python package {others[0]} has a top-level module {name}, too"
            yield Finding("installation", State.BROKEN, text, "Give netplane an environment of its own")
