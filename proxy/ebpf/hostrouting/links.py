"""The pods of this node that packets may be handed to, as the kernel has them: address → link. Blocking.

Why the kernel is asked and not the CNI plugin: its routes and links are there whoever is alive, and they are what
packets would follow. A pod is a route to one address, of the plugin's route protocol, that leads to a veth. A link
with a queue limits the pod's bandwidth, and one with filters of others has a wish of its own: neither is gone past.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from netplane.linux import rtmessages, tc
from netplane.linux.rtmessages import EGRESS, INGRESS
from netplane.linux.tc import Place
from proxy.model import IPAddress

POD_ROUTES = 97  # the CNI plugin's route protocol
# In the order in which they come to a link: what reaches a pod is written down before anything leaves it.
PLACES = (Place(EGRESS, "np_to_pod", 97, 97), Place(INGRESS, "np_from_pod", 97, 97))
NAMES = frozenset(place.name for place in PLACES)
_NO_QUEUE = frozenset({"noqueue", "clsact"})


@dataclass(frozen=True, slots=True)
class Links:
    """``pods``: address → link, of the pods whose link may be gone past; ``served``: links where our programs are."""

    pods: Mapping[IPAddress, int]
    served: frozenset[int]


def look() -> Links:
    """The kernel's word on all of them. Raises KernelError."""
    routes = dict(rtmessages.host_routes(POD_ROUTES))
    queues = rtmessages.queues()
    asked = {link: _asked(link, queues.get(link, set())) for link in set(routes.values())}
    plain = {link for link, names in asked.items() if _is_plain(link, queues.get(link, set()), names)}
    return Links(
        {address: link for address, link in routes.items() if link in plain},
        frozenset(link for link, names in asked.items() if names >= NAMES),
    )


def touched() -> list[int]:
    """All links at which any program of ours is. Raises KernelError."""
    return [link for link, kinds in rtmessages.queues().items() if _asked(link, kinds) & NAMES]


def _asked(link: int, kinds: AbstractSet[str]) -> set[str]:
    """The programs and filters at either hook of a link."""
    return {name for place in PLACES for name in tc.programs(link, place.hook, has_clsact="clsact" in kinds)}


def _is_plain(link: int, kinds: AbstractSet[str], names: AbstractSet[str]) -> bool:
    return not kinds - _NO_QUEUE and not names - NAMES and rtmessages.leads_into_a_namespace(link)
