"""Where OpenCV's importer is known to compute something else than Caffe."""

from __future__ import annotations

from converter.errors import some
from converter.net import CaffeNet

# Where OpenCV 4.14 itself is not as Caffe: held against Caffe's own outputs, by the golden cases.
OPENCV_DIFFERS: dict[str, str] = {
    "InnerProduct": "InnerProduct with transpose",
    "DetectionOutput": "DetectionOutput",
}


def known_differences(net: CaffeNet) -> list[str]:
    """Where OpenCV is known to compute something else than Caffe, of the layers that the net has."""
    found: dict[str, list[str]] = {}
    for step in net.program.layers:
        what = OPENCV_DIFFERS.get(step.type)
        if what is not None and (step.type != "InnerProduct" or step.load is not None):
            found.setdefault(what, []).append(step.name)
    return [f"{what}: {some([repr(name) for name in names], 6)}" for what, names in found.items()]
