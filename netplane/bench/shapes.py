"""What kube-proxy would have loaded for the same Services: the rulesets that netplane's kernel modes are held to.

Why shapes and not kube-proxy itself: Debian has no package of it. The rules are those that its iptables and nftables
modes write (kubernetes.io: Virtual IPs; pkg/proxy/nftables/README.md): chains a Service and an endpoint, the mark to
masquerade, the checks for Services without endpoints. Comments on rules are left out: they cost nothing a packet.
"""

from collections.abc import Iterator

from netplane.bench.place import Services

PODS = "10.244.0.0/16"


def iptables(services: Services) -> str:
    """A file for ``iptables-restore``."""
    return "\n".join([*_nat(services), *_filter(), ""])


def _nat(services: Services) -> Iterator[str]:
    yield "*nat"
    chains = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"]
    for number, endpoints in enumerate(services.values()):
        chains += [f"KUBE-SVC-{number}", *(f"KUBE-SEP-{number}-{index}" for index in range(len(endpoints)))]
    yield from (f":{chain} - [0:0]" for chain in chains)
    for hook, chain in (("PREROUTING", "SERVICES"), ("OUTPUT", "SERVICES"), ("POSTROUTING", "POSTROUTING")):
        yield f"-A {hook} -j KUBE-{chain}"
    yield "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000"
    yield "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN"
    yield "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000"
    yield "-A KUBE-POSTROUTING -j MASQUERADE --random-fully"
    for number, ((address, port), endpoints) in enumerate(services.items()):
        at = f"-d {address}/32 -p tcp -m tcp --dport {port}"
        yield f"-A KUBE-SERVICES {at} -j KUBE-SVC-{number}"
        yield f"-A KUBE-SVC-{number} ! -s {PODS} {at} -j KUBE-MARK-MASQ"
        for index, (endpoint, served) in enumerate(endpoints):
            left = len(endpoints) - index
            chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
            yield f"-A KUBE-SVC-{number} {chance}-j KUBE-SEP-{number}-{index}"
            yield f"-A KUBE-SEP-{number}-{index} -s {endpoint}/32 -j KUBE-MARK-MASQ"
            yield f"-A KUBE-SEP-{number}-{index} -p tcp -m tcp -j DNAT --to-destination {endpoint}:{served}"
    yield "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
    yield "COMMIT"


def _filter() -> Iterator[str]:
    yield "*filter"
    for chain in ("EXTERNAL-SERVICES", "FORWARD", "PROXY-FIREWALL", "SERVICES"):
        yield f":KUBE-{chain} - [0:0]"
    new = "-m conntrack --ctstate NEW"
    for hook, chains in (
        ("INPUT", ("PROXY-FIREWALL", "EXTERNAL-SERVICES")),
        ("FORWARD", ("PROXY-FIREWALL", "SERVICES", "EXTERNAL-SERVICES")),
        ("OUTPUT", ("PROXY-FIREWALL", "SERVICES")),
    ):
        yield from (f"-A {hook} {new} -j KUBE-{chain}" for chain in chains)
    yield "-A FORWARD -j KUBE-FORWARD"
    yield "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT"
    yield "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    yield "COMMIT"


_FRAME = """
table ip kube-proxy {
  set cluster-ips { type ipv4_addr; }
  set nodeport-ips { type ipv4_addr; }
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map service-nodeports { type inet_proto . inet_service : verdict; }
  map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
  chain cluster-ips-check {
    ip daddr @cluster-ips reject
    ip daddr { 10.96.0.0/12 } drop
  }
  chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
  chain nodeport-endpoints-check {
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }
  chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading {
    meta mark & 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain services {
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }
  chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
  chain filter-input {
    type filter hook input priority -110
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }
  chain filter-forward {
    type filter hook forward priority -110
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority -110
    ct state new jump service-endpoints-check
    ct state new jump firewall-check
  }
  chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump cluster-ips-check; }
  chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
"""


def nftables(services: Services) -> str:
    """A file for ``nft -f``."""
    lines = [_FRAME]
    addresses = sorted({address for address, _ in services})
    keys = []
    for number, ((address, port), endpoints) in enumerate(services.items()):
        chains = [f"endpoint-{number}-{index}" for index in range(len(endpoints))]
        for chain, (endpoint, served) in zip(chains, endpoints, strict=True):
            masquerade = f"ip saddr {endpoint} jump mark-for-masquerade"
            lines.append(f"chain {chain} {{ {masquerade}; meta l4proto tcp dnat to {endpoint}:{served}; }}")
        outside = f"ip daddr {address} tcp dport {port} ip saddr != {PODS} jump mark-for-masquerade"
        turns = ", ".join(f"{index} : goto {chain}" for index, chain in enumerate(chains))
        lines.append(
            f"chain service-{number} {{ {outside}; numgen random mod {len(chains)} vmap {{ {turns} }}; }}"
        )
        keys.append(f"{address} . tcp . {port} : goto service-{number}")
    lines.append("}")
    lines.append(f"add element ip kube-proxy cluster-ips {{ {', '.join(addresses)} }}")
    lines.append(f"add element ip kube-proxy service-ips {{ {', '.join(keys)} }}")
    return "\n".join(lines)
