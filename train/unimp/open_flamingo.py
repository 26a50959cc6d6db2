"""Starts a model from a checkpoint of OpenFlamingo: its resampler and gated blocks, as UniMP's public code does.

OpenFlamingo names its tensors ``perceiver.*`` and ``...layers.I.gated_cross_attn_layer.*``, some of them twice; the frozen
language model, where the file holds it too, is left out. Written after its description; no published file was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bundlecache.errors import RecipeError
from bundlecache.foreign_tensors import read_tensors

BLOCK = re.compile(r"(?:.*\.)?(?:(\d+)\.gated_cross_attn_layer|gated_cross_attn_layers\.(\d+))\.(.+)")
RESAMPLER = (
    (r"^perceiver\.", "sight.resampler."),
    (r"(layers\.\d+)\.0\.(norm_media|norm_latents)\.", r"\1.\2."),
    (r"(layers\.\d+)\.0\.(to_\w+)\.", r"\1.attention.\2."),
    (r"(layers\.\d+)\.1\.", r"\1.feed."),
)
INSIDE = (
    (r"^attn\.norm\.", "norm."),
    (r"^attn\.", "attention."),
    (r"^attn_gate$", "gate"),
    (r"^ff_gate$", "feed_gate"),
    (r"^ff\.", "feed."),
)


def our_name(name: str) -> str | None:
    """What a tensor of OpenFlamingo is called here; None for what is not of the resampler or a block.

    >>> our_name("perceiver.layers.0.1.3.weight")
    'sight.resampler.layers.0.feed.3.weight'
    >>> our_name("lang_encoder.gpt_neox.layers.1.gated_cross_attn_layer.attn.to_kv.weight")
    'blocks.1.attention.to_kv.weight'
    """
    block = BLOCK.fullmatch(name)
    if block is None and not name.startswith("perceiver."):
        return None
    inside, rules = (name, RESAMPLER) if block is None else (block[3], INSIDE)
    for pattern, ours in rules:
        inside = re.sub(pattern, ours, inside)
    return inside if block is None else f"blocks.{block[1] or block[2]}.{inside}"


def start_from(path: Path, state: Mapping[str, Tensor]) -> None:
    """Put resampler and blocks of the checkpoint ``path`` into the tensors of `UniMP.own_state`; its rows stay.

    Raises
    ------
    BundlecacheError
        When the file cannot be read.
    RecipeError
        When it lacks a tensor of the model, or one has another shape.
    """
    given = {ours: value for name, value in read_tensors(path).items() if (ours := our_name(name)) is not None}
    own = {name: value for name, value in state.items() if not name.startswith("rows.")}
    for name, value in own.items():
        if name not in given:
            raise RecipeError(
                f"{path.name} holds nothing for {name}: it was made with another depth or every_n, or is no checkpoint of"
                " OpenFlamingo."
            )
        if given[name].shape != value.shape:
            raise RecipeError(
                f"{name} is {list(given[name].shape)} in {path.name} and {list(value.shape)} in this model.",
                hint="--set vision.latents=64 --set vision.heads=8 --set vision.head_width=64 --set vision.width=0",
            )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(given[name])
