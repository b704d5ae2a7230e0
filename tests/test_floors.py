"""Which package may import which, and that importing them is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The packages, and what of each other they may import.
PACKAGES: dict[str, set[str]] = {
    "converter": set(),
    "architectures": set(),
    "zoo": {"architectures", "converter"},
    "finetune": {"zoo", "architectures"},
}
# Inside a package: a folder, or a file beside the folders, and what it may import of its package. Each line stands above what it
# names, so the table has no circle; a package's own __init__ only says where its public names live.
FLOORS: dict[str, dict[str, set[str]]] = {
    "converter": {
        "errors": set(),
        "extras": set(),
        "startup": set(),
        "terminal": {"errors"},
        "arguments": {"terminal"},
        "preprocess": set(),
        "winograd": {"errors"},
        "references": {"errors"},
        "files": {"errors"},
        "formats": set(),
        "read": {"errors", "files", "formats"},
        "layers": {"errors", "read"},
        "program": {"layers"},
        "write.carried": set(),
        "write.facts": {"preprocess", "program"},
        "write.fx": {"program"},
        "write.source": {"errors", "files", "layers", "preprocess", "program", "write.carried"},  # what a net itself offers: to_source()
        "memory": {"errors", "program"},
        "net": {"errors", "memory", "preprocess", "program", "read", "write.facts", "write.fx", "write.source"},
        "build": {"errors", "layers", "memory", "net", "preprocess", "program", "read"},
        "conversion": {"build", "errors", "files", "net", "preprocess", "read"},
        "table": {"build", "errors", "read"},
        "write": {
            "build",
            "errors",
            "extras",
            "files",
            "layers",
            "net",
            "program",
            "read",
            "write.carried",
            "write.facts",
            "write.fx",
            "write.source",
        },
        "verify": {"build", "errors", "memory", "net", "preprocess", "program", "read", "references", "write"},
        "report": {"build", "errors", "files", "program", "read", "table", "verify"},
        "export": {"conversion", "errors", "files", "net", "read", "references", "verify", "write"},
        "cli": {
            "arguments",
            "build",
            "conversion",
            "errors",
            "extras",
            "files",
            "layers",
            "read",
            "report",
            "startup",
            "table",
            "terminal",
            "verify",
            "write",
        },
        "example": {"write"},
        "demo": {"cli", "example"},
    },
    "zoo": {
        "errors": set(),
        "terminal": set(),
        "preprocess": set(),
        "cards": {"errors"},
        "disk": {"errors"},
        "memory": {"errors"},
        "pictures": {"errors"},
        "files": {"cards", "disk", "errors"},
        "models": {"cards", "disk", "errors", "files", "pictures"},
        "foreign": {"cards", "disk", "errors", "files", "models", "terminal"},
        "embedding": {"cards", "disk", "errors", "files", "models", "pictures", "terminal"},
        "cli": {"cards", "disk", "embedding", "errors", "files", "foreign", "models", "pictures", "terminal"},
    },
    "finetune": {
        "__main__": set(),
        "config": set(),
        "errors": set(),
        "extras": {"errors"},
        "files": {"errors"},
        "labels": {"errors"},
        "overrides": {"errors"},
        "renamed": {"config"},
        "tensor_cache": {"errors"},
        "arrays": {"errors", "files", "labels"},
        "tables": {"errors", "files"},
        "command": {"errors", "extras", "overrides", "renamed"},
        "protocol": {"errors", "labels"},
        "video": {"command", "errors", "extras", "files", "labels"},
        "predict": {"command", "errors", "extras", "files", "labels", "video"},
        "demo": {"command", "errors", "predict"},
        "serve": {"command", "errors", "extras", "predict"},
        "prepare_video": {"errors", "video"},
        "runs": {"errors", "labels", "protocol", "renamed"},
        "ensemble": {"command", "errors", "labels", "renamed", "runs"},
        "train": {"config", "errors", "labels", "protocol", "runs"},
        "images": {"arrays", "config", "errors", "files", "labels", "protocol", "runs", "tables", "tensor_cache", "train"},
        "data": {"images"},  # where it lay before
        "clips": {"arrays", "config", "errors", "files", "labels", "protocol", "runs", "tables", "tensor_cache", "train"},
        "fer2013": {"command", "config", "errors", "extras", "images", "overrides", "protocol", "renamed"},
        "emotiw": {"clips", "command", "config", "errors", "extras", "overrides", "protocol", "train", "video"},
    },
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


def imported(tree: ast.AST) -> set[str]:
    """The top-level packages that a file imports; an exception's class is not its package's use."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["UnpicklingError"]:
            continue
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def modules_imported(module: str) -> dict[str, int]:
    """The project's own modules that a module imports anywhere, inside functions as well, with the line."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{MODULES[module]}:{node.lineno}: imports are absolute, so that this table can be held against them"
            names = [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module for alias in node.names]
        else:
            continue
        found |= {name: node.lineno for name in names if name in MODULES and name != module}
    return found


def floor(module: str) -> str:
    """The line of FLOORS that a module belongs to."""
    package, _, inside = module.partition(".")
    return inside if inside in FLOORS[package] else inside.partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_imports_upward(package: str) -> None:
    for module, path in MODULES.items():
        if module.split(".")[0] == package:
            ours = {name.split(".")[0] for name in modules_imported(module)} - {package}
            assert ours <= PACKAGES[package], f"{path.relative_to(ROOT)} imports {ours - PACKAGES[package]}"


@pytest.mark.parametrize("package", FLOORS)
def test_each_floor_stands_on_those_above_it_in_the_table(package: str) -> None:
    lines = list(FLOORS[package])
    for at, line in enumerate(lines):
        assert FLOORS[package][line] <= set(lines[:at]), (
            f"{package}: {line} names {FLOORS[package][line] - set(lines[:at])} before their line"
        )


@pytest.mark.parametrize("package", FLOORS)
def test_the_folders_of_a_package_are_floors(package: str) -> None:
    for module, path in MODULES.items():
        if module.split(".")[0] != package or module == package:
            continue
        assert floor(module) in FLOORS[package], f"{path.relative_to(ROOT)}: give {floor(module)} its line in the table FLOORS"
        for name, line in modules_imported(module).items():
            wrong = name.startswith(f"{package}.") and floor(name) not in FLOORS[package][floor(module)] | {floor(module)}
            assert not wrong, f"{path.relative_to(ROOT)}:{line} imports {name}, which does not lie below {floor(module)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: set(modules_imported(module)) - PACKAGES.keys() for module in MODULES if module not in PACKAGES}
    while graph:
        free = {module for module, needs in graph.items() if not needs & graph.keys()}
        assert free, f"in a circle, or above one: {sorted(graph)}"
        graph = {module: needs for module, needs in graph.items() if module not in free}


@pytest.mark.parametrize("package", ["converter", "zoo", "architectures", "finetune"])
def test_importing_a_package_imports_no_torch(package: str) -> None:
    code = f"import sys, {package}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_unpickled_or_executed(package: str) -> None:
    """torch.load only with weights_only=True; no pickle, eval, exec, extractall in any package."""
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert not imported(tree) & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            bare = isinstance(call.func, ast.Name)
            assert not (bare and name in ("eval", "exec", "compile")) and name != "extractall", f"{path}:{call.lineno}"
            if name == "load" and isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "torch.load":
                words = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert words.get("weights_only") == "True", f"{path}:{call.lineno}"
