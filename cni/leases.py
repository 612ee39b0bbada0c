"""Which attachment holds which address, durably: the one place that must be right after a power cut.

A row is written (`reserving`) before the kernel is touched, is on the disk before the ADD is answered, becomes `live`
when all of it is done, and `deleting` before anything is taken away; it goes last. So whatever is in the kernel is in
a row, and what a crash left is undone from the row at the next start.

Giving an address waits for the disk (``confirm``), beside the work in the kernel: what a killed process wrote is
not lost, and after a power cut nothing of that work is left either, and every row is of another boot, and freed. The
later states do not wait, for the same reason.

This process is the only writer, so what is read is a copy in memory. Writes of many threads that come together are
one transaction, and one wait for the disk.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cni import ipam, ports, rows
from cni.bursts import Bursts
from cni.disk import Disk
from cni.errors import CniError, Code
from cni.ipam import Pool
from cni.lease import Lease, State, Terms
from cni.ports import PortMapping
from cni.protocol import Attachment
from netplane.config import IPAddress

Operation = Callable[[sqlite3.Connection], Any]
_LOG_PAGES = 1100  # SQLite begins it anew after 1000


@dataclass(slots=True)
class _Row:
    """A lease, the number of its row, and what to ``Disk.wait`` for."""

    lease: Lease
    number: int = 0
    written: int | None = None


class Leases:
    """The store. One writer; any thread may call. Raises CniError STORE where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bursts = Bursts(self._commit)
        self._rows: dict[Attachment, _Row] = {}
        self._in_use: set[IPAddress] = set()
        self._ports: dict[tuple[str, int], list[PortMapping]] = {}
        with self._refusals("open"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._inspect()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._migrate()
            self._grow_log()
            self._db.execute("PRAGMA synchronous = NORMAL")  # ``Disk`` does what FULL would
            self._disk = Disk(path.with_name(f"{path.name}-wal"))
            for number, lease in rows.leases(self._db):
                self._keep(_Row(lease, number))
            last = self._db.execute("SELECT pool, address FROM last_given")
            self._last: dict[str, IPAddress | None] = {pool: ip_address(text) for pool, text in last}

    def reserve(
        self,
        attachment: Attachment,
        pools: tuple[Pool, ...],
        terms: Terms,
        wanted: Sequence[IPAddress] = (),
    ) -> Lease:
        """Choose one address of each pool and write it down, in state `reserving`, before anything is made.

        An address ``wanted`` is taken before any other of its pool. Raises CniError EXHAUSTED naming the range,
        ADDRESS_TAKEN, PORT_TAKEN or ALREADY_ATTACHED.
        """
        taken: list[tuple[str, IPAddress]] = []
        before = {pool.key: self._last.get(pool.key) for pool in pools}

        def insert(db: sqlite3.Connection) -> _Row:
            if attachment in self._rows:
                raise CniError(Code.ALREADY_ATTACHED, f"cannot attach {attachment}: it is attached already")
            self._check_ports(attachment, terms.ports)
            for pool in pools:
                address = self._choose(attachment, pool, wanted)
                self._in_use.add(address)
                taken.append((pool.key, address))
            row = _Row(Lease(attachment, tuple(a for _, a in taken), terms, created=rows.now()))
            self._keep(row)
            row.number = rows.insert(db, row.lease, taken)
            return row

        try:
            row: _Row = self._bursts(insert)
        except BaseException:
            if taken:
                self._forget(attachment, [address for _, address in taken])
            for key, address in taken:
                if self._last.get(key) == address:  # nobody came after us
                    self._last[key] = before[key]
            raise
        return row.lease

    def sync(self, attachment: Attachment) -> None:
        """Begin to put the row on the disk, for ``confirm`` to wait for: right before the caller is in the kernel for
        long, because it is done by another thread.
        """
        row = self._rows.get(attachment)
        if row is not None:
            row.written = self._disk.ask()

    def confirm(self, attachment: Attachment) -> None:
        """Everything is made, and the row on the disk: `live`."""
        row = self._rows.get(attachment)
        if row is not None:
            with self._refusals("write"):
                self._disk.wait(self._disk.ask() if row.written is None else row.written)
            self._set_state(row, State.LIVE)

    def begin_release(self, attachment: Attachment) -> Lease | None:
        """Mark `deleting` before anything is taken away; None where there is no such attachment."""
        row = self._rows.get(attachment)
        if row is None:
            return None
        self._set_state(row, State.DELETING)
        return row.lease

    def release(self, attachment: Attachment) -> None:
        """Nothing of it is left in the kernel: forget it and free its addresses. Idempotent."""
        row = self._rows.get(attachment)
        if row is None:
            return
        addresses = row.lease.addresses
        self._bursts(partial(rows.delete, number=row.number, addresses=addresses))
        self._forget(attachment, addresses)

    def get(self, attachment: Attachment) -> Lease | None:
        """The row of an attachment."""
        row = self._rows.get(attachment)
        return None if row is None else row.lease

    def all(self) -> list[Lease]:
        """Every row, in the order they were made."""
        return [row.lease for row in list(self._rows.values())]

    def free(self, pool: Pool) -> bool:
        """Whether ``pool`` has an address to give."""
        return any(a not in self._in_use for a in ipam.candidates(pool, self._last.get(pool.key)))

    def probe(self) -> None:
        """Whether the disk takes a write. Raises CniError STORE."""
        with self._refusals("write"):
            self._bursts(lambda db: db.execute("PRAGMA application_id = 0"))
            self._disk.wait(self._disk.ask())

    def close(self) -> None:
        """Close the store; what is written stays."""
        self._disk.close()
        self._db.close()

    # --- in memory ------------------------------------------------------------------------------------------

    def _keep(self, row: _Row) -> None:
        self._rows[row.lease.attachment] = row
        self._in_use.update(row.lease.addresses)
        for port in row.lease.terms.ports:
            self._ports.setdefault((port.protocol, port.host_port), []).append(port)

    def _forget(self, attachment: Attachment, addresses: Iterable[IPAddress]) -> None:
        row = self._rows.pop(attachment, None)
        for port in row.lease.terms.ports if row is not None else ():
            self._ports[port.protocol, port.host_port].remove(port)
        self._in_use.difference_update(addresses)

    def _check_ports(self, attachment: Attachment, wanted: Sequence[PortMapping]) -> None:
        taken = (port for one in wanted for port in self._ports.get((one.protocol, one.host_port), ()))
        if pair := wanted and ports.conflict(wanted, taken):
            cause = f"port {pair[0]} of the node is taken ({pair[1]})"
            raise CniError(Code.PORT_TAKEN, f"cannot attach {attachment}: {cause}")

    def _choose(self, attachment: Attachment, pool: Pool, wanted: Sequence[IPAddress]) -> IPAddress:
        for address in wanted:
            if address not in pool:
                continue
            if address in self._in_use:
                cause = f"the address {address} that was asked for is in use"
                raise CniError(Code.ADDRESS_TAKEN, f"cannot attach {attachment}: {cause}")
            return address
        address = ipam.choose(pool, self._in_use, self._last.get(pool.key))
        self._last[pool.key] = address
        return address

    # --- on the disk ----------------------------------------------------------------------------------------

    def _set_state(self, row: _Row, state: State) -> None:
        self._bursts(rows.SetState(row.number, state))
        lease = row.lease
        row.lease = Lease(lease.attachment, lease.addresses, lease.terms, state, lease.created)

    def _inspect(self) -> None:
        """Before anything is written: a damaged file stays as it is, for whoever can mend it."""
        try:
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise  # one of its kinds: a locked or an unreadable file is not a damaged one
            found = str(error)
        if found != "ok":
            raise CniError(
                Code.STORE,
                f"cannot open {self._path}: it is damaged ({found})",
                "Put back a copy; or drain the node, stop `netplane cni serve` and remove the file",
            )

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(f"BEGIN;{rows.SCHEMA}PRAGMA user_version = {rows.VERSION};COMMIT;")
            return
        while version in rows.MIGRATIONS:
            script = f"BEGIN;{rows.MIGRATIONS[version]}PRAGMA user_version = {version + 1};COMMIT;"
            self._db.executescript(script)
            version += 1
        if version != rows.VERSION:
            raise CniError(
                Code.STORE,
                f"cannot use {self._path}: it is of version {version}, this netplane writes {rows.VERSION}",
                "Run the netplane that wrote it, or drain the node and remove the file",
            )

    def _grow_log(self) -> None:
        """Make the log as long as it gets, and begin it anew: to wait for a file that does not grow takes half as
        long (0.14 instead of 0.26 ms at the median, and far less while others write to the disk). On a disk that is
        nearly full, as long as there is room: what is set aside now can be written to later.
        """
        self._db.execute("PRAGMA synchronous = OFF")
        with suppress(sqlite3.OperationalError):
            for number in range(_LOG_PAGES):
                self._db.execute(f"PRAGMA application_id = {number}")
        # From here on the file is all there is of what was in the log, so it must be on the disk.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA wal_checkpoint(RESTART)")

    def _commit(self, operations: Sequence[Operation]) -> list[Any]:
        """One transaction, but for the operations that failed."""
        with self._refusals("write"):
            if len(operations) == 1 and isinstance(operations[0], rows.SetState):
                return [operations[0](self._db)]
            self._db.execute("BEGIN IMMEDIATE")
            try:
                outcomes = [self._attempt(operation) for operation in operations]
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return outcomes

    def _attempt(self, operation: Operation) -> Any:
        """Its result, or its refusal, which comes before it writes anything. Any other failure is everybody's."""
        try:
            return operation(self._db)
        except CniError as error:
            return error

    @contextmanager
    def _refusals(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise CniError(Code.STORE, f"cannot {action} {self._path}: {error}") from error


def read(path: Path) -> list[Lease]:
    """Every lease of a node, without its daemon and without writing: for tools that look.

    A store that is not there, or not yet made, is one without leases. Raises CniError STORE where it cannot be read.
    """
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, rows.VERSION):
                hint = "Its daemon writes another version: restart it"
                raise CniError(Code.STORE, f"cannot read {path}: it is of version {version}", hint)
            return [] if version == 0 else [lease for _, lease in rows.leases(db)]
    except sqlite3.Error as error:
        raise CniError(Code.STORE, f"cannot read {path}: {error}") from error


def store_path(state: Path) -> Path:
    """Where the leases are, below a node's state directory (``Paths.state``)."""
    return state / "cni" / "leases.sqlite"
