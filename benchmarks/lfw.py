"""From which cosine on are two faces one person's? Measured for a model of the zoo on pairs of pictures, as LFW's.

    python benchmarks/lfw.py mobilefacenet FOLDER --pairs 1600

FOLDER has pairs.csv with the columns a, b (files, in FOLDER or FOLDER/images) and same (0 or 1). Prints the ten-fold accuracy (each
tenth of the pairs judged with the threshold that is best on the others, as LFW's protocol has it), the threshold that is best on all,
and how often different people reach it. The threshold of a card comes from here.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, which has a zoo.py
import zoo
from zoo.embedding import embed_pictures

THRESHOLDS = np.arange(-0.2, 0.9, 0.005)
FOLDS = 10


def cosines(model: str, folder: Path, count: int | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(cosine, whether it is the same person) of the pairs, or of `count` drawn ones."""
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    random.Random(seed).shuffle(pairs)
    pairs = pairs[:count]
    names = sorted({pair[side] for pair in pairs for side in "ab"})
    place = folder / "images" if (folder / "images").is_dir() else folder
    found = embed_pictures(zoo.load(model), [place / name for name in names])
    if found.failures:
        raise SystemExit("\n".join(f"{path}: {reason}" for path, reason in found.failures))
    unit = dict(zip(names, found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True), strict=True))
    return np.array([unit[pair["a"]] @ unit[pair["b"]] for pair in pairs]), np.array([pair["same"] == "1" for pair in pairs])


def best(cosine: np.ndarray, same: np.ndarray) -> float:
    """The threshold that judges most pairs rightly; the middle of several."""
    right = np.array([((cosine >= threshold) == same).mean() for threshold in THRESHOLDS])
    return float(THRESHOLDS[right == right.max()].mean())


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("model")
    command.add_argument("folder", type=Path)
    command.add_argument("--pairs", type=int, help="so many, drawn (default: all)")
    options = command.parse_args()
    cosine, same = cosines(options.model, options.folder, options.pairs)
    fold = np.arange(len(cosine)) % FOLDS
    right = [((cosine[fold == k] >= best(cosine[fold != k], same[fold != k])) == same[fold == k]).mean() for k in range(FOLDS)]
    threshold = best(cosine, same)
    print(f"{len(cosine)} pairs, {same.sum()} of one person")
    print(f"ten-fold accuracy {np.mean(right):.2%} ± {np.std(right) / FOLDS**0.5:.2%}")
    reached = [(cosine[group] >= threshold).mean() for group in (same, ~same)]
    print(f"threshold {threshold:.3f}: reached by {reached[0]:.2%} of the same, {reached[1]:.2%} of the others")


if __name__ == "__main__":
    main()
