"""The options that a run gives to every encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue


PRECISIONS = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Options:
    """How to run an encoder; encoders without weights pass over what does not concern them."""

    catalogue: Catalogue  # graph encoders learn from its training split
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1": see `devices.resolve_device`
    dtype: str = "float16"  # as stored: "float16" | "float32"
    batch_size: int | None = None  # None: the encoder's own default
    precision: str = "auto"  # of the forward pass: see `devices.forward_precision`
    draft: int | None = None  # pixels that a side keeps when a JPEG is read at a part of its size; None: all
    workspace: Path | None = None  # the folder whose store and adaptations an encoder may refer to
