"""The prototxts that the hand-written nets stand for, written from facts: layer names, types, bottoms, sizes.

A net is a list of layers in Caffe's order; an empty list of bottoms can't occur, "data" is the input.
"""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    name: str
    type: str
    bottoms: tuple[str, ...]
    top: str
    parameters: str = ""


def prototxt(shape: tuple[int, ...], layers: list[Layer]) -> str:
    dims = " ".join(f"dim: {d}" for d in shape)
    text = [f'input: "data" input_shape {{ {dims} }}']
    for name, kind, bottoms, top, parameters in layers:
        ends = " ".join([*(f'bottom: "{b}"' for b in bottoms), f'top: "{top}"'])
        text.append(f'layer {{ name: "{name}" type: "{kind}" {ends} {parameters} }}')
    return "\n".join(text)


def conv(name: str, bottom: str, outputs: int, kernel: int, more: str = "") -> Layer:
    parameters = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} }}"
    return Layer(name, "Convolution", (bottom,), name, parameters)


def in_place(kind: str, name: str, blob: str, parameters: str = "") -> Layer:
    return Layer(name, kind, (blob,), blob, parameters)


def max_pool(name: str, bottom: str, kernel: int) -> Layer:
    return Layer(name, "Pooling", (bottom,), name, f"pooling_param {{ pool: MAX kernel_size: {kernel} stride: 2 }}")


def dense(name: str, bottom: str, outputs: int) -> Layer:
    return Layer(name, "InnerProduct", (bottom,), name, f"inner_product_param {{ num_output: {outputs} }}")


def add(name: str, *bottoms: str) -> Layer:
    return Layer(name, "Eltwise", bottoms, name, "eltwise_param { operation: SUM }")


def vgg_face() -> list[Layer]:
    layers, bottom = [], "data"
    for stage, (depth, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], 1):
        for i in range(1, depth + 1):
            layers.append(conv(f"conv{stage}_{i}", bottom, channels, 3, "pad: 1"))
            bottom = f"conv{stage}_{i}"
            layers.append(in_place("ReLU", f"relu{stage}_{i}", bottom))
        layers.append(max_pool(f"pool{stage}", bottom, 2))
        bottom = f"pool{stage}"
    for i in (6, 7):
        layers.append(dense(f"fc{i}", bottom, 4096))
        bottom = f"fc{i}"
        layers.append(in_place("ReLU", f"relu{i}", bottom))
        layers.append(in_place("Dropout", f"drop{i}", bottom, "dropout_param { dropout_ratio: 0.5 }"))
    return [*layers, dense("fc8", "fc7", 2622), Layer("prob", "Softmax", ("fc8",), "prob")]


def _residual(stage: int, first: int, bottom: str, channels: int) -> list[Layer]:
    """Convolutions number `first` and the next of a stage, each with its PReLU, and their sum with the bottom."""
    a, b = f"{stage}_{first}", f"{stage}_{first + 1}"
    return [
        conv(f"conv{a}", bottom, channels, 3, "pad: 1"),
        in_place("PReLU", f"relu{a}", f"conv{a}"),
        conv(f"conv{b}", f"conv{a}", channels, 3, "pad: 1"),
        in_place("PReLU", f"relu{b}", f"conv{b}"),
        add(f"res{b}", bottom, f"conv{b}"),
    ]


def center_loss_face() -> list[Layer]:
    layers, bottom = [], "data"
    for number, channels, pool, blocks in [
        ("1a", 32, "", 0), ("1b", 64, "pool1b", 1), ("2", 128, "pool2", 2), ("3", 256, "pool3", 5), ("4", 512, "pool4", 3)
    ]:  # fmt: skip
        layers += [conv(f"conv{number}", bottom, channels, 3), in_place("PReLU", f"relu{number}", f"conv{number}")]
        bottom = f"conv{number}"
        if pool:
            layers.append(max_pool(pool, bottom, 2))
            bottom = pool
        stage = int(number[0]) + 1
        for i in range(1, 2 * blocks, 2):
            layers += _residual(stage, i, bottom, channels)
            bottom = f"res{stage}_{i + 1}"
    return [*layers, dense("fc5", bottom, 512)]


