"""The command python -m finetune.serve: a local page for what a net reads in faces."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from finetune.command import exit_status_of
from finetune.predict.options import EXPRESSION_NOTE, OTHER_NOTE, add_face_options, detector_words, model_and_detector
from zoo.terminal import Parser, require, say


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 after Ctrl-C or SIGTERM, 1 where the page cannot be shown, 2 for a wrong command."""
    options = parser().parse_args(argv)
    status = exit_status_of(lambda: serve(options))
    return 0 if status == 130 else status


def serve(options: argparse.Namespace) -> None:
    """Shows the page until somebody ends it. Raises FinetuneError and ZooError."""
    from finetune.serve.keep import keeping

    require("PIL.Image", "gradio", extra="serve")
    with terminable(), keeping() as keep:
        from finetune.serve import app

        app.require_gradio(keep)
        with app.bound(options.host, options.port) as taken:
            from finetune.serve.reader import Reader

            model, search = model_and_detector(options)
            page = app.application(Reader(model, search, keep), options.host)
            print(EXPRESSION_NOTE if model.expressions else OTHER_NOTE, file=sys.stderr)
            if not app.is_loopback(options.host):
                say(
                    f"note: everybody who reaches {options.host} can use this page; there is no password and no encryption, and browsers"
                    " open a camera only for https or for 127.0.0.1",
                    sys.stderr,
                )
            say(f"{model.name} on {model.device}; faces: {detector_words(search.name, model.crop.align)}", sys.stderr)
            where = app.folder_words(keep.path)
            say(f"{app.address_of(taken)}  (Ctrl-C ends it; pictures stay in {where} until they are read)")
            app.run(page, taken)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the folder of uploads goes, too."""
    if threading.current_thread() is not threading.main_thread():  # where Python sets no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parser() -> argparse.ArgumentParser:
    command = Parser(
        prog="python -m finetune.serve",
        description="A page on this machine: drop a picture or use the camera, and see the faces and what a net reads in each.",
        epilog="Needs the extra serve; fetches nothing, keeps no picture, asks no other machine.",
    )
    add = command.add_argument
    add("model", metavar="MODEL_OR_RUN", help="a model of the zoo that has labels, or the folder of a run")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default 127.0.0.1: this machine only)")
    add("--port", type=port, default=7860, metavar="N", help="default 7860; 0 takes any that is free")
    add_face_options(command)
    return command


def port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a port from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
