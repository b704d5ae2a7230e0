"""Converted copies of drawn weights in every form, and what each form's own framework would compute from them.

Written after the forms' sources and not with the package's code. A drawn net is the Caffe net's state dict, BGR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, linear, max_pool2d, relu

State = Mapping[str, Tensor]
CONVS = ["1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3", "4_1", "4_2", "4_3", "5_1", "5_2", "5_3"]
LAST = {"1_2", "2_2", "3_3", "4_3", "5_3"}  # a pool follows
NUMBERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}


def draw(shapes: State, seed: int = 0) -> dict[str, Tensor]:
    """Values for every parameter, so that activations neither vanish nor grow."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for key, like in shapes.items():
        if key.endswith("num_batches_tracked"):
            continue
        fan = like[0].numel() if like.dim() > 1 else 1
        value = torch.randn(like.shape, generator=rng) * ((2 / fan) ** 0.5 if like.dim() > 1 else 0.1)
        if key.endswith(("running_var", "/scale.weight")):
            value = 1 + value.abs()
        elif "relu" in key:
            value = 0.25 + value
        state[key] = value
    return state


def swapped(state: State, first: str) -> dict[str, Tensor]:
    return {**state, f"{first}.weight": state[f"{first}.weight"][:, [2, 1, 0]].clone()}


def renamed(state: State, name: Callable[[str], str]) -> dict[str, Tensor]:
    """Each layer under another name."""
    return {f"{name(key.rpartition('.')[0])}.{key.rpartition('.')[2]}": value for key, value in state.items()}


def save_torch(path: Path, state: State, **how: Any) -> Path:
    torch.save(dict(state), path, **how)
    return path


# --- VGG-Face -------------------------------------------------------------------------------------------------------------------------


def vgg_names(form: str) -> dict[str, str]:
    """Caffe's layers -> the form's."""
    full = {"fc6": 0, "fc7": 3, "fc8": 6}
    if form == "pytorch-mcn":
        return {name: name for name in (*(f"conv{each}" for each in CONVS), *full)}
    if form == "prlz77":
        return {**{f"conv{each}": f"conv_{each}" for each in CONVS}, **{name: name for name in full}}
    if form == "PyVGGFace":
        return {**{f"conv{each}": f"features.conv_{each}" for each in CONVS}, **{name: f"fc.{name}" for name in full}}
    convs = dict(zip((f"conv{each}" for each in CONVS), NUMBERS, strict=True))
    if form == "torchvision":
        return {**{name: f"features.{n}" for name, n in convs.items()}, **{name: f"classifier.{n}" for name, n in full.items()}}
    assert form == "Torch7"
    return {**{name: str(n) for name, n in convs.items()}, "fc6": "32.1", "fc7": "35.1", "fc8": "38.1"}


def vgg_torch(state: State, form: str) -> dict[str, Tensor]:
    names = vgg_names(form)
    return renamed(swapped(state, "conv1_1") if form == "pytorch-mcn" else state, names.__getitem__)


def vgg_forward(saved: State, form: str, image: Tensor) -> Tensor:
    """The logits of an image (N, 3, H, W) in the form's own channel order."""
    names = vgg_names(form)

    def of(layer: str) -> tuple[Tensor, Tensor]:
        return saved[f"{names[layer]}.weight"], saved[f"{names[layer]}.bias"]

    for each in CONVS:
        image = relu(conv2d(image, *of(f"conv{each}"), padding=1))
        image = max_pool2d(image, 2, ceil_mode=True) if each in LAST else image
    image = image.flatten(1)
    for layer in ("fc6", "fc7"):
        image = relu(linear(image, *of(layer)))
    return linear(image, *of("fc8"))


KerasLayers = dict[str, dict[str, np.ndarray]]


def vgg_keras(state: State, flat: tuple[int, int, int], convolved: bool) -> KerasLayers:
    """keras-vggface's layers (Dense; BGR), or those of deepface (convolutions, RGB)."""
    state = swapped(state, "conv1_1") if convolved else state
    layers: KerasLayers = {}
    for layer in dict.fromkeys(key.rpartition(".")[0] for key in state):
        kernel, bias = state[f"{layer}.weight"].numpy(), state[f"{layer}.bias"].numpy()
        if kernel.ndim == 2:
            shape = flat if layer == "fc6" else (kernel.shape[1], 1, 1)
            kernel = kernel.reshape(-1, *shape)
        kernel = kernel.transpose(2, 3, 1, 0)  # height, width, in, out
        if layer.startswith("fc") and not convolved:
            kernel = kernel.reshape(-1, kernel.shape[3])
        layers[layer] = {"kernel": kernel, "bias": bias}
    return layers


