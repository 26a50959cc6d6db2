"""bundlecache: encode every item once, train a multimodal language model to complete bundles.

>>> import bundlecache as bc
>>> shop = bc.open("data")  # doctest: +SKIP
>>> shop.encode(modality="image")  # doctest: +SKIP
>>> run = shop.train(recipe="demo")  # doctest: +SKIP
>>> run.complete(["g2d74a3b7", "g4ab88e8b"], k=5)  # doctest: +SKIP

Data goes catalogue -> store -> candidates and questions -> training -> bench -> report, and the packages are named
after these steps. ``project`` is the library face, ``features`` holds the encoders, ``train`` the model and its
training, ``cli`` the commands. Importing ``bundlecache`` imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from . import torchvision_compat
from .catalogue.model import Bundles, Catalogue, Interactions
from .encode.run import Receipt
from .errors import BundlecacheError
from .project.create import import_data, make_demo, update_data
from .project.run import Completion, Evaluation, Run
from .project.workspace import Workspace, open  # noqa: A004 - bc.open("data")
from .questions.file import Questions
from .recipes.recipe import Recipe
from .store.store import Matrix, Store

__version__ = "0.1.0"

__all__ = [
    "BundlecacheError",
    "Bundles",
    "Catalogue",
    "Completion",
    "Evaluation",
    "Interactions",
    "Matrix",
    "Questions",
    "Receipt",
    "Recipe",
    "Run",
    "Store",
    "Workspace",
    "__version__",
    "import_data",
    "make_demo",
    "open",
    "update_data",
]

torchvision_compat.install()  # before torchvision is imported

if not (Path(__file__).parent / "features").is_dir():
    # A checkout without symbolic links (Windows): features/, train/ and cli.py are found one folder up.
    __path__.insert(0, str(Path(__file__).resolve().parents[1]))
