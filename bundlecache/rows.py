"""Results that become pandas DataFrames, and show themselves in one line."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import BundlecacheError

if TYPE_CHECKING:
    import numpy as np
    import pandas

Row = TypeVar("Row")
REPR_CHARACTERS = 160
CELL_CHARACTERS = 40
SHOWN_ROWS = 10


class Rows(list[Row]):
    """Rows of one kind; ``to_pandas`` gives a DataFrame with a column per field."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """The fields of every row by name."""
        return [
            {field.name: getattr(row, field.name) for field in fields(row)} if is_dataclass(row) else dict(row)  # type: ignore[call-overload]
            for row in self
        ]

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self[:SHOWN_ROWS]))
        return f"[{first}]" if len(self) <= SHOWN_ROWS else f"[{first}, ... {len(self) - SHOWN_ROWS:,} more]"

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame of the rows.

        Raises
        ------
        BundlecacheError
            When pandas is not installed.
        """
        return with_pandas().DataFrame(self.to_dicts())


class Result:
    """A result of a call: ``to_pandas`` gives a DataFrame, and a notebook shows a line of at most 160 characters.

    Classes say in ``_frame`` what the DataFrame holds; by default it is one row of their fields.
    """

    def _frame(self) -> Any:
        """What the DataFrame holds: dicts, one a row, or columns by name (an Arrow table as well)."""
        return [self.to_dict() if hasattr(self, "to_dict") else dict(vars(self))]

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame; of nested dicts, a column per number: ``figures.HR@10``.

        Raises
        ------
        BundlecacheError
            When pandas is not installed.
        """
        library, content = with_pandas(), self._frame()
        if hasattr(content, "to_pandas"):
            return content.to_pandas()
        return library.json_normalize(content) if isinstance(content, list) else library.DataFrame(content)

    def __repr__(self) -> str:
        text = f"<{type(self).__name__}: {', '.join(f'{name} {_cell(value)}' for name, value in vars(self).items())}>"
        return text if len(text) <= REPR_CHARACTERS else f"{text[: REPR_CHARACTERS - 4]}...>"


def frame_of(vectors: np.ndarray, mask: np.ndarray, ids: Sequence[str] | None = None) -> pandas.DataFrame:
    """The rows of ``vectors`` [I, ...] where ``mask`` [I] is True, by ``ids`` [I] or else by their places."""
    there = mask.nonzero()[0]
    index = there if ids is None else [ids[k] for k in there.tolist()]
    return with_pandas().DataFrame(vectors[there].reshape(len(there), -1), index=index)


def with_pandas() -> Any:
    """The module pandas.

    Raises
    ------
    BundlecacheError
        When it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise BundlecacheError(
            "to_pandas() needs pandas, which is not installed.", hint="pip install pandas"
        ) from error
    return pandas


def _cell(value: Any) -> str:
    """A value in a few characters: of what has a shape or a length, that alone.

    >>> _cell([1, 2]), _cell("a long text " * 9), _cell(0.25)
    ('[2]', "'a long text a long text a long text...'", '0.25')
    """
    if hasattr(value, "shape"):
        return str([*value.shape])
    if isinstance(value, Sized) and not isinstance(value, str):
        return f"[{len(value)}]"
    text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= CELL_CHARACTERS else f"{text[: CELL_CHARACTERS - 4]}...{text[-1]}"
