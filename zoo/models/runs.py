"""Folders as models: card.json says what a run of finetune trained, config.json what a folder made for the Hugging Face Hub holds, in the
same words; every one of them is checked, and no code of the folder is run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from architectures.contract import nets
from converter.preprocess import Preprocess
from zoo.cards import registry
from zoo.cards.record import Crop, LocalCard, Terms
from zoo.disk import digests
from zoo.errors import LoadError, counted
from zoo.files.hub import LIBRARY
from zoo.models.model import finished
from zoo.models.weights import caffe_net, classifier_of, fill, hand_written, keys_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from converter import CaffeNet
    from zoo.models.model import Model

FORMAT = 1
MOST_BYTES = 4 << 20  # of card.json
MEAN_IMAGE = "mean.safetensors"  # of a folder made for the Hub
MOST_PIXELS = 1 << 14  # on a side of the input
MOST_AREA = 1 << 24  # pixels of the input
MOST_CLASSES = 10_000
LONGEST = 1_000  # characters of a text
MOST_ITEMS = 100  # of a list or an object in arguments, which become layers
MOST_WIDTH = 1 << 20  # of a whole number in arguments but num_classes, which the weights are held against
MOST_DEPTH = 4


def is_run(name: str | os.PathLike[str]) -> bool:
    """Whether zoo.load means a folder: a path, or a name that no model has and that a folder of a run has."""
    if not isinstance(name, str) or "/" in name or os.sep in name:
        return True
    if not name or "\0" in name or name in registry.list_models():
        return False
    return any((Path(name) / file).is_file() for file in ("card.json", "config.json"))


def card_file(folder: Path) -> Path:
    """card.json, or the config.json that write_hub() wrote in its place; finetune's own config.json is neither."""
    config = folder / "config.json"
    try:
        if (folder / "card.json").is_file() or not config.is_file() or config.stat().st_size > MOST_BYTES:
            return folder / "card.json"
        facts = json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError):
        return folder / "card.json"
    return config if isinstance(facts, dict) and facts.get("library_name") == LIBRARY else folder / "card.json"


