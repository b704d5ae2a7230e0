"""caffe-zoo: the zoo from the command line. Tables for people, --json for programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from converter import __version__
from zoo import disk
from zoo.cards import registry
from zoo.cards.record import Card
from zoo.errors import CacheError, PictureError, ZooError, counted
from zoo.files import copies, parts, store
from zoo.files.fetch import clean, fetch, verify
from zoo.foreign.adding import add
from zoo.terminal import Parser, missing, notes, require, say


class Terminated(KeyboardInterrupt):
    """SIGTERM came; it ends a command as Ctrl-C does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 usage (argparse's), 130 for Ctrl-C, 143 for SIGTERM."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.run is None:
        parser.exit(2, parser.format_help())
    try:
        with _terminable(), notes():
            value, text, status = options.run(options)
            say(json.dumps(value, indent=1, default=str) if options.json else text)
            return int(status)
    except BrokenPipeError:  # caffe-zoo list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ZooError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
    except ImportError as error:
        if (reason := missing(error)) is None:
            raise
        return _failed(reason)
    except KeyboardInterrupt as interruption:
        print("caffe-zoo: interrupted; what has come is kept", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(interruption, Terminated) else signal.SIGINT)


def _failed(reason: str) -> int:
    say(f"caffe-zoo: {reason}", sys.stderr)
    return 1


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises Terminated inside the block."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # where Python sets no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


Answer = tuple[Any, str, int]  # for programs, for people, exit status
LEGEND = {
    "no checksum": "no checksum: none has been published; fetch takes --allow-unverified, and pins what comes",
    "bring your own": "bring your own: no link to it is left; caffe-zoo add NAME FILE takes a file that you have",
}
LIST_NEXT = "caffe-zoo info NAME tells everything about a model; caffe-zoo fetch NAME downloads it."


def _width() -> int | None:
    """Columns of the terminal; None where the text goes to a file or a program, which gets it whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _list(options: argparse.Namespace) -> Answer:
    rows = [{"name": card.name, "task": card.task, "state": _state(card), "licence": card.terms.licence} for card in registry.CARDS]
    text = _table(["name", "task", "state", "licence"], rows, _width())
    if _width() is not None:
        text = "\n".join([text, "", *(LEGEND[state] for state in LEGEND if any(row["state"] == state for row in rows)), LIST_NEXT])
    return rows, text, 0


def _info(options: argparse.Namespace) -> Answer:
    card = copies.info(options.name)
    value = dataclasses.asdict(card)
    lines = [f"{card.name}: {card.title}", ""]
    facts = {
        "task": card.task,
        "input": card.input,
        "output": card.outputs,
        "preprocessing": _preprocessing(card),
        "face": _crop(card),
        "same person": "" if card.threshold is None else f"cosine from {card.threshold.cosine:g} on ({card.threshold.source})",
        "parameters": "unknown" if card.parameters is None else f"{card.parameters:,}",
        "loads as": card.architecture or "the converted Caffe net",
        "terms": f"{card.terms.licence} (stated by: {card.terms.source})",
        "citation": card.citation,
        "training": card.training,
        "notes": card.notes,
        "limits": "\n".join(card.limits),
        "state": _state(card),
        "weights": card.origin,
    }
    lines += [line for key, text in facts.items() if text for line in _paragraph(f"{key + ':':15}", text)]
    for file in card.files:
        lines += ["", f"  {file.name}, {'size unknown' if file.size is None else f'{file.size:,} bytes'}"]
        lines += [f"    from {mirror.url}" for mirror in file.mirrors]
        known = list(file.checksums)
        known += [each for mirror in file.mirrors if mirror.archive for each in mirror.archive.checksums]
        lines += [f"    {each.algorithm} {each.value}\n      {each.source}" for each in dict.fromkeys(known)]
        if not known:
            lines.append("    no checksum has been published")
    return value, "\n".join(lines), 0


def _fetch(options: argparse.Namespace) -> Answer:
    files = fetch(
        options.name,
        accept_terms=options.accept_terms,
        allow_unverified=options.allow_unverified,
        allow_unverified_http=options.allow_unverified_http,
        progress=False if options.json else None,
    )
    return _paths(files)


def _add(options: argparse.Namespace) -> Answer:
    files = add(
        options.name,
        options.path,
        accept_terms=options.accept_terms,
        allow_unverified=options.allow_unverified,
        channels=options.channels,
    )
    value, text, status = _paths(files)
    if copies.COPY.name in files and (receipt := store.receipt_of(files[copies.COPY.name])) is not None:
        value |= {"origin": receipt.origin, "proof": receipt.proof}
        text = f"{text}\n  unverified: {receipt.origin}\n  {receipt.proof}"
    return value, text, status


def _verify(options: argparse.Namespace) -> Answer:
    findings = verify(options.name)
    needed = {file.name for file in registry.card_of(options.name).files if file.needed}
    rows = [dataclasses.asdict(finding) for finding in findings]
    stands_in = copies.COPY.name in {each.file for each in findings if each.state == "pinned"}
    needed = set() if stands_in else needed
    lacking = any(each.state == "missing" and each.file in needed for each in findings)
    text = _table(["file", "state", "detail"], rows)
    if lacking:
        text += f"\ncaffe-zoo fetch {options.name} brings what is missing"
    return rows, text, int(lacking or any(each.state == "wrong" for each in findings))


def _export(options: argparse.Namespace) -> Answer:
    from zoo.models.export import save_caffe
    from zoo.models.named import load

    if options.hub is not None:
        return _export_hub(options)
    if options.output is None:
        raise ZooError("export writes a Caffe net, -o NET.caffemodel, or a folder for the Hugging Face Hub, --hub FOLDER; name one")
    if not options.output.name:
        raise ZooError(f"-o {options.output} is a folder; name the file, such as -o {options.output / 'net.caffemodel'}")
    prototxt = options.prototxt or options.output.with_suffix(".prototxt")
    model = load(options.name, accept_terms=options.accept_terms)
    compared = save_caffe(model, prototxt, options.output, half=options.half)
    value, text, status = _paths({"prototxt": prototxt, "caffemodel": options.output})
    proof = [f"{each.blob}: differs by at most {each.difference:.0e} of the largest value from {each.reference}" for each in compared]
    return {**value, "compared": [dataclasses.asdict(each) for each in compared]} if compared else value, "\n".join([text, *proof]), status


def _export_hub(options: argparse.Namespace) -> Answer:
    from zoo.models.hub import described, write_hub
    from zoo.models.named import load

    if options.output is not None or options.prototxt is not None or options.half:
        raise ZooError("--hub writes a folder of its own; leave out -o, --prototxt and --half")
    model = load(options.name, accept_terms=options.accept_terms)
    files = write_hub(model, options.hub, accept_terms=options.accept_terms, check=not options.no_check)
    return {name: str(path) for name, path in files.items()}, described(files, model.card), 0


def _embed(options: argparse.Namespace) -> Answer:
    from tqdm import tqdm

    from zoo.embedding import embed_pictures, pictures_in, save_npz

    paths = pictures_in(options.paths)
    if not paths:
        raise PictureError(f"no pictures in {', '.join(map(str, options.paths))}")
    if not options.output.parent.is_dir():
        raise PictureError(f"{options.output}: there is no folder {options.output.parent}; make it first")
    model = _model(options)
    with tqdm(total=len(paths), unit="picture", disable=True if options.json else None) as bar:
        found = embed_pictures(model, paths, batch=options.batch, seen=lambda: bar.update(1))
    save_npz(found, options.output)
    count, width = found.vectors.shape
    made = counted(count - len(found.failures), "embedding")
    text = [f"{options.output}: {made} of {counted(width, 'number')}, from {counted(count, 'picture')}"]
    text += [f"  no embedding: {path}: {reason}" for path, reason in found.failures]
    value = {"path": str(options.output), "embeddings": count - len(found.failures), "size": width, "failures": dict(found.failures)}
    return value, "\n".join(text), int(bool(found.failures))


def _compare(options: argparse.Namespace) -> Answer:
    from zoo.embedding import compare, lines

    found = compare(_model(options), options.a, options.b)
    return {**dataclasses.asdict(found), "same": found.same}, "\n".join(lines(found)), 0


def _model(options: argparse.Namespace) -> Any:
    """The model that embed and compare name; a run's too. Nothing is fetched for them."""
    from zoo.files.hub import is_hub
    from zoo.models.named import load
    from zoo.models.runs import is_run

    require("PIL.Image")
    if is_hub(options.name):
        return load(options.name)
    if is_run(options.name):
        return load(Path(options.name))
    card = registry.card_of(options.name)
    if _state(card) not in ("cached", "a copy", "in the package"):
        raise PictureError(f"{card.name} is not in the cache; fetch it first: caffe-zoo fetch {card.name}")
    return load(card.name)


def _where(options: argparse.Namespace) -> Answer:
    card = registry.card_of(options.name) if options.name else None
    place = disk.home() if card is None else card.folder or store.folder(card)
    return {"path": str(place)}, str(place), 0


def _clean(options: argparse.Namespace) -> Answer:
    gone = clean(options.name, everything=options.all)
    return [str(path) for path in gone], "\n".join([*map(str, gone), f"{counted(len(gone), 'file')} removed"]), 0


def _state(card: Card) -> str:
    if card.folder is not None:
        return "in the package"
    place = store.folder(card)
    needed = [file for file in card.files if file.needed]
    try:
        if all(store.cached(place, file) for file in needed):
            return "cached"
        if copies.copy_of(card) is not None:
            return "a copy"
    except CacheError:  # which the other commands explain
        return "a link: refused"
    if any(path.suffix == ".part" for path in parts.leftovers(place)):
        return "partly fetched"
    if not all(file.mirrors for file in needed):
        return "bring your own"
    proven = all(file.checksums or any(m.archive and m.archive.checksums for m in file.mirrors) for file in needed)
    return "to be fetched" if proven else "no checksum"


def _crop(card: Card) -> str:
    """What the model sees of a face, "" where it sees whole pictures."""
    crop = card.crop
    if crop is None:
        return ""
    shape = "aligned by five points" if crop.align else "a square about the detector's box"
    return f"{shape}, {crop.margin:+.0%} on every side ({crop.source})" if crop.margin else f"{shape} ({crop.source})"


def _preprocessing(card: Card) -> str:
    spec = card.preprocess
    steps = []
    if spec.resize is not None:
        steps.append(f"shorter side {spec.resize}" if isinstance(spec.resize, int) else "×".join(map(str, spec.resize)))
    if spec.size is not None:
        steps.append(("" if spec.resize is None else "centre crop ") + "×".join(map(str, spec.size)))
    mean = spec.mean if isinstance(spec.mean, str) else " ".join(map(str, spec.mean))
    scale = " ".join(f"{each:g}" for each in (spec.scale if isinstance(spec.scale, tuple) else (spec.scale,)))
    steps.append(f"{spec.channels} in 0..255, minus {mean}, times {scale}")
    return f"{', '.join(steps)} ({spec.source})"


def _paths(files: dict[str, Path]) -> Answer:
    return {name: str(path) for name, path in files.items()}, "\n".join(map(str, files.values())), 0


def _paragraph(key: str, text: str) -> Iterator[str]:
    """Lines of a fact, wrapped to the terminal and indented behind its key; whole where nobody looks."""
    width, indent = _width(), " " * (len(key) + 2)
    for number, part in enumerate(text.split("\n")):
        start = f"  {key}" if number == 0 else indent
        if width is None:
            yield start + part
        else:
            yield from textwrap.wrap(
                part, max(width, 60), initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )


def _table(columns: list[str], rows: Sequence[Mapping[str, object]], width: int | None = None) -> str:
    """Left-aligned columns; the last one as long as it is, or cut off where the terminal's `width` ends."""
    widths = [max(len(column), *(len(str(row[column])) for row in rows)) for column in columns[:-1]]
    lines = [columns, *([str(row[column]) for column in columns] for row in rows)]
    text = ["  ".join([*map(str.ljust, line, widths), line[-1]]) for line in lines]
    least = sum(widths) + 2 * len(widths) + 12  # a narrower terminal wraps
    return "\n".join(line if width is None or len(line) <= max(width, least) else f"{line[: max(width, least) - 1]}…" for line in text)


def _npz(text: str) -> Path:
    if not text.endswith(".npz"):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a name that ends in .npz")
    return Path(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number from 1")
    return int(text)


def _parser() -> Parser:
    shared = Parser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON")
    consent = Parser(add_help=False)
    consent.add_argument("--accept-terms", action="store_true", help="agree to the model's terms")
    consent.add_argument("--allow-unverified", action="store_true", help="accept a file without a published checksum, and pin what came")
    parser = Parser(
        prog="caffe-zoo",
        description="Pretrained Caffe weights: downloaded from their authors, verified, converted once.",
        epilog="The cache is $CAFFEZOO_HOME, or the user's cache directory. CAFFEZOO_OFFLINE=1 switches the network off.",
    )
    parser.add_argument("--version", action="version", version=f"caffezoo {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="command")

    named = "a model of the zoo, as caffe-zoo list names it"

    def command(name: str, run: object, help: str, *parents: Parser) -> Parser:
        added = commands.add_parser(name, help=help, description=help, parents=[shared, *parents])
        added.set_defaults(run=run)
        return added

    command("list", _list, "all models, and which are in the cache")
    command("info", _info, "everything that is known about a model").add_argument("name", help=named)
    fetching = command("fetch", _fetch, "download a model's files into the cache", consent)
    fetching.add_argument("name", help=named)
    fetching.add_argument("--allow-unverified-http", action="store_true", help="... also one that comes over http, unprotected on its way")
    command("verify", _verify, "check the cached files against the published checksums").add_argument("name", help=named)
    adding = command("add", _add, "bring in a file that you have, after the same checks as fetch", consent)
    adding.add_argument("name", help=named)
    adding.add_argument("path", help="the authors' archive, one of the model's files, or a copy converted to PyTorch or Keras")
    adding.add_argument(
        "--channels",
        choices=("RGB", "BGR"),
        help="of a converted copy: the order in which its first layer takes the image, where it is not the form's usual one",
    )
    exporting = command("export", _export, "write a model, or the run in a folder, as a Caffe net or for the Hugging Face Hub")
    exporting.add_argument("name", help="a model, or the folder of a finetuning run")
    exporting.add_argument("-o", "--output", type=Path, metavar="NET.caffemodel", help="the weights of a Caffe net")
    exporting.add_argument("--prototxt", type=Path, help="its structure; without it NET.prototxt")
    exporting.add_argument("--hub", type=Path, metavar="FOLDER", help="a folder to upload: weights, config.json, net.py, a model card")
    exporting.add_argument("--no-check", action="store_true", help="with --hub: do not run net.py in a fresh process to compare")
    exporting.add_argument("--accept-terms", action="store_true", help="agree to the model's terms, which --hub's reader gets, too")
    exporting.add_argument("--half", action="store_true", help="kernels in half precision, NVIDIA Caffe's form")
    crops = "each picture is one face, cut out (and aligned) as caffe-zoo info says"
    embedding = command("embed", _embed, f"write the embeddings of pictures as .npz; {crops}")
    embedding.add_argument("name", help="a model, or the folder of a finetuning run")
    embedding.add_argument("paths", nargs="+", metavar="PATH", help="pictures, and folders of them")
    embedding.add_argument("-o", "--output", type=_npz, required=True, metavar="FEATURES.npz")
    embedding.add_argument("--batch", type=_positive, default=32, metavar="N", help="pictures that the net sees at once (default 32)")
    comparing = command("compare", _compare, f"how alike a model finds two faces; {crops}")
    comparing.add_argument("name", help="a model, or the folder of a finetuning run")
    comparing.add_argument("a", type=Path, metavar="A", help="a picture")
    comparing.add_argument("b", type=Path, metavar="B", help="another")
    command("where", _where, "print the cache's path, or a model's").add_argument("name", nargs="?", help=named)
    cleaning = command("clean", _clean, "remove unfinished downloads and converted weights")
    cleaning.add_argument("name", nargs="?", help=f"{named}; without it, all of them")
    cleaning.add_argument("--all", action="store_true", help="the authors' files, pins and accepted terms as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
