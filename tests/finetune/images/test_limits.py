"""What would fill the memory is refused before it does: and every mode of an image is read as it is seen, or refused."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from finetune import files
from finetune.clips.data import read_clips
from finetune.errors import FinetuneError, MemoryShort
from finetune.files import check_room, read_image
from finetune.images.data import read
from finetune.images.job import read_at_one_size


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))


def pictures(root: Path, folder: str, count: int, side: int = 4000) -> Path:
    Image.new("L", (side, side)).save(root / "one.png")
    for label in ("angry", "happy"):
        place = root / "d" / folder.format(label)
        place.mkdir(parents=True)
        for number in range(count):
            (place / f"{number}.png").hardlink_to(root / "one.png")
    return root / "d"


def packed_csv(root: Path) -> Path:
    row = b"0," + b" ".join([b"0"] * 262_144) + b"\n"
    path = root / "fer2013.csv.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(b"emotion,pixels\n")
        for _ in range(10):
            stream.write(row)
    return path


def npz(root: Path, name: str, shape: tuple[int, ...]) -> Path:
    with zipfile.ZipFile(root / "data.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for member, values in ((name, np.zeros(shape, np.uint8)), ("labels", np.zeros(shape[0], np.uint8))):
            with archive.open(f"{member}.npy", "w") as stream:
                np.lib.format.write_array(stream, values)
    return root / "data.npz"


def hdf5(root: Path) -> Path:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: HDF5 files cannot be written")
    with h5py.File(root / "data.h5", "w") as file:  # nothing of it is stored
        file.create_dataset("Training_pixel", (1 << 20, 48, 48), "u1", chunks=(1, 48, 48))
        file.create_dataset("Training_label", (1 << 20,), "u1", chunks=(1024,))
    return root / "data.h5"


BOMBS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "class folders": (lambda t: pictures(t, "{}", 10), read),
    "clips": (lambda t: pictures(t, "{}/clip", 10), read_clips),
    "a csv": (packed_csv, read),
    "an npz": (lambda t: npz(t, "images", (1000, 150, 150)), read),
    "clips in an npz": (lambda t: npz(t, "frames", (10, 100, 150, 150)), read_clips),
    "hdf5": (hdf5, read),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_unpacks_to_far_more_than_it_is_is_refused_before_it_is_decoded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reader = BOMBS[kind]
    source = make(tmp_path)
    monkeypatch.setattr(files, "UNQUESTIONED", 2 << 20)
    monkeypatch.setattr("finetune.images.tables.CHECKED_EVERY", 1 << 18)
    monkeypatch.setattr(files, "read_image", None)
    with pytest.raises(FinetuneError, match=r"times what lies on the disk: refused.*CAFFEZOO_MEMORY=16G") as error:
        reader(source)
    assert source.name in str(error.value)


@pytest.mark.parametrize("kind", BOMBS)
def test_what_does_not_fit_into_the_memory_is_refused_before_it_is_decoded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, reader = BOMBS[kind]
    monkeypatch.setenv("CAFFEZOO_MEMORY", "1M")
    monkeypatch.setattr("finetune.images.tables.CHECKED_EVERY", 1 << 18)
    with pytest.raises(MemoryShort, match=r"when decoded.*1\.0 MB of memory are available.*CAFFEZOO_MEMORY"):
        reader(make(tmp_path))


def test_a_set_that_is_large_only_at_its_own_size_is_read_at_the_net_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_MEMORY", "1M")
    root = pictures(tmp_path, "{}", 3, side=600)
    (root / "happy").rename(root / "sad")
    for number in range(3):
        Image.new("L", (600, 600), 9).save(root / "sad" / f"{number}.jpg")
        (root / "sad" / f"{number}.png").unlink()
    assert read_at_one_size(root, (48, 32)).images.shape == (6, 48, 48)


def test_what_is_usual_is_no_bomb() -> None:
    check_room(35_887 * 2304, 60 << 20, "FER2013")
    check_room(200 << 20, 1, "a set of small drawings")


def test_another_size_is_noticed_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path, "{}", 2, side=8)
    Image.new("L", (8000, 8000)).save(root / "happy" / "1.png.png")
    (root / "happy" / "1.png.png").replace(root / "happy" / "1.png")
    decoded: list[object] = []
    prepare = PngImageFile.load_prepare

    def noted(image: PngImageFile) -> None:
        decoded.append(image.size)
        prepare(image)

    monkeypatch.setattr(PngImageFile, "load_prepare", noted)
    with pytest.raises(FinetuneError, match=r"different sizes: 8×8 in .*8000×8000"):
        read(root)
    assert (8, 8) in decoded and (8000, 8000) not in decoded


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_FILES", 5)
    with pytest.raises(FinetuneError, match="6 images, more than 5"):
        read(pictures(tmp_path, "{}", 3, side=8))


WHITE, BLACK = 255, 0
MODES: dict[str, tuple[str, object, object]] = {  # mode, a pixel, what is read: grey, RGB, or a refusal
    "1": ("1", 1, WHITE), "L": ("L", 77, 77), "opaque LA": ("LA", (77, 255), 77), "clear LA": ("LA", (77, 0), WHITE),
    "RGB": ("RGB", (1, 2, 3), (1, 2, 3)), "grey RGB": ("RGB", (9, 9, 9), 9), "clear RGBA": ("RGBA", (1, 2, 3, 0), WHITE),
    "RGBA": ("RGBA", (1, 2, 3, 255), (1, 2, 3)), "CMYK": ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
    "I;16": ("I;16", 999, "I;16 pixels"), "I;16B": ("I;16B", 999, "pixels; expected 8 bits"), "I": ("I", 9, "I pixels"),
    "F": ("F", 0.5, "F pixels"), "LAB": ("LAB", (1, 2, 3), "LAB pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODES)
def test_every_mode_is_read_as_it_is_seen_or_refused(case: str, tmp_path: Path) -> None:
    mode, pixel, expected = MODES[case]
    path = tmp_path / "a.tif"
    suffix = ".png" if mode in ("LA", "RGBA", "1") else ".tif"
    Image.new(mode, (4, 3), pixel).save(path.with_suffix(suffix))  # type: ignore[arg-type]
    if isinstance(expected, str):
        with pytest.raises(FinetuneError, match=expected):
            read_image(path.with_suffix(suffix), None)
        return
    found = read_image(path.with_suffix(suffix), None)
    assert found.shape == ((3, 4) if isinstance(expected, int) else (3, 4, 3)) and (found == np.array(expected)).all()


def test_a_transparent_palette_shows_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 200, 10, 20])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    image.save(tmp_path / "clear.gif", transparency=1)
    assert (read_image(tmp_path / "opaque.png", None) == (200, 10, 20)).all()
    for name in ("clear.png", "clear.gif"):
        assert (read_image(tmp_path / name, None) == WHITE).all()


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xc5\xd0\xd3\xc6" + b"\0" * 60, b"qoif" + b"\0" * 60]
)
def test_only_the_named_formats_are_opened(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(start + b"\0" * 60)
    with pytest.raises(FinetuneError, match=r"1\.png: not a whole image"):
        read_image(tmp_path / "1.png", None)
