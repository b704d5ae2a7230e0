"""A model as a folder that is ready for the Hugging Face Hub: caffe-zoo export NAME_OR_RUN --hub FOLDER.

model.safetensors    the weights
config.json          what zoo.load needs to know of them: card.json's words, the terms, and hashes of the files beside it
net.prototxt         of a Caffe net: its structure
net.py               the net as Python that needs torch only
README.md            the model card
"""

from __future__ import annotations

import copy
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from architectures.contract import convolutions
from converter import __version__
from converter.preprocess import Preprocess
from zoo.cards.record import Card, LocalCard
from zoo.disk import digests, saving, write_json
from zoo.errors import SaveError, TermsNotAccepted, printable
from zoo.files.hub import LIBRARY
from zoo.models.readme import Facts, readme, terms_of
from zoo.models.runs import FORMAT, MEAN_IMAGE
from zoo.models.source import source_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.models.model import Model

WEIGHTS, PROTOTXT = "model.safetensors", "net.prototxt"


def write_hub(model: Model, folder: str | os.PathLike[str], *, accept_terms: bool = False, check: bool = True) -> dict[str, Path]:
    """Write a model that zoo.load() gave as a folder to upload; returns {file name: path}. It appears whole or not at all.

    `check` runs net.py in a fresh process that cannot import caffezoo, on drawn input, and compares.

    The folder must not exist, or be empty. Raises TermsNotAccepted where nobody has granted a licence that lets others pass the weights
    on (`accept_terms` says that you have the authors' permission), and SaveError where the folder cannot be written, or net.py computes
    something else.
    """
    folder = Path(folder)
    card = model.card
    _check_terms(card, accept_terms)
    try:
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise SaveError(f"{folder} is there already, and not an empty folder; name another one")
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        temporary.mkdir(parents=True)
    except (OSError, ValueError) as error:
        raise SaveError(f"{folder} cannot be made: {error}") from error
    try:
        names = _fill(model, card, temporary, folder.absolute().name)
        if check and "net.py" in names:
            _prove(model, temporary / "net.py", folder / "net.py")
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise SaveError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {name: folder / name for name in names}


def _check_terms(card: Card | LocalCard, accepted: bool) -> None:
    if isinstance(card, Card) and card.terms.identifier is None and not accepted:
        raise TermsNotAccepted(
            f"{card.title} comes under these terms: {card.terms.licence}\n  (stated by: {card.terms.source})\n"
            "Nobody has granted a licence that lets others pass these weights on. If you have their authors' permission, or keep the folder"
            " to yourself, add --accept-terms (accept_terms=True)"
        )


def _fill(model: Model, card: Card | LocalCard, folder: Path, name: str) -> list[str]:
    """Write the folder's files; returns their names."""
    from safetensors.torch import save_file

    what: dict[str, str] = {}
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with saving(folder / WEIGHTS) as place:
        save_file(state, place, metadata={"format": "pt", "converter": f"caffezoo {__version__}", "model": printable(card.name)})
    what[WEIGHTS] = "the weights, under the names of the net's state dict"
    config = _config(model, card)
    prototxt = _prototxt(model)
    if prototxt is not None:
        (folder / PROTOTXT).write_text(prototxt, encoding="utf-8")
        config["prototxt"] = PROTOTXT
        what[PROTOTXT] = "the structure of the Caffe net"
    mean = getattr(model.preprocess, "mean_image", None)
    if mean is not None:
        with saving(folder / MEAN_IMAGE) as place:
            save_file({"mean": _tensor(mean)}, place)
        what[MEAN_IMAGE] = "the mean image that is subtracted"
    hashes = {each: digests(folder / each, ())["sha256"] for each in what}
    config |= {"weights": WEIGHTS, "sha256": hashes[WEIGHTS], "files": hashes}
    write_json(folder / "config.json", config)
    what["config.json"] = "what caffezoo needs to know to load it, with the hashes of these files"
    arguments = {} if config["architecture"] == "caffe" else config["arguments"]
    text = source_of(model, card.title, arguments, tuple(model.labels), WEIGHTS)
    if text is not None:
        (folder / "net.py").write_text(text, encoding="utf-8")
        what["net.py"] = "the net as Python that needs torch and not caffezoo"
    parameters = sum(value.numel() for value in model.parameters())
    facts = Facts(name, parameters, config, what, _outputs(model, card))
    (folder / "README.md").write_text(readme(card, facts), encoding="utf-8")
    return [*what, "README.md"]


