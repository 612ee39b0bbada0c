"""What is written into which file, on the unified hierarchy and on the old ones, in a directory that plays them."""

from pathlib import PurePosixPath

import pytest

from netplane.errors import KernelError
from netplane.linux.cgroups import Cgroup, Limits, detect

ALL = Limits(memory=64 << 20, cpu=500, cpu_share=250, pids=100)


def unified(tmp_path, controllers="cpu io memory pids"):
    (tmp_path / "cgroup.controllers").write_text(controllers + "\n")
    return detect(tmp_path)


def old(tmp_path, *controllers):
    for name in controllers:
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text("")
    return detect(tmp_path)


def test_versions_and_missing_controllers_by_name(tmp_path):
    assert unified(tmp_path, "cpu pids").missing == ("memory",)
    (tmp_path / "cgroup.controllers").unlink()
    assert detect(tmp_path).version == 0
    assert detect(tmp_path).missing == ("cpu", "memory", "pids")
    layout = old(tmp_path, "cpu", "memory")
    assert (layout.version, layout.missing) == (1, ("pids",))


def test_v2_files(tmp_path):
    group = Cgroup(unified(tmp_path), PurePosixPath("netplane/pods/a"))
    group.create(ALL)
    own = tmp_path / "netplane/pods/a"
    assert {f.name: f.read_text() for f in own.iterdir()} == {
        "cpu.max": "50000 100000",
        "cpu.weight": "10",
        "memory.max": str(64 << 20),
        "pids.max": "100",
    }
    for parent in (tmp_path, tmp_path / "netplane", tmp_path / "netplane/pods"):
        assert (parent / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert not (own / "cgroup.subtree_control").exists()
    assert group.procs == [own / "cgroup.procs"]


def test_v1_files(tmp_path):
    group = Cgroup(old(tmp_path, "cpu", "memory", "pids"), PurePosixPath("netplane/a"))
    group.create(ALL)

    def text(path):
        return (tmp_path / path).read_text()

    assert text("cpu/netplane/a/cpu.cfs_quota_us") == "50000"
    assert text("cpu/netplane/a/cpu.cfs_period_us") == "100000"
    assert text("cpu/netplane/a/cpu.shares") == "256"
    assert text("memory/netplane/a/memory.limit_in_bytes") == str(64 << 20)
    assert text("pids/netplane/a/pids.max") == "100"
    assert len(group.procs) == 3


def test_no_limits_no_files(tmp_path):
    group = Cgroup(unified(tmp_path), PurePosixPath("a"))
    group.create()
    assert list((tmp_path / "a").iterdir()) == []


def test_a_limit_without_its_controller_is_refused_by_name(tmp_path):
    group = Cgroup(unified(tmp_path, "cpu"), PurePosixPath("a"))
    with pytest.raises(
        KernelError, match=r"cannot set memory.max to 5: this host has no cgroup controller memory"
    ):
        group.create(Limits(memory=5))


def test_oom_kills_are_counted(tmp_path):
    group = Cgroup(unified(tmp_path), PurePosixPath("a"))
    group.create()
    assert group.oom_kills() == 0
    (tmp_path / "a/memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert group.oom_kills() == 1


@pytest.mark.parametrize(("milli", "quota"), [(1, 1000), (10, 1000), (1500, 150_000)])
def test_quota_has_a_floor(milli, quota):
    assert Limits(cpu=milli).files_v2()["cpu.max"] == f"{quota} 100000"


@pytest.mark.parametrize(("milli", "weight"), [(0, 1), (1000, 39), (10**9, 10_000)])
def test_weight_stays_within_the_kernels_range(milli, weight):
    assert Limits(cpu_share=milli).files_v2()["cpu.weight"] == str(weight)
