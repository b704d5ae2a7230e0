"""The precision that a run takes when it is left to the machine."""

from __future__ import annotations

import pytest
import torch

from finetune.config import Training
from finetune.errors import FinetuneError
from finetune.train.device import accelerator_for


@pytest.mark.parametrize(
    ("capabilities", "precision", "taken"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "auto", "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "auto", "bf16"),
        ({"avx512_bf16": False, "avx512_f": True, "avx2": True}, "auto", "no"),
        ({"avx512_bf16": True}, "no", "no"),
        ({}, "bf16", "bf16"),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_multiplies_bf16(
    capabilities: dict[str, bool], precision: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert accelerator_for(Training(precision=precision), cpu=True).mixed_precision == taken  # type: ignore[arg-type]


def test_a_torch_that_cannot_say_what_the_cpu_does_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert accelerator_for(Training(precision="auto"), cpu=True).mixed_precision == "no"


def test_a_second_run_of_a_process_has_a_precision_of_its_own() -> None:
    assert [accelerator_for(Training(precision=each), cpu=True).mixed_precision for each in ("bf16", "no", "bf16")] == [
        "bf16",
        "no",
        "bf16",
    ]


def test_fp16_is_for_gpus() -> None:
    with pytest.raises(FinetuneError, match="precision fp16 needs a GPU"):
        accelerator_for(Training(precision="fp16"), cpu=True)
