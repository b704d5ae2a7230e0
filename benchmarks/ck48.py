"""Every video recipe on CK+48, 10 folds by person, on frozen features: fills the section "## CK+48" of RESULTS.md.

    caffe-zoo fetch mobilefacenet                                                           or caffe-zoo add
    python benchmarks/ck48.py --data ck48_sequences.npz --out runs/ck48                     all rows; a finished one is skipped
    python benchmarks/ck48.py --data ck48_sequences.npz --out runs/ck48 --only clip_mean    one
    python benchmarks/ck48.py --data ... --out runs/ck48 --small-vgg runs/small_vgg         also the rows on a net trained on FER2013
    python benchmarks/ck48.py --out runs/ck48 --write RESULTS.md                            runs nothing, fills the table

The table has the rows that were run; one line below it names the others. What is measured is kept in the runs' folders only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from finetune import emotiw  # noqa: E402
from zoo.disk import replacing  # noqa: E402

FOLDS = 10
SHARED = f"--folds {FOLDS} --frozen --cpu"
# A head that is drawn learns next to nothing at 1e-5 in a few epochs, so the published recipes get another; lr1e-4 has ten times that.
PUBLISHED = "--encoder {} --epochs 15 --set training.batch_size=8 --set training.lr={}"
SMALL_VGG = "SMALL_VGG_RUN"  # stands for the folder that --small-vgg names
BEGIN, END = "<!-- ck48:begin -->", "<!-- ck48:end -->"


@dataclass(frozen=True)
class Row:
    """options: what python -m finetune.emotiw is given besides --recipe, --data, --out and SHARED; a run for each of the seeds."""

    recipe: str
    about: str
    options: str = ""
    seeds: tuple[int, ...] = (0,)
    name: str = ""  # of the run's folder, where it isn't the recipe's

    def folder(self, seed: int) -> str:
        name = self.name or self.recipe
        return name if seed == 0 else f"{name}-seed{seed}"


def small_vgg(recipe: str, about: str, options: str = f"--encoder {SMALL_VGG}") -> Row:
    """A recipe on SmallVGG, which was trained on FER2013's expressions: what XiaoYee/emotion_classification did with VGG-Face."""
    return Row(recipe, f"SmallVGG trained on FER2013: {about}", options, name=f"{recipe}-small_vgg")


ROWS = (
    Row("clip_mean", "mean of the frames' features, one Linear", seeds=(0, 1, 2)),
    Row("clip_gru", "GRU"),
    Row("clip_attention", "learnt weights of the frames, one Linear"),
    Row("vgg_gru", "the layers of XiaoYee/emotion_classification's VGG + GRU on these features", PUBLISHED.format("mobilefacenet", 0.003)),
    Row("vgg_lstm_cell", "... with an LSTM cell", PUBLISHED.format("mobilefacenet", 0.003)),
    Row("vgg_lstm", "... with an LSTM", PUBLISHED.format("mobilefacenet", 0.003)),
    Row("vgg_lstm_lr1e-4", "... at ten times the rate", PUBLISHED.format("mobilefacenet", 0.03)),
    Row("resnet_gru_conv_dropout", "the layers of its ResNet + GRU on three depths", PUBLISHED.format("mobilefacenet", 0.003)),
    Row(
        "resnet_gru", "... (the dropout that it lacks lies in the frozen part: the same net)", PUBLISHED.format("mobilefacenet", 0.003)
    ),
    Row("resnet_gru_lr1e-4", "... at ten times the rate", PUBLISHED.format("mobilefacenet", 0.03)),
    small_vgg("clip_gru", "GRU"),
    small_vgg("vgg_gru", "the layers of XiaoYee/emotion_classification's VGG + GRU", PUBLISHED.format(SMALL_VGG, 0.003)),
    small_vgg("vgg_lstm", "... with an LSTM", PUBLISHED.format(SMALL_VGG, 0.003)),
)  # fmt: skip


Measured = tuple[Row, int, dict[str, Any]]  # a row, a seed, and what result_of() found


def result_of(folder: Path) -> dict[str, Any] | None:
    """What a finished row found, or None."""
    if not (folder / "result.json").is_file():
        return None
    found = {name: json.loads((folder / f"{name}.json").read_bytes()) for name in ("result", "config", "environment")}
    if found["config"].get("folds") != FOLDS or "--smoke" in found["config"]["command"]:
        raise SystemExit(f"{folder}: no run of {FOLDS} folds on all of the data; give --out another folder")
    return found


def lines(out: Path) -> list[str]:
    """The section, between its marks."""
    held = [(row, seed, result_of(out / row.folder(seed))) for row in ROWS for seed in row.seeds]
    known = [(row, seed, found) for row, seed, found in held if found is not None]
    return [BEGIN, *about_data(), *about_best(known), *table(known), *about_rest(held), *about_commands(known), END]


def about_data() -> list[str]:
    return [
        "327 sequences of 118 people (WuJie1010's CK+48, three frames each), seven classes with contempt. Ten folds; no person is in the",
        "training and the test part of one. The **last** epoch of each fold is reported; nothing was picked on the test part. Encoder:",
        "Caffe's MobileFaceNet, frozen, at three depths, where the table says nothing else; its features of each frame in four views are",
        "computed once.",
        "",
    ]


