"""The command python -m finetune.demo: from Caffe's files to an expression read in a face, in three lines."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from finetune.command import exit_status_of
from finetune.demo.outputs import STORED, inputs, stored
from finetune.errors import FinetuneError
from finetune.predict.options import EXPRESSION_NOTE, LONGEST
from zoo.cards.record import Card
from zoo.terminal import say

if TYPE_CHECKING:
    from finetune.predict.rows import Row

NET = "fer_mini"
PICTURE = Path(__file__).with_name("astronaut.jpg")
MOST = 1e-5  # difference of the outputs, as a part of the largest one


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, 1 where something differs or is missing, 2 for a wrong command, 130 for Ctrl-C."""
    options = parser().parse_args(argv)
    return exit_status_of(lambda: demo(options.folder, options.verbose))


def demo(folder: Path, verbose: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{NET}.safetensors"
    card = zoo.info(NET)
    assert card.folder is not None
    # What comes with the package is copied, so that the commands that follow can be typed with it.
    files = (card.folder / f"{NET}.prototxt", card.folder / f"{NET}.caffemodel", PICTURE)
    prototxt, caffemodel, picture = (Path(shutil.copyfile(file, folder / file.name)) for file in files)
    if verbose:
        say(f"{_convert_caffe(verbose, prototxt)}\n")
    _convert_caffe(verbose, prototxt, caffemodel, "-o", state)
    say(f"Converted  {caffemodel}, a Caffe net of {card.parameters:,} parameters, into {state}")

    made_by, pictures, difference = compare(prototxt, state, card)
    if difference > MOST:
        raise FinetuneError(
            f"{state} gives other outputs than {made_by} computed from the Caffe files: they differ by {difference:.1e} of the largest one,"
            f" and {MOST:.0e} is allowed; please report it"
        )
    print(
        f"Compared   with {made_by} on the Caffe files: the same for {pictures} pictures (relative difference {difference:.0e})", flush=True
    )

    annotated, words = read_face(picture)
    say(f"Read       the face of an astronaut: {words}; see {annotated}\n")
    print(EXPRESSION_NOTE)
    say(f"\nNext, a picture of yours:\n  {python()} -m finetune.predict {NET} PHOTO.jpg --annotate {_quoted(folder / 'annotated')}")


def _convert_caffe(verbose: bool, *arguments: Path | str) -> str:
    """Runs the command convert-caffe, as its users do, and returns what it prints."""
    command = [sys.executable, "-m", "converter.cli", *map(str, arguments)]
    if verbose:
        say(f"$ convert-caffe {' '.join(_quoted(each) for each in arguments)}")
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "PYTHONIOENCODING": "utf-8"})
    if done.returncode:
        raise FinetuneError(done.stderr.strip() or f"convert-caffe ended in {done.returncode}")
    return done.stdout.rstrip()


def compare(prototxt: Path, state: Path, card: Card) -> tuple[str, int, float]:
    """Who computed the stored outputs, for how many pictures, and the largest difference as a part of the largest output."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    kept = stored()
    known = [each.value for each in card.files[0].checksums]
    if kept.caffemodel_sha256 not in known:
        raise FinetuneError(f"{STORED.name} was made of another {card.files[0].name}: python benchmarks/demo_outputs.py makes it anew")
    net: Any = zoo.load_caffe(prototxt)
    net.load_state_dict(load_file(state))
    with torch.inference_mode():
        logits = net(torch.from_numpy(inputs())).double().numpy()
    return kept.made_by, len(kept.logits), float(np.abs(logits - kept.logits).max() / np.abs(kept.logits).max())


def read_face(picture: Path) -> tuple[Path, str]:
    """The annotated picture, written beside it as the face itself is, and what the net reads in it, for people."""
    from PIL import Image

    from finetune.predict.detect import detector
    from finetune.predict.draw import annotated
    from finetune.predict.model import load_model
    from finetune.predict.outlet import marks
    from finetune.predict.pipeline import Answer, answers
    from finetune.predict.sources import Source, looks

    model = load_model(NET, "cpu")
    search = detector(None, "cpu", min_face=40, min_score=0.9, longest=LONGEST)
    items = looks(Source(picture, "image", picture.stem))
    answer = next(each for each in answers(items, model, search, batch=1, smooth=0, keep_images=True) if isinstance(each, Answer))
    if answer.look.image is None or answer.rows[0].probabilities is None:
        raise FinetuneError(f"no face found in {picture} ({answer.look.problem or search.name}); please report it")
    whole = Image.fromarray(answer.look.image)
    assert answer.rows[0].box is not None
    x, y, width, height = (round(each) for each in answer.rows[0].box)
    whole.crop((x, y, x + width, y + height)).save(picture.with_name("face.jpg"), quality=92)
    path = picture.with_name(f"{picture.stem}_annotated.jpg")
    Image.fromarray(annotated(answer.look.image, marks(answer.rows), model.labels)).save(path, quality=92)
    return path, _words(answer.rows[0], model.labels)


def _words(row: Row, labels: Sequence[str]) -> str:
    assert row.probabilities is not None
    best = row.probabilities.argsort()[::-1][:3]
    return ", ".join(f"{labels[index]} {row.probabilities[index]:.0%}" for index in best)


def python() -> str:
    """The Python that runs this, as one types it from here."""
    path = Path(sys.executable)
    here = Path.cwd()
    return _quoted(path.relative_to(here) if path.is_relative_to(here) else path)


def _quoted(path: Path | str) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python -m finetune.demo",
        description="Converts the Caffe net that comes with the package, compares it with another implementation's outputs, and reads a"
        " face with it. Asks no other machine.",
    )
    command.add_argument("folder", nargs="?", type=Path, default=Path("demo-out"), help="where the results go (default demo-out)")
    command.add_argument("-v", "--verbose", action="store_true", help="print the commands and the net's layers, too")
    return command


if __name__ == "__main__":
    sys.exit(main())
