"""Caffe's HDF5 snapshots, written by h5py as Net::ToHDF5 lays them out: one dataset a blob at data/<layer>/<index>."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from encode import blob, flips, layer

from converter import ConversionError, convert, read_blobs
from converter.errors import CaffezooWarning, MismatchError, WeightsError
from converter.read.weights import open_weights

h5py = pytest.importorskip("h5py", reason="h5py is the extra `hdf5`")

RNG = numpy.random.default_rng(5)
WEIGHT, BIAS = RNG.standard_normal((4, 3)).astype("<f4"), RNG.standard_normal(4).astype("<f4")
HEAD = 'input: "data" input_shape { dim: 1 dim: 3 }\n'
FC = 'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 4 } }\n'


def snapshot(folder: Path, fill: Callable[[Any], object], name: str = "net.caffemodel.h5", **options: Any) -> Path:
    path = folder / name
    with h5py.File(path, "w", **options) as file:
        fill(file)
    return path


def two_blobs(file: Any) -> None:
    file["data/fc/0"], file["data/fc/1"] = WEIGHT, BIAS


def text(folder: Path, *parts: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text("".join(parts))
    return path


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_snapshot_in_caffe_s_layout_loads(libver: str, tmp_path: Path) -> None:
    path = snapshot(tmp_path, two_blobs, libver=libver)
    state = convert(text(tmp_path, HEAD, FC), path).state_dict()
    assert numpy.array_equal(state["fc.weight"].numpy(), WEIGHT) and numpy.array_equal(state["fc.bias"].numpy(), BIAS)


def test_a_snapshot_is_known_by_its_content(tmp_path: Path) -> None:
    found = open_weights(snapshot(tmp_path, two_blobs, "net.caffemodel"))
    assert found.format == "HDF5" and [one.name for one in found.layers] == ["fc"]


STORED: dict[str, Callable[[Any], object]] = {
    "as Caffe does": lambda group: group.create_dataset("0", data=WEIGHT),
    "doubles": lambda group: group.create_dataset("0", data=WEIGHT.astype("<f8")),
    "halves": lambda group: group.create_dataset("0", data=WEIGHT.astype("<f2")),
    "big-endian": lambda group: group.create_dataset("0", data=WEIGHT.astype(">f4")),
    "big-endian doubles": lambda group: group.create_dataset("0", data=WEIGHT.astype(">f8")),
    "in chunks": lambda group: group.create_dataset("0", data=WEIGHT, chunks=(1, 2)),
    "compressed": lambda group: group.create_dataset("0", data=WEIGHT, compression="gzip", shuffle=True, fletcher32=True),
    "compact": lambda group: group.create_dataset("0", data=WEIGHT, dcpl=_compact()),
    "resizable": lambda group: group.create_dataset("0", data=WEIGHT, maxshape=(None, None)),
    "a scalar": lambda group: group.create_dataset("0", data=numpy.float32(2.5)),
    "no values": lambda group: group.create_dataset("0", shape=(0, 3), dtype="<f4"),
    "doubles beyond float32": lambda group: group.create_dataset("0", data=numpy.array([1e300, 1.0]), compression="gzip"),
    "a bias of zeros, compressed": lambda group: group.create_dataset("0", data=numpy.zeros(1 << 22, "<f4"), compression="gzip"),
}


def _compact() -> Any:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    return properties


@pytest.mark.parametrize("case", STORED)
def test_values_are_what_h5py_reads_however_they_are_stored(case: str, tmp_path: Path) -> None:
    path = snapshot(tmp_path, lambda file: STORED[case](file.create_group("data/fc")))
    with h5py.File(path) as file, numpy.errstate(over="ignore"):
        want = file["data/fc/0"][()].astype("<f4")
    (found,) = read_blobs(path)["fc"]
    assert found.shape == want.shape
    array = numpy.asarray(found)
    assert array.dtype == "<f4" and array.tobytes() == want.tobytes()


def test_plain_values_are_spans_of_the_file(tmp_path: Path) -> None:
    path = snapshot(tmp_path, two_blobs)
    span = read_blobs(path)["fc"][0].plain()
    assert span is not None and path.read_bytes()[span.offset :][: span.nbytes] == WEIGHT.tobytes()


def test_layer_names_with_slashes_are_groups_within_groups(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["data/conv1/3x3/0"] = WEIGHT
        file["data/conv1/3x3_reduce/0"] = BIAS
        file["data/conv1/0"] = BIAS[:2]
        file.create_group("data/relu")
        file.create_group("data/inception/pool")

    found = read_blobs(snapshot(tmp_path, fill))
    assert {name: [each.shape for each in blobs] for name, blobs in found.items()} == {
        "conv1/3x3": [(4, 3)],
        "conv1/3x3_reduce": [(4,)],
        "conv1": [(2,)],
        "relu": [],
        "inception/pool": [],
    }


def test_blobs_come_by_number_and_not_by_name(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        for i in range(12):
            file[f"data/lstm/{i}"] = numpy.full(3, i, "<f4")

    blobs = read_blobs(snapshot(tmp_path, fill))["lstm"]
    assert [float(numpy.asarray(each)[0]) for each in blobs] == list(range(12))


def siamese(*names: str) -> str:
    params = " ".join(f'param {{ name: "{name}" }}' if name else "param { lr_mult: 1 }" for name in names)
    layers = (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{name}" {params} inner_product_param {{ num_output: 4 }} }}\n'
        for name in ("left", "right")
    )
    return HEAD + "".join(layers)


def test_shared_blobs_that_are_stored_once_reach_every_layer(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["data/left/0"], file["data/left/1"] = WEIGHT, BIAS
        file.create_group("data/right")

    net = convert(text(tmp_path, siamese("w", "b")), snapshot(tmp_path, fill))
    assert net.get_submodule("left").weight is net.get_submodule("right").weight
    assert numpy.array_equal(net.state_dict()["right.weight"].numpy(), WEIGHT)
    assert numpy.array_equal(net.state_dict()["right.bias"].numpy(), BIAS)


@pytest.mark.parametrize(("names", "held"), [(("w", ""), {"1": -BIAS}), (("", "b"), {"0": -WEIGHT})])
def test_a_layer_that_shares_one_blob_holds_the_other_under_its_own_number(names: tuple[str, str], held: Any, tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["data/left/0"], file["data/left/1"] = WEIGHT, BIAS
        for number, array in held.items():
            file[f"data/right/{number}"] = array

    state = convert(text(tmp_path, siamese(*names)), snapshot(tmp_path, fill)).state_dict()
    assert numpy.array_equal(state["left.weight"].numpy(), WEIGHT) and numpy.array_equal(state["left.bias"].numpy(), BIAS)
    assert numpy.array_equal(state["right.weight"].numpy(), held.get("0", WEIGHT))
    assert numpy.array_equal(state["right.bias"].numpy(), held.get("1", BIAS))


def test_a_shared_blob_that_no_layer_holds_is_missing(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["data/left/1"], file["data/right/1"] = BIAS, BIAS

    with pytest.raises(MismatchError, match=r"lacks 2.*blob 0 \(weight\)"):
        convert(text(tmp_path, siamese("w", "")), snapshot(tmp_path, fill))


def test_a_number_that_is_left_out_without_sharing_is_a_mismatch(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["data/fc/1"], file["data/fc/2"] = BIAS, WEIGHT

    with pytest.raises(MismatchError, match="layer 'fc'"):
        convert(text(tmp_path, HEAD, FC), snapshot(tmp_path, fill))


def test_layers_that_the_net_does_not_have_are_noted(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        two_blobs(file)
        file["data/loss/0"] = BIAS

    with pytest.warns(CaffezooWarning, match="loss"):
        convert(text(tmp_path, HEAD, FC), snapshot(tmp_path, fill))


def test_a_snapshot_alone_asks_for_its_prototxt(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="holds no net; give the prototxt"):
        convert(snapshot(tmp_path, two_blobs))


def _soft(file: Any) -> None:
    two_blobs(file)
    file["data/fc2/0"] = h5py.SoftLink("/data/fc/0")


def _outside(file: Any) -> None:
    file["data/fc/0"] = h5py.ExternalLink("/etc/passwd", "/data/fc/0")


def _linked_group(file: Any) -> None:
    two_blobs(file)
    file["data/fc2"] = h5py.SoftLink("/data/fc")


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(4,))
    file.create_virtual_dataset("data/fc/0", layout)


def _raw_outside(file: Any) -> None:
    file.create_dataset("data/fc/0", shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)])


def _doubling(file: Any) -> None:
    inner = file.create_group("inner")
    for i in range(30):
        outer = file.create_group(f"level{i}")
        outer["a"], outer["b"] = inner, inner
        inner = outer
    file.create_group("data")["fc"] = inner


def _circle(file: Any) -> None:
    two_blobs(file)
    file["data/around"] = file["data"]


def _deep(file: Any) -> None:
    file["data/" + "a/" * 2_000 + "0"] = BIAS


def _wide(file: Any) -> None:
    group = file.create_group("data/fc")
    for i in range(70_000):
        group[str(i)] = h5py.SoftLink("/nowhere")


def _typed(kind: Any) -> Callable[[Any], object]:
    return lambda file: file.create_dataset("data/fc/0", shape=(3,), dtype=kind)


def _bomb(file: Any) -> None:
    file.create_dataset("data/fc/0", shape=(1 << 40,), dtype="f4", chunks=(1 << 20,), compression="gzip")


def _large_chunks(file: Any) -> None:
    dataset = file.create_dataset("data/fc/0", shape=(4,), dtype="f4", maxshape=(None,), chunks=(1 << 28,), compression="gzip")
    dataset.id.write_direct_chunk((0,), zlib.compress(BIAS.tobytes()))


BROKEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "a soft link to a blob": (_soft, "is a link"),
    "a soft link to a layer": (_linked_group, "is a link"),
    "a soft link to the data": (lambda file: file.update({"x": WEIGHT}) or file.__setitem__("data", h5py.SoftLink("/x")), "is a link"),
    "a link to another file": (_outside, "is a link"),
    "a virtual dataset": (_virtual, "another file"),
    "values in another file": (_raw_outside, "another file"),
    "groups that double at every level": (_doubling, "under two names"),
    "a group that holds itself": (_circle, "under two names"),
    "groups nested thousands deep": (_deep, "nested deeper"),
    "tens of thousands of blobs in a layer": (_wide, "is a link|more than"),
    "a dataset for HDF5Data layers": (lambda file: file.create_dataset("data", data=WEIGHT), "without a group `data`"),
    "no data": (lambda file: file.create_group("weights"), "without a group `data`"),
    "a Keras model": (lambda file: file.create_group("model_weights"), "a Keras model"),
    "an empty group": (lambda file: file.create_group("data"), "holds no layer"),
    "a dataset in a layer's place": (lambda file: file.create_dataset("data/0", data=WEIGHT), "is no group"),
    "a blob with a name": (lambda file: file.create_dataset("data/fc/weight", data=WEIGHT), r"blobs \['weight'\]"),
    "a blob numbered 00": (lambda file: file.create_dataset("data/fc/00", data=WEIGHT), r"blobs \['00'\]"),
    "a blob numbered -1": (lambda file: file.create_dataset("data/fc/-1", data=WEIGHT), r"blobs \['-1'\]"),
    "integers": (_typed("i4"), "not floats"),
    "strings": (_typed("S5"), "not floats"),
    "texts": (_typed(h5py.string_dtype()), "not floats"),
    "records": (_typed(numpy.dtype([("a", "f4")])), "not floats"),
    "complex numbers": (_typed("c8"), "not floats"),
    "references": (_typed(h5py.ref_dtype), "not floats"),
    "a dataset without a shape": (lambda file: file.__setitem__("data/fc/0", h5py.Empty("f4")), "not even a shape"),
    "values that were never written": (_typed("f4"), "claims 12 bytes, the file holds 0"),
    "a terabyte that was never written": (_bomb, "claims 4,398,046,511,104 bytes, the file holds 0"),
    "chunks of a gigabyte for four values": (_large_chunks, "claims 1,073,741,824 bytes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_snapshot_that_caffe_never_writes_is_refused(case: str, tmp_path: Path) -> None:
    fill, said = BROKEN[case]
    path = snapshot(tmp_path, fill)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=said) as told:
            read_blobs(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert str(told.value).startswith(str(path)) and len(str(told.value)) < 400


def test_compressed_values_are_read_only_when_they_are_asked_for(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        values = file.create_dataset("data/fc0/0", data=numpy.zeros(1 << 24, "f4"), compression="gzip", chunks=(1 << 22,))
        for i in range(1, 500):
            file[f"data/fc{i}/0"] = values

    path = snapshot(tmp_path, fill)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        assert len(read_blobs(path)) == 500
        assert tracemalloc.get_traced_memory()[1] < 16 << 20, "32 GB are claimed"
    finally:
        tracemalloc.stop()


def compressed(file: Any) -> None:
    file.create_dataset("data/fc/0", data=WEIGHT, compression="gzip")


def test_a_snapshot_that_goes_away_is_told(tmp_path: Path) -> None:
    path = snapshot(tmp_path, compressed)
    (found,) = read_blobs(path)["fc"]
    path.unlink()
    with pytest.raises(WeightsError, match="damaged"):
        numpy.asarray(found)


def test_without_h5py_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = snapshot(tmp_path, two_blobs)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match=r"pip install h5py"):
        convert(text(tmp_path, HEAD, FC), path)


def test_binary_files_need_no_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("fc", [blob(WEIGHT)]))
    assert numpy.array_equal(numpy.asarray(read_blobs(path)["fc"][0]), WEIGHT)


# A damaged file is read in a process of its own: the HDF5 library is C and might take everything down with it.
_READ_ALL = """
import json, resource, signal, sys
from pathlib import Path
import h5py, numpy
from converter import ConversionError, read_blobs

