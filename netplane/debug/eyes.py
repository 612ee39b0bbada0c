"""What the walk looks through: it remembers each question, and answers from what the nodes said.

Pure. A walk through eyes that know nothing yields the questions; the same walk with the answers is the judgement.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.config import IPAddress
from netplane.debug.facts import Facts, Listener, Lookup, Pod, Request, Route, Rules


@dataclass(slots=True)
class Eyes:
    """The nodes' answers; remembers every question, so that it can be asked."""

    facts: Mapping[str, Facts]
    pods: dict[str, dict[str, None]] = field(default_factory=dict)
    lookups: dict[str, dict[Lookup, None]] = field(default_factory=dict)
    ports: dict[str, dict[int, None]] = field(default_factory=dict)
    frontends: dict[str, dict[str, None]] = field(default_factory=dict)

    def requests(self) -> dict[str, Request]:
        """What each node has to be asked."""
        nodes = dict.fromkeys((*self.pods, *self.lookups, *self.ports))
        return {
            node: Request(
                tuple(self.pods.get(node, ())),
                tuple(self.lookups.get(node, ())),
                tuple(self.ports.get(node, ())),
                tuple(self.frontends.get(node, ())),
            )
            for node in nodes
            if node
        }

    def route(self, node: str, lookup: Lookup) -> Route | None:
        """The node's (or its pod's) routing decision."""
        self.lookups.setdefault(node, {})[lookup] = None
        if lookup.namespace:
            self.pods.setdefault(node, {})[lookup.namespace] = None
        facts = self.facts.get(node)
        return facts.route(lookup) if facts else None

    def pod(self, node: str, address: IPAddress) -> Pod | None:
        """The pod's attachment on the node."""
        self.pods.setdefault(node, {})[str(address)] = None
        facts = self.facts.get(node)
        return facts.pods.get(str(address)) if facts else None

    def listeners(self, node: str, port: int) -> tuple[Listener, ...] | None:
        """The node's own listeners on a port, of every transport."""
        self.ports.setdefault(node, {})[port] = None
        facts = self.facts.get(node)
        return tuple(found for found in facts.listeners if found.port == port) if facts else None

    def rules(self, node: str) -> Rules | None:
        """The proxy's nft rules on the node."""
        self.lookups.setdefault(node, {})
        facts = self.facts.get(node)
        return facts.rules if facts else None

    def targets(self, node: str, frontend: str) -> tuple[str, ...] | None:
        """The endpoints that the node's proxy picks from; empty where it does not know the frontend."""
        self.frontends.setdefault(node, {})[frontend] = None
        facts = self.facts.get(node)
        return facts.targets.get(frontend, ()) if facts and "proxy" not in facts.problems else None

    def translates(self, node: str) -> bool:
        """Whether the node's kernel translates connections to Services itself."""
        rules = self.rules(node)
        return rules is not None and rules.translates

    def translations(self, node: str, frontend: str) -> tuple[str, ...] | None:
        """The endpoints that the kernel's maps have for a frontend; None where they have no such frontend."""
        self.frontends.setdefault(node, {})[frontend] = None
        facts = self.facts.get(node)
        return facts.translations.get(frontend) if facts else None

    def told(self, node: str, frontend: str) -> tuple[str, ...] | None:
        """The endpoints that sockets of the node are told for a frontend; None where they are told nothing."""
        self.frontends.setdefault(node, {})[frontend] = None
        facts = self.facts.get(node)
        return facts.told.get(frontend) if facts else None

    def forwarding(self, node: str) -> bool | None:
        """Whether the node forwards packets at all."""
        self.lookups.setdefault(node, {})
        facts = self.facts.get(node)
        return facts.forwarding if facts else None

    def why_not(self, node: str) -> str:
        """Why something on this node was not observed."""
        if node not in self.facts:
            return f"node {node} cannot be looked into from here" if node else "outside the cluster"
        return "; ".join(f"{k}: {v}" for k, v in self.facts[node].problems.items()) or "no answer"
