"""torchvision beside a CPU-only torch: declare the two operators that its import trips over.

The torchvision wheel on the package registry is built for CUDA. Beside a CPU-only torch its compiled part
cannot be loaded, which is harmless (image transforms are plain Python), but its import then registers
shape rules for ``torchvision::nms`` and ``torchvision::qnms``, operators that only the compiled part
declares, and fails. open_clip and transformers import torchvision, so both fail with it. Declaring the
two schemas first is enough; nothing here ever calls them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_SCHEMAS = ("nms", "qnms")
_kept: list[Any] = []  # a torch library forgets its operators when it is garbage-collected


def prepare() -> None:
    """Make ``import torchvision`` succeed, if it is installed; a working torchvision is left as it is."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare()
        importlib.import_module("torchvision")


def _declare() -> None:
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half-made
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
