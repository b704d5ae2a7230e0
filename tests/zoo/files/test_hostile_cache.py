"""A cache that others can write to, and files that are none: nothing outside the cache is touched, and nothing installed changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from misbehaving import Server, wait_until

import zoo
from zoo.cards import registry
from zoo.cards.record import Checksum, File, Mirror, Terms
from zoo.cli import main
from zoo.errors import CacheError, LoadError, ProofError
from zoo.files import parts, store
from zoo.files.fetch import obtain
from zoo.files.http import Limits
from zoo.models.named import labels_of

BODY = random.Random(7).randbytes(300_000)
QUICK = Limits(connect=5, read=10, answer=10, tries=3, progress=50_000, pause=0.01)
SECRET = b"a private key"
ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("home")


def file_at(url: str) -> File:
    return File("net.caffemodel", (Mirror(url),), len(BODY), (Checksum("sha256", hashlib.sha256(BODY).hexdigest(), "this test"),))


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose only file comes from the server, under terms that ask for consent."""
    terms = Terms("research only", "this test", ask=True)
    card = dataclasses.replace(registry.card_of("squeezenet1_1"), name="small", files=(file_at(server.serve("/net", BODY)),), terms=terms)
    monkeypatch.setattr(registry, "CARDS", (card, *registry.CARDS))
    return "small"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.mkdir(mode=0o700)
    (path / "key").write_bytes(SECRET)
    (path / "key").chmod(0o600)
    return path


def untouched(secret: Path) -> bool:
    key = secret / "key"
    return [*secret.iterdir()] == [key] and key.read_bytes() == SECRET and key.stat().st_mode & 0o777 == 0o600


# --- writers who come late ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["dead", "gave up"])
def test_a_writer_of_an_adopted_part_who_comes_late_changes_nothing(owner: str, server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY)
    with parts.claim(tmp_path, "net.caffemodel", url) as part:
        part.start(parts.Note('"v1"', len(BODY)))
        part.path.write_bytes(BODY[:100_000])
        late = part.path.open("r+b", buffering=0)
    if owner == "dead":
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        dead = part.free.with_name(part.free.name.replace(".part", f".{parts._host()}~{gone.pid}~abcd.part"))
        part.free.rename(dead)
        part.free.with_suffix(".note").rename(dead.with_suffix(".note"))
    path = obtain(file_at(url), tmp_path, limits=QUICK)
    assert server.log[-1].headers["Range"] == "bytes=100000-"  # the bytes were taken over ...
    assert not os.path.samestat(os.fstat(late.fileno()), path.stat())  # ... and the file was not
    with late:
        late.write(b"late")
        late.seek(0, os.SEEK_END)
        late.write(b"later")
    assert path.read_bytes() == BODY


SLEEPER = """
import sys
from pathlib import Path
from zoo.cards.record import Checksum, File, Mirror
from zoo.files import lock
lock.fcntl.flock = lambda handle, operation: None  # a filesystem without locks
from zoo.files.fetch import obtain
place, url, sha256, size = sys.argv[1:]
file = File("net.caffemodel", (Mirror(url),), int(size), (Checksum("sha256", sha256, "this test"),) if sha256 else ())
obtain(file, Path(place), progress=False, allow_unverified_http=True)
print("done")
"""


