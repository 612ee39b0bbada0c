"""The store itself: what it survives, and what it says when the disk does not let it."""

import errno
import os
import sqlite3
import threading
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from cni.errors import CniError, Code
from cni.ipam import Pool, Range
from cni.lease import State, Terms, describe
from cni.leases import Leases, read, store_path
from cni.ports import PortMapping
from cni.protocol import Attachment

POOL = Pool((Range.of(ip_network("10.9.0.0/24")),))


def terms(name, exclude=None):
    return Terms(f"np-{name}", f"/proc/{name}", "4:1", "boot", 1450, exclude)


@pytest.fixture
def path(tmp_path):
    return store_path(tmp_path)


def test_everything_written_is_read_back(path):
    leases = Leases(path)
    exclude = (ip_network("10.244.0.0/16"), ip_network("fd00::/56"))
    attachment = Attachment("net", "c", "eth0")
    lease = leases.reserve(attachment, (POOL,), terms("c", exclude))
    (found,) = read(path)
    assert (found.attachment, found.addresses, found.terms) == (attachment, lease.addresses, lease.terms)
    assert found.state is State.RESERVING
    assert describe(found)["addresses"] == ["10.9.0.2"]
    leases.close()


def test_it_is_durable_and_private(path):
    leases = Leases(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()
    assert path.parent.stat().st_mode & 0o077 == 0
    leases.close()


def test_reading_makes_nothing(path):
    assert read(path) == []
    assert not path.exists()


def test_a_store_that_is_being_made_has_no_leases_and_another_version_is_said(path):
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    assert read(path) == []
    db.execute("PRAGMA user_version = 99")
    db.commit()
    with pytest.raises(CniError, match="version 99"):
        read(path)
    db.close()


def test_an_address_is_remembered_as_given_across_restarts(path):
    for expected in ("10.9.0.2", "10.9.0.3", "10.9.0.4"):
        leases = Leases(path)
        attachment = Attachment("net", "c", "eth0")
        assert str(leases.reserve(attachment, (POOL,), terms("c")).addresses[0]) == expected
        leases.release(attachment)
        leases.close()


def test_a_refused_reservation_keeps_no_address(path):
    leases = Leases(path)
    leases.reserve(Attachment("net", "a", "eth0"), (POOL,), terms("a"))
    leases._last.clear()
    leases._in_use.clear()  # as a bug would have it: then the schema refuses
    with pytest.raises(CniError) as caught:
        leases.reserve(Attachment("net", "b", "eth0"), (POOL,), terms("b"))
    assert caught.value.code is Code.STORE
    leases.close()
    again = Leases(path)
    assert [str(lease.addresses[0]) for lease in again.all()] == ["10.9.0.2"]
    assert str(again.reserve(Attachment("net", "c", "eth0"), (POOL,), terms("c")).addresses[0]) == "10.9.0.3"
    again.close()


def test_a_lease_is_live_only_once_its_row_is_on_the_disk(path, monkeypatch):
    leases, written, live = Leases(path), threading.Event(), threading.Event()
    fdatasync = os.fdatasync

    def slow(descriptor):
        written.wait(10)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    attachment = Attachment("net", "c", "eth0")
    leases.reserve(attachment, (POOL,), terms("c"))
    thread = threading.Thread(target=lambda: (leases.confirm(attachment), live.set()))
    thread.start()
    assert not live.wait(0.05)
    assert [lease.state for lease in read(path)] == [State.RESERVING], (
        "it is in the file, for a crash to find"
    )
    written.set()
    thread.join(10)
    assert [lease.state for lease in read(path)] == [State.LIVE]
    leases.close()


def test_a_disk_that_refuses_is_an_error_of_those_who_wait_for_it(path, monkeypatch):
    leases = Leases(path)
    attachments = [Attachment("net", name, "eth0") for name in ("a", "b")]
    with monkeypatch.context() as patched:
        refused = OSError(errno.EIO, os.strerror(errno.EIO))
        patched.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(refused))
        leases.reserve(attachments[0], (POOL,), terms("a"))
        with pytest.raises(CniError, match="Input/output error") as caught:
            leases.confirm(attachments[0])
    assert caught.value.code is Code.STORE
    leases.release(attachments[0])
    leases.reserve(attachments[1], (POOL,), terms("b"))
    leases.confirm(attachments[1])
    leases.close()


