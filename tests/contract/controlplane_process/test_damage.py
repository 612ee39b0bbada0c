"""A file that is not what it was: one line that names it and what to do, and never an empty cluster instead."""

import asyncio
import os
import random
import subprocess
import sys

import pytest

from controlplane.store.backup import back_up
from controlplane.store.contract import Put, StoreError
from controlplane.store.sqlite import SQLiteStore
from netplane.kube.client import Client
from netplane.kube.resources import CONFIGMAPS
from tests.contract.controlplane_process.conftest import configmap

WRITER = """
import asyncio, os, sys
from pathlib import Path
from controlplane.store.contract import Put
from controlplane.store.sqlite import SQLiteStore

async def main():
    store = await SQLiteStore.open(Path(sys.argv[1]))
    for number in range(100):
        await store.commit(Put(f"/a/{number}", os.urandom(2000)))
    os._exit(9)

asyncio.run(main())
"""


@pytest.fixture
def killed(tmp_path):
    """A store whose process has died after revision 101, the newest hundred kilobytes still in its log."""
    path = tmp_path / "state.db"
    done = subprocess.run([sys.executable, "-c", WRITER, path], check=False)
    assert done.returncode == 9
    assert path.with_name("state.db-wal").stat().st_size > 100_000
    return path


@pytest.fixture
async def stopped(tmp_path):
    """A store that was closed well, everything in its one file."""
    path = tmp_path / "state.db"
    store = await SQLiteStore.open(path)
    for number in range(100):
        await store.commit(Put(f"/a/{number}", os.urandom(2000)))
    await store.close()
    return path


async def refused(path) -> str:
    with pytest.raises(StoreError) as raised:
        await SQLiteStore.open(path)
    text = str(raised.value)
    assert text.startswith(f"cannot open {path}: ")
    assert text.endswith("Restore a backup: netplane controlplane restore (docs/recovery.md).")
    return text


async def test_a_log_that_is_only_left_by_a_kill_is_read(killed) -> None:
    store = await SQLiteStore.open(killed)
    assert store.revision == 101
    await store.close()


async def test_a_missing_log_is_not_taken_for_a_store_that_did_less(killed) -> None:
    killed.with_name("state.db-wal").unlink()
    text = await refused(killed)
    assert "and 101 was acknowledged" in text
    assert "state.db-wal is gone or damaged" in text


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
async def test_a_log_that_was_cut_short(killed, share) -> None:
    log = killed.with_name("state.db-wal")
    os.truncate(log, int(log.stat().st_size * share))
    assert "and 101 was acknowledged" in await refused(killed)


async def test_garbage_in_the_log(killed) -> None:
    log = killed.with_name("state.db-wal")
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(os.urandom(100))
    assert "and 101 was acknowledged" in await refused(killed)


async def test_an_older_copy_in_the_stores_place(stopped, tmp_path) -> None:
    store = await SQLiteStore.open(stopped)
    await asyncio.to_thread(back_up, stopped, tmp_path / "copy.db")
    await store.commit(Put("/a/later", b"1"))
    await store.close()
    (tmp_path / "copy.db").replace(stopped)
    assert "ends at revision 101, and 102 was acknowledged" in await refused(stopped)


async def test_a_file_that_is_gone(stopped) -> None:
    stopped.unlink()
    assert "it is gone, and was at revision 101" in await refused(stopped)
    assert not stopped.exists()


@pytest.mark.parametrize("size", [0, 50, 4096, 30_000, -4096])
async def test_a_file_that_was_cut_short(stopped, size) -> None:
    os.truncate(stopped, size if size >= 0 else stopped.stat().st_size + size)
    await refused(stopped)


async def test_garbage_anywhere_is_refused_or_harmless(stopped) -> None:
    """Whatever it hits, nobody is given other bytes than were written: the truth, or an error that names the file."""
    store = await SQLiteStore.open(stopped)
    truth = (await store.page("/"), await store.changes("/", 1))
    await store.close()
    whole, dice, refusals = stopped.read_bytes(), random.Random(7), []
    for _ in range(30):
        at = dice.randrange(len(whole) - 64)
        stopped.write_bytes(whole[:at] + dice.randbytes(64) + whole[at + 64 :])
        try:
            store = await SQLiteStore.open(stopped)
        except StoreError as error:
            refusals.append(str(error))
            continue
        for number, read in enumerate((store.page("/"), store.changes("/", 1))):
            try:
                assert await read == truth[number]
            except StoreError as error:
                refusals.append(str(error))
        await store.close()
    assert len(refusals) > 20
    assert all(str(stopped) in text and text.endswith("(docs/recovery.md).") for text in refusals)


