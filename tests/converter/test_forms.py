"""The forms in which a net runs elsewhere, .onnx, .pt2 and .py: the same numbers there, at sizes that it was not traced with."""

from __future__ import annotations

import json
import os
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import CASES, arrays, converted, files, inputs
from safetensors.torch import load_file

from converter import CaffeNet, ConversionError, cli, convert
from converter.conversion import prepare
from converter.errors import UnsupportedError
from converter.write import forms
from converter.write.output import write
from converter.write.proof import Proof, differs_by
from converter.write.sizes import Sizes, drawn, sizes_of
from converter.write.traced import fewer, traced
from converter.write.values import Planned, values_of

TOLERANCE = 1e-5  # of an output's largest magnitude
# Types whose result depends on values in ways that neither ONNX nor torch.export holds: docs/forms.md names them
BY_VALUES = {
    "BoxGroupOutput", "DetectionOutput", "FrcnnOutput", "MultiStageMeanfield", "Proposal", "PythonProposal", "ScaleRoute",
    "YoloDetectionOutput", "Yolov3DetectionOutput",
}  # fmt: skip
DOCS = Path(__file__).parents[2] / "docs" / "forms.md"
Run = Callable[..., dict[str, torch.Tensor]]


def outputs(net: CaffeNet, result: Any) -> dict[str, torch.Tensor]:
    return result if isinstance(result, dict) else {net.outputs[0]: result}


def onnx_run(path: Path, net: CaffeNet) -> Run:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = session.run(None, dict(zip(names, (value.numpy() for value in x), strict=True)))
        return {name: torch.from_numpy(value) for name, value in zip(net.outputs, found, strict=True)}

    return run


def pt2_run(path: Path, net: CaffeNet) -> Run:
    module = torch.export.load(path).module()
    return lambda *x: outputs(net, module(*x))


def py_run(path: Path, net: CaffeNet) -> Run:
    module = runpy.run_path(str(path))["load"]()
    return lambda *x: outputs(net, module(*x))


RUNS = {".onnx": onnx_run, ".pt2": pt2_run, ".py": py_run}


def assert_as_the_net(case: str, suffix: str, folder: Path) -> None:
    """At Caffe's own inputs, and at the sizes that are said to be free."""
    net, path = converted(case), folder / f"net{suffix}"
    net.save(path, check=False)
    run = RUNS[suffix](path, net)
    tried = [inputs(case, net)] if all(arrays(case, "input")[name].dtype == "float32" for name in net.inputs) else []
    for shapes in sizes_of(net).proofs if suffix == ".py" else free_sizes(path, net):
        for how in range(4):
            try:
                with torch.no_grad():
                    net(*drawn(net, shapes, how))
            except (RuntimeError, IndexError, ValueError):
                continue
            tried.append(drawn(net, shapes, how))
            break  # shapes fit that values may not (Unpool): save(check=True) ties such sizes
    assert tried
    for x in tried:
        with torch.no_grad():
            want, found = net(*x, blobs=net.outputs), run(*x)
        for name, value in want.items():
            difference = differs_by(found[name], value)
            assert difference <= (TOLERANCE if suffix == ".onnx" else 0), f"{name} at {[tuple(each.shape) for each in x]}: {difference:.1e}"


def free_sizes(path: Path, net: CaffeNet) -> list[dict[str, tuple[int, ...]]]:
    """The proofs of those axes that the file itself says are free."""
    if path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        facts = {each.key: each.value for each in onnx.load(path, load_external_data=False).metadata_props}
    else:
        held = {forms.FACTS: ""}
        torch.export.load(path, extra_files=held)
        facts = json.loads(held[forms.FACTS])
    free = {blob: {int(axis) for axis in axes} for blob, axes in json.loads(facts["axes"]).items()}
    return [
        {
            blob: tuple(size if i in free[blob] else net.input_shapes[blob][i] for i, size in enumerate(shape))
            for blob, shape in proof.items()
        }
        for proof in sizes_of(net).proofs
    ]


@pytest.mark.parametrize(("case", "suffix"), [("Graph-0", ".onnx"), ("ArgMax-0", ".onnx"), ("LSTM-0", ".pt2"), ("Deconvolution-0", ".pt2")])
def test_a_form_computes_what_the_net_computes(case: str, suffix: str, tmp_path: Path) -> None:
    assert_as_the_net(case, suffix, tmp_path)


