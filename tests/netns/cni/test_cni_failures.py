"""Everything that can end in the middle: a step that fails, a daemon killed, a namespace gone, a flushed table."""

import errno
import json
import signal
import subprocess
from contextlib import closing

import pytest

from cni import messages, netlink, plan, recipes, verbs
from cni.errors import CniError, Code
from cni.journal import Journal
from cni.leases import Leases
from cni.mend import mend
from cni.node import Node
from cni.protocol import Attachment, parse
from netplane.errors import KernelError
from netplane.linux.namespaces import entered_netns
from tests.netns.cni_node import CniNode, cni_node, netns_path, network, pods, run_in, until

pytestmark = pytest.mark.netns

STEPS = 15  # of an IPv4 attachment


def links_of(netns: int) -> list[str]:
    return [line.split(":")[1].strip() for line in run_in(netns, "ip", "-o", "link").splitlines()]


class FailingWorker(netlink._Worker):
    """Refuses the n-th step of an ADD, before or after the kernel did it."""

    countdown = 0
    after = False

    def do(self, steps):
        (step,) = steps
        adding = not isinstance(step, plan.DeleteLink) and getattr(step, "adding", True)
        self._fail(lambda: super(FailingWorker, self).do(steps), counts=adding)

    def replay(self, part, data):
        return self._fail(lambda: super(FailingWorker, self).replay(part, data), counts=True)

    def _fail(self, work, *, counts):
        type(self).countdown -= counts
        failing = counts and type(self).countdown == -1
        if failing and not self.after:
            raise KernelError("cannot go on: injected")
        result = work()
        if failing:
            raise KeyError("a bug after the step")
        return result


def one_by_one(steps):
    return ([step] for step in steps)


@pytest.fixture(params=["by its recipe", "step by step"])
def one_step_at_a_time(request, monkeypatch):
    """The two ways an ADD is done, each with as many sends as there are steps."""
    monkeypatch.setattr(messages, "batches", one_by_one)
    found = recipes.of.__wrapped__
    monkeypatch.setattr(recipes, "of", found if request.param == "by its recipe" else lambda _: None)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.usefixtures("one_step_at_a_time")
def test_an_add_that_fails_at_any_step_leaves_nothing(tmp_path, monkeypatch, after):
    monkeypatch.setattr(netlink, "_Worker", FailingWorker)
    monkeypatch.setattr(FailingWorker, "after", after)
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        leases = Leases(tmp_path / "var/lib/netplane/cni/leases.sqlite")
        environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
        stdin = json.dumps(network()).encode()
        request = parse({**environment, "CNI_NETNS": netns_path(pod)}, stdin)
        failures = 0
        with entered_netns(node.netns), closing(Node(leases, "boot", Journal(tmp_path / "journal"))) as here:
            for number in range(STEPS):
                FailingWorker.countdown = number
                with pytest.raises((KernelError, KeyError)):
                    verbs.answer(request, here, pod)
                failures += 1
                assert node.residue() == {}, f"after step {number}"
                assert links_of(pod) == ["lo"]
                verbs.delete(request.attachment, here)
            FailingWorker.countdown = STEPS
            verbs.answer(request, here, pod)
        assert failures == STEPS, "every step was tried: one more and the ADD succeeds"
        leases.close()


