"""A virtual machine with Debian's own kernel and this machine's files: to learn what an older kernel makes of us.

Why emulated, and shared by 9p: it runs wherever the tests run (a nested /dev/kvm may not), nothing is copied, and what
the machine writes goes into memory. `./dev test long` fetches the kernel; it is unpacked, not installed.
"""

import gzip
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNEL = ROOT / ".cache/kernel"
BUSYBOX = Path("/usr/bin/busybox"), Path("/bin/busybox")
MODULES = (  # in the order in which each finds those that it needs
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("9pnet", "9pnet_virtio", "netfs", "fscache", "9p", "overlay"),
)
SAID = "the command's status was "
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 root /below
mount -t tmpfs tmpfs /above; mkdir /above/files /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work overlay /whole
for name in proc sys dev; do mount -o move /$name /whole/$name; done
mkdir -p /whole/dev/pts /whole/dev/shm /whole/lib/modules; mount -t devpts devpts /whole/dev/pts
for place in dev/shm tmp run; do mount -t tmpfs tmpfs /whole/$place; done
mount -o bind /whole{modules} /whole/lib/modules
cp /begin /whole/run/begin
exec switch_root /whole /bin/bash /run/begin
"""
BEGIN = """export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
ip link set lo up
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ulimit -n 20000
cd {root}
uname -r
{command}
echo "{said}$?"
echo o > /proc/sysrq-trigger
read -t 60 < /dev/ttyS0
"""


def kernel() -> str | None:
    """The version of the kernel that was fetched; None where there is none."""
    return next((path.name.removeprefix("vmlinuz-") for path in KERNEL.glob("boot/vmlinuz-*")), None)


def run(directory: Path, command: str, seconds: float) -> tuple[int, str]:
    """A shell command's exit status (-1: it never ended) and all that the machine's console said."""
    version = kernel()
    assert version is not None
    initrd = directory / "initrd.gz"
    initrd.write_bytes(gzip.compress(_archive(_files(version, command)), 1))
    machine = _machine(KERNEL / f"boot/vmlinuz-{version}", initrd)
    try:
        done = subprocess.run(
            machine, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")
    _, found, rest = said.partition(SAID)
    return int(rest.split()[0]) if found else -1, said


def _machine(image: Path, initrd: Path) -> list[str]:
    share = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"),
        *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-net", "none"),
        *("-kernel", str(image), "-initrd", str(initrd), "-append", "console=ttyS0 panic=-1 quiet"),
        *("-fsdev", share, "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
    ]


def _files(version: str, command: str) -> dict[str, bytes | None]:
    """The first file system: names, contents, and None for a directory."""
    folders = ("bin", "proc", "sys", "dev", "below", "above", "whole", "modules")
    files: dict[str, bytes | None] = dict.fromkeys(folders)
    files["bin/busybox"] = next(path for path in BUSYBOX if path.exists()).read_bytes()
    for number, name in enumerate(MODULES, 10):
        for path in (KERNEL / "lib/modules" / version).rglob(f"{name}.ko*"):  # what is built in is no file
            files[f"modules/{number}-{path.name}"] = path.read_bytes()
    files["init"] = INIT.format(modules=KERNEL / "lib/modules").encode()
    files["begin"] = BEGIN.format(root=ROOT, command=command, said=SAID).encode()
    return files


def _archive(files: dict[str, bytes | None]) -> bytes:
    """In the form of linux/Documentation/driver-api/early-userspace/buffer-format: cpio, "newc"."""
    made = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")], 1):
        mode, data = (0o040755, b"") if content is None else (0o100755, content)
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        made += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        made += b"\0" * (-len(made) % 4) + data
        made += b"\0" * (-len(made) % 4)
    return made
