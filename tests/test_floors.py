"""Which package may import which, and that importing them is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "converter": set[str](),
    "architectures": set[str](),
    "zoo": {"architectures", "converter"},
    "finetune": {"zoo", "architectures"},
}

# Inside finetune: a folder, or a file beside the folders, and the folders that it may import. The other files are the ground floor:
# everything may import them, and they import no folder.
FINETUNE = {
    "runs": set[str](),
    "train": {"runs"},
    "images": {"runs", "train"},
    "clips": {"runs", "train"},
    "video": set[str](),
    "predict": {"video"},
    "fer2013": {"images"},
    "emotiw": {"clips", "train"},
    "ensemble": {"runs"},
    "prepare_video": {"video"},
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


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_nothing_imports_upward(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = imported(ast.parse(path.read_text())) & MAY_IMPORT.keys() - {package}
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


def test_the_folders_of_finetune_are_floors() -> None:
    folders = {path.parent.name for path in (ROOT / "finetune").glob("*/__init__.py")}
    assert folders <= FINETUNE.keys(), "a new folder has its place in the table FINETUNE"
    for path in (ROOT / "finetune").rglob("*.py"):
        room = path.relative_to(ROOT / "finetune").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "finetune":
                names = [node.module.split(".")[1]] if node.module != "finetune" else [alias.name for alias in node.names]  # type: ignore[union-attr]
                wrong = set(names) & folders - FINETUNE.get(room, set()) - {room}
                assert not wrong, f"{path.relative_to(ROOT)}:{node.lineno} imports {', '.join(wrong)}, which does not lie below it"


@pytest.mark.parametrize("package", ["converter", "zoo", "architectures", "finetune"])
def test_importing_a_package_imports_no_torch(package: str) -> None:
    code = f"import sys, {package}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("package", MAY_IMPORT)
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
