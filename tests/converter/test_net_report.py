"""convert-caffe --report: what the page says, and that it loads nothing and runs nothing that a prototxt holds."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest

from converter import cli, convert
from converter.conversion import prepare
from converter.read.weights import open_weights
from converter.report.layout import arrange
from converter.report.page import write_report
from converter.report.receptive import receptive_fields
from converter.report.statistics import BINS, statistics
from converter.write.encode import write_caffemodel

PROTOTXTS = Path(__file__).parents[2] / "zoo" / "prototxt"
ADDRESSES = {"href", "src", "srcset", "action", "data", "poster", "background", "formaction", "xlink:href", "ping", "manifest", "cite"}
BOUND = re.compile(r"^on|^style$")


class Page(HTMLParser):
    """What a browser would see of a page: its elements, addresses, scripts, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict[str, str | None]]] = {}
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.held: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.setdefault(tag, []).append(dict(attrs))
        self.addresses += [value or "" for name, value in attrs if name in ADDRESSES]
        self.handlers += [name for name, _ in attrs if BOUND.match(name)]
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.held.get(self._inside, self.words)).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def layers(self) -> list[dict[str, Any]]:
        return json.loads(self.held["script"][0])


def reported(folder: Path, prototxt: Path, weights: Path | None = None, **options: Any) -> Page:
    found = None if weights is None else open_weights(weights)
    graph, plan = prepare(prototxt, found, **options)
    write_report(folder / "net.html", graph, plan, prototxt, found)
    return Page((folder / "net.html").read_text(encoding="utf-8"))


def net(folder: Path, *layers: str, name: str = "net") -> Path:
    path = folder / "net.prototxt"
    head = f'name: {json.dumps(name)} input: "data" input_shape {{ dim: 1 dim: 3 dim: 8 dim: 8 }}'
    path.write_text("\n".join([head, *layers]))
    return path


CONV = 'convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } }'


def test_the_page_says_what_is_published_of_vgg16(tmp_path: Path) -> None:
    page = reported(tmp_path, PROTOTXTS / "vgg16_ilsvrc.prototxt")
    assert sum(layer["parameters"] for layer in page.layers) == 138_357_544
    assert sum(layer["multiply_adds"] for layer in page.layers) == 15_470_264_320
    assert "138,357,544" in page.text and "15,470,264,320" in page.text
    fields = {layer["name"]: layer["field"] for layer in page.layers}
    assert fields["pool5"] == "212×212" and fields["fc6"] == "all"
    assert "1×64×224×224" in page.text  # on the edges, and in the table


@pytest.mark.parametrize(
    ("prototxt", "blob", "size"), [("bvlc_alexnet", "pool5", 195), ("resnet50", "res5c", 483), ("mobilenet_v1", "conv6/sep", 315)]
)
def test_receptive_fields_are_those_of_the_literature(prototxt: str, blob: str, size: int) -> None:
    """Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, their table."""
    graph, _ = prepare(PROTOTXTS / f"{prototxt}.prototxt", None)
    field = receptive_fields(graph)[graph.names[blob]]
    assert field is not None and field.size == (size, size)


