"""What is written: read back by safetensors and torch, complete or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import runpy
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from encode import block, layer, number, packed, shape, unpacked
from golden import CASES, FOLDER, files
from safetensors import safe_open
from safetensors.torch import load_file

from converter import ConversionError, __version__, cli, convert, read_blobs
from converter.conversion import prepare
from converter.files import Hasher, whole_file
from converter.write import back, output, readback
from converter.write.output import write

WEIGHTED = [case for case in CASES if (FOLDER / case / "net.caffemodel").exists()]
PROTOTXT, WEIGHTS = FOLDER / "Graph-0" / "net.prototxt", FOLDER / "Graph-0" / "net.caffemodel"


def write_to(path: Path, prototxt: Path = PROTOTXT, weights: Path | None = WEIGHTS, progress: Any = None) -> Path:
    graph, plan = prepare(prototxt, weights)
    write(path, graph, plan, dict, progress)
    return path


def assert_same_state(found: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert found.keys() == want.keys()
    for key, value in want.items():
        assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
        assert found[key].contiguous().numpy().tobytes() == value.contiguous().numpy().tobytes(), key


@pytest.mark.filterwarnings("ignore::converter.errors.CaffezooWarning")
@pytest.mark.parametrize("case", WEIGHTED)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_written_file_holds_the_net_s_state_bit_for_bit(case: str, suffix: str, tmp_path: Path) -> None:
    path = write_to(tmp_path / f"net{suffix}", *files(case))
    found = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True, mmap=True)
    assert_same_state(found, convert(*files(case)).state_dict())
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_golden_cases_hold_copied_and_made_values() -> None:
    plans = [prepare(*files(case))[1] for case in WEIGHTED]
    assert sum(bool(plan and plan.whole) for plan in plans) > 20
    assert sum(bool(plan and plan.made) for plan in plans) > 5


VALUES = numpy.random.default_rng(3).standard_normal((4, 3)).astype("<f4")
STORED = {
    "packed": packed(5, VALUES),
    "unpacked": unpacked(5, VALUES),
    "in chunks": packed(5, VALUES[:1]) + packed(5, VALUES[1:]),
    "doubles": packed(8, VALUES, "<f8"),
    "raw": number(10, 1) + block(12, VALUES.tobytes()),
    "halves": number(10, 2) + block(12, VALUES.astype("<f2").tobytes()),
}
LINE = 'layer { name: "%s" type: "InnerProduct" bottom: "data" top: "%s" %s inner_product_param { num_output: 4 bias_term: false } }\n'


def shared_net(folder: Path, values: bytes, param: str = 'param { name: "w" }') -> tuple[Path, Path]:
    prototxt, weights = folder / "in.prototxt", folder / "in.caffemodel"
    prototxt.write_text('input: "data" input_shape { dim: 1 dim: 3 }\n' + LINE % ("a", "a", param) + LINE % ("b", "b", param))
    weights.write_bytes(layer("a", [shape(4, 3) + packed(5, numpy.zeros(12))]) + layer("b", [shape(4, 3) + values]))
    return prototxt, weights


@pytest.mark.parametrize("stored", STORED)
def test_shared_parameters_are_written_for_each_layer_however_they_are_stored(stored: str, tmp_path: Path) -> None:
    source = shared_net(tmp_path, STORED[stored])
    want = VALUES.astype("<f2").astype("<f4") if stored == "halves" else VALUES
    for suffix, read in ((".safetensors", load_file), (".pth", lambda path: torch.load(path, weights_only=True))):
        state = read(write_to(tmp_path / f"net{suffix}", *source))
        assert state.keys() == {"a.weight", "b.weight"}
        assert all(value.numpy().tobytes() == want.tobytes() for value in state.values())


def test_a_net_without_weights_is_written_with_its_fillers(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = load_file(write_to(tmp_path / "net.safetensors", weights=None))
    assert_same_state(load_file(tmp_path / "net.safetensors"), state)
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in convert(PROTOTXT).state_dict().items()}


def test_a_net_without_parameters_is_written(tmp_path: Path) -> None:
    prototxt = tmp_path / "relu.prototxt"
    prototxt.write_text('input: "data" input_shape { dim: 1 }\nlayer { name: "r" type: "ReLU" bottom: "data" top: "y" }')
    assert load_file(write_to(tmp_path / "net.safetensors", prototxt, None)) == {}
    assert torch.load(write_to(tmp_path / "net.pth", prototxt, None), weights_only=True) == {}


def test_written_source_makes_the_same_net(tmp_path: Path) -> None:
    write_to(tmp_path / "net.py")
    net = runpy.run_path(str(tmp_path / "net.py"))["Net"]()
    want = convert(PROTOTXT, WEIGHTS)
    net.load_state_dict(want.state_dict())
    x = torch.rand(want.input_shapes["data"], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, wanted = net.eval()(x), want(x)
    pairs = [(found[name], wanted[name]) for name in wanted] if isinstance(wanted, dict) else [(found, wanted)]
    assert pairs and all(torch.equal(one, other) for one, other in pairs)


# Metadata


def test_metadata_name_the_sources_and_what_the_net_is(tmp_path: Path) -> None:
    prototxt, weights, output = tmp_path / "deploy.prototxt", tmp_path / "face.caffemodel", tmp_path / "face.safetensors"
    prototxt.write_text(
        'name: "face"\nlayer { name: "data" type: "Data" top: "data" data_param { batch_size: 2 }\n'
        "transform_param { scale: 0.5 mean_value: 1 mean_value: 2 mean_value: 3 crop_size: 6 } }\n"
        'layer { name: "conv.1/x" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 3 } }\n'
    )
    weights.write_bytes(layer("conv.1/x", [shape(2, 3, 3, 3) + packed(5, numpy.ones(54)), shape(2) + packed(5, [1, 2])], "Convolution"))
    cli.main([str(prototxt), str(weights), "-q", "-o", str(output)])
    with safe_open(output, "pt") as file:
        facts = file.metadata()
        assert set(file.keys()) == {"conv_1/x.weight", "conv_1/x.bias"}
    assert facts["sha256.deploy.prototxt"] == hashlib.sha256(prototxt.read_bytes()).hexdigest()
    assert facts["sha256.face.caffemodel"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["converter"] == f"caffezoo {__version__}" and facts["net"] == "face"
    assert json.loads(facts["layer_names"]) == {"conv_1/x": "conv.1/x"}
    assert json.loads(facts["outputs"]) == ["conv"]
    assert json.loads(facts["inputs"]) == {"data": [2, 3, 6, 6]}
    preprocess = json.loads(facts["preprocess"])
    assert (preprocess["scale"], preprocess["mean"], preprocess["size"], preprocess["channels"]) == (0.5, [1, 2, 3], [6, 6], "BGR")


def test_a_file_name_that_is_not_utf8_does_not_make_the_output_unreadable(tmp_path: Path) -> None:
    weights = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xffnet.caffemodel"))
    weights.write_bytes(WEIGHTS.read_bytes())
    output = tmp_path / "net.safetensors"
    cli.main([str(PROTOTXT), str(weights), "-q", "-o", str(output)])
    with safe_open(output, "pt") as file:
        assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in file.metadata().values()


def test_two_sources_of_one_file_name_are_both_named(tmp_path: Path) -> None:
    prototxt, weights = tmp_path / "text" / "net", tmp_path / "binary" / "net"
    for path, source in ((prototxt, PROTOTXT), (weights, WEIGHTS)):
        path.parent.mkdir()
        path.write_bytes(source.read_bytes())
    cli.main([str(prototxt), str(weights), "-q", "-o", str(tmp_path / "net.safetensors")])
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        held = set(file.metadata().values())
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in (prototxt, weights)} <= held


@pytest.mark.parametrize("size", [1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1])
def test_the_hash_is_that_of_the_whole_file(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xa5" * size)
    assert Hasher(path).result() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_source_that_cannot_be_hashed_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="hash"):
        Hasher(tmp_path / "gone").result()


# Copying spans


def refusing(number_of: int) -> Callable[..., int]:
    def refuse(*_: Any) -> int:
        raise OSError(number_of, os.strerror(number_of))

    return refuse


def by_small_pieces(real: Callable[..., int], place: int) -> Callable[..., int]:
    """A system call that moves seven bytes at a time."""

    def call(*arguments: Any) -> int:
        return real(*(min(argument, 7) if i == place else argument for i, argument in enumerate(arguments)))

    return call


@pytest.mark.parametrize("how", ["across file systems", "seven bytes at a time", "both", "without the kernel"])
def test_every_way_of_copying_gives_the_same_file(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = write_to(tmp_path / "want.safetensors").read_bytes()
    if how == "without the kernel":
        monkeypatch.delattr(os, "copy_file_range")
        monkeypatch.delattr(os, "sendfile")
        monkeypatch.setattr(os, "pread", by_small_pieces(os.pread, 1))
    elif how == "seven bytes at a time":
        monkeypatch.setattr(os, "copy_file_range", by_small_pieces(os.copy_file_range, 2))
    else:
        monkeypatch.setattr(os, "copy_file_range", refusing(errno.EXDEV))
    if how == "both":
        monkeypatch.setattr(os, "sendfile", by_small_pieces(os.sendfile, 3))
    assert write_to(tmp_path / "found.safetensors").read_bytes() == want


def test_progress_counts_every_byte_of_the_values(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".pth"):
        steps: list[int] = []
        write_to(tmp_path / f"net{suffix}", progress=steps.append)
        assert sum(steps) == sum(value.nbytes for value in convert(PROTOTXT, WEIGHTS).state_dict().values())


# Failures leave nothing behind, and what was there before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds older outputs, which a failure must not touch."""
    for suffix in (".safetensors", ".pth", ".py"):
        (tmp_path / f"net{suffix}").write_text("older")
    return tmp_path


