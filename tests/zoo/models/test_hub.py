"""Folders for the Hugging Face Hub: written, read back, fetched from a stand-in of the service, and what strangers may put into them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as serialized
from stub_hub import Hub, Repo, commit

import architectures
import zoo
from zoo import cli
from zoo.cards.record import LocalCard
from zoo.errors import CacheError, FetchError, LoadError, Offline, ProofError, SaveError, TermsNotAccepted, UnknownModel, ZooError
from zoo.models.hub import write_hub
from zoo.models.runs import MOST_BYTES

pytest.importorskip("huggingface_hub", reason="the client of the service (the extra `hub`)")
GOLDEN = Path(__file__).parents[2] / "golden" / "InnerProduct-1"
FACE = torch.rand(2, 1, 44, 44, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fer_mini as a folder."""
    place = tmp_path_factory.mktemp("hub") / "fer-mini"
    write_hub(zoo.load("fer_mini"), place)  # with net.py proven
    return place


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    running = Hub()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    monkeypatch.setenv("HF_TOKEN", "")
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def changed(files: dict[str, bytes], **facts: Any) -> dict[str, bytes]:
    """The same files with other words in config.json; ... takes one away."""
    config = {key: value for key, value in (json.loads(files["config.json"]) | facts).items() if value is not ...}
    return files | {"config.json": json.dumps(config).encode()}


@torch.inference_mode()
def test_the_folder_loads_to_the_model_s_own_numbers(folder: Path) -> None:
    model, again = zoo.load("fer_mini"), zoo.load(folder)
    assert torch.equal(model(FACE), again(FACE)) and type(again) is type(model)
    assert (again.labels, again.preprocess, again.card.crop) == (model.labels, model.preprocess, model.card.crop)
    assert again.card.terms is not None and again.card.terms.licence == model.card.terms.licence
    assert not again.training and zoo.load(str(folder), num_classes=3)(FACE).shape == (2, 3)


BARE = """
import runpy, sys, torch
sys.modules.update(dict.fromkeys(("converter", "zoo", "architectures", "finetune")))
net = runpy.run_path(sys.argv[1] + "/net.py")["load"]()
with torch.inference_mode():
    torch.save(net(torch.load(sys.argv[1] + "/../x.pt", weights_only=True)), sys.argv[1] + "/../y.pt")
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("converter", "zoo", "architectures") and sys.modules[name]))
"""
CLIPS = {"num_classes": 3, "encoder": "SmallResNet", "arguments": {"width": 8}}
NETS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "fer_mini": (lambda: zoo.load("fer_mini"), (2, 1, 44, 44)),
    "a converted net": (lambda: zoo.load_caffe(GOLDEN / "net.prototxt", GOLDEN / "net.caffemodel"), ()),
    "MobileFaceNet": (lambda: zoo.load("mobilefacenet", pretrained=False), (2, 3, 112, 112)),
    "a net of clips": (lambda: local(architectures.FaceClipNet(**CLIPS), CLIPS), (2, 3, 3, 32, 32)),
    "another net of clips": (lambda: local(architectures.FaceResNetRNN(4), {"num_classes": 4}), (1, 2, 3, 112, 96)),
}


def local(net: Any, arguments: dict[str, Any]) -> Any:
    """A net as a run's."""
    net.card = LocalCard("run", 'a "run"', Path("run"), type(net).__name__, arguments, None)
    net.labels, net.preprocess = (), None
    return net.eval()


