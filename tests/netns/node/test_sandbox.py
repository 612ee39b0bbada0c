"""A real sandbox: namespaces, limits, exec, survival of whoever made it, and nothing left at its end."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from netplane.errors import KernelError
from netplane.linux import cgroups
from netplane.linux.cgroups import Limits
from netplane.linux.orphans import own
from netplane.node.runtimes import ContainerSpec, SandboxSpec
from netplane.node.runtimes.process import ProcessRuntime, StartError, new_sandbox_id

pytestmark = pytest.mark.netns

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "GREETING": "hello"}
POD = {"metadata": {"name": "p", "namespace": "d", "uid": "12345678-9abc-def0-1234-56789abcdef0"}, "spec": {}}


@pytest.fixture
def runtime(tmp_path):
    group = PurePosixPath(f"netplane-test-{os.getpid()}-{tmp_path.name[-20:]}")
    layout = cgroups.detect()
    own(cgroups.Cgroup(layout, group))
    yield ProcessRuntime(tmp_path / "run", group, layout)
    cgroups.Cgroup(layout, group).remove()


@pytest.fixture
async def sandbox(runtime):
    spec = SandboxSpec(new_sandbox_id(), POD, "pod-name", "127.0.0.1 localhost\n", "nameserver 10.96.0.10\n")
    made = await runtime.create(spec)
    yield made
    await made.remove()


def spec(tmp_path, script, name="c", attempt=0, **more):
    log = tmp_path / "logs" / name / f"{attempt}.log"
    return ContainerSpec(name, attempt, ["sh", "-c", script], ENV, "/", log, **more)


async def until(sandbox, test, seconds=10.0):
    """The containers' states, as soon as they satisfy ``test``."""
    async with asyncio.timeout(seconds):
        async for states in sandbox.watch():
            if test(states):
                return states
    raise AssertionError("the sandbox ended")


async def ended(sandbox, name="c", attempt=0):
    states = await until(sandbox, lambda s: name in s and s[name].attempt == attempt and not s[name].running)
    return states[name]


def said(tmp_path, name="c", attempt=0):
    lines = (tmp_path / "logs" / name / f"{attempt}.log").read_text().splitlines()
    return [line.split(" ", 3)[3] for line in lines]


def in_tree(pid):
    return Path(f"/proc/{pid}").exists()


async def gone(pid, seconds=5.0):
    async with asyncio.timeout(seconds):
        while in_tree(pid) and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            await asyncio.sleep(0.01)


async def test_a_container_has_namespaces_of_its_own(sandbox, tmp_path):
    script = (
        "hostname; echo $$; cat /etc/resolv.conf; cat /proc/sys/net/ipv4/ip_local_port_range;"
        " ls /sys/class/net; cat /sys/class/net/lo/operstate; ls /proc | grep -c '^[0-9]'"
    )
    await sandbox.start(spec(tmp_path, script))
    assert (await ended(sandbox)).exit_code == 0
    lines = said(tmp_path)
    assert lines[0] == "pod-name"
    assert int(lines[1]) < 20  # PIDs begin anew
    assert lines[2] == "nameserver 10.96.0.10"
    assert lines[3].split() == ["30000", "60999"]
    assert lines[4:6] == ["lo", "unknown"]  # loopback is up, and the only link
    assert int(lines[6]) < 10
    for kind in ("net", "pid", "mnt", "uts", "ipc"):
        own = Path(f"/proc/{sandbox.pid}/ns/{kind}").readlink()
        assert own != Path(f"/proc/self/ns/{kind}").readlink(), kind


async def test_it_is_nobodys_child_and_outlives_its_maker(sandbox):
    status = Path(f"/proc/{sandbox.pid}/status").read_text()
    parent = int(status.split("PPid:")[1].split()[0])
    assert parent != os.getpid()
    assert "Threads:\t1\n" in status
    assert sandbox.netns == f"/proc/{sandbox.pid}/ns/net"


async def test_it_is_found_again_with_all_that_runs_in_it(runtime, sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "echo up; exec sleep 60"))
    before = await until(sandbox, lambda s: "c" in s)
    (again,) = await runtime.adopt()
    assert again.alive
    assert (again.sandbox_id, again.pid, again.pod) == (sandbox.sandbox_id, sandbox.pid, POD)
    assert await until(again, lambda s: "c" in s) == before
    result = await again.execute("c", ["sh", "-c", "echo $GREETING; hostname; exit 3"], timeout=5)
    assert (result.exit_code, result.output) == (3, b"hello\npod-name\n")


async def test_hosts_change_under_a_running_container(sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "exec sleep 60"))
    sandbox.set_hosts("10.9.8.7 changed\n")
    result = await sandbox.execute("c", ["cat", "/etc/hosts"], timeout=5)
    assert result.output == b"10.9.8.7 changed\n"
    assert "changed" not in Path("/etc/hosts").read_text()


async def test_an_exec_that_takes_too_long_is_killed(sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "exec sleep 60"))
    with pytest.raises(TimeoutError):
        await sandbox.execute("c", ["sleep", "3599"], timeout=0.2)
    async with asyncio.timeout(5):
        while b"3599" in (await sandbox.execute("c", ["ps", "-eo", "args"], timeout=5)).output:
            await asyncio.sleep(0.02)


async def test_an_exec_may_write_more_than_is_kept(sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "exec sleep 60"))
    result = await sandbox.execute("c", ["head", "-c", "1000000", "/dev/zero"], timeout=10)
    assert (result.exit_code, len(result.output)) == (0, 64 * 1024)


