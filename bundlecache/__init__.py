"""bundlecache: encode every item once, train a multimodal language model to complete bundles.

The data's way: catalogue -> encoder -> store -> questions + candidates -> batch -> fusion -> LLM ->
metrics -> report. This package is the ground floor: it knows no encoder and no model, and importing it
imports no torch. The encoders stand in ``features``, the training in ``train``, the commands in ``cli``.
"""

from __future__ import annotations

from .catalogue import Catalogue
from .errors import BundlecacheError
from .workspace import Workspace

__version__ = "0.1.0"

__all__ = ["BundlecacheError", "Catalogue", "Workspace", "__version__"]