def load_run(
    folder: Path,
    *,
    pretrained: bool,
    num_classes: int | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> Model:
    """The model of a run folder, with `.preprocess`, `.card` (a LocalCard) and `.labels`."""
    facts = _facts(folder)
    card = _card(facts, folder)
    if card.architecture == "caffe":
        model, layer = _caffe(facts, card, folder, pretrained, num_classes)
        card = replace(card, classifier=layer)
    else:
        model = _hand_written(facts, card, folder, pretrained, num_classes)
    path = classifier_of(model, card.classifier)
    last = None if path is None else dict(model.named_modules()).get(path)
    outputs = getattr(last, "out_features", getattr(last, "out_channels", None))
    if num_classes is None and card.labels and outputs not in (None, len(card.labels)):
        raise LoadError(f"{card_file(folder)}: the number of classes is {len(card.labels)}, but the net has {counted(outputs, 'output')}")
    labels = card.labels if num_classes is None else ()
    preprocess = card.preprocess
    if preprocess is not None and isinstance(preprocess.mean, str):
        preprocess = preprocess.with_mean_image(_mean_image(facts, folder, preprocess.mean))
    return cast("Model", finished(model, card, labels, preprocess, device, dtype))


def _facts(folder: Path) -> dict[str, object]:
    """What card.json holds, the types of its fields not yet checked."""
    path = card_file(folder)
    try:
        if not folder.is_dir():
            raise LoadError(f"there is no folder {str(folder)!r}; models by name: zoo.list_models(), caffe-zoo list")
        config = folder / "config.json"
        if not path.is_file() and config.is_file() and config.stat().st_size > MOST_BYTES:
            raise LoadError(f"{config}: {config.stat().st_size:,} bytes; a folder's description has at most {MOST_BYTES:,}")
        if not path.is_file() and config.is_file():
            raise LoadError(
                f"{folder}: this run was stopped before it picked its best weights, so it has no card.json. To continue it, run the"
                " command in its config.json with --resume"
            )
        if not path.is_file():
            raise LoadError(
                f"{folder}: not a run folder: it has no card.json. Give the folder that python -m finetune.<recipe> wrote, its --out"
            )
        if path.stat().st_size > MOST_BYTES:
            raise LoadError(f"{path}: {path.stat().st_size:,} bytes; a card has at most {MOST_BYTES:,}")
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{str(folder)!r}: {path.name} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise LoadError(f"{path}: not a JSON object")
    if facts.get("format") != FORMAT:
        raise LoadError(
            f"{path}: format is {_short(facts.get('format'))}; this release of caffezoo reads {FORMAT}. Update caffezoo, or train again"
        )
    return facts


def _card(facts: Mapping[str, object], folder: Path) -> LocalCard:
    where = card_file(folder)

    def field(name: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = facts.get(name)
        if not isinstance(value, kind):
            raise LoadError(f"{where}: {name} is {_short(value)}; it must be {what}")
        return value

    classes = field("classes", list, "a list of names")
    if not all(isinstance(name, str) for name in classes):
        raise LoadError(f"{where}: classes is {_short(classes)}; it must be a list of names")
    if len(classes) > MOST_CLASSES or len(set(classes)) < len(classes) or max(map(len, classes), default=0) > LONGEST:
        raise LoadError(
            f"{where}: classes is {_short(classes)}; it must be at most {MOST_CLASSES:,} different names of up to {LONGEST:,} characters"
        )
    for name in ("title", "recipe"):
        if not isinstance(text := facts.get(name) or "", str) or len(text) > LONGEST:
            raise LoadError(f"{where}: {name} is {_short(text)}; it must be a text of up to {LONGEST:,} characters")
    arguments = field("arguments", dict, "the arguments of the architecture, by name")
    outputs = arguments.get("num_classes")
    if outputs is not None and classes and outputs != len(classes):
        raise LoadError(f"{where}: the number of classes is {len(classes)}, but num_classes is {_short(outputs)}")
    architecture = field("architecture", str, 'the name of a class in architectures, or "caffe"')
    _check_arguments(arguments, f"{where}: {_short(architecture)}")
    named = arguments.get("classifier") if architecture == "caffe" else None
    if architecture == "caffe" and (arguments.keys() - {"classifier"} or not isinstance(named, str | None)):
        raise LoadError(f"{where}: a Caffe net takes no arguments but the name of its classifier, not {_short(arguments)}")
    no_image = where.name == "config.json" and facts.get("preprocess", 0) is None
    scores = facts.get("scores") or {}
    if not isinstance(scores, dict) or len(scores) > LONGEST or not all(map(_is_number, scores.values())):
        raise LoadError(f"{where}: scores is {_short(scores)}; it must be an object of at most {LONGEST:,} numbers")
    return LocalCard(
        name=folder.absolute().name,
        title=str(facts.get("title") or folder.name),
        path=folder,
        architecture=architecture,
        arguments=arguments,
        preprocess=None if no_image else _preprocess(field("preprocess", dict, "an object with size, channels, mean and scale"), where),
        classifier=named,
        labels=tuple(classes),
        recipe=str(facts.get("recipe") or ""),
        scores=scores,
        crop=_crop(facts.get("crop"), where),
        terms=_terms(facts.get("terms"), where),
    )


def _check_arguments(arguments: Mapping[str, object], net: str) -> None:
    """Raises LoadError for what no net is built with, before a net is: each item of a list may become a layer."""

    def problem(value: object, depth: int, name: str) -> str:
        if isinstance(value, (dict, list)):
            if depth == MOST_DEPTH:
                return "is nested too deeply"
            if len(value) > MOST_ITEMS:
                return f"has {len(value):,} items, more than {MOST_ITEMS}"
            items = value.items() if isinstance(value, dict) else [("", item) for item in value]
            return next(filter(None, (problem(item, depth + 1, str(key)) for key, item in items)), "")
        if isinstance(value, str) and len(value) > LONGEST:
            return f"has a text of {len(value):,} characters, more than {LONGEST:,}"
        if isinstance(value, int) and name != "num_classes" and abs(value) > MOST_WIDTH:
            return f"has a number above {MOST_WIDTH:,}"
        return "has a number that is none" if isinstance(value, float) and not _is_number(value) else ""

    for name, value in arguments.items():
        if found := problem(value, 0, name):
            raise LoadError(f"{net} cannot be built: its argument {_short(name)} {found}")
    if len(arguments) > MOST_ITEMS:
        raise LoadError(f"{net} cannot be built: it has {len(arguments):,} arguments, more than {MOST_ITEMS}")


def _terms(facts: object, where: Path) -> Terms | None:
    if facts is None:
        return None
    if isinstance(facts, dict) and all(isinstance(facts.get(name), str) for name in ("licence", "source")):
        identifier = facts.get("identifier")
        return Terms(facts["licence"], facts["source"], False, identifier if isinstance(identifier, str) else None)
    raise LoadError(f"{where}: terms is {_short(facts)}; it takes licence and source, two texts")


def _crop(facts: object, where: Path) -> Crop | None:
    if facts is None:
        return None
    if (
        isinstance(facts, dict)
        and _is_number(facts.get("margin"))
        and -0.4 <= facts["margin"] <= 4
        and isinstance(facts.get("align"), bool)
        and (facts.get("size") is None or _pair(facts["size"]) is not None)
    ):
        return Crop(float(facts["margin"]), facts["align"], str(facts.get("source") or where), _pair(facts.get("size")))
    raise LoadError(
        f"{where}: crop is {_short(facts)}; it takes margin (a number from -0.4 to 4), align (true or false), and perhaps size"
        " [height, width]"
    )


def _preprocess(facts: Mapping[str, Any], where: Path) -> Preprocess:
    size, resize, mean, scale = facts.get("size"), facts.get("resize"), facts.get("mean"), facts.get("scale", 1.0)
    pair = _pair(size)
    count = {"BGR": 3, "RGB": 3, "GRAY": 1}.get(str(facts.get("channels")))
    if not (
        (size is None or pair is not None)
        and (resize is None or _is_side(resize) or _pair(resize) is not None)
        and count is not None
        and (mean == MEAN_IMAGE or (isinstance(mean, list) and len(mean) == count and all(map(_is_number, mean))))
        and (_is_number(scale) or (isinstance(scale, list) and len(scale) == count and all(map(_is_number, scale))))
    ):
        raise LoadError(
            f'{where}: preprocess is {_short(facts)}; it takes size [height, width] or null, channels "BGR", "RGB" or "GRAY",'
            " mean [a number for each channel], scale (a number, or one for each channel), and resize (a number, or [height, width])"
        )
    return Preprocess(
        size=pair,
        channels=facts["channels"],
        mean=MEAN_IMAGE if mean == MEAN_IMAGE else tuple(map(float, mean)),
        source=str(facts.get("source") or where),
        scale=tuple(map(float, scale)) if isinstance(scale, list) else float(scale),
        resize=resize if resize is None or isinstance(resize, int) else _pair(resize),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30 and math.isfinite(value)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PIXELS


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2 and all(map(_is_side, value)) and value[0] * value[1] <= MOST_AREA:
        return value[0], value[1]
    return None


def _hand_written(facts: Mapping[str, object], card: LocalCard, folder: Path, pretrained: bool, num_classes: int | None) -> nn.Module:
    import torch

    kind = _architecture(card.architecture, folder)
    arguments = {**card.arguments, **_converted_part(facts, card, folder, pretrained)}
    try:
        with torch.device("meta"):
            model = hand_written(kind, arguments, num_classes, str(folder))
        if not pretrained:
            _check_size(model, folder)
            return hand_written(kind, arguments, num_classes, str(folder))
    except LoadError:
        raise
    except Exception as error:  # whatever a constructor raises for values that it does not expect
        problem = f"{type(error).__name__}: {error}"
        raise LoadError(f"{folder}: {card.architecture} cannot be built with {_short(card.arguments)}: {_short(problem)}") from error
    fill(model, _weights(facts, folder), set() if num_classes is None else keys_of(model, None), str(folder))
    return model


def _converted_part(facts: Mapping[str, object], card: LocalCard, folder: Path, pretrained: bool) -> dict[str, object]:
    """The converted Caffe net inside of an architecture that reads one (encoder: "caffe"), from the folder's prototxt."""
    if card.arguments.get("encoder") != "caffe":
        return {}
    blob = card.arguments.get("blob")
    net = caffe_net(_proven(facts, _inside(folder, facts.get("prototxt"), "prototxt")), empty=pretrained)
    if blob not in net.blobs:
        raise LoadError(f"{card_file(folder)}: blob is {_short(blob)}; the net of its prototxt has no such blob")
    return {"cnn": net}


def _architecture(name: str, folder: Path) -> type[nn.Module]:
    """A net of the package architectures: nothing else can be named."""
    known = nets()
    if name not in known:
        raise LoadError(
            f"{card_file(folder)}: this release of caffezoo has no architecture {_short(name)}; it has {', '.join(known)}, caffe"
        )
    return known[name]


def _check_size(model: nn.Module, folder: Path) -> None:
    """Refuses a net that this machine cannot hold before memory is asked for."""
    need = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise LoadError(f"{folder}: its net has {need / 2**30:,.0f} GiB of weights, more than this machine's memory")


def _caffe(
    facts: Mapping[str, object], card: LocalCard, folder: Path, pretrained: bool, num_classes: int | None
) -> tuple[nn.Module, str | None]:
    from zoo.models.caffe import build

    prototxt = _proven(facts, _inside(folder, facts.get("prototxt"), "prototxt"))
    if facts.get("returns") == "outputs":  # as zoo.load gives it: what the prototxt's last layers make, not the logits
        changed = {} if num_classes is None or card.classifier is None else {card.classifier: num_classes}
        if num_classes is not None and not changed:
            raise LoadError(f"{folder} has no classifier that num_classes could replace")
        model: CaffeNet = caffe_net(prototxt, empty=pretrained, num_output=changed)
        layer = card.classifier
    else:
        model, layer = build(prototxt, None, num_classes, card.classifier, None, empty=pretrained)
    if pretrained:
        fill(model, _weights(facts, folder), set() if num_classes is None else keys_of(model, layer), str(folder))
    return model, layer


def _inside(folder: Path, name: object, what: str) -> Path:
    """A file of the run folder itself, by a plain name."""
    if not isinstance(name, str) or name in ("", ".", "..") or not name.isprintable() or set(name) & set("/\\") or Path(name).name != name:
        raise LoadError(f"{card_file(folder)}: {what} is {_short(name)}; it must be the name of a file in the folder")
    path = folder / name
    try:
        linked = what == "weights" and card_file(folder).name == "card.json"  # large, perhaps on another disk, and proven by their hash
        if path.is_symlink() and not linked and not _leads_inside(path, folder):
            raise LoadError(f"{path} is a link that leads out of the folder; put the file itself there")
        if path.is_file():
            return path
    except OSError as error:
        raise LoadError(f"{card_file(folder)}: {what} is {_short(name)}: {error.strerror}") from error
    raise LoadError(f"{path} is missing: copy it together with {card_file(folder).name}, or make the folder again")


def _proven(facts: Mapping[str, object], path: Path) -> Path:
    """The file, held against the sha256 that a folder made for the Hub states of it."""
    stated = facts.get("files")
    known = stated.get(path.name) if isinstance(stated, dict) else None
    if known is not None and digests(path, ())["sha256"] != known:
        raise LoadError(f"{path}: its sha256 is not the one that config.json says: the file was changed or truncated; copy it again")
    return path


def _leads_inside(path: Path, folder: Path) -> bool:
    """Whether a link stays in its folder, or in the cache of huggingface_hub, whose snapshots are links to ../../blobs."""
    target, home = path.resolve(), folder.resolve()
    return target.is_relative_to(home) or (home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs")


def _weights(facts: Mapping[str, object], folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _inside(folder, facts.get("weights"), "weights")
    known = facts.get("sha256")
    if not isinstance(known, str) or len(known) != 64:
        raise LoadError(f"{card_file(folder)}: sha256 is {_short(known)}; it must be the 64 hexadecimal digits that verify {path.name}")
    try:
        found = digests(path, ())["sha256"]
        if found != known.lower():
            raise LoadError(
                f"{path}: its sha256 is {found}, but {card_file(folder).name} says {_short(known)}: the file was changed or truncated;"
                " copy it again"
            )
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{path}: not a safetensors file ({error})") from error


def _mean_image(facts: Mapping[str, object], folder: Path, name: str) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _proven(facts, _inside(folder, name, "preprocess.mean"))
    try:
        mean = load_file(path)["mean"]
    except (OSError, SafetensorError, KeyError) as error:
        raise LoadError(f"{path}: not a mean image ({error})") from error
    if mean.dim() != 3 or len(mean) not in (1, 3) or not mean.is_floating_point() or not bool(mean.isfinite().all()):
        raise LoadError(
            f"{path}: not a mean image ({mean.dtype} of shape {_short(tuple(mean.shape))}, not finite floats of (channels, height, width))"
        )
    return mean.float()


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else ascii(value)
    return text if len(text) <= 200 else f"{text[:199]}…"
