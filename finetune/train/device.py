"""Where a run computes, and how precisely."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from finetune.config import Training
from finetune.errors import FinetuneError


def accelerator_for(training: Training, *, cpu: bool = False) -> Accelerator:
    """The device and its precision. Raises FinetuneError for a precision that the device lacks."""
    gpu = torch.cuda.is_available() and not cpu
    precision: str = training.precision
    if precision == "auto":
        precision = "bf16" if (gpu_multiplies_bf16() if gpu else cpu_multiplies_bf16()) else "no"
    if precision == "fp16" and not gpu:
        raise FinetuneError("precision fp16 needs a GPU; on a CPU take --set training.precision=no, or bf16")
    if gpu:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "no"
        torch.backends.cudnn.benchmark = True
    AcceleratorState._reset_state()  # it is the process's, and keeps the precision of an earlier run
    return Accelerator(cpu=cpu, mixed_precision=precision, gradient_accumulation_steps=training.accumulation)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, without waiting for it: a copy from memory that is not pinned lasts until a GPU has done all its work."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.contiguous().pin_memory().to(device, non_blocking=True)


def gpu_multiplies_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_multiplies_bf16() -> bool:
    """Whether oneDNN has instructions for it: AVX512-BF16 or AMX. Without them bf16 is slower than float32.

    With them, SmallVGG trains 2.5 times as fast (benchmarks/training.md). False under a torch that cannot say.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    found = capabilities() if capabilities is not None and torch.backends.mkldnn.is_available() else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
