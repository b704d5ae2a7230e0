"""Old nets made new: V0 and V1 layers become V2 layers, `input` fields an Input layer, as Caffe's upgrade_proto.cpp does it.

Caffe's order: V0 padding layers, V0 to V1, data transformations, V1 to V2, then `input` fields. A file that mixes
`layer` and `layers` keeps all of them here, in document order (Caffe drops the `layer` ones and logs an error).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from converter.errors import GraphError, shown
from converter.read.schema import is_repeated, message_class
from converter.read.text import Document, LayerText, Unknown
from converter.read.v1_types import V1_FORK_TYPES, V1_TYPE_NUMBERS

# V0LayerParameter.type -> LayerParameter.type; "padding" layers disappear into the layer that reads them
V0_TYPES = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}

# V0 field -> {V0 type: "message.field"}; "*" stands for every type
V0_FIELDS: dict[str, dict[str, str]] = {
    "num_output": {"conv": "convolution_param.num_output", "innerproduct": "inner_product_param.num_output"},
    "biasterm": {"conv": "convolution_param.bias_term", "innerproduct": "inner_product_param.bias_term"},
    "weight_filler": {"conv": "convolution_param.weight_filler", "innerproduct": "inner_product_param.weight_filler"},
    "bias_filler": {"conv": "convolution_param.bias_filler", "innerproduct": "inner_product_param.bias_filler"},
    "pad": {"conv": "convolution_param.pad", "pool": "pooling_param.pad"},
    "kernelsize": {"conv": "convolution_param.kernel_size", "pool": "pooling_param.kernel_size"},
    "group": {"conv": "convolution_param.group"},
    "stride": {"conv": "convolution_param.stride", "pool": "pooling_param.stride"},
    "pool": {"pool": "pooling_param.pool"},
    "dropout_ratio": {"dropout": "dropout_param.dropout_ratio"},
    "local_size": {"lrn": "lrn_param.local_size"},
    "alpha": {"lrn": "lrn_param.alpha"},
    "beta": {"lrn": "lrn_param.beta"},
    "k": {"lrn": "lrn_param.k"},
    "source": {
        "data": "data_param.source",
        "hdf5_data": "hdf5_data_param.source",
        "images": "image_data_param.source",
        "window_data": "window_data_param.source",
        "infogain_loss": "infogain_loss_param.source",
    },
    "scale": {"*": "transform_param.scale"},
    "meanfile": {"*": "transform_param.mean_file"},
    "batchsize": {
        "data": "data_param.batch_size",
        "hdf5_data": "hdf5_data_param.batch_size",
        "images": "image_data_param.batch_size",
        "window_data": "window_data_param.batch_size",
    },
    "cropsize": {"*": "transform_param.crop_size"},
    "mirror": {"*": "transform_param.mirror"},
    "rand_skip": {"data": "data_param.rand_skip", "images": "image_data_param.rand_skip"},
    "shuffle_images": {"images": "image_data_param.shuffle"},
    "new_height": {"images": "image_data_param.new_height"},
    "new_width": {"images": "image_data_param.new_width"},
    "concat_dim": {"concat": "concat_param.concat_dim"},
    "det_fg_threshold": {"window_data": "window_data_param.fg_threshold"},
    "det_bg_threshold": {"window_data": "window_data_param.bg_threshold"},
    "det_fg_fraction": {"window_data": "window_data_param.fg_fraction"},
    "det_context_pad": {"window_data": "window_data_param.context_pad"},
    "det_crop_mode": {"window_data": "window_data_param.crop_mode"},
    "hdf5_output_param": {"hdf5_output": "hdf5_output_param"},
}
_PADDING = "V0 padding"
_V0_COPIED = {"name", "type", "blobs", "blobs_lr", "weight_decay"}
_V1_MOVED = {"name", "type", "layer", "param", "blob_share_mode", "blobs_lr", "weight_decay"}


@dataclass
class LayerSpec:
    """One layer in V2 form, with its place in the file."""

    message: Any = field(repr=False)  # LayerParameter
    line: int | None
    unknown: list[Unknown] = field(default_factory=list)

    @property
    def name(self) -> str:
        result: str = self.message.name
        return result

    @property
    def type(self) -> str:
        result: str = self.message.type
        return result

    def __str__(self) -> str:
        at = f" (line {self.line})" if self.line else ""
        return f"layer {shown(self.name)} of type {shown(self.type)}{at}"


@dataclass
class NetSpec:
    """A whole net in V2 form, every phase still in it."""

    name: str
    where: str
    state: Any  # NetState
    layers: list[LayerSpec]
    unknown: list[Unknown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the upgrade left out, as Caffe does
    form: str = "V2"  # the age of the file's layers: "V2", "V1", "V0", "V1 and V2"


def upgrade(document: Document, where: str) -> NetSpec:
    """The V2 form of a parsed NetParameter.

    Raises:
        GraphError: a padding layer that feeds something other than a convolution or pooling.
    """
    net = document.message
    spec = NetSpec(net.name, where, net.state, [], list(document.unknown))
    held = {kind: list(getattr(net, kind)) for kind in ("layer", "layers")}
    forms = set()
    for place in document.layers:
        old = held[place.kind][place.index]
        forms.add("V2" if place.kind == "layer" else "V0" if old.HasField("layer") else "V1")
        if place.kind == "layer":
            spec.layers.append(LayerSpec(old, place.line, place.unknown))
            if old.type == "SimpleCrop" and old.crop_param.blob_name and len(old.bottom) == 1:
                old.bottom.append(old.crop_param.blob_name)  # the blob whose size it takes
        elif old.HasField("layer"):
            spec.layers.append(_from_v0(old, place, spec))
        else:
            spec.layers.append(_from_v1(old, place))
    spec.form = " and ".join(sorted(forms))
    _merge_padding(spec)
    _settle_forks(spec)
    held_by_layers = {top for layer in spec.layers if layer.type == "Input" for top in layer.message.top}
    if net.input and not net.input_dim and not net.input_shape and held_by_layers.issuperset(net.input):
        spec.notes.append(f"`input` without a shape: the Input layers for {', '.join(map(shown, net.input))} count, as in Caffe")
    elif net.input:
        spec.layers.insert(0, _input_layer(net, where))
    return spec


# happynear/caffe-windows alone has these
_HAPPYNEAR = {"GeneralContrastiveLoss", "GeneralTripletLoss", "InnerDistance", "LabelSpecificAdd"}


def _settle_forks(spec: NetSpec) -> None:
    """What a layer means where forks differ and another layer of the net tells whose it is."""
    _settle_normalize(spec)
    _settle_pooling(spec)


def _settle_pooling(spec: NetSpec) -> None:
    """Intel's pooling_layer.cpp clips the last window of a kernel of 1, as if there were a pad; BVLC's would be empty."""
    intel = next((layer for layer in spec.layers if any(u.path[0] == "quantization_param" for u in layer.unknown)), None)
    for layer in spec.layers if intel is not None else ():
        pool = layer.message.pooling_param
        sides = {*pool.kernel_size, *([pool.kernel_h, pool.kernel_w] if pool.kernel_h or pool.kernel_w else [])}
        if layer.type == "Pooling" and sides == {1} and not (any(pool.pad) or pool.pad_h or pool.pad_w or pool.HasField("round_mode")):
            pool.round_mode = pool.DESCRIPTOR.fields_by_name["round_mode"].enum_type.values_by_name["FLOOR"].number
            spec.notes.append(f"{layer} has as many windows as in Intel's fork, as {intel} is Intel's")


def _settle_normalize(spec: NetSpec) -> None:
    """A Normalize without parameters is SSD's or happynear's."""
    if all(layer.type != "Normalize" for layer in spec.layers):
        return
    sign = next((layer for layer in spec.layers if layer.type in _HAPPYNEAR or layer.message.inner_product_param.normalize), None)
    for layer in spec.layers if sign is not None else ():
        if layer.type == "Normalize" and not any(layer.message.HasField(f"{name}_param") for name in ("norm", "normalize", "softmax")):
            layer.message.normalize_param.normalize_type = "L2"
            spec.notes.append(f"{layer} is that of happynear's fork, without a weight, as {sign} is")


def _input_layer(net: Any, where: str) -> LayerSpec:
    new = LayerSpec(message_class("LayerParameter")(name="input", type="Input", top=list(net.input)), None)
    shapes = [list(shape.dim) for shape in net.input_shape]
    if net.input_dim:
        axes = 5 if len(net.input) == 1 and len(net.input_dim) == 5 else 4  # five in C3D, which reads a second input at the wrong place
        if shapes or len(net.input_dim) != axes * len(net.input):
            raise GraphError(
                f"{where}: {len(net.input)} `input` and {len(net.input_dim)} `input_dim`"
                f"{' beside `input_shape`' if shapes else ''}: every input takes four input_dim (C3D's only one five), or one input_shape."
            )
        shapes = [list(net.input_dim[i : i + axes]) for i in range(0, len(net.input_dim), axes)]
    for dims in shapes:
        new.message.input_param.shape.add(dim=dims)
    return new


def _set(message: Any, path: str, value: Any) -> None:
    """Set, append to or copy into the field at "message.field"."""
    *outer, last = path.split(".")
    for name in outer:
        message = getattr(message, name)
    known = message.DESCRIPTOR.fields_by_name[last]
    if known.message_type is not None:
        getattr(message, last).CopyFrom(value)
    elif is_repeated(known):
        getattr(message, last).append(value)
    else:
        setattr(message, last, value)


def _from_v0(connection: Any, place: LayerText, spec: NetSpec) -> LayerSpec:
    old = connection.layer
    layer = message_class("LayerParameter")(name=old.name, bottom=list(connection.bottom), top=list(connection.top))
    layer.type = V0_TYPES.get(old.type, f"V0 {old.type}")  # a name of today has no V0 fields: it must not pass for that type
    layer.blobs.extend(old.blobs)
    for known, value in old.ListFields():
        if known.name in _V0_COPIED:
            continue
        targets = V0_FIELDS.get(known.name, {})
        target = targets.get(old.type) or targets.get("*")
        if layer.type == _PADDING and known.name == "pad":
            layer.convolution_param.pad.append(value)
        elif target is None:
            spec.notes.append(f"layer {old.name!r}: the V0 field {known.name} has no meaning for type {old.type!r}; ignored, as Caffe does")
        else:
            _set(layer, target, value)
    _params(layer, (), (), old.blobs_lr, old.weight_decay)
    unknown = [Unknown(u.path[1:] if u.path[0] == "layer" else u.path, u.line, u.value) for u in place.unknown]
    return LayerSpec(layer, place.line, [u for u in unknown if u.path])


def _from_v1(old: Any, place: LayerText) -> LayerSpec:
    layer = message_class("LayerParameter")(name=old.name)
    unknown = list(place.unknown)
    strange = next((u for u in unknown if u.path == ("type",)), None)
    if strange:  # a fork's enum value: a type that we know by another name, or one to be refused by its own where the layer is kept
        layer.type = V1_FORK_TYPES.get(str(strange.value), strange.value)
        unknown.remove(strange)
    else:
        layer.type = V1_TYPE_NUMBERS[old.type]
    for known, value in old.ListFields():
        if known.name in _V1_MOVED:
            continue
        if is_repeated(known):
            getattr(layer, known.name).extend(value)
        else:
            getattr(layer, known.name).CopyFrom(value)
    _params(layer, old.param, old.blob_share_mode, old.blobs_lr, old.weight_decay)
    data = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}.get(layer.type)
    for name in ("scale", "mean_file", "crop_size", "mirror"):
        if data and getattr(layer, data).HasField(name):
            setattr(layer.transform_param, name, getattr(getattr(layer, data), name))
    return LayerSpec(layer, place.line, unknown)


def _params(layer: Any, names: Any, modes: Any, rates: Any, decays: Any) -> None:
    """V1's parallel lists become one ParamSpec a blob."""
    for i in range(max(len(names), len(modes), len(rates), len(decays))):
        spec = layer.param.add()
        if i < len(names):
            spec.name = names[i]
        if i < len(modes):
            spec.share_mode = modes[i]
        if i < len(rates):
            spec.lr_mult = rates[i]
        if i < len(decays):
            spec.decay_mult = decays[i]


def _merge_padding(spec: NetSpec) -> None:
    """V0 padding layers become the `pad` of the convolution or pooling that reads them."""
    if not any(layer.type == _PADDING for layer in spec.layers):
        return
    kept: list[LayerSpec] = []
    source: dict[str, LayerSpec] = {}
    for layer in spec.layers:
        for i, bottom in enumerate(layer.message.bottom):
            padding = source.get(bottom)
            if padding is None or padding.type != _PADDING:
                continue
            reader = {"Convolution": "convolution_param", "Pooling": "pooling_param"}.get(layer.type)
            if reader is None or len(layer.message.bottom) != 1 or len(padding.message.bottom) != 1 or len(padding.message.top) != 1:
                raise GraphError(f"{spec.where}: the V0 padding {padding} feeds {layer}; Caffe allows one convolution or pooling.")
            pads = list(padding.message.convolution_param.pad) or [0]
            getattr(layer.message, reader).ClearField("pad")
            _set(layer.message, f"{reader}.pad", pads[-1])
            layer.message.bottom[i] = padding.message.bottom[0]
            layer.unknown += padding.unknown
        if layer.type != _PADDING:
            kept.append(layer)
        source.update(dict.fromkeys(layer.message.top, layer))
    spec.layers = kept
