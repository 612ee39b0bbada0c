"""Copies of a store: made while it is in use, whole or not there, and safe to go on from."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.backups import Schedule, keep_backed_up
from controlplane.store.backup import LEAP, back_up, backups, name_for, newest_good, prune, restore
from controlplane.store.contract import Compacted, Delete, Put, StoreError
from controlplane.store.sqlite import SQLiteStore
from tests.contract.controlplane_api.conftest import until

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def path(tmp_path):
    """A store at revision 4: /a/x was removed, /a/y has been changed."""
    store = await SQLiteStore.open(tmp_path / "state.db")
    await store.commit(Put("/a/x", b"1"), Put("/a/y", b"1"))
    await store.commit(Delete("/a/x"))
    await store.commit(Put("/a/y", b"2"))
    await store.close()
    return tmp_path / "state.db"


async def content(path):
    store = await SQLiteStore.open(path)
    try:
        return {entry.key: (entry.value, entry.revision) for entry in (await store.page("/")).entries}
    finally:
        await store.close()


async def test_a_copy_of_a_store_in_use_is_a_store(path, tmp_path) -> None:
    store = await SQLiteStore.open(path)
    await store.commit(Put("/a/z", b"3"))
    made = await asyncio.to_thread(back_up, path, tmp_path / "elsewhere" / "copy.db")
    await store.commit(Put("/a/later", b"4"))
    await store.close()
    assert (made.revision, made.keys) == (5, 2)
    assert [one.name for one in made.path.parent.iterdir()] == ["copy.db"]
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert await content(made.path) == {"/a/y": (b"2", 4), "/a/z": (b"3", 5)}


async def test_writers_go_on_while_copies_are_made(path, tmp_path) -> None:
    store = await SQLiteStore.open(path)
    writing = True

    async def write() -> int:
        count = 0
        while writing:
            await store.commit(Put("/a/x", b"%d" % count), Put("/b/x", b"%d" % count))
            count += 1
        return count

    async with asyncio.TaskGroup() as group:
        writer = group.create_task(write())
        for number in range(5):
            made = await asyncio.to_thread(back_up, path, tmp_path / f"{number}.db")
            found = await content(made.path)
            assert found.get("/a/x") == found.get("/b/x")
        writing = False
    assert writer.result() > 5
    await store.close()


async def test_a_restored_store_gives_no_revision_twice_and_has_no_past(path, tmp_path) -> None:
    made = await asyncio.to_thread(back_up, path, tmp_path / "copy.db")
    store = await SQLiteStore.open(path)
    newest = await store.commit(Put("/a/lost", b"3"))
    await store.close()
    done = await asyncio.to_thread(restore, path, made.path, NOW)
    assert done.revision == newest + LEAP
    store = await SQLiteStore.open(path)
    assert store.revision == done.revision
    with pytest.raises(Compacted):
        await store.changes("/a/", newest)
    assert await store.changes("/a/", done.revision) == []
    assert await store.commit(Put("/a/new", b"")) == done.revision + 1
    await store.close()
    assert [old.name for old in done.aside] == ["state.db.before-20260102T030405Z"]
    assert "/a/lost" in await content(done.aside[0])


async def test_what_is_left_in_a_store_can_be_kept(path) -> None:
    """Its log is gone: what is in the file is older, but whole."""
    store = await SQLiteStore.open(path)
    await store.commit(Put("/a/z", b"3"))
    (path.parent / "saved").write_bytes(path.read_bytes())
    await store.close()
    (path.parent / "saved").replace(path)
    with pytest.raises(StoreError, match="and 5 was acknowledged"):
        await SQLiteStore.open(path)
    done = await asyncio.to_thread(restore, path, path, NOW)
    assert done.revision == 5 + LEAP
    assert await content(path) == {"/a/y": (b"2", 4)}


async def test_a_restore_that_was_cut_off_is_done_again(path, tmp_path) -> None:
    """Between putting the old file aside and naming the new one there is no store, and a start says so."""
    made = await asyncio.to_thread(back_up, path, tmp_path / "copy.db")
    path.replace(path.with_name("state.db.before-20260102T030405Z"))
    path.with_name(".state.db.new").write_bytes(b"half of it")
    with pytest.raises(StoreError, match="it is gone"):
        await SQLiteStore.open(path)
    await asyncio.to_thread(restore, path, made.path, NOW)
    assert await content(path) == {"/a/y": (b"2", 4)}
    assert not path.with_name(".state.db.new").exists()


BAD = {
    "no such file": lambda copy: copy.unlink(),
    "not a database": lambda copy: copy.write_bytes(b"certainly not SQLite" * 100),
    "another program's": lambda copy: copy.write_bytes(b""),
    "the value of /a/y is damaged": lambda copy: copy.write_bytes(
        copy.read_bytes().replace(b"/a/y2", b"/a/y9")
    ),
}


@pytest.mark.parametrize("cause", BAD)
async def test_a_copy_that_is_not_good_changes_nothing(path, tmp_path, cause) -> None:
    made = await asyncio.to_thread(back_up, path, tmp_path / "copy.db")
    BAD[cause](made.path)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(StoreError, match=cause):
        await asyncio.to_thread(restore, path, made.path, NOW)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


async def test_a_store_in_use_is_not_replaced(path, tmp_path) -> None:
    made = await asyncio.to_thread(back_up, path, tmp_path / "copy.db")
    store = await SQLiteStore.open(path)
    with pytest.raises(StoreError, match="another control plane has it open"):
        await asyncio.to_thread(restore, path, made.path, NOW)
    await store.commit(Put("/a/z", b""))
    await store.close()


async def test_the_newest_good_backup_is_taken_and_old_ones_go(path, tmp_path) -> None:
    directory = tmp_path / "backups"
    for hour in range(4):
        await asyncio.to_thread(back_up, path, directory / name_for(NOW + timedelta(hours=hour)))
    prune(directory, 3)
    found = backups(directory)
    assert [one.name for one in found] == [f"state-20260102T0{hour}0405Z.db" for hour in (6, 5, 4)]
    found[0].write_bytes(b"damaged")
    assert newest_good(directory) == found[1]
    for one in found[1:]:
        one.unlink()
    with pytest.raises(StoreError, match=f"cannot restore a backup from {directory}: none of 1 is good"):
        newest_good(directory)
    found[0].unlink()
    with pytest.raises(StoreError, match="there is none"):
        newest_good(directory)


async def test_a_control_plane_backs_up_what_has_changed_and_says_when_it_cannot(
    path, tmp_path, caplog
) -> None:
    store, directory = await SQLiteStore.open(path), tmp_path / "backups"
    schedule = Schedule(0.01, 2)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(keep_backed_up(path, lambda: store.revision, directory, schedule))
        await until(lambda: len(backups(directory)) == 1)
        first = backups(directory)[0].read_bytes()
        await asyncio.sleep(0.05)
        assert backups(directory)[0].read_bytes() == first
        await store.commit(Put("/a/z", b"3"))
        await until(lambda: backups(directory)[0].read_bytes() != first)
        for one in backups(directory):
            one.unlink()
        directory.rmdir()
        directory.write_bytes(b"")  # no directory can be made here
        await store.commit(Put("/a/z", b"4"))
        await until(lambda: "the store is not backed up: cannot make" in caplog.text)
        keeping.cancel()
    await store.close()