def sphereface20() -> list[Layer]:
    layers, bottom = [], "data"
    for stage, (channels, blocks) in enumerate([(64, 1), (128, 2), (256, 4), (512, 1)], 1):
        first = f"conv{stage}_1"
        layers += [conv(first, bottom, channels, 3, "pad: 1 stride: 2"), in_place("PReLU", f"relu{stage}_1", first)]
        bottom = first
        for i in range(2, 2 * blocks + 1, 2):
            layers += _residual(stage, i, bottom, channels)
            bottom = f"res{stage}_{i + 1}"
    return [*layers, dense("fc5", bottom, 512)]


def _normalized(blob: str, bottom: str, eps: float) -> list[Layer]:
    return [
        Layer(blob, "BatchNorm", (bottom,), blob, f"batch_norm_param {{ use_global_stats: true eps: {eps} }}"),
        in_place("Scale", f"{blob}_scale", blob, "scale_param { bias_term: true }"),
    ]


def _unit(name: str, bottom: str, outputs: int, kernel: int, more: str = "", linear: bool = False) -> list[Layer]:
    layers = [
        conv(f"{name}_conv2d", bottom, outputs, kernel, f"bias_term: false {more}"),
        *_normalized(f"{name}_batchnorm", f"{name}_conv2d", 0.001),
    ]
    if not linear:
        layers.append(Layer(f"{name}_relu", "PReLU", (f"{name}_batchnorm",), f"{name}_relu"))
    return layers


def _bottleneck(name: str, bottom: str, inner: int, outputs: int, stride: int) -> list[Layer]:
    return [
        *_unit(f"{name}_conv_sep", bottom, inner, 1),
        *_unit(f"{name}_conv_dw", f"{name}_conv_sep_relu", inner, 3, f"pad: 1 group: {inner} stride: {stride}"),
        *_unit(f"{name}_conv_proj", f"{name}_conv_dw_relu", outputs, 1, linear=True),
    ]


def mobilefacenet() -> list[Layer]:
    layers = [
        *_unit("conv_1", "data", 64, 3, "pad: 1 stride: 2"),
        *_unit("conv_2_dw", "conv_1_relu", 64, 3, "pad: 1 group: 64"),
    ]
    bottom, sums = "conv_2_dw_relu", 0
    for stage, inner, outputs, blocks, inner_of_blocks in [(3, 128, 64, 4, 128), (4, 256, 128, 6, 256), (5, 512, 128, 2, 256)]:
        down = f"dconv_{stage - 1}{stage}"
        layers += _bottleneck(down, bottom, inner, outputs, 2)
        bottom = f"{down}_conv_proj_batchnorm"
        for i in range(blocks):
            block = f"res_{stage}_block{i}"
            layers += _bottleneck(block, bottom, inner_of_blocks, outputs, 1)
            layers.append(add(f"_plus{sums}", f"{block}_conv_proj_batchnorm", bottom))
            bottom = f"_plus{sums}"
            sums += 1
    return [
        *layers,
        *_unit("conv_6sep", bottom, 512, 1),
        *_normalized("bn6f", "conv_6sep_relu", 2e-5),
        Layer("pooling0", "Pooling", ("bn6f",), "pooling0", "pooling_param { pool: AVE kernel_size: 7 }"),
        *_normalized("bn6w", "pooling0", 2e-5),
        dense("pre_fc1", "bn6w", 128),
        *_normalized("fc1", "pre_fc1", 2e-5),
    ]


def mobile_face_expression() -> list[Layer]:
    """MobileFaceNet up to bn6f, and the means of three blobs under one classifier."""
    below = mobilefacenet()
    below = below[: next(i for i, layer in enumerate(below) if layer.name == "pooling0")]
    taps = ("_plus9", "_plus11", "bn6f")
    means = [
        Layer(f"pool{i}", "Pooling", (tap,), f"pool{i}", "pooling_param { pool: AVE global_pooling: true }")
        for i, tap in enumerate(taps, 1)
    ]  # fmt: skip
    return [
        *below,
        *means,
        Layer("features", "Concat", tuple(layer.top for layer in means), "features"),
        *_normalized("features_batchnorm", "features", 1e-5),
        in_place("Dropout", "dropout", "features_batchnorm", "dropout_param { dropout_ratio: 0.2 }"),
        dense("classifier", "features_batchnorm", 7),
        Layer("prob", "Softmax", ("classifier",), "prob"),
    ]


def _mean_classified(bottom: str, dropout: float) -> list[Layer]:
    return [
        Layer("features", "Pooling", (bottom,), "features", "pooling_param { pool: AVE global_pooling: true }"),
        in_place("Dropout", "dropout", "features", f"dropout_param {{ dropout_ratio: {dropout} }}"),
        dense("classifier", "features", 7),
        Layer("prob", "Softmax", ("classifier",), "prob"),
    ]


