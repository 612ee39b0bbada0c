"""Cgroups of a run that was killed are taken away by a later one, and nobody else's."""

import subprocess
import sys
from pathlib import PurePosixPath

import pytest

from netplane.linux import orphans
from netplane.linux.cgroups import Cgroup, detect

pytestmark = pytest.mark.netns
OWNER = """
import sys
from pathlib import PurePosixPath
from netplane.linux.cgroups import Cgroup, detect
from netplane.linux.orphans import own
group = Cgroup(detect(), PurePosixPath(sys.argv[1]))
own(group)
group.child("inner").create()
print("made", flush=True)
sys.stdin.read()
"""


def there(name: str) -> bool:
    return any(directory.exists() for directory in Cgroup(detect(), PurePosixPath(name)).directories)


def test_what_a_killed_run_left_goes_and_all_else_stays() -> None:
    name = f"netplane-test-orphan-{id(object()) % 100000}"
    pipe = subprocess.PIPE
    nobodys = Cgroup(detect(), PurePosixPath(f"{name}-nobodys"))
    nobodys.create()
    try:
        with subprocess.Popen([sys.executable, "-c", OWNER, name], stdin=pipe, stdout=pipe) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"made\n"
            assert name not in orphans.sweep()
            owner.kill()
        with subprocess.Popen(["sleep", "60"]) as guest:
            for procs in Cgroup(detect(), PurePosixPath(name)).child("inner").procs:
                procs.write_text(str(guest.pid))
            assert name not in orphans.sweep()
            guest.kill()
        assert name in orphans.sweep()
        assert not there(name)
        assert there(f"{name}-nobodys")
    finally:
        nobodys.remove()
        Cgroup(detect(), PurePosixPath(name)).remove()
