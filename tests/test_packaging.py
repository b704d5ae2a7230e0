"""What is handed out: the wheel, the source distribution, and what they say of themselves."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import converter

ROOT = Path(__file__).parents[1]


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_the_citation_names_the_version_and_the_licence() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines() if re.match(r"\w[\w-]*: ", line))
    assert lines["version"] == converter.__version__
    assert lines["license"] == setup()["metadata"]["license"]


def test_every_data_file_of_the_packages_is_in_the_wheels_lists() -> None:
    """A file that git tracks beside the modules and that no pattern of package_data matches is missing from a wheel."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout: which files belong to the packages is asked of git")
    packages = ("architectures", "converter", "finetune", "zoo")
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", *packages], capture_output=True, text=True, check=True).stdout.splitlines()
    patterns = {
        ROOT / package.replace(".", "/") / pattern.strip()
        for package, value in setup()["options.package_data"].items()
        if package != "*"
        for pattern in value.split(",")
    }
    known = {path for pattern in patterns for path in pattern.parent.glob(pattern.name)}
    data = [ROOT / name for name in listed if not name.endswith((".py", "py.typed"))]
    assert [path for path in data if path not in known] == []


def left_out(folder: str, names: list[str]) -> set[str]:
    """What of a checkout is no part of it: caches everywhere, environments and builds at the top."""
    top = {name for name in names if (name[0] == "." and name != ".ci") or name.endswith(".egg-info")} | {"build", "dist", "demo-out"}
    return {"__pycache__"} | (top if Path(folder) == ROOT else set())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    for needed in ("build", "setuptools"):
        pytest.importorskip(needed, reason="python -m build --no-isolation makes the distributions: pip install -e '.[dev]'")
    place = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, place / "checkout", ignore=left_out)  # building leaves files behind
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist"), str(place / "checkout")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return place / "dist"


@pytest.mark.slow
def test_the_source_distribution_has_docs_tests_and_changelog(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "CITATION.cff",
        "Makefile",
        "hubconf.py",
        "docs/predicting.md",
        "tests/test_floors.py",
    }
    assert needed <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "converter").glob("*.py")} <= names
    assert any(name.endswith("net.caffemodel") for name in names)


@pytest.mark.slow
def test_the_wheel_has_the_four_packages_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    names = zipfile.ZipFile(path).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"architectures", "converter", "finetune", "zoo", "caffezoo"}
    assert {"finetune/demo/astronaut.jpg", "zoo/embedded/fer_mini.caffemodel", "converter/read/caffe.desc", "zoo/py.typed"} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_the_demo_passes_where_only_the_distribution_is_installed(built: Path, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="the demo finds the face with OpenCV's cascade")
    (path,) = built.glob(kind)
    python = install(path, tmp_path / "venv")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}

    def run(*command: str | Path) -> str:
        done = subprocess.run([*map(str, command)], cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(python, "-c", "import converter, finetune, zoo; print(converter.__file__, finetune.__file__, zoo.__file__)")
    assert where.count(str(tmp_path)) == 3
    for command in ("convert-caffe", "caffe-zoo"):
        assert run(python.parent / command, "--version") == f"caffezoo {converter.__version__}\n"
    assert "the face of an astronaut: happy" in run(python, "-m", "finetune.demo", "out")
    assert (tmp_path / "out" / "astronaut_annotated.jpg").is_file()


def install(distribution: Path, place: Path) -> Path:
    """The Python of a new environment that has the distribution, and sees this one's other packages."""
    venv.create(place, with_pip=False)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip())
    # A line of a .pth file adds a folder, whose own .pth files, such as an editable caffezoo's, are not followed.
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*map(str, command), "--ignore-installed", str(distribution)], check=True)
    return python
