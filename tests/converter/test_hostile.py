"""Files from strangers: cut short, flipped, invented. Each ends in a ConversionError or in what protobuf reads in the same bytes."""

from __future__ import annotations

import ast
import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy
import pytest
import torch
from encode import (
    VERSIONS,
    blob,
    block,
    flips,
    layer,
    legacy,
    lengths_replaced,
    number,
    packed,
    protobuf_blobs,
    same,
    shape,
    unpacked,
    varint,
)
from golden import CASES, FOLDER
from google.protobuf.message import DecodeError

from converter import CaffeNet, ConversionError, convert, read_blobs, read_mean
from converter.build.assemble import assemble, load
from converter.build.matching import match
from converter.conversion import prepare
from converter.read.schema import message_class
from converter.read.weights import open_weights

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is part of the extra `dev`")
from hypothesis import strategies  # noqa: E402

RNG = numpy.random.default_rng(2)


@contextmanager
def seconds(limit: float) -> Iterator[None]:
    """A hang is a failure. Seconds of the processor: on a busy machine those of the clock say nothing."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done in {limit} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# Weight files

PROTOTXT = """input: "data" input_shape { dim: 1 dim: 2 dim: 4 dim: 4 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 1 } }
"""
ARRAYS = {"conv": [RNG.standard_normal(s).astype("<f4") for s in ((2, 2, 2, 2), (2,))], "fc": [RNG.standard_normal((1, 18)).astype("<f4")]}
ARRAYS["fc"].append(numpy.array([0.5], "<f4"))


def small(version: str) -> bytes:
    """A net of two layers in every way of writing values that this version knows."""
    old = version != "V2"
    conv, bias = ARRAYS["conv"]
    fc, offset = ARRAYS["fc"]
    dims = legacy(num=1, channels=1, height=1, width=18) if old else shape(1, 18)
    one = legacy(width=1) if old else shape(1)
    blobs = [dims + packed(6, fc[0, :2]) + packed(5, fc[0, :9]) + unpacked(5, fc[0, 9:]), one + packed(8, offset, "<f8")]
    return (
        block(1, b"net")
        + layer("conv", [blob(conv, old), blob(bias, old)], "Convolution", version, more=number(150, 3))
        + layer("fc", blobs, "InnerProduct", version)
    )


def files(folder: Path, version: str = "V2") -> tuple[Path, Path]:
    prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
    prototxt.write_text(PROTOTXT)
    weights.write_bytes(small(version))
    return prototxt, weights


class Reader:
    """Reads one changed file after the other against one prototxt, built once.

    Damage in fields that hold no weights is none of the reader's business: there protobuf may refuse what we read.
    """

    def __init__(self, folder: Path, version: str):
        prototxt, self.path = files(folder, version)
        self.graph, plan = prepare(prototxt, self.path)
        assert plan is not None
        self.shapes = {key: tuple(value.shape) for key, value in assemble(self.graph).state_dict().items()}
        self.read = self.refused = self.lenient = 0
        self.originals = {array.tobytes() for each in ARRAYS.values() for array in each}

    def blobs(self, data: bytes) -> bool:
        """read_blobs() against protobuf; whether the file was read."""
        self.path.write_bytes(data)
        try:
            ours = {name: [numpy.asarray(each) for each in blobs] for name, blobs in read_blobs(self.path).items()}
        except ConversionError:
            self.refused += 1
            return False
        self.read += 1
        try:
            theirs = protobuf_blobs(data)
        except DecodeError:
            self.lenient += 1
            assert all(each.tobytes() in self.originals for blobs in ours.values() for each in blobs), data
            return True
        if any(each.ndim == 5 for blobs in ours.values() for each in blobs):  # a flipped tag made it C3D's shape of five numbers
            self.lenient += 1
            assert all(each.tobytes() in self.originals for blobs in ours.values() for each in blobs), data
            return True
        assert same(ours, theirs), data
        return True

    def net(self, data: bytes) -> bool:
        """The net's tensors against protobuf; whether there is one."""
        self.path.write_bytes(data)
        try:
            found = open_weights(self.path)
            net = assemble(self.graph)
            load(net, self.graph, match(self.graph, found))
        except ConversionError:
            return False
        try:
            theirs = protobuf_blobs(data)
        except DecodeError:
            theirs = ARRAYS
        for key, value in net.state_dict().items():
            name, kind = key.split(".")
            want = theirs[name][("weight", "bias").index(kind)]
            assert tuple(value.shape) == self.shapes[key]
            if want is None:  # a flipped tag made it C3D's, which protobuf's schema here does not know: the values are the file's own
                assert value.numpy().tobytes() in self.originals, data
                continue
            assert value.numpy().tobytes() == want.tobytes(), data
        return True


