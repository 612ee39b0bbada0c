"""The proxy as a process: it follows an API server, survives kill -9 and SIGTERM, and starts without the API."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from netplane.linux import nft
from tests import flows
from tests.netns.proxy.daemon import eventually, first_word, visit

pytestmark = pytest.mark.netns


def page(world: Any, url: str) -> str:
    def fetch() -> str:
        return subprocess.run(["curl", "-s", url], check=True, capture_output=True, text=True).stdout

    return world.run("outside", fetch)


def test_follows_the_api_and_reports_it(world, api, supervisor) -> None:
    eventually(lambda: visit(world) in ("web1", "web2"))
    api.put("endpointslices", flows.endpoint_slice("web", "web2"))
    eventually(lambda: [visit(world) for _ in range(4)] == ["web2"] * 4)
    n1 = flows.NODES["n1"]
    metrics = page(world, f"http://{n1}:10249/metrics")
    sample = 'netplane_service_connections_total{namespace="default",port="80",protocol="TCP",service="web"}'
    assert float(metrics.partition(sample)[2].split()[0]) >= 5
    for name in (
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
        'kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"} 1.',
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "netplane_proxy_event_to_listeners_seconds_sum",
        "netplane_service_bytes_total",
        "netplane_proxy_api_silent_seconds",
    ):
        assert name in metrics
    assert json.loads(page(world, f"http://{n1}:10256/healthz"))["nodeEligible"] is True
    assert set(json.loads(page(world, f"http://{n1}:10256/livez"))) == {"lastUpdated", "currentTime"}
    assert supervisor.ask("status")["mode"] == "userspace"
    api.delete("services", "web")
    with pytest.raises(ConnectionRefusedError):
        eventually(lambda: visit(world) == "never", seconds=1)


def test_a_sync_by_command_mends_the_kernel_and_says_what(world, api, supervisor) -> None:
    eventually(lambda: visit(world))

    def sync() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "netplane", "sync", "--root", str(supervisor.root)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    eventually(lambda: "nothing to mend" in sync().stdout)  # what the start brought is done
    world.run("n1", nft.delete_table, "inet", "netplane_proxy")
    found = sync()
    assert (found.returncode, found.stderr) == (0, ""), found
    assert "mended: nft table inet netplane_proxy" in found.stdout.splitlines()
    assert "the kernel was not as it was left; mended: nft table" in supervisor.log.read_text()
    supervisor.end(signal.SIGTERM)
    found = sync()
    assert (found.returncode, found.stdout) == (1, "")
    assert "Is `netplane proxy` running?" in found.stderr


def test_what_services_carry_is_told_by_command(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    with world.connect("client", "10.96.0.10", 80) as sock, sock.makefile("rb") as stream:
        stream.readline()
        command = [
            sys.executable,
            "-m",
            "netplane",
            "top",
            "--root",
            str(supervisor.root),
            "--seconds",
            "0.1",
        ]

        def top() -> subprocess.CompletedProcess[str]:
            return subprocess.run([*command, "-o", "json"], capture_output=True, text=True, timeout=30)

        found = world.run("n1", top)  # the metrics are on the node's own loopback
        assert found.returncode == 0, found.stderr
        assert [(row["service"], row["active"]) for row in json.loads(found.stdout)] == [
            ("default/web:80/tcp", 1)
        ]


def test_change_to_listener_in_under_100_ms(world, api, supervisor) -> None:
    """API write → listener open, ten times; the median is what the issue bounds."""
    eventually(lambda: visit(world))
    took = []
    for number in range(10):
        address = f"10.96.7.{number + 1}"
        api.put("endpointslices", flows.endpoint_slice(f"new{number}", "web1"))
        began = time.monotonic()
        api.put("services", flows.service(f"new{number}", address))
        eventually(lambda address=address: visit(world, address) == "web1", seconds=5)
        took.append(time.monotonic() - began)
    assert sorted(took)[5] < 0.1, took


def test_kill_9_refuses_no_new_connection(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    eventually(lambda: len(supervisor.kept()) == 4)  # web and all, by ClusterIP and NodePort
    supervisor.end(signal.SIGKILL)
    waiting = world.connect("client", "10.96.0.10", 80)  # nobody accepts: the kernel's queue holds it
    supervisor.start()
    with waiting:
        assert first_word(waiting) in ("web1", "web2")
    api.put("endpointslices", flows.endpoint_slice("web"))
    with pytest.raises(ConnectionRefusedError):  # closed for good, though the supervisor kept a copy
        eventually(lambda: visit(world) == "never", seconds=2)


def test_sigterm_drains_and_keeps_listeners(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    with world.connect("client", "10.96.0.10", 80) as sock, sock.makefile("rb") as stream:
        stream.readline()
        thread = threading.Thread(target=supervisor.end, args=(signal.SIGTERM,))
        thread.start()
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert stream.read() == b"last words"
        thread.join()
    waiting = world.connect("client", "10.96.0.10", 80)
    supervisor.start()
    with waiting:
        assert first_word(waiting)


def test_forwards_while_the_api_is_away_also_after_a_restart(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    eventually(lambda: (supervisor.root / "var/lib/netplane/proxy-snapshot.json").exists())
    api.stop()
    assert visit(world)
    supervisor.end(signal.SIGKILL)
    supervisor.start()
    assert visit(world)
    status = eventually(lambda: supervisor.ask("status"))
    assert status["frontends"] == 6
    assert status["apiSilentSeconds"] is None
    api.put("endpointslices", flows.endpoint_slice("web", "web2"))
    api.start()
    eventually(lambda: [visit(world) for _ in range(4)] == ["web2"] * 4, seconds=15)


def test_a_service_that_the_disk_does_not_know_keeps_its_clients_waiting(world, api, supervisor) -> None:
    """The disk is full, the proxy is killed, and the API is away: it was served, and is so again, never refused."""
    state = supervisor.root / "var/lib/netplane"
    eventually(lambda: visit(world))
    eventually(lambda: (state / "proxy-snapshot.json").exists())
    (state / "proxy-snapshot.new").mkdir()  # nothing can be written there
    api.put("endpointslices", flows.endpoint_slice("late", "web1"))
    api.put("services", flows.service("late", "10.96.0.78"))
    eventually(lambda: visit(world, "10.96.0.78") == "web1")
    eventually(lambda: len(supervisor.kept()) == 5)  # web and all, by ClusterIP and NodePort; and late
    api.stop()
    supervisor.end(signal.SIGKILL)
    supervisor.start()
    eventually(lambda: supervisor.ask("status")["frontends"] == 6)
    assert len(supervisor.kept()) == 5
    with world.connect("client", "10.96.0.78", 80, timeout=15) as waiting:
        api.start()
        assert first_word(waiting) == "web1"


def test_names_what_it_cannot_serve(world, api, supervisor) -> None:
    """SCTP, and a NodePort that another process holds, are said by name; all else is served."""
    eventually(lambda: visit(world))
    with world.open("n1") as taken:
        taken.bind(("0.0.0.0", 30099))
        taken.listen()
        sctp = flows.service("sctp", "10.96.0.53", 53)
        sctp["spec"]["ports"][0]["protocol"] = "SCTP"
        api.put("services", sctp)
        api.put("endpointslices", flows.endpoint_slice("sctp", "web1", protocol="SCTP"))
        api.put("endpointslices", flows.endpoint_slice("taken", "web1"))
        api.put("services", flows.service("taken", "10.96.0.77", node_port=30099))
        eventually(lambda: visit(world, "10.96.0.77") == "web1")
        unserved = eventually(lambda: len(found := supervisor.ask("status")["unserved"]) == 2 and found)
        assert any("default/sctp:53 at 10.96.0.53:53/sctp: SCTP is not served" in text for text in unserved)
        assert any("port 30099 is taken by another process" in text for text in unserved)
    eventually(lambda: visit(world, flows.NODES["n1"], 30099) == "web1")  # and tries again
    assert "default/taken:80 at 0.0.0.0:30099/tcp: port 30099 is taken" in supervisor.log.read_text()


class Streams:
    """Echo streams through the Service that never pause: what comes back must be what was sent, in order."""

    def __init__(self, world: Any, count: int) -> None:
        self._socks = [world.connect("client", "10.96.0.10", 80) for _ in range(count)]
        for sock in self._socks:
            first_line(sock)
        self.failures: list[str] = []
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        """One exchange on each stream in turn; the slowest one bounds how long any flow stood still."""
        number = 0
        while not self._over.is_set():
            for sock in self._socks:
                number += 1
                sent = hashlib.sha256(str(number).encode()).digest() * 8
                began = time.monotonic()
                try:
                    sock.sendall(sent)
                    if read_exactly(sock, len(sent)) != sent:
                        self.failures.append("corrupt")
                except OSError as error:
                    self.failures.append(str(error))
                self.longest = max(self.longest, time.monotonic() - began)
                if self.failures:
                    return

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._socks:
            sock.close()


def first_line(sock: socket.socket) -> None:
    while sock.recv(1) != b"\n":
        pass


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := sock.recv(size - len(data))):
            raise OSError("ended")
        data += more
    return data


def test_restarts_cut_no_flow(world, api, supervisor) -> None:
    """SIGTERM and a new process, three times: every stream goes on, and no exchange waits for the restart."""
    eventually(lambda: visit(world))
    streams = Streams(world, 100)
    try:
        for _ in range(3):
            supervisor.end(signal.SIGTERM)
            supervisor.start()
            eventually(lambda: supervisor.ask("status")["flows"] == 100)
            assert visit(world) in ("web1", "web2")
    finally:
        streams.end()
    assert streams.failures == []
    assert streams.longest < 0.5, streams.longest
    eventually(lambda: supervisor.ask("status")["flows"] == 0)
    assert list((supervisor.root / "run/netplane").glob("proxy-flows-*")) == []


def test_flows_that_nobody_takes_end_after_a_while(world, api, supervisor) -> None:
    with (supervisor.root / "etc/netplane/proxy.yaml").open("a") as settings:
        settings.write("drainSeconds: 2\n")
    eventually(lambda: visit(world))
    supervisor.end(signal.SIGTERM)
    supervisor.start()
    with world.connect("client", "10.96.0.10", 80) as sock:
        first_line(sock)
        supervisor.end(signal.SIGTERM)
        sock.sendall(b"still here")
        assert read_exactly(sock, 10) == b"still here"
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_health_check_node_port(world, api, supervisor) -> None:
    """200 with a local endpoint, 503 without, gone with the Service; for whoever balances load outside."""
    made = flows.balanced("lb", "10.96.0.60", "198.51.100.9")
    made["spec"] |= {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    api.put("endpointslices", flows.endpoint_slice("lb", "web1", "web2", "remote"))
    api.put("services", made)
    url = f"http://{flows.NODES['n1']}:32000/healthz"
    assert eventually(lambda: json.loads(page(world, url))) == {
        "service": {"namespace": "default", "name": "lb"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    kept = supervisor.root / "var/lib/netplane/proxy-snapshot.json"
    eventually(lambda: json.loads(kept.read_bytes())["checks"])
    api.stop()
    supervisor.end(signal.SIGKILL)
    supervisor.start()
    assert eventually(lambda: world.run("outside", status_of, url) == "200"), "also while the API is away"
    api.start()
    api.put("endpointslices", flows.endpoint_slice("lb", "remote"))
    eventually(lambda: json.loads(page(world, url))["localEndpoints"] == 0)
    assert world.run("outside", status_of, url) == "503"
    api.delete("services", "lb")
    eventually(lambda: world.run("outside", status_of, url) == "000")


def status_of(url: str) -> str:
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout
