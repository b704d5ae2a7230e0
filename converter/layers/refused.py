"""Types of forks that are refused by name: why nobody can compute them from the files."""

from __future__ import annotations

_RANDOM = "draws samples at random, at test time, too"
_FIXED_POINT = "rounds weights and values to Ristretto's fixed-point numbers"
_CALLER = "has a size that the program sets which runs the net (OpenPose)"

REFUSED = {
    "BernoulliSample": _RANDOM,
    "ConvolutionRistretto": _FIXED_POINT,
    "DeconvolutionRistretto": _FIXED_POINT,
    "FcRistretto": _FIXED_POINT,
    "LRNRistretto": _FIXED_POINT,
    "ImResize": _CALLER,
    "Nms": _CALLER,
    "RBMInnerProduct": _RANDOM,
    "TRT": "hands another prototxt and its weights to TensorRT (NVIDIA Caffe)",
}
