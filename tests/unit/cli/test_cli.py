"""The command line: every command explains itself, every error is one line with the right status."""

import json
import subprocess
import sys

import click
import pytest

from netplane.cli import main as cli
from netplane.cli.output import table
from netplane.errors import ConfigError, KernelError, NetplaneError


def commands(group=cli.netplane, path=()):
    """Every command and sub-command, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize(("words", "command"), [pytest.param(w, c, id=" ".join(w)) for w, c in commands()])
def test_every_command_has_help_with_an_example_of_itself(words, command, capsys):
    assert cli.main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"netplane {' '.join(words)}" in text.partition("Example:")[2]
    assert "Usage: netplane" in text
    summary = command.get_short_help_str(200)
    assert summary
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{words}: {parameter.name} says nothing"


CONTRACT = (
    """up supervise controlplane node proxy dns cni uninstall lab explain services endpoints flows status"""
    """ sync flush mode bench doctor top"""
)
LAB = "up down status kubeconfig exec kill start demo"


def test_the_contracts_words_are_there():
    found = {words for words, _command in commands()}
    assert {(word,) for word in CONTRACT.split()} <= found
    assert {("lab", word) for word in LAB.split()} <= found
    assert {("cni", word) for word in ("install", "serve", "status", "leases", "gc")} <= found


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lab", "up", "--name", "NO"], "netplane: cannot name a lab 'NO'"),
        (["lab", "up", "--mode", "ipvs"], "netplane: cannot make lab lab: --mode ipvs is not served"),
        (["lab", "exec", "--name", "nowhere", "n1", "--", "true"], "netplane: cannot find lab nowhere"),
        (["lab", "kubeconfig", "--name", "nowhere"], "netplane: cannot find lab nowhere"),
        (["node", "--join", "x", "--ca-hash", "y"], "netplane: cannot use --join 'x'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, line, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["nonsense"], ["lab", "up", "--nodes", "many"], ["lab", "exec"]])
def test_bad_usage_is_status_2_on_stderr(arguments, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error: " in captured.err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("cannot use a: b", "Do c"), 2, "netplane: cannot use a: b. Do c\n"),
        (KernelError("cannot do\nit"), 1, "netplane: cannot do it\n"),
        (
            OSError(28, "No space left on device", "/x"),
            1,
            "netplane: cannot use /x: No space left on device\n",
        ),
        (ExceptionGroup("", [KernelError("cannot d"), ConfigError("cannot e")]), 1, "netplane: cannot d\n"),
        (KeyboardInterrupt(), 130, "netplane: interrupted\n"),
    ],
)
def test_an_error_of_any_kind_becomes_a_line_and_a_status(error, status, line, capsys, monkeypatch):
    monkeypatch.delenv("NETPLANE_DEBUG", raising=False)
    failing(monkeypatch, error)
    assert cli.main(["lab", "list"]) == status
    assert capsys.readouterr().err.lstrip("\n").startswith(line)  # click ends the line of a ^C


def test_who_is_not_root_is_told_to_be(capsys, monkeypatch):
    monkeypatch.delenv("NETPLANE_DEBUG", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    failing(monkeypatch, PermissionError(1, "Operation not permitted"))
    assert cli.main(["lab", "list"]) == 1
    line = "netplane: cannot use the system: Operation not permitted. Run it with sudo\n"
    assert capsys.readouterr().err == line


def test_a_lab_that_is_not_there_is_no_reason_to_fail_but_is_said(capsys, monkeypatch):
    monkeypatch.setattr("netplane.lab.place.names", lambda: ["demo"])
    assert cli.main(["lab", "down", "--name", "dem0"]) == 0
    assert capsys.readouterr().err == "there is no lab dem0, but demo\n"


@pytest.mark.parametrize("words", [["--root", "/nowhere", "status"], ["status", "--root", "/nowhere"]])
def test_the_root_of_a_supervisor_may_come_before_or_after_the_command(words, capsys):
    assert cli.main(["supervise", *words]) == 1
    socket = "/nowhere/run/netplane/supervise.sock"
    assert capsys.readouterr().err == f"netplane: cannot ask {socket} to status: No such file or directory\n"


def test_debug_shows_where_an_error_comes_from(monkeypatch):
    monkeypatch.setenv("NETPLANE_DEBUG", "1")
    failing(monkeypatch, NetplaneError("cannot go on"))
    with pytest.raises(NetplaneError):
        cli.main(["lab", "list"])


def test_a_bug_is_not_explained_away(monkeypatch):
    failing(monkeypatch, KeyError("oh"))
    with pytest.raises(KeyError):
        cli.main(["lab", "list"])


def failing(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr("netplane.lab.place.names", fail)


@pytest.mark.parametrize(("form", "read"), [("json", json.loads), ("table", str)])
def test_data_comes_in_the_form_asked_for(form, read, capsys, monkeypatch):
    monkeypatch.setattr("netplane.lab.place.names", list)
    assert cli.main(["lab", "list", "-o", form]) == 0
    assert read(capsys.readouterr().out) == ([] if form == "json" else "NAME   STATE\n")


def test_a_table_is_aligned_and_has_a_dash_for_nothing():
    rows = [{"a": "x", "b": ["1", "2"]}, {"a": "longer", "b": None}]
    assert table(rows, {"a": "A", "b": "B"}) == "A        B\nx        1,2\nlonger   -\n"


def test_help_loads_no_heavy_module():
    code = (
        "import sys; from netplane.cli.main import main; main(['--help']); "
        "print([m for m in ('aiohttp', 'pyroute2', 'scapy', 'cryptography', 'uvloop', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("given", "said"),
    [([], True), (["--endpoint-metrics"], True), (["--no-endpoint-metrics"], False)],
)
def test_an_option_of_the_proxy_wins_over_the_settings_file(given, said, tmp_path, monkeypatch):
    """Also where it says no."""
    from netplane.cli import daemons
    from proxy.agent import Settings, load_settings

    path = tmp_path / "etc/netplane/proxy.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("endpointMetrics: true\n")
    asked = {}
    monkeypatch.setattr(daemons, "run_daemon", lambda *_, **options: asked.update(options))
    assert cli.main(["proxy", "--root", str(tmp_path), *given]) == 0
    assert load_settings(path, **asked).endpoint_metrics is said
    assert not Settings().endpoint_metrics, "without any word it is off"
