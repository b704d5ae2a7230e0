"""Packages that may be missing, and the words that install them: true in a checkout, and beside a wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex

# Import name: what people call it, and the extra that brings it; "" for what caffezoo always needs.
PACKAGES = {
    "PIL": ("Pillow", ""),
    "accelerate": ("Accelerate", "finetune"),
    "av": ("PyAV", "video"),
    "cv2": ("OpenCV", "predict"),
    "gradio": ("Gradio", "serve"),
    "h5py": ("h5py", "hdf5"),
    "huggingface_hub": ("huggingface_hub", "hub"),
    "jinja2": ("Jinja2", "report"),
    "matplotlib": ("Matplotlib", "finetune"),
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("ONNX Runtime", "onnx"),
    "onnxscript": ("ONNX Script", "onnx"),
    "tensorboard": ("TensorBoard", "finetune"),
    "torchmetrics": ("TorchMetrics", "finetune"),
    "filelock": ("filelock", ""),
    "google": ("protobuf", ""),
    "numpy": ("NumPy", ""),
    "platformdirs": ("platformdirs", ""),
    "requests": ("Requests", ""),
    "safetensors": ("safetensors", ""),
    "torch": ("PyTorch", ""),
    "torchvision": ("torchvision", ""),
    "tqdm": ("tqdm", ""),
    "urllib3": ("urllib3", ""),
}
DISTRIBUTIONS = {"PIL": "pillow", "google": "protobuf"}  # where the name to install is another


def to_install(extra: str) -> str:
    """The command that brings what an extra of caffezoo names, by the packages' own names."""
    try:
        needed = importlib.metadata.requires("caffezoo") or []
    except importlib.metadata.PackageNotFoundError:
        needed = []
    packages = [each.split(";")[0].strip() for each in needed if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", each)]
    if not packages:
        return f"pip install -e '.[{extra}]' in caffezoo's checkout"
    return f"pip install {shlex.join(packages)}"


class MissingPackage(ModuleNotFoundError):
    """A package that is needed is not there; the text says which, and how to install it."""


def missing(error: ImportError, extra: str = "") -> str | None:
    """What to say of a package that cannot be imported, and how to install it; None if it is none that caffezoo knows.

    `extra` is the one that brings what is needed for the work; without it the one of the table.
    """
    name = (error.name or "").partition(".")[0]
    if isinstance(error, MissingPackage):
        return str(error)
    if name not in PACKAGES:
        return None
    title, usual = PACKAGES[name]
    if "torchvision::" in str(error):
        return (
            f"torchvision is installed, and was built for another PyTorch ({error}); install the two together, as pytorch.org says for"
            " your machine: pip install --force-reinstall torch torchvision"
        )
    how = to_install(extra or usual) if extra or usual else f"pip install {DISTRIBUTIONS.get(name, name)}"
    return f"{title} is needed for this and cannot be imported ({error}): {how}"


def require(*names: str, extra: str = "") -> None:
    """Raises MissingPackage for the first of the packages that is not there: before the work, not at its end."""
    for name in names:
        try:
            there = all(importlib.util.find_spec(each) is not None for each in dict.fromkeys((name.partition(".")[0], name)))
        except (ImportError, ValueError):
            there = False
        if not there:
            plain = ModuleNotFoundError(f"No module named {name!r}", name=name)
            raise MissingPackage(missing(plain, extra) or str(plain), name=name)
