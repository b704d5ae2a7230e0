"""Examples of the shapes that a message asks for: as many axes, and such a batch, as the layers around an input say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from converter.layers.registry import Shape, example_shape
from converter.read.upgrade import LayerSpec

_VOLUME, _SEQUENCES, _WORDS = (1, 3, 16, 112, 112), (10, 1, 100), (10, 1)
_OVER_VOLUMES = ("Convolution3D", "CONVOLUTION3D", "Pooling3D", "POOLING3D")


def example_shapes(names: Iterable[str], layers: Sequence[LayerSpec]) -> dict[str, Shape]:
    """An example of each shape: clips, or windows in them, where the first layer that reads the input takes those; (T, N, ...) of LSTMs."""
    return {name: _batched(name, _read(name, layers) or example_shape(name), layers) for name in names}


def _read(name: str, layers: Sequence[LayerSpec]) -> Shape | None:
    first = next((layer for layer in layers if name in layer.message.bottom), None)
    if first is None:
        return None
    if first.message.bottom[0] != name:
        return (1, 3) if first.type == "ROIPooling" and first.message.roi_pooling_param.pooled_l else None
    convolution, pooling = first.message.convolution_param, first.message.pooling_param
    shapes = (convolution.kernel_size, pooling.kernel_size, convolution.kernel_shape.dim, pooling.kernel_shape.dim)
    if first.type in _OVER_VOLUMES or any(len(shape) == 3 for shape in shapes):
        return _VOLUME
    return {"LSTM": _SEQUENCES, "RNN": _SEQUENCES, "Lstm": _SEQUENCES, "Embed": _WORDS}.get(first.type)


def _batched(name: str, shape: Shape, layers: Sequence[LayerSpec]) -> Shape:
    batch = next((stated_batch(layer) for layer in layers if name in layer.message.top), 0)
    return (batch, *shape[1:]) if batch else shape


def stated_batch(layer: LayerSpec) -> int:
    """The batch of a data layer whose other axes stand in its files; 0 where it says none."""
    return int(layer.message.hdf5_data_param.batch_size) if layer.type == "HDF5Data" else 0