def _normalized_conv(names: tuple[str, str, str], bottom: str, outputs: int, kernel: int, more: str = "") -> list[Layer]:
    """A convolution, BatchNorm and Scale of these names, the latter two with one blob of their own."""
    name, norm, scale = names
    return [
        conv(name, bottom, outputs, kernel, f"bias_term: false {more}"),
        Layer(norm, "BatchNorm", (name,), norm, "batch_norm_param { use_global_stats: true eps: 1e-5 }"),
        in_place("Scale", scale, norm, "scale_param { bias_term: true }"),
    ]


def small_vgg() -> list[Layer]:
    layers, bottom = [], "data"
    for stage, outputs in enumerate([32, 64, 160, 320], 1):
        for place in (1, 2):
            number = f"{stage}_{place}"
            layers += _normalized_conv((f"conv{number}", f"bn{number}", f"scale{number}"), bottom, outputs, 3, "pad: 1")
            bottom = f"relu{number}"
            layers.append(Layer(bottom, "ReLU", (f"bn{number}",), bottom))
        if stage < 4:
            layers.append(max_pool(f"pool{stage}", bottom, 2))
            bottom = f"pool{stage}"
    return [*layers, *_mean_classified(bottom, 0.3)]


def small_resnet() -> list[Layer]:
    """Blobs end as torchvision's BasicBlock does: ReLU after the first BatchNorm and after the sum."""
    layers = [*_normalized_conv(("conv1", "bn1", "scale1"), "data", 64, 3, "pad: 1"), Layer("relu1", "ReLU", ("bn1",), "relu1")]
    bottom = "relu1"
    for stage, outputs in enumerate([64, 128, 256, 512], 1):
        for block in (0, 1):
            name, step = f"layer{stage}_{block}", "stride: 2" if stage > 1 and block == 0 else ""
            one, two = ((f"{name}_conv{i}", f"{name}_bn{i}", f"{name}_scale{i}") for i in (1, 2))
            layers += _normalized_conv(one, bottom, outputs, 3, f"pad: 1 {step}")
            layers.append(Layer(f"{name}_relu1", "ReLU", (f"{name}_bn1",), f"{name}_relu1"))
            layers += _normalized_conv(two, f"{name}_relu1", outputs, 3, "pad: 1")
            if step:
                shortcut = (f"{name}_shortcut_conv", f"{name}_shortcut_bn", f"{name}_shortcut_scale")
                layers += _normalized_conv(shortcut, bottom, outputs, 1, step)
                bottom = f"{name}_shortcut_bn"
            layers += [add(name, f"{name}_bn2", bottom), in_place("ReLU", f"{name}_relu2", name)]
            bottom = name
    return [*layers, *_mean_classified(bottom, 0.2)]


def face_resnet() -> list[Layer]:
    """center_loss_face()'s stages: BatchNorm and ReLU after the convolutions outside of the blocks, ReLU in the blocks."""
    layers, bottom = [], "data"
    for stage, (place, outputs, pool, blocks) in enumerate(
        [("1_a", 32, "", 0), ("1_b", 64, "pool1b", 1), ("2", 128, "pool2", 2), ("3", 256, "pool3", 5), ("4", 512, "pool4", 3)]
    ):
        layers += [
            conv(f"conv{place}", bottom, outputs, 3),
            *_normalized(f"bn{place}", f"conv{place}", 1e-5)[:1],
            in_place("Scale", f"scale{place}", f"bn{place}", "scale_param { bias_term: true }"),
            Layer(f"relu{place}", "ReLU", (f"bn{place}",), f"relu{place}"),
        ]
        bottom = f"relu{place}"
        if stage == 0:
            layers.append(in_place("Dropout", "dropout1_a", bottom, "dropout_param { dropout_ratio: 0.4 }"))
        if pool:
            layers.append(max_pool(pool, bottom, 2))
            bottom = pool
        for block in range(blocks):
            name = f"layer{stage}_{block}"
            layers += [
                conv(f"{name}_conv1", bottom, outputs, 3, "pad: 1"),
                Layer(f"{name}_relu1", "ReLU", (f"{name}_conv1",), f"{name}_relu1"),
                conv(f"{name}_conv2", f"{name}_relu1", outputs, 3, "pad: 1"),
                Layer(f"{name}_relu2", "ReLU", (f"{name}_conv2",), f"{name}_relu2"),
                add(name, bottom, f"{name}_relu2"),
            ]
            bottom = name
    return [*layers, dense("fc5_new", bottom, 512), dense("fc8_final", "fc5_new", 7), Layer("prob", "Softmax", ("fc8_final",), "prob")]