def test_a_port_is_given_once_and_again_after_its_release(path):
    leases = Leases(path)
    ports = (PortMapping("tcp", 80, 8080),)
    attachments = [Attachment("net", name, "eth0") for name in ("a", "b")]
    leases.reserve(attachments[0], (POOL,), replace(terms("a"), ports=ports))
    with pytest.raises(CniError, match="is taken"):
        leases.reserve(attachments[1], (POOL,), replace(terms("b"), ports=ports))
    leases.release(attachments[0])
    leases.reserve(attachments[1], (POOL,), replace(terms("b"), ports=ports))
    leases.close()


def test_many_threads_never_share_an_address(path):
    leases = Leases(path)
    given = []

    def reserve(number):
        attachment = Attachment("net", f"c{number}", "eth0")
        given.append(leases.reserve(attachment, (POOL,), terms(f"c{number}")).addresses[0])

    threads = [threading.Thread(target=reserve, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given)) == 50
    leases.close()


def test_a_broken_store_says_so(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(CniError, match=r"leases\.sqlite") as caught:
        Leases(path)
    assert caught.value.code is Code.STORE
    with pytest.raises(CniError):
        read(path)


def test_a_store_of_a_later_version_is_refused_untouched(path):
    Leases(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CniError, match="version 99"):
        Leases(path)


def test_a_full_disk_is_an_error_and_nothing_is_given(path):
    leases = Leases(path)
    pages = leases._db.execute("PRAGMA page_count").fetchone()[0]
    leases._db.execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for number in range(200):
            name = f"c{number}"
            leases.reserve(Attachment("net", name, "eth0"), (POOL,), terms(name, ()))

    with pytest.raises(CniError, match="full") as caught:
        fill()
    assert caught.value.code is Code.STORE
    leases._db.execute("PRAGMA max_page_count = 1000000")
    made = len(leases.all())
    assert 0 < made < 200
    again = leases.reserve(Attachment("net", "again", "eth0"), (POOL,), terms("again"))
    assert int(again.addresses[0]) == int(ip_network("10.9.0.0/24")[2]) + made
    leases.close()


VERSION_1 = """
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
INSERT INTO attachment (id, network, container_id, ifname, link, netns, netns_inode, boot_id, mtu, exclude, state)
    VALUES (7, 'net', 'c', 'eth0', 'np-c', '/proc/c', '4:1', 'boot', 1450, '["10.244.0.0/16"]', 'live');
INSERT INTO address VALUES ('10.9.0.9', 7);
INSERT INTO last_given VALUES ('10.9.0.0/24[10.9.0.1-10.9.0.254]', '10.9.0.9');
PRAGMA user_version = 1;
"""


def test_a_store_of_version_1_is_carried_over(path):
    path.parent.mkdir(parents=True)
    old = sqlite3.connect(path)
    old.executescript(VERSION_1)
    old.close()
    leases = Leases(path)
    (lease,) = leases.all()
    assert (lease.attachment, lease.addresses) == (Attachment("net", "c", "eth0"), (ip_address("10.9.0.9"),))
    assert lease.terms == terms("c", (ip_network("10.244.0.0/16"),))
    assert (lease.state, len(lease.created)) == (State.LIVE, len("2026-01-02T03:04:05Z"))
    other = leases.reserve(Attachment("net", "d", "eth0"), (POOL,), terms("d"))
    assert str(other.addresses[0]) == "10.9.0.10", "the last address given is remembered, too"
    leases.release(lease.attachment)
    leases.close()
    assert [lease.attachment.container_id for lease in read(path)] == ["d"]


def test_a_wanted_address_is_given_once_and_moves_nobody_elses(path):
    leases = Leases(path)
    wanted = (ip_address("10.9.0.7"),)
    first = leases.reserve(Attachment("net", "a", "eth0"), (POOL,), terms("a"), wanted)
    assert first.addresses == wanted
    with pytest.raises(CniError, match=r"10\.9\.0\.7.*in use") as caught:
        leases.reserve(Attachment("net", "b", "eth0"), (POOL,), terms("b"), wanted)
    assert caught.value.code is Code.ADDRESS_TAKEN
    assert len(leases.all()) == 1
    assert leases.reserve(Attachment("net", "b", "eth0"), (POOL,), terms("b")).addresses == (
        ip_address("10.9.0.2"),
    )
    leases.close()
