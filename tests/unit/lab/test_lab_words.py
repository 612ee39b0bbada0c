"""The words that boot and enter machines, and the lock on a lab."""

from netplane.lab import place
from netplane.lab.power import joining


def test_a_process_joins_its_cgroups_before_it_becomes_something_else():
    words = [*joining(["/cg/a/procs", "/cg/b/procs"]), "true", "an argument"]
    assert words[:2] == ["/bin/sh", "-ec"]
    assert words[2] == 'cd /; echo 0 > /cg/a/procs; echo 0 > /cg/b/procs; exec "$@"'
    assert words[4:] == ["true", "an argument"]


def test_a_lab_is_one_commands_at_a_time(tmp_path):
    directory = tmp_path / "lab"
    with place.locked(directory, wait=0.0) as first:
        assert first
        with place.locked(directory, wait=0.0) as second:
            assert not second
    with place.locked(directory, wait=0.0) as third:
        assert third


def test_a_lock_on_a_removed_directory_is_no_lock(tmp_path):
    directory = tmp_path / "lab"
    with place.locked(directory, wait=0.0) as first:
        assert first
        directory.rmdir()
        with place.locked(directory, wait=0.0) as second:
            assert second