KILL_IN = """
import os, signal
from cni import messages, netlink
countdown = {number}
messages.batches = lambda steps: ([step] for step in steps)
def killed(work):
    def counted(*arguments):
        global countdown
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        countdown -= 1
        return work(*arguments)
    return counted
netlink._Worker.do = killed(netlink._Worker.do)
netlink._Worker.replay = killed(netlink._Worker.replay)
"""
KILL_BEFORE_CONFIRM = """
import os, signal
from cni import leases
leases.Leases.confirm = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_daemon_killed_in_the_middle_of_an_add_leaves_nothing_once_it_is_back(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        points = [KILL_IN.format(number=number) for number in (0, 1, 6, STEPS - 1)]
        for before in [*points, KILL_BEFORE_CONFIRM]:
            node.start(before)
            answer = node.call("ADD", "pod-1", pod)
            assert answer.json["code"] == 11
            assert node.died() == -signal.SIGKILL
            assert len(node.leases()) == 1, "written down before the kernel was touched"
            node.start()
            assert node.residue() == {}
            assert links_of(pod) == ["lo"]
            assert node.call("ADD", "pod-1", pod).code == 0
            assert node.call("DEL", "pod-1", pod).code == 0
            node.stop()


def test_a_daemon_killed_in_the_middle_of_a_del_finishes_it_once_it_is_back(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        for number in (0, 1):
            node.start()
            assert node.call("ADD", "pod-1", pod).code == 0
            node.stop()
            node.start(KILL_IN.format(number=number))
            assert node.call("DEL", "pod-1", pod).code == 0, "promised: on the disk"
            assert node.died() == -signal.SIGKILL
            node.start()
            assert node.residue() == {}
            node.stop()


def test_running_pods_do_not_notice_a_daemon_killed_and_restarted(node: CniNode):
    with pods(2) as (one, two):
        assert node.call("ADD", "pod-1", one).code == 0
        assert node.call("ADD", "pod-2", two).code == 0
        before = (node.links(), node.leases(), node.nft())
        node.stop(signal.SIGKILL)
        run_in(one, "ping", "-c1", "-W1", "10.244.1.3")
        node.start()
        assert (node.links(), node.leases(), node.nft()) == before
        run_in(one, "ping", "-c1", "-W1", "10.244.1.3")


def test_pods_whose_namespace_went_are_freed_at_start(node: CniNode):
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod).code == 0
        node.stop(signal.SIGKILL)
    until(lambda: not node.links(), "the kernel to take the link with the namespace")
    node.start()
    assert node.residue() == {}


def test_what_belongs_to_no_lease_is_removed_and_what_is_not_ours_stays(node: CniNode):
    node.stop()
    ours = plan.link_name(Attachment("netplane", "forgotten", "eth0"))
    node.command("ip", "link", "add", ours, "group", "97", "type", "veth", "peer", "name", "lost0")
    node.command("ip", "link", "add", "npvpn", "type", "veth", "peer", "name", "kept0")
    node.command("ip", "link", "add", "np0123456789ab", "type", "veth", "peer", "name", "kept1")
    node.start()
    assert node.links() == {"npvpn", "np0123456789ab"}


def test_what_others_flushed_is_put_back_at_the_next_start(node: CniNode):
    with pods(2) as (one, two):
        added = [node.call("ADD", f"pod-{n}", pod) for n, pod in ((1, one), (2, two))]
        assert [a.code for a in added] == [0, 0]
        node.command("ip", "route", "flush", "proto", "97")
        node.command("nft", "flush", "ruleset")
        checked = node.call("CHECK", "pod-1", one, prevResult=added[0].json)
        assert checked.json["code"] == 104
        for lost in ("route of the host to 10.244.1.2", "rules of nftables", "element 10.244.1.2"):
            assert lost in checked.json["msg"]
        node.stop()
        node.start()
        checked = node.call("CHECK", "pod-1", one, prevResult=added[0].json)
        assert (checked.code, checked.stdout) == (0, b"")
        run_in(one, "ping", "-c1", "-W1", "10.244.1.3")


def test_add_and_del_work_although_the_table_was_flushed_meanwhile(node: CniNode):
    with pods(2) as (one, two):
        assert node.call("ADD", "pod-1", one).code == 0
        node.command("nft", "flush", "ruleset")
        assert node.call("ADD", "pod-2", two).code == 0
        assert node.call("DEL", "pod-1", one).code == 0
        assert node.call("DEL", "pod-2", two).code == 0
        assert node.residue() == {}


def test_a_second_daemon_on_the_same_root_refuses_to_start(node: CniNode):
    first = node.daemon
    node.start(expect_ready=False)
    assert node.died() == 1
    assert "another netplane CNI daemon" in node.log
    node.daemon = first
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod).code == 0


def test_what_was_made_before_a_reboot_is_freed(node: CniNode):
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod).code == 0
        node.stop()
        node.start('from cni import observe\nobserve.boot_id = lambda: "another boot"\n')
        assert node.residue() == {}
        added = node.call("ADD", "pod-2", pod)
        assert added.json["ips"][0]["address"] == "10.244.1.3/32", "an address rests before it is given again"


SLOW = """
import sys, threading
from cni import netlink
applied = netlink.attach
def slow(*args, **keys):
    print("begun", flush=True, file=sys.stderr)
    threading.Event().wait(0.5)
    applied(*args, **keys)
