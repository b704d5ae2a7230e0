"""Program: what a net computes, as plain data: steps that read and write numbered versions of blobs.

The graph makes it; CaffeNet runs it; to_fx(), the source writer and the caffemodel writer read it. It holds no module: a
step names its module by the key that it has in the net.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from converter.layers.registry import Arrange, Load, Param, Save

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One layer of a net: which blob versions it reads and writes, and what a caffemodel stores of it.

    str(step) is what messages call it. A step whose type is "" is no layer of Caffe's: it gives the new values to a blob
    whose memory an in-place layer has overwritten.
    """

    key: str  # of its module in the net
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    name: str  # Caffe's layer name
    type: str
    title: str  # "layer 'conv1' of type 'Convolution' (line 12)"
    params: tuple[Param, ...] = ()  # its blobs in Caffe's order
    shapes: tuple[Shape, ...] = ()  # of the blobs
    shared: tuple[str, ...] = ()  # the param name of each blob, "" where it has none
    load: Load | None = None  # see converter.layers.Layer
    save: Save | None = None
    arrange: Arrange | None = None
    state: Mapping[str, Shape] = field(default_factory=dict)  # the shapes of the module's own state dict

    def __str__(self) -> str:
        return self.title


class Call(NamedTuple):
    """A step as it is run: the module's key, the versions that it reads and writes, and those that nobody reads afterwards."""

    key: str
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    dead: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """The steps of a net in their order.

    versions has the blob's name for each version, "" for a loss's automatic top: a layer that writes in place makes a new
    version of its blob, and the last one is the blob.
    """

    steps: tuple[Step, ...] = ()
    versions: tuple[str, ...] = ()
    inputs: Mapping[str, int] = field(default_factory=dict)  # in the order in which the net takes them
    outputs: tuple[str, ...] = ()

    @cached_property
    def blobs(self) -> dict[str, int]:
        """The last version of each blob, by name."""
        return {name: version for version, name in enumerate(self.versions) if name}

    @property
    def layers(self) -> Iterator[Step]:
        """The steps that are layers of Caffe's."""
        return (step for step in self.steps if step.type)

    def needed(self, wanted: Iterable[str]) -> list[Call]:
        """The steps that the wanted blobs need, each with what can be freed behind it.

        Raises:
            KeyError: a blob that the net does not have.
        """
        unknown = [name for name in wanted if name not in self.blobs]
        if unknown:
            raise KeyError(f"the net has no blob {', '.join(map(repr, unknown))}; it has {', '.join(self.blobs)}")
        needed = {self.blobs[name] for name in wanted}
        calls, last_read = [], set(needed)
        for step in reversed(self.steps):
            if not needed.intersection(step.tops):
                continue
            needed.update(step.bottoms)
            dead = {i for i in (*step.bottoms, *step.tops) if i not in last_read}
            last_read.update(step.bottoms)
            calls.append(Call(step.key, step.bottoms, step.tops, tuple(sorted(dead))))
        return calls[::-1]
