"""The disk under the store: full, read-only in mid-run, cut off from power, written over. A clear error, pods that go
on, and nothing lost once it is as it should be. Each test has an ext4 of its own.
"""

import fcntl
import json
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cni.journal import journal_path
from cni.leases import read, store_path
from netplane.config import Paths
from netplane.linux.namespaces import CLONE_NEWNS, unshare
from tests.netns.cni_node import NODE_ADDRESS, CniNode, cni_node, pods, run_in

pytestmark = pytest.mark.netns
_FS_IOC_SHUTDOWN, _NOLOGFLUSH = 0x8004587D, 2
SMALL_LOG = "from cni import leases\nleases._LOG_PAGES = 0\n"  # nothing on the disk that was set aside before


@dataclass
class Disk:
    image: Path
    place: Path

    def mount(self) -> None:
        options = "loop,errors=remount-ro"
        subprocess.run(["mount", "-o", options, self.image, self.place], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)

    def fill(self) -> None:
        with suppress(OSError), (self.place / "fill").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        (self.place / "fill").unlink()

    def break_down(self) -> None:
        """The kernel finds an error and takes no more writes."""
        device = os.path.realpath(f"/sys/dev/block/{os.major(self.device)}:{os.minor(self.device)}")
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("netplane")

    def cut_power(self) -> None:
        """Nothing that is not on the disk by now gets there."""
        directory = os.open(self.place, os.O_RDONLY)
        fcntl.ioctl(directory, _FS_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        os.close(directory)

    @property
    def device(self) -> int:
        return self.place.stat().st_dev


def with_a_disk(test):
    """Give a test an ext4 under its node's state, in a mount namespace of its own: it ends with the test, and no other
    process that copies its mounts in the meantime keeps it alive.
    """

    def run(tmp_path):
        with ThreadPoolExecutor(1, initializer=_apart) as thread:
            thread.submit(_on_a_disk, test, tmp_path).result()

    return run


def _apart() -> None:
    unshare(CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _on_a_disk(test, directory: Path) -> None:
    disk = Disk(directory / "disk.img", Paths(directory / "node").state)
    disk.place.mkdir(parents=True)
    with disk.image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk.image], check=True)
    disk.mount()
    try:
        test(disk)
    finally:
        subprocess.run(["umount", "--lazy", disk.place], check=True)


@contextmanager
def node_of(disk: Disk) -> Iterator[CniNode]:
    with cni_node(disk.image.parent / "node", start=False) as made:
        yield made


def refused(answer, code: int, *named: str) -> None:
    assert answer.code != 0
    document = answer.json
    assert document["code"] == code, document
    for part in named:
        assert part in document["msg"]


def goes_on(node: CniNode, name: str, pod: int, added) -> None:
    assert node.call("CHECK", name, pod, prevResult=added.json).stdout == b""
    run_in(pod, "ping", "-c1", "-W1", NODE_ADDRESS)


def refuses_to_start(node: CniNode, *named: str) -> None:
    before = len(node.log)
    node.start(expect_ready=False)
    assert node.died() == 1
    said = node.log[before:]
    assert "Traceback" not in said
    for part in named:
        assert part in said, said


@with_a_disk
def test_a_full_disk(disk: Disk):
    with node_of(disk) as node, pods(2) as (one, two):
        node.start(SMALL_LOG)
        added = node.call("ADD", "pod-1", one)
        disk.fill()
        refused(node.call("ADD", "pod-2", two), 103, "leases.sqlite", "full")
        refused(node.call("STATUS", cniVersion="1.1.0"), 50, "leases.sqlite", "full")
        refused(node.call("DEL", "pod-1", one), 103, "full")
        goes_on(node, "pod-1", one, added)
        assert run_in(two, "ip", "-o", "link").count("\n") == 1
        assert [lease.attachment.container_id for lease in node.leases()] == ["pod-1"]
        node.stop()
        disk.fill()
        refuses_to_start(node, "cannot open", "leases.sqlite")
        disk.fill()
        refused(node.call("DEL", "pod-1", one), 11, "journal", "No space left")
        disk.free()
        node.start(SMALL_LOG)
        goes_on(node, "pod-1", one, added)
        assert node.call("STATUS", cniVersion="1.1.0").code == 0
        assert node.call("ADD", "pod-2", two).json["ips"][0]["address"] == "10.244.1.3/32"
        disk.fill()
        refused(node.call("DEL", "pod-1", one), 103, "full")
        disk.free()
        assert node.call("DEL", "pod-1", one).code == 0, "without a restart"
        assert node.call("DEL", "pod-2", two).code == 0
        assert node.residue() == {}