def assert_untouched(folder: Path) -> None:
    assert {path.name: path.read_text() for path in folder.iterdir()} == {f"net{s}": "older" for s in (".safetensors", ".pth", ".py")}


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from converter import ConversionError
from converter.conversion import prepare
from converter.write import back, output, readback
from converter.write.output import write

graph, plan = prepare(sys.argv[2], sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in map(int, sys.argv[4:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for suffix in (".safetensors", ".pth", ".py"):
        try:
            write(Path(sys.argv[1]) / f"net{suffix}", graph, plan, dict)
            print(limit, suffix, "written")
        except ConversionError as error:
            print(limit, suffix, "refused", error)
"""


def test_a_full_disk_leaves_nothing_behind(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("source")
    prototxt, weights = elsewhere / "net.prototxt", elsewhere / "net.caffemodel"
    names = [f"a layer with a name of some length, number {i}" for i in range(30)]
    prototxt.write_text('input: "data" input_shape { dim: 1 dim: 100 }\n' + "".join(wide(name) for name in names))
    weights.write_bytes(b"".join(layer(name, [shape(100, 100) + packed(5, numpy.ones(10_000))]) for name in names))
    limits = ["0", "100", "3000", "300000", "1000000"]
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(folder), str(prototxt), str(weights), *limits], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    refused = [line for line in said if " refused " in line]
    assert len(said) == 15 and len(refused) >= 13 and all("cannot be written (" in line for line in refused), said
    if len(refused) == 15:
        assert_untouched(folder)
    else:  # the source is small enough for the larger limits
        assert sorted(path.name for path in folder.iterdir()) == ["net.pth", "net.py", "net.safetensors"]
        assert (folder / "net.pth").read_text() == (folder / "net.safetensors").read_text() == "older"


def wide(name: str) -> str:
    top = name.replace(" ", "")
    settings = "inner_product_param { num_output: 100 bias_term: false }"
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{top}" {settings} }}\n'


@pytest.mark.parametrize("problem", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupt_between_two_values_leaves_nothing_behind(problem: type[BaseException], folder: Path) -> None:
    def progress(count: int) -> None:
        raise problem

    with pytest.raises(problem):
        write_to(folder / "net.safetensors", progress=progress)
    assert_untouched(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_source_that_is_damaged_on_the_way_leaves_nothing_behind(
    suffix: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    weights = tmp_path_factory.mktemp("source") / "net.caffemodel"
    weights.write_bytes(WEIGHTS.read_bytes())
    graph, plan = prepare(PROTOTXT, weights)
    os.truncate(weights, 200)
    with pytest.raises(ConversionError, match="became shorter"):
        write(folder / f"net{suffix}", graph, plan, dict)
    assert_untouched(folder)


def test_a_failing_hash_leaves_nothing_behind(folder: Path) -> None:
    graph, plan = prepare(PROTOTXT, WEIGHTS)
    with pytest.raises(ConversionError, match="hash"):
        write(folder / "net.safetensors", graph, plan, lambda: {"x": Hasher(folder / "gone").result()})
    assert_untouched(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".py"])
def test_a_place_that_cannot_be_written_is_told(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / "file").write_text("")
    places = {
        tmp_path / "none" / f"net{suffix}": "No such file",
        tmp_path / "file" / f"net{suffix}": "Not a directory",
        tmp_path / f"folder{suffix}": "directory",
        tmp_path / f"{'a' * 300}{suffix}": "too long",
        tmp_path / f"a\0b{suffix}": "no file can have this name",
    }
    for place, said in places.items():
        with pytest.raises(ConversionError, match=said):
            write_to(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"folder{suffix}"]
    assert not list((tmp_path / f"folder{suffix}").iterdir())


def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("root writes everywhere")
        with pytest.raises(ConversionError, match="Permission denied"):
            write_to(tmp_path / "net.safetensors")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("suffix", ["", ".prototxt", ".SAFETENSORS", ".pkl"])
def test_an_unknown_suffix_is_told_and_nothing_is_written(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"must be one of \.safetensors, \.pth, \.pt, \.py"):
        write_to(tmp_path / f"net{suffix}")
    assert not list(tmp_path.iterdir())


def test_the_command_does_not_write_over_its_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "net.safetensors"
    weights.write_bytes(WEIGHTS.read_bytes())
    (tmp_path / "link.safetensors").symlink_to(weights)
    os.link(weights, tmp_path / "same.safetensors")
    for name in ("net", "link", "same"):
        with pytest.raises(SystemExit, match="one of the input files"):
            cli.main([str(PROTOTXT), str(weights), "-o", str(tmp_path / f"{name}.safetensors")])
    assert weights.read_bytes() == WEIGHTS.read_bytes() and read_blobs(weights)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".py"])
def test_a_file_has_the_mode_that_the_umask_leaves(mask: int, suffix: str, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = write_to(tmp_path / f"net{suffix}")
        assert os.umask(mask) == mask, "the umask stays as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_file_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with whole_file(path) as file:
        file.write(b"all of it")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"all of it"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_an_interrupt_at_the_file_s_birth_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def interrupted(self: Path, mode: str = "r") -> None:
        opened(self, mode).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "net.safetensors"):
        pass
    assert not list(tmp_path.iterdir())


READERS = {".safetensors": "safetensors", ".pth": "torch", ".caffemodel": "protobuf"}


@pytest.mark.parametrize("options", [[], ["--half"]], ids=["float32", "half"])
@pytest.mark.parametrize("suffix", READERS)
def test_weights_are_read_back_by_the_library_that_their_users_have(
    suffix: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(PROTOTXT), str(WEIGHTS), "-o", str(tmp_path / f"net{suffix}"), *options]
    cli.main(given)
    assert re.search(rf"read back by {READERS[suffix]} [\d.+cu]+: every value the same", capsys.readouterr().out)
    cli.main([*given, "--no-check"])
    assert "read back" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", READERS)
def test_a_value_that_reads_back_as_another_leaves_nothing(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = convert(PROTOTXT, WEIGHTS)
    values = next(value for key, value in net.state_dict().items() if key.endswith("weight")).numpy().tobytes()

    def damaged(path: Path, *others: Any) -> str:
        data = bytearray(path.read_bytes())
        data[data.index(values)] ^= 1
        path.write_bytes(data)
        return str(readback.read_back(path, *others))

    for module in (output, back):
        monkeypatch.setattr(module, "read_back", damaged)
    with pytest.raises(ConversionError, match=f"net{suffix} is not written: a fresh process cannot read it back"):
        net.save(tmp_path / f"net{suffix}")
    assert not list(tmp_path.iterdir())
    net.save(tmp_path / f"net{suffix}", check=False)
