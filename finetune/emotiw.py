"""Facial expressions from video: trains a face net on frames and what reads them in time, and leaves a run folder.

    python -m finetune.emotiw --recipe vgg_gru --data AFEW-faces --out runs/vgg_gru --init best7164.model
    python -m finetune.emotiw --recipe clip_mean --data ck48_sequences.npz --out runs/ck48 --folds 10 --frozen

The data are clips in folders by class, list files, CK+ or npz: finetune.clips.read_clips says which. A recipe is a frozen record with
the source of its numbers; --set changes any of them. docs/emotiw.md goes from an AFEW download to a trained model.
"""

from __future__ import annotations

import csv
import hashlib
import json
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from finetune.command import command_line, exit_status_of, parser, recipe_from
from finetune.config import Augment, Sampling, Training, as_json
from finetune.errors import FinetuneError, SizesDiffer
from finetune.labels import LABEL_ORDERS, canonical
from finetune.overrides import changed
from finetune.protocol import ClipProtocol
from finetune.train.job import Prepared, card_of, carry_through, check, from_run, settings_of
from zoo import Preprocess, info

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from finetune.clips.data import Clips
    from finetune.clips.records import Lists
    from finetune.protocol import Plan
    from finetune.runs.folder import Run

MODULE = "finetune.emotiw"
FROZEN_VIEWS = 4


@dataclass(frozen=True)
class Recipe:
    """What a run is, but for its data.

    encoder     the net that sees the frames: one of ENCODERS, or a model of the zoo that loads as a class of architectures
    arguments   of the net around it: VGGFaceRNN, FaceResNetRNN, or for other encoders FaceClipNet
    init        the encoder's initial weights: a model of the zoo, a run's folder, a file of the older project, or "none"
    views       0 trains the encoder, too; else it is frozen and its features are computed once, in so many views
    protocol    "best-on-reported" picks the epoch on the videos that are reported, as was usual; "last" takes the last epoch; "honest"
                picks it on other videos: val, where test is reported, or a tenth of train
    smoke       what --smoke changes; smoke_clips: how many it takes of train and of each other split
    """

    name: str
    about: str
    source: str
    encoder: str
    input: Preprocess
    augment: Augment
    sampling: Sampling
    training: Training
    arguments: Mapping[str, Any] = field(default_factory=dict)
    init: str = "none"
    views: int = 0
    protocol: ClipProtocol = "best-on-reported"
    smoke: Mapping[str, Any] = field(default_factory=dict)
    smoke_clips: tuple[int, int] = (12, 6)


@dataclass(frozen=True)
class Encoder:
    """A net for frames. `net` is the class of architectures that --init must give; `taps`: widths of its features, by depth."""

    net: str
    input: Preprocess
    init: str
    taps: tuple[int, ...] = ()


ENCODERS = {
    "vgg_face": Encoder("VGGFace", info("vgg_face").preprocess, "vgg_face"),
    "face_resnet": Encoder("FaceResNet", info("center_loss_face").preprocess, "none"),
    "mobilefacenet": Encoder("MobileFaceExpression", info("mobilefacenet").preprocess, "mobilefacenet", (128, 128, 512)),
    "small_resnet": Encoder("SmallResNet", Preprocess((48, 48), "RGB", (127.5,) * 3, "finetune.fer2013's recipe scratch", 1 / 64), "none"),
}

# --- the recipes ----------------------------------------------------------------------------------------------------------------------

OLDER = "XiaoYee/emotion_classification, {}: augmentation, rates, normalisation, windows and choice of epoch"
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The crop's borders move by up to 20 % of the side, outwards into black (PIL's crop); every frame has draws of its own.
OLDER_AUGMENT = Augment(flip=0.5, jitter=0.2, hue=0.1, saturation=1.5, exposure=1.5, outside="zeros")
# A video shorter than 16 frames repeats its last one, and the repetitions count; frames behind the last whole window are dropped.
OLDER_SAMPLING = Sampling(frames=16, stride=8, draw="random", augment="frame", padding="count", tail=False)
OLDER_TRAINING = Training(
    epochs=120, batch_size=1, lr=1e-5, momentum=0.9, nesterov=False, weight_decay=5e-5, decay_all=True, schedule="constant",
    step_epochs=25, cycle_epochs=10, cycle_factor=10.0, precision="no", channels_last=False,
)  # fmt: skip
SMOKE = {"training.epochs": 1, "training.batch_size": 2, "sampling.frames": 4, "sampling.stride": 4, "init": "none"}


