"""Models that this project trained itself and ships: their weights lie in zoo/embedded, so that they load without a network.

Beside NAME.prototxt and NAME.caffemodel lies NAME.json, written with them by benchmarks/fer_mini.py: what was trained and what the
file itself reaches. The figures of a card are read from there, so that they cannot differ from those that were measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converter.preprocess import Preprocess
from zoo.cards.record import Card, Checksum, Crop, File, Network, Terms

FOLDER = Path(__file__).parents[1] / "embedded"
# In units of MTCNN's box: on 380 of FER2013's training images, enlarged four times with their edges repeated outwards, the box is 1.07
# times as high as the image (quartiles 0.95 and 1.15), its middle that of the image within 0.01.
FER2013_CROP = Crop(-0.03, source="measured: MTCNN's boxes in 380 of FER2013's training images")
MADE_HERE = "hashed by benchmarks/fer_mini.py when it wrote the file"

FER_MINI_LIMITS = (
    "The classes are seven words that annotators chose for pictures. They say how a face looked to somebody, not what its owner felt.",
    "The labels are noisy: Goodfellow et al. report 65 ± 5 % for people, and of the 314 private pictures that have a byte-identical copy in"
    " train or public, 16 have one with another label.",
    "The pictures came from an image search in 2013 for words of emotion combined with words of gender, age or ethnicity. Who is in them"
    " was not recorded, nor whether they agreed, so accuracy by group of people is unknown; do not assume that it is the same for all.",
    "Faces are those that a detector found, as 48×48 grey pixels: profiles, small or covered faces and other crops are outside of what was"
    " measured.",
    "Not for decisions about people: hiring, schooling, policing, credit, health, or watching anyone who has not agreed to it.",
)


def cards(folder: Path = FOLDER) -> tuple[Card, ...]:
    """The cards of the models whose files are in the folder."""
    path = folder / "fer_mini.json"
    return (fer_mini(folder, json.loads(path.read_bytes())),) if path.is_file() else ()


def fer_mini(folder: Path, facts: dict[str, Any]) -> Card:
    """The card of a small VGG trained on FER2013, with the figures of `facts`."""
    run, scores, private = facts["run"], facts["scores"], facts["scores"]["private"]
    weights = facts["files"]["fer_mini.caffemodel"]
    recall = ", ".join(f"{name} {share:.0%}" for name, share in private["recall"].items())
    return Card(
        name="fer_mini",
        title="Small VGG, trained by this project on FER2013",
        task="facial expression in seven words",
        files=(File("fer_mini.caffemodel", (), weights["size"], (Checksum("sha256", weights["sha256"], MADE_HERE),)),),
        networks=(Network("fer_mini.prototxt", "fer_mini.caffemodel"),),
        terms=Terms(
            "the weights: 3-clause BSD, as this package; FER2013, which they were trained on, states no licence, and its pictures (not"
            " included) belong to others: whether that bears on a use is for its user to judge",
            "LICENSE; of the data: arXiv 1307.0414",
            identifier="bsd-3-clause",
        ),
        citation="Goodfellow et al.: Challenges in Representation Learning, 2013 (the data); Simonyan, Zisserman: Very Deep Convolutional"
        " Networks, ICLR 2015 (the pattern of the net)",
        input="(N, 1, 44, 44), a grey face",
        outputs=f"logits (N, {len(facts['classes'])}): {', '.join(facts['classes'])}",
        preprocess=_preprocess(facts["preprocess"]),
        parameters=facts["parameters"],
        architecture="architectures:SmallVGG",
        labels=tuple(facts["classes"]),
        crop=FER2013_CROP,
        folder=folder,
        training=f"FER2013 as published ({_counts(facts['data']['counts'])} images), {facts['protocol']}; `{run['command']}`, commit"
        f" {run['commit']}; epoch {run['epoch']} of {run['epochs']}, {run['device']}",
        scores={name: each["accuracy"] for name, each in scores.items()},
        notes=f"Accuracy of this file in float32, one view: {private['accuracy']:.2%} ± {private['standard_error']:.2%} of all"
        f" {private['images']:,} private images, {scores['private without copies']['accuracy']:.2%} of the"
        f" {scores['private without copies']['images']:,} without a byte-identical copy in the other parts. Recall: {recall}."
        f" Calibration error {private['calibration_error']:.3f}. Kernels are stored in half precision.",
        limits=FER_MINI_LIMITS,
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _preprocess(facts: dict[str, Any]) -> Preprocess:
    height, width = facts["size"]
    return Preprocess((height, width), facts["channels"], tuple(facts["mean"]), facts["source"], facts["scale"], tuple(facts["resize"]))