async def test_signals_and_exit_codes(sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"))
    async with asyncio.timeout(5):
        while not (tmp_path / "logs/c/0.log").exists():
            await asyncio.sleep(0.01)
    await sandbox.signal("c", signal.SIGTERM)
    assert (await ended(sandbox)).exit_code == 7
    assert said(tmp_path) == ["up", "bye"]
    await sandbox.start(spec(tmp_path, "exec sleep 60", attempt=1))
    await sandbox.signal("c", signal.SIGKILL, everything=True)
    state = await ended(sandbox, attempt=1)
    assert (state.exit_code, state.signal, state.reason) == (137, 9, "Error")


async def test_the_end_is_in_a_file_too(sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "exit 5"))
    await ended(sandbox)
    (record,) = (tmp_path / "run").glob("*/c.0.exit")
    assert '"exitCode": 5' in record.read_text()


async def test_a_program_that_does_not_exist_is_a_start_error(sandbox, tmp_path):
    missing = ContainerSpec("c", 0, ["/no/such/program"], ENV, "/", tmp_path / "logs/c/0.log")
    with pytest.raises(StartError, match="cannot run /no/such/program: No such file"):
        await sandbox.start(missing)
    nowhere = ContainerSpec("c", 1, ["true"], ENV, "/no/such/dir", tmp_path / "logs/c/1.log")
    with pytest.raises(StartError, match="cannot change to workingDir /no/such/dir"):
        await sandbox.start(nowhere)


async def test_user_and_group(sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "id -u; id -g; id -G", uid=65534, gid=65534))
    await ended(sandbox)
    assert said(tmp_path) == ["65534", "65534", "65534"]


@pytest.mark.skipif("memory" in cgroups.detect().missing, reason="this host has no cgroup controller memory")
async def test_memory_beyond_the_limit_is_killed_by_name(sandbox, tmp_path):
    grow = f"exec {sys.executable} -IS -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'"
    await sandbox.start(spec(tmp_path, grow, limits=Limits(memory=32 * 2**20)))
    state = await ended(sandbox)
    assert (state.exit_code, state.reason) == (137, "OOMKilled")


@pytest.mark.skipif("pids" in cgroups.detect().missing, reason="this host has no cgroup controller pids")
async def test_the_number_of_processes_is_limited(sandbox, tmp_path):
    fork = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; echo all"
    await sandbox.start(spec(tmp_path, fork, limits=Limits(pids=4)))
    await ended(sandbox)
    assert any("fork" in line.lower() for line in said(tmp_path))


@pytest.mark.skipif("cpu" in cgroups.detect().missing, reason="this host has no cgroup controller cpu")
async def test_cpu_is_limited(sandbox, tmp_path):
    burn = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    run = ContainerSpec(
        "c", 0, [sys.executable, "-IS", "-c", burn], ENV, "/", tmp_path / "logs/c/0.log", Limits(cpu=200)
    )
    await sandbox.start(run)
    await ended(sandbox)
    assert float(said(tmp_path)[0]) < 0.5  # of one second, at a fifth of a CPU


async def test_what_an_attempt_left_running_ends_with_the_next(sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "setsid sleep 3598 & exit 1"))
    await ended(sandbox)
    await sandbox.start(spec(tmp_path, "exec sleep 60", attempt=1))
    assert b"3598" not in (await sandbox.execute("c", ["ps", "-eo", "args"], timeout=5)).output


async def test_removal_leaves_nothing(runtime, sandbox, tmp_path):
    await sandbox.start(
        spec(tmp_path, "setsid sleep 3597 & trap '' TERM; echo up; while :; do sleep 1; done")
    )
    await until(sandbox, lambda s: "c" in s)
    pid, groups = sandbox.pid, runtime._pods
    await sandbox.remove()
    await gone(pid)
    assert not sandbox.alive
    assert list((tmp_path / "run").iterdir()) == []
    assert [d for base in groups.directories for d in base.glob("*") if d.is_dir()] == []
    await sandbox.remove()  # repeating is fine


async def test_a_killed_sandbox_is_found_dead_and_can_be_removed(runtime, sandbox, tmp_path):
    await sandbox.start(spec(tmp_path, "exec sleep 60"))
    os.kill(sandbox.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        async for _ in sandbox.watch():
            pass
    await gone(sandbox.pid)
    (dead,) = await runtime.adopt()
    assert not dead.alive
    assert dead.netns == ""
    await dead.remove()
    assert await runtime.adopt() == []


async def test_a_sandbox_that_cannot_be_made_leaves_nothing(runtime, tmp_path):
    long = {"metadata": {**POD["metadata"], "uid": "ffff"}, "spec": {}}
    with pytest.raises(KernelError, match="cannot start a sandbox"):
        await runtime.create(SandboxSpec(new_sandbox_id(), long, "x" * 65, "", ""))
    assert list((tmp_path / "run").iterdir()) == []


async def test_its_start_is_quick_and_small(runtime, tmp_path):
    began = time.monotonic()
    pod = {"metadata": {**POD["metadata"], "uid": "abcd"}, "spec": {}}
    made = await runtime.create(SandboxSpec(new_sandbox_id(), pod, "p", "", ""))
    try:
        assert time.monotonic() - began < 5
        rss = int(Path(f"/proc/{made.pid}/status").read_text().split("RssAnon:")[1].split()[0])
        assert rss < 16 * 1024  # kB: 6 MB when this was written
    finally:
        await made.remove()
