"""Lets torchvision be imported beside a CPU-only torch, in whatever order libraries are imported.

The torchvision wheel on the package registry is built for CUDA. Beside a CPU-only torch its compiled part cannot be
loaded, which is harmless here (image transforms are plain Python). But its import then registers shape rules for two
operators, ``torchvision::nms`` and ``torchvision::qnms``, that only the compiled part declares, and fails; with it
fail open_clip and every model class of transformers.

``import bundlecache`` installs a hook that imports nothing: when some library imports torchvision later, the two
operators are declared just before their shape rules are registered. Nothing here ever calls them, and where torchvision
works it is left as it is. open_clip needs torchvision, so the environment cannot do without it.

A program that never imports bundlecache needs torchvision's own wheel for CPUs
(``pip install torchvision --index-url https://download.pytorch.org/whl/cpu``), or the hook in its environment:
:func:`install_in` puts a copy of this module there and a file that installs it whenever Python starts, as ``make`` does
for the environment that it builds. Neither imports bundlecache, of which a program may have another copy.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType

SHAPE_RULES = "torchvision._meta_registrations"  # imported after the compiled part was tried
OPERATORS = ("nms", "qnms")
AT_START = "_bundlecache_torchvision"
"""The name of the copy in an environment and of the ``.pth`` file there: Python runs the lines of such files that begin with
``import`` when it starts (https://docs.python.org/3/library/site.html)."""
_kept: list[Any] = []  # a torch library forgets its operators when it is garbage-collected


class _DeclareOperators:
    """Finds no module; declares the operators when torchvision is about to register its shape rules."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == SHAPE_RULES:
            _declare()
        return None


def install() -> None:
    """Install the hook in this process, once; the copy of this module in the environment may have done it."""
    if not any(type(finder).__name__ == _DeclareOperators.__name__ for finder in sys.meta_path):
        finder: Any = _DeclareOperators()  # without the base class for finders, which is long to import
        sys.meta_path.insert(0, finder)


def install_in(site_packages: Path | None = None) -> Path:
    """Install the hook in every process of an environment, that of this process if none is given; the file that does it."""
    import shutil
    import sysconfig
    from pathlib import Path

    folder = site_packages or Path(sysconfig.get_path("purelib"))
    shutil.copyfile(__file__, folder / f"{AT_START}.py")
    file = folder / f"{AT_START}.pth"
    file.write_text(f"import {AT_START}; {AT_START}.install()\n", "utf-8")
    return file


def _declare() -> None:
    import torch

    missing = [name for name in OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
