"""Time and memory grow with the file, not with its square: counted in calls of Python functions, which no busy machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from converter import ConversionError, convert

HEAD = 'input: "d" input_shape { dim: 1 dim: 4 }\n'


def relu(name: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" {more} }}\n'


def blobs_of_one_variable(n: int) -> str:
    """All names become x_, x__, ... in generated source."""
    marks = ".,:;!?%&"
    names = ["d", *("".join(marks[i >> shift & 7] for shift in (0, 3, 6)) for i in range(n))]
    return HEAD + "".join(relu(f"r{i}", names[i], names[i + 1]) for i in range(n))


def layers_of_one_name(n: int) -> str:
    return HEAD + "".join(relu("same", f"b{i - 1}" if i else "d", f"b{i}") for i in range(n))


def stages(n: int) -> str:
    state = " ".join(f'stage: "s{i}"' for i in range(n))
    return HEAD + f"state {{ {state} }}\n" + relu("r", "d", "o", f"include {{ {state} }}")


def tops(n: int) -> str:
    made = " ".join(f'top: "t{i}"' for i in range(n))
    return f'input: "d" input_shape {{ dim: 1 dim: {n} }} layer {{ name: "s" type: "Slice" bottom: "d" {made} slice_param {{ axis: 1 }} }}'


def in_place(n: int) -> str:
    return HEAD + "".join(relu(f"r{i}", "d", "d") for i in range(n))


def losses(n: int) -> str:
    """Each reads a label that no layer makes."""
    made = "".join(f'layer {{ name: "l{i}" type: "SoftmaxWithLoss" bottom: "o" bottom: "y{i}" top: "l{i}" }}\n' for i in range(n))
    return HEAD + relu("r", "d", "o") + made


def orphans(n: int) -> str:
    return HEAD + "".join(relu(f"r{i}", f"x{i}", f"o{i}") for i in range(n))


def data_layers(n: int) -> str:
    made = "".join(f'layer {{ name: "D{i}" type: "Data" top: "x{i}" }}\n' + relu(f"q{i}", f"x{i}", f"y{i}") for i in range(n))
    return made + HEAD.replace("\n", " ") + relu("r", "d", "o")


def calls(work: Callable[[], object]) -> int:
    """How many functions, Python's and C's, were called meanwhile."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def steps(path: Path) -> int:
    """How many lines of Python the building of a net, or its refusal, runs: those of a comprehension count, too."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if "/converter/build/" not in frame.f_code.co_filename and "difflib" not in frame.f_code.co_filename:
            return None
        count += 1
        frame.f_trace_opcodes = True
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        convert(path)
    except ConversionError as error:
        assert len(str(error)) < 5_000  # names the first ones
    finally:
        sys.settrace(before)
    return count


@pytest.mark.filterwarnings("ignore::converter.errors.CaffezooWarning")
@pytest.mark.parametrize("net", [losses, orphans, data_layers])
def test_what_is_missing_is_looked_for_in_steps_that_grow_with_the_net(net: Callable[[int], str], tmp_path: Path) -> None:
    found = []
    for n in (25, 50, 100):
        path = tmp_path / f"{n}.prototxt"
        path.write_text(net(n))
        found.append(steps(path))
    assert found[2] - found[1] < 2.5 * (found[1] - found[0]), found


@pytest.mark.parametrize("net", [blobs_of_one_variable, layers_of_one_name, stages, tops, in_place])
def test_twice_the_net_takes_about_twice_the_calls(net: Callable[[int], str], tmp_path: Path) -> None:
    found = []
    for n in (100, 200, 400):
        path = tmp_path / f"{n}.prototxt"
        path.write_text(net(n))
        found.append(calls(lambda path=path: convert(path).to_source(path.with_suffix(".py"))))  # type: ignore[misc]
    grown, more = found[1] - found[0], found[2] - found[1]
    assert more < 2.5 * grown, found


def test_writing_every_top_of_a_split_is_refused_before_it_takes_the_machine(tmp_path: Path) -> None:
    n = 1_000
    path = tmp_path / "net.prototxt"
    made = " ".join(f'top: "t{i}"' for i in range(n))
    path.write_text(
        HEAD + f'layer {{ name: "s" type: "Split" bottom: "d" {made} }}\n' + "".join(relu(f"r{i}", f"t{i}", f"t{i}") for i in range(n))
    )
    with pytest.raises(ConversionError, match="change more blobs than any net has"):
        convert(path)