def keras_forward(layers: KerasLayers, image: np.ndarray) -> np.ndarray:
    """Logits of an image (H, W, 3) in the layers' own channel order: every product by hand, height, width, channels throughout."""
    x = image.astype(np.float64)
    for name, layer in layers.items():
        kernel, bias = layer["kernel"].astype(np.float64), layer["bias"]
        if kernel.ndim == 2:
            x = x.reshape(-1) @ kernel + bias
        else:
            pad = 1 if kernel.shape[0] == 3 else 0
            padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (0, 1))  # H, W, C, kh, kw
            x = np.einsum("hwcij,ijco->hwo", windows, kernel, optimize=True) + bias
        if name != list(layers)[-1]:
            x = np.maximum(x, 0)
        if name.removeprefix("conv") in LAST:
            h, w, c = x.shape
            x = x.reshape(h // 2, 2, w // 2, 2, c).max((1, 3))
    return x.reshape(-1)


def save_keras(path: Path, layers: KerasLayers, *, named: bool = True, model: bool = False, style: int = 2) -> Path:
    """As Keras 2 writes them (style 1: as Keras 1 did), among layers without weights; unnamed ones are called conv2d_1, ..."""
    import h5py

    with h5py.File(path, "w") as file:
        top = file.create_group("model_weights") if model else file
        names = ["input_1"]
        top.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for number, (layer, arrays) in enumerate(layers.items(), 1):
            name = layer if named else f"conv2d_{number}"
            group = top.create_group(name)
            short = {"kernel": "W_1", "bias": "b_1"} if style == 1 else {}
            inside = [f"{name}{'_' if style == 1 else '/'}{short.get(kind, kind)}:0" for kind in arrays]
            group.attrs["weight_names"] = np.array([each.encode() for each in inside])
            for each, array in zip(inside, arrays.values(), strict=True):
                group.create_dataset(each, data=array)
            names.append(name)
        top.attrs["layer_names"] = np.array([name.encode() for name in names])
        top.attrs["backend"] = b"tensorflow"
    return path


# --- VGGFace2 -------------------------------------------------------------------------------------------------------------------------


def resnet_torch(state: State, senet: bool) -> dict[str, Tensor]:
    """pytorch-mcn's resnet50_ft_dag and senet50_ft_dag: RGB, "_" for "/", Caffe's BatchNorm and Scale in one, a 1×1 classifier."""
    saved = {}
    for key, value in swapped(state, "conv1/7x7_s2").items():
        layer, _, parameter = key.rpartition(".")
        name = layer.removesuffix("/scale").replace("/", "_")
        saved[f"{name}.{parameter}"] = value[:, :, None, None] if key == "classifier.weight" else value
        if parameter == "running_var":
            saved[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return saved


def resnet_keras(state: State, top: bool = True) -> KerasLayers:
    layers: KerasLayers = {}
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        array = value.numpy()
        if "/bn" in layer:
            layers.setdefault(layer.removesuffix("/scale"), {})[kinds[parameter]] = array
        elif layer != "classifier" or top:
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            layers.setdefault(layer, {})["kernel" if parameter == "weight" else "bias"] = array
    return layers


def resnet_like_torchvision(state: State) -> dict[str, Tensor]:
    """VGGFace2-pytorch's ResNet-50 and SENet-50: BGR, torchvision's names, conv4 and conv5 for squeezing and exciting."""
    parts = {"1x1_reduce": "conv1", "3x3": "conv2", "1x1_increase": "conv3", "1x1_down": "conv4", "1x1_up": "conv5"}
    saved = {}
    for key, value in state.items():
        layer, _, parameter = key.removeprefix("conv").rpartition(".")
        norm = "/bn" in layer
        conv = layer.partition("/bn")[0]
        if conv == "classifier":
            name = "fc"
        elif conv == "1/7x7_s2":
            name = "bn1" if norm else "conv1"
        else:
            stage, number, kind = conv.split("_", 2)
            place = f"layer{int(stage) - 1}.{int(number) - 1}"
            own = f"downsample.{int(norm)}" if kind == "1x1_proj" else parts[kind].replace("conv", "bn" if norm else "conv")
            name = f"{place}.{own}"
        saved[f"{name}.{parameter}"] = value
    return saved


def resnet_forward(saved: State, image: Tensor) -> Tensor:
    """Logits of an image (N, 3, 224, 224) from pytorch-mcn's state dict."""

    def norm(name: str, x: Tensor) -> Tensor:
        parts = (saved[f"{name}_bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return batch_norm(x, *parts, eps=1e-5)

    def conv(name: str, x: Tensor, **how: int) -> Tensor:
        return norm(name, conv2d(x, saved[f"{name}.weight"], **how))

    x = max_pool2d(relu(conv("conv1_7x7_s2", image, stride=2, padding=3)), 3, 2, ceil_mode=True)
    for stage, count in BLOCKS.items():
        for number in range(1, count + 1):
            block = f"conv{stage}_{number}"
            stride = 2 if number == 1 and stage > 2 else 1
            y = relu(conv(f"{block}_1x1_reduce", x, stride=stride))
            y = conv(f"{block}_1x1_increase", relu(conv(f"{block}_3x3", y, padding=1)))
            if f"{block}_1x1_down.weight" in saved:
                weigh = y.mean((2, 3), keepdim=True)
                weigh = relu(conv2d(weigh, saved[f"{block}_1x1_down.weight"], saved[f"{block}_1x1_down.bias"]))
                y = y * conv2d(weigh, saved[f"{block}_1x1_up.weight"], saved[f"{block}_1x1_up.bias"]).sigmoid()
            x = relu(y + (conv(f"{block}_1x1_proj", x, stride=stride) if number == 1 else x))
    return conv2d(avg_pool2d(x, 7), saved["classifier.weight"], saved["classifier.bias"]).flatten(1)
