"""Imports language models of transformers and PEFT without what they never run: losses of object detection, pictures, clusters.

The module of one model class of transformers imports, by way of its base classes, torchvision, scipy.optimize, distributed
tensors, accelerate's questions to its users and much more: 2.4 times the processor seconds of torch. They are
imported by name (``from .loss_d_fine import DFineForObjectDetectionLoss``), so nothing short of another ``import`` leaves them
out. Python 3.15 has one (``lazy from x import y``, PEP 810). Here, inside a ``with deferred()`` block, what modules of
transformers, PEFT and accelerate import by name from the modules in `DEFERRED` is a stand-in instead, which imports the
real thing when it is first called, read or subclassed. Else nothing is changed: the modules themselves, ``sys.modules`` and
imports by all other code are as ever, and a module that is imported already is never deferred.

A model is built of tensors without values first, by rules of torch that import sympy to ask whether a size is a symbol. While
nobody has imported sympy none is, so inside the block these rules go on without it (`OF_PLAIN`).

`bundlecache.torch_compiler` does the same for the compiler of torch. Both are for commands that answer one question and end:
the command line calls :func:`enable` for these. Without it, as in programs that use the library, in training and in
a server, :func:`deferred` does nothing and every library is imported as it is.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import sys
import threading
import typing
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import torch_compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

IMPORTERS = ("transformers", "peft", "accelerate")
DEFERRED = (
    # Losses of models that find objects in pictures: torchvision and scipy.optimize.
    "transformers.loss.loss_d_fine",
    "transformers.loss.loss_deformable_detr",
    "transformers.loss.loss_deimv2",
    "transformers.loss.loss_for_object_detection",
    "transformers.loss.loss_grounding_dino",
    "transformers.loss.loss_lw_detr",
    "transformers.loss.loss_rf_detr",
    "transformers.loss.loss_rt_detr",
    # Pictures and videos, for checks of settings that language models lack.
    "transformers.image_utils",
    "transformers.video_utils",
    # Weights that are spread over several devices.
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributed._composable",
    "transformers.distributed.expert_parallel",
    "transformers.distributed.tensor_parallel",
    # Kernels for mixtures of experts in 8 bits.
    "transformers.integrations.deepgemm",
    "transformers.integrations.sonicmoe",
    # The compiler of torch, whose parts are imported here and there.
    "torch._dynamo",
    # The questions of ``accelerate config``: boto3, where it is installed.
    "accelerate.commands",
)
"""Modules from which only functions, and classes to compare with, are imported by language models; with their submodules."""
BELOW = tuple(f"{name}." for name in DEFERRED)
RULES = "torch._prims_common"
"""Finds out the types of results, and imports sympy to ask whether a number is one of its symbols."""
SYMBOLIC = "torch.fx.experimental.symbolic_shapes"
"""Compares sizes that may be symbols, and imports sympy for it; sizes are plain numbers where nothing is compiled."""
OF_PLAIN: dict[str, Callable[..., Any]] = {
    "expect_true": bool,
    "guard_or_false": bool,
    "guard_or_true": bool,
    "guard_size_oblivious": bool,
    "guarding_hint_or_throw": lambda size: size,
    "has_guarding_hint": lambda _size: True,
    "is_nested_int": lambda _size: False,
    "statically_known_true": bool,
    "sym_and": lambda *conditions: all(conditions),
    "sym_eq": lambda one, other: one == other,
    "sym_or": lambda *conditions: any(conditions),
}
"""What its functions answer where they are asked about plain truth values, numbers or lists of numbers."""

_enabled = False
_lock = threading.Lock()
_open = 0  # how many blocks


def enable() -> None:
    """Let this process, which belongs to one short command, import models without what they never run."""
    global _enabled
    _enabled = True
    torch_compiler.install()


@contextmanager
def deferred() -> Iterator[None]:
    """A block in which transformers and PEFT are imported without the modules in `DEFERRED`, where that is enabled.

    Blocks may overlap.
    """
    global _open
    if not _enabled:
        yield
        return
    with _lock:
        _open += 1
        if _open == 1:
            builtins.__import__ = _import
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if _open == 0:
                builtins.__import__ = _python_import


_python_import = builtins.__import__


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,  # noqa: A002 - as Python calls them
    locals: Mapping[str, object] | None = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """Python's own import, but for names from the modules in `DEFERRED`, asked for by `IMPORTERS`."""
    importer = str(globals.get("__name__")) if globals else ""
    if name == SYMBOLIC and fromlist and set(fromlist) <= OF_PLAIN.keys() and name not in sys.modules:
        return SimpleNamespace(**{each: functools.partial(_of_plain, each) for each in fromlist})
    if name == "sympy" and importer == RULES and not fromlist and name not in sys.modules:
        return SimpleNamespace(Basic=_Nothing)
    if globals and fromlist and importer.partition(".")[0] in IMPORTERS:
        module = importlib.util.resolve_name("." * level + name, str(globals["__package__"])) if level else name
        if module == "transformers.processing_utils" and tuple(fromlist) == ("Unpack",):
            return typing  # where that module has it from; for it alone, models import pictures, sounds and videos
        if module not in sys.modules and "*" not in fromlist and f"{module}.".startswith(BELOW):
            return _stand_ins(module, fromlist)
        if "define_import_structure" in fromlist:
            _read_models_once(importlib.import_module(module))
    return _python_import(name, globals, locals, fromlist, level)


