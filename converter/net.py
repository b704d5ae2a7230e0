"""CaffeNet: a Caffe net as an nn.Module, its layers its children under their own names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from converter.errors import counted
from converter.memory import check_activations, peak
from converter.program import Program
from converter.read.schema import text_of
from converter.write.facts import facts_of
from converter.write.fx import graph_module
from converter.write.source import write_source

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from converter.preprocess import Preprocess


UNCHECKED = 256 << 20  # bytes of activations that any machine has


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
        sources: the files that it was made of, each with its size and time when it was read; save() writes their hashes.
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
        sizes: Sequence[int] = (),
        phase: str = "TEST",
    ):
        super().__init__()
        for key, module in modules.items():
            self.add_module(key, module)
        self.name, self.program = name, program
        self.inputs, self.outputs = tuple(program.inputs), program.outputs
        self.input_shapes = dict(input_shapes)
        self.layer_names = {step.key: step.name for step in program.steps}
        self.preprocess, self.notes, self.changes = preprocess, tuple(notes), tuple(changes)
        self.sources: tuple[tuple[Path, tuple[int, int]], ...] = ()
        self._message, self._phase = message, phase
        self._calls = {self.outputs: program.needed(self.outputs)}
        self._sizes = tuple(sizes)  # how many values each version of a blob has at the stated shapes; unknown where it is empty
        self._peaks: dict[tuple[str, ...], int] = {}

    @property
    def blobs(self) -> tuple[str, ...]:
        """The names that net(..., blobs=) takes."""
        return tuple(self.program.blobs)

    def forward(self, *tensors: Tensor, blobs: Sequence[str] | None = None) -> Any:
        """Run the net.

        Raises:
            TypeError: another number of tensors than of inputs.
            KeyError: a blob that the net does not have.
            MemoryShortError: the activations need more memory than there is; nothing has been computed.
        """
        if len(tensors) != len(self.inputs):
            raise TypeError(f"the net takes {counted(len(self.inputs), 'tensor')} ({', '.join(self.inputs)}), not {len(tensors)}")
        wanted = self.outputs if blobs is None else tuple(blobs)
        calls = self._calls.get(wanted)
        if calls is None:
            calls = self._calls[wanted] = self.program.needed(wanted)
        tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        if self._sizes and not tracing and type(tensors[0]) is Tensor:
            self.check_memory([tensor.numel() for tensor in tensors], wanted, tensors[0])
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

    def check_memory(self, counts: Sequence[int], wanted: Sequence[str], like: Tensor) -> None:
        """Raises MemoryShortError where inputs of so many values would need more memory than there is. Counted are the blobs that live at
        one time at the stated shapes, more or fewer as the inputs have more or fewer values; on a GPU its own allocator tells."""
        names = tuple(wanted)
        if names not in self._peaks:
            inputs = {version: self._sizes[version] for version in self.program.inputs.values()}
            self._peaks[names] = peak(self.program.needed(names), self._sizes, inputs)
        stated = sum(self._sizes[version] for version in self.program.inputs.values())
        need = self._peaks[names] * like.element_size() * sum(counts) / max(stated, 1)
        if need > UNCHECKED and like.device.type == "cpu":
            check_activations(need, f"the net {self.name!r}" if self.name else "the net")

    def to_fx(self) -> GraphModule:
        """The net as a torch.fx GraphModule with the same children and state dict; several outputs are a dict, as here."""
        names = {name: f"input_{i}" for i, name in enumerate(self.program.inputs)}
        return graph_module(self, self.program, self.outputs, names)

    @property
    def prototxt(self) -> str:
        """The net as a deploy prototxt in V2 form, with the phase's layers only and an Input layer in place of data layers."""
        return text_of(self._message)

    def to_source(self, path: str | os.PathLike[str]) -> None:
        """Write the net as one readable Python file that needs torch only: a module class with this net's state-dict keys, and load(),
        which reads the weights from the .safetensors file beside it. save("net.py") writes both."""
        children = dict(self.named_children())
        write_source(path, children, self.program, outputs=self.outputs, facts=self.facts(), preprocess=self.preprocess)

    def save(self, path: str | os.PathLike[str], *, check: bool = True) -> None:
        """Write the net with its weights, in the form that the suffix names: .safetensors, .pth, .caffemodel, .py, .onnx, .pt2.

        The last three run without this package; `check` reads each back in a fresh process and compares before it appears. See
        converter.save(), which this is.
        """
        from converter import save

        save(self, path, check=check)

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
