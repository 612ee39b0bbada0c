"""kubectl's conversations with pods, as people have them: logs, exec, cp, attach, port-forward, run."""

import fcntl
import hashlib
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.cluster.driver import KUBECTL, Lab, eventually, ready

pytestmark = pytest.mark.skipif(
    not KUBECTL.exists(), reason="kubectl 1.32 was not fetched by ./dev setup test"
)

BIG = 10 * 1024 * 1024
TALK = """
apiVersion: v1
kind: Pod
metadata: {name: talk, labels: {app: talk}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: lines, image: none, command: [sh, -c, 'for i in 1 2 3; do echo line $i; done; exec sleep 100000']}
  - name: echo
    image: none
    stdin: true
    command: [sh, -c, 'while read x; do echo heard $x; done']
  - {name: crash, image: none, command: [sh, -c, 'echo attempt; echo last words; exit 4']}
"""
# A server of our own: it sends as much as the path says, and reads nothing but the head.
SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * int(self.path[1:]))
    def do_PUT(self):
        import hashlib
        body = hashlib.sha256(self.rfile.read(int(self.headers["Content-Length"]))).hexdigest()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Answer).serve_forever()
"""
SERVE = """
apiVersion: v1
kind: Service
metadata: {name: serve}
spec: {selector: {app: serve}, ports: [{port: 80, targetPort: 8000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: serve}
spec:
  selector: {matchLabels: {app: serve}}
  template:
    metadata: {labels: {app: serve}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: serve, image: none, command: [PYTHON, SCRIPT], ports: [{containerPort: 8000}]}]
"""


def command(lab: Lab, *arguments: str) -> list[str]:
    return [str(KUBECTL), "--kubeconfig", lab.kubeconfig, *arguments]


def run(
    lab: Lab, *arguments: str, stdin: bytes = b"", timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(lab, *arguments), input=stdin, capture_output=True, timeout=timeout)


@pytest.fixture(scope="module")
def talk(lab: Lab) -> Iterator[str]:
    lab.kubectl("create", "-f", "-", stdin=TALK)
    eventually(lambda: restarts(lab, "crash") >= 1, "the crashing container's second attempt", 90)
    yield "talk"
    lab.kubectl("delete", "pod", "talk", "--wait=false")


@pytest.fixture(scope="module")
def serve(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a pod, a Deployment's and a Service's; it listens on its 127.0.0.1:8000 only."""
    script = tmp_path_factory.mktemp("serve") / "serve.py"
    script.write_text(SERVER)
    lab.kubectl(
        "create", "-f", "-", stdin=SERVE.replace("PYTHON", sys.executable).replace("SCRIPT", str(script))
    )
    eventually(lambda: [pod for pod in lab.pods("app=serve") if ready(pod)], "the server ready")
    name = str(lab.pods("app=serve")[0]["metadata"]["name"])
    eventually(lambda: run(lab, "exec", name, "--", *KNOCK).returncode == 0, "the server listening")
    yield name
    lab.kubectl("delete", "deployment,service", "serve", "--wait=false")


KNOCK = (sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 8000))")


def restarts(lab: Lab, container: str) -> int:
    statuses = lab.get("pod", "talk")["status"].get("containerStatuses", [])
    return next((s["restartCount"] for s in statuses if s["name"] == container), 0)


