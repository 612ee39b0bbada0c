"""Which mode a node gets, and what it is told where that is not the one it asked for."""

import pytest

from netplane.config import Paths
from netplane.errors import KernelError
from proxy import choice
from proxy.modes import Mode


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch):
    """Make modes lack something."""

    def lack(*modes: Mode) -> None:
        def refuse(mode: Mode):
            def check(_paths: Paths) -> None:
                raise KernelError(
                    f"cannot use {mode} mode: the kernel has no such thing", "Linux 5.15 has it"
                )

            return check

        checks = {mode: refuse(mode) if mode in modes else (lambda _paths: None) for mode in choice.CHECKS}
        monkeypatch.setattr(choice, "CHECKS", checks)

    return lack


def test_every_mode_is_checked_and_the_best_comes_first() -> None:
    assert list(choice.CHECKS) == [Mode.EBPF, Mode.NFTABLES, Mode.USERSPACE]


def test_auto_is_the_best_that_works_and_says_why_no_better_one_does(lacking) -> None:
    lacking()
    assert choice.resolve(Mode.AUTO, Paths()) == (
        Mode.EBPF,
        "mode auto is ebpf here: nothing is missing for it",
    )
    lacking(Mode.EBPF)
    mode, why = choice.resolve(Mode.AUTO, Paths())
    assert (mode, why) == (
        Mode.NFTABLES,
        "mode auto is nftables here: cannot use ebpf mode: the kernel has no such thing",
    )
    lacking(Mode.EBPF, Mode.NFTABLES)
    mode, why = choice.resolve(Mode.AUTO, Paths())
    assert mode is Mode.USERSPACE
    assert "ebpf mode" in why
    assert "nftables mode" in why


def test_a_mode_that_was_asked_for_is_taken_or_refused_with_one_that_works(lacking) -> None:
    lacking(Mode.EBPF)
    assert choice.resolve(Mode.NFTABLES, Paths()) == (Mode.NFTABLES, "")
    with pytest.raises(KernelError) as refused:
        choice.resolve(Mode.EBPF, Paths())
    assert str(refused.value) == (
        "cannot use ebpf mode: the kernel has no such thing. Mode nftables works here"
    )
