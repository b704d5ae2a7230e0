"""Which part of the picture to show a finished run: the whole view, or the part that training showed on average.

    python benchmarks/fer2013_views.py --data fer2013.csv runs/mobilefacenet-0 runs/scratch-0

Training cuts out parts of augment.scale of the side; on average that is less than the whole, so a face comes larger than in the whole
view (Touvron et al. 2019, "Fixing the train-test resolution discrepancy"). One line a run and split: accuracy of one view at the
run's own size, of the part that training showed on average, and of both with their mirror images.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import zoo  # noqa: E402
from finetune.config import Augment, Training  # noqa: E402
from finetune.images.data import read  # noqa: E402
from finetune.images.task import ImageTask  # noqa: E402
from finetune.runs.metrics import mean_log_probability  # noqa: E402
from finetune.train.augment import middle  # noqa: E402
from finetune.train.device import accelerator_for  # noqa: E402
from finetune.train.task import predictor  # noqa: E402


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True, help="FER2013")
    p.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished run folders")
    options = p.parse_args()
    data, training = read(options.data), Training()
    accelerator = accelerator_for(training)
    splits = {"public": data.rows("public"), "private": data.rows("private")}
    print("| run | split | whole view | mean part | whole, mirrored too | mean part, mirrored too |\n| --- | --- | --- | --- | --- | --- |")
    for run in options.runs:
        low, high = json.loads((run / "config.json").read_bytes())["config"]["augment"]["scale"]
        net = zoo.load(run).to(accelerator.device)
        predict = predictor(net, accelerator, channels_last=True)
        task = ImageTask(data, splits | {"train": data.rows("train")}, net.preprocess, Augment(), accelerator.device)
        for split in splits:
            labels, cells = task.labels(split), []
            for mirrors in ((False,), (False, True)):
                for part in (middle(net.preprocess), (low + high) / 2):
                    views = [task.logits(predict, split, (part, 0.0, 0.0, mirrored)) for mirrored in mirrors]
                    right = (mean_log_probability(views).argmax(1) == labels).double().mean().item()
                    cells.append(f"{right:.2%} ({part:.3f})")
            print(f"| {run.name} | {split} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