def test_the_page_loads_nothing_and_its_policy_allows_its_own_script_only(tmp_path: Path) -> None:
    page = reported(tmp_path, PROTOTXTS / "mtcnn_det1.prototxt")
    assert all(address.startswith("#") for address in page.addresses) and not page.handlers
    assert not page.tags.keys() & {"link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
    assert not any("url(" in style or "@import" in style for style in page.held["style"])
    (policy,) = (meta["content"] for meta in page.tags["meta"] if meta.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    hashes = {
        name: [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]
        for name, texts in page.held.items()
    }
    assert rules == {
        "default-src": "'none'",
        "script-src": hashes["script"][1],  # the first is data
        "style-src": " ".join(hashes["style"]),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert page.tags["script"] == [{"type": "application/json", "id": "layers"}, {}]


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "a\u202ecod.exe",
    "a\u2028line",
    "]]></svg><base href=//evil>",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_strangers_are_text_and_nothing_else(name: str, tmp_path: Path) -> None:
    quoted = json.dumps(name, ensure_ascii=False)
    layer = f'layer {{ name: {quoted} type: "Convolution" bottom: "data" top: {quoted} {CONV} }}'
    page = reported(tmp_path, net(tmp_path, layer, name=name))
    plain = reported(tmp_path, net(tmp_path, f'layer {{ name: "a" type: "Convolution" bottom: "data" top: "b" {CONV} }}'))
    assert {tag: len(found) for tag, found in page.tags.items()} == {tag: len(found) for tag, found in plain.tags.items()}
    assert page.addresses == plain.addresses and not page.handlers
    said = name.replace("\u202e", "\\u202e").replace("\u2028", "\\u2028")
    assert [layer["name"] for layer in page.layers] == [said] and said in page.text
    assert "</script" not in page.held["script"][0]


def test_shared_weights_count_once(tmp_path: Path) -> None:
    layers = [
        f'layer {{ name: "{n}" type: "Convolution" bottom: "data" top: "{n}" param {{ name: "w" }} param {{ name: "b" }} {CONV} }}'
        for n in ("first", "second")
    ]
    path = net(tmp_path, *layers, 'layer { name: "sum" type: "Eltwise" bottom: "first" bottom: "second" top: "sum" }')
    blobs = [numpy.ones((2, 3, 3, 3), "f4"), numpy.ones(2, "f4")]
    write_caffemodel(tmp_path / "net.caffemodel", [(n, "Convolution", blobs) for n in ("first", "second")])
    page = reported(tmp_path, path, tmp_path / "net.caffemodel")
    assert [layer["parameters"] for layer in page.layers] == [56, 0, 0]
    assert sum(row.get("id", "").startswith("b") for row in page.tags["tr"]) == 2  # blobs, not four


def test_the_page_tells_files_age_findings_and_what_was_left_out(tmp_path: Path) -> None:
    path = tmp_path / "old.prototxt"
    path.write_text(
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8'
        ' layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }'
        ' layers { name: "train_only" type: DROPOUT bottom: "conv" top: "conv" include { phase: TRAIN } }'
    )
    kernel = numpy.full((4, 3, 3, 3), 0.5, "f4")
    kernel[1], kernel[2, 0, 0, 0], kernel[3, 1] = 0, numpy.nan, 1e-40
    write_caffemodel(tmp_path / "old.caffemodel", [("conv", "Convolution", [kernel, numpy.zeros(4, "f4")])], version="V1")
    page = reported(tmp_path, path, tmp_path / "old.caffemodel")
    digest = hashlib.sha256((tmp_path / "old.caffemodel").read_bytes()).hexdigest()
    known = ["prototxt in V1 form", "weights in V1 form", digest, f"{path.stat().st_size:,}", "1 NaN", "9 denormal", "1 of 4 filters dead"]
    for words in [*known, "layer 'train_only' of type 'Dropout'", "Each of the net's 2 blobs was found in old.caffemodel"]:
        assert words in page.text, words
    assert any(row.get("id") == "b0-0" for row in page.tags["tr"]) and "#b0-0" in page.addresses


@pytest.mark.parametrize("shape", [(3, 2, 5, 5), (40,), (1 << 11, 1 << 10)])
def test_statistics_are_numpy_s(shape: tuple[int, ...]) -> None:
    values = numpy.random.default_rng(0).standard_normal(shape).astype("f4")
    found = statistics(values)
    want, _ = numpy.histogram(values, BINS, (float(values.min()), float(values.max())))
    assert numpy.abs(numpy.array(found.histogram) - want).max() <= 2 and sum(found.histogram) == values.size  # a value on a border
    wide = values.astype("f8")
    assert (found.minimum, found.maximum) == (wide.min(), wide.max())
    assert (found.mean, found.deviation) == pytest.approx((wide.mean(), wide.std()), rel=1e-6, abs=1e-9)
    assert found.findings == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([numpy.nan, numpy.nan], ["2 NaN"]),
        ([numpy.inf, -numpy.inf, 1], ["2 infinite"]),
        ([1e-39, 1.0, 0.0], ["1 denormal"]),
        ([70000.0, 1.0], ["beyond half precision"]),
        ([0.0, 0.0], []),
        ([3e38, -3e38], ["beyond half precision"]),
        ([], []),
    ],
)
def test_what_is_suspicious_is_told(values: list[float], words: list[str]) -> None:
    found = statistics(numpy.array(values, "f4"))
    assert found.findings == words and found.count == len(values)


def overlapping(boxes: list[tuple[float, float]], sizes: list[tuple[float, float]]) -> bool:
    order = sorted(range(len(boxes)), key=boxes.__getitem__)
    for n, i in enumerate(order):
        for j in order[n + 1 :]:
            if boxes[j][0] >= boxes[i][0] + sizes[i][0]:
                break
            if boxes[j][1] < boxes[i][1] + sizes[i][1] and boxes[i][1] < boxes[j][1] + sizes[j][1]:
                return True
    return False


@pytest.mark.parametrize("kind", ["random", "star", "dense", "far apart"])
def test_boxes_do_not_overlap_and_lines_lead_from_one_to_the_other(kind: str) -> None:
    draw = random.Random(0)
    count = {"dense": 60}.get(kind, 300)
    edges = {
        "random": [(draw.randrange(max(0, i - 12), i), i) for i in range(1, count) for _ in range(2)],
        "star": [(0, i) for i in range(1, count)],
        "dense": [(i, j) for j in range(count) for i in range(j)],
        "far apart": [(i - 1, i) for i in range(1, count)] + [(0, count - 1), (5, count - 50)],
    }[kind]
    edges = list(dict.fromkeys(edges))
    sizes = [(draw.choice([110.0, 200.0, 290.0]), draw.choice([45.0, 62.0])) for _ in range(count)]
    found = arrange(sizes, edges)
    assert not overlapping(found.boxes, sizes)
    for line, (source, target) in zip(found.lines, edges, strict=True):
        for (x, y), i, edge in ((line[0], source, sizes[source][1]), (line[-1], target, 0.0)):
            assert found.boxes[i][0] <= x <= found.boxes[i][0] + sizes[i][0] and y == pytest.approx(found.boxes[i][1] + edge)
    assert all(0 <= x <= found.width and 0 <= y <= found.height for line in found.lines for x, y in line)


def test_a_net_of_three_thousand_layers_is_laid_out_in_seconds() -> None:
    edges = [(i - 1, i) for i in range(1, 3000)] + [(i - 3, i) for i in range(3, 3000, 3)] + [(0, i) for i in range(2, 3000, 2)]
    start = time.process_time()
    found = arrange([(150.0, 60.0)] * 3000, edges)
    assert time.process_time() - start < 10  # measured: 0.5 s
    assert 0.5 < found.width / found.height < 6  # not a thread


def test_the_command_writes_the_page_with_what_opencv_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2", reason="OpenCV is the second implementation (the extra `verify`)")
    path = net(tmp_path, f'layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}')
    weights = [("conv", "Convolution", [value.detach().numpy() for value in convert(path).state_dict().values()])]
    write_caffemodel(tmp_path / "net.caffemodel", weights)
    cli.main([str(path), str(tmp_path / "net.caffemodel"), "--verify", "--report", str(tmp_path / "out.html")])
    assert f"{tmp_path / 'out.html'}: a report of 1 layer" in capsys.readouterr().out
    page = Page((tmp_path / "out.html").read_text())
    assert re.search(r"conv layer 'conv' \S* ?\S* ?'Convolution' \(line 2\) 1×2×6×6 OpenCV 4\S* \d\.\de-\d\d equal", page.text)


def test_the_page_says_what_was_written_beside_it_and_how_it_was_proven(tmp_path: Path) -> None:
    path = net(tmp_path, f'layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}')
    arguments = [str(path), "--random-weights", "-q", "-o", str(tmp_path / "out.pth"), "--report", str(tmp_path / "out.html")]
    cli.main(arguments)
    assert "out.pth was written from these files" in Page((tmp_path / "out.html").read_text()).text


def test_a_page_is_written_of_a_net_that_differs_from_its_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.verify.comparison import Comparison, Verification

    path = net(tmp_path, f'layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}')
    write_caffemodel(tmp_path / "net.caffemodel", [("conv", "Convolution", [numpy.ones((2, 3, 3, 3), "f4"), numpy.ones(2, "f4")])])
    found = Verification("Caffe", [Comparison("conv", (1, 2, 6, 6), 0.5, "Caffe", "layer 'conv'")])
    monkeypatch.setattr("converter.verify.files.verify_files", lambda *_, **__: found)
    arguments = [str(path), str(tmp_path / "net.caffemodel"), "--verify", "--report", str(tmp_path / "out.html"), "-q"]
    with pytest.raises(SystemExit, match="differs from Caffe"):
        cli.main([*arguments, "-o", str(tmp_path / "out.pth")])
    assert "5.0e-01 differs" in Page((tmp_path / "out.html").read_text()).text and not (tmp_path / "out.pth").exists()


def test_the_page_of_a_folded_net_shows_what_folding_made(tmp_path: Path) -> None:
    batch_norm = 'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }'
    path = net(tmp_path, f'layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" {CONV} }}', batch_norm)
    blobs = [numpy.ones((2, 3, 3, 3), "f4"), numpy.ones(2, "f4")]
    statistics_of = [numpy.zeros(2, "f4"), numpy.full(2, 4, "f4"), numpy.ones(1, "f4")]
    write_caffemodel(tmp_path / "net.caffemodel", [("conv", "Convolution", blobs), ("bn", "BatchNorm", statistics_of)])
    page = reported(tmp_path, path, tmp_path / "net.caffemodel", fold_batchnorm=True)
    assert "What was changed, as the command asked" in page.text
    assert [layer["name"] for layer in page.layers] == ["conv"] and "0 weight 2×3×3×3 folded 0.5 0.5" in page.text


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("net.prototxt", "must end in one of .html, .htm"),
        ("nowhere/net.html", "make it first"),
        ("net.json", "must end in one of .html, .htm"),
    ],
)
def test_a_page_goes_nowhere_else(out: str, words: str, tmp_path: Path) -> None:
    path = net(tmp_path, 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }')
    with pytest.raises(SystemExit, match=words):
        cli.main([str(path), "--report", str(tmp_path / out)])
    assert [each.name for each in tmp_path.iterdir()] == ["net.prototxt"]
