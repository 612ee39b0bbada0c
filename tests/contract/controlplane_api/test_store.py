"""The laws of `controlplane.store.contract`, on every store there is, and what each does when its disk fails."""

import asyncio
import os
import sqlite3
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.store.contract import Check, Compacted, Delete, Future, Put, Stale, StoreError
from controlplane.store.sqlite import SQLiteStore


@pytest.fixture(params=["sqlite"])
async def store(request, tmp_path):
    opened = await SQLiteStore.open(tmp_path / "state.db")
    yield opened
    await opened.close()


async def keys(store, prefix="/a/", **options):
    page = await store.page(prefix, **options)
    return [(entry.key, entry.value) for entry in page.entries]


async def test_a_commit_is_there_to_read_with_its_revision(store) -> None:
    first = await store.commit(Put("/a/x", b"1"))
    second = await store.commit(Put("/a/y", b"2"))
    assert second == first + 1
    page = await store.page("/a/")
    assert [(e.key, e.value, e.revision) for e in page.entries] == [
        ("/a/x", b"1", first),
        ("/a/y", b"2", second),
    ]
    assert page.revision == second == store.revision


async def test_a_prefix_is_a_folder(store) -> None:
    await store.commit(Put("/a/x", b""), Put("/ab/x", b""), Put("/a/\U0001f600", b""))
    assert [key for key, _ in await keys(store)] == ["/a/x", "/a/\U0001f600"]


async def test_one_commit_is_one_revision_all_or_nothing(store) -> None:
    revision = await store.commit(Put("/a/x", b"1"), Put("/a/y", b"1"))
    assert {e.revision for e in (await store.page("/a/")).entries} == {revision}
    with pytest.raises(Stale) as raised:
        await store.commit(Put("/a/x", b"2"), Delete("/a/y", expected=revision - 1))
    assert (raised.value.key, raised.value.found) == ("/a/y", revision)
    assert await keys(store) == [("/a/x", b"1"), ("/a/y", b"1")]
    assert store.revision == revision


STALE = [
    Put("/a/x", b"2", expected=0),
    Put("/a/new", b"2", expected=1),
    Delete("/a/x", expected=1),
    Delete("/a/new"),
    Check("/a/x", 0),
    Check("/a/new", 1),
]


@pytest.mark.parametrize("operation", STALE, ids=str)
async def test_a_wrong_expectation_writes_nothing(store, operation) -> None:
    revision = await store.commit(Put("/a/x", b"1", expected=0))
    with pytest.raises(Stale):
        await store.commit(Put("/a/z", b""), operation)
    assert await keys(store) == [("/a/x", b"1")]
    assert await store.commit(Put("/a/x", b"2", expected=revision), Check("/a/new", 0)) == revision + 1


async def test_of_many_that_expect_the_same_one_wins(store) -> None:
    revision = await store.commit(Put("/a/x", b"0"))
    outcomes = await asyncio.gather(
        *(store.commit(Put("/a/x", b"%d" % i, expected=revision)) for i in range(20)), return_exceptions=True
    )
    winners = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, Stale) for outcome in outcomes) == 19
    assert await keys(store) == [("/a/x", b"%d" % winners[0])]


async def test_subscribers_hear_of_a_commit_before_it_returns(store) -> None:
    heard = []
    store.subscribe(heard.extend)

    async def write(number):
        revision = await store.commit(Put(f"/a/{number}", b"v"))
        assert any(event.revision == revision for event in heard)

    await asyncio.gather(*(write(number) for number in range(50)))
    revisions = [event.revision for event in heard]
    assert revisions == sorted(revisions)
    assert len(revisions) == 50


async def test_the_log_replays_what_happened_with_what_was_before(store) -> None:
    start = store.revision
    first = await store.commit(Put("/a/x", b"1"))
    await store.commit(Put("/b/x", b"1"))
    second = await store.commit(Put("/a/x", b"2"))
    third = await store.commit(Delete("/a/x"))
    events = await store.changes("/a/", start)
    assert [(e.revision, e.value, e.previous, e.previous_revision) for e in events] == [
        (first, b"1", None, 0),
        (second, b"2", b"1", first),
        (third, None, b"2", second),
    ]
    assert [e.revision for e in await store.changes("/a/", second)] == [third]
    assert await store.changes("/a/", third) == []
    with pytest.raises(Future):
        await store.changes("/a/", third + 1)


