"""What the zoo knows of a model: frozen records without behaviour. The records themselves are found by registry.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from converter.preprocess import Preprocess

Algorithm = Literal["sha256", "sha384", "sha1", "md5", "git-blob-sha1"]


@dataclass(frozen=True)
class Checksum:
    """One published checksum. `source` says who published it and where: a value without a source is not a checksum."""

    algorithm: Algorithm
    value: str  # lower-case hexadecimal
    source: str


@dataclass(frozen=True)
class Archive:
    """The tar or zip that a mirror serves in place of the file itself."""

    member: str  # the file's path inside
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()


@dataclass(frozen=True)
class Mirror:
    url: str
    archive: Archive | None = None


@dataclass(frozen=True)
class File:
    """One file of a model as it lies in the cache.

    `size` is in bytes, None where it is not known; `checksums` is empty where none has been published.
    Files that are not `needed` (label lists) are taken along when the archive that holds them passes by.
    """

    name: str
    mirrors: tuple[Mirror, ...]
    size: int | None = None
    checksums: tuple[Checksum, ...] = ()
    needed: bool = True


@dataclass(frozen=True)
class Network:
    """One Caffe net of a model: its weights (a File), its structure (a File, or a file in zoo/prototxt) and the
    submodule of the architecture that it fills ("" for the whole)."""

    prototxt: str
    weights: str
    submodule: str = ""


@dataclass(frozen=True)
class Crop:
    """How much of a picture around a face a model was trained with.

    Not `align`: an upright square about the middle of MTCNN's box. Its side is the box's longer one, and `margin` times that more on
    every side. `align`: turned and scaled so that eyes, nose and mouth lie where ydwen/caffe-face's alignment has them in 112×96
    pixels (finetune.video.faces.REFERENCE), `margin` times the height more on every side.
    """

    margin: float = 0.0
    align: bool = False
    source: str = ""  # who says so
    size: tuple[int, int] | None = None  # (height, width) of aligned crops that were resized to the input; None: cut in its size


@dataclass(frozen=True)
class Threshold:
    """From which cosine similarity on two embeddings are taken for one person's. `source`: on what it was measured, and how well it did."""

    cosine: float
    source: str


@dataclass(frozen=True)
class Terms:
    """What the authors allow, in short, and who says so. `ask`: the user has to agree before the first use.

    `identifier` is the licence that lets others pass the weights on, as the Hugging Face Hub's front matter names it; None where nobody
    has granted one.
    """

    licence: str
    source: str
    ask: bool = False
    identifier: str | None = None


@dataclass(frozen=True)
class Card:
    name: str
    title: str
    task: str
    files: tuple[File, ...]
    networks: tuple[Network, ...]
    terms: Terms
    citation: str
    input: str  # what goes in, as a shape
    outputs: str  # what comes out
    preprocess: Preprocess
    parameters: int | None  # learnable numbers of the net, BatchNorm's statistics not counted; None: not known
    architecture: str | None = None  # "package:Class"; None loads the converted Caffe net
    classifier: str | None = None  # the Caffe layer that num_classes replaces, where there is no architecture
    labels: tuple[str, ...] = ()
    labels_file: str | None = None  # the File that holds them, one a line, where there are too many to stand here
    notes: str = ""
    threshold: Threshold | None = None  # None: nobody has measured one
    crop: Crop | None = None  # None: the model reads whole pictures, or nobody says what it sees of a face
    folder: Path | None = None  # where the files of a model lie that this project trained and ships; no other model has one
    training: str = ""  # of such a model: the data, the protocol, the command
    scores: Mapping[str, float] = field(default_factory=dict)  # accuracy, 0..1
    limits: tuple[str, ...] = ()  # what it is not for, and why
    structure: str = ""  # a file of zoo/prototxt for converted copies, where the authors' prototxt comes with their weights only
    origin: str = ""  # where the weights come from, where they are a converted copy's and not the authors'; "unverified: ..."


@dataclass(frozen=True)
class LocalCard:
    """A model that lies with the user: a run folder of finetune (its card.json), or a Caffe net of theirs."""

    name: str  # the folder's name, or the net's
    title: str
    path: Path  # the run folder, or the prototxt
    architecture: str  # a public class of the package architectures, or "caffe"
    arguments: Mapping[str, object]  # that it is built with
    preprocess: Preprocess | None  # None where the input is no image
    classifier: str | None = None  # of a Caffe net: the layer that num_classes replaces, where it is clear which
    labels: tuple[str, ...] = ()
    recipe: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    crop: Crop | None = None  # None: card.json doesn't say
    terms: Terms | None = None  # of a folder made for the Hub: what its config.json says
