"""The zoo's detector on a real face."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV decodes videos: pip install av")
pytest.importorskip("PIL", reason="Pillow writes images: pip install pillow")

from marked_videos import moving, write
from PIL import Image
from prepared_trees import contents, noise, opened

import zoo
from finetune.prepare_video import main
from finetune.video import faces
from finetune.video.crop import prepare_one, search
from finetune.video.faces import similarity, template
from finetune.video.records import Options
from finetune.video.sources import find_videos

WEIGHTS = Path(__file__).parents[4] / "shared" / "models"
weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the authors' det1 to det3.caffemodel aren't in the project")


@pytest.fixture(scope="module")
def astronaut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real face (NASA's portrait of Eileen Collins, public domain) that moves 5 pixels right and 2 down a frame."""
    data = pytest.importorskip("skimage.data", reason="scikit-image has the portrait")
    portrait = Image.fromarray(data.astronaut()[:220, 110:400]).resize((145, 110), Image.Resampling.LANCZOS)
    images = []
    for number in range(14):
        frame = Image.new("RGB", (240, 180), (90, 90, 90))
        frame.paste(portrait, (5 + 5 * number, 10 + 2 * number))
        images.append(np.asarray(frame))
    return write(tmp_path_factory.mktemp("portrait") / "Happy" / "1.mp4", images, "libx264")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the authors' weights in it."""
    place = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAFFEZOO_HOME", str(place))
        for number in "123":
            copy = tmp_path_factory.mktemp("weights") / f"det{number}.caffemodel"
            shutil.copy(WEIGHTS / f"mtcnn_det{number}" / "net.caffemodel", copy)
            zoo.add("mtcnn", copy)
    return place


@pytest.fixture(scope="module")
def detector(home: Path) -> Iterator[faces.Detect]:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAFFEZOO_HOME", str(home))
        yield faces.mtcnn("cpu")
    torch.set_num_threads(threads)


@weights
@pytest.mark.parametrize("size", [(112, 96), (224, 224)])
def test_a_real_face_is_found_in_every_frame_and_centred(
    tmp_path: Path, astronaut: Path, detector: faces.Detect, size: tuple[int, int]
) -> None:
    [job] = find_videos(astronaut.parent.parent, tmp_path)
    outcome = prepare_one(job, Options(size=size), tmp_path / "out", detector, lambda amount: None)
    assert (outcome.status, outcome.frames, outcome.faces, outcome.interpolated) == ("done", 14, 14, 0)
    scale = size[0] / 112
    crops = [opened(path.read_bytes()) for path in sorted((tmp_path / "out").iterdir())]
    for crop in crops[::4]:
        # With a border: MTCNN wants to see more than a face.
        [found] = detector(np.pad(crop, [(60, 60), (60, 60), (0, 0)], "edge"), 60 * scale)
        # No face has the reference's proportions; what is left to turn, to scale and to shift is what alignment missed.
        a, b = similarity(found.points - 60, template(size))
        middle = complex(*template(size).mean(0))
        assert abs(a * middle + b - middle) / scale < 2
        assert abs(abs(a) - 1) < 0.05
        assert abs(np.angle(a)) < np.radians(3)


@weights
def test_the_track_of_a_real_face_is_smooth_and_true(astronaut: Path, detector: faces.Detect) -> None:
    times, found, shots = search(astronaut, Options(), [], detector, lambda amount: None)
    track = faces.main_track(faces.link(found, times, shots), len(found))
    assert track is not None
    raw = faces.landmarks(track, times, 0.5, 0.04)
    calm = faces.smooth(raw, 5)
    middle = calm.mean(1)
    assert np.abs(np.diff(middle, 2, axis=0)).max() < 0.5
    np.testing.assert_allclose((middle[-1] - middle[0]) / 13, [5, 2], atol=0.15)
    jumps = [np.abs(np.diff(points, 2, axis=0)).mean() for points in (raw, calm)]
    assert jumps[1] < 0.5 * jumps[0]


@weights
def test_the_command_runs_with_the_zoos_detector(tmp_path: Path, astronaut: Path, home: Path) -> None:
    src = tmp_path / "src"
    shutil.copytree(astronaut.parent, src / "Happy")
    write(src / "Sad" / "1.avi", [noise((120, 160), 3)] * 5)
    environment = {**os.environ, "CAFFEZOO_HOME": str(home), "CAFFEZOO_OFFLINE": "1"}
    command = [sys.executable, "-m", "finetune.prepare_video", str(src), str(tmp_path / "dst"), "--workers", "1", "--every", "3"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout.startswith("2 videos: 1 done, 1 no face\n14 faces of 112×96")
    assert sorted(contents(tmp_path / "dst")) == [f"Happy/1/images{n:04d}.jpg" for n in range(1, 15)]


def test_without_weights_and_network_the_zoo_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAFFEZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CAFFEZOO_OFFLINE", "1")
    write(tmp_path / "src" / "a.avi", moving(3))
    assert main([str(tmp_path / "src"), str(tmp_path / "dst")]) == 1
    assert capsys.readouterr().err.startswith("prepare_video: ")
