"""A list of result rows (dataclasses) that becomes a pandas DataFrame."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from .errors import BundlecacheError

Row = TypeVar("Row")


class Rows(list[Row]):
    """Rows of one kind; ``to_pandas`` gives a DataFrame with a column per field."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """The fields of every row by name."""
        return [
            {field.name: getattr(row, field.name) for field in fields(row)} if is_dataclass(row) else dict(row)  # type: ignore[call-overload]
            for row in self
        ]

    def to_pandas(self) -> Any:
        """A DataFrame of the rows.

        Raises
        ------
        BundlecacheError
            When pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise BundlecacheError("pandas is not installed.", hint="pip install pandas") from error
        return pandas.DataFrame(self.to_dicts())