def imagenet(height: int, width: int) -> Preprocess:
    """RGB in 0..1 minus ImageNet's mean, over its deviation."""
    mean = tuple(255 * value for value in IMAGENET_MEAN)
    scale = tuple(1 / (255 * value) for value in IMAGENET_DEVIATION)
    return Preprocess((height, width), "RGB", mean, "XiaoYee/emotion_classification, dataset.py", scale)


def older(name: str, about: str, encoder: Literal["vgg_face", "face_resnet"], lr: float, **arguments: Any) -> Recipe:
    """A row of the older project's table."""
    vgg = encoder == "vgg_face"
    return Recipe(
        name=name,
        about=about,
        source=OLDER.format("VGG_GRU" if vgg else "Resnet_GRU"),
        encoder=encoder,
        input=imagenet(224, 224) if vgg else imagenet(112, 96),
        augment=OLDER_AUGMENT,
        sampling=OLDER_SAMPLING,
        training=replace(OLDER_TRAINING, lr=lr, epochs=120 if vgg else 200),
        arguments={"dropout": 0.8, **arguments},
        init="best7164.model" if vgg else "best_resnet.model",
        smoke=SMOKE,
        smoke_clips=(4, 2),
    )


def ours(name: str, about: str, **arguments: Any) -> Recipe:
    """A pretrained MobileFaceNet with what later work does: one draw of the augmentation a clip, segments, masked padding."""
    return Recipe(
        name=name,
        about=about,
        source="input: honghuCode/mobileFacenet-ncnn; segments: TSN (ECCV 2016); attention: FAN (ICIP 2019); rates: ours",
        encoder="mobilefacenet",
        input=ENCODERS["mobilefacenet"].input,
        augment=Augment(flip=0.5, scale=(0.85, 1.05), shift=0.05, rotation=10, brightness=0.2, contrast=0.2),
        sampling=Sampling(frames=16, stride=8, draw="segments", augment="clip", padding="masked", tail=True),
        training=Training(
            epochs=30, batch_size=16, lr=1e-3, backbone_lr=1e-5, optimizer="adamw", weight_decay=0.01, warmup_epochs=2, label_smoothing=0.1,
            channels_last=False,
        ),
        arguments={"norm": True, "dropout": 0.5, **arguments},
        init="mobilefacenet",
        protocol="last",
        smoke={**SMOKE, "training.batch_size": 4, "training.warmup_epochs": 0, "input.size": (48, 48)},
    )  # fmt: skip


RECIPES = {
    recipe.name: recipe
    for recipe in (
        older("vgg_gru", "VGG-Face to fc6 and a GRU: 51.19 % there", "vgg_face", 1e-5, rnn="gru"),
        older("vgg_lstm_cell", "... and an LSTM cell, stepped by hand: 49.87 % there", "vgg_face", 1e-5, rnn="lstm_cell"),
        older("vgg_lstm", "... and an LSTM: 49.08 % there", "vgg_face", 1e-5, rnn="lstm"),
        older("vgg_lstm_lr1e-4", "... at ten times the rate: 47.76 % there", "vgg_face", 1e-4, rnn="lstm"),
        older(
            "resnet_gru_conv_dropout", "face ResNet, three depths with a GRU each, dropout on feature maps: 50.13 % there", "face_resnet",
            1e-5, rnn="gru", conv_dropout=0.4,
        ),
        older("resnet_gru", "... without that dropout: 48.29 % there", "face_resnet", 1e-5, rnn="gru", conv_dropout=0.0),
        older("resnet_gru_lr1e-4", "... at ten times the rate: 46.97 % there", "face_resnet", 1e-4, rnn="gru", conv_dropout=0.0),
        ours("clip_mean", "MobileFaceNet at three depths, the mean over the frames: what the others have to beat", rnn="none"),
        ours("clip_gru", "... and a GRU", rnn="gru"),
        ours("clip_attention", "... and learnt weights of the frames", rnn="none", pooling="attention"),
    )
}  # fmt: skip


