"""Every video recipe on CK+48, 10 folds by person, on frozen features: fills the section "## CK+48" of RESULTS.md.

    caffe-zoo fetch mobilefacenet                                                           or caffe-zoo add
    python benchmarks/ck48.py --data ck48_sequences.npz --out runs/ck48                     all rows; a finished one is skipped
    python benchmarks/ck48.py --data ck48_sequences.npz --out runs/ck48 --only clip_mean    one
    python benchmarks/ck48.py --out runs/ck48 --write RESULTS.md                            runs nothing, fills the table

A row without a finished run says "not run". What is measured is kept in the runs' folders only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from finetune import emotiw  # noqa: E402
from zoo.disk import replacing  # noqa: E402

FOLDS = 10
SHARED = f"--folds {FOLDS} --frozen --cpu"
# A head that is drawn learns next to nothing at 1e-5 in a few epochs, so the recipes after XiaoYee/emotion_classification get a rate for
# it; lr1e-4 stays ten times that.
OLDER = "--encoder mobilefacenet --epochs 15 --set training.batch_size=8 --set training.lr={}"
BEGIN, END = "<!-- ck48:begin -->", "<!-- ck48:end -->"


@dataclass(frozen=True)
class Row:
    """words: what python -m finetune.emotiw is given besides --recipe, --data, --out and SHARED; a run for each of the seeds."""

    recipe: str
    about: str
    words: str = ""
    seeds: tuple[int, ...] = (0,)

    def folder(self, seed: int) -> str:
        return self.recipe if seed == 0 else f"{self.recipe}-seed{seed}"


ROWS = (
    Row("clip_mean", "mean of the frames' features, one Linear", seeds=(0, 1, 2)),
    Row("clip_gru", "GRU"),
    Row("clip_attention", "learnt weights of the frames, one Linear"),
    Row("vgg_gru", "the layers of XiaoYee/emotion_classification's VGG + GRU on these features", OLDER.format(0.003)),
    Row("vgg_lstm_cell", "... with an LSTM cell", OLDER.format(0.003)),
    Row("vgg_lstm", "... with an LSTM", OLDER.format(0.003)),
    Row("vgg_lstm_lr1e-4", "... at ten times the rate", OLDER.format(0.03)),
    Row("resnet_gru_conv_dropout", "the layers of its ResNet + GRU on three depths", OLDER.format(0.003)),
    Row("resnet_gru", "... (the dropout that it lacks lies in the frozen part: the same net)", OLDER.format(0.003)),
    Row("resnet_gru_lr1e-4", "... at ten times the rate", OLDER.format(0.03)),
)


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
    known = [found for _, _, found in held if found is not None]
    table = [
        "| recipe | what reads the features | seed | mean of the folds | sd of the folds | standard error | all clips | mean recall |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, seed, found in held:
        if found is None:
            table.append(f"| `{row.recipe}` | {row.about} | {seed} | not run | | | | |")
            continue
        folds, scores = found["result"]["folds"], found["result"]["scores"]["test"]
        cells = [f"{folds[name]:.2%}" for name in ("mean", "standard_deviation", "standard_error")]
        whole = f"{scores['accuracy']:.2%} ± {scores['standard_error']:.2%}"
        table.append(f"| `{row.recipe}` | {row.about} | {seed} | {' | '.join(cells)} | {whole} | {scores['mean_recall']:.2%} |")
    text = [
        "327 sequences of 118 people (WuJie1010's CK+48, three frames each), seven classes with contempt. Ten folds; no person is in the",
        "training and the test part of one. The **last** epoch of each fold is reported; nothing was picked on the test part. Encoder:",
        "Caffe's MobileFaceNet, frozen, at three depths; its features of each frame in four views are computed once.",
        "",
    ]
    if known:
        best = max((found for found in known if found["config"]["seed"] == 0), key=lambda found: found["result"]["folds"]["mean"])
        name, folds = best["config"]["recipe"], best["result"]["folds"]
        low, high = min(folds["accuracies"]), max(folds["accuracies"])
        text += [
            f"Best at seed 0: `{name}`, {folds['mean']:.2%} ± {folds['standard_error']:.2%} (standard error over folds); its folds lie",
            f"between {low:.1%} and {high:.1%}. It is the best of several rows on the same clips: rows that lie within a standard error",
            "or two of each other are not ordered by this.",
        ]
        seeds = [found["result"]["folds"]["mean"] for found in known if found["config"]["recipe"] == name]
        if len(seeds) > 1:
            mean, deviation = statistics.fmean(seeds), statistics.stdev(seeds)
            text.append(f"Over {len(seeds)} seeds on the same folds: {mean:.2%}, standard deviation {deviation:.2%}.")
        text.append("")
    text += [*table, ""]
    if known:
        where = sorted({f"{found['environment']['device']}, torch {found['environment']['torch']}" for found in known})
        text += [f"Measured on {'; '.join(where)}. Data sha256 {known[0]['config']['data']['sha256'][:16]}…. Each row:", ""]
    text += ["```console", f"$ python -m finetune.emotiw --recipe NAME --data ck48_sequences.npz --out runs/ck48/NAME {SHARED}"]
    text += [f"$ python -m finetune.emotiw ... {OLDER.format('0.003')}   # vgg_*, resnet_*; *_lr1e-4: 0.03", "```", ""]
    text += [
        "The rows after XiaoYee/emotion_classification are its layers and its augmentation on another encoder, with a rate for layers",
        "that are drawn; they say that each recipe trains from end to end, nothing of AFEW.",
    ]
    return [BEGIN, *text, END]


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
    command.add_argument("--only", nargs="+", choices=[row.recipe for row in ROWS], default=[row.recipe for row in ROWS])
    command.add_argument("--write", type=Path, metavar="RESULTS.md")
    options = command.parse_args()
    os.environ.setdefault("CAFFEZOO_OFFLINE", "1")
    for row, seed in ((each, seed) for each in ROWS for seed in each.seeds):
        out = options.out / row.folder(seed)
        if options.data is not None and row.recipe in options.only and result_of(out) is None:
            words = ["--recipe", row.recipe, "--data", str(options.data), "--out", str(out), *SHARED.split(), *row.words.split()]
            if code := emotiw.main([*words, *(["--seed", str(seed)] if seed else []), "--resume"]):
                return code
    if options.write is not None:
        write(options.write, options.out)
    else:
        print("\n".join(lines(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
