"""Nets of clips: an encoder that sees the frames, with its initial weights, and what reads its features in time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import architectures
import zoo
from architectures.contract import nets
from finetune.clips.recipe import Recipe
from finetune.config import as_json
from finetune.errors import FinetuneError
from finetune.labels import LABEL_ORDERS, canonical
from zoo import Preprocess

if TYPE_CHECKING:
    from torch import nn

    from finetune.clips.data import Clips
    from finetune.train.job import Start

PROJECT = "XiaoYee/emotion_classification"  # whose files best7164.model and best_resnet.model are


@dataclass(frozen=True)
class Encoder:
    """A net for frames.

    net        its class in architectures, which --init must give; "caffe": a converted net
    arguments  what it is built with; taps: widths of its features, by depth
    """

    net: str
    input: Preprocess
    init: str
    taps: tuple[int, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)


ENCODERS = {
    "vgg_face": Encoder("VGGFace", zoo.info("vgg_face").preprocess, "vgg_face"),
    "face_resnet": Encoder("FaceResNet", zoo.info("center_loss_face").preprocess, "none"),
    "mobilefacenet": Encoder("MobileFaceExpression", zoo.info("mobilefacenet").preprocess, "mobilefacenet", (128, 128, 512)),
    "small_resnet": Encoder("SmallResNet", Preprocess((48, 48), "RGB", (127.5,) * 3, "finetune.fer2013's recipe scratch", 1 / 64), "none"),
}
# Encoders that have a net of clips of their own in architectures; the others are read by FaceClipNet.
CLIP_NETS = {"VGGFace": "VGGFaceRNN", "FaceResNet": "FaceResNetRNN"}


def encoder_of(name: str) -> Encoder:
    """One of ENCODERS, a model of the zoo, or the net of an image run's folder, which begins with that run's weights.

    Raises FinetuneError for a net that cannot see frames, and ZooError for an unknown name.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if os.sep in name or (Path(name) / "card.json").is_file():
        return encoder_of_run(name)
    card = zoo.info(name)
    package, _, net = (card.architecture or "").partition(":")
    if package not in ("", "architectures") or isinstance(card.preprocess.mean, str) or card.preprocess.size is None:
        raise FinetuneError(f"--encoder {name}: no net of one input size with a mean of three numbers; {', '.join(ENCODERS)} are")
    return Encoder(net or "caffe", card.preprocess, name)


def encoder_of_run(folder: str) -> Encoder:
    from architectures.video import ClipNet

    model: Any = zoo.load(Path(folder), pretrained=False)
    card = model.card
    if isinstance(model, ClipNet):
        raise FinetuneError(f"--encoder {folder}: a run of clips, which has an encoder of its own; continue it with --init {folder}")
    if card.architecture == "caffe":
        raise FinetuneError(f"--encoder {folder}: a run of a converted net; encoders are runs of a net of architectures, or zoo models")
    if card.preprocess.size is None:
        raise FinetuneError(f"--encoder {folder}: its card states no input size")
    return Encoder(card.architecture, card.preprocess, folder, arguments=card.arguments)


