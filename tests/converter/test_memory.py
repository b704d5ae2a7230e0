"""A net that cannot fit into memory says so before it takes any."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from converter import ConversionError, convert, memory
from converter.memory import MemoryShortError, available, shown_size
from converter.verify import verify

HEAD = 'name: "Wide" input: "d" input_shape { dim: 1 dim: 1 dim: 64 dim: 64 }\n'
CONV = 'layer {{ name: "{0}" type: "Convolution" bottom: "{1}" top: "{0}" convolution_param {{ num_output: {2} kernel_size: 1 }} }}\n'
FLOATS = 64 * 64 * 4  # bytes of one channel


def net_of(path: Path, *channels: int) -> Path:
    names = ["d", *(f"c{row}" for row in range(len(channels)))]
    path.write_text(HEAD + "".join(CONV.format(names[row + 1], names[row], count) for row, count in enumerate(channels)))
    return path


@pytest.mark.parametrize(
    ("channels", "batch", "bytes_held"),
    [((2,), 1, 3), ((2, 5, 1), 1, 7), ((2, 5, 1), 3, 21), ((8, 1, 1), 1, 9)],
)
def test_the_estimate_is_what_is_held_at_one_time(
    channels: tuple[int, ...], batch: int, bytes_held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = convert(net_of(tmp_path / "net.prototxt", *channels))
    monkeypatch.setattr("converter.net.UNCHECKED", 0)
    x = torch.zeros(batch, 1, 64, 64)
    monkeypatch.setenv("CAFFEZOO_MEMORY", str(bytes_held * FLOATS))
    net(x)
    monkeypatch.setenv("CAFFEZOO_MEMORY", str(bytes_held * FLOATS - 1))
    with pytest.raises(MemoryShortError, match=r"the net 'Wide' needs about .* smaller batch") as error:
        net(x)
    assert isinstance(error.value, ConversionError) and isinstance(error.value, MemoryError)
    net(x, blobs=("d",))  # nothing is computed for it


def test_verify_says_it_before_it_draws_its_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = net_of(tmp_path / "net.prototxt", 4)
    net = convert(path, input_shapes={"d": (1, 1, 1 << 13, 1 << 13)})
    monkeypatch.setenv("CAFFEZOO_MEMORY", "1G")
    with pytest.raises(MemoryShortError, match=r"needs about 1\.2 GB"):
        verify(net, path, path)


@pytest.mark.parametrize(("said", "size"), [("1000", 1000), ("8G", 8 << 30), ("500 MiB", 500 << 20), ("2tb", 2 << 40)])
def test_the_variable_goes_over_what_the_machine_says(said: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_MEMORY", said)
    assert available() == size


@pytest.mark.parametrize("said", ["much", "-1", "1.5G", "9" * 30])
def test_a_variable_that_is_no_size_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFEZOO_MEMORY", said)
    with pytest.raises(ConversionError, match="CAFFEZOO_MEMORY is"):
        available()


def test_the_ulimit_counts() -> None:
    """In a child: torch has reserved address space here."""
    code = "from converter.memory import available; print(available())"
    limit = 600 << 20
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 0 < int(done.stdout) < limit


@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_control_groups_count_at_every_level(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, usage = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    root = tmp_path if version == 2 else tmp_path / "memory"
    for folder, most, used in ((root / "a", 5000, 1000), (root / "a" / "b", "max", 900)):
        folder.mkdir(parents=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / usage).write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 7\ninactive_file 300\n")
    read = Path.read_text
    line = "0::/a/b\n" if version == 2 else "5:cpu,memory:/a/b\n1:name=systemd:/\n"
    monkeypatch.setattr(memory, "HIERARCHY", tmp_path)
    monkeypatch.setattr(Path, "read_text", lambda path, *more: line if str(path) == "/proc/self/cgroup" else read(path, *more))
    assert list(memory._control_groups()) == [4300]


def test_sizes_read_well() -> None:
    assert [shown_size(size) for size in (900 * 1024, 1 << 20, 3.25 * (1 << 30))] == ["900 kB", "1.0 MB", "3.2 GB"]


@contextlib.contextmanager
def cpu_seconds(most: float) -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < most


@pytest.mark.parametrize(("axes", "kernel"), [(20, 2), (29, 3), (6, 100)])
def test_a_kernel_over_many_axes_is_refused_at_once(axes: int, kernel: int, tmp_path: Path) -> None:
    dims = " ".join(["dim: 1", "dim: 1", *[f"dim: {kernel if axes < 10 else 1}"] * axes])
    path = tmp_path / "net.prototxt"
    pad = "" if axes < 10 else f" pad: {kernel}"
    path.write_text(
        f'input: "d" input_shape {{ {dims} }} layer {{ name: "c" type: "Convolution" bottom: "d" top: "c"'
        f" convolution_param {{ num_output: 1 kernel_size: {kernel}{pad} }} }}"
    )
    with cpu_seconds(2), pytest.raises(ConversionError, match="more than any net"):
        convert(path)
