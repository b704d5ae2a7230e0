"""Writes what the demo compares with: fer_mini's outputs as OpenCV's own Caffe importer computes them from the prototxt and caffemodel.

    pip install 'opencv-python-headless<5'; python benchmarks/demo_outputs.py

OpenCV parses the two files with its own reader and runs its own layers; nothing of this project has a part in the numbers but the
formula of the pictures. Its Winograd convolutions, which round more, are switched off.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402

from finetune.demo.outputs import RECIPE, STORED, inputs  # noqa: E402

EMBEDDED = ROOT / "zoo" / "embedded"


def main() -> None:
    weights = EMBEDDED / "fer_mini.caffemodel"
    net = cv2.dnn.readNetFromCaffe(str(EMBEDDED / "fer_mini.prototxt"), str(weights))
    net.enableWinograd(False)
    net.setInput(inputs())
    logits = net.forward("classifier")
    facts = {
        "made_by": f"OpenCV {cv2.__version__}",
        "command": "python benchmarks/demo_outputs.py",
        "caffemodel_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "inputs": RECIPE,
        "blob": "classifier",
        "logits": [[float(f"{value:.8g}") for value in row] for row in logits],
    }
    STORED.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{STORED.relative_to(ROOT)}: {logits.shape[0]} × {logits.shape[1]} logits by OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