def _stand_ins(module: str, names: Sequence[str]) -> Any:
    package, _, name = module.rpartition(".")
    if module == "torch.distributed.tensor" and package in sys.modules:
        # PEFT says `torch.distributed.tensor.DTensor` where it compares, and trusts that somebody has imported it.
        vars(sys.modules[package]).setdefault(name, _Unloaded(module))
    return SimpleNamespace(**{each: _StandIn(module, each) for each in names})


def _of_plain(function: str, *given: Any) -> Any:
    """What a function in `OF_PLAIN` gives; it is imported where it is asked about something else."""
    if all(map(_is_plain, given)):
        return OF_PLAIN[function](*given)
    return getattr(importlib.import_module(SYMBOLIC), function)(*given)


def _is_plain(given: Any) -> bool:
    return all(map(_is_plain, given)) if isinstance(given, (list, tuple)) else type(given) in (bool, int, float)


def _read_models_once(scanner: Any) -> None:
    """Let transformers find out which names its 1,600 model files export in a quarter of the time.

    It reads them all, for two modules one after the other, and goes through them line by line.
    """
    read: Any = getattr(scanner, "create_import_structure_from_path", None)
    find = getattr(scanner, "fetch__all__", None)
    if not hasattr(read, "__wrapped__") or find is None:  # it was done, or this version has another way
        return

    def last(text: str) -> list[str]:
        at = text.rfind("\n__all__") + 1
        return list(find(text[at:])) if at or text.startswith("__all__") else []

    kept: dict[str, Any] = {}

    def once(path: Any) -> Any:
        folder = str(Path(path).parent if Path(path).is_file() else path)
        if folder not in kept:
            kept[folder] = read.__wrapped__(folder)  # without its cache, which is too small
        return kept[folder]

    scanner.fetch__all__ = last
    scanner.create_import_structure_from_path = once


class _Nothing:
    """A class without instances: what symbols are while nobody has imported sympy."""


class _StandIn:
    """A function or class of a module that is imported when it is first needed."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    @functools.cached_property
    def _real(self) -> Any:
        module = importlib.import_module(self._module)
        if not hasattr(module, self._name):  # a module of a package
            return importlib.import_module(f"{self._module}.{self._name}")
        return getattr(module, self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __instancecheck__(self, instance: object) -> bool:
        return self._may_have_instances and isinstance(instance, self._real)

    def __subclasscheck__(self, cls: type) -> bool:
        return self._may_have_instances and issubclass(cls, self._real)

    @property
    def _may_have_instances(self) -> bool:
        """Not a class of torch whose module is not imported; modules of transformers may have their classes from elsewhere."""
        return self._module in sys.modules or not self._module.startswith("torch.")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real,)

    def __or__(self, other: object) -> Any:
        return Any  # in an annotation, which nobody reads

    __ror__ = __or__


class _Unloaded(ModuleType):
    """A module that is imported when anything but ``DTensor`` is asked of it, as an attribute of its package."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)

    @functools.cached_property
    def DTensor(self) -> _StandIn:  # noqa: N802 - the name in torch
        return _StandIn(self.__name__, "DTensor")
