"""The card that most models have: one caffemodel, and one prototxt for it."""

from __future__ import annotations

from converter.preprocess import Preprocess
from zoo.cards.record import Card, Crop, File, Network, Terms, Threshold


def one_net(
    name: str,
    title: str,
    weights: File,
    *,
    task: str,
    terms: Terms,
    citation: str,
    input: str,
    outputs: str,
    preprocess: Preprocess,
    parameters: int | None,
    prototxt: str = "",
    extra_files: tuple[File, ...] = (),
    architecture: str | None = None,
    classifier: str | None = None,
    labels: tuple[str, ...] = (),
    labels_file: str | None = None,
    crop: Crop | None = None,
    threshold: Threshold | None = None,
    notes: str = "",
    structure: str = "",
) -> Card:
    """`prototxt` is a file of zoo/prototxt, <name>.prototxt without it, or one of `extra_files`, which come with the weights."""
    return Card(
        name=name,
        title=title,
        task=task,
        files=(weights, *extra_files),
        networks=(Network(prototxt or f"{name}.prototxt", weights.name),),
        terms=terms,
        citation=citation,
        input=input,
        outputs=outputs,
        preprocess=preprocess,
        parameters=parameters,
        architecture=architecture,
        classifier=classifier,
        labels=labels,
        labels_file=labels_file,
        crop=crop,
        threshold=threshold,
        notes=notes,
        structure=structure,
    )