@pytest.mark.parametrize(
    ("build", "shape"),
    [pytest.param(*net, id=name, marks=[] if name in ("fer_mini", "a net of clips") else [pytest.mark.slow]) for name, net in NETS.items()],
)
@torch.inference_mode()
def test_net_py_computes_the_same_where_caffezoo_is_not_installed(build: Callable[[], Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build()
    write_hub(model, tmp_path / "net", accept_terms=True, check=False)
    x = torch.randn(shape or next(iter(model.input_shapes.values())))
    torch.save(x, tmp_path / "x.pt")
    done = subprocess.run([sys.executable, "-I", "-c", BARE, str(tmp_path / "net")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert torch.allclose(torch.load(tmp_path / "y.pt", weights_only=True), model(x), rtol=1e-5, atol=1e-6)
    assert torch.allclose(zoo.load(tmp_path / "net")(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_net_py_that_computes_something_else_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.models import source

    real = source.source_of
    monkeypatch.setattr("zoo.models.hub.source_of", lambda *given: real(*given).replace("x.mean((2, 3))", "x.amax((2, 3))"))
    with pytest.raises(SaveError, match=r"net\.py is not written: .* differs by"):
        write_hub(zoo.load("fer_mini"), tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_the_model_card_has_front_matter_terms_scores_and_three_lines_of_use(folder: Path) -> None:
    from huggingface_hub import ModelCard

    text = (folder / "README.md").read_text()
    card = ModelCard(text)  # the service's own reader
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("bsd-3-clause", "caffezoo", "image-classification")
    results = {each.dataset_name: each.metric_value for each in card.data.eval_results or []}
    scores = zoo.info("fer_mini").scores
    assert results == {f"FER2013, {split}": pytest.approx(score, abs=1e-4) for split, score in scores.items()}
    body = text.replace("\\", "")
    for words in ("zoo.load(", "model.preprocess(image)", "3-clause BSD", "70.47%", "Not for decisions about people", "minus 127.5"):
        assert words in body, words
    assert body.index("## Terms") < body.index("## Use")


def test_the_scores_of_a_run_are_on_its_data_not_on_its_recipe(tmp_path: Path) -> None:
    from dataclasses import replace

    from huggingface_hub import ModelCard

    model = zoo.load("fer_mini")
    write_hub(model, tmp_path / "first", check=False)
    local = zoo.load(tmp_path / "first").card
    model.card = replace(local, title="small_vgg finetuned on fer2013.csv", recipe="small_vgg", scores={"private": 0.5}, terms=None)
    write_hub(model, tmp_path / "out", check=False)
    text = (tmp_path / "out" / "README.md").read_text()
    assert [each.dataset_name for each in ModelCard(text).data.eval_results or []] == ["fer2013.csv, private"]
    assert "**not stated**" in text


def test_class_names_of_strangers_are_text_in_the_card(tmp_path: Path) -> None:
    from dataclasses import replace

    from huggingface_hub import ModelCard

    names = ("<script>alert(1)</script>", "a | b\n# c", '"]}', "![x](http://evil)", "---", "e\u202ef", "g")
    model = zoo.load("fer_mini")
    write_hub(model, tmp_path / "first", check=False)
    local = replace(
        zoo.load(tmp_path / "first").card, title="x\n---\nlicense: mit", labels=names, scores={"---\nlicense: mit": 0.5}, terms=None
    )
    model.card, model.labels = local, names
    write_hub(model, tmp_path / "out", check=False)
    text = (tmp_path / "out" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.license == "other" and text.count("\n---\n") == 1
    assert "<script" not in text.replace("\\<", "") and "](http" not in text.replace("\\]", "").replace("\\(", "")
    assert "No licence that lets others pass the weights on is known" in text
    assert zoo.load(tmp_path / "out").labels == names


@pytest.mark.parametrize("build", ["load_caffe", "converted"])
@torch.inference_mode()
def test_caffe_nets_bring_their_prototxt(build: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = (
        zoo.load_caffe(GOLDEN / "net.prototxt", GOLDEN / "net.caffemodel")
        if build == "load_caffe"
        else zoo.load("gender_net", pretrained=False)
    )
    (shape,) = model.input_shapes.values()
    write_hub(model, tmp_path / "net", accept_terms=True, check=False)
    again: Any = zoo.load(tmp_path / "net")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(x), again(x)) and again.outputs == model.outputs
    (tmp_path / "net" / "net.prototxt").write_text(model.prototxt.replace("layer {", "layer  {", 1))
    with pytest.raises(LoadError, match=r"not the one that config\.json says"):
        zoo.load(tmp_path / "net")


def test_weights_without_a_licence_are_not_written_for_others_unless_one_may(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = zoo.load("mobilefacenet", pretrained=False)
    with pytest.raises(TermsNotAccepted, match="every right is reserved to its author"):
        write_hub(model, tmp_path / "net", check=False)
    assert not list(tmp_path.iterdir())
    write_hub(model, tmp_path / "net", accept_terms=True, check=False)
    text = (tmp_path / "net" / "README.md").read_text()
    assert "license: other" in text and "Publish this folder only with the permission of their authors" in text


def test_the_command_writes_the_folder_and_says_the_terms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "fer_mini", "--no-check", "--hub", str(tmp_path / "fm")]) == 0
    said = capsys.readouterr().out
    assert "Terms: the weights: 3-clause BSD" in said and f"hf upload OWNER/fm {tmp_path / 'fm'}" in said
    assert cli.main(["export", "fer_mini", "--hub", str(tmp_path / "fm")]) == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert cli.main(["export", "fer_mini"]) == 1
    assert "--hub FOLDER" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"fm"}


@torch.inference_mode()
def test_a_model_on_the_hub_is_pinned_by_its_first_use(hub: Hub, folder: Path) -> None:
    repo = hub.repos["ann/fer"] = Repo()
    first = repo.push(contents(folder) | {"net.py": b"raise SystemExit('code of a stranger')"})
    model = zoo.load("hf:ann/fer")
    assert torch.equal(model(FACE), zoo.load("fer_mini")(FACE)) and model.card.name == "ann/fer"
    asked = {line.rpartition("/")[2] for line in hub.log if "/resolve/" in line}
    assert asked == {"config.json", "model.safetensors"}  # no Python, nothing else
    second = repo.push(changed(contents(folder), title="another"))
    hub.log.clear()
    assert zoo.load("hf:ann/fer").card.title == model.card.title and not [line for line in hub.log if "/resolve/" in line]
    assert zoo.load("hf:ann/fer", revision=second).card.title == "another"
    assert zoo.load("hf:ann/fer", revision=first).card.title == model.card.title


def test_commands_take_a_model_on_the_hub_where_they_take_a_run(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image = pytest.importorskip("PIL.Image", reason="pictures are read by Pillow")
    hub.repos["ann/fer"] = Repo()
    hub.repos["ann/fer"].push(contents(folder))
    Image.new("L", (48, 48), 90).save(tmp_path / "a.png")
    assert cli.main(["embed", "hf:ann/fer", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.npz")]) == 0
    assert cli.main(["export", "hf:ann/fer", "-o", str(tmp_path / "net.caffemodel")]) == 0
    assert (tmp_path / "net.prototxt").is_file() and "1 embedding of" in capsys.readouterr().out


def test_without_the_network_what_was_fetched_still_loads(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["ann/fer"] = Repo()
    hub.repos["ann/fer"].push(contents(folder))
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    with pytest.raises(Offline, match="CAFFEZOO_OFFLINE is set"):
        zoo.load("hf:ann/fer")
    monkeypatch.delenv("CAFFEZOO_OFFLINE")
    zoo.load("hf:ann/fer")
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    zoo.load("hf:ann/fer")


def test_a_changed_file_is_refused(hub: Hub, home: Path, folder: Path) -> None:
    repo = hub.repos["ann/fer"] = Repo()
    name = repo.push(contents(folder))
    zoo.load("hf:ann/fer")
    place = home / "hub" / "ann--fer" / name
    for file, refusal in (("config.json", ProofError), ("model.safetensors", LoadError)):
        honest = (place / file).read_bytes()
        (place / file).write_bytes(bytes([honest[0] ^ 1]) + honest[1:])
        with pytest.raises(refusal, match="changed"):
            zoo.load("hf:ann/fer")
        (place / file).write_bytes(honest)
    (place / "model.safetensors").unlink()  # and the server has other bytes under the same commit now
    repo.commits[name]["model.safetensors"] += b"\0"
    with pytest.raises(ProofError, match="pinned on first use"):
        zoo.load("hf:ann/fer")


def test_a_server_that_answers_with_another_commit_is_refused(hub: Hub, folder: Path) -> None:
    repo = hub.repos["ann/fer"] = Repo()
    name = repo.push(contents(folder))
    hub.claims[name] = commit("another")
    with pytest.raises(ProofError, match="the service answers with"):
        zoo.load("hf:ann/fer", revision=name)
    hub.claims["main"] = "no commit"
    with pytest.raises(FetchError, match="names no commit"):
        zoo.load("hf:ann/fer")


def with_mean(files: dict[str, bytes], mean: torch.Tensor) -> dict[str, bytes]:
    spec = json.loads(files["config.json"])["preprocess"]
    return changed(files, preprocess=spec | {"mean": "mean.safetensors"}) | {"mean.safetensors": serialized({"mean": mean})}


STRANGE: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "another library's": (lambda files: changed(files, library_name="other"), "no model that caffe-zoo export --hub wrote"),
    "of a later format": (lambda files: changed(files, format=2), "format is 2"),
    "weights elsewhere": (lambda files: changed(files, weights="../../../etc/passwd"), "must be the name of a file in the folder"),
    "weights by another name": (lambda files: changed(files, weights="pytorch_model.bin"), "is missing"),
    "weights without a hash": (lambda files: changed(files, sha256=...), "64 hexadecimal digits"),
    "weights of another hash": (lambda files: changed(files, sha256="0" * 64), "its sha256 is"),
    "another class": (lambda files: changed(files, architecture="os.system"), "has no architecture"),
    "odd arguments": (lambda files: changed(files, arguments={"widths": [1 << 40]}), "SmallVGG"),
    "weights with controls in their name": (lambda files: changed(files, weights="\x1b[2J"), "must be the name of a file in the folder"),
    "a mean image of numbers": (lambda files: with_mean(files, torch.zeros(1, 44, 44, dtype=torch.int64)), "not a mean image"),
    "a mean image of two axes": (lambda files: with_mean(files, torch.zeros(44, 44)), "not a mean image"),
    "a mean image of NaN": (lambda files: with_mean(files, torch.full((1, 44, 44), torch.nan)), "not a mean image"),
    "no terms": (lambda files: changed(files, terms=["mit"]), "terms is"),
    "a list": (lambda files: files | {"config.json": b"[]"}, "no model that caffe-zoo"),
    "a deep one": (lambda files: files | {"config.json": b"[" * 100_000}, "no model that caffe-zoo"),
    "no weights": (lambda files: {"config.json": files["config.json"]}, "has no model.safetensors"),
    "nothing": (lambda files: {"README.md": b""}, "no model that caffe-zoo export --hub wrote"),
}


@pytest.mark.parametrize(("change", "words"), STRANGE.values(), ids=STRANGE.keys())
def test_what_a_stranger_may_put_into_a_repository(
    change: Callable[[dict[str, bytes]], dict[str, bytes]], words: str, hub: Hub, folder: Path
) -> None:
    repo = hub.repos["ann/fer"] = Repo()
    repo.push(change(contents(folder)))
    with pytest.raises(ZooError, match=words):
        zoo.load("hf:ann/fer")


def test_files_that_are_too_large_are_not_fetched(hub: Hub, folder: Path, tmp_path: Path) -> None:
    repo = hub.repos["ann/fer"] = Repo()
    repo.push(contents(folder))
    hub.sizes["config.json"] = MOST_BYTES + 1
    with pytest.raises(FetchError, match="are the most that it may have"):
        zoo.load("hf:ann/fer")
    assert not [line for line in hub.log if line.startswith("GET")]
    large = tmp_path / "large"
    large.mkdir()
    (large / "config.json").write_bytes(b" " * (MOST_BYTES + 1))
    with pytest.raises(LoadError, match="has at most"):
        zoo.load(large)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_body_without_an_end_is_left(file: str, hub: Hub, home: Path, folder: Path) -> None:
    hub.repos["ann/fer"] = Repo()
    hub.repos["ann/fer"].push(contents(folder))
    hub.endless.add(file)
    with pytest.raises(FetchError, match=f"sent more of {file} than"):
        zoo.load("hf:ann/fer")
    assert hub.sent < 256 << 20
    assert not [path for path in (home / "hub").rglob("*") if path.name == "incoming" or "incomplete" in path.name]


@pytest.mark.parametrize(
    ("status", "words"), [(401, "hf auth login"), (403, "hf auth login"), (404, "check the name"), (429, "later"), (500, "later")]
)
def test_what_a_server_refuses_with_leads_on(status: int, words: str, hub: Hub, home: Path, folder: Path) -> None:
    hub.repos["ann/fer"] = Repo()
    hub.repos["ann/fer"].push(contents(folder))
    hub.status["model.safetensors"] = status
    with pytest.raises(FetchError, match=words):
        zoo.load("hf:ann/fer")
    hub.status.clear()
    zoo.load("hf:ann/fer")
    assert not (home / "hub" / "ann--fer" / "incoming").exists()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_bad_day_of_the_server_is_not_kept(file: str, hub: Hub, folder: Path) -> None:
    """A proxy's page in place of a file: refused, and asked for again next time."""
    hub.repos["ann/fer"] = Repo()
    hub.repos["ann/fer"].push(contents(folder))
    hub.bodies[file] = b"<html>"
    with pytest.raises(ZooError, match=r"no model that|its sha256 is"):
        zoo.load("hf:ann/fer")
    hub.bodies.clear()
    zoo.load("hf:ann/fer")


def test_links_lead_nowhere_outside(folder: Path, home: Path, hub: Hub, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside.safetensors"
    inside.mkdir()
    outside.write_bytes((folder / "model.safetensors").read_bytes())
    (inside / "config.json").write_bytes((folder / "config.json").read_bytes())
    (inside / "model.safetensors").symlink_to(outside)
    with pytest.raises(LoadError, match="a link that leads out of the folder"):
        zoo.load(inside)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c", tmp_path / "models--a--b" / "blobs"  # huggingface_hub's own cache
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name, body in contents(folder).items():
        (blobs / f"x{name}").write_bytes(body)
        (snapshot / name).symlink_to(Path("../../blobs") / f"x{name}")
    zoo.load(snapshot)


@pytest.mark.parametrize(
    ("name", "revision", "error", "words"),
    [
        ("hf:ann", None, UnknownModel, "form hf:owner/name"),
        ("hf:../../etc/x", None, UnknownModel, "form hf:owner/name"),
        ("hf:a/b/c", None, UnknownModel, "form hf:owner/name"),
        ("hf:ann/..", None, UnknownModel, "form hf:owner/name"),
        ("hf:ann/fer", "../main", UnknownModel, "no branch, tag or commit"),
        ("hf:ann/fer", "", UnknownModel, "no branch, tag or commit"),
        ("hf:ann/fer", "other", UnknownModel, "has no revision 'other'"),
        ("hf:bob/none", None, UnknownModel, "no model hf:bob/none, or it is private"),
        ("fer_mini", "main", LoadError, "has no revisions"),
    ],
)
def test_names_that_nobody_has(name: str, revision: str | None, error: type[Exception], words: str, hub: Hub, folder: Path) -> None:
    hub.repos["ann/fer"] = Repo()
    hub.repos["ann/fer"].push(contents(folder))
    with pytest.raises(error, match=words):
        zoo.load(name, revision=revision)


def test_a_pin_that_was_tampered_with_is_refused(hub: Hub, home: Path, folder: Path) -> None:
    hub.repos["ann/fer"] = Repo()
    hub.repos["ann/fer"].push(contents(folder))
    zoo.load("hf:ann/fer")
    (home / "hub" / "ann--fer" / "pins.json").write_text('{"main": "../../../x"}')
    with pytest.raises(CacheError, match="pinned to what is no commit"):
        zoo.load("hf:ann/fer")


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = zoo.load("fer_mini")
    with pytest.raises(SaveError):
        write_hub(model, tmp_path / "file")
    with pytest.raises(SaveError):
        write_hub(model, tmp_path / "file" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of processes are Unix's")
    model, before = zoo.load("fer_mini"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(SaveError, match="cannot be written: File too large"):
            write_hub(model, tmp_path / "net", check=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
