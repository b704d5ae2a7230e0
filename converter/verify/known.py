"""Where OpenCV's importer is known to compute something else than Caffe.

Found by running the golden cases, which hold Caffe's own outputs, in OpenCV 4.14 (tests/converter/test_verify.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.errors import some

# Layer type: in which form, and whether a LayerParameter is of that form.
OPENCV_DIFFERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "Axpy": ("Axpy", lambda m: True),
    "BatchNorm": ("BatchNorm with NVIDIA's scale_bias and an eps below 1e-5", lambda m: m.batch_norm_param.eps < 1e-5),
    "Deconvolution": ("Deconvolution with dilation", lambda m: any(d > 1 for d in m.convolution_param.dilation)),
    "DetectionOutput": ("DetectionOutput", lambda m: True),
    "ELU": ("ELU with lambda", lambda m: getattr(m.elu_param, "lambda") != 1),
    "InnerProduct": ("InnerProduct with transpose", lambda m: m.inner_product_param.transpose),
    "Interp": ("Interp with pad_beg or pad_end", lambda m: bool(m.interp_param.pad_beg or m.interp_param.pad_end)),
    "Log": ("Log", lambda m: True),
    "Pooling": ("Pooling with a stride above its kernel", lambda m: _strides_beyond(m.pooling_param)),
    "PriorBox": ("PriorBox with an offset other than 0.5", lambda m: m.prior_box_param.offset != 0.5),
    "Proposal": ("Proposal", lambda m: True),
    "Scale": ("Scale with two bottoms and a bias", lambda m: len(m.bottom) > 1 and m.scale_param.bias_term),
    "Swish": ("Swish with beta", lambda m: m.swish_param.beta != 1),
    "ROIPooling": ("ROIPooling with pad_ratio", lambda m: m.roi_pooling_param.pad_ratio != 0),
}


def _strides_beyond(pooling: Any) -> bool:
    """The last window can then lie outside of the image: Caffe leaves the least float there, or 0."""
    kernel = [pooling.kernel_h, pooling.kernel_w] if pooling.kernel_h else [*pooling.kernel_size]
    stride = [pooling.stride_h, pooling.stride_w] if pooling.stride_h else [*pooling.stride] or [1]
    return bool(kernel) and not pooling.global_pooling and max(stride) > min(kernel)


def known_differences(message: Any) -> list[str]:
    """Where OpenCV is known to differ from Caffe, of the layers that a NetParameter has; each with their names."""
    found: dict[str, list[str]] = {}
    for layer in message.layer:
        what, applies = OPENCV_DIFFERS.get(layer.type, ("", lambda m: False))
        if applies(layer):
            found.setdefault(what, []).append(layer.name)
    return [f"{what}: {some([repr(name) for name in names], 6)}" for what, names in found.items()]