def about_best(known: Sequence[Measured]) -> list[str]:
    """The best row at seed 0, and what that does not say."""
    if not known:
        return []
    row, _, found = max((each for each in known if each[1] == 0), key=lambda each: each[2]["result"]["folds"]["mean"])
    folds = found["result"]["folds"]
    low, high = min(folds["accuracies"]), max(folds["accuracies"])
    text = [
        f"Best at seed 0: `{row.folder(0)}`, {folds['mean']:.2%} ± {folds['standard_error']:.2%} (standard error over folds); its folds",
        f"lie between {low:.1%} and {high:.1%}. It is the best of several rows on the same clips: rows that lie within a standard error",
        "or two of each other are not ordered by this.",
    ]
    seeds = [other["result"]["folds"]["mean"] for each, _, other in known if each == row]
    if len(seeds) > 1:
        mean, deviation = statistics.fmean(seeds), statistics.stdev(seeds)
        text.append(f"Over {len(seeds)} seeds on the same folds: {mean:.2%}, standard deviation {deviation:.2%}.")
    return [*text, ""]


def table(known: Sequence[Measured]) -> list[str]:
    text = [
        "| recipe | what reads the features | seed | mean of the folds | sd of the folds | standard error | all clips | mean recall |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, seed, found in known:
        folds, scores = found["result"]["folds"], found["result"]["scores"]["test"]
        cells = [f"{folds[name]:.2%}" for name in ("mean", "standard_deviation", "standard_error")]
        whole = f"{scores['accuracy']:.2%} ± {scores['standard_error']:.2%}"
        text.append(f"| `{row.recipe}` | {row.about} | {seed} | {' | '.join(cells)} | {whole} | {scores['mean_recall']:.2%} |")
    return [*text, ""]


def about_rest(held: Sequence[tuple[Row, int, dict[str, Any] | None]]) -> list[str]:
    missing = [row.folder(seed) for row, seed, found in held if found is None]
    return [f"Not run yet: {', '.join(missing)}.", ""] if missing else []


def about_commands(known: Sequence[Measured]) -> list[str]:
    text = []
    if known:
        where = sorted({f"{found['environment']['device']}, torch {found['environment']['torch']}" for _, _, found in known})
        text += [f"Measured on {'; '.join(where)}. Data sha256 {known[0][2]['config']['data']['sha256'][:16]}…. Each row:", ""]
    lr = PUBLISHED.format("mobilefacenet", "0.003")
    return [
        *text,
        "```console",
        f"$ python -m finetune.emotiw --recipe NAME --data ck48_sequences.npz --out runs/ck48/NAME {SHARED}",
        f"$ python -m finetune.emotiw ... {lr}   # vgg_*, resnet_*; *_lr1e-4: 0.03",
        "$ python -m finetune.emotiw ... --encoder runs/small_vgg   # SmallVGG: the folder of a run of finetune.fer2013 --recipe small_vgg",
        "```",
        "",
        "The rows after XiaoYee/emotion_classification are its layers and its augmentation on another encoder, with a rate for layers",
        "that are drawn; they say that each recipe trains from end to end, nothing of AFEW. Those on SmallVGG repeat that project's chain",
        "in small: a net learns the expressions of single images first, then time is read above it.",
    ]


def write(path: Path, out: Path) -> None:
    """Replaces what lies between the marks, or appends the section."""
    text = path.read_text(encoding="utf-8") if path.is_file() else "# Results\n"
    section = "\n".join(lines(out))
    before, begin, rest = text.partition(BEGIN)
    if begin:
        text = before + section + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n## CK+48\n\n{section}\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> int:
    command = argparse.ArgumentParser(description="The video recipes on CK+48, by person.")
    command.add_argument("--data", type=Path, help="ck48_sequences.npz; without it nothing is run")
    command.add_argument("--out", type=Path, required=True, help="folder of the runs")
    names = [row.folder(0) for row in ROWS]
    command.add_argument("--only", nargs="+", choices=names, default=names)
    command.add_argument("--small-vgg", type=Path, metavar="RUN", help="a finished run of finetune.fer2013 --recipe small_vgg")
    command.add_argument("--write", type=Path, metavar="RESULTS.md")
    options = command.parse_args()
    os.environ.setdefault("CAFFEZOO_OFFLINE", "1")
    for row, seed in ((each, seed) for each in ROWS for seed in each.seeds):
        out = options.out / row.folder(seed)
        if options.data is None or row.folder(0) not in options.only or result_of(out) is not None:
            continue
        if SMALL_VGG in row.options and options.small_vgg is None:
            print(f"{row.folder(seed)}: left out; it needs --small-vgg RUN", file=sys.stderr)
            continue
        own = [str(options.small_vgg) if word == SMALL_VGG else word for word in row.options.split()]
        given = ["--recipe", row.recipe, "--data", str(options.data), "--out", str(out), *SHARED.split(), *own]
        if code := emotiw.main([*given, *(["--seed", str(seed)] if seed else []), "--resume"]):
            return code
    if options.write is not None:
        write(options.write, options.out)
    else:
        print("\n".join(lines(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
