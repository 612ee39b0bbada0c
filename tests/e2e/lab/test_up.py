"""`netplane up` on a machine, and `netplane uninstall`, which leaves it as it was.

The machine is a set of namespaces of the test's own, with one interface that others could reach.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from netplane.config import Paths
from tests.e2e.cluster.driver import ROOT
from tests.e2e.lab.conftest import NETPLANE

MACHINE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")
# $1 netplane, $2 root, $3 example, $4 python
SCRIPT = r"""
set -e; ROOT=$2
state() {
  ip -o link | cut -d: -f2 ; ip -4 -o address; ip -4 route show table all; ip rule; nft list ruleset
  sysctl -a 2>/dev/null | grep -E '^net\.(ipv4|ipv6)\.' | grep -vE 'nf_conntrack_count|stable_secret'
}
until_true() {
  i=0
  until "$@"; do
    i=$((i + 1))
    if [ $i -gt 300 ]; then
      echo "never: $*"; kubectl get pods -o wide; kubectl get events; cat "$ROOT"/var/log/netplane/*.log
      return 1
    fi
    sleep 0.1
  done
}
quiet() { "$@" >/dev/null 2>&1; }
pods_ready() { [ "$(kubectl get pods -l app=hello --no-headers 2>/dev/null | grep -c 1/1)" = 3 ]; }

ip link set lo up
ip link add u0 type veth peer name u1
ip address add 192.0.2.9/24 dev u0; ip link set u0 up; ip link set u1 up
state > "$2.before"
export KUBECONFIG=$2/etc/netplane/admin.kubeconfig
"$1" up --root "$2" 2> "$2.log" &
until_true quiet kubectl get nodes
until_true quiet kubectl create -f "$3"
until_true pods_ready
addresses() { kubectl get pods -l app=hello -o 'jsonpath={range .items[*]}{.metadata.name}={.status.podIP} {end}'; }
before=$(addresses)
kill $!; wait $!
echo "pods without us: $(ps -e -o args | grep -c '[n]etplane.node.images.echo')"
"$1" up --root "$2" 2>> "$2.log" &
until_true pods_ready
[ "$before" = "$(addresses)" ] && echo "the same pods"
until_true quiet "$4" -m netplane.lab.ask http://192.0.2.9:30080/ 1
"$4" -m netplane.lab.ask http://192.0.2.9:30080/ 3 ; echo
"$1" status --root "$2"
"$1" uninstall --yes --root "$2"
wait $!
"$1" uninstall --yes --root "$2" || echo "a second time: exit $?"
until_true sh -c '! ip -o link | grep -q "np[0-9a-f]"'
state > "$2.after"
ps -e -o args | grep -c '[n]etplane' || true
"""


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: sockets are in it."""
    return tmp_path_factory.mktemp("up") / "r"


def test_all_in_one_serves_and_uninstall_leaves_the_machine_as_it_was(root: Path) -> None:
    words = ["sh", "-c", SCRIPT, "sh", NETPLANE, str(root), str(ROOT / "examples/hello.yaml"), sys.executable]
    done = subprocess.run([*MACHINE, *words], capture_output=True, text=True, timeout=120)
    log = root.with_suffix(".log").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert done.stdout.count('"client": "192.0.2.9"') == 3
    assert "pods without us: 3" in done.stdout
    assert "the same pods" in done.stdout
    assert "stopped supervisor" in done.stdout
    assert "removed pod default/hello-" in done.stdout
    assert "restored sysctl net.ipv4.ip_forward=0" in done.stdout
    assert "a second time: exit 2" in done.stdout  # what is in the kernel may be another root's
    assert "nothing of netplane is under" in done.stderr
    assert done.stdout.splitlines()[-1] == "0"  # no process of ours
    before, after = (root.with_suffix(f".{when}").read_text().splitlines() for when in ("before", "after"))
    assert after == before
    assert not root.exists() or list(root.rglob("*")) == []
    name = Paths(root).cgroup_name
    assert list(Path("/sys/fs/cgroup").glob(f"{name}")) + list(Path("/sys/fs/cgroup").glob(f"*/{name}")) == []
    assert "API server https://192.0.2.9:6443" in log
