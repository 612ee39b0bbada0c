"""Which mode a node gets: the one that was asked for, where its kernel has what that needs; or the best that works.

Why it says why: a node that is slower than its neighbours is a question somebody will have.
"""

from collections.abc import Callable, Mapping

from netplane.config import Paths
from netplane.errors import KernelError
from proxy.ebpf import probe as hooks
from proxy.modes import Mode
from proxy.nftables import probe

# Best first; the last one needs nothing that a kernel of ours could lack.
CHECKS: Mapping[Mode, Callable[[Paths], None]] = {
    Mode.EBPF: hooks.check,
    Mode.NFTABLES: lambda _paths: probe.check(),
    Mode.USERSPACE: lambda _paths: None,
}


def choose(paths: Paths) -> tuple[Mode, str]:
    """The best mode that works here, and why no better one does. Blocking."""
    reasons = []
    for mode, check in CHECKS.items():
        try:
            check(paths)
        except KernelError as error:
            reasons.append(error.message)
        else:
            return mode, "; ".join(reasons) or "nothing is missing for it"
    raise AssertionError("mode userspace needs nothing")


def resolve(asked: Mode, paths: Paths) -> tuple[Mode, str]:
    """The mode, and a line about the choice; for one that was asked for, "".

    Blocking. Raises KernelError naming what is missing for it, and the mode that works instead.
    """
    if asked is Mode.AUTO:
        mode, why = choose(paths)
        return mode, f"mode auto is {mode} here: {why}"
    try:
        CHECKS[asked](paths)
    except KernelError as error:
        raise KernelError(error.message, f"Mode {choose(paths)[0]} works here") from None
    return asked, ""
