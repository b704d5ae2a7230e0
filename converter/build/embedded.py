"""The net inside a caffemodel: what Caffe wrote beside the weights, as a NetSpec.

A binary net carries field numbers only, and forks use one number for different messages. A layer that carries a
message which is not its type's own is therefore a clash, and an error: the prototxt, which has names, decides.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from converter.errors import UnsupportedError, WeightsError
from converter.layers.registry import find_type
from converter.read.caffemodel import Weights
from converter.read.schema import is_repeated, parse_binary
from converter.read.text import Document, LayerText, Unknown
from converter.read.upgrade import NetSpec, upgrade


def embedded_spec(weights: Weights) -> NetSpec:
    """The V2 form of the net in a caffemodel.

    Raises:
        WeightsError: there is none, or it does not decode.
        UnsupportedError: field numbers whose meaning depends on the fork that wrote the file.
    """
    where = str(weights.path)
    if weights.net is None:
        raise WeightsError(f"{where}: an HDF5 snapshot holds no net; give the prototxt, too.")
    if any(blob.legacy and len(blob.shape) == 5 for layer in weights.layers for blob in layer.blobs):
        raise UnsupportedError(
            f"{where}: C3D wrote this file, with numbers of layer types and fields that are others in Caffe. Give the prototxt, which has"
            " names: convert-caffe deploy.prototxt net.caffemodel."
        )
    net = parse_binary("NetParameter", weights.net, where)
    _read_strings(net)
    places = [LayerText("layers", i, 0, _unknown(layer)) for i, layer in enumerate(net.layers)]
    places += [LayerText("layer", i, 0, _unknown(layer)) for i, layer in enumerate(net.layer)]
    if not any(layer.top for layer in (*net.layer, *net.layers)):
        raise WeightsError(f"{where}: this caffemodel holds weights only, its layers are not connected; give the prototxt, too.")
    spec = upgrade(Document(net, places, _unknown(net)), where)
    for layer in spec.layers:
        carried = [f.name for f, _ in layer.message.ListFields() if f.name.endswith("_param") and f.message_type is not None]
        carried = [name for name in carried if name not in ("transform_param", "loss_param")]
        if not carried or layer.type == "":
            continue
        kind = find_type(layer)
        if kind is None:
            continue  # dropped, or refused in a moment
        own = kind.message
        strange = [name for name in carried if name != own]
        if strange and own not in carried:
            raise UnsupportedError(
                f"{where}: {layer} carries the field {strange[0]}, which is not its own; a Caffe fork gave that number another"
                " meaning. Give the prototxt, which has names: convert-caffe deploy.prototxt net.caffemodel."
            )
    return spec


def _read_strings(message: Any) -> None:
    """Strings that are not UTF-8, which protobuf leaves as bytes, become what prototxt.py makes of them."""
    for known, value in message.ListFields():
        if known.message_type is not None:
            for each in value if is_repeated(known) else [value]:
                _read_strings(each)
        elif is_repeated(known):
            for i, each in enumerate(value if known.type == known.TYPE_STRING else ()):
                if isinstance(each, bytes):
                    value[i] = each.decode("latin-1")
        elif known.type == known.TYPE_STRING and isinstance(value, bytes):
            setattr(message, known.name, value.decode("latin-1"))


def _unknown(layer: Any) -> list[Unknown]:
    """Field numbers that caffe.proto does not have, in the layer and one message down."""
    fields: Any = UnknownFieldSet
    found = [Unknown((f"field {f.field_number}",), 0, "") for f in fields(layer)]
    for known, value in layer.ListFields():
        if known.message_type is not None and not is_repeated(known):
            found += [Unknown((known.name, f"field {f.field_number}"), 0, "") for f in fields(value)]
    return found
