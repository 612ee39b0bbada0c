"""What ebpf mode lacks on a machine is named in one line, with the mode that works instead."""

from pathlib import Path

import pytest

from netplane.config import Paths
from netplane.errors import KernelError
from netplane.linux.cgroups import Layout
from proxy import choice
from proxy.ebpf import probe
from proxy.ebpf.objects import Source
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
