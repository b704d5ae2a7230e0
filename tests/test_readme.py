"""Whatever README.md, CONTRIBUTING.md and docs/*.md tell people to type is typed here. A new page takes part by being there.

A page's pieces run in their order, in a folder with small stand-ins (tests/helpers/newcomer.py): weights are drawn instead of downloaded,
runs are drawn instead of trained, packages are not installed. A command within a sentence has to be understood by its program.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="the pages find faces with OpenCV's cascade: pip install -e '.[dev]'")
pytest.importorskip("av", reason="the pages read videos: pip install -e '.[dev]'")

from newcomer import CommandFailed, NotRun, Shell, furnish, prelude, without_network, without_training, without_waiting
from pages import PAGES, ROOT, Piece, pieces

# Command lines that are not run, by how they begin, and why.
NOT_RUN = {
    r"git clone ": "the address is the reader's; tests/test_packaging.py installs what a checkout has into a new environment",
    r"python3 -m venv ": "takes seconds and proves nothing of this project; tests/test_packaging.py makes one",
    r"pip install pre-commit": "a tool of the maintainers'",
    r"(\.venv/bin/)?python -m pytest": "the tests are what runs here",
    r"(\.venv/bin/)?python benchmarks/": "minutes to days, on data that nobody may hand on; the benchmarks' own tests run what can be",
    r"hf ": "hands files to a service that asks who you are",
    r".*finetune\.predict .*--camera": "there is no camera; tests/finetune/predict has one that is drawn",
}
# Python blocks that are no programs, by page.
PARTS = {
    "docs/adding-a-layer.md": "parts of a module of the converter, to be read",
    "docs/hub.md": "asks the Hub for a repository of the reader's; tests/zoo has one that is local",
}
# Pages that take more than ten seconds.
SLOW = ("docs/forms.md", "docs/to-caffe.md")
# Packages that a page needs.
NEEDS = {"docs/forms.md": ("onnx", "onnxruntime", "onnxscript"), "docs/hub.md": ("huggingface_hub",)}
# Failing is what these are shown for.
REFUSED = ("convert-caffe segmenter.prototxt",)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """With a limit of ten minutes, for a command that would wait for ever, as a server does."""
    without_network(monkeypatch, tmp_path)
    without_training(monkeypatch)
    without_waiting(monkeypatch)
    furnish(tmp_path)
    limit = threading.Timer(600, lambda: signal.raise_signal(signal.SIGINT))
    limit.daemon = True
    limit.start()
    yield Shell(tmp_path, monkeypatch, NOT_RUN, prelude())
    limit.cancel()


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PAGES])
@pytest.mark.filterwarnings("default")  # a command shows its warnings, and goes on
def test_what_a_page_says_to_type_works(page: str, shell: Shell) -> None:
    """A command within a sentence only has to be understood: its files may not be there, and its names be placeholders."""
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package, reason=f"{page} uses it: pip install -e '.[dev]'")
    for piece in pieces(page):
        try:
            if piece.kind in ("command", "inline"):
                shell.line(piece.text)
            elif piece.kind == "python" and page not in PARTS:
                shell.block(piece.text)
        except NotRun:
            continue
        except CommandFailed as failed:
            shown = piece.text.strip().removeprefix(".venv/bin/").startswith(REFUSED)
            if not shown and (piece.kind == "command" or not understood(piece.text, failed)):
                raise AssertionError(f"{piece}\n{failed}") from failed
        except Exception as error:
            raise AssertionError(f"{piece}\n{type(error).__name__}: {error}") from error


def understood(text: str, failed: CommandFailed) -> bool:
    """Whether a command within a sentence failed for its files, or because a sentence names an option without them."""
    if failed.status != 2:
        return True
    speaks_of_options = re.search(r"arguments are required|expected one argument|give a prototxt", failed.err)
    return speaks_of_options is not None and all(option in failed.err for option in re.findall(r" (--?[a-z][a-z-]*)", text))


def test_nothing_is_excused_that_no_page_says() -> None:
    said: list[Piece] = [piece for page in PAGES for piece in pieces(page)]
    lines = [part.strip() for piece in said if piece.kind != "python" for part in (piece.text, *piece.text.split("&&"))]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, line) for line in lines)] == []
    assert [page for page in PARTS if not any(piece.page == page and piece.kind == "python" for piece in said)] == []


def test_commands_stand_in_console_blocks() -> None:
    """A line a command, behind "$ ", what is said of it behind "#": so that it can be typed, and is found here."""
    assert [str(piece) for page in PAGES for piece in pieces(page) if piece.kind == "misplaced"] == []


def test_every_link_of_a_page_leads_somewhere() -> None:
    wrong = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img[^>]* src=\"([^\"]+)\"", text):
            path = "".join(target)
            if not re.match(r"https?://", path) and not ((ROOT / page).parent / path).exists():
                wrong.append(f"{page}: {path}")
    assert wrong == []


def test_every_page_stands_in_the_list_of_pages() -> None:
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if page.startswith("docs/") and page != "docs/README.md" and f"]({page[5:]})" not in listed] == []


def test_the_readme_names_the_environment_in_every_command() -> None:
    """So that each line works as it stands, whatever is activated."""
    own = ("convert-caffe", "caffe-zoo", "python ", "pip ", "torchrun")
    bare = [str(piece) for piece in pieces("README.md") if piece.kind == "command" and piece.text.startswith(own)]
    assert bare == []
