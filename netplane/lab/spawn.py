"""Runs programs inside a lab for tools that look: on a node, in a pod of a node, outside the nodes."""

import asyncio
import sys
from collections.abc import Sequence

from netplane.debug.places import Spawn, module
from netplane.errors import PeerError
from netplane.lab import enter
from netplane.lab.spec import LabSpec


def on_nodes(spec: LabSpec) -> Spawn:
    """The lab's answer to `netplane.debug.places.Spawn`: every node can be looked into, one without power cannot."""

    async def spawn(node: str, argv: Sequence[str]) -> asyncio.subprocess.Process | None:
        if all(machine.name != node for machine in spec.machines):
            return None
        try:
            words = enter.argv(spec, node, argv)
        except PeerError:
            return None
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=pipe, env=enter.environment(spec, node)
        )

    return spawn


async def output_of(spec: LabSpec, machine: str, argv: Sequence[str]) -> bytes:
    """What `argv` prints in `machine`. Raises PeerError with its last words if it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *enter.argv(spec, machine, argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env=enter.environment(spec, machine),
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or [
            f"it ended with {process.returncode}"
        ]
        raise PeerError(f"cannot run {argv[0]} in {machine}: {lines[-1]}")
    return output


def in_pod(address: str, argv: Sequence[str]) -> list[str]:
    """The words that, on a pod's node, run `argv` in the pod's network, files and host name."""
    return [*module("netplane.lab.pod", address), *argv]


def python_module(name: str, *arguments: str) -> list[str]:
    """The words that run a module of ours with the interpreter that runs us."""
    return [sys.executable, "-m", name, *arguments]
