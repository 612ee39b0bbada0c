"""How leases are written down: the schema, its history, and a lease from and to its row.

Two attachments cannot hold one address: the schema says so, not only the code.
"""

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

import orjson

from cni import bandwidth, ports
from cni.lease import Lease, State, Terms
from cni.ports import PortMapping
from cni.protocol import Attachment
from netplane.config import IPAddress, IPNetwork

VERSION = 5
SCHEMA = """
CREATE TABLE attachment (
    id INTEGER PRIMARY KEY,
    network TEXT NOT NULL,
    container_id TEXT NOT NULL,
    ifname TEXT NOT NULL,
    link TEXT NOT NULL,
    netns TEXT NOT NULL,
    netns_inode TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    mtu INTEGER NOT NULL,
    exclude TEXT,
    ports TEXT NOT NULL DEFAULT '[]',
    mac TEXT,
    bandwidth TEXT NOT NULL DEFAULT '{}',
    state TEXT NOT NULL CHECK (state IN ('reserving', 'live', 'deleting')),
    created TEXT NOT NULL,
    UNIQUE (network, container_id, ifname)
);
CREATE TABLE address (address TEXT PRIMARY KEY, attachment INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE last_given (pool TEXT PRIMARY KEY, address TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = (
    "network, container_id, ifname, link, netns, netns_inode, boot_id, mtu, exclude, ports, mac, bandwidth,"
    " state, created"
)
MIGRATIONS = {  # from this version on
    1: "ALTER TABLE attachment ADD COLUMN ports TEXT NOT NULL DEFAULT '[]';",
    2: "ALTER TABLE attachment ADD COLUMN mac TEXT;",
    3: "ALTER TABLE attachment ADD COLUMN bandwidth TEXT NOT NULL DEFAULT '{}';",
    4: "ALTER TABLE attachment RENAME TO old; ALTER TABLE address RENAME TO old_address;"
    " ALTER TABLE last_given RENAME TO old_last_given;"
    f"{SCHEMA}"
    f" INSERT INTO attachment (id, {_COLUMNS}) SELECT id, {_COLUMNS} FROM old;"
    " INSERT INTO address SELECT address, attachment FROM old_address;"
    " INSERT INTO last_given SELECT pool, address FROM old_last_given;"
    " DROP TABLE old_address; DROP TABLE old; DROP TABLE old_last_given;",
}
_INSERT = f"INSERT INTO attachment ({_COLUMNS}) VALUES ({', '.join('?' * 14)})"
_SELECT = f"SELECT id, {_COLUMNS} FROM attachment ORDER BY id"


def leases(db: sqlite3.Connection) -> list[tuple[int, Lease]]:
    """(row, lease) of all, in the order they were made."""
    db.execute("BEGIN")  # both tables as they are at one moment
    held: dict[int, list[IPAddress]] = {}
    for text, number in db.execute("SELECT address, attachment FROM address"):
        held.setdefault(number, []).append(ip_address(text))
    found = [(row[0], _lease(row[1:], held.get(row[0], []))) for row in db.execute(_SELECT)]
    db.execute("COMMIT")
    return found


def insert(db: sqlite3.Connection, lease: Lease, given: Iterable[tuple[str, IPAddress]]) -> int:
    """The number of the new row. ``given``: (pool, address), the last of that pool."""
    number = db.execute(_INSERT, _values(lease)).lastrowid or 0
    for pool, address in given:
        shown = str(address)
        db.execute("INSERT INTO address VALUES (?, ?)", (shown, number))
        db.execute("INSERT OR REPLACE INTO last_given VALUES (?, ?)", (pool, shown))
    return number


@dataclass(frozen=True, slots=True)
class SetState:
    """Of one row. One statement: alone it is a transaction by itself."""

    number: int
    state: State

    def __call__(self, db: sqlite3.Connection) -> None:
        """Do it."""
        db.execute("UPDATE attachment SET state = ? WHERE id = ?", (self.state, self.number))


def delete(db: sqlite3.Connection, number: int, addresses: Iterable[IPAddress]) -> None:
    """A row and its addresses."""
    for address in addresses:
        db.execute("DELETE FROM address WHERE address = ?", (str(address),))
    db.execute("DELETE FROM attachment WHERE id = ?", (number,))


def _values(lease: Lease) -> tuple[str | int | None, ...]:
    terms, exclude = lease.terms, lease.terms.exclude
    return (
        *(lease.attachment.network, lease.attachment.container_id, lease.attachment.ifname),
        *(terms.link, terms.netns, terms.netns_inode, terms.boot_id, terms.mtu),
        None if exclude is None else _exclude(exclude),
        orjson.dumps([mapping.as_plain() for mapping in terms.ports]).decode() if terms.ports else "[]",
        terms.mac,
        orjson.dumps(terms.bandwidth.as_plain()).decode() if terms.bandwidth is not None else "{}",
        lease.state,
        lease.created,
    )


def now() -> str:
    """For ``Lease.created``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _lease(row: tuple[str | int | None, ...], addresses: list[IPAddress]) -> Lease:
    network, container_id, ifname, link, netns, inode, boot_id, mtu, exclude, *rest = row
    mapped, mac, shaped, state, created = rest
    networks = None if exclude is None else _networks(str(exclude))
    asked = (
        _ports(str(mapped)),
        str(mac) if mac is not None else None,
        bandwidth.parse(orjson.loads(str(shaped))),
    )
    terms = Terms(str(link), str(netns), str(inode), str(boot_id), int(str(mtu)), networks, *asked)
    attachment = Attachment(str(network), str(container_id), str(ifname))
    return Lease(attachment, tuple(sorted(addresses, key=_by_family)), terms, State(str(state)), str(created))


@lru_cache(maxsize=64)
def _exclude(networks: tuple[IPNetwork, ...]) -> str:
    return orjson.dumps([str(network) for network in networks]).decode()


@lru_cache(maxsize=64)
def _networks(text: str) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(network) for network in orjson.loads(text))


def _ports(text: str) -> tuple[PortMapping, ...]:
    return tuple(mapping for entry in orjson.loads(text) if (mapping := ports.parse(entry)) is not None)


def _by_family(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)
