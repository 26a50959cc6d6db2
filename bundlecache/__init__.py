"""bundlecache: encode every item once, train a multimodal language model to complete bundles.

>>> import bundlecache as bc
>>> shop = bc.open("data")  # doctest: +SKIP
>>> shop.encode(modality="image")  # doctest: +SKIP
>>> run = shop.train()  # doctest: +SKIP
>>> run.complete(["g2d74a3b7", "g4ab88e8b"], k=5)  # doctest: +SKIP

Data goes catalogue -> store -> candidates and questions -> training -> bench -> report, and the packages are named
after these steps. ``project`` is the library face, ``features`` holds the encoders, ``train`` the model and its
training, ``cli`` the commands. Importing ``bundlecache`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import torchvision_compat

if TYPE_CHECKING:
    from .catalogue.catalogue import Bundles, Catalogue, Interactions
    from .encode.run import Receipt
    from .errors import BundlecacheError
    from .project.evaluation import Evaluation
    from .project.run import Completion, Run
    from .project.workspace import Workspace, open  # noqa: A004 - bc.open("data")
    from .project.workspace_data import import_data, make_demo, update_data
    from .questions.question_file import Questions
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

_MODULES = {
    "BundlecacheError": "errors",
    "Bundles": "catalogue.catalogue",
    "Catalogue": "catalogue.catalogue",
    "Completion": "project.run",
    "Evaluation": "project.evaluation",
    "Interactions": "catalogue.catalogue",
    "Matrix": "store.store",
    "Questions": "questions.question_file",
    "Receipt": "encode.run",
    "Recipe": "recipes.recipe",
    "Run": "project.run",
    "Store": "store.store",
    "Workspace": "project.workspace",
    "import_data": "project.workspace_data",
    "make_demo": "project.workspace_data",
    "open": "project.workspace",
    "update_data": "project.workspace_data",
}
"""Where the public names are defined. Each is imported when it is first used, so that ``bundlecache --help`` is quick."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


torchvision_compat.install()  # before torchvision is imported

if not (Path(__file__).parent / "features").is_dir():
    # A checkout without symbolic links (Windows): features/, train/ and cli.py are found one folder up.
    __path__.insert(0, str(Path(__file__).resolve().parents[1]))
