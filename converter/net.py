"""CaffeNet: a Caffe net as an nn.Module, its layers its children under their own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from converter.preprocess import Preprocess


@dataclass(frozen=True)
class StoredLayer:
    """What a caffemodel holds of a layer, for save_caffemodel(): plain data and functions, as a net may be pickled or copied."""

    key: str
    name: str
    type: str
    state: Mapping[str, tuple[int, ...]]  # the shapes of the module's own state dict
    keys: tuple[str, ...]  # of the state dict, for each blob in Caffe's order
    shapes: tuple[tuple[int, ...], ...]  # of the blobs
    shared: tuple[str, ...]  # the param name of each blob, "" where it has none
    constants: tuple[float | None, ...]  # what Caffe's filler sets each blob to, None where it draws
    again: bool  # an earlier layer has the same name: Caffe never loads this one
    load: Callable[[list[Tensor]], dict[str, Tensor]] | None = None
    save: Callable[[dict[str, Tensor]], list[Tensor]] | None = None


# A step of a program: module name, bottoms, tops, and the blob versions that nobody reads afterwards.
_Program = list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


class CaffeNet(nn.Module):
    """A converted net. net(*tensors) takes one tensor for each of net.inputs.

    Returns the one output, or a dict of all outputs by blob name; net(*tensors, blobs=("fc7",)) a dict of the named blobs
    as Caffe's users know them: after the in-place layers. Layers that the asked-for blobs do not need are not run, and an
    activation is freed at its last use. A layer can be replaced by assigning a module to its name.

    Attributes:
        inputs, outputs: blob names in prototxt order. Names assigned to outputs are those of the blobs that net(...) returns.
        input_shapes: the shapes that the prototxt states; any batch size runs, and any image size where the layers allow.
        layer_names: Caffe's layer name for each child's name ('.', quotes and control characters become '_', a taken name
            or a keyword gets a trailing '_').
        preprocess: what the prototxt's transform_param says of the images, net.preprocess(image); or None.
        notes: what was ignored in the files, and why.

    Steps read and write numbered versions of blobs; `versions` has the blob's name for each, the last one is the blob.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        steps: Sequence[tuple[str, Sequence[int], Sequence[int]]],
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Sequence[str],
        versions: Sequence[str],
        *,
        input_versions: Sequence[int] | None = None,
        name: str = "",
        layer_names: Mapping[str, str] | None = None,
        preprocess: Preprocess | None = None,
        notes: Sequence[str] = (),
        stored: Sequence[StoredLayer] = (),
        message: bytes = b"",
    ):
        super().__init__()
        for key, module in modules.items():
            self.add_module(key, module)
        self.name = name
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.input_shapes = dict(inputs)
        self.layer_names = dict(layer_names or {key: key for key in modules})
        self.preprocess, self.notes = preprocess, tuple(notes)
        self._stored, self._message = tuple(stored), message
        self._steps = [(key, tuple(bottoms), tuple(tops)) for key, bottoms, tops in steps]
        self._versions = tuple(versions)
        self._blobs = {blob: i for i, blob in enumerate(versions) if blob}
        self._input_versions = tuple(range(len(inputs)) if input_versions is None else input_versions)
        self._programs: dict[tuple[str, ...], _Program] = {}
        self._programs[self.outputs] = self._program(self.outputs)

    @property
    def blobs(self) -> tuple[str, ...]:
        """The names that net(..., blobs=) takes."""
        return tuple(self._blobs)

    def _program(self, wanted: tuple[str, ...]) -> _Program:
        """The steps that the wanted blobs need, each with what can be freed behind it."""
        unknown = [name for name in wanted if name not in self._blobs]
        if unknown:
            raise KeyError(f"the net has no blob {', '.join(map(repr, unknown))}; it has {', '.join(self._blobs)}")
        needed = {self._blobs[name] for name in wanted}
        kept, last_read = [], set(needed)
        for key, bottoms, tops in reversed(self._steps):
            if not needed.intersection(tops):
                continue
            needed.update(bottoms)
            dead = {i for i in (*bottoms, *tops) if i not in last_read}
            last_read.update(bottoms)
            kept.append((key, bottoms, tops, tuple(sorted(dead))))
        return kept[::-1]

    def forward(self, *tensors: Tensor, blobs: Sequence[str] | None = None) -> Any:
        """Run the net.

        Raises:
            TypeError: another number of tensors than of inputs.
            KeyError: a blob that the net does not have.
        """
        if len(tensors) != len(self.inputs):
            raise TypeError(f"the net takes {len(self.inputs)} tensors ({', '.join(self.inputs)}), not {len(tensors)}")
        wanted = self.outputs if blobs is None else tuple(blobs)
        program = self._programs.get(wanted)
        if program is None:
            program = self._programs[wanted] = self._program(wanted)
        values: dict[int, Tensor] = dict(zip(self._input_versions, tensors, strict=True))
        modules = self._modules
        for key, bottoms, tops, dead in program:
            result = modules[key](*[values[i] for i in bottoms])  # type: ignore[misc]
            if len(tops) == 1:
                values[tops[0]] = result
            else:
                values.update(zip(tops, result, strict=True))
            for i in dead:
                del values[i]
        if blobs is None and len(wanted) == 1:
            return values[self._blobs[wanted[0]]]
        return {name: values[self._blobs[name]] for name in wanted}

    def to_fx(self) -> GraphModule:
        """The net as a torch.fx GraphModule with the same children and state dict; several outputs are a dict, as here."""
        from torch.fx import Graph, GraphModule

        graph = Graph()
        program = self._program(self.outputs)
        values = {version: graph.placeholder(f"input_{i}") for i, version in enumerate(self._input_versions)}
        for key, bottoms, tops, _ in program:
            result = graph.call_module(key, tuple(values[i] for i in bottoms))
            if len(tops) == 1:
                values[tops[0]] = result
            else:
                import operator

                values.update({top: graph.call_function(operator.getitem, (result, i)) for i, top in enumerate(tops)})
        found = {name: values[self._blobs[name]] for name in self.outputs}
        graph.output(found if len(found) > 1 else next(iter(found.values())))
        return GraphModule(self, graph)

    @property
    def prototxt(self) -> str:
        """The net as a deploy prototxt in V2 form, with the phase's layers only and an Input layer in place of data layers."""
        from converter.build.deploy import text_of

        return text_of(self._message)

    def to_source(self, path: Any) -> None:
        """Write the net as one readable Python file: a module class with this net's state-dict keys."""
        from converter.write.source import write_source

        write_source(self, path)

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}"
