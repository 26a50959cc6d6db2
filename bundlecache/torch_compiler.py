"""Leaves the compiler of torch out of a process until something is compiled.

Importing ``torch._dynamo``, the first part of ``torch.compile``, takes as long as importing torch itself: it brings sympy,
distributed tensors and ONNX. Much code that compiles nothing imports it all the same: every optimizer at its first step,
every model class of transformers. Nearly all of that code only marks functions, which the compiler is to leave alone or to
trust, and a mark makes no difference while nothing is compiled.

`install` (`bundlecache.lean_imports.enable`) adds a hook that imports nothing: a library that imports ``torch._dynamo`` later is given
a stand-in that takes marks. Whatever else is asked of it loads the real module, which takes the stand-in's place
and is told the marks. Where ``torch._dynamo`` was imported before, nothing changes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMPILER = "torch._dynamo"


class _StandIn(ModuleType):
    """What ``torch._dynamo`` is until more than marking is asked of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        self.marks: list[tuple[str, Any]] = []  # the name of a mark, and the function that has it
        self.real: ModuleType | None = None
        self.imported = False

    def __getattr__(self, name: str) -> Any:
        # Names with underscores are looked for by programs that walk through all modules, `__path__` also by imports of parts.
        if name.startswith("__") and not (name == "__path__" and self.imported):
            raise AttributeError(name)
        return getattr(self.load(), name)

    def load(self) -> ModuleType:
        """The real module, which every later import finds."""
        if self.real is None:
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
            if sys.modules.get(COMPILER) is self:  # its parts must find each other while they are imported
                del sys.modules[COMPILER]
                vars(sys.modules["torch"]).pop("_dynamo", None)
            real = importlib.import_module(COMPILER)
            for mark, marked in self.marks:
                getattr(real, mark)(marked)
            self.real = real
        return self.real

    def graph_break(self, msg: str = "") -> None:
        """Where a graph would end: there is none."""
        if self.real is not None:
            self.real.graph_break(msg)

    def allow_in_graph(self, fn: Any) -> Any:
        """Mark a function, or several."""
        return self._mark("allow_in_graph", fn)

    def assume_constant_result(self, fn: Any) -> Any:
        """Mark a function."""
        return self._mark("assume_constant_result", fn)

    def _mark(self, mark: str, marked: Any) -> Any:
        if self.real is not None:
            return getattr(self.real, mark)(marked)
        self.marks.append((mark, marked))
        return marked

    def disable(self, fn: Any = None, recursive: bool = True, **options: Any) -> Any:
        """``fn`` as it is while there is no compiler, and as the compiler's own ``disable`` makes it from then on."""
        if self.real is not None or (fn is not None and not inspect.isroutine(fn)):
            return self.load().disable(fn, recursive, **options)
        if fn is None:
            return functools.partial(self.disable, recursive=recursive, **options)
        disabled: Callable[..., Any] | None = None

        @functools.wraps(fn)
        def undisturbed(*args: Any, **kwargs: Any) -> Any:
            nonlocal disabled
            if self.real is None:
                return fn(*args, **kwargs)
            if disabled is None:
                disabled = self.real.disable(fn, recursive, **options)
            return disabled(*args, **kwargs)

        return undisturbed


class _Finder:
    """Finds the stand-in where ``torch._dynamo`` is looked for, and no other module; a finder and a loader in one."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """How to make the stand-in."""
        loader: Any = self
        return importlib.machinery.ModuleSpec(COMPILER, loader) if fullname == COMPILER else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The stand-in."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run; from now on whoever asks for a part of the module gets the real one."""
        vars(module)["imported"] = True


def install() -> None:
    """Install the hook in this process, once; nowhere where the compiler is imported already."""
    if COMPILER not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        finder: Any = _Finder()  # without the base class for finders, which is long to import
        sys.meta_path.insert(0, finder)
