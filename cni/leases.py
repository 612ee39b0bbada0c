"""Which attachment holds which address, durably: the one place that must be right after a power cut.

A row is written and on the disk (`reserving`) before the kernel is touched, becomes `live` when all of it is
done, and `deleting` before anything is taken away; it goes last. So whatever is in the kernel is in a row, and
what a crash left is undone from the row at the next start. Two attachments cannot hold one address: the
schema says so, not only the code.

Giving an address waits for the disk. The later states do not: a killed process loses nothing that it wrote, and
after a power cut every row is of another boot, and freed.

This process is the only writer, so what is read is a copy in memory. Writes of many threads that come together are
one transaction, and one wait for the disk.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import orjson

from cni import bandwidth, ipam, ports
from cni.bursts import Bursts
from cni.errors import CniError, Code
from cni.ipam import Pool
from cni.lease import Lease, State, Terms
from cni.ports import PortMapping
from cni.protocol import Attachment
from netplane.config import IPAddress, IPNetwork

Operation = Callable[[sqlite3.Connection], Any]
_SCHEMA_VERSION = 4
_LOG_PAGES = 1100  # SQLite begins it anew after 1000
_SCHEMA = """
CREATE TABLE attachment (
    id INTEGER PRIMARY KEY,
    network TEXT NOT NULL,
    container_id TEXT NOT NULL,
    ifname TEXT NOT NULL,
    link TEXT NOT NULL UNIQUE,
    netns TEXT NOT NULL,
    netns_inode TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    mtu INTEGER NOT NULL,
    exclude TEXT,
    ports TEXT NOT NULL DEFAULT '[]',
    mac TEXT,
    bandwidth TEXT NOT NULL DEFAULT '{}',
    state TEXT NOT NULL CHECK (state IN ('reserving', 'live', 'deleting')),
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    UNIQUE (network, container_id, ifname)
);
CREATE TABLE address (
    address TEXT PRIMARY KEY,
    attachment INTEGER NOT NULL REFERENCES attachment (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX address_attachment ON address (attachment);
CREATE TABLE last_given (pool TEXT PRIMARY KEY, address TEXT NOT NULL) WITHOUT ROWID;
"""
_MIGRATIONS = {  # from this version on
    1: "ALTER TABLE attachment ADD COLUMN ports TEXT NOT NULL DEFAULT '[]';",
    2: "ALTER TABLE attachment ADD COLUMN mac TEXT;",
    3: "ALTER TABLE attachment ADD COLUMN bandwidth TEXT NOT NULL DEFAULT '{}';",
}
_SELECT = (
    "SELECT network, container_id, ifname, link, netns, netns_inode, boot_id, mtu, exclude, ports, mac, bandwidth,"
    " state, created,"
    " (SELECT group_concat(address) FROM address WHERE attachment = attachment.id) FROM attachment"
)
_IDENTITY = " WHERE network = ? AND container_id = ? AND ifname = ?"


class Leases:
    """The store. One writer; any thread may call. Raises CniError STORE where the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bursts = Bursts(self._commit)
        self._waits = True
        with self._refusals("open"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()
            self._grow_log()
            self._db.execute("PRAGMA synchronous = FULL")
            rows = [_lease(row) for row in self._db.execute(_SELECT + " ORDER BY id")]
            self._rows = {lease.attachment: lease for lease in rows}
            self._in_use = {ip_address(row[0]) for row in self._db.execute("SELECT address FROM address")}
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
        given: list[IPAddress] = []
        before = {pool.key: self._last.get(pool.key) for pool in pools}

        def insert(db: sqlite3.Connection) -> Lease:
            if attachment in self._rows:
                raise CniError(Code.ALREADY_ATTACHED, f"cannot attach {attachment}: it is attached already")
            taken = (mapping for lease in self._rows.values() for mapping in lease.terms.ports)
            if pair := terms.ports and ports.conflict(terms.ports, taken):
                cause = f"port {pair[0]} of the node is taken ({pair[1]})"
                raise CniError(Code.PORT_TAKEN, f"cannot attach {attachment}: {cause}")
            for pool in pools:
                address = next((address for address in wanted if address in pool), None)
                if address is None:
                    address = ipam.choose(pool, self._in_use, self._last.get(pool.key))
                    self._last[pool.key] = address
                    db.execute("INSERT OR REPLACE INTO last_given VALUES (?, ?)", (pool.key, str(address)))
                elif address in self._in_use:
                    cause = f"the address {address} that was asked for is in use"
                    raise CniError(Code.ADDRESS_TAKEN, f"cannot attach {attachment}: {cause}")
                self._in_use.add(address)
                given.append(address)
            lease = Lease(attachment, tuple(given), terms)
            return replace(lease, created=_insert(db, lease))

        try:
            lease: Lease = self._bursts((insert, True))
        except BaseException:
            self._in_use.difference_update(given)
            for pool, address in zip(pools, given, strict=False):
                if self._last.get(pool.key) == address:  # nobody came after us
                    self._last[pool.key] = before[pool.key]
            raise
        self._rows[attachment] = lease
        return lease

    def confirm(self, attachment: Attachment) -> None:
        """Everything is made: `live`."""
        self._set_state(attachment, State.LIVE)

    def begin_release(self, attachment: Attachment) -> Lease | None:
        """Mark `deleting` before anything is taken away; None where there is no such attachment."""
        return self._set_state(attachment, State.DELETING)

    def release(self, attachment: Attachment) -> None:
        """Nothing of it is left in the kernel: forget it and free its addresses. Idempotent."""
        lease = self._rows.get(attachment)
        if lease is None:
            return
        self._write("DELETE FROM attachment" + _IDENTITY, _identity(attachment))
        del self._rows[attachment]
        self._in_use.difference_update(lease.addresses)

    def get(self, attachment: Attachment) -> Lease | None:
        """The row of an attachment."""
        return self._rows.get(attachment)

    def all(self) -> list[Lease]:
        """Every row, in the order they were made."""
        return list(self._rows.values())

    def free(self, pool: Pool) -> bool:
        """Whether ``pool`` has an address to give."""
        return any(address not in self._in_use for address in ipam.candidates(pool, None))

    def close(self) -> None:
        """Close the store; what is written stays."""
        self._db.close()

    def _set_state(self, attachment: Attachment, state: State) -> Lease | None:
        lease = self._rows.get(attachment)
        if lease is None:
            return None
        self._write("UPDATE attachment SET state = ?" + _IDENTITY, (state, *_identity(attachment)))
        self._rows[attachment] = replace(lease, state=state)
        return lease

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_SCHEMA_VERSION};COMMIT;")
            return
        while version in _MIGRATIONS:
            script = f"BEGIN;{_MIGRATIONS[version]}PRAGMA user_version = {version + 1};COMMIT;"
            self._db.executescript(script)
            version += 1
        if version != _SCHEMA_VERSION:
            raise CniError(
                Code.STORE,
                f"cannot use {self._path}: it is of version {version}, this netplane writes {_SCHEMA_VERSION}",
                "Run the netplane that wrote it, or drain the node and remove the file",
            )

    def _grow_log(self) -> None:
        """Make the log as long as it gets, and begin it anew: to wait for a file that does not grow takes half as
        long (0.14 instead of 0.26 ms at the median, and far less while others write to the disk).
        """
        self._db.execute("PRAGMA synchronous = OFF")
        for number in range(_LOG_PAGES):
            self._db.execute(f"PRAGMA application_id = {number}")
        self._db.execute("PRAGMA wal_checkpoint(RESTART)")

    def _write(self, sql: str, values: tuple[str, ...]) -> None:
        """A statement that does not wait for the disk."""
        self._bursts((lambda db: db.execute(sql, values), False))

    def _commit(self, burst: Sequence[tuple[Operation, bool]]) -> list[Any]:
        """One transaction, but for the operations that failed; on the disk where one is to wait for that."""
        operations = [operation for operation, _ in burst]
        with self._refusals("write"):
            self._wait_for_the_disk(any(waits for _, waits in burst))
            self._db.execute("BEGIN IMMEDIATE")
            try:
                outcomes = [self._attempt(operation) for operation in operations]
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return outcomes

    def _wait_for_the_disk(self, waits: bool) -> None:
        """SQLite: with FULL every commit waits, with NORMAL the log's next check point does."""
        if waits is not self._waits:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if waits else 'NORMAL'}")
            self._waits = waits

    def _attempt(self, operation: Operation) -> Any:
        """Its result, or the failure that left nothing of it. Raises where the whole transaction is lost."""
        self._db.execute("SAVEPOINT operation")
        outcome: Any
        try:
            outcome = operation(self._db)
        except CniError as error:
            self._db.execute("ROLLBACK TO operation")
            outcome = error
        self._db.execute("RELEASE operation")
        return outcome

    @contextmanager
    def _refusals(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise CniError(Code.STORE, f"cannot {action} {self._path}: {error}") from error


def _insert(db: sqlite3.Connection, lease: Lease) -> str:
    """Write a new row down; when it was made comes back."""
    terms = lease.terms
    exclude = None if terms.exclude is None else _exclude(terms.exclude)
    mapped = orjson.dumps([mapping.as_plain() for mapping in terms.ports]).decode()
    shaped = orjson.dumps(terms.bandwidth.as_plain() if terms.bandwidth is not None else {}).decode()
    values = (*_identity(lease.attachment), terms.link, terms.netns, terms.netns_inode, terms.boot_id)
    made: tuple[int, str] = db.execute(
        "INSERT INTO attachment (network, container_id, ifname, link, netns, netns_inode, boot_id,"
        " mtu, exclude, ports, mac, bandwidth, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " RETURNING id, created",
        (*values, terms.mtu, exclude, mapped, terms.mac, shaped, lease.state),
    ).fetchone()
    db.executemany("INSERT INTO address VALUES (?, ?)", [(str(a), made[0]) for a in lease.addresses])
    return made[1]


def read(path: Path) -> list[Lease]:
    """Every lease of a node, without its daemon and without writing: for tools that look.

    A store that is not there, or not yet made, is one without leases. Raises CniError STORE where it cannot be read.
    """
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _SCHEMA_VERSION):
                hint = "Its daemon writes another version: restart it"
                raise CniError(Code.STORE, f"cannot read {path}: it is of version {version}", hint)
            return [] if version == 0 else [_lease(row) for row in db.execute(_SELECT + " ORDER BY id")]
    except sqlite3.Error as error:
        raise CniError(Code.STORE, f"cannot read {path}: {error}") from error


def store_path(state: Path) -> Path:
    """Where the leases are, below a node's state directory (``Paths.state``)."""
    return state / "cni" / "leases.sqlite"


def _identity(attachment: Attachment) -> tuple[str, str, str]:
    return attachment.network, attachment.container_id, attachment.ifname


def _lease(row: tuple[str | int | None, ...]) -> Lease:
    network, container_id, ifname, link, netns, inode, boot_id, mtu, exclude, *rest = row
    mapped, mac, shaped, state, created, addresses = rest
    networks = None if exclude is None else tuple(ip_network(text) for text in orjson.loads(str(exclude)))
    identity = (str(link), str(netns), str(inode), str(boot_id))
    asked = (
        _ports(str(mapped)),
        str(mac) if mac is not None else None,
        bandwidth.parse(orjson.loads(str(shaped))),
    )
    terms = Terms(*identity, int(str(mtu)), networks, *asked)
    held = sorted((ip_address(text) for text in str(addresses or "").split(",") if text), key=_by_family)
    attachment = Attachment(str(network), str(container_id), str(ifname))
    return Lease(attachment, tuple(held), terms, State(str(state)), str(created))


@lru_cache(maxsize=64)
def _exclude(networks: tuple[IPNetwork, ...]) -> str:
    return orjson.dumps([str(network) for network in networks]).decode()


def _ports(text: str) -> tuple[PortMapping, ...]:
    return tuple(mapping for entry in orjson.loads(text) if (mapping := ports.parse(entry)) is not None)


def _by_family(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)
