"""Compiles the modules of the list: `python -m netplane.compiled.build`, run by `./dev setup`.

Why mypyc: it compiles the Python we already write for mypy, as it is. What it makes depends on all that the
modules import of ours (types and constants go in), so all of that is in the manifest.
"""

import ast
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from netplane.compiled.loading import BUILD, MANIFEST, ROOT, digest_of, machine, why_not
from netplane.compiled.modules import MODULES
from netplane.errors import ConfigError, NetplaneError

GROUP = "netplane"  # what the modules have in common is a library of its own: netplane__mypyc
RECIPE = (Path("netplane/compiled/build.py"), Path("netplane/compiled/modules.py"))


def build(target: Path = BUILD, modules: Iterable[str] = MODULES) -> bool:
    """Compile where anything has changed; whether it did. Raises ConfigError naming what is missing."""
    if not why_not(target):
        return False
    _check_tools()
    os.chdir(ROOT)  # mypyc takes a module's name from its path
    sources = reached(modules)
    digests = {str(path): digest_of(path) for path in sorted({*sources, *RECIPE})}
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="build.", dir=target.parent))
    try:
        libraries = _compile(modules, work)
        manifest = {"machine": machine(), "sources": digests, "modules": libraries}
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _put(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def _put(made: Path, target: Path) -> None:
    """In the place of what was there; a process that loads from it meanwhile finds the one or the other."""
    before = target.with_name(f"{made.name}.before")
    if target.exists():
        target.rename(before)
    made.rename(target)
    shutil.rmtree(before, ignore_errors=True)


def path_of(name: str) -> Path:
    """A module's file, from the root of the sources."""
    path = Path(*name.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def twin_of(path: Path) -> Path | None:
    """The C beside a module, which has the same functions; None where there is none."""
    twin = path.with_suffix(".c")
    return twin if (ROOT / twin).exists() else None


def reached(modules: Iterable[str]) -> set[Path]:
    """The files of these modules, and of all that they import of ours, and those in turn."""
    found: set[Path] = set()
    left = [path_of(name) for name in modules]
    while left:
        path = left.pop()
        if path not in found:
            found |= {path, twin_of(path) or path}
            left += _imported(path)
    return found


def _imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse((ROOT / path).read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (found for found in map(path_of, names) if (ROOT / found).is_file())


def _check_tools() -> None:
    header = Path(sysconfig.get_path("include"), "Python.h")
    version = sysconfig.get_python_version()
    if not header.exists():
        raise ConfigError("cannot compile: Python.h is not installed", f"Install python{version}-dev")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        raise ConfigError("cannot compile: there is no C compiler", "Install gcc and libc6-dev")
    try:
        import mypyc.build  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"cannot compile: no {error.name}", "It is in requirements/compile.in") from None


def _compile(modules: Iterable[str], work: Path) -> dict[str, str]:
    """The libraries, by the module that each is; their files are relative to ``work``."""
    from mypyc.build import mypycify
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext
    from setuptools.errors import CompileError, LinkError

    with tempfile.TemporaryDirectory() as between:
        twins = {name: twin_of(path_of(name)) for name in modules}
        paths = [str(path_of(name)) for name, twin in twins.items() if twin is None]
        extensions = mypycify(paths, opt_level="2", debug_level="0", group_name=GROUP, target_dir=between)
        extensions += [Extension(name, [str(twin)]) for name, twin in twins.items() if twin is not None]
        for one in extensions:  # a newer compiler's new warning is no reason to do without
            one.extra_compile_args = [*one.extra_compile_args, "-Wno-error"]
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_lib, command.build_temp, command.parallel = str(work), between, os.cpu_count()
        command.ensure_finalized()
        try:
            command.run()
        except (CompileError, LinkError):
            raise ConfigError("cannot compile: the C compiler failed", "What it said is above") from None
        return {one.name: command.get_ext_filename(one.name) for one in extensions}


if __name__ == "__main__":
    try:
        build()
    except NetplaneError as error:
        sys.exit(f"netplane: {error}")