def test_logs(lab: Lab, talk: str) -> None:
    assert lab.kubectl("logs", talk, "-c", "lines") == "line 1\nline 2\nline 3\n"
    assert lab.kubectl("logs", talk, "-c", "lines", "--tail=1") == "line 3\n"
    assert lab.kubectl("logs", talk, "-c", "lines", "--limit-bytes=9") == "line 1\nli"
    assert lab.kubectl("logs", talk, "-c", "crash", "--previous") == "attempt\nlast words\n"
    stamped = lab.kubectl("logs", talk, "-c", "lines", "--timestamps", "--tail=1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z line 3\n", stamped)
    assert lab.kubectl("logs", talk, "-c", "lines", "--since=1s") in ("", "line 1\nline 2\nline 3\n")
    prefixed = lab.kubectl("logs", "-l", "app=talk", "--all-containers", "--prefix", "--tail=1")
    assert "[pod/talk/lines] line 3" in prefixed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("logs", "talk", "-c", "lines", "-p"),
            'previous terminated container "lines" in pod "talk" not found',
        ),
        (("logs", "talk", "-c", "no"), "container no is not valid for pod talk"),
        (("exec", "talk", "-c", "no", "--", "ls"), "container no is not valid for pod talk"),
        (("exec", "talk", "-c", "lines", "--", "nosuch"), "cannot run nosuch: No such file or directory"),
        (("exec", "talk", "-c", "crash", "--", "ls"), 'container not found ("crash")'),
        (("attach", "nobody"), 'pods "nobody" not found'),
    ],
)
def test_mistakes_are_explained(lab: Lab, talk: str, arguments: tuple[str, ...], complaint: str) -> None:
    done = run(lab, *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr.decode()


@contextmanager
def started(lab: Lab, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command(lab, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_log_is_followed_while_it_grows(lab: Lab, talk: str) -> None:
    with (
        started(lab, "logs", "-f", talk, "-c", "echo") as follow,
        started(lab, "attach", "-i", talk, "-c", "echo") as attach,
    ):
        assert attach.stdin is not None
        assert attach.stdout is not None
        assert follow.stdout is not None
        for word in (b"one", b"two"):
            attach.stdin.write(word + b"\n")
            attach.stdin.flush()
            assert attach.stdout.readline() == b"heard " + word + b"\n"
            assert follow.stdout.readline() == b"heard " + word + b"\n"


def test_exec_keeps_streams_and_codes_apart(lab: Lab, talk: str) -> None:
    done = run(lab, "exec", talk, "-c", "lines", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n")
    assert done.stderr.decode().splitlines() == ["err", "command terminated with exit code 3"]


def test_ten_mebibytes_in_and_out_of_exec(lab: Lab, talk: str) -> None:
    data = os.urandom(BIG)
    done = run(
        lab, "exec", "-i", talk, "-c", "lines", "--", "sh", "-c", "tee /dev/stderr | sha256sum", stdin=data
    )
    assert done.stdout.decode().split()[0] == hashlib.sha256(data).hexdigest()
    assert done.stderr == data


def test_files_are_copied_both_ways(lab: Lab, talk: str, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    source = tmp_path / "source"
    source.write_bytes(os.urandom(BIG))
    lab.kubectl("cp", str(source), f"{talk}:{there}", "-c", "lines")
    assert there.read_bytes() == source.read_bytes()
    lab.kubectl("cp", f"{talk}:{there}", str(back), "-c", "lines")
    assert back.read_bytes() == source.read_bytes()


class Terminal:
    """kubectl on a terminal, and somebody at it."""

    def __init__(self, arguments: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(arguments[0], arguments)
        self.seen = b""
        self.resize(101, 33)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def until(self, text: str, seconds: float = 30) -> str:
        deadline = threading.Timer(seconds, os.kill, (self.pid, signal.SIGKILL))
        deadline.start()
        try:
            while text.encode() not in self.seen:
                try:
                    data = os.read(self.fd, 4096)
                except OSError:
                    data = b""
                assert data, f"no {text!r} in {self.seen.decode()!r}"
                self.seen += data
        finally:
            deadline.cancel()
        found, _, self.seen = self.seen.partition(text.encode())
        return found.decode()

    def end(self) -> int:
        """The exit code, with all that was still to be seen read."""
        try:
            while data := os.read(self.fd, 4096):
                self.seen += data
        except OSError:
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_shell_on_a_terminal(lab: Lab, talk: str) -> None:
    terminal = Terminal(command(lab, "exec", "-it", talk, "-c", "lines", "--", "sh"))
    terminal.type('tty; stty size; echo d""one\n')
    assert "/dev/pts/" in (seen := terminal.until("done"))
    assert "33 101" in seen
    terminal.resize(90, 20)
    terminal.type('while [ "$(stty size)" != "20 90" ]; do sleep 0.1; done; echo res""ized\n')
    terminal.until("resized")
    terminal.type("exec sh -c 'echo wai\"\"ting; sleep 1000'\n")
    terminal.until("waiting")
    terminal.type("\x03")
    assert terminal.end() == 130


def test_run_attaches_and_leaves_nothing(lab: Lab) -> None:
    run_it = ("run", "shell", "--image=none", "--restart=Never", "-it", "--rm", "--command", "--", "sh")
    terminal = Terminal(command(lab, *run_it))
    terminal.until("pressing enter.")
    terminal.type('echo he""llo; exit 5\n')
    terminal.until("hello")
    assert terminal.end() == 5
    eventually(lambda: "shell" not in lab.kubectl("get", "pods", "-o", "name"), "the pod removed")


def test_run_with_a_pipe(lab: Lab) -> None:
    data = os.urandom(BIG)
    run_i = (
        "run",
        "sum",
        "--image=none",
        "--restart=Never",
        "-i",
        "--rm",
        "-q",
        "--command",
        "--",
        "sha256sum",
    )
    done = run(lab, *run_i, stdin=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().split()[0] == hashlib.sha256(data).hexdigest()


@contextmanager
def forwarded(lab: Lab, target: str, port: str) -> Iterator[int]:
    """The local port."""
    with started(lab, "port-forward", target, f":{port}", "--address=127.0.0.1") as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        match = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> 8000", line)
        assert match, line + (process.stderr.read().decode() if process.stderr else "")
        yield int(match[1])


def fetch(port: int, size: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{size}", timeout=30) as answer:
        return len(answer.read())


def test_port_forward_carries_much_and_many(lab: Lab, serve: str) -> None:
    with forwarded(lab, f"pod/{serve}", "8000") as port:
        assert fetch(port, BIG) == BIG
        data = os.urandom(BIG)
        put = urllib.request.Request(f"http://127.0.0.1:{port}/", data, method="PUT")
        with urllib.request.urlopen(put, timeout=30) as answer:
            assert answer.read().decode() == hashlib.sha256(data).hexdigest()
        with ThreadPoolExecutor(20) as pool:
            assert list(pool.map(lambda _: fetch(port, 100_000), range(20))) == [100_000] * 20


@pytest.mark.parametrize(("target", "port"), [("deployment/serve", "8000"), ("service/serve", "80")])
def test_port_forward_to_what_has_pods(lab: Lab, serve: str, target: str, port: str) -> None:
    with forwarded(lab, target, port) as local:
        assert fetch(local, 1000) == 1000


def test_port_forward_to_a_port_where_nobody_listens(lab: Lab, serve: str) -> None:
    with started(lab, "port-forward", f"pod/{serve}", ":9", "--address=127.0.0.1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(re.findall(rb":(\d+) ->", process.stdout.readline())[0])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.settimeout(30)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        said = process.stderr.readline().decode()
        assert "cannot connect to port 9 inside the pod: 127.0.0.1: Connection refused" in said


def test_who_goes_away_takes_the_command_along(lab: Lab, talk: str) -> None:
    mark = f"9{os.getpid()}{time.monotonic_ns() % 1000}"
    find = ("exec", talk, "-c", "lines", "--", "ps", "-eo", "args")
    with started(
        lab, "exec", "-i", talk, "-c", "lines", "--", "sh", "-c", f"echo up; sleep {mark}"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert f"sleep {mark}" in lab.kubectl(*find)
    eventually(lambda: f"sleep {mark}" not in lab.kubectl(*find), "the command ended", 30)


def test_who_goes_away_while_the_pod_does_not_read(lab: Lab, talk: str) -> None:
    """Nothing can be read from such a client; that it is gone is found by writing to it."""
    mark = f"8{os.getpid()}{time.monotonic_ns() % 1000}"
    find = ("exec", talk, "-c", "lines", "--", "ps", "-eo", "args")
    with started(lab, "exec", "-i", talk, "-c", "lines", "--", "sleep", mark) as process:
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        deadline = time.monotonic() + 30
        full = 0
        while full < 20 and time.monotonic() < deadline:
            try:
                os.write(process.stdin.fileno(), b"x" * 65536)
                full = 0
            except BlockingIOError:
                full += 1
                time.sleep(0.05)
        assert full == 20, "what nobody reads was taken for ever"
        assert f"sleep {mark}" in lab.kubectl(*find)
    eventually(lambda: f"sleep {mark}" not in lab.kubectl(*find), "the command ended", 60)


def test_conversations_leave_nothing_behind_at_the_agent(lab: Lab, talk: str) -> None:
    node = lab.get("pod", talk)["spec"]["nodeName"]

    def descriptors() -> int:
        pid = lab.exec(node, "pgrep", "-f", "netplane node --root").split()[0]
        return len(lab.exec(node, "ls", f"/proc/{pid}/fd").split())

    execute = ("exec", "-i", talk, "-c", "lines", "--", "cat")
    run(lab, *execute, stdin=b"warm")
    before = descriptors()
    with ThreadPoolExecutor(4) as pool:
        assert {done.stdout for done in pool.map(lambda _: run(lab, *execute, stdin=b"x"), range(12))} == {
            b"x"
        }
    eventually(lambda: descriptors() <= before, lambda: f"{descriptors()} descriptors, {before} before", 20)
