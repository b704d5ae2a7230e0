"""README.md of a folder for the Hugging Face Hub: the model card, with the front matter that the Hub reads.

Front matter: huggingface.co/docs/hub/model-cards. Class names and titles may be a stranger's: they are escaped for Markdown, and stand
in the front matter as JSON strings, which YAML reads as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from converter import __version__
from zoo.cards.record import Card, LocalCard, Terms
from zoo.errors import printable

UNSTATED = Terms("not stated", "nobody yet; its owner has to write the terms here before it is published")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


@dataclass(frozen=True)
class Facts:
    """What the page says beside the card."""

    folder: str  # the folder's name, which the repository may get, too
    parameters: int
    config: Mapping[str, object]
    files: Mapping[str, str]  # name -> what it is
    outputs: str


def readme(card: Card | LocalCard, facts: Facts) -> str:
    """The whole page."""
    return "\n".join(["---", *_front_matter(card, facts), "---", "", *_body(card, facts)]).rstrip() + "\n"


def terms_of(card: Card | LocalCard) -> Terms:
    return card.terms or UNSTATED


def text(value: object) -> str:
    """A text as Markdown that shows it and nothing else."""
    return _SPECIAL.sub(r"\\\1", printable(value))


def _front_matter(card: Card | LocalCard, facts: Facts) -> Iterator[str]:
    terms = terms_of(card)
    yield "library_name: caffezoo"
    yield f"license: {terms.identifier or 'other'}"
    if terms.identifier in (None, "other"):
        yield f"license_name: {json.dumps('see-terms')}"
        yield f"license_link: {json.dumps('README.md#terms')}"
    yield f"pipeline_tag: {_pipeline(card)}"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("caffezoo", "caffe", "pytorch", "safetensors"))
    if card.scores:
        yield "model-index:"
        yield f"- name: {json.dumps(printable(card.name))}"
        yield "  results:"
        for split, score in card.scores.items():
            yield "  - task:"
            yield f"      type: {_pipeline(card)}"
            yield "    dataset:"
            yield f"      name: {json.dumps(f'{_data(card)}, {printable(split)}')}"
            yield f"      type: {json.dumps(_data(card).lower().replace(' ', '-'))}"
            yield "    metrics:"
            yield "    - type: accuracy"
            yield f"      value: {score:.4f}"


def _pipeline(card: Card | LocalCard) -> str:
    task = card.task if isinstance(card, Card) else ""
    if "detect" in task or card.name in ("mtcnn", "opencv_res10_ssd"):
        return "object-detection"
    classes = card.labels or (isinstance(card, Card) and (card.labels_file or "age" in task or "classif" in task or "expression" in task))
    return "image-classification" if classes else "image-feature-extraction"


def _data(card: Card | LocalCard) -> str:
    """The data set's name, as far as the card says it."""
    # of a run: "RECIPE finetuned on DATA", the title that finetune gives it
    said = card.training if isinstance(card, Card) else card.title.rpartition(" finetuned on ")[2]
    return printable(re.split(r"[ ,:(]", said.strip() or "unstated", maxsplit=1)[0])


def _body(card: Card | LocalCard, facts: Facts) -> Iterator[str]:
    terms = terms_of(card)
    yield f"# {text(card.title)}"
    yield ""
    if isinstance(card, Card):
        yield f"{text(card.task[:1].upper() + card.task[1:])}. {facts.parameters:,} parameters."
    else:
        recipe = f" (recipe {text(card.recipe)})" if card.recipe else ""
        yield f"{text(card.architecture)}, trained with caffezoo{recipe}. {facts.parameters:,} parameters."
    yield ""
    yield "## Terms"
    yield ""
    yield f"**{text(terms.licence)}**"
    yield ""
    yield f"Stated by: {text(terms.source)}."
    if terms.identifier is None:
        yield ""
        yield "**No licence that lets others pass the weights on is known. Publish this folder only with the permission of their authors.**"
    yield ""
    yield from _use(card, facts)
    yield from _in_and_out(card, facts)
    yield from _measured(card)
    if isinstance(card, Card) and card.citation:
        yield from ("## Citation", "", text(card.citation), "")
    yield from ("## Files", "")
    yield from (f"- `{name}`: {what}" for name, what in facts.files.items())
    yield ""
    if isinstance(card, Card) and card.folder is None:
        yield from _origin(card)
    yield f"Written by caffezoo {__version__}."


