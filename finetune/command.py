"""What the recipes' commands share: their options, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from finetune.errors import FinetuneError
from finetune.overrides import changed, parse_settings
from zoo.errors import ZooError

AnyRecipe = TypeVar("AnyRecipe")

FAILED = 2
STOPPED = 143  # what a shell reports of a process that SIGTERM ended


def parser(module: str, about: str, recipes: Mapping[str, Any]) -> argparse.ArgumentParser:
    """The options that every recipe has."""
    listed = "\n".join(f"  {name:<16} {recipe.about}" for name, recipe in recipes.items())
    command = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=about,
        epilog=f"recipes:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--recipe", required=True, choices=recipes, metavar="NAME", help="one of the recipes below")
    command.add_argument("--data", required=True, type=Path, metavar="PATH", help="the data; docs/finetune.md names the layouts")
    command.add_argument("--out", required=True, type=Path, metavar="RUN", help="the run's folder")
    command.add_argument("--smoke", action="store_true", help="a run of a minute on a CPU, on a part of the data: does it work at all?")
    command.add_argument("--init", metavar="WHAT", help="initial weights: a model of the zoo, the folder of a run, or none")
    command.add_argument("--seed", type=int, metavar="N", help="short for --set training.seed=N")
    command.add_argument("--epochs", type=int, metavar="N", help="short for --set training.epochs=N")
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="settings",
        help="changes a field of the recipe, as in training.lr=0.02 or input.size=[64,64]",
    )  # fmt: skip
    command.add_argument("--cpu", action="store_true", help="does not use the GPU")
    kept = command.add_mutually_exclusive_group()
    kept.add_argument("--resume", action="store_true", help="continues the run in RUN, if there is one")
    kept.add_argument("--overwrite", action="store_true", help="replaces the run in RUN")
    return command


def chosen(recipe: AnyRecipe, options: argparse.Namespace) -> AnyRecipe:
    """The recipe with --smoke, --seed, --epochs and --set carried out, in this order."""
    if options.smoke:
        recipe = changed(recipe, recipe.smoke)  # type: ignore[attr-defined]
    short = {f"training.{name}": getattr(options, name) for name in ("seed", "epochs") if getattr(options, name) is not None}
    if options.init is not None:
        short["init"] = options.init
    return changed(recipe, {**short, **parse_settings(options.settings)})


def words(module: str, argv: Sequence[str]) -> str:
    """The command as it was given, to be run again."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    start = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', world)}" if world > 1 else "python"
    return f"{start} -m {module} {shlex.join(argv)}"


def carried_out(work: Callable[[], None]) -> int:
    """Runs a command's work and returns its exit code; what went wrong goes to standard error in words."""
    from finetune.train.loop import Stopped

    with plain_warnings():
        try:
            work()
            leave()
        except Stopped:
            leave()
            print("stopped; the state is saved: the same command with --resume continues", file=sys.stderr)
            return STOPPED
        except (FinetuneError, ZooError) as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        except OSError as error:
            print(f"error: {error.filename or ''}{': ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
            return FAILED
    return 0


def leave() -> None:
    """Takes this process out of its group: one that ends while another still talks to it is aborted (gloo)."""
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.barrier()
        group.destroy_process_group()


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as a line without the place in the code."""
    before = warnings.formatwarning

    def plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
        return f"note: {message}\n" if category is UserWarning else before(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before