async def test_a_file_system_that_cannot_be_written(tmp_path, stopped) -> None:
    """Root may write whatever the mode says, so the file system itself has to refuse."""
    script = (
        f"mount --make-rprivate / && mount --bind {tmp_path} {tmp_path} && "
        f"mount -o remount,bind,ro {tmp_path} && exec {sys.executable} -c '{OPENING}' {stopped}"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        f"cannot open {stopped}.lock: Read-only file system. Its directory must be there and be writable."
    )


OPENING = """
import asyncio, sys
from pathlib import Path
from controlplane.store.contract import StoreError
from controlplane.store.sqlite import SQLiteStore
try:
    asyncio.run(SQLiteStore.open(Path(sys.argv[1])))
except StoreError as error:
    print(error)
"""


UNCONFIRMED = """
extern char *getenv(const char *); extern int access(const char *, int); extern int *__errno_location(void);
static int sync_or_not(void) {
  if (access(getenv("FAILS"), 0)) return 0;
  *__errno_location() = 5;  // EIO
  return -1;
}
int fdatasync(int fd) { return sync_or_not(); }
int fsync(int fd) { return sync_or_not(); }
"""
WRITING_ON = """
import asyncio, os, sys
from pathlib import Path
from controlplane.store.contract import Put, Unsure
from controlplane.store.sqlite import SQLiteStore

async def refused(store):
    try:
        await store.commit(Put("/a/x", b"lost"))
    except Unsure as error:
        print(error)

async def main():
    store = await SQLiteStore.open(Path(sys.argv[1]))
    await store.commit(Put("/a/x", b"kept"))
    Path(os.environ["FAILS"]).touch()
    await refused(store)
    Path(os.environ["FAILS"]).unlink()
    await refused(store)
    print(*[entry.value for entry in (await store.page("/")).entries], store.revision)

asyncio.run(main())
"""


async def test_a_disk_that_does_not_confirm_a_write_is_given_no_more(tmp_path) -> None:
    """The real SQLite on an fsync that fails: later commits would lie upon pages that the disk may not have."""
    (tmp_path / "sync.c").write_text(UNCONFIRMED)
    library, path = tmp_path / "sync.so", tmp_path / "state.db"
    subprocess.run(["clang", "-shared", "-fPIC", "-o", library, tmp_path / "sync.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAILS": str(tmp_path / "fails")}
    done = subprocess.run(
        [sys.executable, "-c", WRITING_ON, path], env=environment, capture_output=True, text=True, check=True
    )
    first, again, read = done.stdout.splitlines()
    assert first == again
    assert first.startswith(f"cannot write to {path}: the disk did not confirm what was written.")
    assert read == "b'kept' 2"
    store = await SQLiteStore.open(path)
    assert (await store.page("/")).entries[0].value in (b"kept", b"lost")  # a new start can tell
    assert await store.commit(Put("/a/x", b"new")) > 2
    await store.close()


async def test_a_control_plane_says_it_in_one_line_and_goes_on_after_a_restore(plane) -> None:
    """As an operator meets it: the error names the command, the command mends it, and watchers list again."""
    await plane.start()
    async with Client(plane.kubeconfig) as client:
        await client.create(CONFIGMAPS, configmap("kept", "0"), "default")
        command = [sys.executable, "-m", "netplane", "controlplane"]
        root = ["--root", str(plane.root)]
        subprocess.run([*command, "backup", *root], check=True, capture_output=True)
        lost = await client.create(CONFIGMAPS, configmap("lost", "0"), "default")
        busy = subprocess.run([*command, "restore", *root], check=False, capture_output=True, text=True)
        assert busy.returncode == 1
        assert "another control plane has it open. Stop that one first." in busy.stderr
        await plane.end()
        (plane.paths.state / "state.db-wal").unlink()
        line = await plane.fails_to_start()
        assert line.startswith(
            f"netplane controlplane: cannot open {plane.paths.state}/state.db: it ends at revision"
        )
        done = subprocess.run([*command, "restore", *root], check=True, capture_output=True, text=True)
        assert f"restored from {plane.paths.state}/backups/state-" in done.stdout
        assert "what was there is now" in done.stdout
        await plane.start()
        listed = await client.list(CONFIGMAPS, "default")
        names = {one["metadata"]["name"] for one in listed.items}
        assert "kept" in names
        assert "lost" not in names
        since = lost["metadata"]["resourceVersion"]
        assert int(listed.resource_version) > int(since)
        with pytest.raises(Exception, match="too old resource version"):
            async for _ in client.watch(CONFIGMAPS, "default", resource_version=since):
                pass