def squeezenet() -> list[Layer]:
    layers = [conv("conv1", "data", 64, 3, "stride: 2"), in_place("ReLU", "relu_conv1", "conv1"), max_pool("pool1", "conv1", 3)]
    bottom = "pool1"
    for number, (squeeze, expand) in enumerate([(16, 64)] * 2 + [(32, 128)] * 2 + [(48, 192)] * 2 + [(64, 256)] * 2, 2):
        fire = f"fire{number}"
        for name, source, outputs, kernel, more in [
            ("squeeze1x1", bottom, squeeze, 1, ""),
            ("expand1x1", f"{fire}/squeeze1x1", expand, 1, ""),
            ("expand3x3", f"{fire}/squeeze1x1", expand, 3, "pad: 1"),
        ]:
            layers.append(conv(f"{fire}/{name}", source, outputs, kernel, more))
            layers.append(in_place("ReLU", f"{fire}/relu_{name}", f"{fire}/{name}"))
        bottom = f"{fire}/concat"
        layers.append(Layer(bottom, "Concat", (f"{fire}/expand1x1", f"{fire}/expand3x3"), bottom))
        if number in (3, 5):
            layers.append(max_pool(f"pool{number}", bottom, 3))
            bottom = f"pool{number}"
    return [
        *layers,
        in_place("Dropout", "drop9", bottom, "dropout_param { dropout_ratio: 0.5 }"),
        conv("conv10", bottom, 1000, 1),
        in_place("ReLU", "relu_conv10", "conv10"),
        Layer("pool10", "Pooling", ("conv10",), "pool10", "pooling_param { pool: AVE global_pooling: true }"),
        Layer("prob", "Softmax", ("pool10",), "prob"),
    ]


def pnet() -> list[Layer]:
    return [
        conv("conv1", "data", 10, 3), in_place("PReLU", "PReLU1", "conv1"), max_pool("pool1", "conv1", 2),
        conv("conv2", "pool1", 16, 3), in_place("PReLU", "PReLU2", "conv2"),
        conv("conv3", "conv2", 32, 3), in_place("PReLU", "PReLU3", "conv3"),
        conv("conv4-1", "conv3", 2, 1), conv("conv4-2", "conv3", 4, 1),
        Layer("prob1", "Softmax", ("conv4-1",), "prob1"),
    ]  # fmt: skip


def rnet() -> list[Layer]:
    return [
        conv("conv1", "data", 28, 3), in_place("PReLU", "prelu1", "conv1"), max_pool("pool1", "conv1", 3),
        conv("conv2", "pool1", 48, 3), in_place("PReLU", "prelu2", "conv2"), max_pool("pool2", "conv2", 3),
        conv("conv3", "pool2", 64, 2), in_place("PReLU", "prelu3", "conv3"),
        dense("conv4", "conv3", 128), in_place("PReLU", "prelu4", "conv4"),
        dense("conv5-1", "conv4", 2), dense("conv5-2", "conv4", 4),
        Layer("prob1", "Softmax", ("conv5-1",), "prob1"),
    ]  # fmt: skip


def onet() -> list[Layer]:
    return [
        conv("conv1", "data", 32, 3), in_place("PReLU", "prelu1", "conv1"), max_pool("pool1", "conv1", 3),
        conv("conv2", "pool1", 64, 3), in_place("PReLU", "prelu2", "conv2"), max_pool("pool2", "conv2", 3),
        conv("conv3", "pool2", 64, 3), in_place("PReLU", "prelu3", "conv3"), max_pool("pool3", "conv3", 2),
        conv("conv4", "pool3", 128, 2), in_place("PReLU", "prelu4", "conv4"),
        dense("conv5", "conv4", 256),
        in_place("Dropout", "drop5", "conv5", "dropout_param { dropout_ratio: 0.25 }"),
        in_place("PReLU", "prelu5", "conv5"),
        dense("conv6-1", "conv5", 2), dense("conv6-2", "conv5", 4), dense("conv6-3", "conv5", 10),
        Layer("prob1", "Softmax", ("conv6-1",), "prob1"),
    ]  # fmt: skip
