"""bundlecache: encode every item once, train a multimodal language model to complete bundles.

The data's way: catalogue -> encoder -> store -> questions + candidates -> batch -> fusion -> LLM ->
metrics -> report. This package is the ground floor: it knows no encoder and no model, and importing it
imports no torch. The encoders stand in ``features``, the training in ``train``, the commands in ``cli``.

>>> catalogue = Catalogue.read(WorkspaceFolder("data"))  # doctest: +SKIP
>>> Store("data/store").matrix(catalogue.item_ids, "image").vectors  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

from .baselines.rankers import Ranker
from .bench.metrics import Metrics, evaluate
from .candidates.search import Candidates, Index
from .catalogue.model import Bundles, Catalogue, Interactions
from .encode.run import Encoder, Receipt
from .errors import BundlecacheError
from .questions.file import Questions
from .recipes.recipe import Recipe
from .store.store import Matrix, Store
from .workspace import WorkspaceFolder

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
    "WorkspaceFolder",
    "__version__",
    "evaluate",
]

if not (Path(__file__).parent / "features").is_dir():
    # A checkout without symbolic links (Windows): features/, train/ and cli.py are found one folder up.
    __path__.insert(0, str(Path(__file__).resolve().parents[1]))