async def test_pages_of_one_revision_ignore_what_is_written_between_them(store) -> None:
    for name in "abcde":
        await store.commit(Put(f"/a/{name}", b"old"))
    first = await store.page("/a/", limit=2)
    assert ([e.key for e in first.entries], first.remaining) == (["/a/a", "/a/b"], 3)
    await store.commit(Delete("/a/c"))
    await store.commit(Put("/a/d", b"new"))
    await store.commit(Put("/a/cc", b"new"))
    second = await store.page("/a/", revision=first.revision, after="/a/b", limit=2)
    assert ([(e.key, e.value) for e in second.entries], second.remaining) == (
        [("/a/c", b"old"), ("/a/d", b"old")],
        1,
    )
    with pytest.raises(Future):
        await store.page("/a/", revision=store.revision + 1)


async def test_compaction_forgets_the_past_and_never_the_present(store) -> None:
    first = await store.commit(Put("/a/x", b"1"))
    second = await store.commit(Put("/a/x", b"2"))
    third = await store.commit(Put("/a/x", b"3"))
    await store.compact(second)
    with pytest.raises(Compacted):
        await store.changes("/a/", first)
    with pytest.raises(Compacted):
        await store.page("/a/", revision=first)
    assert [e.revision for e in await store.changes("/a/", second)] == [third]
    assert await keys(store, revision=second) == [("/a/x", b"2")]
    await store.compact(first)  # going back changes nothing
    await store.compact(third + 100)  # nor does going beyond the end
    assert await keys(store) == [("/a/x", b"3")]
    assert await store.changes("/a/", third) == []


NAMES = st.sampled_from("abc")
STEPS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=2)), max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_the_past_is_what_was_seen_then(store, steps) -> None:
    """At every revision: the listing of then, and the replay since then, agree with a plain dictionary."""
    for name in "abc":
        await store.commit(Put(f"/a/{name}", b"start"))
    now = dict(await keys(store))
    history = {store.revision: dict(now)}
    for name, value in steps:
        key = f"/a/{name}"
        if value is not None:
            now[key] = value
            await store.commit(Put(key, value))
        elif now.pop(key, None) is not None:
            await store.commit(Delete(key))
        history[store.revision] = dict(now)
    for revision, then in history.items():
        assert dict(await keys(store, revision=revision)) == then
        for event in await store.changes("/a/", revision):
            assert event.previous == then.get(event.key)
            if event.value is None:
                del then[event.key]
            else:
                then[event.key] = event.value
        assert then == now


async def test_everything_survives_a_restart_and_no_revision_comes_twice(tmp_path) -> None:
    path = tmp_path / "state.db"
    before = await SQLiteStore.open(path)
    await before.commit(Put("/a/x", b"1"))
    last = await before.commit(Delete("/a/x"))
    await before.close()
    after = await SQLiteStore.open(path)
    assert after.revision == last
    assert [event.value for event in await after.changes("/a/", 1)] == [b"1", None]
    assert await after.commit(Put("/a/x", b"2", expected=0)) == last + 1
    await after.close()


async def test_close_finishes_what_was_begun_and_then_refuses(tmp_path) -> None:
    store = await SQLiteStore.open(tmp_path / "state.db")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.commit(Put("/a/x", b"1")))
        await asyncio.sleep(0)
        await store.close()
    assert task.result() == 2
    with pytest.raises(StoreError, match="closed"):
        await store.commit(Put("/a/x", b"2"))


