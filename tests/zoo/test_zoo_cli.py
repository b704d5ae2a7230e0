"""caffe-zoo as a user runs it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import misbehaving as bad
import pytest
from misbehaving import Server

from zoo.cards import registry
from zoo.cards.record import Checksum, File, Mirror, Terms
from zoo.cli import main

BODY = bytes(range(256)) * 100
pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose only file comes from the server, under terms that ask for consent."""
    known = (Checksum("sha256", hashlib.sha256(BODY).hexdigest(), "this test"),)
    file = File("net.caffemodel", (Mirror(server.serve("/net", BODY)),), len(BODY), known)
    terms = Terms("research only", "this test", ask=True)
    card = dataclasses.replace(registry.card_of("squeezenet1_1"), name="small", files=(file,), terms=terms)
    monkeypatch.setattr(registry, "CARDS", (card, *registry.CARDS))
    return "small"


def test_list_shows_every_model_and_what_is_cached(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["name", "task", "state", "licence"]
    assert len(table) == 1 + len(registry.CARDS)
    main(["fetch", small, "--accept-terms"])
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert states[small] == "cached"
    assert states["vgg_face"] == "to be fetched"
    assert states["center_loss_face"] == "no checksum"
    assert states["resnet101"] == "bring your own"


def test_on_a_terminal_long_lines_are_cut_or_wrapped_and_words_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert max(map(len, listed.splitlines())) == 100
    assert "…" in listed and "--allow-unverified" in listed and "caffe-zoo info NAME" in listed
    assert main(["info", "fer_mini"]) == 0
    told = capsys.readouterr().out.split("\n\n")[1]
    assert max(map(len, told.splitlines())) <= 100
    assert " ".join(told.split()).count("whether that bears on a use is for its user to judge") == 1


def test_info_shows_the_facts_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "vgg_face"]) == 0
    text = capsys.readouterr().out
    for fact in ("580,013,788 bytes", "93.594 104.7624 129.1863", "CC BY-NC 4.0", "matcaffe_demo.m", "Git LFS pointer"):
        assert fact in text
    assert main(["info", "vgg_face", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 145_002_878


def test_fetch_asks_for_consent_then_prints_the_paths(small: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", small]) == 1
    assert "--accept-terms" in capsys.readouterr().err
    assert main(["fetch", small, "--accept-terms"]) == 0
    assert capsys.readouterr().out.strip() == str(home / small / "net.caffemodel")
    assert main(["fetch", small, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"net.caffemodel": str(home / small / "net.caffemodel")}


def test_verify_and_add_report_in_their_exit_status(small: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", small]) == 1
    mine = tmp_path / "mine"
    mine.write_bytes(BODY)
    assert main(["add", small, str(mine), "--accept-terms"]) == 0
    assert main(["verify", small]) == 0
    (home / small / "net.caffemodel").write_bytes(BODY[::-1])
    capsys.readouterr()
    assert main(["verify", small, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["state"] == "wrong"
    mine.write_bytes(b"wrong")
    assert main(["add", small, str(mine)]) == 1
    assert "none of small's files" in capsys.readouterr().err


def test_where_and_clean(small: str, home: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["where"]) == 0
    assert main(["where", small]) == 0
    assert capsys.readouterr().out.splitlines() == [str(home), str(home / small)]
    server.resources["/net"].faults = [bad.truncated(5000), bad.status(404)]
    assert main(["fetch", small, "--accept-terms"]) == 1
    assert main(["list"]) == 0
    assert "partly fetched" in capsys.readouterr().out
    assert main(["clean"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 files removed"
    assert main(["clean", small, "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [str(home / small / "terms.json")]


@pytest.mark.parametrize("command", [["info"], ["fetch"], ["verify"], ["add", "x"], ["nonsense"], [], ["list", "--yaml"]])
def test_a_command_that_cannot_be_understood_ends_with_2(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "usage: caffe-zoo" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["info", "VGGface"], ["fetch", "VGGface"], ["verify", "VGGface"], ["clean", "VGGface"]])
def test_a_wrong_name_ends_with_1_and_the_right_name(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("caffe-zoo: the zoo has no model 'VGGface'. Did you mean 'vgg_face'")
    assert "Traceback" not in error


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_as_a_shell_reports_it(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background it is ignored
    monkeypatch.setattr("zoo.cli.verify", lambda name: os.kill(os.getpid(), number))
    try:
        assert main(["verify", "vgg_face"]) == status
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert capsys.readouterr().err == "caffe-zoo: interrupted; what has come is kept\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    import converter

    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"caffezoo {converter.__version__}\n"


def test_what_a_stranger_wrote_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "a\x1b[2Jb"]) == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("output", [".", "/"])
def test_an_export_needs_a_file_s_name(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "vgg_face", "-o", output]) == 1
    assert "name the file" in capsys.readouterr().err


def test_the_command_starts_without_torch_and_survives_a_closed_pipe() -> None:
    root = Path(__file__).parents[2]
    script = (
        "import sys; from zoo.cli import main; status = main(['list']);"
        " assert not {'torch', 'requests', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run([sys.executable, "-c", script], cwd=root, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert "Traceback" not in run.stderr
    whole = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "vgg_face" in whole.stdout


@pytest.mark.parametrize("side", [112, 80])
def test_a_run_is_exported_as_a_caffe_net_of_the_same_numbers_and_size(
    side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The finetuned net in Caffe's files, read again by the converter."""
    import torch
    from safetensors.torch import save_file

    import zoo
    from architectures import MobileFaceExpression
    from converter import convert

    torch.manual_seed(0)
    net = MobileFaceExpression(5)
    run = tmp_path / "run"
    run.mkdir()
    save_file(net.state_dict(), run / "best.safetensors")
    card = {
        "format": 1, "architecture": "MobileFaceExpression", "arguments": {"num_classes": 5}, "weights": "best.safetensors",
        "sha256": hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest(), "classes": list("abcde"), "title": "a run",
        "preprocess": {"size": [side, side], "channels": "RGB", "mean": [128, 128, 128], "scale": 0.0078125},
    }  # fmt: skip
    (run / "card.json").write_text(json.dumps(card))
    assert main(["export", str(run), "-o", str(tmp_path / "net.caffemodel")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")]
    assert said[2].startswith("classifier: differs by at most") and "the module itself" in said[2]
    x = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        found = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")(x)
        torch.testing.assert_close(found, zoo.load(run)(x).softmax(1), atol=1e-5, rtol=1e-4)
    assert main(["export", str(tmp_path / "none"), "-o", str(tmp_path / "x.caffemodel")]) == 1
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")  # OpenCV may be missing
@pytest.mark.parametrize(
    ("architecture", "arguments", "side", "channels", "layer"),
    [("SmallVGG", {"num_classes": 3, "widths": [8, 16]}, 24, "GRAY", "conv2_2"), ("FaceClipNet", {"num_classes": 3}, 112, "RGB", None)],
)
def test_a_run_without_a_prototxt_is_exported_by_its_operations(
    architecture: str,
    arguments: dict[str, object],
    side: int,
    channels: str,
    layer: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch
    from safetensors.torch import save_file

    import architectures
    import zoo
    from converter import convert

    torch.manual_seed(0)
    net = getattr(architectures, architecture)(**arguments)
    run = tmp_path / "run"
    run.mkdir()
    save_file(net.state_dict(), run / "best.safetensors")
    digest = hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest()
    spec = {"size": [side, side], "channels": channels, "mean": [128] * (1 if channels == "GRAY" else 3), "scale": 0.0078125}
    card = {"format": 1, "architecture": architecture, "arguments": arguments, "weights": "best.safetensors", "sha256": digest}
    (run / "card.json").write_text(json.dumps(card | {"classes": list("abc"), "title": "a run", "preprocess": spec}))
    output = tmp_path / "net.caffemodel"
    if layer is None:  # a net of clips
        assert main(["export", str(run), "-o", str(output)]) == 1
        assert "which no single Caffe net does" in capsys.readouterr().err and not output.exists()
        return
    x = torch.randn(1, 1, side, side)
    for half, tolerance in (([], 1e-5), (["--half"], 5e-3)):
        assert main(["export", str(run), "-o", str(output), *half]) == 0
        assert "of the largest value from the module itself" in capsys.readouterr().out
        found = convert(tmp_path / "net.prototxt", output)
        assert layer in found.layer_names.values()
        with torch.inference_mode():
            want = zoo.load(run)(x)
            assert (found(x) - want).abs().max() <= tolerance * want.abs().max()
