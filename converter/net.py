"""CaffeNet: a Caffe net as an nn.Module, its layers its children under their own names."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from converter.program import Program
from converter.read.schema import text_of
from converter.write.facts import facts_of
from converter.write.source import write_source

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from converter.preprocess import Preprocess


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
        changes: what was asked to be other than in the files (folded layers, another input), and was done.
        program: what the net computes, as data.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        program: Program,
        input_shapes: Mapping[str, tuple[int, ...]],
        *,
        name: str = "",
        preprocess: Preprocess | None = None,
        notes: Sequence[str] = (),
        changes: Sequence[str] = (),
        message: bytes = b"",
    ):
        super().__init__()
        for key, module in modules.items():
            self.add_module(key, module)
        self.name, self.program = name, program
        self.inputs, self.outputs = tuple(program.inputs), program.outputs
        self.input_shapes = dict(input_shapes)
        self.layer_names = {step.key: step.name for step in program.steps}
        self.preprocess, self.notes, self.changes = preprocess, tuple(notes), tuple(changes)
        self._message = message
        self._calls = {self.outputs: program.needed(self.outputs)}

    @property
    def blobs(self) -> tuple[str, ...]:
        """The names that net(..., blobs=) takes."""
        return tuple(self.program.blobs)

    def forward(self, *tensors: Tensor, blobs: Sequence[str] | None = None) -> Any:
        """Run the net.

        Raises:
            TypeError: another number of tensors than of inputs.
            KeyError: a blob that the net does not have.
        """
        if len(tensors) != len(self.inputs):
            raise TypeError(f"the net takes {len(self.inputs)} tensors ({', '.join(self.inputs)}), not {len(tensors)}")
        wanted = self.outputs if blobs is None else tuple(blobs)
        calls = self._calls.get(wanted)
        if calls is None:
            calls = self._calls[wanted] = self.program.needed(wanted)
        versions = self.program.blobs
        values: dict[int, Tensor] = dict(zip(self.program.inputs.values(), tensors, strict=True))
        modules = self._modules
        for key, bottoms, tops, dead in calls:
            result = modules[key](*[values[i] for i in bottoms])  # type: ignore[misc]
            if len(tops) == 1:
                values[tops[0]] = result
            else:
                values.update(zip(tops, result, strict=True))
            for i in dead:
                del values[i]
        if blobs is None and len(wanted) == 1:
            return values[versions[wanted[0]]]
        return {name: values[versions[name]] for name in wanted}

    def to_fx(self) -> GraphModule:
        """The net as a torch.fx GraphModule with the same children and state dict; several outputs are a dict, as here."""
        from torch.fx import Graph, GraphModule

        graph = Graph()
        values = {version: graph.placeholder(f"input_{i}") for i, version in enumerate(self.program.inputs.values())}
        for key, bottoms, tops, _ in self.program.needed(self.outputs):
            result = graph.call_module(key, tuple(values[i] for i in bottoms))
            if len(tops) == 1:
                values[tops[0]] = result
            else:
                values.update({top: graph.call_function(operator.getitem, (result, i)) for i, top in enumerate(tops)})
        found = {name: values[self.program.blobs[name]] for name in self.outputs}
        graph.output(found if len(found) > 1 else next(iter(found.values())))
        return GraphModule(self, graph)

    @property
    def prototxt(self) -> str:
        """The net as a deploy prototxt in V2 form, with the phase's layers only and an Input layer in place of data layers."""
        return text_of(self._message)

    def to_source(self, path: str | os.PathLike[str]) -> None:
        """Write the net as one readable Python file that needs torch only: a module class with this net's state-dict keys, and load(),
        which reads the weights from the .safetensors file beside it. save("net.py") writes both."""
        children = dict(self.named_children())
        write_source(path, children, self.program, outputs=self.outputs, facts=self.facts(), preprocess=self.preprocess)

    def facts(self, hashes: Mapping[str, str] | None = None, ignored: Sequence[str] = ()) -> dict[str, str]:
        """What written files say of the net; `hashes`: the sha256 of its source files by name; `ignored`: fields that were ignored."""
        return facts_of(
            self.program,
            name=self.name,
            input_shapes=self.input_shapes,
            outputs=self.outputs,
            preprocess=self.preprocess,
            ignored=ignored,
            notes=self.notes,
            changes=self.changes,
            hashes=hashes,
        )

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, outputs={self.outputs}"
