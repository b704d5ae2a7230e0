"""The net: its labels, what it was trained to see, and what it says of crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import zoo
from finetune.errors import FinetuneError
from finetune.labels import canonical
from finetune.predict.crops import WHOLE
from finetune.predict.detect import is_fetched
from zoo.cards import registry
from zoo.cards.embedded import FER2013_CROP
from zoo.cards.record import Card, Crop, LocalCard
from zoo.disk import digests
from zoo.files import store
from zoo.files.hub import is_hub
from zoo.models.device import check_device
from zoo.models.runs import is_run

if TYPE_CHECKING:
    from torch import Tensor

UNSAID = replace(FER2013_CROP, source="the card of this run doesn't say, so FER2013's is taken")  # most runs are of FER2013
EXPRESSIONS = frozenset({"angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"})


@dataclass(frozen=True)
class FaceModel:
    name: str
    sha256: str  # of the file of weights; "" where nobody knows
    labels: tuple[str, ...]
    crop: Crop
    faces: bool  # whether it reads faces, or whole pictures
    size: tuple[int, int]  # (height, width) that a crop is brought to
    net: Any
    device: str
    softmax: bool  # whether the net ends in logits

    @property
    def expressions(self) -> bool:
        """Whether the labels are facial expressions."""
        return {canonical(label) for label in self.labels} <= EXPRESSIONS

    def input(self, crop: np.ndarray) -> Tensor:
        """What the net takes of a crop (h, w, 3) uint8 RGB of any size."""
        result: Tensor = self.net.preprocess(crop)
        return result

    def probabilities(self, inputs: Sequence[Tensor], batch: int) -> np.ndarray:
        """(n, K) float32 for n inputs, `batch` at a time."""
        import torch

        parts = [np.zeros((0, len(self.labels)), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(inputs), batch):
                outputs = _outputs(self.net, torch.stack(list(inputs[start : start + batch])).to(self.device))
                parts.append((outputs.softmax(1) if self.softmax else outputs).float().cpu().numpy())
        return np.concatenate(parts)


def _outputs(net: Any, inputs: Tensor) -> Tensor:
    result: Tensor = net(inputs).flatten(1)
    return result


def check_name(name: str) -> None:
    """Raises FinetuneError and UnknownModel for a name that no model with labels has here, before torch is imported."""
    if Path(name).is_file():
        raise FinetuneError(f"{name} is a file, where the name of a model or the folder of a run stands: fer_mini {name}")
    if is_run(name):
        if not is_hub(name) and not Path(name).is_dir():
            raise FinetuneError(f"there is no folder {name}, and no model of this name; caffe-zoo list names the models")
        return
    card = registry.card_of(name)
    if not card.labels and not card.labels_file:
        raise FinetuneError(_no_labels(name))
    if not is_fetched(name):
        raise FinetuneError(f"{name} is not in the cache; bring it once with: caffe-zoo fetch {name}")


def _no_labels(name: str) -> str:
    known = [each.name for each in registry.CARDS if each.labels or each.labels_file]
    return f"{name} has no labels, so there is nothing to say of a face; models that have: {', '.join(known)}, and runs"


def load_model(name: str, device: str | None, margin: float | None = None) -> FaceModel:
    """A model of the zoo that is in the cache, or a run's folder; `margin` goes over the card's. Nothing is fetched.

    `device` None is a GPU where there is one. Raises FinetuneError where the model has no labels, reads clips, or is not here; and
    what zoo.load raises.
    """
    if device is not None:
        check_device(device)
    check_name(name)
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    net: Any = zoo.load(Path(name) if is_run(name) and not is_hub(name) else name, device=device)
    card: Card | LocalCard = net.card
    labels = tuple(net.labels)
    if not labels:
        raise FinetuneError(_no_labels(card.name))
    if card.preprocess is None or card.preprocess.size is None:
        raise FinetuneError(f"{card.name}: its card states no size of its input, which a crop is brought to")
    resize = card.preprocess.resize
    size = resize if isinstance(resize, tuple) else card.preprocess.size
    channels = 1 if card.preprocess.channels == "GRAY" else 3
    example = torch.rand(1, channels, *card.preprocess.size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            outputs = _outputs(net, example.to(device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        problem = str(error).splitlines()[0][:200]
        raise FinetuneError(
            f"{card.name} doesn't read single pictures ({problem}); nets of clips are evaluated by finetune.emotiw"
        ) from error
    if outputs.shape != (1, len(labels)):
        raise FinetuneError(f"{card.name} has {outputs.shape[1]} outputs and {len(labels)} labels")
    # Nets from Caffe's deploy files end in a Softmax, and nobody's logits happen to be positive with a sum of 1.
    softmax = bool((outputs < 0).any()) or abs(float(outputs.sum()) - 1) > 1e-3
    crop = card.crop or (UNSAID if isinstance(card, LocalCard) else WHOLE)
    if margin is not None:
        crop = replace(crop, margin=margin, source="--margin")
    faces = card.crop is not None or isinstance(card, LocalCard)
    return FaceModel(card.name, _digest(card), labels, crop, faces, size, net, device, softmax)


def _digest(card: Card | LocalCard) -> str:
    if isinstance(card, LocalCard):
        path = card.path / "best.safetensors"
        return digests(path, ())["sha256"] if path.is_file() else ""
    name = card.networks[0].weights
    receipt = store.receipt_of(store.folder(card) / name)
    known = [each.value for file in card.files if file.name == name for each in file.checksums if each.algorithm == "sha256"]
    return receipt.sha256 if receipt else next(iter(known), "")