@pytest.mark.parametrize("version", VERSIONS)
def test_the_small_file_itself_is_sound(version: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path, version)
    assert reader.blobs(small(version)) and reader.net(small(version))
    read = [each.tobytes() for blobs in protobuf_blobs(small(version)).values() for each in blobs]
    assert read == [each.tobytes() for each in ARRAYS["conv"] + ARRAYS["fc"]], "protobuf reads what was written"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_cut_short_anywhere_is_refused_or_a_shorter_file(version: str, tmp_path: Path) -> None:
    reader, data = Reader(tmp_path, version), small(version)
    with seconds(60):
        for length in range(len(data)):
            reader.blobs(data[:length])
            assert not reader.net(data[:length]), f"{length} of {len(data)} bytes are no whole net"
    assert reader.read == 1, "only the end of the first layer is the end of a file, too"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_flipped_bit_is_refused_or_read_as_protobuf_reads_it(version: str, tmp_path: Path) -> None:
    reader, nets = Reader(tmp_path, version), 0
    with seconds(120):
        for data in flips(small(version)):
            nets += reader.blobs(data) and reader.net(data)
    assert reader.refused > 300, "flips in lengths and tags"
    assert reader.read >= nets > 8 * 4 * (16 + 2 + 18), "flips in the values make other values"
    assert reader.lenient < 0.05 * reader.read


