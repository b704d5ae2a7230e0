"""The page of a drawn run, read back with a parser of HTML: what it says, what it escapes, when it refuses."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import drawn_run
import numpy as np
import pytest
import torch

from finetune.errors import FinetuneError
from finetune.protocol import SAMPLE
from finetune.runs import drawings
from finetune.runs.report import write_report

VOID = {"meta", "img", "br"}
PICTURES = drawn_run.draw_pictures(150, 12)


class Page(HTMLParser):
    """Every start tag with its attributes, the page's text, and whether every tag was closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()
        self.text = re.sub(r"[ \n]+", " ", self.text)  # as a browser shows it
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.text += f"{data} "

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def headings(self) -> list[str]:
        return re.findall("<h2>(.*?)</h2>", self.source)

    def drawing(self, start: str) -> str:
        """The words for those who don't see it."""
        [label] = [str(each["aria-label"]) for each in self.named("svg") if str(each["aria-label"]).startswith(start)]
        return label


def edited(run: Path, name: str, **changes: Any) -> None:
    """Sets fields of a JSON file; "a__b" is field b of field a."""
    whole = json.loads((run / name).read_text())
    for keys, value in changes.items():
        *outer, last = keys.split("__")
        held = whole
        for key in outer:
            held = held[key]
        held[last] = value
    (run / name).write_text(json.dumps(whole))


