"""What runs containers: the Protocol between a pod's worker and a runtime.

A runtime knows sandboxes and containers, nothing of the API, of networks or of restarts. Everything it is asked can be
asked again after the agent was killed: a runtime keeps no state of its own that is not in the sandboxes.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from netplane.kube.objects import Object
from netplane.linux.cgroups import Limits


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the node, shown in a pod at ``target``."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """A pod's surroundings. ``pod`` is kept with the sandbox, so that it can be tended while the API is away."""

    sandbox_id: str  # also the CNI container id
    pod: Object
    hostname: str
    hosts: str  # text of /etc/hosts
    resolv_conf: str  # text of /etc/resolv.conf
    host_network: bool = False
    mounts: Sequence[Mount] = ()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One attempt at running a container; ``attempt`` counts from 0."""

    name: str
    attempt: int
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    log: Path
    limits: Limits = field(default_factory=Limits)
    uid: int | None = None
    gid: int | None = None
    stdin: bool = False
    stdin_once: bool = False  # stdin is for the first one who attaches, and ends with that one
    tty: bool = False


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What a container does. Times are wall clock nanoseconds; ``exit_code`` is None while it runs."""

    name: str
    attempt: int
    started: int
    finished: int = 0
    exit_code: int | None = None
    signal: int = 0
    reason: str = ""  # for an end: Completed, Error, OOMKilled, StartError, ContainerStatusUnknown
    message: str = ""

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command inside a container ended; ``output`` is both streams, cut at a limit."""

    exit_code: int
    output: bytes


class Process(Protocol):
    """A command under way, or a container attached to. Descriptors are ours, non-blocking; None where there is none."""

    @property
    def stdin(self) -> int | None:
        """To write to."""

    @property
    def stdout(self) -> int:
        """To read from; of a terminal, both streams."""

    @property
    def stderr(self) -> int | None:
        """To read from."""

    def close_stdin(self) -> None:
        """All has been said."""

    def resize(self, columns: int, rows: int) -> None:
        """The size of its terminal, if it has one."""

    async def ended(self) -> int:
        """Its exit code, once it has ended. Raises PeerError when its sandbox goes first."""


class Sandbox(Protocol):
    """A pod's surroundings, alive or ended."""

    @property
    def sandbox_id(self) -> str:
        """The id it was created with."""

    @property
    def pod(self) -> Object:
        """The pod it was created for."""

    @property
    def alive(self) -> bool:
        """False once everything in it is gone."""

    @property
    def netns(self) -> str:
        """The path of its network namespace; "" when it is not alive."""

    def watch(self) -> AsyncGenerator[Mapping[str, ContainerState], None]:
        """The containers' newest states by name: now, and after every change; ends when the sandbox does."""

    def set_hosts(self, text: str) -> None:
        """Replace the text of the pod's /etc/hosts."""

    async def start(self, spec: ContainerSpec) -> None:
        """Start a container. Raises StartError when its program cannot be executed."""

    async def signal(self, container: str, number: int, *, everything: bool = False) -> None:
        """Send a signal to the main process, or to all processes of the container."""

    async def execute(self, container: str, argv: Sequence[str], *, timeout: float) -> ExecResult:
        """Run a command inside. Raises TimeoutError after killing it."""

    def executing(
        self, container: str, argv: Sequence[str], *, stdin: bool, tty: bool
    ) -> AbstractAsyncContextManager[Process]:
        """Run a command inside, and kill it if it still runs at the end. Raises PeerError when it cannot be run."""

    def attached(self, container: str, *, stdin: bool) -> AbstractAsyncContextManager[Process]:
        """The container's own streams from now on. Raises PeerError when it does not run."""

    async def remove(self) -> None:
        """End all that is in it and leave nothing of it. Repeating is fine."""


class Runtime(Protocol):
    """Makes sandboxes and finds them again."""

    name: str

    def refusals(self, pod: Object) -> list[str]:
        """What the pod asks for that this runtime does not serve, each naming its field."""

    def missing_image(self, container: Object) -> str:
        """Why the container's image cannot be used; "" when it can."""

    def command(self, container: Object) -> tuple[list[str], Mapping[str, str]]:
        """The default argv of the image (without the container's args), and the environment it brings."""

    async def adopt(self) -> Sequence[Sandbox]:
        """All sandboxes of this node, also those that earlier agents made, also those that have ended."""

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make a sandbox. Raises KernelError; nothing is left then."""
