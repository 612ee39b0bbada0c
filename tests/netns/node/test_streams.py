"""Processes in a real sandbox with their streams at hand: pipes, terminals, stdin, who is slow and who goes away."""

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest

from netplane.errors import PeerError
from netplane.linux import cgroups
from netplane.linux.orphans import own
from netplane.node.runtimes import ContainerSpec, SandboxSpec
from netplane.node.runtimes.process import SANDBOX_PROGRAM, ProcessRuntime, new_sandbox_id
from netplane.node.streams.descriptors import Source, write

pytestmark = pytest.mark.netns

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "GREETING": "hello"}
ROOT = Path(__file__).parents[3]
IMPATIENT = """
import runpy, sys
sys.path.append({root!r})
from netplane.node.sandbox import attaching
attaching.STALL_SECONDS = 1.0
runpy.run_path({program!r}, run_name="__main__")
"""
POD = {"metadata": {"name": "p", "namespace": "d", "uid": "22345678-9abc-def0-1234-56789abcdef0"}, "spec": {}}


@pytest.fixture
async def sandbox(tmp_path):
    group = PurePosixPath(f"netplane-test-{os.getpid()}-{tmp_path.name[-20:]}")
    layout = cgroups.detect()
    own(cgroups.Cgroup(layout, group))
    runtime = ProcessRuntime(tmp_path / "run", group, layout)
    made = await runtime.create(SandboxSpec(new_sandbox_id(), POD, "pod", "127.0.0.1 localhost\n", ""))
    yield made
    await made.remove()
    cgroups.Cgroup(layout, group).remove()


async def start(sandbox, tmp_path, script, **more):
    log = tmp_path / "logs/c/0.log"
    await sandbox.start(ContainerSpec("c", 0, ["sh", "-c", script], ENV, "/tmp", log, **more))
    return log


async def everything(descriptor):
    source, found = Source(descriptor), b""
    while data := await source.read():
        found += data
    return found


async def until_said(source, text, seconds=10):
    """What has been said up to and with ``text``."""
    found = b""
    async with asyncio.timeout(seconds):
        while text not in found:
            data = await source.read()
            assert data, f"ended after {found!r}"
            found += data
    return found


async def gone(argument, seconds=10):
    """No process has this argument any more."""
    async with asyncio.timeout(seconds):
        while any(argument in words for words in command_lines()):
            await asyncio.sleep(0.02)


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().split(b"\0")
        except OSError:
            continue


@asynccontextmanager
async def no_descriptor_stays():
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_command_has_the_containers_surroundings(sandbox, tmp_path):
    await start(sandbox, tmp_path, "exec sleep 60")
    script = "pwd; echo $GREETING; hostname; cat; echo problem >&2; exit 3"
    async with (
        no_descriptor_stays(),
        sandbox.executing("c", ["sh", "-c", script], stdin=True, tty=False) as process,
    ):
        assert await write(process.stdin, b"from us\n")
        process.close_stdin()
        assert await process.ended() == 3
        assert await everything(process.stdout) == b"/tmp\nhello\npod\nfrom us\n"
        assert await everything(process.stderr) == b"problem\n"


async def test_a_command_is_under_the_containers_limits(sandbox, tmp_path):
    await start(sandbox, tmp_path, "exec sleep 60")
    async with sandbox.executing("c", ["cat", "/proc/self/cgroup"], stdin=False, tty=False) as process:
        assert await process.ended() == 0
        assert b"/c-0" in await everything(process.stdout)


async def test_a_terminal_is_a_real_one(sandbox, tmp_path):
    await start(sandbox, tmp_path, "exec sleep 60")
    async with (
        no_descriptor_stays(),
        sandbox.executing("c", ["sh"], stdin=True, tty=True) as process,
    ):
        assert process.stderr is None
        source = Source(process.stdout)
        process.resize(101, 33)
        await write(process.stdin, b'tty; stty size; echo $TERM; test -t 2 && echo rea""lly\n')
        said = await until_said(source, b"really\r\n")
        assert b"/dev/pts/0\r\n33 101\r\nxterm\r\n" in said
        await write(process.stdin, b"sh -c 'echo sle\"\"eping; exec sleep 60'\n")
        await until_said(source, b"sleeping")
        await write(process.stdin, b"\x03")  # Ctrl-C reaches the foreground
        await write(process.stdin, b"echo interrupted $?\n")
        await until_said(source, b"interrupted 130")
        await write(process.stdin, b"exit 5\n")
        assert await process.ended() == 5


async def test_the_hosts_terminals_are_not_in_sight(sandbox, tmp_path):
    mine, theirs = os.openpty()
    try:
        await start(sandbox, tmp_path, "exec sleep 60")
        async with sandbox.executing("c", ["ls", "/dev/pts"], stdin=False, tty=False) as process:
            assert await process.ended() == 0
            assert await everything(process.stdout) == b"ptmx\n"
    finally:
        os.close(mine)
        os.close(theirs)


@pytest.mark.parametrize("tty", [False, True])
async def test_a_command_that_cannot_be_run_says_why(sandbox, tmp_path, tty):
    await start(sandbox, tmp_path, "exec sleep 60")
    async with no_descriptor_stays():
        with pytest.raises(PeerError, match="cannot run nosuch: No such file or directory"):
            async with sandbox.executing("c", ["nosuch"], stdin=True, tty=tty) as process:
                await process.ended()
    with pytest.raises(PeerError, match="has not been started"):
        async with sandbox.executing("other", ["true"], stdin=False, tty=False):
            pass


