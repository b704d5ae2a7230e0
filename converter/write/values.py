"""Where a net's values come from as it is written: from memory, or layer by layer from the weight file, which is never whole in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from converter.build.assemble import load
from converter.build.graph import Graph
from converter.build.matching import Plan, changed, tensor_of
from converter.net import CaffeNet
from converter.read.source import Source

# As safetensors names them.
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}
Entry = Tensor | tuple[Source, int, int]  # a file, an offset, a length: float32 as it is
Runs = list[list[Tensor]]
Results = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Held:
    """A net whose values are in memory."""

    net: CaffeNet

    def entries(self, spans: bool = True) -> Iterator[tuple[str, Entry]]:
        """The state dict in its order; without `spans` as tensors only."""
        yield from self.net.state_dict().items()

    def state(self) -> dict[str, Tensor]:
        return self.net.state_dict()

    def results(self, runs: Runs) -> Results:
        with torch.no_grad():
            return [self.net(*inputs, blobs=self.net.outputs) for inputs in runs]

    def sources(self) -> set[Source]:
        """The files that spans of entries() lie in."""
        return set()

    def stand_in(self) -> CaffeNet:
        """The net to trace: parameters of the right shapes."""
        return self.net


@dataclass(frozen=True)
class Planned:
    """A net on the meta device, and where its values lie in the weight file."""

    net: CaffeNet
    plan: Plan

    def entries(self, spans: bool = True) -> Iterator[tuple[str, Entry]]:
        made: dict[str, Tensor] = {}
        loads = {step.key: (step, blobs) for step, blobs in self.plan.made}
        for key in self.net.state_dict():
            if key in self.plan.values:
                yield key, self.plan.values[key]
                continue
            if key in self.plan.whole:
                blob, shape = self.plan.whole[key]
                span = blob.plain() if spans else None
                yield key, (blob.source, span.offset, span.nbytes) if span else tensor_of(blob, shape)
                continue
            layer = key.rpartition(".")[0]
            if key not in made and layer in loads:
                made = changed(*loads[layer])
            yield key, made.pop(key)

    def sources(self) -> set[Source]:
        """The files that spans of entries() lie in."""
        return {blob.source for blob, _ in self.plan.whole.values()}

    def state(self) -> dict[str, Tensor]:
        """All values, read into memory."""
        found = {**{key: tensor_of(*held) for key, held in self.plan.whole.items()}, **self.plan.values}
        for step, blobs in self.plan.made:
            found.update(changed(step, blobs))
        return {key: found[key].reshape(like.shape) for key, like in self.net.state_dict().items()}

    def results(self, runs: Runs) -> Results:
        """Run all inputs together, each layer with its values read for it and let go behind it."""
        program, loads = self.net.program, {step.key: (step, blobs) for step, blobs in self.plan.made}
        values = [dict(zip(program.inputs.values(), inputs, strict=True)) for inputs in runs]
        for key, bottoms, tops, dead in program.needed(self.net.outputs):
            module = self.net._modules[key]
            assert module is not None
            like = {f"{key}.{name}": value for name, value in module.state_dict().items()}
            made = changed(*loads[key]) if key in loads else {}
            made.update({name: tensor_of(*self.plan.whole[name]) for name in like if name in self.plan.whole})
            made.update({name: self.plan.values[name] for name in like if name in self.plan.values})
            state = {name.removeprefix(f"{key}."): made[name].reshape(value.shape) for name, value in like.items()}
            for held in values:
                with torch.no_grad():
                    result = functional_call(module, state, tuple(held[i] for i in bottoms))
                held.update({tops[0]: result} if len(tops) == 1 else zip(tops, result, strict=True))
                for i in dead:
                    del held[i]
        return [{name: held[program.blobs[name]] for name in self.net.outputs} for held in values]

    def stand_in(self) -> CaffeNet:
        """The net with parameters whose memory is never touched, and so never taken: shapes are all that tracing reads."""
        made: dict[int, nn.Parameter] = {}
        for module in self.net.modules():
            for name, value in module._parameters.items():
                if value is not None and value.is_meta:
                    module._parameters[name] = made.setdefault(id(value), nn.Parameter(torch.empty(value.shape, dtype=value.dtype)))
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_meta:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        return self.net


def values_of(net: CaffeNet, graph: Graph, plan: Plan | None) -> Held | Planned:
    """Where the values of a net on the meta device come from; what fillers draw is drawn now, and the net then in memory."""
    if plan is not None and not plan.filled:
        return Planned(net, plan)
    load(net, graph, plan)
    return Held(net)