def _prove(model: Model, path: Path, shown: Path) -> None:
    """Hold net.py against the model, where it is known what goes in."""
    import torch

    from converter import CaffeNet, ConversionError
    from converter.write.proof import Proof, reader_of

    spec, inner = model.preprocess, convolutions(model)
    shapes: list[tuple[tuple[int, ...], ...]] = [tuple(model.input_shapes.values())] if isinstance(model, CaffeNet) else []
    if not shapes and spec is not None and spec.size is not None:
        image = (1 if spec.channels == "GRAY" else 3, *spec.size)
        shapes = [((2, 2, *image) if inner is not None else (2, *image),)]
    draw = torch.Generator().manual_seed(0)
    runs = [[torch.rand(shape, generator=draw) * 2 - 1 for shape in each] for each in shapes]
    if not runs:
        return
    twin = copy.deepcopy(model).to(device="cpu", dtype=torch.float32).eval()
    with torch.inference_mode():
        found = [twin(*run, blobs=model.outputs) if isinstance(model, CaffeNet) else {"result": twin(*run)} for run in runs]
    try:
        with reader_of(path.suffix) as reader:
            Proof(runs, found).check(path, shown, reader)
    except ConversionError as error:
        raise SaveError(str(error)) from error


def _config(model: Model, card: Card | LocalCard) -> dict[str, Any]:
    """config.json, in the words of a run's card.json; what no run has: library_name, terms, returns, files."""
    terms = terms_of(card)
    config: dict[str, Any] = {
        "library_name": LIBRARY,
        "library_version": __version__,
        "format": FORMAT,
        "title": card.title,
        "classes": list(model.labels),
        "scores": dict(card.scores),
        "preprocess": _preprocess(model.preprocess),
        "crop": None if card.crop is None else asdict(card.crop),
        "terms": {"licence": terms.licence, "source": terms.source, "identifier": terms.identifier},
    }
    arguments: dict[str, object] = {} if card.classifier is None else {"classifier": card.classifier}
    if isinstance(card, LocalCard):
        arguments = dict(card.arguments) if card.architecture != "caffe" else arguments
        return config | {"architecture": card.architecture, "arguments": arguments, "recipe": card.recipe}
    if card.architecture is not None:
        return config | {"architecture": card.architecture.partition(":")[2], "arguments": {}}
    return config | {"architecture": "caffe", "arguments": arguments, "returns": "outputs"}


def _preprocess(spec: Preprocess | None) -> dict[str, Any] | None:
    if spec is None:
        return None
    return {
        "size": None if spec.size is None else list(spec.size),
        "resize": list(spec.resize) if isinstance(spec.resize, tuple) else spec.resize,
        "channels": spec.channels,
        "mean": MEAN_IMAGE if isinstance(spec.mean, str) else list(spec.mean),
        "scale": list(spec.scale) if isinstance(spec.scale, tuple) else spec.scale,
        "source": spec.source,
    }


def _prototxt(model: nn.Module) -> str | None:
    """The structure of the converted net that the model is, or has inside."""
    from converter import CaffeNet

    for net in (model, convolutions(model)):
        if isinstance(net, CaffeNet):
            return net.prototxt
    return None


def _tensor(value: Any) -> Tensor:
    import torch

    return torch.as_tensor(value, dtype=torch.float32).contiguous()


def _outputs(model: nn.Module, card: Card | LocalCard) -> str:
    if isinstance(card, Card):
        return card.outputs
    return f"logits of {len(card.labels)} classes" if card.labels else "what the net's last layer gives"


def described(files: Mapping[str, Path], card: Card | LocalCard) -> str:
    """What the command says when the folder stands: the terms first of all."""
    terms = terms_of(card)
    lines = [*map(str, files.values()), "", f"Terms: {terms.licence}", f"  (stated by: {terms.source})"]
    if terms.identifier is None:
        lines.append("  No licence that lets others pass the weights on is known: publish them only with their authors' permission.")
    if isinstance(card, LocalCard) and card.terms is None:
        lines.append("  Say in README.md and config.json under which terms your model may be used, before you publish it.")
    folder = next(iter(files.values())).parent
    return "\n".join([*lines, f"Upload: hf upload OWNER/{folder.name} {folder}"])
