"""What `import architectures` promises: light, complete, and below the converter and the zoo."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import architectures

PACKAGE = Path(architectures.__file__).parent


def test_importing_the_package_imports_no_torch():
    code = "import sys, architectures; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", architectures.__all__)
def test_every_public_name_is_there(name):
    assert getattr(architectures, name).__name__ == name


def test_names_for_type_checkers_users_and_importers_agree():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = {a.name: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    lazy = {name: f"architectures.{module}" for name, module in architectures._MODULES.items()}
    assert {name: lazy[name] for name in architectures.__all__} == lazy
    assert {name: module for name, module in typed.items() if name in lazy} == lazy


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'VGGFacee'"):
        _ = architectures.VGGFacee
    assert "VGGFace" in dir(architectures)


def test_nothing_here_imports_the_converter_the_zoo_or_the_recipes():
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"converter", "zoo", "finetune"}, path
