"""The written Python file: it runs where this package is not installed, and nothing of a prototxt gets into its code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from golden import FOLDER, arrays, converted
from safetensors.torch import save_file

from converter import convert
from converter.errors import UnsupportedError

# Blocks the project's packages, and what net.py must not need; then runs each file on the inputs beside it.
_ELSEWHERE = """
import runpy, sys, importlib.abc
from pathlib import Path

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"converter", "zoo", "architectures", "finetune", "safetensors", "google", "torchvision"}:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocked())
import torch
for folder in map(Path, sys.argv[1:]):
    made = runpy.run_path(str(folder / "net.py"))
    net = made["load"]()
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    with torch.inference_mode():
        found = net(*(inputs[name] for name in net.inputs))
    torch.save(found if isinstance(found, dict) else {net.outputs[0]: found}, folder / "found.pt")
"""
# Of each a different way to come into the file: helpers, bases, constants, classes in classes, names that two modules share
CASES = [
    "Graph-0", "Graph-5", "LSTM-0", "Lstm-1", "DetectionOutput-1", "Proposal-1", "PythonProposal-0", "BoxGroupOutput-0", "DenseBlock-0",
    "Yolov3DetectionOutput-1", "SPP-0", "CenterLoss-1", "PriorBox-2", "Pooling3D-1",
]  # fmt: skip


def test_written_files_run_where_nothing_of_this_package_is_installed(tmp_path: Path) -> None:
    folders = {case: tmp_path / case for case in CASES}
    for case, folder in folders.items():
        folder.mkdir()
        net = converted(case)
        net.to_source(folder / "net.py")
        save_file(net.state_dict(), folder / "net.safetensors")
        torch.save({name: torch.from_numpy(value) for name, value in arrays(case, "input").items()}, folder / "inputs.pt")
    subprocess.run([sys.executable, "-I", "-c", _ELSEWHERE, *map(str, folders.values())], check=True, cwd="/", timeout=600)
    for case, folder in folders.items():
        net, found = converted(case), torch.load(folder / "found.pt", weights_only=True)
        with torch.inference_mode():
            want = net(*(torch.from_numpy(arrays(case, "input")[name]) for name in net.inputs), blobs=net.outputs)
        assert found.keys() == want.keys()
        for name, value in want.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)


HOSTILE = ['a"""b', "it's", "new\nline", "back\\slash", "class", "__class__", "self", "}{", "é\u202e", 'x"); import os; os.abort() #']


def test_no_name_of_a_prototxt_becomes_code(tmp_path: Path) -> None:
    def quoted(name: str) -> str:
        return '"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    lines, bottom = [f'name: {quoted(HOSTILE[0] + HOSTILE[-1])} input: "data" input_shape {{ dim: 1 dim: 3 }}'], '"data"'
    for name in HOSTILE:
        lines.append(f'layer {{ name: {quoted(name)} type: "Power" bottom: {bottom} top: {quoted(name)} power_param {{ shift: 1 }} }}')
        bottom = quoted(name)
    prototxt, path = tmp_path / "net.prototxt", tmp_path / "net.py"
    prototxt.write_text("\n".join(lines))
    convert(prototxt).to_source(path)
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "os" not in names and "abort" not in names and path.read_bytes().isascii()
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import runpy, sys, torch; print(runpy.run_path(sys.argv[1])['Net']()(torch.zeros(1, 3)))", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"tensor([[{', '.join([f'{len(HOSTILE)}.'] * 3)}]])"


def test_the_file_has_the_modules_docstrings_and_the_layers_names(tmp_path: Path) -> None:
    converted("Graph-0").to_source(tmp_path / "net.py")
    text = (tmp_path / "net.py").read_text()
    assert "Caffe's BatchNorm: statistics only" in text and "# Convolution 'branch/3x3'" in text
    assert "converter." not in text and "import converter" not in text


def test_images_are_prepared_as_the_net_itself_does(tmp_path: Path) -> None:
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(
        'layer { name: "data" type: "Data" top: "data" data_param { batch_size: 1 }\n'
        "transform_param { scale: 0.5 mean_value: 1 mean_value: 2 mean_value: 3 crop_size: 6 } }\n"
        'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }\n'
    )
    net = convert(prototxt)
    assert net.preprocess is not None
    net.to_source(tmp_path / "net.py")
    image = numpy.random.default_rng(0).integers(0, 256, (9, 7, 3), "u1")
    code = "import runpy, sys, numpy; net = runpy.run_path(sys.argv[1])['Net'](); print(net.preprocess(numpy.load(sys.argv[2])).tolist())"
    numpy.save(tmp_path / "image.npy", image)
    arguments = [sys.executable, "-I", "-c", code, str(tmp_path / "net.py"), str(tmp_path / "image.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert torch.equal(torch.tensor(ast.literal_eval(done.stdout)), net.preprocess(image))


def test_a_child_of_another_s_making_is_refused_by_name(tmp_path: Path) -> None:
    class Head(torch.nn.Linear):
        pass

    net = convert(FOLDER / "Graph-0" / "net.prototxt")
    net.conv1, net.prob = Head(1, 1), torch.nn.Sequential(torch.nn.ReLU())
    with pytest.raises(UnsupportedError, match=r"layer 'conv1' is now a .*Head; layer 'prob' is now a torch\.nn.*Sequential"):
        net.to_source(tmp_path / "net.py")
    assert not list(tmp_path.iterdir())
