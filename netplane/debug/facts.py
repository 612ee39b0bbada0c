"""What is asked of a node, and what it says: plain values that cross between nodes as JSON.

Every answer is either seen, or absent with the reason: "not observed" is never "dropped". Field names are single
words because the same dataclasses are read back by ``netplane.config.parse``, which names what does not fit.
"""

from dataclasses import asdict, dataclass, field

import orjson

from netplane.config import parse
from netplane.errors import PeerError


@dataclass(frozen=True, slots=True)
class Lookup:
    """A routing question. ``namespace``: the pod (address) to ask it in, "" for the node itself.

    ``arriving``: the packet comes in from the device towards this address ("" for the asker's own packets).
    """

    to: str
    source: str = ""
    namespace: str = ""
    arriving: str = ""
    mark: int = 0

    @property
    def key(self) -> str:
        """Names the question in the answers."""
        return f"{self.namespace}|{self.to}|{self.source}|{self.arriving}|{self.mark}"


@dataclass(frozen=True, slots=True)
class Request:
    """All that one node is asked.

    ``pods``: addresses to find here; ``ports``: whose listeners to name; ``frontends``: ``address:port/tcp|inside``
    (or ``/udp``; ``|outside``: for which clients) to ask the node's proxy about.
    """

    pods: tuple[str, ...] = ()
    lookups: tuple[Lookup, ...] = ()
    ports: tuple[int, ...] = ()
    frontends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """What the kernel's routing says. ``error``: its refusal, and then nothing else is set."""

    kind: str = ""
    device: str = ""
    gateway: str = ""
    network: str = ""
    protocol: int = 0
    table: int = 0
    error: str = ""

    @property
    def local(self) -> bool:
        """Whether packets end in this namespace."""
        return self.kind == "local"

    def __str__(self) -> str:
        if self.error:
            return self.error
        via = f" via {self.gateway}" if self.gateway else ""
        local = "local " if self.local else ""
        owner = f" proto {self.protocol}" if self.protocol > 4 else ""
        return f"{local}{self.network}{via} dev {self.device}{owner}"


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes connections, or datagrams from anybody; ``process`` is "" where no visible one has it."""

    address: str
    port: int
    process: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's attachment as this node's kernel has it. ``device``: the host's end of its link, "" without one.

    ``short``: packets between it and others of its node that are short, too, go past the host's stack.
    """

    device: str = ""
    routed: bool = False
    up: bool = False
    namespace: int = 0
    listeners: tuple[Listener, ...] = ()
    short: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The proxy's nft rules that matter to one connection, found or missing.

    ``translates``: the kernel itself translates connections to Services, so there is no relay in their way.
    """

    table: bool = False
    guard: bool = False
    divert: bool = False
    translates: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """One node's answers. ``problems``: what could not be looked at, by topic, and why.

    ``targets``: for each frontend asked for and known to the node's proxy, the endpoints it picks from.
    ``translations``: the same by the maps of the nft table of Services; ``told``: by those of the socket hooks.
    """

    node: str
    pods: dict[str, Pod] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    rules: Rules | None = None
    forwarding: bool | None = None
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    translations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    told: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def route(self, lookup: Lookup) -> Route | None:
        """The answer to a question, None where it was not asked or could not be."""
        return self.routes.get(lookup.key)


def encode(value: Request | Facts) -> bytes:
    """JSON for the other side."""
    return orjson.dumps(asdict(value))


def decode_request(data: bytes | str) -> Request:
    """Raises ConfigError naming the field that does not fit, PeerError where it is not JSON."""
    return parse(Request, _document(data), "request")


def decode_facts(data: bytes | str, node: str) -> Facts:
    """Raises ConfigError naming the field that does not fit, PeerError where it is not JSON."""
    return parse(Facts, {**_document(data), "node": node}, f"facts of {node}")


def _document(data: bytes | str) -> dict[str, object]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise PeerError(f"cannot read a node's answer: {error}") from None
    if not isinstance(document, dict):
        raise PeerError("cannot read a node's answer: it is not an object")
    return document
