"""What a row of probe answers means; and the asking, in virtual time."""

import asyncio
import socket
import ssl
import subprocess
from contextlib import asynccontextmanager, suppress

import pytest

from netplane.node import prober
from netplane.node.probes import Exec, HttpGet, Probe, Purpose, TcpConnect, Verdict, probes_of

TCP = TcpConnect("", 80)


def verdicts(probe, answers):
    verdict = Verdict.initial(probe.purpose)
    found = []
    for ok in answers:
        verdict = verdict.observe(probe, ok=ok)
        found.append(verdict)
    return found


@pytest.mark.parametrize(
    ("purpose", "success", "failure", "answers", "healthy"),
    [
        (Purpose.READINESS, 1, 3, "+", [True]),
        (Purpose.READINESS, 1, 3, "---", [False, False, False]),
        (Purpose.READINESS, 1, 3, "+---", [True, True, True, False]),
        (Purpose.READINESS, 1, 3, "+--+--", [True, True, True, True, True, True]),
        (Purpose.READINESS, 2, 1, "+-++", [False, False, False, True]),
        (Purpose.LIVENESS, 1, 3, "---", [True, True, False]),
        (Purpose.STARTUP, 1, 2, "-+", [False, True]),
    ],
)
def test_thresholds_of_equal_answers(purpose, success, failure, answers, healthy):
    probe = Probe(purpose, TCP, success_threshold=success, failure_threshold=failure)
    assert [v.healthy for v in verdicts(probe, [a == "+" for a in answers])] == healthy


@pytest.mark.parametrize(
    ("purpose", "condemned"), [(Purpose.READINESS, False), (Purpose.LIVENESS, True), (Purpose.STARTUP, True)]
)
def test_only_liveness_and_startup_kill(purpose, condemned):
    probe = Probe(purpose, TCP, failure_threshold=2)
    first, second = verdicts(probe, [False, False])
    assert not first.condemned(probe)
    assert second.condemned(probe) is condemned


def test_specs_are_read_with_the_apis_defaults():
    container = {
        "name": "c",
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"port": "web", "path": "healthz"}},
        "livenessProbe": {"tcpSocket": {"port": 81}, "periodSeconds": 3, "terminationGracePeriodSeconds": 0},
        "startupProbe": {"exec": {"command": ["true"]}, "failureThreshold": 30},
    }
    found = {p.purpose: p for p in probes_of(container)}
    assert found[Purpose.READINESS].check == HttpGet("http", "", 8080, "/healthz")
    assert found[Purpose.READINESS].period == 10
    assert found[Purpose.LIVENESS].check == TcpConnect("", 81)
    assert found[Purpose.LIVENESS].grace == 0
    assert found[Purpose.STARTUP].check == Exec(("true",))


@pytest.mark.parametrize(
    ("probe", "text"),
    [
        ({"httpGet": {"port": "nope"}}, "readinessProbe: port 'nope' is not a port of container c"),
        ({}, None),
        ({"periodSeconds": 1}, "readinessProbe: must have one of httpGet, tcpSocket, exec"),
    ],
)
def test_what_cannot_be_probed_is_named(probe, text):
    container = {"name": "c", "readinessProbe": probe}
    if text is None:
        assert probes_of(container) == []
        return
    with pytest.raises(ValueError, match=text.replace("'", ".")):
        probes_of(container)


class Clock:
    """Virtual time: sleeping moves it."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    async def sleep(self, seconds):
        self.now += seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def asked(probe, answers, monkeypatch):
    """Run the asking loop on given answers; the times at which it asked, and the verdicts."""
    clock, times, reports = Clock(), [], []
    left = list(answers)

    async def answer(_probe, _target):
        times.append(clock.now)
        return "" if left.pop(0) else "no"

    def report(verdict, problem):
        reports.append((verdict.healthy, problem))
        if not left:
            raise asyncio.CancelledError

    monkeypatch.setattr(prober, "ask", answer)
    with pytest.raises(asyncio.CancelledError):
        await prober.probe_for_ever(probe, None, Verdict.initial(probe.purpose), report, clock.sleep)
    return times, reports


async def test_delay_then_period(monkeypatch):
    probe = Probe(Purpose.LIVENESS, TCP, initial_delay=5, period=10)
    times, reports = await asked(probe, [True, False, False, False], monkeypatch)
    assert times == [5, 15, 25, 35]
    assert reports == [(True, ""), (True, "no"), (True, "no"), (False, "no")]


async def test_a_pod_that_is_not_ready_yet_is_asked_every_second(monkeypatch):
    probe = Probe(Purpose.READINESS, TCP, period=10)
    times, _ = await asked(probe, [False, False, True, True], monkeypatch)
    assert times == [0, 1, 2, 12]


@asynccontextmanager
async def listening(answer, context=None):
    """A server on loopback whose every connection is closed when it ends."""
    open_now = set()

    async def serve(reader, writer):
        open_now.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for writer in open_now:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_http_tcp_and_their_failures():
    async def serve(reader, writer):
        request = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        code = b"200 OK" if request == b"/ok" else b"503 Busy"
        writer.write(b"HTTP/1.1 " + code + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    target = prober.Target(None, "c", "127.0.0.1")
    async with listening(serve) as port:
        assert await prober.ask(Probe(Purpose.READINESS, TcpConnect("", port)), target) == ""
        # What is answered was accepted later than what only connected: that has been seen by then.
        assert await prober.ask(Probe(Purpose.READINESS, HttpGet("http", "", port, "/ok")), target) == ""
        busy = await prober.ask(Probe(Purpose.READINESS, HttpGet("http", "", port, "/no")), target)
        assert busy == "HTTP probe failed with statuscode: 503"
    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert await prober.ask(Probe(Purpose.READINESS, TcpConnect("", port)), target) == refused
    asked = await prober.ask(Probe(Purpose.READINESS, HttpGet("http", "", port, "/")), target)
    assert asked == f'Get "http://127.0.0.1:{port}/": {refused}'


async def test_a_target_that_hangs_up_is_told_as_kubelet_tells_it():
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")

    async with listening(serve) as port:
        probe = Probe(Purpose.READINESS, HttpGet("http", "", port, "/"))
        said = await prober.ask(probe, prober.Target(None, "c", "127.0.0.1"))
    assert said == f'Get "http://127.0.0.1:{port}/": EOF'


async def test_a_host_without_an_address_and_one_of_ipv6(monkeypatch):
    target = prober.Target(None, "c", "::1")
    closed = await prober.ask(Probe(Purpose.READINESS, TcpConnect("", 1)), target)
    assert closed.startswith("dial tcp [::1]:1: connect: ")

    async def unknown(_host, _port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio, "open_connection", unknown)
    nobody = await prober.ask(Probe(Purpose.READINESS, TcpConnect("nobody.invalid", 80)), target)
    assert nobody == f"dial tcp nobody.invalid:80: [Errno {socket.EAI_NONAME}] Name or service not known"


async def test_a_silent_target_times_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens, and nobody accepts
        probe = Probe(Purpose.READINESS, HttpGet("http", "", silent.getsockname()[1], "/"), timeout=0.05)
        assert await prober.ask(probe, prober.Target(None, "c", "127.0.0.1")) == "no answer within 0.05 s"


async def test_a_certificate_that_nobody_vouches_for_will_do(tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=somebody else"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with listening(serve, context) as port:
        probe = Probe(Purpose.READINESS, HttpGet("https", "", port, "/"), timeout=10)
        assert await prober.ask(probe, prober.Target(None, "c", "127.0.0.1")) == ""
