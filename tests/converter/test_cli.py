"""The command as a person or a program uses it: output, exit status, errors in one paragraph, files left behind."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy
import pytest
import torch
from golden import FOLDER
from safetensors import safe_open
from safetensors.torch import load_file

import converter
from converter import arguments, cli, convert
from converter.write.encode import blob_head, write_caffemodel

CASE = FOLDER / "Graph-0"
PROTOTXT, WEIGHTS = str(CASE / "net.prototxt"), str(CASE / "net.caffemodel")
HEAVY = "print([name for name in ('torch', 'numpy', 'google.protobuf') if name in sys.modules])"


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "converter.cli", *arguments], capture_output=True, text=True, cwd=cwd, timeout=600)


def test_converting_to_safetensors_keeps_every_value_and_names_the_source(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    said = run(PROTOTXT, WEIGHTS, "-o", str(out))
    assert said.returncode == 0 and said.stderr == "", said.stderr
    assert said.stdout.startswith(f"{out}: ") and "every blob of the net found" in said.stdout
    net = convert(PROTOTXT, WEIGHTS)
    state = load_file(out)
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    with safe_open(out, "pt") as file:
        facts = file.metadata()
    assert facts["sha256.net.caffemodel"] == hashlib.sha256(Path(WEIGHTS).read_bytes()).hexdigest()
    assert facts["sha256.net.prototxt"] == hashlib.sha256(Path(PROTOTXT).read_bytes()).hexdigest()
    assert facts["converter"].startswith("caffezoo ")
    assert json.loads(facts["layer_names"])["branch/3x3"] == "branch/3x3"
    assert json.loads(facts["inputs"]) == {"data": list(net.input_shapes["data"])}


def test_converting_to_pth_loads_without_unpickling_and_by_mmap(tmp_path: Path) -> None:
    out = tmp_path / "net.pth"
    assert run(PROTOTXT, WEIGHTS, "-q", "-o", str(out)).stdout == ""
    state = torch.load(out, weights_only=True, mmap=True)
    want = convert(PROTOTXT, WEIGHTS).state_dict()
    assert state.keys() == want.keys() and all(torch.equal(state[key], want[key]) for key in want)


def test_the_order_of_the_files_does_not_matter(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run(PROTOTXT, WEIGHTS, "-q", "-o", str(first))
    run(WEIGHTS, PROTOTXT, "-q", "-o", str(second))
    assert first.read_bytes() == second.read_bytes()


def test_python_source_is_written_and_runs(tmp_path: Path) -> None:
    out = tmp_path / "net.py"
    assert run(PROTOTXT, "-o", str(out)).returncode == 0
    assert subprocess.run([sys.executable, "-c", "import net; net.Net()"], cwd=tmp_path).returncode == 0


def test_a_prototxt_alone_gives_the_layer_table_with_totals() -> None:
    said = run(str(FOLDER / "InnerProduct-1" / "net.prototxt"))
    head, *rows = said.stdout.splitlines()
    assert head.split() == ["layer", "type", "top", "shape", "parameters", "multiply-adds"]
    assert rows[-1].startswith("total")
    facts = json.loads(run(str(FOLDER / "InnerProduct-1" / "net.prototxt"), "--json").stdout)
    net = convert(FOLDER / "InnerProduct-1" / "net.prototxt")
    assert facts["parameters"] == sum(p.numel() for p in net.parameters())
    assert facts["layers"][-1]["tops"] == {"out": list(net(torch.zeros(net.input_shapes["data"])).shape)}


def test_the_layer_table_counts_parameters_as_torch_does_so_no_statistics_of_batchnorm() -> None:
    prototxt = Path(__file__).parents[2] / "zoo" / "embedded" / "fer_mini.prototxt"
    from converter.conversion import prepare
    from converter.table import net_rows

    rows = net_rows(prepare(prototxt, None)[0])
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in convert(prototxt).parameters())


def test_multiply_adds_are_those_of_the_definition(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("""
        input: "x" input_shape { dim: 2 dim: 6 dim: 9 dim: 8 }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 stride: 2 group: 2 } }
        layer { name: "d" type: "Deconvolution" bottom: "c" top: "d" convolution_param { num_output: 5 kernel_size: 2 stride: 2 } }
        layer { name: "f" type: "InnerProduct" bottom: "d" top: "f" inner_product_param { num_output: 10 } }""")
    facts = json.loads(run(str(path), "--json").stdout)
    counts = {layer["name"]: layer["multiply_adds"] for layer in facts["layers"]}
    assert counts == {"x": 0, "c": 2 * 4 * 4 * 3 * 3 * 9, "d": 2 * 4 * 4 * 3 * 5 * 4, "f": 2 * 10 * 5 * 8 * 6}


def test_a_caffemodel_alone_lists_its_blobs_without_torch_numpy_or_protobuf(tmp_path: Path) -> None:
    code = f"import sys; from converter.cli import main; main([sys.argv[1]]); {HEAVY}"
    said = subprocess.run([sys.executable, "-c", code, WEIGHTS], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.splitlines()[-1] == "[]"
    facts = json.loads(run(WEIGHTS, "--json").stdout)
    assert facts["values"] == sum(p.numel() for key, p in convert(PROTOTXT, WEIGHTS).state_dict().items() if "tracked" not in key) + 1


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys; from converter.cli import parser; parser().format_help(); {HEAVY}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "given",
    [
        ["net.prototxt"],
        ["net.prototxt", WEIGHTS, "-o", "x.onnx"],
        [PROTOTXT, "net.caffemodel", "-o", "x.pth"],
        ["net.prototxt", WEIGHTS, "--verify"],
        ["net.prototxt", "--report", "x.html"],
        ["wrong.prototxt"],
    ],
)
def test_what_is_wrong_with_a_file_is_said_without_torch(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "wrong.prototxt").write_text("layer { name: 3 }")
    code = (
        "import sys\nfrom converter.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit as end: print(end, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=tmp_path).stdout
    assert said.endswith("False\n") and said.startswith(f"convert-caffe: {'wrong' if given[0] == 'wrong.prototxt' else 'net'}."), said


def test_a_mean_image_is_listed_and_converted(tmp_path: Path) -> None:
    mean = numpy.arange(12, dtype="f4").reshape(1, 3, 2, 2)
    path, out = tmp_path / "mean.binaryproto", tmp_path / "mean.safetensors"
    path.write_bytes(blob_head(mean.shape, True, mean.nbytes) + mean.tobytes())
    assert "1×3×2×2" in run(str(path)).stdout
    assert run(str(path), "-o", str(out)).returncode == 0
    assert numpy.array_equal(load_file(out)["mean"].numpy(), mean[0])


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "give a prototxt, a caffemodel, or both"),
        ([PROTOTXT, "--input-shape", "data"], 2, "NAME=N,C,H,W"),
        (["missing.prototxt"], 1, "missing.prototxt: cannot be read (No such file or directory)"),
        ([PROTOTXT, WEIGHTS, "-o", "net.npy"], 1, "must end in one of .safetensors, .pth, .pt, .py"),
        ([PROTOTXT, WEIGHTS, "-o", "nowhere/net.pth"], 1, "there is no folder nowhere"),
        ([str(FOLDER / "Convolution-1" / "net.prototxt"), WEIGHTS, "-o", "net.pth"], 1, "holds weights for another net"),
    ],
)
def test_errors_are_one_paragraph_on_stderr(arguments: list[str], status: int, words: str, tmp_path: Path) -> None:
    said = run(*arguments, cwd=tmp_path)
    assert said.returncode == status
    assert said.stdout == "" and "Traceback" not in said.stderr
    assert words in said.stderr
    assert status == 2 or len(said.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    copy = tmp_path / "net.pth"
    copy.write_bytes(Path(WEIGHTS).read_bytes())
    said = run(PROTOTXT, str(copy), "-o", str(copy))
    assert said.returncode == 1 and "one of the input files" in said.stderr
    assert copy.read_bytes() == Path(WEIGHTS).read_bytes()


def test_names_with_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    write_caffemodel(path, [("\x1b[31mred\n", "Convolution", [numpy.zeros((1, 1, 1, 1), "f4")])])
    said = run(str(path))
    assert said.returncode == 0 and "\x1b" not in said.stdout and "\\x1b[31mred\\n" in said.stdout


def big_example(folder: Path) -> tuple[Path, Path]:
    prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
    prototxt.write_text("""input: "x" input_shape { dim: 1 dim: 8192 }
        layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 4096 bias_term: false } }""")
    write_caffemodel(weights, [("f", "InnerProduct", [numpy.zeros((4096, 8192), "f4")])])
    return prototxt, weights


def test_large_files_show_their_progress_on_a_terminal(tmp_path: Path) -> None:
    prototxt, weights = big_example(tmp_path)
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    said = subprocess.Popen(
        [sys.executable, "-m", "converter.cli", str(prototxt), str(weights), "-o", str(tmp_path / "net.safetensors")],
        stderr=secondary,
        stdout=subprocess.DEVNULL,
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            piece = os.read(primary, 1 << 16)
        except OSError:  # Linux's end of a terminal
            break
        if not piece:
            break
        shown += piece
    os.close(primary)
    assert said.wait() == 0
    assert b"net.safetensors" in shown and b"%" in shown


def test_an_interrupted_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    prototxt, weights = big_example(tmp_path)
    before = set(tmp_path.iterdir())
    child = subprocess.Popen(
        [sys.executable, "-m", "converter.cli", str(prototxt), str(weights), "-o", str(tmp_path / "net.safetensors")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(2000):  # until the output is being written, or is done
        if set(tmp_path.iterdir()) != before or child.poll() is not None:
            break
        time.sleep(0.005)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=600)
    left = {path.name for path in set(tmp_path.iterdir()) - before}
    assert (child.returncode == 143 and left == set()) or (child.returncode == 0 and left == {"net.safetensors"})
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 143, "terminated")]
)
def test_a_signal_is_told_whatever_error_comes_of_it(
    name: str, status: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's imports catch every exception, and fail otherwise later."""
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip("Windows has no SIGHUP")

    def interrupted(options: object, usage: object) -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise converter.ConversionError("torch is in pieces") from None

    monkeypatch.setattr(cli, "run", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        cli.main(["net.prototxt"])
    assert (end.value.code, capsys.readouterr().err) == (status, f"convert-caffe: {word}; no unfinished file is left\n")
    assert signal.getsignal(number) == before


def test_layer_types_are_listed() -> None:
    names = run("--list-layers").stdout.split()
    assert {"Convolution", "LSTM", "CenterLoss", "SPP"} <= set(names)


def test_verify_compares_with_an_implementation_that_is_not_ours(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is in the extra `verify`")
    said = run(PROTOTXT, WEIGHTS, "--verify")
    assert said.returncode == 0, said.stderr
    assert "prob: as in OpenCV 4" in said.stdout


def test_verify_fails_where_the_two_differ(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is in the extra `verify`")
    case = FOLDER / "InnerProduct-0"  # a transposed weight, which OpenCV 4 multiplies as it lies
    assert "transpose: true" in (case / "net.prototxt").read_text()
    said = run(str(case / "net.prototxt"), str(case / "net.caffemodel"), "--verify")
    assert said.returncode == 1 and "NOT as in OpenCV 4" in said.stdout
    assert "InnerProduct with transpose" in said.stderr and "Traceback" not in said.stderr


def test_random_weights_are_written_only_where_they_are_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    refused = run(PROTOTXT, "-o", str(out))
    assert refused.returncode == 1 and "--random-weights" in refused.stderr and not out.exists()
    drawn = run(PROTOTXT, "-o", str(out), "--random-weights")
    assert drawn.returncode == 0 and "random weights" in drawn.stdout and out.exists()


def test_a_misspelt_field_a_curly_quote_and_a_wrong_shape_say_what_was_meant(tmp_path: Path) -> None:
    text = Path(PROTOTXT).read_text()
    for change, words in ((("num_output", "num_outputs"), "did you mean num_output?"), (('"', "“"), "typographic quotation mark")):
        path = tmp_path / "net.prototxt"
        path.write_text(text.replace(*change))
        said = run(str(path), WEIGHTS)
        assert said.returncode == 1 and words in said.stderr
    wrong = run(PROTOTXT, WEIGHTS, "--input-shape", "data=1,17,9,9")
    assert wrong.returncode == 1 and "the input shape that was given is wrong: data=1,17,9,9" in wrong.stderr


def test_a_command_s_start_leaves_the_collector_as_it_was() -> None:
    code = (
        "import gc; from converter.startup import importing_torch\nwith importing_torch():\n    assert not gc.isenabled(); import torch\n"
    )
    code += "frozen = gc.get_freeze_count(); assert gc.isenabled() and frozen\n"
    code += "with importing_torch():\n    assert gc.isenabled()\nassert gc.get_freeze_count() <= frozen"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_help_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, arguments.parser().format_help().splitlines())) <= 80
