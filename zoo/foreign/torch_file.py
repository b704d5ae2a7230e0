"""A state dict that torch.save wrote. Nothing in the file is run, and nothing is read before it is known to fit."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from converter.files import head
from zoo.errors import LoadError, ProofError
from zoo.files.archive import BROKEN, zip_directory

if TYPE_CHECKING:
    from torch import Tensor

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save began its files with before it wrote zips
MOST_BYTES = 8 << 30
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # under which training scripts put a state dict
NO_PICKLE = (
    "holds more than tensors. To load such a file runs code that it chooses, so it isn't done here; where you trust it, turn it into a"
    " state dict in a place where its project's classes can be imported: torch.save(torch.load(PATH, weights_only=False).state_dict(), NEW)"
)

RAW_PICKLE = (
    "a pickle, and no file of torch.save's. To load one runs code that it chooses, so it isn't done here; where you trust it, and it maps"
    " names to arrays, as VGGFace2-pytorch's .pkl files do, make it a state dict: python -c 'import pickle, torch; torch.save({key:"
    ' torch.from_numpy(value) for key, value in pickle.load(open("OLD.pkl", "rb"), encoding="latin1").items()}, "NEW.pth")\''
)


def is_torch(path: Path) -> bool:
    """Whether torch.save wrote the file, now or before 2020, or it is another pickle."""
    start = head(path, len(LEGACY))
    if start.startswith(b"PK\x03\x04"):
        try:
            names = [member.filename for member in zip_directory(path)]
            return any(name == "data.pkl" or name.endswith("/data.pkl") for name in names)
        except (*BROKEN, OSError, ProofError):
            return False
    return start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def read_torch(path: Path) -> dict[str, Tensor]:
    """The state dict, not yet in memory where torch can map the file. Raises LoadError for any other file."""
    import torch

    zipped = head(path, 4) == b"PK\x03\x04"
    if zipped:
        _check_zip(path)
    elif head(path, len(LEGACY)) != LEGACY:
        raise LoadError(f"{path}: {RAW_PICKLE}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnpicklingError as error:
        raise LoadError(f"{path}: {NO_PICKLE}") from error
    except Exception as error:  # torch turns damage into errors of any kind
        problem = str(error).splitlines()[0][:200] if str(error) else "it ends too early"
        raise LoadError(f"{path}: cut short or damaged ({problem})") from error
    if isinstance(state, Mapping):
        wrapped = [name for name in WRAPPERS if isinstance(state.get(name), Mapping)]
        if len(wrapped) == 1:
            state = state[wrapped[0]]
    if not isinstance(state, Mapping) or not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()):
        raise LoadError(f"{path}: a {type(state).__name__}, not a state dict (names to tensors)")
    prefix = "module." if state and all(key.startswith("module.") for key in state) else ""  # nn.DataParallel's
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _check_zip(path: Path) -> None:
    """torch.save packs nothing, so a member that is packed may be larger than it looks."""
    try:
        members = zip_directory(path)
    except (*BROKEN, OSError, ProofError) as error:
        raise LoadError(f"{path}: cut short or damaged ({error})") from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise LoadError(f"{path}: its members are compressed, which torch.save never does")
    if sum(member.file_size for member in members) > MOST_BYTES:
        raise LoadError(f"{path}: more than {MOST_BYTES:,} bytes; no net of the zoo has as many")
