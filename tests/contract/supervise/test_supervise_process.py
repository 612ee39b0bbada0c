"""How daemons are started: descriptors, environment, back-off."""

import os
import sys

from hypothesis import given
from hypothesis import strategies as st

from netplane.node.supervise.notify import LOWEST_KEPT, Held
from netplane.node.supervise.process import environment_for, layout, restart_delay, spawn


@given(st.sets(st.integers(LOWEST_KEPT, LOWEST_KEPT + 300), max_size=200))
def test_no_descriptor_overwrites_one_that_is_still_to_be_copied(fds):
    table = {fd: fd for fd in fds}  # number -> what is open there
    placed = layout([Held("x", fd) for fd in fds])
    for held, number in placed:
        table[number] = table[held.fd]
    assert [table[number] for _held, number in placed] == sorted(fds)
    assert [number for _held, number in placed] == list(range(3, 3 + len(fds)))


@given(st.floats(0, 100), st.integers(0, 1000))
def test_back_off_is_bounded_and_a_steady_daemon_comes_back_at_once(ran, failures):
    delay = restart_delay(ran, failures)
    assert 0.0 <= delay <= 10.0
    assert (delay == 0.0) == (ran >= 5.0)


def test_back_off_doubles():
    assert [restart_delay(0.1, failures) for failures in range(4)] == [0.1, 0.2, 0.4, 0.8]


def test_what_was_addressed_to_us_is_not_passed_on():
    base = {
        "PATH": "/bin",
        "LISTEN_FDS": "3",
        "LISTEN_PID": "1",
        "NOTIFY_SOCKET": "/x",
        "LISTEN_FDNAMES": "a",
    }
    assert environment_for(base, [], None, {"A": "b"}) == {"PATH": "/bin", "A": "b"}


def test_names_go_with_their_numbers():
    held = [Held("second", 120), Held("first", 110)]
    environment = environment_for({}, held, None, {})
    assert environment == {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "first:second"}


def test_a_child_receives_its_descriptors_under_its_own_pid(tmp_path):
    reading, writing = os.pipe()
    kept = os.dup2(reading, 150, inheritable=False)
    os.write(writing, b"passed")
    code = (
        "import os; print(os.environ['LISTEN_PID'] == str(os.getpid()), os.read(3, 6), "
        "os.environ['LISTEN_FDNAMES'], os.getsid(0) == os.getpid())"
    )
    log = tmp_path / "log"
    with log.open("wb") as output:
        pid = spawn([sys.executable, "-c", code], output=output.fileno(), held=[Held("pipe", kept)])
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert log.read_text() == "True b'passed' pipe True\n"
    for fd in (reading, writing, kept):
        os.close(fd)


def test_a_missing_program_ends_with_127_and_says_why(tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as output:
        pid = spawn(["/does/not/exist"], output=output.fileno())
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 127
    assert "/does/not/exist" in log.read_text()
