"""The store itself: what it survives, and what it says when the disk does not let it."""

import sqlite3
import threading
from ipaddress import ip_address, ip_network

import pytest

from cni.errors import CniError, Code
from cni.ipam import Pool, Range
from cni.lease import State, Terms, describe
from cni.leases import Leases, read, store_path
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
    assert leases._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
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
    leases.reserve(Attachment("net", "a", "eth0"), (POOL,), terms("same"))
    with pytest.raises(CniError) as caught:  # the link's name is UNIQUE
        leases.reserve(Attachment("net", "b", "eth0"), (POOL,), terms("same"))
    assert caught.value.code is Code.STORE
    assert str(leases.reserve(Attachment("net", "c", "eth0"), (POOL,), terms("c")).addresses[0]) == "10.9.0.3"
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


def test_a_store_of_version_1_is_carried_over(path):
    leases = Leases(path)
    leases.reserve(Attachment("net", "c", "eth0"), (POOL,), terms("c"))
    for column in ("ports", "mac", "bandwidth"):
        leases._db.execute(f"ALTER TABLE attachment DROP COLUMN {column}")
    leases._db.execute("PRAGMA user_version = 1")
    leases.close()
    again = Leases(path)
    (lease,) = again.all()
    assert (lease.attachment.container_id, lease.terms.ports) == ("c", ())
    assert again._db.execute("PRAGMA user_version").fetchone() == (4,)
    again.close()


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