@pytest.mark.parametrize("version", VERSIONS)
def test_huge_numbers_in_place_of_every_byte_allocate_nothing(version: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path, version)
    tracemalloc.start()
    try:
        with seconds(120):
            for data in lengths_replaced(small(version)):
                reader.blobs(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert reader.refused > reader.read


def test_pieces_of_files_put_together_at_random_are_refused_or_read_as_protobuf_reads_them(tmp_path: Path) -> None:
    reader, source = Reader(tmp_path, "V2"), random.Random(5)
    whole = [small(version) for version in VERSIONS]
    with seconds(60):
        for _ in range(1_500):
            parts = []
            for _ in range(source.randint(1, 4)):
                data = source.choice(whole)
                start = source.randrange(len(data))
                parts.append(data[start : start + source.randint(1, 120)])
            data = source.choice(whole)[: source.choice((0, 5, 60, 1 << 20))] + b"".join(parts)
            reader.blobs(data)
            reader.net(data)
    assert reader.refused > 1_000


def test_random_bytes_are_refused_or_read_as_protobuf_reads_them(tmp_path: Path) -> None:
    reader, source = Reader(tmp_path, "V2"), random.Random(6)
    heads = [b"", b"\n\x03net", varint(100 << 3 | 2), varint(2 << 3 | 2), b"\x08", b":", b"*"]
    with seconds(60):
        for _ in range(3_000):
            data = source.choice(heads) + source.randbytes(source.choice((1, 3, 10, 40, 600)))
            reader.blobs(data)
            with_mean = tmp_path / "mean.binaryproto"
            with_mean.write_bytes(data)
            try:
                read_mean(with_mean)
            except ConversionError:
                continue
    assert reader.refused > 2_000


def embedded() -> bytes:
    """A caffemodel with its net in it."""
    net = message_class("NetParameter")(name="net", input=["data"])
    net.input_shape.add(dim=(1, 2, 4, 4))
    conv = net.layer.add(name="conv", type="Convolution", bottom=["data"], top=["conv"])
    conv.convolution_param.num_output, conv.convolution_param.kernel_size[:] = 2, [2]
    conv.convolution_param.weight_filler.type = "xavier"
    conv.param.add(name="shared", lr_mult=2)
    relu = net.layer.add(name="relu", type="ReLU", bottom=["conv"], top=["conv"])
    relu.relu_param.negative_slope = 0.25
    pool = net.layer.add(name="pool", type="Pooling", bottom=["conv"], top=["pool"])
    pool.pooling_param.kernel_size[:], pool.pooling_param.stride[:] = [2], [2]
    fc = net.layer.add(name="fc", type="InnerProduct", bottom=["pool"], top=["fc"])
    fc.inner_product_param.num_output = 1
    for one, arrays in ((conv, ARRAYS["conv"]), (fc, [ARRAYS["fc"][0][:, :8], ARRAYS["fc"][1]])):
        for array in arrays:
            one.blobs.add(data=array.reshape(-1)).shape.dim.extend(array.shape)
    return bytes(net.SerializeToString())


def test_a_flipped_bit_in_an_embedded_net_is_refused_or_makes_a_net(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    data = embedded()
    path.write_bytes(data)
    assert set(convert(path).state_dict()) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
    start = data.index(ARRAYS["conv"][0].tobytes())
    values = range(8 * start, 8 * (start + ARRAYS["conv"][0].nbytes))
    made = refused = 0
    with warnings.catch_warnings(), seconds(90):
        warnings.simplefilter("ignore")
        for changed in (*flips(data, 1_200, seed=9), *(data[:n] for n in range(len(data)))):
            path.write_bytes(changed)
            try:
                net = convert(path)
            except ConversionError:
                refused += 1
                continue
            made += 1
            assert isinstance(net, CaffeNet)
            if sum(value.numel() for value in net.state_dict().values()) == 27:
                assert all(value.device.type == "cpu" for value in net.state_dict().values())
    assert refused > len(values) / 2 and made > 100


STRANGE_NAMES = [
    'a"b',
    "a'b",
    "a\\",
    "new\nline",
    '"""',
    "'''\"\"\"\\\n",
    "{x}",
    "%s",
    "self",
    "class",
    "__class__",
    "forward",
    "0",
    " ",
    "a.b",
    "a/b:0",
    "layer\u2028next",
    "\u202eright to left",
    "größe 卷积 🙂",
    "ﬁ",  # normalises to "fi": Python's identifiers do
    "fi",
    "\x1b[31m",
    '")\nimport os\nos.environ["CAFFEZOO_WAS_HERE"] = "1"\n#',
    "');import os;os.environ['CAFFEZOO_WAS_HERE']='1';('",
    "\\'+str(__import__('os').environ.setdefault('CAFFEZOO_WAS_HERE','1'))+\\'",
    "eval\")(); exec(\"import os\\x3bos\\x2eenviron['CAFFEZOO_WAS_HERE']='1'\"); (\"",  # no dot: names lose theirs
]


def quoted(name: str) -> str:
    """A string of the text format, every byte an octal escape."""
    return '"' + "".join(f"\\{byte:03o}" for byte in name.encode()) + '"'


def chain(names: list[str]) -> str:
    lines, bottom = ['name: "net" input: "data" input_shape { dim: 1 dim: 3 }\n'], '"data"'
    for name in names:
        lines.append(f"layer {{ name: {quoted(name)} type: 'InnerProduct' bottom: {bottom} top: {quoted(name)}")
        lines.append(" inner_product_param { num_output: 3 weight_filler { type: 'xavier' } } }\n")
        bottom = quoted(name)
    return "".join(lines)


def run_source(net: CaffeNet, folder: Path) -> Any:
    """The net that its Python source makes, after a look at what the source names."""
    path = folder / "net.py"
    net.to_source(path)
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    tree = ast.parse(text)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    assert imported == {"annotations", "json", "Path", "torch", "Tensor", "nn"}
    (built,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    called = {node.func.id for node in ast.walk(built) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert built.name == "Net" and called <= {"super", "float"}
    rest = [node for node in tree.body if node is not built and not isinstance(node, (ast.Import, ast.ImportFrom))]
    described, metadata, *functions = rest  # what names stand in here is a literal or in a docstring
    assert isinstance(described, ast.Expr) and isinstance(ast.literal_eval(described.value), str)
    assert isinstance(metadata, ast.Assign) and isinstance(ast.literal_eval(metadata.value), dict)
    assert [node.name for node in functions if isinstance(node, ast.FunctionDef)] == ["read_weights", "load"] and len(functions) == 2
    return runpy.run_path(str(path))["Net"]()


@pytest.mark.parametrize("names", [*([name] for name in STRANGE_NAMES), STRANGE_NAMES], ids=[*map(ascii, STRANGE_NAMES), "all"])
def test_strange_names_stay_names_in_source_state_dict_and_errors(names: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(chain(names))
    arrays = {name: [RNG.standard_normal((3, 3)).astype("<f4"), RNG.standard_normal(3).astype("<f4")] for name in names}
    weights = tmp_path / "net.caffemodel"
    weights.write_bytes(b"".join(layer(name, map(blob, each)) for name, each in arrays.items()))
    net = convert(prototxt, weights)
    assert list(net.layer_names.values()) == names
    for key, name in net.layer_names.items():
        assert numpy.array_equal(net.state_dict()[f"{key}.weight"].numpy(), arrays[name][0])
    other = run_source(net, tmp_path)
    other.load_state_dict(net.state_dict())
    x = torch.from_numpy(RNG.standard_normal((2, 3)).astype("<f4"))
    with torch.inference_mode():
        assert torch.equal(net(x), other(x))
    assert "CAFFEZOO_WAS_HERE" not in os.environ
    weights.write_bytes(layer("another", [blob(ARRAYS["fc"][1])]))
    with pytest.raises(ConversionError) as told:
        convert(prototxt, weights)
    assert "\n" not in str(told.value) and "\x1b" not in str(told.value)


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=ascii)
def test_strange_names_do_not_become_code_in_torch_fx(name: str, tmp_path: Path) -> None:
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(chain([name]))
    net = convert(prototxt)
    x = torch.ones(1, 3)
    with torch.inference_mode():
        assert torch.equal(net.to_fx()(x), net(x))
    assert "CAFFEZOO_WAS_HERE" not in os.environ


def test_strange_names_do_not_become_code_in_torch_export(tmp_path: Path) -> None:
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(chain(STRANGE_NAMES))
    net, x = convert(prototxt), torch.ones(1, 3)
    with torch.inference_mode():
        want = net(x)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), want)
    assert "CAFFEZOO_WAS_HERE" not in os.environ


# What takes memory, time or a crash is read in a process of its own.

_READ = """
import json, resource, runpy, signal, sys, warnings
from pathlib import Path
import torch
from converter import ConversionError, convert, read_blobs

torch.set_num_threads(1)
warnings.simplefilter("ignore")
limit = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024 + (512 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    if path.suffix not in (".prototxt", ".caffemodel") or path.stem in sys.argv[2:]:
        continue
    print(json.dumps([path.stem, "hangs", ""]), flush=True)
    signal.setitimer(signal.ITIMER_PROF, 10)
    try:
        if path.suffix == ".caffemodel":
            said = "read", str(len(read_blobs(path)))
        else:
            net = convert(path)
            net.to_source(path.with_suffix(".py"))
            runpy.run_path(str(path.with_suffix(".py")))["Net"]
            said = "built", ""
    except ConversionError as error:
        said = "refused", str(error)
    except BaseException as error:
        said = "crashed", f"{type(error).__name__}: {error}"
    print(json.dumps([path.stem, *said]), flush=True)
"""


def outcomes_of(folder: Path) -> dict[str, tuple[str, str]]:
    """What became of every file in a folder: a hang or a death of the reader stays with the file that it was at."""
    found: dict[str, tuple[str, str]] = {}
    returncode = -1
    while returncode:
        done = subprocess.run([sys.executable, "-c", _READ, str(folder), *found], capture_output=True, text=True, timeout=1800)
        assert done.stdout, done.stderr
        found |= {name: (kind, said) for name, kind, said in map(json.loads, done.stdout.splitlines())}
        returncode = done.returncode
    return found


SHAPE = shape(6)
SIX = RNG.standard_normal(6).astype("<f4")
HUNGRY: dict[str, bytes] = {
    "a million empty layers": (varint(100 << 3 | 2) + b"\0") * 1_400_000,
    "a million empty V1 layers": b"\x12\0" * 2_000_000,
    "a million empty blobs": block(100, b"\x3a\0" * 2_000_000),
    "a million chunks of one value": layer("a", [(varint(5 << 3 | 2) + b"\4" + b"abcd") * 700_000]),
    "a million chunks of no value": layer("a", [SHAPE + packed(5, SIX) + b"\x2a\0" * 2_000_000]),
    "values and diffs in turn": layer("a", [(b"\x2dabcd" + b"\x35abcd") * 400_000]),
    "a million unknown fields": layer("a", [blob(SIX)], more=b"\x98\x06\x01" * 1_400_000),
    "a million unknown fields of the net": b"\x58\x01" * 2_000_000 + layer("a", [blob(SIX)]),
    "a million dimensions": layer("a", [block(7, b"\x08\x01" * 2_000_000) + packed(5, SIX)]),
    "a long name": layer("a" * 4_000_000, [blob(SIX)]),
    "numbers that wrap in 32 bits": layer("a", [shape(65536, 65537) + packed(5, SIX)]),
    "dimensions whose product is astronomical": layer("a", [shape(*[(1 << 62)] * 32) + packed(5, SIX)]),
    "V0 in V1 in V0": block(2, block(1, block(1, block(1, b"x" * 40) * 10) * 10)),
    "one layer inside of another, a thousand deep": b"",
}
_deep = b""
for _ in range(1_000):
    _deep = block(2, _deep)
HUNGRY["one layer inside of another, a thousand deep"] = _deep


HEAD = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'


def one(kind: str, more: str = "", *, bottom: str = "data", top: str = "y", name: str = "l") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {more} }}\n'