async def test_a_full_disk_fails_the_commit_whole_and_heals_by_itself(tmp_path) -> None:
    store = await SQLiteStore.open(tmp_path / "state.db")
    await store.commit(Put("/a/x", b"1"))
    sql = store._writer._sql
    pages = sql.execute("PRAGMA page_count").fetchone()[0]
    sql.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StoreError, match="no space left"):
        await store.commit(Put("/a/small", b"1"), Put("/a/large", b"v" * 100_000))
    assert await keys(store) == [("/a/x", b"1")]
    sql.execute("PRAGMA max_page_count=1000000")
    assert await store.commit(Put("/a/large", b"v" * 100_000)) == 3
    await store.close()


async def test_a_damaged_file_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "state.db"
    store = await SQLiteStore.open(path)
    for number in range(200):
        await store.commit(Put(f"/a/{number}", b"v" * 500))
    await store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8 * 4096))
    with pytest.raises(StoreError, match="damaged") as raised:
        await SQLiteStore.open(path)
    assert str(path) in str(raised.value)


async def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"certainly not SQLite" * 100)
    with pytest.raises(StoreError, match="not a database"):
        await SQLiteStore.open(path)


async def test_another_programs_database_is_refused_and_left_alone(tmp_path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as sql:
        sql.execute("CREATE TABLE theirs (x)")
    sql.close()
    with pytest.raises(StoreError, match="another program's database"):
        await SQLiteStore.open(path)
    sql = sqlite3.connect(path)
    assert sql.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    sql.close()


async def test_a_newer_format_is_refused(tmp_path) -> None:
    path = tmp_path / "state.db"
    await (await SQLiteStore.open(path)).close()
    sql = sqlite3.connect(path)
    sql.execute("PRAGMA user_version=9")
    sql.close()
    with pytest.raises(StoreError, match="format 9"):
        await SQLiteStore.open(path)


async def test_a_second_control_plane_is_refused(tmp_path) -> None:
    path = tmp_path / "state.db"
    first = await SQLiteStore.open(path)
    with pytest.raises(StoreError, match="another control plane has it open"):
        await SQLiteStore.open(path)
    await first.close()
    await (await SQLiteStore.open(path)).close()


async def test_a_missing_directory_is_named(tmp_path) -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        await SQLiteStore.open(tmp_path / "nowhere" / "state.db")


async def test_the_file_is_its_owners_only(tmp_path) -> None:
    path = tmp_path / "state.db"
    await (await SQLiteStore.open(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600


WRITER = """
import asyncio, sys
from pathlib import Path
from controlplane.store.contract import Put
from controlplane.store.sqlite import SQLiteStore

async def main():
    store = await SQLiteStore.open(Path(sys.argv[1]))
    async def write(worker):
        for number in range(100000):
            revision = await store.commit(Put(f"/a/{worker}-{number}", b"v", 0), Put(f"/b/{worker}-{number}", b"v", 0))
            print(f"{worker}-{number} {revision}", flush=True)
    await asyncio.gather(*(write(worker) for worker in range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9_and_nothing_is_there_by_half(tmp_path) -> None:
    path = tmp_path / "state.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, path, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        acknowledged = [await process.stdout.readline() for _ in range(300)]
        process.kill()
        rest = (await process.stdout.read()).splitlines(keepends=True)
        acknowledged += [line for line in rest if line.endswith(b"\n")]  # the last one may be cut
        await process.wait()
    store = await SQLiteStore.open(path)
    found = {entry.key.rsplit("/", 1)[1]: entry.revision for entry in (await store.page("/a/")).entries}
    other = {entry.key.rsplit("/", 1)[1]: entry.revision for entry in (await store.page("/b/")).entries}
    assert found == other
    for line in acknowledged:
        name, revision = line.decode().split()
        assert found[name] == int(revision)
    assert store.revision == max(found.values())
    await store.close()


async def test_a_file_that_another_program_has_locked_is_named_and_works_again_after(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("controlplane.store.database.BUSY_SECONDS", 0.05)
    path = tmp_path / "state.db"
    store = await SQLiteStore.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program has locked it"):
        await store.commit(Put("/a/x", b"1"))
    assert await keys(store) == []  # readers are not held up
    other.execute("ROLLBACK")
    other.close()
    assert await store.commit(Put("/a/x", b"1")) == 2
    await store.close()