def test_the_page_shows_the_run(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    path = write_report(run, PICTURES)
    assert path == run / "report.html"
    page = Page(path)
    assert page.headings() == [
        "Scores", "Training", "Classes, private", "Confusion, private", "Calibration, private", "Mistakes, private",
        "Reproduce", "Data", "Settings", "Environment",
    ]  # fmt: skip
    headline = f"{100 * result['scores']['private']['accuracy']:.2f} % ± {100 * result['scores']['private']['standard_error']:.2f}"
    assert page.text.index(headline) < page.text.index("selected on public")
    for label, row in result["scores"].items():
        assert label in page.text and f"{100 * row['accuracy']:.2f} ± {100 * row['standard_error']:.2f}" in page.text
        assert f"{100 * row['calibration_error']:.2f}" in page.text and f"{row['negative_log_likelihood']:.3f}" in page.text
    for word in (drawn_run.SHA256, "28,709", "2 rows without pixels", "optimizer.momentum", "packages.numpy", "--seed 0", "NVIDIA H100"):
        assert word in page.text
    assert "optimistic" not in page.text and "not finished" not in page.text


def test_the_page_of_a_smoke_run_says_beside_its_number_that_it_is_one(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    assert "smoke run" not in Page(write_report(run, PICTURES)).text
    edited(run, "config.json", data__notes=[SAMPLE])
    text = Page(write_report(run, PICTURES)).text
    assert text.index("selected on public") < text.index("This was a smoke run.") < text.index("Training")


def test_the_matrix_and_the_classes_are_the_result_s(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    row = json.loads((run / "result.json").read_text())["scores"]["private"]
    source = Page(write_report(run)).source
    matrix = source[source.index('<table class="matrix">') : source.index("Calibration, private")]
    counts = [int(count.replace(",", "")) for count in re.findall(r"<td[^>]*>([\d,]+)<small>", matrix)]
    assert counts == np.array(row["confusion"]).ravel().tolist()
    shares = [float(share) for share in re.findall(r"<td style=\"--share:([\d.]+)\"", matrix)]
    expected = np.array(row["confusion"]) / np.maximum(1, np.array(row["confusion"]).sum(1, keepdims=True))
    assert shares == pytest.approx(expected.ravel().tolist(), abs=6e-4)
    classes = source[source.index('<table class="bars">') : source.index("Confusion, private")]
    cells = [cell for name in row["recall"] for cell in (f"{100 * row['recall'][name]:.2f}", f"{100 * row['f1_per_class'][name]:.2f}")]
    assert re.findall(r'<td class="bar"[^>]*>([^<]*)</td>', classes) == cells


def test_the_curves_tell_their_ends_and_the_selected_epoch(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    lines = drawn_run.metrics_lines()
    page = Page(write_report(run))
    loss, accuracy = page.drawing("Loss"), page.drawing("Accuracy, %")
    assert loss.startswith("Loss over epochs 1 to 40: ") and loss.endswith("selected epoch 36")
    assert f"train from {lines[0]['loss']:.4g} to {lines[-1]['loss']:.4g}" in loss
    assert f"public, EMA from {100 * lines[0]['ema_select_accuracy']:.4g} to {100 * lines[-1]['ema_select_accuracy']:.4g}" in accuracy
    assert "learning rate from" in page.drawing("Learning rate")
    assert len(page.named("svg")) == 4 and page.drawing("Accuracy by confidence").count("% right") > 5


def test_without_ema_no_such_line_is_drawn(tmp_path: Path) -> None:
    page = Page(write_report(drawn_run.draw_run(tmp_path / "run", ema=False, epochs=1)))
    assert "EMA" not in page.drawing("Loss") and "the trained weights" in page.text


def test_nothing_is_fetched_and_nothing_can_run(tmp_path: Path) -> None:
    page = Page(write_report(drawn_run.draw_run(tmp_path / "run"), PICTURES))
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert "default-src 'none'" in str(page.named("meta")[1]["content"])


def test_ids_are_unique_and_every_drawing_finds_its_own(tmp_path: Path) -> None:
    page = Page(write_report(drawn_run.draw_run(tmp_path / "run")))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 50
    uses = {str(each["xlink:href"])[1:] for each in page.named("use")} | set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert uses and uses <= set(ids)


def test_what_is_drawn_has_words_and_tables_have_headers(tmp_path: Path) -> None:
    page = Page(write_report(drawn_run.draw_run(tmp_path / "run"), PICTURES))
    assert all(each.get("role") == "img" and each.get("aria-label") for each in page.named("svg"))
    assert all(each.get("alt") for each in page.named("img")) and all(each.get("scope") in ("col", "row") for each in page.named("th"))
    assert page.tags[0] == ("html", {"lang": "en"}) and drawings.FOREGROUND not in page.source


@pytest.mark.parametrize("channels", [None, 3])
def test_the_most_confident_mistakes_are_shown_with_their_own_pictures(tmp_path: Path, channels: int | None) -> None:
    from PIL import Image

    run = drawn_run.draw_run(tmp_path / "run")
    pictures = torch.arange(150, dtype=torch.uint8)[:, None, None].repeat(1, 6, 5).contiguous()  # the i-th picture is grey i
    if channels:
        pictures = torch.stack([pictures, 255 - pictures, pictures], 1)
    page = Page(write_report(run, pictures))
    tensors = drawn_run.predictions()
    logits, labels = tensors["private/logits"].double().numpy(), tensors["private/labels"].numpy()
    sure = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1)
    wrong = [place for place in np.argsort(-sure) if logits[place].argmax() != labels[place]][:24]
    images = page.named("img")
    assert len(images) == 24
    for place, image in zip(wrong, images, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(str(image["src"]).partition(",")[2]))))
        assert shown.shape == ((6, 5, 3) if channels else (6, 5))
        assert shown[0, 0].tolist() == ([place, 255 - place, place] if channels else place)
        truth, said = drawn_run.CLASSES[labels[place]], drawn_run.CLASSES[logits[place].argmax()]
        assert image["alt"] == f"{truth} predicted as {said} with {100 * sure[place]:.0f} % confidence"
        assert f"{100 * sure[place]:.0f} %, row\N{NO-BREAK SPACE}{28709 + 120 + place:,}" in page.text


def test_without_pictures_no_mistakes_are_shown(tmp_path: Path) -> None:
    page = Page(write_report(drawn_run.draw_run(tmp_path / "run")))
    assert not page.named("img") and "Mistakes, private" not in page.headings()


def test_a_net_without_mistakes_is_told_so(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    tensors = drawn_run.predictions()
    tensors["private/logits"] = torch.nn.functional.one_hot(tensors["private/labels"], 7).float()
    drawn_run.write_predictions(run, tensors)
    page = Page(write_report(run, PICTURES))
    assert not page.named("img") and "There are none." in page.text


@pytest.mark.parametrize(
    "pictures",
    [PICTURES[:149], PICTURES.float(), PICTURES[:, None], PICTURES[:, 0]],
)
def test_pictures_that_are_not_the_predictions_are_refused_and_nothing_is_written(tmp_path: Path, pictures: torch.Tensor) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    before = sorted(run.iterdir())
    with pytest.raises(FinetuneError, match=r"pictures are torch.* expected uint8 \(150, H, W\).* each image of private"):
        write_report(run, pictures)
    assert sorted(run.iterdir()) == before


def test_a_run_with_the_best_epoch_on_the_reported_images_says_that_its_number_is_optimistic(tmp_path: Path) -> None:
    page = Page(write_report(drawn_run.draw_run(tmp_path / "run", on="private", protocol="seed")))
    assert "This number is optimistic." in page.text
    assert "The epoch was chosen on private, the split that is reported: it is the best of 40 epochs" in page.text


def test_data_whose_one_split_selects_and_is_reported_say_so_too(tmp_path: Path) -> None:
    page = Page(write_report(drawn_run.draw_run(tmp_path / "run", images={"val": 40}, on="val")))
    assert "The epoch was chosen on val, the split that is reported: it is the best" in page.text
    assert "Confusion, val" in page.headings() and "older project" not in page.text


def test_a_run_on_clips_counts_clips(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run")
    edited(run, "config.json", config__sampling={"frames": 16})
    page = Page(write_report(run, PICTURES))
    assert "new clips will" not in page.text and "on that many clips" in page.text and "clips in private" in page.text
    assert "images" not in page.text.replace("images_per_s", "")  # a field of metrics.jsonl
    assert "images" not in page.drawing("Accuracy by confidence")


def test_a_run_that_has_not_finished_shows_its_curves(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run", finished=False, epochs=5)
    page = Page(write_report(run))
    assert "This run has not finished: 5 epochs are done." in " ".join(page.text.split())
    assert page.headings() == ["Training", "Reproduce", "Data", "Settings", "Environment"]
    assert "selection split from" in page.drawing("Loss") and "selected epoch" not in page.drawing("Loss")
    (run / "metrics.jsonl").unlink()
    page = Page(write_report(run))
    assert "no epoch is done yet" in page.text and not page.named("svg")


def test_an_epoch_written_twice_counts_once_and_a_line_being_written_not_yet(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run", finished=False, epochs=3)
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines + '{"epoch": 3, "loss": 7.5, "lr": 1}\n{"epoch": 4, "lo')
    page = Page(write_report(run))
    assert "3 epochs are done" in page.text and "to 7.5;" in page.drawing("Loss")


def test_losses_of_a_diverged_run_are_left_out_of_its_curves(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run", finished=False, epochs=4)
    lines = drawn_run.metrics_lines(4)
    lines[2] |= {"loss": math.nan, "select_loss": math.inf, "memory_mb": None}
    lines[3] |= {"loss": math.nan, "select_loss": 1e38}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(run))
    assert f"train from {lines[0]['loss']:.4g} to {lines[1]['loss']:.4g};" in page.drawing("Loss")
    (run / "metrics.jsonl").write_text('{"epoch": 1, "loss": NaN, "lr": NaN}\n')
    assert Page(write_report(run)).drawing("Loss") == "Loss over epochs 1 to 1: "


HOSTILE = ("<script>alert(1)</script>", "$x^{2}$ & $", '"><img src=x onerror=alert(2)>', "\\frac", "悲しい", "e\udcff", "'")


def test_names_from_strangers_are_shown_as_they_are_and_do_nothing(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run", classes=HOSTILE, recipe="</title><script>x</script>")
    edited(
        run,
        "config.json",
        data__name="<b>$fer$</b>",
        data__notes=["</style>&"],
        config={"<i>": "<u>", "n": [1, "<s>"]},
        started="<p>",
        votes=None,
    )
    edited(run, "environment.json", device="<svg onload=alert(3)>")
    edited(run, "result.json", selected__weights="<a>")
    page = Page(write_report(run, PICTURES))
    assert not {"script", "b", "i", "u", "s", "a"} & {tag for tag, _ in page.tags}
    assert sum("mathdefault" in str(each) or "onerror" in each or "onload" in each for _, each in page.tags) == 0
    for word in (*HOSTILE[:5], "'", r"e\udcff", "<b>$fer$</b>", "</style>&", "<i>", "1, <s>", "<svg onload=alert(3)>"):
        assert word in page.text, word
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.named("img"))


def test_dollars_in_a_drawing_are_dollars(tmp_path: Path) -> None:
    epochs = drawn_run.metrics_lines(2)
    drawn = drawings.curve(epochs, r"$\frac{$", {r"$x^{$": "loss", "$y$": "accuracy"}, None)
    assert "$y$ from" in drawn


def test_a_user_s_own_matplotlib_settings_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    run = drawn_run.draw_run(tmp_path / "run")
    plain = write_report(run).read_bytes()
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "axes.facecolor": "red"}):
        assert write_report(run).read_bytes() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_class_without_images_has_a_dash(tmp_path: Path) -> None:
    run = drawn_run.draw_run(tmp_path / "run", classes=(*drawn_run.CLASSES, "contempt"))
    whole = json.loads((run / "result.json").read_text())
    row = whole["scores"]["private"]
    row["recall"]["contempt"] = row["f1_per_class"]["contempt"] = None
    row["confusion"][7] = [0] * 8
    (run / "result.json").write_text(json.dumps(whole))
    assert '<th scope="row">contempt</th><td>0</td><td class="bar" style="--share:0.000">–</td>' in write_report(run).read_text()


def removed(name: str) -> Any:
    return lambda run: (run / name).unlink()


def written(name: str, content: str) -> Any:
    return lambda run: (run / name).write_text(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed("config.json"), r"config.json: no such file, so .*run is no run folder"),
        (removed("predictions.safetensors"), "predictions.safetensors: no such file"),
        (written("config.json", '{"recipe": "a'), "config.json: no JSON, or cut short"),
        (written("config.json", "[]"), "config.json: a JSON list; expected an object"),
        (written("config.json", '{"recipe": "a"}'), "config.json: protocol is missing; expected a str"),
        (written("result.json", "[" * 100_000), "result.json: no JSON"),
        (written("result.json", '{"selected": {"epoch": 1, "weights": "ema", "on": "public"}, "scores": {}}'), "private is missing"),
        (lambda run: edited(run, "result.json", scores__private__recall=[1]), "result.json: recall is a list; expected a dict"),
        (lambda run: edited(run, "result.json", scores__public=3), "result.json: public is a int; expected a dict"),
        (lambda run: edited(run, "config.json", data__counts=[3]), "config.json: data.counts is a list"),
        (lambda run: edited(run, "result.json", selected__on="<x>"), "result.json, selected.on: '<x>'; expected train, public"),
        (lambda run: edited(run, "result.json", scores__private__confusion=[[1]]), "confusion: expected 7 rows of 7"),
        (lambda run: edited(run, "config.json", classes=["a"]), "name different classes; they are of two runs"),
        (written("metrics.jsonl", '{"epoch": 1}\nepoch 2\n'), "metrics.jsonl, line 2: 'epoch 2' is no epoch's JSON"),
    ],
)
def test_a_folder_that_is_no_run_or_damaged_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    run = drawn_run.draw_run(tmp_path / "run", epochs=2)
    change(run)
    with pytest.raises(FinetuneError, match=message):
        write_report(run)
    assert not [path for path in run.iterdir() if "report" in path.name]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = drawn_run.draw_run(tmp_path / "run", epochs=2)
    before = write_report(run).read_bytes()

    def full(self: Path, *_: Any, **__: Any) -> int:
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(run, PICTURES)
    assert (run / "report.html").read_bytes() == before
    assert not [path for path in run.iterdir() if path.name.endswith(".tmp")]