netlink.attach = slow
"""


def test_an_executable_killed_in_the_middle_of_an_add_is_undone_by_del(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        node.start(SLOW)
        environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
        with subprocess.Popen(
            [node.plugin], env={**environment, "CNI_NETNS": netns_path(pod)}, stdin=subprocess.PIPE
        ) as plugin:
            assert plugin.stdin is not None
            plugin.stdin.write(json.dumps(network()).encode())
            plugin.stdin.close()
            until(lambda: "begun" in node.log, "the ADD to begin")
            plugin.kill()
        assert node.call("DEL", "c", pod).code == 0, "it waits for the ADD"
        assert node.residue() == {}
        assert links_of(pod) == ["lo"]


def test_an_undo_that_fails_keeps_the_lease_until_it_can_be_done(tmp_path, monkeypatch):
    """An address of which something may be left in the kernel is not given again."""
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        leases = Leases(tmp_path / "var/lib/netplane/cni/leases.sqlite")
        environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
        request = parse({**environment, "CNI_NETNS": netns_path(pod)}, json.dumps(network()).encode())
        do, replay = netlink._Worker.do, netlink._Worker.replay

        def refuse_delete(self, steps):
            if isinstance(steps[0], plan.DeleteLink):
                raise KernelError(f"cannot {netlink.describe(steps[0])}: injected")
            do(self, steps)

        def refuse_label(self, part, data):
            return {1: errno.EPERM} if b"netplane netplane/c/eth0" in data else replay(self, part, data)

        monkeypatch.setattr(netlink._Worker, "do", refuse_delete)
        monkeypatch.setattr(netlink._Worker, "replay", refuse_label)
        with entered_netns(node.netns), closing(Node(leases, "boot", Journal(tmp_path / "journal"))) as here:
            with pytest.raises(KernelError, match=r"label np.*delete the link"):
                verbs.answer(request, here, pod)
            (lease,) = leases.all()
            assert str(lease.state) == "deleting"
            monkeypatch.undo()
            mended = mend(here)
            assert mended.freed == ("netplane/c/eth0",)
        assert node.residue() == {}
        leases.close()


def test_a_store_that_refuses_at_the_end_of_an_add_leaves_nothing_in_the_kernel(tmp_path, monkeypatch):
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        leases = Leases(tmp_path / "var/lib/netplane/cni/leases.sqlite")
        environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
        request = parse({**environment, "CNI_NETNS": netns_path(pod)}, json.dumps(network()).encode())

        def refuse(self, attachment):
            raise CniError(Code.STORE, "cannot write: the disk is full")

        monkeypatch.setattr(Leases, "confirm", refuse)
        with (
            entered_netns(node.netns),
            closing(Node(leases, "boot", Journal(tmp_path / "journal"))) as here,
            pytest.raises(CniError, match="disk is full"),
        ):
            verbs.answer(request, here, pod)
        assert node.residue() == {}
        assert links_of(pod) == ["lo"]
        leases.close()