@pytest.mark.parametrize("proven", [True, False])
def test_a_download_that_slept_while_another_took_it_over_changes_nothing(proven: bool, server: Server, tmp_path: Path) -> None:
    """The sleeper wakes up with the rest of another body in its socket: pinned or proven, what was installed stays as it is."""
    body, place = BODY * 7, tmp_path / "small"
    url = server.serve("/net", body, pace=0.03)
    sha256 = hashlib.sha256(body).hexdigest() if proven else ""
    sleeper = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(place), url, sha256, str(len(body))], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: max((path.stat().st_size for path in place.glob(".*.part")), default=0) > 500_000)
    sleeper.send_signal(signal.SIGSTOP)
    (part,) = place.glob(".*.part")
    os.utime(part, (0, 0))  # it has been asleep for long
    server.resources["/net"].pace = 0
    taker = subprocess.run(
        [sys.executable, "-c", SLEEPER, str(place), url, sha256, str(len(body))], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert taker.stdout == "done\n", taker.stderr
    path = place / "net.caffemodel"
    inode = path.stat().st_ino
    assert path.read_bytes() == body
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.communicate(timeout=300)[0] == "done\n"  # it finds what the other one installed
    assert path.read_bytes() == body
    assert path.stat().st_ino == inode
    assert zoo.files.store.receipt_of(path).sha256 == hashlib.sha256(body).hexdigest()  # type: ignore[attr-defined,union-attr]
    assert sorted(each.name for each in place.iterdir()) == [".lock", "net.caffemodel", "net.caffemodel.receipt.json"]


def test_a_file_that_is_changed_while_it_is_proven_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came = tmp_path / "came"
    came.write_bytes(BODY)
    honest = store.write_json

    def late(path: Path, value: object) -> None:
        honest(path, value)
        came.write_bytes(BODY[:-1] + b"!")
        os.utime(came, (1, 1))

    monkeypatch.setattr(store, "write_json", late)
    with pytest.raises(ProofError, match="changed by somebody else"):
        store.install(came, tmp_path, file_at(""), "here")
    assert not list(tmp_path.glob("net.caffemodel*"))


def test_a_file_with_a_second_name_is_not_installed(tmp_path: Path) -> None:
    came = tmp_path / "came"
    came.write_bytes(BODY)
    os.link(came, tmp_path / "second")
    with pytest.raises(ProofError, match="second name"):
        store.install(came, tmp_path, file_at(""), "here")


def test_a_file_that_somebody_put_into_the_cache_is_copied_before_it_is_trusted(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(BODY)
    with path.open("r+b", buffering=0) as late:
        assert obtain(file_at(server.serve("/net", BODY)), tmp_path, limits=QUICK) == path
        late.write(b"late")
    assert path.read_bytes() == BODY
    assert not server.log


# --- symbolic links ----------------------------------------------------------------------------------------------


def folder_link(place: Path, secret: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(secret)


def link_named(name: str) -> Callable[[Path, Path], None]:
    def make(place: Path, secret: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(secret / "key")

    return make


def part_link(place: Path, secret: Path) -> None:
    url = registry.card_of("small").files[0].mirrors[0].url
    link_named(f".net.caffemodel.{hashlib.sha256(url.encode()).hexdigest()[:12]}.part")(place, secret)


# What is a link, and whether fetching refuses it (or goes past it).
LINKS: dict[str, tuple[Callable[[Path, Path], None], bool]] = {
    "the model's folder": (folder_link, True),
    "the lock": (link_named(".lock"), True),
    "the receipt": (link_named("net.caffemodel.receipt.json"), False),
    "the accepted terms": (link_named("terms.json"), True),
    "the file": (link_named("net.caffemodel"), False),
    "a part": (part_link, False),
}


@pytest.mark.parametrize(("make", "refused"), LINKS.values(), ids=LINKS.keys())
def test_no_command_follows_a_link_out_of_the_cache(
    make: Callable[[Path, Path], None],
    refused: bool,
    small: str,
    home: Path,
    secret: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(home / small, secret)
    mine = tmp_path / "mine"
    mine.write_bytes(BODY)
    failed = []
    for command in (
        ["fetch", small, "--accept-terms"], ["add", small, str(mine), "--accept-terms"], ["verify", small], ["list"], ["info", small],
        ["clean"], ["clean", small, "--all"],
    ):  # fmt: skip
        status = main(command)
        err = capsys.readouterr().err
        assert untouched(secret), command
        if status and "symbolic link" in err:
            failed.append(command[0])
    assert ("fetch" in failed) == refused
    if make is folder_link:
        assert failed == ["fetch", "add", "verify", "clean", "clean"]
        assert (home / small).is_symlink()


def test_the_folder_of_converted_weights_is_no_link_either(small: str, home: Path, secret: Path) -> None:
    zoo.fetch(small, accept_terms=True)
    mine = secret / f"{small}-1234.safetensors"
    mine.write_bytes(b"mine")
    (home / "converted").symlink_to(secret)
    for call in (lambda: zoo.clean(small), lambda: zoo.clean(), lambda: zoo.verify(small)):
        with pytest.raises(CacheError, match="symbolic link"):
            call()
    assert mine.read_bytes() == b"mine"


def test_the_receipt_of_a_cached_file_is_no_link(small: str, home: Path, secret: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zoo.fetch(small, accept_terms=True)["net.caffemodel"]
    receipt = path.with_name("net.caffemodel.receipt.json")
    receipt.rename(secret / "receipt")
    receipt.symlink_to(secret / "receipt")
    for call in (zoo.fetch, zoo.verify):
        with pytest.raises(CacheError, match="symbolic link"):
            call(small)
    assert main(["list"]) == 0
    assert "a link: refused" in capsys.readouterr().out
    zoo.clean(small, everything=True)
    assert (secret / "receipt").is_file()
    assert not receipt.is_symlink()


def test_a_lock_with_a_second_name_is_not_made_writable(small: str, home: Path, secret: Path) -> None:
    (home / small).mkdir(parents=True)
    os.link(secret / "key", home / small / ".lock")
    with pytest.raises(CacheError, match="second name"):
        zoo.fetch(small, accept_terms=True)
    assert untouched(secret)


def test_the_cache_itself_may_be_a_link(small: str, home: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    home.symlink_to(tmp_path / "large")
    assert zoo.fetch(small, accept_terms=True)["net.caffemodel"].read_bytes() == BODY
    assert (tmp_path / "large" / small / "net.caffemodel").is_file()


def test_cleaning_leaves_folders_alone_that_are_not_the_zoo_s(small: str, home: Path) -> None:
    zoo.fetch(small, accept_terms=True)
    mine = home / small / "mine" / "file"
    mine.parent.mkdir()
    mine.write_bytes(b"")
    (home / small / ".x.part").mkdir()
    zoo.clean(small, everything=True)
    assert mine.exists()
    assert not (home / small / "net.caffemodel").exists()


# --- pipes, devices, sockets -------------------------------------------------------------------------------------


def bind(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "a named pipe, not a regular file"),
    "a folder": (lambda path: path.mkdir(), "a folder, not a regular file"),
    "a socket": (bind, "a socket, not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device, not a regular file"),
}
COMMANDS: dict[str, Callable[[str, Path], list[str]]] = {
    "add": lambda path, at: ["add", "squeezenet1_1", path],
    "compare": lambda path, at: ["compare", "fer_mini", path, path],
    "embed": lambda path, at: ["embed", "fer_mini", path, "-o", str(at / "x.npz")],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize(("make", "kind"), OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_regular_file_is_named_and_not_waited_for(
    make: Callable[[Path], object], kind: str, command: Callable[[str, Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(Path("x.png"))
    status = main(command("x.png", tmp_path))
    out, err = capsys.readouterr()
    if kind.startswith("a folder") and "embed" in command("", tmp_path):
        assert "no pictures in" in err
    else:
        assert kind in out + err
    assert status == 1


@pytest.mark.parametrize("name", [".lock", "net.caffemodel", "net.caffemodel.receipt.json", "terms.json"])
def test_a_pipe_in_the_cache_is_not_waited_for(name: str, small: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / small).mkdir(parents=True)
    os.mkfifo(home / small / name)
    status = main(["fetch", small, "--accept-terms"])
    assert status == int(name == ".lock")
    assert main(["verify", small]) == status
    assert main(["clean", small, "--all"]) == 0


BLOCKED: dict[str, tuple[Callable[[Path], object], str]] = {
    "the cache is a file": (lambda home: home.write_text("x"), "home stands where the cache needs a folder"),
    "the cache is a pipe": (os.mkfifo, "home stands where the cache needs a folder"),
    "the cache is a link to nothing": (lambda home: home.symlink_to("/nonexistent/x"), "home stands where the cache needs a folder"),
    "the cache is a link to itself": (lambda home: home.symlink_to(home), "home stands where the cache needs a folder"),
    "the model is a file": (lambda home: (home.mkdir(), (home / "small").write_text("")), "small stands where the cache needs a folder"),
    "the file is a folder": (lambda home: (home / "small" / "net.caffemodel" / "x").mkdir(parents=True), "net.caffemodel is a folder"),
    "the receipt is a folder": (
        lambda home: (home / "small" / "net.caffemodel.receipt.json").mkdir(parents=True), "net.caffemodel.receipt.json is a folder"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "said"), BLOCKED.values(), ids=BLOCKED.keys())
def test_what_stands_in_the_cache_s_way_is_named(
    make: Callable[[Path], object], said: str, small: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(home)
    mine = tmp_path / "mine"
    mine.write_bytes(BODY)
    for command in (["fetch", small, "--accept-terms"], ["add", small, str(mine), "--accept-terms"]):
        assert main(command) == 1
        err = capsys.readouterr().err
        assert said in err
        assert "Errno" not in err
    for command in (["list"], ["clean"]):
        assert main(command) == 0


def test_a_home_of_nobody_s_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", "~nosuchuser/cache")
    for command in (["list"], ["where"], ["fetch", "squeezenet1_1"], ["clean"]):
        assert main(command) == 1
        assert "CAFFEZOO_HOME is ~nosuchuser/cache: there is no user of that name" in capsys.readouterr().err


def test_cleaning_goes_past_a_folder_among_the_converted_weights(small: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "converted" / f"{small}-1.safetensors" / "mine").mkdir(parents=True)
    assert main(["clean", small]) == 0
    assert (home / "converted" / f"{small}-1.safetensors" / "mine").is_dir()


@pytest.mark.parametrize(("text", "labels"), [(b"a\r\nb\x0bc\xe2\x80\xa8d\n", ("a", "b\x0bc\u2028d")), (b"\xff\n", None)])
def test_labels_are_a_line_each_and_text(text: bytes, labels: tuple[str, ...] | None, server: Server, home: Path) -> None:
    names = File(
        "names.txt", (Mirror(server.serve("/names", text)),), len(text), (Checksum("sha256", hashlib.sha256(text).hexdigest(), "x"),)
    )
    card = dataclasses.replace(registry.card_of("squeezenet1_1"), name="labelled", files=(names,), labels=(), labels_file="names.txt")
    assert labels_of(card) == ()  # not there yet
    obtain(names, home / "labelled", limits=QUICK)
    if labels is not None:
        assert labels_of(card) == labels
    else:
        with pytest.raises(LoadError, match=r"not UTF-8.*caffe-zoo verify labelled"):
            labels_of(card)


# --- records -----------------------------------------------------------------------------------------------------

GOOD = {"size": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest(), "proof": "x", "origin": "x", "pinned": False}
RECORDS: dict[str, bytes] = {
    "nothing": b"",
    "nested brackets": b"[" * 50_000,
    "nested braces": b'{"size":' * 5_000,
    "a giant number": b'{"size": 1' + b"0" * 5_000 + b"}",
    "an endless number": b'{"size": 1e999}',
    "more than a record": b'{"size": "' + b"x" * 100_000 + b'"}',
    "no text": b"\xff\xfe{}",
    "a list": b"[]",
    "a number for a text": json.dumps({**GOOD, "sha256": 5}).encode(),
    "a text for a number": json.dumps({**GOOD, "size": "5"}).encode(),
    "true for a number": json.dumps({**GOOD, "size": True}).encode(),
    "a list for a truth": json.dumps({**GOOD, "pinned": [1]}).encode(),
    "a surrogate": b'{"size": 5, "sha256": "\\ud800", "proof": "", "origin": ""}',
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
def test_a_record_that_is_none_is_as_good_as_none(record: bytes, small: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = home / small
    assert main(["fetch", small, "--accept-terms"]) == 0
    for name in ("net.caffemodel.receipt.json", "terms.json"):
        (place / name).write_bytes(record)
    assert main(["fetch", small]) == 1
    assert "--accept-terms" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert main(["verify", small]) == 0
    assert main(["fetch", small, "--accept-terms"]) == 0
    assert json.loads((place / "net.caffemodel.receipt.json").read_bytes())["sha256"] == GOOD["sha256"]


NOTES: dict[str, bytes] = {
    **RECORDS,
    "a header of two lines": b'{"validator": "\\"v1\\"\\r\\nX: y", "total": null, "encoding": ""}',
    "a number for a header": b'{"validator": 5, "total": 5, "encoding": ""}',
    "a negative size": b'{"validator": "\\"v1\\"", "total": -5, "encoding": ""}',
    "another file's": b'{"validator": "\\"v1\\"", "total": 300000, "encoding": "", "inode": 1}',
}


@pytest.mark.parametrize("note", NOTES.values(), ids=NOTES.keys())
def test_a_part_whose_note_is_none_is_started_again(note: bytes, server: Server, tmp_path: Path) -> None:
    url = server.serve("/net", BODY)
    with parts.claim(tmp_path, "net.caffemodel", url) as part:
        part.start(parts.Note('"v1"', len(BODY)))
        part.path.write_bytes(b"not the beginning of the body")
    part.free.with_suffix(".note").write_bytes(note)
    assert obtain(file_at(url), tmp_path, limits=QUICK).read_bytes() == BODY
    assert "Range" not in server.log[0].headers