class Mended(torch.nn.Module):
    """What torch's own translation to ONNX gets wrong."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = -(-(x.shape[2] - 3) // 4)  # rounded up, as windows are counted
        return torch.nn.functional.avg_pool2d(x, (2, 3), (1, 2), divisor_override=5)[:, :, :rows].sort(dim=3, stable=True, descending=True)[
            0
        ]


def test_operators_that_torch_translates_wrongly_are_translated_here(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from converter.write.translations import translations

    x = torch.randn(2, 3, 9, 8)
    program = torch.export.export(Mended(), (x,), dynamic_shapes=({2: torch.export.Dim.AUTO},), strict=False)
    made = torch.onnx.export(program, dynamo=True, verbose=False, custom_translation_table=translations())
    assert made is not None
    made.save(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for size in (9, 10, 13):
        x = torch.randn(2, 3, size, 8)
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
        assert differs_by(found, Mended()(x)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".py", ".pt2", ".onnx"])
@pytest.mark.parametrize("case", CASES)
def test_every_golden_net_computes_the_same_in_every_form(case: str, suffix: str, tmp_path: Path) -> None:
    if case.rpartition("-")[0] in BY_VALUES and suffix != ".py":
        with pytest.raises(UnsupportedError, match="chooses by values"):
            converted(case).save(tmp_path / f"net{suffix}", check=False)
        assert not list(tmp_path.iterdir())
    else:
        assert_as_the_net(case, suffix, tmp_path)


def test_the_page_names_every_type_that_the_forms_do_not_hold() -> None:
    page = DOCS.read_text()
    assert [name for name in BY_VALUES if f"`{name}`" not in page] == []
    assert [name for name in BY_VALUES if not any(case.startswith(f"{name}-") for case in CASES)] == []


def net_of(folder: Path, *layers: str, shape: tuple[int, ...] = (1, 3, 32, 32)) -> CaffeNet:
    text, bottom = [f'name: "net" input: "data" input_shape {{ {" ".join(f"dim: {d}" for d in shape)} }}'], "data"
    for i, layer in enumerate(layers):
        text.append(f'layer {{ name: "l{i}" bottom: "{bottom}" top: "b{i}" {layer} }}')
        bottom = f"b{i}"
    path = folder / "in.prototxt"
    path.write_text("\n".join(text))
    return convert(path)


CONV = 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } }'
FC = 'type: "InnerProduct" inner_product_param { num_output: 4 weight_filler { type: "xavier" } }'
MEAN = 'type: "Pooling" pooling_param { pool: AVE global_pooling: true }'
MAX = 'type: "Pooling" pooling_param { pool: MAX global_pooling: true }'
# 7 more rows do not make another row of windows here: only the larger probe shows that the net takes one size
COARSE = 'type: "Pooling" pooling_param { pool: MAX kernel_size: 16 stride: 16 }'
FREE = {
    "a fully convolutional net takes any size": ((CONV,), ["batch", "height", "width"]),
    "a dense layer ties height and width": ((CONV, FC), ["batch"]),
    "a dense layer behind a global mean does not": ((CONV, MEAN, FC), ["batch", "height", "width"]),
    "coarse windows hide it from a small step": ((COARSE, FC), ["batch"]),
    "a global MAX pooling ties the exporter": ((CONV, MAX), ["batch"]),
    "a Reshape to a fixed batch ties it": (('type: "Reshape" reshape_param { shape { dim: 1 dim: -1 } }', FC), []),
}


@pytest.mark.parametrize("name", FREE)
def test_free_axes_are_those_at_which_the_net_runs(name: str, tmp_path: Path) -> None:
    layers, want = FREE[name]
    found = sizes_of(net_of(tmp_path, *layers))
    assert list(found.axes["data"].values()) == want
    assert found.proofs[0]["data"][0] == (2 if want else 1) and (len(found.proofs) == 2) == bool(want)
    assert bool(found.notes) == (MAX in layers) and all("l1" in note for note in found.notes)


def test_an_axis_that_torch_export_ties_is_said_with_the_length_that_stays() -> None:
    stated, larger = {"data": (1, 3, 240, 320)}, {"data": (2, 3, 272, 352)}
    sizes = Sizes({"data": {0: "batch", 2: "height", 3: "width"}}, stated, larger, (larger,))
    without_image = fewer(sizes)
    assert without_image is not None and without_image.example == {"data": (2, 3, 240, 320)}
    without_batch = fewer(without_image)
    assert without_batch is not None and without_batch.example == stated and fewer(without_batch) is None
    assert [note.partition(":")[0] for note in without_batch.notes] == ["height and width stay 240×320", "batch stays 1"]


@pytest.mark.parametrize(("case", "free"), [("Pooling-15", ["batch"]), ("Pooling-7", ["batch", "height", "width"])])
def test_what_a_trace_takes_for_granted_of_a_size_has_to_hold_for_all(case: str, free: list[str]) -> None:
    """Pooling-15's windows are clipped or not as the width's remainder by 3 is: a trace holds one of the two."""
    net = converted(case)
    assert "height" in sizes_of(net).axes["data"].values()
    assert list(traced(net, sizes_of(net), "net.onnx")[1].axes["data"].values()) == free


@pytest.mark.parametrize("case", ["Graph-0", "BatchNorm-0", "LSTM-1", "InnerProduct-1", "Scale-2"])
def test_a_net_that_is_read_layer_by_layer_computes_the_same(case: str) -> None:
    from converter.build.assemble import assemble

    graph, plan = prepare(*files(case))
    values, net = values_of(assemble(graph), graph, plan), converted(case)
    assert isinstance(values, Planned)
    x = inputs(case, net)
    with torch.no_grad():
        want = net(*x, blobs=net.outputs)
    assert all(torch.equal(value, want[name]) for name, value in values.results([x])[0].items())
    assert all(parameter.is_meta for parameter in values.net.parameters())
    state = values.state()
    assert state.keys() == net.state_dict().keys() and all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_the_command_writes_an_onnx_file_that_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    prototxt, weights = files("Graph-0")
    cli.main([str(prototxt), str(weights), "-o", str(tmp_path / "net.onnx")])
    said = capsys.readouterr().out
    assert "batch: any size" in said and "read back by ONNX Runtime" in said
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    graph, facts = model.graph, {each.key: each.value for each in model.metadata_props}
    assert ([each.name for each in graph.input], [each.name for each in graph.output]) == (["data"], ["prob"])
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert facts["converter"].startswith("caffezoo ") and len(facts["sha256.net.prototxt"]) == len(facts["sha256.net.caffemodel"]) == 64
    assert json.loads(facts["axes"]) == {"data": {"0": "batch"}} and facts["torch"] == torch.__version__
    layers = {each.value for node in graph.node for each in node.metadata_props if each.key == "caffe.layer"}
    assert {"conv1", "branch/3x3", "1x1 fc", "prob"} <= layers
    assert str(Path(__file__).parents[2]).encode() not in model.SerializeToString()


def test_blobs_that_are_changed_in_place_or_copied_keep_their_names(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(
        'input: "data" input_shape { dim: 1 dim: 3 }\nlayer { name: "a" type: "ReLU" bottom: "data" top: "data" }\n'
        'layer { name: "b" type: "Split" bottom: "data" top: "x/y" top: "class" }\n'
        'layer { name: "c" type: "Dropout" bottom: "class" top: "tensor_1" }\n'
    )
    net = convert(prototxt)
    net.outputs = ("data", "x/y", "tensor_1")
    net.save(tmp_path / "net.onnx", check=False)
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [each.name for each in graph.input] == ["data"] and [each.name for each in graph.output] == ["data_", "x/y", "tensor_1"]
    x = torch.tensor([[-1.0, 0, 2]])
    assert all(torch.equal(value, x.relu()) for value in onnx_run(tmp_path / "net.onnx", net)(x).values())


def test_many_weights_go_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "INLINE", 0)
    graph, plan = prepare(*files("Graph-0"))
    assert write(tmp_path / "net.onnx", graph, plan, dict).beside == ("net.onnx.data",)
    net, x = converted("Graph-0"), inputs("Graph-0", converted("Graph-0"))
    assert load_file(tmp_path / "net.onnx.data").keys() == net.state_dict().keys()  # it is a safetensors file
    with torch.no_grad():
        assert differs_by(onnx_run(tmp_path / "net.onnx", net)(*x)["prob"], net(*x)) <= TOLERANCE


def test_a_pth_is_the_zip_file_that_torch_writes(tmp_path: Path) -> None:
    graph, plan = prepare(*files("Graph-0"))
    write(tmp_path / "net.pth", graph, plan, dict)
    with zipfile.ZipFile(tmp_path / "net.pth") as archive:
        assert archive.testzip() is None and sum("/data/" in name for name in archive.namelist()) == len(converted("Graph-0").state_dict())


def test_what_cannot_be_held_is_refused_by_layer_before_anything_is_written(tmp_path: Path) -> None:
    for suffix in (".onnx", ".pt2"):
        with pytest.raises(UnsupportedError, match=r"layer 'op' of type 'DetectionOutput'.*Save the net as \.py.*'loc', 'conf', 'prior'"):
            converted("DetectionOutput-0").save(tmp_path / f"net{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".py", ".pt2"])
def test_nothing_is_left_where_the_file_reads_back_as_something_else(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"net{suffix}").write_text("older")
    real = forms.proof_of

    def wrong(*arguments: Any) -> Proof:
        proof = real(*arguments)
        proof.wanted[1]["prob"] += 0.001
        return proof

    monkeypatch.setattr(forms, "proof_of", wrong)
    with pytest.raises(ConversionError, match=rf"net\{suffix} is not written: in torch .*, its output 'prob' .* differs by"):
        converted("Graph-0").save(tmp_path / f"net{suffix}")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["older"]


def test_a_net_in_memory_is_saved_as_it_is_now(tmp_path: Path) -> None:
    net = converted("Graph-0")
    with torch.no_grad():
        net.conv1.weight += 1
    for suffix in (".safetensors", ".pth", ".caffemodel", ".py"):
        net.save(tmp_path / f"net{suffix}", check=False)
    states = [
        load_file(tmp_path / "net.safetensors"),
        torch.load(tmp_path / "net.pth", weights_only=True),
        convert(files("Graph-0")[0], tmp_path / "net.caffemodel").state_dict(),
        runpy.run_path(str(tmp_path / "net.py"))["load"]().state_dict(),
    ]
    for state in states:
        assert state.keys() == net.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


def test_a_net_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="training mode"):
        converted("Graph-0").train().save(tmp_path / "net.pt2", check=False)


def test_hashes_are_of_the_files_that_were_read(tmp_path: Path) -> None:
    prototxt, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    for path, source in zip((prototxt, weights), files("Graph-0"), strict=True):
        assert source is not None
        path.write_bytes(source.read_bytes())
    net = convert(prototxt, weights)
    weights.write_bytes(b"another file by now")
    net.save(tmp_path / "net.safetensors")
    net.save(tmp_path / "net.py", check=False)
    facts = runpy.run_path(str(tmp_path / "net.py"))["METADATA"]
    assert "sha256.net.prototxt" in facts and "sha256.net.caffemodel" not in facts


@pytest.mark.parametrize(("name", "shown"), [("conv_1", None), ("conv.1", {"conv_1": "conv.1"})])
def test_source_lists_the_layers_whose_attribute_has_another_name(name: str, shown: dict[str, str] | None, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'input: "data" input_shape { dim: 1 dim: 2 dim: 3 dim: 3 } layer { name: "NAME" type: "Convolution" bottom: "data" top: "y"'
        " convolution_param { num_output: 1 kernel_size: 1 } }".replace("NAME", name)
    )
    convert(tmp_path / "net.prototxt").save(tmp_path / "net.py", check=False)
    assert runpy.run_path(str(tmp_path / "net.py"))["METADATA"].get("layer_names") == shown


def test_a_full_disk_is_an_error_and_no_abort(tmp_path: Path) -> None:
    """torch's zip writer ends the whole process where a write fails."""
    resource = pytest.importorskip("resource", reason="limits of processes are Unix's")
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system reserves no room for a file")
    net, before = converted("InnerProduct-0"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ConversionError, match="cannot be written"):
            net.save(tmp_path / "net.pt2", check=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
