"""What ebpf mode lacks on a machine is named in one line, with the mode that works instead."""

import shutil
from pathlib import Path

import pytest

from netplane.config import Paths
from netplane.errors import ConfigError, KernelError
from netplane.linux import bpf_library
from netplane.linux.cgroups import Layout
from proxy import choice
from proxy.ebpf import build, probe
from proxy.ebpf.objects import HERE as HERE_BPF
from proxy.ebpf.objects import SOCKETS, Source
from proxy.modes import Mode

HERE = Paths(Path("/nowhere"))


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with all of it, as far as these checks see."""
    monkeypatch.setattr(probe, "detect", lambda: Layout(2, {}, Path("/sys/fs/cgroup")))
    monkeypatch.setattr(Source, "built", lambda _self: Path("sockets.bpf.o"))
    for name in ("has_program_type", "has_map_type", "has_helper"):
        monkeypatch.setattr(probe.bpf, name, lambda *_: True)
    monkeypatch.setattr(probe.bpf, "loaded", _Loaded)


class _Loaded:
    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def lacks(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(choice.CHECKS, Mode.NFTABLES, lambda _paths: None)
    with pytest.raises(KernelError) as error:
        choice.resolve(Mode.EBPF, HERE)
    return str(error.value)


def test_nothing_is_missing() -> None:
    probe.check(HERE)
    assert probe.where(Paths()).cgroup == Path("/sys/fs/cgroup"), "on a machine, all that runs there"
    assert probe.where(HERE).cgroup.name.startswith("netplane-")


def test_no_cgroup_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "detect", lambda: Layout(1, {}))
    assert lacks(monkeypatch) == (
        "cannot use ebpf mode: this host has no cgroup v2 hierarchy. Mode nftables works here"
    )


def test_no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(_self: Source) -> Path:
        raise KernelError("cannot use ebpf mode: its programs are not built", "Install clang")

    monkeypatch.setattr(Source, "built", built)
    assert lacks(monkeypatch) == "cannot use ebpf mode: its programs are not built. Mode nftables works here"


def test_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.bpf, "has_helper", lambda _type, number: number != 122)
    assert "the kernel has no bpf_get_netns_cookie. Mode nftables works here" in lacks(monkeypatch)


def test_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.bpf, "has_program_type", lambda _type: False)
    assert "no cgroup socket hooks for us (CONFIG_CGROUP_BPF, root)" in lacks(monkeypatch)


def test_no_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise OSError("libbpf.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(bpf_library.ctypes, "CDLL", missing)
    # Not the one that this process has loaded already.
    monkeypatch.setattr(probe.bpf, "has_program_type", lambda _type: bpf_library.library.__wrapped__())
    assert lacks(monkeypatch) == "cannot load libbpf.so.1. Mode nftables works here"


def test_no_clang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Said by set-up, which goes on without."""
    shutil.copytree(HERE_BPF / "bpf", tmp_path / "bpf")
    monkeypatch.setattr(build, "SOCKETS", Source("sockets", SOCKETS.headers, tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="clang is not installed"):
        build.build()


def test_no_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(HERE_BPF / "bpf", tmp_path / "bpf")
    (tmp_path / "bpf/maps.h").unlink()
    (tmp_path / "bpf/maps.h").write_text("#include <bpf/nowhere.h>\n")
    monkeypatch.setattr(build, "SOCKETS", Source("sockets", SOCKETS.headers, tmp_path))
    with pytest.raises(ConfigError, match=r"(?s)nowhere\.h.*not found"):
        build.build()
    assert not list((tmp_path / "build").iterdir()), "nothing half-made is left"
