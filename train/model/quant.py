"""Quantises base models to 8 or 4 bits a weight with bitsandbytes (the extra ``quant``): half or a quarter of the memory.

The linear layers of the blocks are quantised; embeddings and the head stay as ``base.dtype`` says. So a 7B model fits
into a small GPU. It runs on a CPU too, where the weights are unpacked for every product.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from bundlecache.errors import RecipeError

# It would say at every product that inputs are rounded, and at its import which optional kernels it did not find.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def options(quantise: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The options of `bundlecache.pretrained.load_model` for ``quantise`` (none, 8bit, 4bit); products are in ``dtype``.

    Raises
    ------
    RecipeError
        When bitsandbytes is missing, or has no form for ``device``.
    """
    if quantise == "none":
        return {}
    if device.type not in ("cuda", "cpu"):
        raise RecipeError(
            f"A base of {quantise} runs on a GPU or a CPU, but the device is {device.type}.",
            hint="--set base.quantise=none",
        )
    if find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"A base of {quantise} needs bitsandbytes, which is not installed.",
            hint="pip install -c constraints.txt -e '.[cpu,quant]'",
        )
    from transformers import BitsAndBytesConfig

    if quantise == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    place: int | str = "cpu"
    if device.type == "cuda":
        place = torch.cuda.current_device() if device.index is None else device.index
    return {"quantization_config": config, "device_map": {"": place}}


def keep_as_loaded(model: nn.Module) -> None:
    """Keep quantised weights as they were loaded: some CPUs' kernels would pack and round them anew when first asked."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