def with_encoder(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another net for the frames, and with that net's own input and weights."""
    if name == recipe.encoder:
        return recipe
    encoder = encoder_of(name)
    kept = {key: value for key, value in recipe.arguments.items() if key in ("rnn", "hidden_size", "dropout", "pooling")}
    if encoder.net not in CLIP_NETS:
        kept |= {key: value for key, value in recipe.arguments.items() if key in ("norm", "projection")}
        if recipe.encoder == "face_resnet":  # a recurrent net for each depth, behind a Linear
            kept |= {"branches": encoder.taps, "projection": 512}
    return replace(recipe, encoder=name, input=encoder.input, init=encoder.init, arguments=kept)


# --- the net of a run -----------------------------------------------------------------------------------------------------------------


def start(recipe: Recipe, data: Clips) -> Start:
    """The recipe's net with its initial weights, drawn from its seed or read. Raises FinetuneError and ZooError."""
    import torch

    from architectures.video import ClipNet
    from finetune.train.job import Start, start_from_run

    torch.manual_seed(recipe.training.seed)
    encoder = encoder_of(recipe.encoder)
    cnn, arguments = frame_net(recipe, encoder, data)
    if isinstance(cnn, ClipNet):
        whole = start_from_run(recipe.init, data)
        assert whole is not None  # it was a run's folder
        return whole
    if encoder.net == "caffe":
        return on_converted(recipe, data)
    torch.manual_seed(recipe.training.seed)  # what is drawn does not depend on the weights that were read
    own = {"num_classes": len(data.classes), **as_json(recipe.arguments)}
    name = CLIP_NETS.get(encoder.net, "FaceClipNet")
    if name == "FaceClipNet":
        own |= {"encoder": encoder.net, "arguments": as_json(arguments)}
    try:
        model = getattr(architectures, name)(**own, cnn=cnn)
    except (TypeError, ValueError) as error:
        raise FinetuneError(f"arguments: {name} with {recipe.encoder}: {error}") from error
    return Start(model, name, own)


def on_converted(recipe: Recipe, data: Clips) -> Start:
    """A net over a blob of one of the zoo's converted Caffe nets, whose prototxt becomes a file of the run."""
    import torch

    from finetune.train.job import Start

    cnn: Any = zoo.load(recipe.encoder, pretrained=False)  # what is wrong is said before anything is fetched
    blob, frame = recipe.arguments.get("blob"), (1 if recipe.input.channels == "GRAY" else 3, *(recipe.input.size or ()))
    if blob not in cnn.blobs:
        raise FinetuneError(
            f"--encoder {recipe.encoder}: a converted Caffe net; say which blob is read, as in --set arguments.blob={cnn.blobs[-2]}."
            f" It has {', '.join(cnn.blobs)}"
        )
    with torch.inference_mode():
        features = cnn(torch.zeros(1, *frame), blobs=(blob,))[blob]
    if features.dim() not in (2, 4):
        raise FinetuneError(f"arguments.blob={blob}: its shape is {tuple(features.shape)}; (N, F) or feature maps (N, F, H, W) are read")
    if recipe.init != "none":
        cnn = zoo.load(recipe.encoder)
    torch.manual_seed(recipe.training.seed)
    arguments = {"num_classes": len(data.classes), **as_json(recipe.arguments), "encoder": "caffe", "width": features.shape[1]}
    model = architectures.FaceClipNet(**arguments, cnn=cnn)
    model.embed(torch.zeros(2, *frame)).sum().backward()
    for parameter in model.cnn.parameters():  # layers above the blob never get a gradient, which several processes would wait for
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    return Start(model, "FaceClipNet", arguments, str(cnn.prototxt))


# --- the encoder's initial weights ----------------------------------------------------------------------------------------------------


def frame_net(recipe: Recipe, encoder: Encoder, data: Clips) -> tuple[nn.Module | None, Mapping[str, Any]]:
    """The net for images whose weights begin the encoder (None: they are drawn), and the arguments that it was built with.

    Raises FinetuneError where `init` is another net, and ZooError. A net of clips is returned as it is: all of it is continued.
    """
    init, where = recipe.init, Path(recipe.init)
    if init == "none":
        return None, encoder.arguments
    if where.is_file() or where.suffix in (".model", ".pth", ".pt"):
        return published_net(where, recipe.encoder, encoder.net), {}
    if where.is_dir():
        return net_of_run(where, recipe, encoder, data)
    if encoder.net == "caffe":
        if init != recipe.encoder:
            raise FinetuneError(f"--init {init}: {recipe.encoder} begins with its own weights, a run of clips, or none")
        return None, {}
    model = zoo.load(init)
    if encoder.net == "FaceResNet" and isinstance(model, architectures.CenterLossFace):
        return architectures.FaceResNet(cnn=model), {}
    if encoder.net == "MobileFaceExpression" and isinstance(model, architectures.MobileFaceNet):
        return architectures.MobileFaceExpression(cnn=model), {}
    if not isinstance(model, nets()[encoder.net]):
        raise another_net(init, model, recipe, encoder)
    return model, {}


def published_net(file: Path, name: str, net: str) -> nn.Module:
    """The net of a file of XiaoYee/emotion_classification."""
    from architectures.legacy import LegacyFileError

    loaders: dict[str, tuple[Callable[[Path], nn.Module], ...]] = {
        "VGGFace": (architectures.load_best7164, architectures.load_vgg_face_torch),
        "FaceResNet": (architectures.load_best_resnet,),
    }
    problems = []
    for load in loaders.get(net, ()):
        try:
            return load(file)
        except FileNotFoundError as error:
            raise FinetuneError(f"--init {file}: no such file; name it where it lies, or a run's folder, a model, or none") from error
        except (LegacyFileError, architectures.WeightsMismatch) as error:
            problems.append(str(error))
    found = "\n".join(problems) or f"{PROJECT} has no file for {name}"
    raise FinetuneError(f"--init {file}: {found}")


def net_of_run(folder: Path, recipe: Recipe, encoder: Encoder, data: Clips) -> tuple[nn.Module, Mapping[str, Any]]:
    """The net of a run's folder: of clips, or of images, then the encoder's own."""
    from architectures.video import ClipNet

    if not (folder / "card.json").is_file():
        raise FinetuneError(f"--init {recipe.init}: the folder holds no finished run (card.json); finish it with --resume")
    model: Any = zoo.load(folder)
    labels, arguments = model.labels, model.card.arguments
    if isinstance(model, ClipNet):
        return model, {}
    if encoder.net == "caffe":
        name = f"{recipe.encoder} begins with its own weights, a run of clips, or none"
        raise FinetuneError(f"--init {recipe.init}: a {type(model).__name__}; {name}")
    if not isinstance(model, nets()[encoder.net]):
        raise another_net(recipe.init, model, recipe, encoder)
    compare_classes(recipe.init, labels, data.classes)
    return model, arguments


def another_net(init: str, model: nn.Module, recipe: Recipe, encoder: Encoder) -> FinetuneError:
    return FinetuneError(f"--init {init}: a {type(model).__name__}; the encoder {recipe.encoder} begins with a {encoder.net}")


def compare_classes(init: str, labels: Sequence[str], classes: Sequence[str]) -> None:
    """Warns where an image run numbers its classes in another order than the data: FER2013's is not EmotiW's.

    What is taken lies below the run's last layer, so nothing is renumbered. Raises FinetuneError for classes with nothing in common:
    they are no expressions.
    """
    left, right = [canonical(name) for name in labels], [canonical(name) for name in classes]
    if not labels or not set(left) & set(right):
        raise FinetuneError(
            f"--init {init}: its classes are {', '.join(labels) or 'not named'}, the data's {', '.join(classes)}: none in common. Is it"
            " the run that was meant? A model of the zoo is taken whatever it was trained for"
        )
    if left != right:
        known = {order: f" ({name})" for name, order in LABEL_ORDERS.items()}
        warnings.warn(
            f"--init {init}: its labels are {', '.join(labels)}{known.get(tuple(left), '')}, the data's {', '.join(classes)}"
            f"{known.get(tuple(right), '')}. Its last layer is not taken, so they cannot be mixed up",
            stacklevel=2,
        )
