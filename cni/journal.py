"""DELs that were answered while the daemon was down: one durable file each, until the daemon has done it.

A runtime forgets a container once its DEL has succeeded. So success is said only when the promise is on the
disk; the daemon keeps it at its next start, before it answers anything. One file an attachment: a DEL that is
repeated is the same promise.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from cni.protocol import Attachment
from netplane.errors import NetplaneError

_SUFFIX = ".json"
log = logging.getLogger(__name__)


def journal_path(state: Path) -> Path:
    """Where promises are, below a node's state directory (``Paths.state``)."""
    return state / "cni" / "journal"


@dataclass(frozen=True, slots=True)
class Journal:
    """A directory of promises. Any process may write one; the daemon keeps them."""

    directory: Path

    def write(self, attachment: Attachment) -> None:
        """On the disk when this returns. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(attachment)
        staged = path.with_suffix(f".{os.getpid()}")
        try:
            with staged.open("wb") as file:
                file.write(orjson.dumps(asdict(attachment)))
                file.flush()
                os.fsync(file.fileno())
            staged.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
            raise
        self._sync()

    def has(self, attachment: Attachment) -> bool:
        """Whether a promise about ``attachment`` is still to be kept."""
        return os.access(f"{self.directory}/{_name(attachment)}", os.F_OK)  # asked in every ADD

    def forget(self, attachment: Attachment) -> None:
        """The promise is kept. Durability does not matter: keeping it twice is harmless until an ADD, which asks."""
        with contextlib.suppress(OSError):
            self._path(attachment).unlink()

    def keep(self, delete: Callable[[Attachment], None]) -> tuple[list[str], list[str]]:
        """Do every promised DEL; (done, failed and why). What failed stays for the next time."""
        done: list[str] = []
        failed: list[str] = []
        for path, attachment in self._promises():
            try:
                delete(attachment)
                path.unlink(missing_ok=True)
            except (NetplaneError, OSError) as error:
                failed.append(f"{attachment}: {error}")
            else:
                done.append(str(attachment))
        return done, failed

    def _promises(self) -> Iterator[tuple[Path, Attachment]]:
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            try:
                yield path, Attachment(**orjson.loads(path.read_bytes()))
            except (OSError, orjson.JSONDecodeError, TypeError) as error:
                log.warning("cannot read the promised DEL %s: %s", path, error)

    def _path(self, attachment: Attachment) -> Path:
        return self.directory / _name(attachment)

    def _sync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _name(attachment: Attachment) -> str:
    return f"{attachment.digest()[:32]}{_SUFFIX}"
