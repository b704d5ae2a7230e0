"""Writes the expression model that comes with the package, from a finished run of the recipe small_vgg on all of FER2013.

    python benchmarks/fer_mini.py RUN --data fer2013.csv --write docs/zoo.md

makes fer_mini.prototxt, fer_mini.caffemodel (kernels in half precision) and fer_mini.json in zoo/embedded: the run's weights through the
project's own exporter, loaded again through the converter, and measured in float32 on the private test as a user would run them.
--write puts its section into the zoo's page.
Exit status: 0, 1 where the run or the data are others.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zoo  # noqa: E402
from architectures import SmallVGG, load_from_caffe  # noqa: E402
from benchmarks.fer2013_tables import inserted, shareable  # noqa: E402
from converter import Preprocess, convert  # noqa: E402
from finetune.errors import FinetuneError  # noqa: E402
from finetune.images.data import Expressions, copied, read  # noqa: E402
from finetune.runs.metrics import read_json, scores  # noqa: E402
from zoo.cards.embedded import FOLDER, fer_mini  # noqa: E402
from zoo.cards.record import Card  # noqa: E402
from zoo.errors import ZooError  # noqa: E402

COUNTS = {"train": 28_709, "public": 3_589, "private": 3_589}
MOST_BYTES = 5_000_000
MEASURED = ("images", "accuracy", "standard_error", "mean_recall", "recall", "calibration_error", "negative_log_likelihood")


def embed(run: Path, data: Expressions, folder: Path) -> dict[str, Any]:
    """Writes the three files and returns what the .json holds."""
    config, environment, result = (read_json(run / f"{name}.json") for name in ("config", "environment", "result"))
    _check(config, data)
    model: Any = zoo.load(run)
    prototxt, weights = folder / "fer_mini.prototxt", folder / "fer_mini.caffemodel"
    folder.mkdir(exist_ok=True)
    zoo.save_caffe(model, prototxt, weights, half=True)
    if weights.stat().st_size > MOST_BYTES:
        raise FinetuneError(f"{weights} has {weights.stat().st_size:,} bytes; what comes with the package has {MOST_BYTES:,} at most")
    facts = {
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": list(model.labels),
        "preprocess": {**dataclasses.asdict(model.card.preprocess), "source": f"the recipe {config['recipe']}"},
        "data": {"name": config["data"]["name"], "sha256": data.sha256, "counts": data.counts()},
        "protocol": _protocol(config["protocol"], result["selected"]),
        "run": {
            "command": shareable(config["command"], run.name), "commit": environment["commit"], "device": environment["device"],
            "torch": environment["torch"], "seconds": result["seconds"], "epochs": config["config"]["training"]["epochs"],
            "epoch": result["selected"]["epoch"], "weights": result["selected"]["weights"],
            "private": result["scores"]["private"]["accuracy"],
        },
        "files": {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in (prototxt, weights)},
    }  # fmt: skip
    net = SmallVGG(len(model.labels))
    load_from_caffe(net, convert(prototxt, weights).state_dict())
    facts["scores"] = measured(net, model.preprocess, data)
    (folder / "fer_mini.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _check(config: Mapping[str, Any], data: Expressions) -> None:
    if config["data"]["sha256"] != data.sha256:
        raise FinetuneError(f"the run was trained on other data than {data.name} (sha256 {config['data']['sha256'][:16]}…)")
    if config["recipe"] != "small_vgg" or data.counts() != COUNTS:
        found = ", ".join(f"{split} {count:,}" for split, count in data.counts().items())
        raise FinetuneError(f"a run of {config['recipe']} on {found} images; what comes with the package is small_vgg on all of FER2013")


def _protocol(name: str, selected: Mapping[str, Any]) -> str:
    trained = "trained on train" if name == "honest" else "trained on train and public"
    return f"protocol {name}: {trained}, epoch picked on {selected['on']}, reported on private"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def measured(model: nn.Module, spec: Preprocess, data: Expressions) -> dict[str, Any]:
    """Scores of one view of the private images, with and without those that have a copy in train or public."""
    model.eval()
    rows = data.rows("private")
    labels, kept = data.labels[rows], ~copied(data, rows, data.rows("train", "public"))
    logits = _logits(model, torch.stack([spec(image[None]) for image in data.images[rows]]))
    found = {
        "private": scores(logits, labels, data.classes),
        "private without copies": scores(logits[kept], labels[kept], data.classes),
    }
    return {name: {field: each[field] for field in MEASURED} for name, each in found.items()}  # type: ignore[literal-required]


@torch.inference_mode()
def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in inputs.split(256)])


SECTION = """\
## The model that comes with the package

| name | model | loads as | terms | proven by |
|---|---|---|---|---|
| `{card.name}` | {card.title} | `{architecture}` | {card.terms.licence} | sha256 |

```python
model = zoo.load("fer_mini")  # no download, no cache
logits = model(model.preprocess(face)[None])  # face: uint8, grey or RGB; model.labels names the logits
```

It is stored as a Caffe net, a prototxt and a caffemodel of {megabytes:.1f} MB, and loaded through the converter like any other; OpenCV's
importer reads the same two files.

{training}

{notes}

{limits}

`caffe-zoo info fer_mini` prints all of it; `benchmarks/fer_mini.py` makes the files from a run's folder."""
MARKS = ("<!-- fer_mini:begin -->", "<!-- fer_mini:end -->")


def section(card: Card) -> str:
    """What the zoo's page says of the model: its card."""
    wrap = partial(textwrap.fill, width=140, break_long_words=False, break_on_hyphens=False)
    return SECTION.format(
        card=card,
        architecture=str(card.architecture).replace(":", "."),
        megabytes=sum(file.size or 0 for file in card.files) / 1e6,
        training=wrap(f"Trained on {card.training}."),
        notes=wrap(card.notes),
        limits="\n".join(wrap(f"- {limit}", subsequent_indent="  ") for limit in card.limits),
    )


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, help="the folder of the run")
    p.add_argument("--data", type=Path, required=True, help="FER2013, the same file")
    p.add_argument("--write", type=Path, metavar="docs/zoo.md", help="the page whose section of the model is written anew")
    p.add_argument("--out", type=Path, default=FOLDER, help="where the files go (default: zoo/embedded)")
    options = p.parse_args(argv)
    try:
        facts = embed(options.run, read(options.data), options.out)
    except (FinetuneError, ZooError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write:
        page = inserted(options.write.read_text(encoding="utf-8"), section(fer_mini(options.out, facts)), *MARKS)
        options.write.write_text(page, encoding="utf-8")
    for name, each in facts["scores"].items():
        print(f"{name:<34} {each['accuracy']:.2%} of {each['images']:,}")
    print(f"{options.out / 'fer_mini.caffemodel'}: {facts['files']['fer_mini.caffemodel']['size']:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