def conv(settings: str) -> str:
    return HEAD + one("Convolution", f"convolution_param {{ {settings} }}")


def pool(settings: str) -> str:
    return HEAD + one("Pooling", f"pooling_param {{ {settings} }}")


def dims(*sizes: object) -> str:
    shaped = " ".join(f"dim: {size}" for size in sizes)
    return f'input: "data" input_shape {{ {shaped} }}\n' + one("Convolution", "convolution_param { num_output: 1 kernel_size: 1 }")


HUGE = 4_294_967_295
REFUSED: dict[str, str | bytes] = {
    "a hundred thousand open layers": "layer {" * 100_000,
    "a hundred thousand brackets": "[" * 100_000,
    "a hundred thousand brackets behind a colon": "a: [" + "[" * 100_000,
    "a hundred thousand unknown messages": "a { " * 100_000,
    "a hundred thousand angles": "layer " + "< param " * 100_000,
    "a hundred thousand closing braces": "}" * 100_000,
    "messages in solvers in solvers": "net_param { layer { " * 200,
    "an unknown message of a hundred levels": HEAD + "layer { " + "a { " * 120 + "}" * 120 + " }",
    "a million empty layers": "layer{}" * 1_000_000,
    "a million parameters of a layer": "layer{" + "param{}" * 1_000_000 + "}",
    "thirty million lines": "\n" * 30_000_000 + "x",
    "a hundred thousand boxes at a place": HEAD
    + one("PriorBox", f'bottom: "data" prior_box_param {{ {"min_size: 5 " * 1_000} aspect_ratio: [{",".join(map(str, range(2, 99)))}] }}'),
    "a string without an end": HEAD + 'layer { name: "' + "a" * 4_000_000,
    "a number that ends in a letter": HEAD + 'layer { name: "l" loss_weight: ' + "9" * 200_000 + "x }",
    "a million minus signs": "a: " + "-" * 1_000_000,
    "a word of millions": "a" * 4_000_000,
    "spaces and a letter": " " * 4_000_000 + "x",
    "an integer of a million digits": conv("num_output: " + "9" * 1_000_000 + " kernel_size: 1"),
    "an integer of a million hexadecimal digits": conv("num_output: 0x" + "f" * 1_000_000 + " kernel_size: 1"),
    "an extension's name of a hundred thousand parts": "[" + "a." * 100_000 + "]: 1",
    "a layer's type of millions": HEAD + one("A" * 4_000_000),
    "a NUL": b'layer { name: "a\0b" }',
    "nothing": "",
    "spaces": " \n\t ",
    "only inputs": HEAD,
    "no layers": 'name: "net"',
    "num_output 2^31": conv("num_output: 2147483648 kernel_size: 1"),
    "num_output 2^32 - 1": conv(f"num_output: {HUGE} kernel_size: 3"),
    "num_output 2^32": conv("num_output: 4294967296 kernel_size: 1"),
    "num_output 0": conv("num_output: 0 kernel_size: 1"),
    "num_output -1": conv("num_output: -1 kernel_size: 1"),
    "no num_output": conv("kernel_size: 1"),
    "kernel 0": conv("num_output: 1 kernel_size: 0"),
    "no kernel": conv("num_output: 1"),
    "stride 0": conv("num_output: 1 kernel_size: 1 stride: 0"),
    "group 0": conv("num_output: 1 kernel_size: 1 group: 0"),
    "a group that does not divide": conv("num_output: 2 kernel_size: 1 group: 2"),
    "dilation 0": conv("num_output: 1 kernel_size: 3 dilation: 0"),
    "a kernel larger than the image": conv("num_output: 1 kernel_size: 9"),
    "a kernel of 2^32 - 1": conv(f"num_output: 1 kernel_size: {HUGE}"),
    "a pad of 2^32 - 1": conv(f"num_output: 1 kernel_size: 1 pad: {HUGE}"),
    "three kernel sizes": conv("num_output: 1 " + "kernel_size: 1 " * 3),
    "an axis beyond": conv("num_output: 1 kernel_size: 1 axis: 9"),
    "a negative axis beyond": conv("num_output: 1 kernel_size: 1 axis: -9"),
    "pooling with kernel 0": pool("kernel_size: 0"),
    "pooling with stride 0": pool("kernel_size: 1 stride: 0"),
    "pooling padded by more than its window": pool("kernel_size: 1 pad: 5"),
    "pooling by 2^32 - 1": pool(f"kernel_size: {HUGE}"),
    "an axis of -1": dims(1, 3, -1, 8),
    "an axis of 2^62": dims(1, 3, 1 << 62, 8),
    "axes whose product wraps": dims(1 << 32, 3, 1 << 32, 1),
    "an axis of 2^63 - 1": dims((1 << 63) - 1, 3, 8, 8),
    "an axis of 2^63": dims(1 << 63, 3, 8, 8),
    "an axis of a tebi": dims(1, 1 << 40, 8, 8),
    "tiles 0": HEAD + one("Tile", "tile_param { tiles: 0 }"),
    "tiles -1": HEAD + one("Tile", "tile_param { tiles: -1 }"),
    "local_size even": HEAD + one("LRN", "lrn_param { local_size: 4 }"),
    "local_size 0": HEAD + one("LRN", "lrn_param { local_size: 0 }"),
    "two axes of -1": HEAD + one("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }"),
    "a reshape to 2^126 values": HEAD + one("Reshape", f"reshape_param {{ shape {{ dim: {(1 << 63) - 1} dim: {(1 << 63) - 1} }} }}"),
    "a reshape of 2^31 axes": HEAD + one("Reshape", "reshape_param { axis: -100 num_axes: 2147483647 shape { dim: 1 } }"),
    "a pyramid of 2^32 - 1 levels": HEAD + one("SPP", f"spp_param {{ pyramid_height: {HUGE} }}"),
    "a pyramid of 30 levels": HEAD + one("SPP", "spp_param { pyramid_height: 30 }"),
    "a pyramid without levels": HEAD + one("SPP", "spp_param { pyramid_height: 0 }"),
    "an embedding of 2^64 values": HEAD + one("Embed", f"embed_param {{ num_output: {HUGE} input_dim: {HUGE} }}"),
    "a recurrence of 2^32 - 1": HEAD + one("LSTM", f"recurrent_param {{ num_output: {HUGE} }}"),
    "the 2^32 largest": HEAD + one("ArgMax", f"argmax_param {{ top_k: {HUGE} }}"),
    "a slice beyond": HEAD + one("Slice", f'top: "z" slice_param {{ slice_point: {HUGE} }}'),
    "slices in the wrong order": HEAD + one("Slice", 'top: "z" top: "w" slice_param { slice_point: 2 slice_point: 1 }'),
    "a crop beyond": HEAD + one("Crop", f'bottom: "data" crop_param {{ offset: {HUGE} }}'),
    "axis 100": HEAD + one("Concat", "concat_param { axis: 100 }"),
    "axis -100": HEAD + one("Softmax", "softmax_param { axis: -100 }"),
    "an end before the start": HEAD + one("Flatten", "flatten_param { axis: 3 end_axis: 1 }"),
    "a parameter of -5 values": 'layer { name: "p" type: "Parameter" top: "y" parameter_param { shape { dim: -5 } } }',
    "a parameter of 4 TiB": 'layer { name: "p" type: "Parameter" top: "y" parameter_param { shape { dim: 1099511627776 } } }',
    "a deconvolution to nothing": HEAD + one("Deconvolution", "convolution_param { num_output: 1 kernel_size: 1 pad: 100 }"),
    "layers that feed each other": HEAD + one("ReLU", bottom="b", top="a", name="x") + one("ReLU", bottom="a", top="b", name="y"),
    "a layer that feeds itself": HEAD + one("ReLU", bottom="a", top="a"),
    "a bottom that is not there": HEAD + one("ReLU", bottom="nothing"),
    "a blob that is made twice": HEAD + one("ReLU", name="a") + one("ReLU", name="b"),
    "one top twice": HEAD + one("Split", 'top: "y"'),
    "no type": HEAD + 'layer { name: "a" bottom: "data" top: "y" }',
    "no bottom": HEAD + 'layer { name: "a" type: "ReLU" top: "y" }',
    "a solver of itself": 'net: "a solver of itself.prototxt" base_lr: 1',
    "a solver of zeros": 'net: "/dev/zero" base_lr: 1',
    "a solver of a folder": 'net: "/" base_lr: 1',
    "a solver of a name with NUL": r'net: "a\000b" base_lr: 1',
    "a solver of a long name": 'net: "' + "a" * 100_000 + '" base_lr: 1',
    "a solver of a file that is no net": 'net: "no net.prototxt" base_lr: 1',
}
BUILT: dict[str, str | bytes] = {
    "a name of millions": HEAD + one("ReLU", name="a" * 4_000_000),
    "a name of escapes": HEAD + one("ReLU", name="\\\\" * 1_000_000),
    "a comment of millions": HEAD + "#" * 4_000_000 + "\n" + one("ReLU"),
    "a hundred thousand values of a list": HEAD + one("ReLU", "loss_weight: [" + "1," * 100_000 + "1]"),
    "a hundred thousand bottoms": HEAD + one("Concat", 'bottom: "data" ' * 20_000),
    "names that are not UTF-8": HEAD.encode() + b'layer { name: "\xff\xfe" type: "ReLU" bottom: "data" top: "\xff" }',
    "a thousand layers in place": HEAD + "".join(one("ReLU", bottom="data", top="data", name=f"r{i}") for i in range(1_000)),
    "a thousand namesakes": HEAD + "".join(one("ReLU", top=f"b{i}", name="r") for i in range(1_000)),
    "a thousand tops": HEAD + 'layer { name: "s" type: "Split" bottom: "data" ' + "".join(f'top: "t{i}" ' for i in range(1_000)) + "}",
    "a thousand shared parameters": HEAD
    + "".join(
        one("InnerProduct", f'param {{ name: "p{i}" }} inner_product_param {{ num_output: 1 }}', top=f"b{i}", name=f"r{i}")
        for i in range(1_000)
    ),
}
NOT_NUMBERS = ("nan", "inf", "-inf", "1e400", "-1e39", "1e-50")
PARAMETERS = {
    "ReLU": "relu_param { negative_slope: %s }",
    "ELU": "elu_param { alpha: %s }",
    "Power": "power_param { power: %s scale: %s shift: %s }",
    "Exp": "exp_param { base: %s }",
    "Log": "log_param { base: %s }",
    "Threshold": "threshold_param { threshold: %s }",
    "Clip": "clip_param { min: %s max: %s }",
    "LRN": "lrn_param { alpha: %s beta: %s k: %s local_size: 3 }",
    "BatchNorm": "batch_norm_param { eps: %s }",
    "MVN": "mvn_param { eps: %s }",
    "Dropout": "dropout_param { dropout_ratio: %s }",
    "Eltwise": 'bottom: "data" eltwise_param { coeff: %s coeff: %s }',
    "Reduction": "reduction_param { coeff: %s }",
    "Scale": 'scale_param { filler { type: "gaussian" mean: %s std: %s } }',
    "Bias": 'bias_param { filler { type: "uniform" min: %s max: %s } }',
}
EITHER = {
    f"{kind} with {value}": HEAD + one(kind, settings.replace("%s", value))
    for kind, settings in PARAMETERS.items()
    for value in NOT_NUMBERS
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is limited by what /proc says")
    folder = tmp_path_factory.mktemp("hostile")
    for name, text in (REFUSED | BUILT | EITHER).items():
        (folder / f"{name}.prototxt").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, data in HUNGRY.items():
        (folder / f"{name}.caffemodel").write_bytes(data)
    (folder / "one of two solvers.prototxt").write_text('net: "two of two solvers.prototxt" base_lr: 1')
    (folder / "two of two solvers.prototxt").write_text('net: "one of two solvers.prototxt" base_lr: 1')
    (folder / "no net.prototxt").write_text("root:x:0:0")
    (folder / "a link to itself.prototxt").symlink_to(folder / "a link to itself.prototxt")
    os.mkfifo(folder / "a pipe.prototxt")
    return outcomes_of(folder)


@pytest.mark.parametrize("name", HUNGRY)
def test_a_weight_file_takes_neither_time_nor_memory_beyond_its_size(name: str, outcomes: dict[str, tuple[str, str]]) -> None:
    kind, said = outcomes[name]
    assert kind in ("read", "refused"), said
    assert len(said) < 700


@pytest.mark.parametrize("name", [*REFUSED, "one of two solvers", "two of two solvers", "a link to itself", "a pipe"])
def test_a_hostile_prototxt_is_refused_with_its_name(name: str, outcomes: dict[str, tuple[str, str]]) -> None:
    kind, said = outcomes[name]
    assert kind == "refused", f"{kind} {said}"
    assert ".prototxt" in said and len(said) < 1_500 and not re.search(r"[\x00-\x1f]", said)


@pytest.mark.parametrize("name", BUILT)
def test_a_prototxt_that_is_only_large_or_strange_is_built(name: str, outcomes: dict[str, tuple[str, str]]) -> None:
    assert outcomes[name] == ("built", "")


@pytest.mark.parametrize("name", EITHER)
def test_parameters_that_are_no_numbers_are_refused_or_kept(name: str, outcomes: dict[str, tuple[str, str]]) -> None:
    assert outcomes[name][0] in ("refused", "built"), outcomes[name]


# Golden prototxts with a few words changed

WORD = re.compile(r'"[^"\n]*"|[A-Za-z_]\w*|-?\.?\d[\d.]*(?:[eE][+-]?\d+)?|\S')
NUMBERS = ["0", "1", "-1", "2", "3", "7", "64", "0.5", "-0.0", "2147483648", "4294967295", "-2147483649", "9223372036854775808"]
NUMBERS += ["1e400", "nan", "inf", "0x10", "true", "MAX"]
FIELDS = ["layer", "layers", "name", "type", "bottom", "top", "param", "input", "dim", "kernel_size", "axis", "include", "engine"]
WORDS = [*NUMBERS, *FIELDS, *"{}[]<>:,;#-\"'", '""', '"data"', r'"\377"', "phase: TRAIN", "\0", "\xff"]
KINDS: list[Callable[[str], bool]] = [str.isidentifier, lambda word: word[0] == '"' and len(word) > 1, lambda word: word[-1].isdigit()]


def changed(words: list[str], where: float, how: int, which: int) -> None:
    """Change a list of words: mostly one number, text or name for another, so that the file can still be read."""
    place = int(where * len(words))
    if how < 6:
        kind = KINDS[how % 3]
        places = [i for i, word in enumerate(words) if kind(word)] or [place]
        place = places[int(where * len(places))]
        others = [NUMBERS, [w for w in words if kind(w)]][how % 3 < 2] or WORDS
        words[place] = others[which % len(others)]
    elif how == 6:
        words[place] = WORDS[which % len(WORDS)]
    elif how == 7 and len(words) > 1:
        del words[place]
    else:  # a field twice: name, colon, value
        names = [i for i, word in enumerate(words) if word == ":"] or [1]
        start = names[int(where * len(names))] - 1
        words[start:start] = words[start : start + 3]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 1 GiB, so that no net that a test invents is built in full."""
    monkeypatch.setattr("converter.build.assemble.os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 1 << 18)


@hypothesis.settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    case=strategies.sampled_from(CASES),
    changes=strategies.lists(
        strategies.tuples(strategies.floats(0, 1, exclude_max=True), strategies.integers(0, 8), strategies.integers(0, 999)),
        min_size=1,
        max_size=3,
    ),
)
def test_a_prototxt_with_changed_words_is_refused_or_built(
    little_memory: None, tmp_path_factory: pytest.TempPathFactory, case: str, changes: list[tuple[float, int, int]]
) -> None:
    words = WORD.findall((FOLDER / case / "net.prototxt").read_text())
    for change in changes:
        changed(words, *change)
    path = tmp_path_factory.getbasetemp() / "changed.prototxt"
    path.write_bytes(" ".join(words).encode())
    with warnings.catch_warnings(), seconds(20):
        warnings.simplefilter("ignore")
        try:
            net = convert(path)
        except ConversionError as error:
            assert str(error) and len(str(error)) < 5_000
            return
    assert set(net.outputs) <= set(net.blobs) and not net.training


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
@hypothesis.given(text=strategies.text(max_size=60) | strategies.lists(strategies.sampled_from(WORDS), max_size=30).map(" ".join))
def test_any_text_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.prototxt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConversionError), seconds(20):
        convert(path)
