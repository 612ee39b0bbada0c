"""What runs on other machines is checked by the tools that will read it there."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment or None)


def test_vagrantfile_is_ruby() -> None:
    done = run("ruby", "-c", "vagrant/Vagrantfile")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["dev", ".ci/run", "vagrant/provision.sh"])
def test_scripts_pass_shellcheck(script: str) -> None:
    done = run("shellcheck", script)
    assert done.returncode == 0, done.stdout


def test_units_are_what_systemd_expects(tmp_path: Path) -> None:
    """The executable is installed elsewhere on a user's machine; here its place is taken by one that exists."""
    for unit in (ROOT / "deploy/systemd").iterdir():
        text = unit.read_text().replace("/opt/netplane/.venv/bin/netplane", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    path = f"{tmp_path}:/lib/systemd/system:/usr/lib/systemd/system"
    done = run("systemd-analyze", "verify", *units, SYSTEMD_UNIT_PATH=path, PATH="/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_daemon_of_a_unit_is_a_command() -> None:
    for unit in (ROOT / "deploy/systemd").glob("*.service"):
        (line,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
        arguments = line.split()[1:]
        done = run(str(ROOT / ".venv/bin/netplane"), *arguments, "--help")
        assert done.returncode == 0, f"{unit.name}: {done.stderr}"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "unknown role ''"),
        (["master"], "unknown role 'master'"),
        (["worker"], "a worker needs --join TOKEN@HOST and --ca-hash HASH"),
        (["worker", "--join", "t@h", "--ca-hash", "x", "--address", "1.2.3.4"], "are for a control plane"),
        (["all-in-one", "--join", "t@h"], "--join and --ca-hash are for a worker"),
        (["all-in-one", "--adress", "1.2.3.4"], "unknown option '--adress'"),
        (["all-in-one", "--address"], "option --address needs a value"),
    ],
)
def test_provisioning_refuses_nonsense_by_name(arguments: list[str], complaint: str) -> None:
    done = run("vagrant/provision.sh", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
