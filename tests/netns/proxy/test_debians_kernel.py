"""Both kernel modes on the kernel that Debian installs (6.1 on Debian 12): the contract, and the table of flows."""

from pathlib import Path

import pytest

from tests import virtual_machine

pytestmark = [pytest.mark.netns, pytest.mark.long]
TESTS = " ".join(
    (
        "tests/contract/proxy",
        *(
            f"tests/netns/proxy/test_{name}.py"
            for name in ("flows", "nftables", "ebpf_sockets", "host_routing")
        ),
    )
)
HALF_AN_HOUR = 1800  # of which it takes a quarter, emulated


def test_the_kernel_modes_work_on_debians_kernel(tmp_path: Path) -> None:
    if virtual_machine.kernel() is None:
        pytest.skip("no kernel was fetched: ./dev test long does, where the machine's mirror has one")
    command = f"HYPOTHESIS_PROFILE=emulated .venv/bin/pytest -q -p no:cacheprovider --maxfail=5 {TESTS}"
    status, said = virtual_machine.run(tmp_path, command, HALF_AN_HOUR)
    assert status == 0, said[-20_000:]
