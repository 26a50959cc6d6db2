"""How far an import is: the name of its stage, and how many rows are done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Stages:
    """Tells ``tell`` (stage, rows done, rows in all or 0 where unknown) about the stages of an import, one after another."""

    def __init__(self, tell: Callable[[str, int, int], None] | None = None) -> None:
        self._tell = tell

    def begin(self, stage: str, total: int = 0) -> Callable[[int], None]:
        """Begin a stage; the function that is returned is called with the rows done so far."""

        def counted(done: int) -> None:
            if self._tell is not None:
                self._tell(stage, done, total)

        counted(0)
        return counted
