"""What nftables mode needs of a kernel, tried in a network namespace of its own: nothing of the node is touched."""

import threading
from ipaddress import ip_address, ip_network

from netplane.errors import KernelError
from netplane.linux import nft
from netplane.linux.namespaces import CLONE_NEWNET, unshare
from netplane.linux.nfnetlink import Tables
from proxy.model import NodeFacts
from proxy.nftables import ruleset
from proxy.nftables.choosing import rules_of
from proxy.nftables.names import FAMILY, TABLE, Kind, Learn, Pick

_ANY = NodeFacts(
    "probe",
    (ip_address("192.0.2.1"), ip_address("2001:db8::1")),
    cluster_cidrs=(ip_network("198.51.100.0/24"), ip_network("2001:db8:1::/64")),
)


def check() -> None:
    """Raises KernelError naming what is missing. Blocking."""
    failed: list[KernelError] = []

    def attempt() -> None:
        try:
            unshare(CLONE_NEWNET)
            nft.apply(f"{ruleset.declare()}\n{ruleset.frame(_ANY)}")
            chains = [
                made for v in (4, 6) for made in (Pick(Kind.SERVICE, v, 2, True), Learn(Kind.SERVICE, v, 60))
            ]
            with Tables() as tables:
                tables.change(FAMILY, TABLE, (), map(rules_of, chains))
        except KernelError as error:
            failed.append(error)
        except OSError as error:
            failed.append(KernelError(f"cannot make a network namespace to try it: {error.strerror}"))

    # A thread of its own: it ends with the namespace it unshared.
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    if failed:
        raise KernelError(f"cannot use nftables mode: {failed[0].message}", "Linux 5.15 has all of it")
