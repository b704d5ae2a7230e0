"""Pooling and SPP."""

from __future__ import annotations

from torch import Tensor, nn

from converter import modules
from converter.layers.registry import ENGINE, Fields, layer


def _pair(p: Fields, name: str, default: int | None) -> tuple[int, int] | None:
    """name: kernel_size, stride or pad; or name_h and name_w together."""
    short = {"kernel_size": "kernel"}.get(name, name)
    both = (p.has(f"{short}_h"), p.has(f"{short}_w"))
    if any(both):
        if not all(both) or p.has(name):
            raise ValueError(f"{name}, or {short}_h and {short}_w together: not both, and not one alone")
        return getattr(p, f"{short}_h"), getattr(p, f"{short}_w")
    if not p.has(name):
        return None if default is None else (default, default)
    return getattr(p, name), getattr(p, name)


@layer("Pooling", "pooling_param", ignored=ENGINE)
def pooling(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() != 4:
        raise ValueError("Pooling takes four axes (N, C, H, W)")
    kernel, stride, pad = _pair(p, "kernel_size", None), _pair(p, "stride", 1), _pair(p, "pad", 0)
    mode, mask, ceil_mode = p.pool, p.tops > 1, p.round_mode == "CEIL"
    if mask and (mode != "MAX" or p.tops > 2):
        raise ValueError(f"{p.tops} tops; only MAX pooling has a second one, the mask")
    assert stride is not None and pad is not None
    if p.global_pooling:
        if kernel is not None or pad != (0, 0) or stride != (1, 1):
            raise ValueError("global_pooling takes no kernel, no pad and no stride")
        if mode == "STOCHASTIC" or mask:
            return modules.Pool2d(mode, None, mask=mask)
        return nn.AdaptiveMaxPool2d(1) if mode == "MAX" else nn.AdaptiveAvgPool2d(1)
    if kernel is None or min(kernel) < 1 or min(stride) < 1:
        raise ValueError("a kernel_size and a stride of at least 1 are needed")
    if pad != (0, 0) and (mode == "STOCHASTIC" or pad[0] >= kernel[0] or pad[1] >= kernel[1]):
        raise ValueError(f"a pad of {pad} does not go with {mode} pooling and a kernel of {kernel}")
    # torch's modules clip the last window as Caffe does, but pad by half the kernel at most
    as_torch = all(2 * pad[i] <= kernel[i] and stride[i] <= kernel[i] for i in (0, 1)) and not mask
    if as_torch and mode == "MAX":
        return nn.MaxPool2d(kernel, stride, pad, ceil_mode=ceil_mode)
    if as_torch and mode == "AVE":
        return nn.AvgPool2d(kernel, stride, pad, ceil_mode=ceil_mode)
    return modules.Pool2d(mode, kernel, stride, pad, ceil_mode, mask)


@layer("SPP", "spp_param", ignored=ENGINE)
def spp(p: Fields, x: Tensor) -> nn.Module:
    if x.dim() != 4 or p.pyramid_height < 1:
        raise ValueError("SPP takes four axes (N, C, H, W) and a pyramid_height of at least 1")
    return modules.SpatialPyramid(p.pyramid_height, p.pool)
