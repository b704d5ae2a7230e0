"""The processes that read back what was written: started before there is a file, and gone when their writer is."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from golden import FOLDER

from converter import ConversionError, convert
from converter.write import output
from converter.write.fresh import Reader

ENDS = {
    "it is killed": "os.kill(os.getpid(), 9)",
    "it fails": "raise SystemExit('the net is wrong')",
    "it ends and forgets the process": "os._exit(0)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_reader_ends_when_its_writer_does(end: str) -> None:
    """The reader holds the writing end of a pipe: the reading end tells when nobody has it any more."""
    reading, writing = os.pipe()
    code = f"""
import os
from converter.write.fresh import Reader
with Reader("import json", "print('read')", [{writing}]):
    {ENDS[end]}
"""
    subprocess.run([sys.executable, "-c", code], pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        assert select.select([reading], [], [], 60)[0] and not os.read(reading, 1), "the reader still runs"
    finally:
        os.close(reading)


def test_a_reader_waits_for_the_file(tmp_path: Path) -> None:
    path = tmp_path / "net"
    with Reader("from pathlib import Path", "print(Path(path).read_text(), *given)") as reader:
        path.write_text("all of it")
        assert reader.read_back(path, path, 3, "words") == "all of it 3 words"


@pytest.mark.parametrize("imports", ["import os; print('said', file=sys.stderr); os._exit(7)", "import no_such_library"])
def test_a_reader_that_ends_early_is_an_error(imports: str, tmp_path: Path) -> None:
    with Reader(imports, "print('read')") as reader:
        reader._process.wait()
        with pytest.raises(ConversionError, match=r"net is not written: .* cannot read it back \((said|.*no_such_library.*)\)"):
            reader.read_back(tmp_path / "net", tmp_path / "net")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".caffemodel", ".py"])
def test_a_writer_that_fails_leaves_no_process_and_no_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Reader] = []

    def watched(reader: Reader) -> Reader:
        started.append(reader)
        return reader

    monkeypatch.setattr(Reader, "__enter__", watched)
    net = convert(FOLDER / "Graph-0" / "net.prototxt", FOLDER / "Graph-0" / "net.caffemodel")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for module in (
        "converter.write.output.write_safetensors",
        "converter.write.output.write_pth",
        "converter.write.forms.write_safetensors",
    ):
        monkeypatch.setattr(module, full)
    monkeypatch.setattr("converter.write.encode.layer_pieces", full)
    with pytest.raises(ConversionError, match="cannot be written"):
        output.save(net, tmp_path / f"net{suffix}")
    assert [reader._process.returncode is not None for reader in started] == [True]
    assert not list(tmp_path.iterdir())
