"""Which rows of the data train, pick the epoch and are reported. Every split is disjoint from the others; nothing here is random."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from finetune.errors import FinetuneError
from finetune.labels import split_counts

if TYPE_CHECKING:
    from torch import Tensor

ImageProtocol = Literal["honest", "best-on-reported"]
ClipProtocol = Literal["honest", "best-on-reported", "last"]
HoldOut = Callable[["Tensor"], tuple["Tensor", "Tensor"]]  # rows -> the rows without, and with only, about a tenth of them
COMPARED = 1000  # images of a split, about, that are held against all of train by what they show
REPORTED = ("private", "test", "val", "public")  # the first of these that there is becomes a run's headline
SAMPLE = "a sample of the data (--smoke)"  # the note of a run that shows whether everything works


class Data(Protocol):
    """What images.data.Expressions and clips.data.Clips have in common. labels (N,) int64, split (N,) names."""

    @property
    def labels(self) -> Tensor: ...
    @property
    def split(self) -> tuple[str, ...]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def counts(self) -> dict[str, int]: ...
    def rows(self, *splits: str) -> Tensor: ...


@dataclass(frozen=True)
class Plan:
    """Which rows of the data do what: rows["train"], rows[select] picks the epoch, rows[report] is what the run is known by.

    `select` None: the last epoch is taken.
    """

    rows: Mapping[str, Tensor]
    select: str | None
    report: str
    notes: tuple[str, ...] = ()

    def looked_at(self) -> list[str]:
        """The splits that are evaluated at the end."""
        return [split for split in dict.fromkeys((self.select, self.report)) if split is not None]

    def others(self, split: str, data: Data) -> Tensor:
        """The rows of the data that are not of this split, whether they are used or not."""
        import torch

        mask = torch.ones(len(data), dtype=torch.bool)
        mask[data.rows(split) if split in data.split else self.rows[split]] = False
        return mask.nonzero()[:, 0]


def split_rows(split: Sequence[str], wanted: Sequence[str], what: str) -> Tensor:
    """(n,) int64 positions where `split` is one of `wanted`. Raises FinetuneError where there are none."""
    import torch

    found = torch.tensor([row for row, name in enumerate(split) if name in wanted], dtype=torch.int64)
    if not len(found):
        raise FinetuneError(f"{what} in {' or '.join(wanted)}; it has {split_counts(split)}")
    return found


def sample(data: Data, rows: Tensor, count: int) -> Tensor:
    """About `count` of the rows, spread over the classes as all of them are (at least one of each), always the same ones."""
    import torch

    if count >= len(rows):
        return rows
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    taken = []
    for label in data.labels[rows].unique():
        members = order[data.labels[order] == label]
        taken.append(members[: max(1, round(count * len(members) / len(rows)))])
    return torch.cat(taken).sort().values


def sampled(plan: Plan, data: Data, counts: tuple[int, int]) -> Plan:
    """The plan with about so many rows of train, and so many of each other split."""
    rows = {name: sample(data, rows, counts[name != "train"]) for name, rows in plan.rows.items()}
    return replace(plan, rows=rows, notes=(*plan.notes, SAMPLE))


def with_every_class(labels: Tensor, groups: Sequence[Hashable], taken: Tensor) -> Tensor:
    """(n,) bool: the rows to take away, without those that would take a class's last rows with them.

    Rows of one group, such as copies of one image or the clips of one person, stay together, as they are in `taken` (n,) bool.
    """
    import torch

    given_back: set[Hashable] = set()
    for label in labels.unique().tolist():
        members = [groups[row] for row in (labels == label).nonzero()[:, 0].tolist()]
        inside = {groups[row] for row in (taken & (labels == label)).nonzero()[:, 0].tolist()} - given_back
        if inside and inside.issuperset(members):
            given_back.add(members[0])
    return taken & torch.tensor([group not in given_back for group in groups], dtype=torch.bool)


def check_held_out(data: Data, kept: Tensor, taken: Tensor, unit: str) -> None:
    """Raises FinetuneError where nothing was held out, for the classes need all that there is."""
    if not len(taken):
        raise FinetuneError(
            f"{data.name}: {len(kept)} training {unit} of {len(data.labels[kept].unique())} classes are too few to hold some out: every"
            f" class keeps one to train on. Add more, or put {unit} of their own into val/ and test/"
        )


def unseen_classes(data: Data, rows: Mapping[str, Tensor], split: str) -> list[str]:
    """A note where a class of train has no row in the split that was held out of it."""
    lacking = set(data.labels[rows["train"]].tolist()) - set(data.labels[rows[split]].tolist())
    names = ", ".join(data.classes[label] for label in sorted(lacking))
    return [f"{split} has nothing of {names}: train keeps what there is"] if lacking else []


def overlaps(
    data: Data, plan: Plan, digests: Callable[[Tensor], list[bytes]], unit: str, alike: Callable[[Tensor, Tensor], Tensor] | None = None
) -> list[str]:
    """Notes on what is looked at and stands elsewhere in the data, byte for byte; `digests` are those of rows.

    What is reported is held against all other parts, as its figures without copies are; what picks the epoch against train. `alike`
    tells which rows show what others show, saved in another way: where most do, that is told as loudly.
    """
    import torch

    if "train" not in plan.rows:
        return []
    notes = []
    for split in plan.looked_at():
        reported = split == plan.report
        known, found = set(digests(plan.others(split, data) if reported else plan.rows["train"])), digests(plan.rows[split])
        count = sum(digest in known for digest in found)
        if found and count == len(found):
            notes.append(
                f"WARNING: all {count:,} {split} {unit} are in train or another part of the data, too, byte for byte: the figures say what"
                " was learnt by heart, not what the net makes of new faces"
            )
            continue
        others = plan.rows[split][torch.tensor([digest not in known for digest in found])]
        some = others[:: max(1, len(others) // COMPARED)]
        if alike is not None and 2 * (same := int(alike(some, plan.rows["train"]).sum())) > len(some) > 0:
            notes.append(
                f"WARNING: {same:,} of {len(some):,} {split} {unit} that were compared look like one of train, saved in another format or"
                " quality, or mirrored: the figures say what was learnt by heart, not what the net makes of new faces"
            )
        if count:
            where = f"other parts of the data; '{split} without copies' leaves them out" if reported else "train"
            notes.append(f"{count:,} of {len(found):,} {split} {unit} byte for byte also in {where}")
    return notes


def plan_images(data: Data, protocol: ImageProtocol, hold_out: HoldOut) -> Plan:
    """Honest: trains on train, picks the epoch on public (or val, or a tenth of train), reports private (or test).

    "best-on-reported", as was usual in the FER2013 challenge's papers: trains on train and public, picks the epoch on private (or
    test) and reports that maximum. Where there is neither private nor test, what picks the epoch is reported.
    """
    counts = data.counts()
    report = next((name for name in ("private", "test") if name in counts), None)
    if protocol == "best-on-reported":
        if report is None:
            raise FinetuneError(f"{data.name}: has neither private nor test images to report; --protocol honest holds some out")
        parts = [name for name in counts if name != report]
        return Plan({"train": data.rows(*parts), report: data.rows(report)}, report, report)
    select = next((name for name in ("public", "val") if name in counts), None)
    rows, notes = {"train": data.rows("train")}, []
    if select is None:
        select = "val"
        rows["train"], rows["val"] = hold_out(rows["train"])
        notes.append(f"no public or val images: the epoch is picked on {len(rows['val']):,} of train")
        notes += unseen_classes(data, rows, "val")
    else:
        rows[select] = data.rows(select)
    if report is None:
        notes.append(f"no private or test images: {select} is reported, on which the epoch was picked")
        return Plan(rows, select, select, tuple(notes))
    return Plan({**rows, report: data.rows(report)}, select, report, tuple(notes))


def plan_clips(data: Data, protocol: ClipProtocol, hold_out: HoldOut) -> Plan:
    """Trains on train, reports private, test or val, whichever is there first, else a tenth of train.

    "best-on-reported" picks the epoch on the clips that are reported, "last" takes the last epoch. "honest" picks it on public or
    val, where these are not reported, else on a tenth of train.
    """
    counts = data.counts()
    rows, notes = {"train": data.rows("train")}, []
    others = [name for name in counts if name != "train"]
    if others:
        report = next(name for name in REPORTED if name in others)
        rows[report] = data.rows(report)
    else:
        report = "test"
        rows["train"], rows["test"] = hold_out(rows["train"])
        notes.append(f"no clips but those of train: {len(rows['test']):,} of them held out and reported")
        notes += unseen_classes(data, rows, "test")
    if protocol != "honest":
        if idle := [name for name in others if name not in rows]:
            notes.append(f"the {' and '.join(idle)} clips are not used")
        return Plan(rows, report if protocol == "best-on-reported" else None, report, tuple(notes))
    select = next((name for name in ("public", "val") if name in counts and name != report), None)
    if select is not None:
        return Plan({**rows, select: data.rows(select)}, select, report, tuple(notes))
    if report == "val":  # the name is needed for what picks the epoch
        rows, report = {"train": rows["train"], "test": rows["val"]}, "test"
        notes.append("the val clips are reported as test")
    rows["train"], rows["val"] = hold_out(rows["train"])
    notes.append(f"the epoch is picked on {len(rows['val']):,} of the clips of train, named val")
    notes += unseen_classes(data, rows, "val")
    return Plan(rows, "val", report, tuple(notes))
