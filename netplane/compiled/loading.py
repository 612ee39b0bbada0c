"""Finds the compiled form of a module, as long as it was made of the very sources that are there.

Why a finder and not libraries beside the sources: Python would prefer those for ever, whatever became of the
source. Here a library is in a folder of its own with a manifest of all that it was made of; one edited line
anywhere in that, and the sources run until ``./dev setup`` has compiled them again.
"""

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
BUILD = Path(__file__).parent / "build/now"
MANIFEST = "manifest.json"
OFF = "NETPLANE_INTERPRETED"  # in the environment, not empty: the sources run, whatever has been compiled


def put_in_place() -> None:
    """From now on, imports of this process find the compiled form of what was compiled."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def why_interpreted() -> str:
    """What keeps this process from running the compiled modules; "" where it runs them."""
    return next((one.why for one in sys.meta_path if isinstance(one, Finder)), "nobody asked for them")


class Finder(MetaPathFinder):
    """The libraries of one build, by the module that each is. ``why`` there are none, or ""."""

    def __init__(self, build: Path = BUILD, root: Path = ROOT) -> None:
        self._libraries: dict[str, Path] = {}
        self.why = f"{OFF} is set" if os.environ.get(OFF) else why_not(build, root)
        if not self.why:
            modules = json.loads((build / MANIFEST).read_bytes())["modules"]
            self._libraries = {name: build / library for name, library in modules.items()}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module is compiled (importlib.abc.MetaPathFinder)."""
        library = self._libraries.get(name)
        return None if library is None else importlib.util.spec_from_file_location(name, library)


def why_not(build: Path = BUILD, root: Path = ROOT) -> str:
    """What keeps a build from being used; "" where it is of these sources and for this machine."""
    try:
        manifest = json.loads((build / MANIFEST).read_bytes())
    except FileNotFoundError:
        return "not compiled"
    if manifest["machine"] != machine():
        return "compiled for another Python or C library"
    for name, digest in manifest["sources"].items():
        try:
            if digest_of(root / name) != digest:
                return f"{name} has changed since"
        except FileNotFoundError:
            return f"{name} is gone"
    return ""


def machine() -> str:
    """What compiled code depends on besides its sources."""
    return " ".join([platform.machine(), *platform.libc_ver(), sys.version])


def digest_of(path: Path) -> str:
    """A file's SHA-256."""
    return sha256(path.read_bytes()).hexdigest()