@with_a_disk
def test_a_disk_that_is_nearly_full_at_the_start(disk: Disk):
    """The log takes what there is, and what it took is enough for a good many."""
    with node_of(disk) as node, pods(1) as (pod,):
        node.start()
        node.stop()
        disk.fill()
        os.truncate(disk.place / "fill", (disk.place / "fill").stat().st_size - (1 << 20))
        node.start()
        disk.fill()
        for number in range(8):
            assert node.call("ADD", f"pod-{number}", pod, ifname=f"net{number}").code == 0
            assert node.call("DEL", f"pod-{number}", pod, ifname=f"net{number}").code == 0
        assert node.residue() == {}


@with_a_disk
def test_a_disk_that_turns_read_only(disk: Disk):
    with node_of(disk) as node, pods(2) as (one, two):
        node.start()
        added = node.call("ADD", "pod-1", one)
        subprocess.run(["sync", "-f", disk.place], check=True)  # `live` is not waited for
        disk.break_down()
        refused(node.call("ADD", "pod-2", two), 103, "leases.sqlite")
        refused(node.call("DEL", "pod-1", one), 103, "leases.sqlite")
        refused(node.call("STATUS", cniVersion="1.1.0"), 50, "leases.sqlite")
        goes_on(node, "pod-1", one, added)
        assert run_in(two, "ip", "-o", "link").count("\n") == 1
        node.stop()
        refuses_to_start(node, "Read-only file system")
        refused(node.call("DEL", "pod-1", one), 11, "journal", "Read-only file system")
        disk.unmount()
        disk.mount()
        node.start()
        goes_on(node, "pod-1", one, added)
        assert node.call("DEL", "pod-1", one).code == 0
        assert node.residue() == {}


def overwritten(store: Path) -> None:
    with store.open("r+b") as file:
        file.write(random.Random(1).randbytes(4096))


def a_page_overwritten(store: Path) -> None:
    with store.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(4096))


def cut_short(store: Path) -> None:
    os.truncate(store, store.stat().st_size - 4096 - 100)


def test_a_damaged_store_is_left_as_it_is_and_pods_go_on(tmp_path):
    with cni_node(tmp_path) as node, pods(1) as (pod,):
        added = node.call("ADD", "pod-1", pod)
        node.stop()
        store = store_path(Paths(tmp_path).state)
        whole = store.read_bytes()
        for damage in (overwritten, a_page_overwritten, cut_short):
            damage(store)
            damaged = store.read_bytes()
            refuses_to_start(node, f"cannot open {store}: it is damaged", "drain the node")
            assert store.read_bytes() == damaged
            store.write_bytes(whole)
        overwritten(store)
        run_in(pod, "ping", "-c1", "-W1", NODE_ADDRESS)
        assert node.call("DEL", "pod-1", pod).code == 0, "promised"
        assert added.json["interfaces"][0]["name"] in node.links()
        store.write_bytes(whole)
        node.start()
        assert node.residue() == {}


@with_a_disk
def test_what_was_answered_survives_a_power_cut(disk: Disk):
    """Every ADD that succeeded is in the store afterwards, and every DEL that was promised in the journal."""
    chance = random.Random(3)
    for _ in range(3):
        with node_of(disk) as node, pods(12) as namespaces, ThreadPoolExecutor(8) as threads:
            node.start('from cni import observe\nobserve.boot_id = lambda: "before"\n')
            adds = {
                f"pod-{number}": threads.submit(node.call, "ADD", f"pod-{number}", netns)
                for number, netns in enumerate(namespaces)
            }
            for name in chance.sample(sorted(adds), chance.randrange(len(adds))):
                adds[name].result()
            answered = {name for name, add in adds.items() if add.done() and add.result().code == 0}
            disk.cut_power()
            for add in adds.values():
                add.result()
            node.stop(9)
            disk.unmount()
            disk.mount()
            assert answered <= {lease.attachment.container_id for lease in read(store_path(disk.place))}
        with node_of(disk) as rebooted, pods(1) as (pod,):
            rebooted.start('from cni import observe\nobserve.boot_id = lambda: "after"\n')
            assert rebooted.residue() == {}
            assert rebooted.call("ADD", "next", pod).code == 0
            rebooted.stop(9)
            assert rebooted.call("DEL", "next", pod).code == 0, "promised"
            disk.cut_power()
            disk.unmount()
            disk.mount()
            (promise,) = journal_path(disk.place).glob("*.json")
            assert json.loads(promise.read_bytes())["container_id"] == "next"
            rebooted.start('from cni import observe\nobserve.boot_id = lambda: "after"\n')
            assert rebooted.residue() == {}
