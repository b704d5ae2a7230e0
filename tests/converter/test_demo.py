"""The converter's own demo, and the example net that it makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from converter.example import prototxt


def test_the_demo_converts_reloads_and_finds_no_difference(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-m", "converter.demo", str(tmp_path / "out")], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "83 of 83 tensors are bit for bit" in said.stdout and "give equal outputs" in said.stdout
    assert "finetune.demo" in said.stdout and "multiply-adds" not in said.stdout and len(said.stdout.splitlines()) < 15
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"face_deploy.prototxt", "face.caffemodel", "face.safetensors"}


def test_the_example_has_the_size_of_the_center_loss_face_net(tmp_path: Path) -> None:
    from converter.conversion import prepare
    from converter.table import net_rows

    path = tmp_path / "net.prototxt"
    path.write_text(prototxt())
    graph, _ = prepare(path, None)
    assert sum(row.parameters for row in net_rows(graph)) == 27_543_072  # of ydwen/caffe-face's face_deploy.prototxt
    assert graph.outputs == ("fc5",)