def with_encoder(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another net for the frames, and with that net's own input and weights."""
    import zoo

    if name == recipe.encoder:
        return recipe
    known = ENCODERS.get(name)
    if known is None:
        card = zoo.info(name)
        package, _, net = (card.architecture or "").partition(":")
        if package not in ("", "architectures") or isinstance(card.preprocess.mean, str) or card.preprocess.size is None:
            raise FinetuneError(f"--encoder {name}: no net of one input size with a mean of three numbers; {', '.join(ENCODERS)} are")
        known = Encoder(net or "caffe", card.preprocess, name)
    kept = {key: value for key, value in recipe.arguments.items() if key in ("rnn", "hidden_size", "dropout", "pooling")}
    if name not in ("vgg_face", "face_resnet"):
        kept |= {key: value for key, value in recipe.arguments.items() if key in ("norm", "projection")}
        if recipe.encoder == "face_resnet":  # a recurrent net for each depth, behind a Linear
            kept |= {"branches": known.taps, "projection": 512}
    return replace(recipe, encoder=name, input=known.input, init=known.init, arguments=kept)


# --- one run --------------------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    command = parser(MODULE, "Trains a net on clips of faces and measures it.", RECIPES, get_args(ClipProtocol))
    command.add_argument("--encoder", metavar="NAME", help=f"another net for the frames: {', '.join(ENCODERS)}, or a model of the zoo")
    command.add_argument("--frozen", action="store_true", help="trains what lies above the encoder, on features computed once")
    command.add_argument("--folds", type=int, metavar="K", help="trains K times, each time testing other people; takes the last epoch")
    command.add_argument("--lists", nargs="+", metavar="[SPLIT=]FILE", help="list files, where they lie elsewhere or don't say their split")
    command.add_argument("--class-index", type=Path, metavar="FILE", help="a classInd.txt, for another order of the classes")
    options = command.parse_args(argv)

    def work() -> None:
        from finetune.protocol import plan_clips
        from finetune.train.device import accelerator_for

        recipe = RECIPES[options.recipe]
        if options.encoder is not None:
            recipe = with_encoder(recipe, options.encoder)
        if options.frozen:
            recipe = changed(recipe, {"training.freeze": "cnn", "views": FROZEN_VIEWS})
        recipe = recipe_from(recipe, options)
        if options.folds is not None and options.protocol not in (None, "last"):
            raise FinetuneError("--folds takes the last epoch: every clip is tested once, and none is left to pick an epoch on")
        check_clips(recipe)
        accelerator = accelerator_for(recipe.training, cpu=options.cpu)
        with accelerator.main_process_first():
            data = read_data(options.data, recipe, lists_of(options.lists), options.class_index)
        kept = {"accelerator": accelerator, "resume": options.resume, "overwrite": options.overwrite, "command": command_line(MODULE, argv)}
        if options.folds is not None:
            in_folds(replace(recipe, protocol="last"), data, options.out, options.folds, smoke=options.smoke, **kept)
            return
        plan = plan_clips(data, recipe.protocol, partial(held_out, data))
        if options.smoke:
            plan = sampled(plan, data, recipe)
        finetune(recipe, data, plan, options.out, **kept)

    return exit_status_of(work)


def finetune(
    recipe: Recipe,
    data: Clips,
    plan: Plan,
    out: Path,
    *,
    accelerator: Accelerator,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    more: Mapping[str, Any] | None = None,
) -> None:
    """One run, from the plan to the report. `more` goes into config.json. Raises FinetuneError or ZooError before it trains."""
    from finetune.clips.task import ClipFeatureTask, ClipTask
    from finetune.train.frozen import Classify
    from finetune.train.task import predictor

    check_clips(recipe)
    config = {**settings_of(recipe, data, plan, [*data.notes, *plan.notes], command), **(more or {})}

    def prepare(model: nn.Module) -> Prepared:
        clips = ClipTask(data, plan.rows, recipe.input, recipe.augment, recipe.sampling, accelerator.device)
        task: ClipTask | ClipFeatureTask = clips
        through: Any = lambda net: net  # noqa: E731
        if recipe.views:
            accelerator.print(f"computing the frozen features of {recipe.views} views, or taking them from the cache")
            model.to(accelerator.device)
            task, through = ClipFeatureTask(clips, model, recipe.views, accelerator, recipe.training.channels_last), Classify

        def predictions(model: nn.Module, split: str) -> dict[str, Tensor]:
            predict = predictor(through(model), accelerator, recipe.training.channels_last)
            return {"logits": task.logits(predict, split), "copy": copied(data, plan.rows[split], plan.others(split, data))}

        return Prepared(task, through, predictions)

    carry_through(
        recipe, data, plan, out, config, accelerator, start=lambda: start(recipe, data, accelerator), prepare=prepare,
        pictures=lambda: pictures(data, plan.rows[plan.report]), more_files=lambda run, tensors: write_csv(run, data, tensors),
        things="clips", resume=resume, overwrite=overwrite,
    )  # fmt: skip


def check_clips(recipe: Recipe) -> None:
    """Raises FinetuneError for fields that contradict each other."""
    check(recipe)
    if recipe.training.mixup:
        raise FinetuneError("training.mixup is for images: it would mix clips of different lengths")
    if recipe.training.channels_last:  # oneDNN of torch 2.15 frees memory twice where only the weights lie so
        raise FinetuneError("training.channels_last is for images: a clip's frames are taken out of (N, T, C, H, W)")


def in_folds(
    recipe: Recipe,
    data: Clips,
    out: Path,
    folds: int,
    *,
    accelerator: Accelerator,
    smoke: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
) -> None:
    """A run for each fold in out/fold-01, ..., and the predictions for all clips, each by the net that had not seen the person."""
    import torch

    from finetune.clips.folds import subject_folds
    from finetune.protocol import Plan
    from finetune.runs.folder import Run
    from finetune.runs.metrics import mean_and_deviation, read_json, read_predictions, score_table
    from finetune.runs.report import write_report

    if data.subjects is None:
        raise FinetuneError(f"{data.name}: --folds keeps people apart, but the data name none; a csv's column subject does, or CK+'s names")
    everything = torch.arange(len(data))
    parts = subject_folds(data.subjects, data.labels, folds)
    whole = Plan({"test": everything}, None, "test", (f"{folds} folds by person, the last epoch of each",))
    config = {**settings_of(recipe, data, whole, [*data.notes, *whole.notes], command), "folds": folds}
    begun = (out / "config.json").is_file()
    run = None
    if accelerator.is_main_process:
        run = Run.resume(out, config) if resume and begun else Run.create(out, config, overwrite=overwrite, device=str(accelerator.device))
    places = [out / f"fold-{number:02}" for number in range(1, folds + 1)]
    for number, ((train, test), place) in enumerate(zip(parts, places, strict=True), 1):
        plan = Plan({"train": train, "test": test}, None, "test", (f"fold {number} of {folds}, by person",))
        finetune(
            recipe, data, sampled(plan, data, recipe) if smoke else plan, place, accelerator=accelerator, resume=resume,
            overwrite=overwrite, command=command, more={"fold": number},
        )  # fmt: skip
    if run is None:
        return
    found = [read_predictions(place) for place in places]
    held = [each.splits["test"] for each in found]
    order = torch.cat([each.rows for each in held]).argsort()
    tensors = {f"test/{name}": torch.cat([getattr(each, name) for each in held])[order] for name in ("logits", "labels", "rows", "copy")}
    tensors["test/copy"].zero_()  # a copy in another fold is not a copy in other data
    run.save_tensors("predictions.safetensors", tensors, {"classes": json.dumps(data.classes), "data_sha256": data.sha256})
    write_csv(run, data, tensors)
    results = [read_json(place / "result.json") for place in places]
    accuracies = [result["scores"]["test"]["accuracy"] for result in results]
    mean, deviation = mean_and_deviation(accuracies)
    spread = {
        "accuracies": accuracies, "mean": mean, "standard_deviation": deviation,
        "standard_error": None if deviation is None else deviation / len(accuracies) ** 0.5,
    }  # fmt: skip
    table = score_table(read_predictions(out))
    run.finish(
        {
            "protocol": recipe.protocol, "selected": {**results[0]["selected"], "on": None, "accuracy": None}, "report": "test",
            "scores": table, "folds": spread, "seconds": sum(result["seconds"] for result in results),
            "images_per_s": statistics.median(result["images_per_s"] for result in results), "memory_mb": results[0]["memory_mb"],
        }
    )  # fmt: skip
    report = write_report(out, pictures(data, tensors["test/rows"]))
    scores = table["test"]
    print(
        f"{folds} folds by person, last epoch: {' '.join(f'{value:.1%}' for value in accuracies)}",
        f"mean over folds {mean:.2%}, standard deviation {deviation:.2%}, standard error {spread['standard_error']:.2%}",
        f"all {scores['images']} clips, each tested once: {scores['accuracy']:.2%} ± {scores['standard_error']:.2%},"
        f" mean recall {scores['mean_recall']:.2%}",
        f"report: {report}",
        sep="\n",
    )


# --- data -----------------------------------------------------------------------------------------------------------------------------


def lists_of(words: Sequence[str] | None) -> Lists | None:
    """["train=a.txt", "val=b.txt"] or ["a.txt", "b.txt"] as read_clips takes them."""
    if words is None:
        return None
    pairs = [word.partition("=") for word in words]
    if all(equals for _, equals, _ in pairs):
        return {split: file for split, _, file in pairs}
    if any(equals and not Path(word).exists() for word, (_, equals, _) in zip(words, pairs, strict=True)):
        raise FinetuneError(f"--lists {' '.join(words)}: either every file with its split (train=FILE val=FILE), or none")
    return list(words)


def read_data(path: Path, recipe: Recipe, lists: Lists | None = None, class_index: Path | None = None) -> Clips:
    """The clips, their frames in the size in which they are, or where sizes differ, in the net's."""
    from finetune.clips.data import read_clips

    try:
        return read_clips(path, lists=lists, class_index=class_index)
    except SizesDiffer:
        if recipe.input.size is None:
            raise
        return read_clips(path, size=recipe.input.size, lists=lists, class_index=class_index)


def held_out(data: Clips, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows without, and with only, about a tenth: whole people where they are known, else a tenth of each class."""
    import torch

    from finetune.clips.folds import subject_folds
    from finetune.protocol import sample

    if data.subjects is not None and len(people := [data.subjects[row] for row in rows.tolist()]) and len(set(people)) > 1:
        train, test = subject_folds(people, data.labels[rows], min(10, len(set(people))))[0]
        return rows[train], rows[test]
    chosen_rows = sample(data, rows, max(1, len(rows) // 10))
    mask = torch.isin(rows, chosen_rows)
    return rows[~mask], rows[mask]


def sampled(plan: Plan, data: Clips, recipe: Recipe) -> Plan:
    from finetune.protocol import sample

    rows = {name: sample(data, rows, recipe.smoke_clips[name != "train"]) for name, rows in plan.rows.items()}
    return replace(plan, rows=rows, notes=(*plan.notes, "a sample of the data (--smoke)"))


def copied(data: Clips, rows: Tensor, among: Tensor) -> Tensor:
    """(len(rows),) bool: which of these clips have the same frames, byte by byte, as one of those others."""
    import torch

    def digest(row: int) -> bytes:
        return hashlib.sha256(data.clip(row).numpy().tobytes()).digest()

    known = {digest(row) for row in among.tolist()}
    return torch.tensor([digest(row) in known for row in rows.tolist()])


def pictures(data: Clips, rows: Tensor) -> Tensor:
    """(n, ...) uint8: the middle frame of each of these clips, for the report."""
    return data.frames[(data.offsets[rows] + data.offsets[rows + 1]) // 2]


def write_csv(run: Run, data: Clips, tensors: Mapping[str, Tensor]) -> None:
    """predictions.csv: a line a video, with the probability of each class."""
    from zoo.disk import replacing

    splits = list(dict.fromkeys(name.partition("/")[0] for name in tensors))
    with replacing(run / "predictions.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["video", "split", "label", "predicted", *(f"p({name})" for name in data.classes)])
        for split in splits:
            shares = tensors[f"{split}/logits"].double().softmax(1)
            for row, label, share in zip(tensors[f"{split}/rows"].tolist(), tensors[f"{split}/labels"].tolist(), shares, strict=True):
                said = data.classes[int(share.argmax())]
                table.writerow([data.ids[row], split, data.classes[label], said, *(f"{value:.6f}" for value in share.tolist())])


# --- the net --------------------------------------------------------------------------------------------------------------------------


def start(recipe: Recipe, data: Clips, accelerator: Accelerator) -> tuple[nn.Module, dict[str, Any]]:
    """The net with its initial weights, and what card.json says of it."""
    import torch

    import architectures
    from architectures.video import ClipNet

    torch.manual_seed(recipe.training.seed)
    cnn, known = frame_net(recipe, data)
    if isinstance(cnn, ClipNet):
        whole = from_run(recipe.init, data)
        assert whole is not None  # it was a run's folder
        model, arguments = whole
        return model, card_of(recipe, data, type(model).__name__, arguments)
    if class_of(recipe.encoder) == "caffe":
        return on_converted(recipe, data)
    classes = len(data.classes)
    torch.manual_seed(recipe.training.seed)  # what is drawn does not depend on the weights that were read
    own = {"num_classes": classes, **as_json(recipe.arguments)}
    kinds = {"vgg_face": architectures.VGGFaceRNN, "face_resnet": architectures.FaceResNetRNN}
    kind: Any = kinds.get(recipe.encoder, architectures.FaceClipNet)
    if recipe.encoder not in kinds:
        own |= {"encoder": class_of(recipe.encoder), "arguments": known}
    try:
        model = kind(**own, cnn=cnn)
    except (TypeError, ValueError) as error:
        raise FinetuneError(f"arguments: {kind.__name__} with {recipe.encoder}: {error}") from error
    return model, card_of(recipe, data, kind.__name__, own)


def on_converted(recipe: Recipe, data: Clips) -> tuple[nn.Module, dict[str, Any]]:
    """A net over a blob of one of the zoo's converted Caffe nets, whose prototxt becomes a file of the run."""
    import torch

    import zoo
    from architectures import FaceClipNet

    cnn: Any = zoo.load(recipe.encoder, pretrained=False)  # what is wrong is said before anything is fetched
    blob = recipe.arguments.get("blob")
    if blob not in cnn.blobs:
        raise FinetuneError(
            f"--encoder {recipe.encoder}: a converted Caffe net; say which blob is read, as in --set arguments.blob={cnn.blobs[-2]}."
            f" It has {', '.join(cnn.blobs)}"
        )
    with torch.inference_mode():
        features = cnn(torch.zeros(1, 3, *(recipe.input.size or ())), blobs=(blob,))[blob]
    if features.dim() not in (2, 4):
        raise FinetuneError(f"arguments.blob={blob}: its shape is {tuple(features.shape)}; (N, F) or feature maps (N, F, H, W) are read")
    if recipe.init != "none":
        cnn = zoo.load(recipe.encoder)
    torch.manual_seed(recipe.training.seed)
    arguments = {"num_classes": len(data.classes), **as_json(recipe.arguments), "encoder": "caffe", "width": features.shape[1]}
    model = FaceClipNet(**arguments, cnn=cnn)
    model.embed(torch.zeros(2, 3, *(recipe.input.size or ()))).sum().backward()
    for parameter in model.cnn.parameters():  # layers above the blob never get a gradient, which several processes would wait for
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    return model, {**card_of(recipe, data, "FaceClipNet", arguments), "prototxt": "net.prototxt"}


def class_of(encoder: str) -> str:
    """The class of architectures that is this encoder, or "caffe" for a converted net."""
    import zoo

    return ENCODERS[encoder].net if encoder in ENCODERS else (zoo.info(encoder).architecture or "").partition(":")[2] or "caffe"


def frame_net(recipe: Recipe, data: Clips) -> tuple[nn.Module | None, dict[str, Any]]:
    """The net for images whose weights begin the encoder (None: they are drawn), and the arguments that it was built with.

    Raises FinetuneError where `init` is another net, and ZooError. A net of clips is returned as it is: all of it is continued.
    """
    import architectures
    import zoo
    from architectures.legacy import LegacyFileError
    from architectures.video import ClipNet
    from finetune.runs.metrics import read_json

    init, wanted = recipe.init, class_of(recipe.encoder)
    own_weights = f"{recipe.encoder} begins with its own weights, a run of clips, or none"
    where = Path(init)
    if init == "none":
        return None, {}
    if where.is_file() or where.suffix in (".model", ".pth", ".pt"):
        loaders = {
            "VGGFace": (architectures.load_best7164, architectures.load_vgg_face_torch),
            "FaceResNet": (architectures.load_best_resnet,),
        }
        problems = []
        for load in loaders.get(wanted, ()):
            try:
                return load(where), {}
            except FileNotFoundError as error:
                raise FinetuneError(f"--init {init}: no such file; name it where it lies, or a run's folder, a model, or none") from error
            except (LegacyFileError, architectures.WeightsMismatch) as error:
                problems.append(str(error))
        found = "\n".join(problems) or f"the older project has no file for {recipe.encoder}"
        raise FinetuneError(f"--init {init}: {found}")
    if where.is_dir():
        if not (where / "card.json").is_file():
            raise FinetuneError(f"--init {init}: the folder holds no finished run (card.json); finish it with --resume")
        model: Any = zoo.load(where)
        if wanted == "caffe" and not isinstance(model, ClipNet):
            raise FinetuneError(f"--init {init}: a {type(model).__name__}; {own_weights}")
        if wanted != "caffe" and not isinstance(model, (ClipNet, getattr(architectures, wanted))):
            raise FinetuneError(f"--init {init}: a {type(model).__name__}; the encoder {recipe.encoder} begins with a {wanted}")
        if not isinstance(model, ClipNet):
            compare_classes(init, model.labels, data.classes)
        return model, dict(read_json(where / "card.json").get("arguments", {}))
    if wanted == "caffe":
        if init != recipe.encoder:
            raise FinetuneError(f"--init {init}: {own_weights}")
        return None, {}
    model = zoo.load(init)
    if wanted == "FaceResNet" and isinstance(model, architectures.CenterLossFace):
        return architectures.FaceResNet(cnn=model), {}
    if wanted == "MobileFaceExpression" and isinstance(model, architectures.MobileFaceNet):
        return architectures.MobileFaceExpression(cnn=model), {}
    if not isinstance(model, getattr(architectures, wanted)):
        raise FinetuneError(f"--init {init}: a {type(model).__name__}; the encoder {recipe.encoder} begins with a {wanted}")
    return model, {}


def compare_classes(init: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Says where an image run counts its labels in another order: FER2013's is not EmotiW's. What is taken lies below its last layer,
    so nothing is renumbered; classes with nothing in common are refused, for they are no expressions."""
    left, right = [canonical(name) for name in theirs], [canonical(name) for name in ours]
    if not theirs or not set(left) & set(right):
        raise FinetuneError(
            f"--init {init}: its classes are {', '.join(theirs) or 'not named'}, the data's {', '.join(ours)}: none in common. Is it"
            " the run that was meant? A model of the zoo is taken whatever it was trained for"
        )
    if left != right:
        known = {order: f" ({name})" for name, order in LABEL_ORDERS.items()}
        warnings.warn(
            f"--init {init}: its labels are {', '.join(theirs)}{known.get(tuple(left), '')}, the data's {', '.join(ours)}"
            f"{known.get(tuple(right), '')}. Its last layer is not taken, so they cannot be mixed up",
            stacklevel=2,
        )


if __name__ == "__main__":
    sys.exit(main())
