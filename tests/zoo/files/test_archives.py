"""Archives from strangers: only the file that is asked for gets out, and only if it is one."""

from __future__ import annotations

import hashlib
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import misbehaving as bad
import pytest
from misbehaving import Server

from zoo.cards.record import Archive, Checksum, File, Mirror
from zoo.errors import FetchError, ProofError
from zoo.files.fetch import obtain, settle
from zoo.files.http import Limits

BODY = random.Random(9).randbytes(50_000)
NAMES = b"someone\nsomeone else\n"
MEMBER = "net/net.caffemodel"
QUICK = Limits(connect=2, read=1, answer=1, tries=1, pause=0.01)

pytestmark = pytest.mark.usefixtures("home")


def sha256(data: bytes) -> tuple[Checksum, ...]:
    return (Checksum("sha256", hashlib.sha256(data).hexdigest(), "this test"),)


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(*entries: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(*entries: tuple[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return out.getvalue()


def file_in(url: str, checksums: tuple[Checksum, ...] = (), outer: tuple[Checksum, ...] = ()) -> File:
    return File("net.caffemodel", (Mirror(url, Archive(MEMBER, checksums=outer)),), len(BODY), checksums)


GOOD: dict[str, Callable[[], bytes]] = {
    "tar.gz": lambda: tar_of(entry("net"), entry("net/names.txt", NAMES), entry(MEMBER, BODY)),
    "tar.bz2": lambda: tar_of(entry(MEMBER, BODY), mode="w:bz2"),
    "tar.xz": lambda: tar_of(entry(MEMBER, BODY), mode="w:xz"),
    "tar": lambda: tar_of(entry(MEMBER, BODY), mode="w"),
    "tar of ./": lambda: tar_of(entry("./" + MEMBER, BODY)),
    "zip": lambda: zip_of(("net/names.txt", NAMES), (MEMBER, BODY)),
    "tar with a link that nobody asked for": lambda: tar_of(
        entry("net/latest", type=tarfile.SYMTYPE, linkname="/etc/passwd"), entry(MEMBER, BODY)
    ),
}


@pytest.mark.parametrize("pack", GOOD.values(), ids=GOOD.keys())
def test_the_published_member_comes_out_and_nothing_else(pack: Callable[[], bytes], server: Server, tmp_path: Path) -> None:
    url = server.serve("/net.archive", pack())
    path = obtain(file_in(url, sha256(BODY)), tmp_path / "model", limits=QUICK)
    assert path.read_bytes() == BODY
    inside = {each.name for each in (tmp_path / "model").iterdir()}
    assert inside == {".lock", "net.caffemodel", "net.caffemodel.receipt.json"}
    assert {each.name for each in tmp_path.iterdir()} == {"model"}


def linked(kind: bytes, target: str) -> Callable[[], bytes]:
    return lambda: tar_of(entry("net/other", BODY), entry(MEMBER, type=kind, linkname=target))


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "../": (lambda: tar_of(entry("../../net/net.caffemodel", BODY)), "points outside its archive"),
    ".. in the middle": (lambda: tar_of(entry("net/../../net.caffemodel", BODY)), "points outside its archive"),
    "absolute path": (lambda: tar_of(entry("/net/net.caffemodel", BODY)), "points outside its archive"),
    "symlink": (linked(tarfile.SYMTYPE, "/etc/passwd"), "is a link, a device or a folder"),
    "symlink inside": (linked(tarfile.SYMTYPE, "other"), "is a link, a device or a folder"),
    "hard link": (linked(tarfile.LNKTYPE, "net/other"), "is a link, a device or a folder"),
    "character device": (linked(tarfile.CHRTYPE, ""), "is a link, a device or a folder"),
    "block device": (linked(tarfile.BLKTYPE, ""), "is a link, a device or a folder"),
    "fifo": (linked(tarfile.FIFOTYPE, ""), "is a link, a device or a folder"),
    "folder": (linked(tarfile.DIRTYPE, ""), "is a link, a device or a folder"),
    "zip ../": (lambda: zip_of(("../net.caffemodel", BODY)), "points outside its archive"),
    "zip ..\\": (lambda: zip_of(("..\\net.caffemodel", BODY)), "points outside its archive"),
    "zip absolute": (lambda: zip_of(("/net/net.caffemodel", BODY)), "points outside its archive"),
    "zip symlink": (lambda: zip_of((MEMBER, b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "is a link"),
    "missing": (lambda: tar_of(entry("net/names.txt", NAMES)), "does not contain net/net.caffemodel"),
    "another size": (lambda: tar_of(entry(MEMBER, BODY + b"\0")), "50,001 bytes; 50,000"),
    "a bomb": (lambda: zip_of((MEMBER, bytes(50_000_000))), "50,000,000 bytes; 50,000"),
    "other bytes": (lambda: tar_of(entry(MEMBER, BODY[::-1])), "not the published bytes"),
    "cut short": (lambda: tar_of(entry(MEMBER, BODY))[:-20_000], "not a complete tar or zip|ends after"),
    "cut short, bz2": (lambda: tar_of(entry(MEMBER, BODY), mode="w:bz2")[:-20_000], "not a complete tar or zip|ends after"),
    "cut short, xz": (lambda: tar_of(entry(MEMBER, BODY), mode="w:xz")[:-20_000], "not a complete tar or zip|ends after"),
    "cut short, zip": (lambda: zip_of((MEMBER, BODY))[:-20_000], "not a complete tar or zip"),
    "no archive at all": (lambda: BODY, "not a complete tar or zip"),
    "empty": (lambda: b"", "not a complete tar or zip"),
}


@pytest.mark.parametrize(("pack", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_or_broken_archive_gives_nothing(pack: Callable[[], bytes], reason: str, server: Server, tmp_path: Path) -> None:
    url = server.serve("/net.archive", pack())
    with pytest.raises(FetchError, match=reason):
        obtain(file_in(url, sha256(BODY)), tmp_path / "deep" / "er" / "model", limits=QUICK)
    left = [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*") if not each.is_dir()]
    assert left == ["deep/er/model/.lock"]

    # The same bytes from the user's disk, under the same checks.
    archive = tmp_path / "download"
    archive.write_bytes(pack())
    file = file_in("", sha256(BODY))
    (tmp_path / "added").mkdir()
    with pytest.raises(ProofError, match=reason):
        settle(archive, file.mirrors[0], file, tmp_path / "added", (), "here")
    assert not list((tmp_path / "added").iterdir())
    assert archive.exists()


def test_a_member_whose_bytes_are_damaged_inside_a_whole_archive_is_refused(server: Server, tmp_path: Path) -> None:
    packed = bytearray(zip_of((MEMBER, BODY)))
    packed[20_000] ^= 1
    url = server.serve("/net.zip", bytes(packed))
    with pytest.raises(FetchError, match="not a complete tar or zip"):
        obtain(file_in(url, sha256(BODY)), tmp_path, limits=QUICK)


def test_the_archives_checksum_proves_its_members_and_they_come_along(server: Server, tmp_path: Path) -> None:
    packed = GOOD["tar.gz"]()
    url = server.serve("/net.tar.gz", packed)
    weights = file_in(url, outer=sha256(packed))
    names = File("names.txt", (Mirror(url, Archive("net/names.txt", checksums=sha256(packed))),), needed=False)
    obtain(weights, tmp_path, together=(weights, names), limits=QUICK)
    assert (tmp_path / "net.caffemodel").read_bytes() == BODY
    assert obtain(names, tmp_path, limits=QUICK).read_bytes() == NAMES
    assert len(server.log) == 1
    assert "the archive's sha256 as stated by this test" in (tmp_path / "names.txt.receipt.json").read_text()


def test_members_of_an_archive_that_nothing_proves_do_not_come_along(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net.tar.gz", GOOD["tar.gz"]())
    weights = file_in(url, sha256(BODY))
    names = File("names.txt", (Mirror(url, Archive("net/names.txt")),), needed=False)
    obtain(weights, tmp_path, together=(weights, names), limits=QUICK)
    assert not (tmp_path / "names.txt").exists()


def test_an_archive_that_is_not_the_published_one_is_refused_before_it_is_opened(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net.tar.gz", GOOD["tar.gz"]())
    with pytest.raises(FetchError, match=r"the archive of net\.caffemodel: these are not the published bytes"):
        obtain(file_in(url, sha256(BODY), outer=sha256(b"another archive")), tmp_path, limits=QUICK)


def test_an_archive_is_resumed_like_any_file(server: Server, tmp_path: Path) -> None:
    url = server.serve("/net.tar.gz", GOOD["tar.gz"](), bad.truncated(30_000))
    file = file_in(url, sha256(BODY))
    assert obtain(file, tmp_path, limits=Limits(tries=3, pause=0.01)).read_bytes() == BODY
    assert server.log[1].headers["Range"] == "bytes=30000-"
