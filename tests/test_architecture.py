"""The house as a failing test: who may import whom, what stays pure, what every room must say of itself."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("netplane", "cni", "proxy", "controlplane")

# Room → the rooms it may import. A room not named as a key is part of the nearest one above it.
# foundation → parts (never each other) → tools → cli.
FOUNDATION = {
    "netplane.errors",
    "netplane.config",
    "netplane.metrics",
    "netplane.runner",
    "netplane.compiled",
    "netplane.kube",
    "netplane.linux",
}
# The controllers' own floors: facts, the loop that runs them, and rooms that do not know each other.
CONTROLLERS = FOUNDATION | {f"controlplane.controllers.{name}" for name in ("actions", "options", "facts")}
# The API server's floors: what the kinds are, the cluster in memory, what is asked, reading, writing; the door on top.
API = FOUNDATION | {"controlplane.auth", "controlplane.store", "controlplane.api.kinds"}
ALLOWED: dict[str, set[str]] = {
    "netplane": set(),
    "netplane.errors": set(),
    "netplane.config": {"netplane.errors"},
    "netplane.metrics": {"netplane.errors"},
    "netplane.runner": {"netplane.errors"},
    "netplane.compiled": {"netplane.errors"},
    "netplane.kube": {"netplane.errors"},
    "netplane.linux": {"netplane.errors"},
    "cni": FOUNDATION,
    "proxy": FOUNDATION,
    "controlplane": FOUNDATION | {"controlplane"},
    "controlplane.api.memory": API,
    "controlplane.api.requests": API | {"controlplane.api.memory", "controlplane.api.schema"},
    "controlplane.api.reading": API | {"controlplane.api.memory", "controlplane.api.failures"},
    "controlplane.api.writing": API
    | {f"controlplane.api.{room}" for room in ("memory", "requests", "reading", "ownership", "schema")},
    "controlplane.controllers.facts": CONTROLLERS,
    "controlplane.controllers.loop": CONTROLLERS,
    **{
        f"controlplane.controllers.{room}": CONTROLLERS | {"controlplane.controllers.loop"}
        for room in ("workloads", "services", "nodes", "upkeep")
    },
    "netplane.node": FOUNDATION,
    "netplane.dns": FOUNDATION,
    # Tools use a part's public read side; PKI and settings are what `lab up` and `up` must write.
    # Explain predicts with the proxy's own rules, so that the two cannot drift.
    "netplane.debug": FOUNDATION
    | {"proxy.userspace.observe", "proxy.datapath", "cni.leases"}
    | {"proxy.nftables.observe", "proxy.nftables.names", "proxy.ebpf.observe", "proxy.codec"}
    | {"proxy.frontends", "proxy.model", "proxy.selection", "proxy.snapshot", "proxy.userspace.sources"},
    # The CNI plugin is measured as a runtime meets it: installed, and its daemon asked whether it is there.
    # A control plane that is measured has files of its own. What an update of the maps costs is measured at the maps.
    "netplane.bench": FOUNDATION
    | {"netplane.lab", "proxy.datapath", "cni.install", "cni.client", "controlplane.auth"}
    | {"proxy.model", "proxy.ebpf.pins", "proxy.ebpf.routes", "proxy.ebpf.tables"}
    | {"proxy.nftables.datapath", "proxy.targets"}
    | {"proxy.userspace.observe"},
    "netplane.lab": FOUNDATION
    | {"netplane.debug", "netplane.machine", "controlplane.auth", "cni.install"}
    | {f"netplane.node.supervise.{name}" for name in ("control", "files", "logs", "notify", "process")},
    # Makes a machine part of a cluster and takes that back: it must know what each part leaves behind.
    "netplane.machine": FOUNDATION
    | {"netplane.node", "netplane.dns", "cni", "proxy", "controlplane.auth", "controlplane.server"},
    "netplane.cli": {"*"},
    "netplane.__main__": {"netplane.cli"},
}

# Inside a part the decisions stay apart from the doing: these modules may not touch the outside world.
PURE = (
    "cni/check.py",
    "cni/errors.py",
    "cni/firewall.py",
    "cni/ipam.py",
    "cni/lease.py",
    "cni/netconf.py",
    "cni/plan.py",
    "cni/protocol.py",
    "cni/results.py",
    "cni/wishes.py",
    "controlplane/api/kinds/allocation.py",
    "controlplane/api/writing/lifecycle.py",
    "controlplane/api/writing/patch.py",
    "controlplane/api/memory/records.py",
    "controlplane/api/requests/route.py",
    "controlplane/api/reading/selection.py",
    "controlplane/api/writing/strategic.py",
    "controlplane/api/memory/tables.py",
    "controlplane/auth/authz.py",
    "controlplane/auth/impersonation.py",
    "controlplane/controllers/workloads/replicaset.py",
    "controlplane/controllers/workloads/rollout.py",
    "controlplane/controllers/services/slices.py",
    "netplane/bench/plot.py",
    "netplane/debug/ailments.py",
    "netplane/debug/balancers.py",
    "netplane/debug/ends.py",
    "netplane/debug/eyes.py",
    "netplane/debug/hops.py",
    "netplane/debug/intent.py",
    "netplane/debug/left_out.py",
    "netplane/debug/listening.py",
    "netplane/debug/silent.py",
    "netplane/debug/told.py",
    "netplane/debug/verdict.py",
    "netplane/debug/walk.py",
    "netplane/debug/ways.py",
    "netplane/dns/records.py",
    "netplane/node/capabilities.py",
    "netplane/node/status.py",
    "proxy/balance.py",
    "proxy/diff.py",
    "proxy/ebpf/layout.py",
    "proxy/ebpf/routes.py",
    "proxy/frontends.py",
    "proxy/model.py",
    "proxy/nftables/choosing.py",
    "proxy/nftables/names.py",
    "proxy/nftables/ruleset.py",
    "proxy/selection.py",
    "proxy/snapshot.py",
    "proxy/targets.py",
    "proxy/unheard.py",
    "proxy/userspace/ruleset.py",
    "proxy/userspace/workers/leavers.py",
    "netplane/kube/cache.py",
    "netplane/kube/errors.py",
    "netplane/kube/objects.py",
    "netplane/kube/quantity.py",
    "netplane/kube/resources.py",
    "netplane/kube/selectors.py",
)
IMPURE_IMPORTS = {
    "socket",
    "subprocess",
    "asyncio",
    "aiohttp",
    "sqlite3",
    "pyroute2",
    "threading",
    "ctypes",
    "select",
}

MODULE_LINES = 420
FUNCTION_LINES = 60


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """Each file once for all the tests here: parsing is most of what they cost."""
    return ast.parse(path.read_text())


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Absolute names of every imported module, relative imports resolved."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def room_of(module: str) -> str:
    return max((room for room in ALLOWED if module == room or module.startswith(room + ".")), key=len)


def may_import(room: str, target: str) -> bool:
    allowed = ALLOWED[room]
    if "*" in allowed or room_of(target) in (room, "netplane") or target in ROOMS:
        return True
    return any(target == name or target.startswith(name + ".") for name in allowed)


def test_imports_go_down_the_floors_only() -> None:
    broken = []
    for path in sources():
        room = room_of(module_name(path))
        for target in sorted(imports(path)):
            if target.split(".")[0] in ROOMS and not may_import(room, target):
                # `from a.b import name` is listed as a.b and a.b.name: an allowed a.b.name allows a.b.
                if any(allowed.startswith(target + ".") for allowed in ALLOWED[room]):
                    continue
                broken.append(f"{path.relative_to(ROOT)}: {room} may not import {target}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_do_no_input_or_output(name: str) -> None:
    used = {target.split(".")[0] for target in imports(ROOT / name)}
    assert not used & IMPURE_IMPORTS


def test_every_module_says_why_it_exists() -> None:
    silent = [str(p.relative_to(ROOT)) for p in sources() if not ast.get_docstring(parsed(p))]
    assert not silent, f"no docstring: {silent}"


def test_modules_and_functions_stay_small() -> None:
    large = []
    for path in sources():
        text = path.read_text()
        lines = len(text.splitlines())
        if lines > MODULE_LINES:
            large.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION_LINES:
                    large.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not large, "\n".join(large)


def test_architecture_document_names_only_what_exists() -> None:
    """Every `path`, `path.py:name` and `package.module` in code quotes must be there."""
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    missing = []
    for quoted in set(re.findall(r"`([^`\n]+)`", text)):
        path, _, symbol = quoted.partition(":")
        if not re.fullmatch(r"[\w./-]+", path) or not (path.endswith((".py", "/")) and "/" in path):
            continue
        place = ROOT / path
        if not place.exists() or (symbol and not defines(place, symbol)):
            missing.append(quoted)
    assert not missing, f"docs/ARCHITECTURE.md names what does not exist: {sorted(missing)}"


def defines(path: Path, symbol: str) -> bool:
    """Whether a module defines ``name`` or ``Class.method``."""
    scope: ast.AST = parsed(path)
    for part in symbol.split("."):
        found = next((n for n in ast.iter_child_nodes(scope) if part in names_of(n)), None)
        if found is None:
            return False
        scope = found
    return True


def names_of(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


# Hosts that packages come from, and places that exist only on one machine.
FORBIDDEN = re.compile(
    r"(deb|snapshot|security)\.debian\.org|pypi\.org|pythonhosted|registry\.npmjs|archive\.ubuntu|"
    r"--(extra-)?index-url|--find-links|--trusted-host|/wo" + r"rk/|/ro" + r"ot/|/ho" + r"me/[a-z]+/"
)


def test_no_tracked_file_names_a_package_host_or_a_path_of_one_machine() -> None:
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n".join(found)


def test_requirement_files_are_hashed_and_bare() -> None:
    groups = {f"{group}-{minor}" for minor in ("3.11", "3.12", "3.13") for group in ("run", "schema", "test")}
    assert {path.stem for path in (ROOT / "requirements").glob("*.txt")} >= {*groups, "kubectl"}
    for path in (ROOT / "requirements").glob("*.txt"):
        lines = path.read_text().splitlines()
        assert lines
        assert all(
            re.match(r"^(    --hash=sha256:[0-9a-f]{64}( \\)?|[a-z0-9._-]+==\S+ .*\\)$", line)
            for line in lines
        )


def test_wheel_holds_exactly_our_four_names(tmp_path: Path) -> None:
    """netplane is an application: what it installs is a promise (docs/decisions)."""
    import sys
    import zipfile

    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", *ROOMS):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert "controlplane/api/schema/data/schemas.json" in files
    names = {name.split("/")[0] for name in files}
    assert {name for name in names if not name.endswith(".dist-info")} == set(ROOMS)
