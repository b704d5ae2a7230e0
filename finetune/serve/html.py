"""The answer and the model's card as HTML. Every text of a file, a card or a label passes escape(); pictures are data: addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape as quoted

import numpy as np

from finetune.predict.crops import told
from finetune.predict.draw import annotated, colours
from finetune.predict.model import FaceModel
from finetune.predict.options import EXPRESSION_NOTE, OTHER_NOTE, detector_words
from finetune.predict.outlet import marks
from finetune.predict.rows import Row
from finetune.serve.reader import MOST_BYTES, MOST_PIXELS, Reading
from zoo.cards.record import Card
from zoo.errors import printable

MOST_BARS = 10
MOST_FACES = 20
LIMITS = (
    "What is shown is an apparent expression: what a net, trained on labels that people disagree about, reads from pixels. It is not what"
    " somebody feels.",
    "Not for decisions about people: hiring, schooling, policing, credit, health, or watching anyone who has not agreed to it.",
    "Weaker on children, and on everybody whom the training data show rarely.",
)
STYLE = """
footer { display: none !important }
.zoo-view { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start }
.zoo-view img { flex: 3 1 260px; width: 0; max-width: 100%; max-height: 70vh; object-fit: contain; object-position: left top }
.zoo-faces { flex: 2 1 220px; display: flex; flex-wrap: wrap; gap: 16px }
.zoo-face { flex: 1 1 200px; max-width: 460px; border: 1px solid #8884; border-radius: 6px; padding: 10px 14px }
.zoo-face h3 { margin: 0 0 8px; font-size: 1.05em }
.zoo-bar { display: grid; grid-template-columns: 5.5em 1fr 3em; gap: 8px; align-items: center; margin: 3px 0 }
.zoo-bar .name { overflow-wrap: anywhere }
.zoo-bar .track { background: #8883; height: 14px; border-radius: 3px; overflow: hidden }
.zoo-bar .fill { display: block; height: 100%; min-width: 1px }
.zoo-bar .value { text-align: right; font-variant-numeric: tabular-nums }
.zoo-note { border-left: 4px solid #d55e00; padding: 2px 12px; margin: 6px 0 }
.zoo-card dt { font-weight: 600; margin-top: 6px }
.zoo-card dd { margin: 0 0 0 1em; overflow-wrap: anywhere }
"""


def escape(text: str) -> str:
    return quoted(printable(text))


def welcome() -> str:
    return f"""<div class="zoo-answer" data-status="waiting"><p>Drop a picture at the left, paste one, or use the camera. A file has at most
{MOST_BYTES >> 20} MB and {MOST_PIXELS // 1_000_000} million pixels. It is read in this machine's memory and kept nowhere.</p></div>"""


def answer(reading: Reading, model: FaceModel) -> str:
    """The picture with its boxes, and the bars of each face."""
    if reading.image is None:
        return f'<div class="zoo-answer" data-status="unreadable"><p>This cannot be read: {escape(reading.problem)}.</p></div>'
    rows = [row for row in reading.rows if row.probabilities is not None]
    status = reading.rows[0].status
    picture = _address(annotated(reading.image, marks(rows), model.labels, top=1))
    words = {"no_face": "No face was found.", "whole_image": "Read as a whole."}.get(status, f"{len(rows)} face{'s' * (len(rows) != 1)}")
    more = f"<p>The {MOST_FACES} largest are listed.</p>" if len(rows) > MOST_FACES else ""
    faces = "".join(_face(row, model.labels) for row in rows[:MOST_FACES])
    return (
        f'<div class="zoo-answer" data-status="{status}" data-faces="{len(rows)}"><p>{words}</p>'
        f'<div class="zoo-view"><img alt="the picture with boxes around its faces" src="{picture}">'
        f'<div class="zoo-faces">{faces}</div></div>{more}</div>'
    )


def _face(row: Row, labels: Sequence[str]) -> str:
    assert row.probabilities is not None
    best = np.argsort(-row.probabilities, kind="stable")[:MOST_BARS]
    known = colours(labels)
    head = escape(labels[best[0]]) if row.face is None else f"{row.face}: {escape(labels[best[0]])}"
    bars = "".join(_bar(labels[each], row.probabilities[each], known[each]) for each in best)
    return f'<div class="zoo-face"><h3>{head}</h3>{bars}</div>'


def _bar(label: str, share: float, colour: tuple[int, int, int]) -> str:
    name = escape(label)
    return (
        f'<div class="zoo-bar" role="meter" aria-label="{name}" aria-valuemin="0" aria-valuemax="1" aria-valuenow="{share:.4f}">'
        f'<span class="name">{name}</span><span class="track"><span class="fill" style="width:{100 * share:.1f}%;'
        f'background:rgb{colour}"></span></span><span class="value">{share:.0%}</span></div>'
    )


def _address(image: np.ndarray) -> str:
    from PIL import Image

    body = io.BytesIO()
    Image.fromarray(image).save(body, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(body.getvalue()).decode()}"


def heading(model: FaceModel) -> str:
    return f'<h1>What {escape(model.name)} reads in faces</h1><p class="zoo-note">{escape(_note(model))}</p>'


def _note(model: FaceModel) -> str:
    note = (EXPRESSION_NOTE if model.expressions else OTHER_NOTE).removeprefix("note: ")
    return note[0].upper() + note[1:]


def card(model: FaceModel, detector: str) -> str:
    """What is known of the model, and what it is not for."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in _facts(model, detector) if words)
    own = model.net.card.limits if isinstance(model.net.card, Card) else ()
    limits = [*own, *LIMITS] if model.expressions and not own else own or (_note(model),)
    listed = "".join(f"<li>{escape(each)}</li>" for each in limits)
    return f'<div class="zoo-card"><h3>Limits</h3><ul>{listed}</ul><h3>What is known of it</h3><dl>{facts}</dl></div>'


def _facts(model: FaceModel, detector: str) -> Iterator[tuple[str, str]]:
    known = model.net.card
    yield "model", f"{known.name}: {known.title}"
    yield "labels", _listed(model.labels)
    yield "faces", detector_words(detector, model.crop.align)
    if detector != "none":
        yield "crop", told(model.crop)
    yield "scores", _scores(known.scores)
    if isinstance(known, Card):
        yield "terms", f"{known.terms.licence} (stated by: {known.terms.source})"
        yield "training", known.training
        yield "citation", known.citation
        yield "notes", known.notes
    else:
        yield "recipe", known.recipe
    yield "sha256", model.sha256


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) if len(labels) <= 30 else f"{len(labels)}: {', '.join(labels[:10])}, ..."


def _scores(scores: Mapping[str, float]) -> str:
    return "; ".join(f"{name} {value:.1%}" for name, value in scores.items())
