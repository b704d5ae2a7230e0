"""Pictures of faces become embeddings, and two of them a similarity: what a net knows below its classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards.record import Card, LocalCard, Threshold
from zoo.errors import EmbeddingError, PictureError
from zoo.pictures import PHOTOGRAPHS, SUFFIXES, read_picture
from zoo.terminal import require

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

OK = "ok"


@dataclass(frozen=True)
class Embeddings:
    """One row a picture, in the order of `paths`."""

    vectors: np.ndarray  # (N, D) float32, as the net gives them; NaN where the picture cannot be read
    paths: tuple[str, ...]
    status: tuple[str, ...]  # OK, or why there is no embedding
    model: str
    preprocessing: str  # what was done with the pictures

    @property
    def failures(self) -> list[tuple[str, str]]:
        """(path, reason) of each picture without an embedding."""
        return [(path, status) for path, status in zip(self.paths, self.status, strict=True) if status != OK]


@dataclass(frozen=True)
class Comparison:
    """Two faces: `cosine` from -1 to 1, `distance` between the vectors of length 1, 0 to 2. Neither is a probability."""

    cosine: float
    distance: float
    threshold: Threshold | None  # None: nobody has measured one for this model

    @property
    def same(self) -> bool | None:
        """Whether the cosine reaches the threshold; None where there is none."""
        return None if self.threshold is None else self.cosine >= self.threshold.cosine


def pictures_in(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The paths themselves, and of each folder the pictures in it and below, sorted by name; hidden ones are left out."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        below = (
            (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES | PHOTOGRAPHS and file.is_file())
            if path.is_dir()
            else (path,)
        )
        for file in below:
            if file == path or not any(part.startswith(".") for part in file.relative_to(path).parts):
                found[file] = None
    return sorted(found)


def embedder(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Inputs of the model (N, C, H, W) -> embeddings (N, D) float32 on the CPU: what its classifier reads, or its output without one.

    For models as zoo.load makes them. Raises EmbeddingError where the card names a classifier that the net does not have.
    """
    import torch

    from zoo.models.weights import classifier_of

    card: Any = model.card
    path = classifier_of(model, card.classifier)
    last = None if path is None else dict(model.named_modules()).get(path)
    if last is None and isinstance(card, Card) and (card.classifier is not None or "identification" in card.task):
        named = (
            "does not name its classifier" if card.classifier is None else f"names a layer {card.classifier!r} that the net does not have"
        )
        raise EmbeddingError(f"{card.name}: its card {named}, below which the embedding would be")

    def embed(inputs: Tensor) -> Tensor:
        read: list[Tensor] = []
        hook = None if last is None else last.register_forward_pre_hook(lambda layer, given: read.append(given[0]))
        try:
            with torch.inference_mode():
                output = model(inputs)
        finally:
            if hook is not None:
                hook.remove()
        vectors = output if last is None else read[0]
        if not isinstance(vectors, torch.Tensor):
            raise EmbeddingError(f"{card.name} has several outputs, so none of them is an embedding")
        return vectors.flatten(1).float().cpu()

    return embed


def embed_pictures(model: nn.Module, paths: Sequence[Path], *, batch: int = 32, seen: Callable[[], object] = lambda: None) -> Embeddings:
    """The embeddings of pictures, each of which is one face, cut out (and aligned) as the model's card says.

    `batch` pictures at a time; `seen` is called for each one. What cannot be read has a reason in `status`. Raises EmbeddingError
    where the model takes no single pictures.
    """
    import numpy as np
    import torch

    require("PIL.Image")
    card: Card | LocalCard = model.card  # type: ignore[assignment]
    if card.preprocess is None or card.preprocess.size is None:
        raise EmbeddingError(f"{card.name} is no model of single faces: its card states no size of its input")
    embed, device = embedder(model), next(model.parameters()).device
    status: list[str] = []
    parts: dict[int, np.ndarray] = {}

    def flush(waiting: dict[int, Tensor]) -> None:
        try:
            found = embed(torch.stack(list(waiting.values())).to(device)).numpy()
        except (RuntimeError, ValueError, TypeError) as error:
            raise EmbeddingError(f"{card.name} doesn't take single pictures: {str(error).splitlines()[0][:200]}") from error
        parts.update(zip(waiting, found, strict=True))

    waiting: dict[int, Tensor] = {}
    for number, path in enumerate(paths):
        try:
            waiting[number] = model.preprocess(read_picture(path))  # type: ignore[operator]
            status.append(OK)
        except (PictureError, ValueError) as error:
            status.append(str(error))
        seen()
        if len(waiting) == batch:
            flush(waiting)
            waiting = {}
    if waiting:
        flush(waiting)
    width = len(next(iter(parts.values()))) if parts else 0
    vectors = np.full((len(paths), width), np.nan, np.float32)
    for number, vector in parts.items():
        vectors[number] = vector
    return Embeddings(vectors, tuple(map(str, paths)), tuple(status), card.name, preprocessing(card))


def preprocessing(card: Card | LocalCard) -> str:
    """What the model does with a picture, in one line."""
    spec = card.preprocess
    assert spec is not None
    size = "" if spec.size is None else f"{spec.size[0]}×{spec.size[1]} "
    return f"{size}{spec.channels}, minus {spec.mean}, times {spec.scale}; {spec.source}"


def save_npz(embeddings: Embeddings, path: Path) -> None:
    """Writes arrays that numpy.load(path) reads without pickle: embeddings, paths, status, model, preprocessing."""
    import numpy as np

    from converter.files import replacing

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            embeddings=embeddings.vectors,
            paths=np.array(embeddings.paths, str),
            status=np.array(embeddings.status, str),
            model=np.array(embeddings.model),
            preprocessing=np.array(embeddings.preprocessing),
        )


def compare(model: nn.Module, a: Path, b: Path) -> Comparison:
    """How alike a model finds two faces. Raises PictureError, which names the file that cannot be read, and EmbeddingError."""
    import numpy as np

    found = embed_pictures(model, [a, b])
    for path, reason in found.failures:
        raise PictureError(f"{path}: {reason}")
    unit = found.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True).clip(min=1e-12)
    card: Card | LocalCard = model.card  # type: ignore[assignment]
    cosine, distance = float(np.clip(unit[0] @ unit[1], -1, 1)), float(np.linalg.norm(unit[0] - unit[1]))
    return Comparison(cosine, distance, card.threshold if isinstance(card, Card) else None)


def lines(comparison: Comparison) -> Iterator[str]:
    """What to tell people."""
    yield f"cosine similarity {comparison.cosine:.4f} (1: the same direction; 0: nothing in common)"
    yield f"distance          {comparison.distance:.4f} (0 to 2, between vectors of length 1)"
    threshold = comparison.threshold
    if threshold is None:
        yield "verdict           none: nobody has measured for this model which value tells the same person from another"
    else:
        yield f"threshold         {threshold.cosine:.4f}"
        yield f"verdict           {'the same person' if comparison.same else 'different people'}, as far as this model can tell"
        yield f"measured          {threshold.source}"
    yield "Both pictures were taken for faces that are cut out already: compare looks for none, and means nothing for whole photographs."