@pytest.mark.parametrize("tty", [False, True])
async def test_who_goes_away_takes_the_command_along(sandbox, tmp_path, tty):
    await start(sandbox, tmp_path, "exec sleep 60")
    mark = f"36{os.getpid()}{int(tty)}"
    async with sandbox.executing("c", ["sh", "-c", f"echo up; sleep {mark}"], stdin=True, tty=tty) as process:
        await until_said(Source(process.stdout), b"up")
    await gone(mark.encode())


async def test_what_a_command_leaves_running_is_not_waited_for(sandbox, tmp_path):
    await start(sandbox, tmp_path, "exec sleep 60")
    command = ["sh", "-c", "sleep 30 & echo said"]
    async with asyncio.timeout(10), sandbox.executing("c", command, stdin=False, tty=False) as process:
        assert await process.ended() == 0
        source = Source(process.stdout)
        source.finish()
        assert await source.read() == b"said\n"
        assert await source.read() == b""


async def test_attaching_shows_what_comes_and_stays_in_the_log(sandbox, tmp_path):
    log = await start(
        sandbox, tmp_path, "while read x; do echo got $x; echo bad $x >&2; done; exit 4", stdin=True
    )
    async with no_descriptor_stays():
        async with sandbox.attached("c", stdin=True) as first, sandbox.attached("c", stdin=False) as second:
            assert second.stdin is None
            await write(first.stdin, b"one\n")
            for process in (first, second):
                assert await until_said(Source(process.stdout), b"\n") == b"got one\n"
                assert await until_said(Source(process.stderr), b"\n") == b"bad one\n"
        async with sandbox.attached(
            "c", stdin=True
        ) as third:  # the stdin of all who were there is still open
            await write(third.stdin, b"two\n")
            assert await until_said(Source(third.stdout), b"\n") == b"got two\n"
            assert await until_said(Source(third.stderr), b"\n") == b"bad two\n"
    logged = [line.split(" ", 3)[3] for line in log.read_text().splitlines()]
    assert sorted(logged) == ["bad one", "bad two", "got one", "got two"]


async def test_stdin_once_is_the_first_ones_and_ends_with_it(sandbox, tmp_path):
    await start(sandbox, tmp_path, "cat; exit 4", stdin=True, stdin_once=True)
    async with sandbox.attached("c", stdin=True) as process:
        await write(process.stdin, b"all there is")
        process.close_stdin()
        assert await process.ended() == 4
        assert await everything(process.stdout) == b"all there is"
        assert await everything(process.stderr) == b""


async def test_attaching_to_a_terminal(sandbox, tmp_path):
    await start(sandbox, tmp_path, "test -t 0 && sh -i; exit 6", stdin=True, tty=True)
    async with no_descriptor_stays(), sandbox.attached("c", stdin=True) as process:
        source = Source(process.stdout)
        process.resize(77, 22)
        await write(process.stdin, b"stty size\n")
        assert b"22 77\r\n" in await until_said(source, b"22 77")
        await write(process.stdin, b"exit\n")
        assert await process.ended() == 6
        while await source.read():
            pass
        assert await everything(process.stderr) == b""


async def test_who_is_attached_gets_all_though_it_reads_late(sandbox, tmp_path):
    await start(sandbox, tmp_path, "read go; head -c 3000000 /dev/zero; exit 0", stdin=True)
    async with sandbox.attached("c", stdin=True) as process:
        await write(process.stdin, b"go\n")
        count, source = 0, Source(process.stdout)
        while data := await source.read():
            count += len(data)
        assert await process.ended() == 0
        assert count == 3_000_000


@pytest.fixture
def impatient(tmp_path, monkeypatch):
    """A sandbox in this test waits for nobody for longer than a second."""
    program = tmp_path / "impatient.py"
    program.write_text(IMPATIENT.format(root=str(ROOT), program=str(SANDBOX_PROGRAM)))
    monkeypatch.setattr("netplane.node.runtimes.process.SANDBOX_PROGRAM", program)


async def test_who_is_attached_and_never_reads_is_cut_off(impatient, sandbox, tmp_path):
    """The container stops for a while, then goes on; the sandbox answers all the time."""
    done = tmp_path / "done"
    await start(sandbox, tmp_path, f"read go; head -c 1000000 /dev/zero; touch {done}; sleep 60", stdin=True)
    async with sandbox.attached("c", stdin=True) as attached:
        await write(attached.stdin, b"go\n")
        assert (await sandbox.execute("c", ["echo", "alive"], timeout=5)).output == b"alive\n"
        assert not done.exists()
        async with asyncio.timeout(10):
            while not done.exists():
                await asyncio.sleep(0.02)


async def test_a_container_that_never_stops_talking_leaves_the_sandbox_responsive(sandbox, tmp_path):
    await start(sandbox, tmp_path, "exec yes")
    for _ in range(3):
        assert (await sandbox.execute("c", ["echo", "alive"], timeout=5)).output == b"alive\n"
    async with sandbox.attached("c", stdin=False) as process:
        assert await Source(process.stdout).read()
    assert (await sandbox.execute("c", ["echo", "alive"], timeout=5)).output == b"alive\n"


async def test_an_ended_container_cannot_be_attached_to(sandbox, tmp_path):
    await start(sandbox, tmp_path, "exit 0")
    async for states in sandbox.watch():
        if not states["c"].running:
            break
    with pytest.raises(PeerError, match="is not running"):
        async with sandbox.attached("c", stdin=False):
            pass
