"""bundlecache: encode every item once, train a multimodal language model to complete bundles.

The data's way: catalogue -> encoder -> store -> questions + candidates -> batch -> fusion -> LLM ->
metrics -> report. This package is the ground floor: it knows no encoder and no model, and importing it
imports no torch. The encoders stand in ``features``, the training in ``train``, the commands in ``cli``.

>>> catalogue = Catalogue.read(Workspace("data"))  # doctest: +SKIP
>>> Store("data/store").matrix(catalogue.item_ids, "image").vectors  # doctest: +SKIP
"""

from __future__ import annotations

from .candidates import Candidates, Index
from .catalogue import Bundles, Catalogue, Interactions
from .encode import Encoder, Receipt
from .errors import BundlecacheError
from .metrics import Metrics, evaluate
from .questions import Questions
from .rankers import Ranker
from .recipes import Recipe
from .store import Matrix, Store
from .workspace import Workspace

__version__ = "0.1.0"

__all__ = [
    "BundlecacheError",
    "Bundles",
    "Candidates",
    "Catalogue",
    "Encoder",
    "Index",
    "Interactions",
    "Matrix",
    "Metrics",
    "Questions",
    "Ranker",
    "Receipt",
    "Recipe",
    "Store",
    "Workspace",
    "__version__",
    "evaluate",
]