def _use(card: Card | LocalCard, facts: Facts) -> Iterator[str]:
    name = f'"hf:OWNER/{facts.folder}"' if re.fullmatch(r"[\w.-]+", facts.folder) else '"hf:OWNER/NAME"'
    call = "model(model.preprocess(image)[None])" if facts.config.get("preprocess") is not None else "model(x)"
    yield from (
        "## Use",
        "",
        "```python",
        "import zoo",
        f"model = zoo.load({name})  # or this folder's path",
        f"result = {call}",
        "```",
        "",
    )
    if "net.py" in facts.files:
        yield "Without caffezoo, with torch alone:"
        yield from ("", "```python", "from net import load  # net.py and model.safetensors beside each other", "model = load()", "```", "")


def _in_and_out(card: Card | LocalCard, facts: Facts) -> Iterator[str]:
    yield from ("## Input and output", "")
    if isinstance(card, Card):
        yield f"- Input: {text(card.input)}"
    yield f"- Output: {text(facts.outputs)}"
    if card.labels:
        yield f"- Classes, in their order: {', '.join(map(text, card.labels))}"
    spec = card.preprocess
    if spec is not None:
        steps = []
        if spec.resize is not None:
            sides = spec.resize if isinstance(spec.resize, tuple) else (spec.resize,)
            steps.append(f"resized to {'×'.join(map(str, sides))}" + ("" if isinstance(spec.resize, tuple) else " (the shorter side)"))
        if spec.size is not None:
            steps.append(("cut from the centre: " if spec.resize is not None else "resized to ") + "×".join(map(str, spec.size)))
        mean = "the mean image in mean.safetensors" if isinstance(spec.mean, str) else ", ".join(f"{value:g}" for value in spec.mean)
        scale = ", ".join(f"{value:g}" for value in (spec.scale if isinstance(spec.scale, tuple) else (spec.scale,)))
        steps.append(f"channels {spec.channels} in 0..255, minus {mean}, times {scale}")
        yield f"- Preprocessing, which `model.preprocess(image)` does to an RGB image: {'; '.join(steps)}. Source: {text(spec.source)}"
    if card.crop is not None:
        aligned = "aligned by eyes, nose and mouth" if card.crop.align else "a square about the detector's box"
        yield f"- Faces: {aligned}, a margin of {card.crop.margin:+.0%} on every side. Source: {text(card.crop.source)}"
    yield ""


def _measured(card: Card | LocalCard) -> Iterator[str]:
    if card.scores:
        yield from ("## Scores", "", "| split | accuracy |", "|---|---:|")
        yield from (f"| {text(split)} | {score:.2%} |" for split, score in card.scores.items())
        yield ""
    if not isinstance(card, Card):
        return
    if card.training:
        yield from ("## Training", "", text(card.training), "")
    if card.notes:
        yield from ("## Notes", "", text(card.notes), "")
    if card.limits:
        yield from ("## Limits", "", *(f"- {text(limit)}" for limit in card.limits), "")


def _origin(card: Card) -> Iterator[str]:
    yield from ("## Where the weights come from", "")
    if card.origin:  # a converted copy's: no checksum of the authors' files speaks for it
        where, _, rest = card.origin.removeprefix("unverified: ").partition(" (sha256 ")
        yield "Unverified: not from the authors' files, but from a copy that somebody converted, "
        yield f"{text(Path(where).name)} (sha256 {text(rest)}."
        yield ""
        return
    for file in card.files:
        known = next((f", {each.algorithm} `{each.value}`" for each in file.checksums), "")
        yield f"- `{text(file.name)}`{known}" + "".join(f", <{mirror.url}>" for mirror in file.mirrors[:1])
    yield ""
