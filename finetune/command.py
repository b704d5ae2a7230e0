"""What the commands share: the recipes' options, and how a command ends."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from finetune import renamed
from finetune.errors import FinetuneError, Stopped
from finetune.overrides import changed, parse_settings
from zoo.errors import ZooError
from zoo.terminal import Parser, missing, notes, say


class Recipe(Protocol):
    """A recipe, as far as its command knows it."""

    @property
    def about(self) -> str: ...
    @property
    def smoke(self) -> Mapping[str, Any]: ...


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def parser(
    module: str, about: str, recipes: Mapping[str, Recipe], protocols: Sequence[str], renamed_recipes: Mapping[str, str] | None = None
) -> argparse.ArgumentParser:
    """The options that every recipe has. `protocols` are the choices of --protocol."""
    widest = max(map(len, recipes))
    listed = "\n".join(f"  {name:<{widest}}  {recipe.about}" for name, recipe in recipes.items())
    page = {"finetune.emotiw": "docs/emotiw.md"}.get(module, "docs/finetune.md")
    command = Parser(
        prog=f"python -m {module}",
        description=about,
        epilog=f"recipes:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--recipe", required=True, type=renamed.option("--recipe", renamed_recipes or {}), choices=recipes, metavar="NAME",
        help="one of the recipes below",
    )  # fmt: skip
    command.add_argument("--data", required=True, type=Path, metavar="PATH", help=f"the data; {page} names the layouts")
    command.add_argument("--out", required=True, type=Path, metavar="RUN", help="the run's folder")
    command.add_argument("--smoke", action="store_true", help="a run of a minute on a CPU, on a part of the data: does it work at all?")
    command.add_argument("--init", metavar="WHAT", help="initial weights: a model of the zoo, the folder of a run, or none")
    command.add_argument(
        "--protocol", type=renamed.option("--protocol", renamed.PROTOCOLS), choices=protocols,
        help="which part of the data trains and which picks the epoch (the recipe's)",
    )  # fmt: skip
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


def recipe_from(recipe: AnyRecipe, options: argparse.Namespace) -> AnyRecipe:
    """The recipe changed by --smoke, then by --seed, --epochs, --init and --protocol, then by --set."""
    if options.smoke:
        recipe = changed(recipe, recipe.smoke)
    short = {f"training.{name}": getattr(options, name) for name in ("seed", "epochs") if getattr(options, name) is not None}
    short |= {name: getattr(options, name) for name in ("init", "protocol") if getattr(options, name) is not None}
    settings = parse_settings(options.settings)
    if isinstance(old := settings.get("protocol"), str):
        settings["protocol"] = renamed.option("protocol", renamed.PROTOCOLS)(old)
    return changed(recipe, {**short, **settings})


def command_line(module: str, argv: Sequence[str]) -> str:
    """The command as it was given, to be run again."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    start = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', world)}" if world > 1 else "python"
    return f"{start} -m {module} {shlex.join(argv)}"


def exit_status_of(work: Callable[[], object]) -> int:
    """Runs a command's work: 0 when it is done, 1 when it fails, for a reason that goes to standard error.

    130 and 143 after Ctrl-C and SIGTERM, as a shell reports them; 2 is argparse's, for a command that cannot be understood.
    """
    with notes():
        try:
            work()
            leave_group()
        except Stopped as stopped:
            leave_group()
            print("stopped; the state is saved: the same command with --resume continues", file=sys.stderr)
            return 128 + stopped.signal
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (FinetuneError, ZooError) as error:
            say(f"error: {error}", sys.stderr)
            return 1
        except ImportError as error:
            if (reason := missing(error)) is None:
                raise
            say(f"error: {reason}", sys.stderr)
            return 1
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            say(f"error: {where}{error.strerror or error}", sys.stderr)
            return 1
    return 0


def leave_group() -> None:
    """Takes this process out of its group: one that ends while another still talks to it is aborted (gloo)."""
    if "torch" not in sys.modules:
        return
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.barrier()
        group.destroy_process_group()
