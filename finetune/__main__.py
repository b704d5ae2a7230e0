"""python -m finetune: which commands there are."""

from __future__ import annotations

import sys

COMMANDS = {
    "demo": "the first minute: a Caffe net converted, compared, and a face read with it",
    "predict": "faces in pictures, folders, videos or a camera, and what a net reads in them",
    "serve": "the same on a page of this machine",
    "fer2013": "train expressions on images",
    "emotiw": "train expressions on clips",
    "prepare_video": "cut the faces out of videos, for emotiw",
    "ensemble": "finished runs side by side",
}


def main() -> int:
    """Prints them. Exit status 2 without a question: there is nothing that this command does by itself."""
    widest = max(map(len, COMMANDS))
    lines = [f"  python -m finetune.{name:<{widest}}  {what}" for name, what in COMMANDS.items()]
    asked = sys.argv[1:] in (["--help"], ["-h"])
    print("\n".join(["commands, each with --help:", *lines]), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