limit = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024 + (256 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    signal.setitimer(signal.ITIMER_PROF, 10)
    try:
        blobs = read_blobs(path)
        said = {name: [numpy.asarray(each).tobytes().hex() for each in held] for name, held in blobs.items()}
    except ConversionError as error:
        said = "refused"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([path.name, said]), flush=True)
"""


def test_a_damaged_snapshot_is_refused_or_read_as_h5py_reads_it(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is limited by what /proc says")

    def fill(file: Any) -> None:
        two_blobs(file)
        file.create_dataset("data/b/0", data=WEIGHT, compression="gzip")

    whole = snapshot(tmp_path, fill).read_bytes()
    folder = tmp_path / "damaged"
    folder.mkdir()
    cuts = sorted(random.Random(3).sample(range(len(whole)), 60))
    files = [whole[:cut] for cut in cuts] + list(flips(whole, 900, seed=4))
    for i, data in enumerate(files):
        (folder / f"{i:04}").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", _READ_ALL, str(folder)], capture_output=True, text=True, timeout=1800)
    said = dict(json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 0, f"died at {len(said):04}: {done.stderr[-500:]}"
    assert len(said) == len(files)
    strange = {name: text for name, text in said.items() if isinstance(text, str) and text != "refused"}
    assert not strange
    truncated = [said[f"{i:04}"] for i in range(len(cuts))]
    assert truncated.count("refused") == len(cuts), "HDF5 notes its own length: a shorter file cannot be read"
    read = [text for text in said.values() if text != "refused"]
    assert read, "most flips lie in unused space"
    for name, found in said.items():
        if found == "refused":
            continue
        with h5py.File(folder / name) as file:
            for key, blobs in found.items():
                for i, values in enumerate(blobs):
                    with numpy.errstate(all="ignore"):
                        assert bytes.fromhex(values) == file[f"data/{key}/{i}"][()].astype("<f4").tobytes()
