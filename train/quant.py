"""Base models of 8 or 4 bits a weight, by bitsandbytes (the extra ``quant``): a GPU of half or a quarter of the memory."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from bundlecache.errors import RecipeError


def options(quantise: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` takes for ``quantise`` (none, 8bit, 4bit); ``dtype`` is what is computed in.

    Raises
    ------
    RecipeError
        When bitsandbytes or a GPU is missing.
    """
    if quantise == "none":
        return {}
    if device.type != "cuda":
        raise RecipeError(
            f"A base of {quantise} needs a GPU, but the device is {device.type}.", hint="--set base.quantise=none"
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
    place = torch.cuda.current_device() if device.index is None else device.index
    return {"quantization_config": config, "device_map": {"": place}}
