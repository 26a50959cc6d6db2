"""Conditions on item attributes, as a person types them: ``category=coat``, ``price<50``, ``in_stock=true``.

``=`` and ``!=`` compare numbers as numbers, text without regard to case, yes, true and 1 as the same (no, false and 0
too), and a category path
(``Women > Coats``) also by one of its steps; ``<``, ``<=``, ``>``, ``>=`` compare numbers. An item whose cell is empty,
or no number where one is needed, does not fulfil a condition (``!=`` neither: nothing is known of it).
"""

from __future__ import annotations

import difflib
import operator
import re
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CatalogueError
from .category import PATH_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Catalogue

CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*", re.DOTALL)
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
WORDS = {"yes": "true", "1": "true", "no": "false", "0": "false"}  # how tables and people write true and false


def fulfilling(catalogue: Catalogue, conditions: Sequence[str]) -> np.ndarray:
    """[I] bool: the items that fulfil all ``conditions``.

    Raises
    ------
    CatalogueError
        When a condition cannot be read, names no column, asks for an order of what is no number, or no item fulfils
        all of them.
    """
    out = np.ones(len(catalogue), bool)
    for condition in conditions:
        out &= _one(catalogue, condition)
    if not out.any():
        raise CatalogueError(
            f"None of the {len(catalogue):,} items fulfils {' and '.join(conditions)}.", hint="a wider --where"
        )
    return out


def _one(catalogue: Catalogue, condition: str) -> np.ndarray:
    read = CONDITION.fullmatch(condition)
    if read is None:
        raise CatalogueError(
            f"{condition!r} is no condition; one is a column, one of = != < <= > >=, and a value.",
            hint='--where category=coat, --where "price<50"',
        )
    name, sign, value = read.groups()
    cells = _cells(catalogue, name)
    if sign in ("=", "!="):
        equal = [_equal(cell, value) for cell in cells]
        return np.array([cell is not None and same is (sign == "=") for cell, same in zip(cells, equal, strict=True)])
    bound, numbers = _number(value), [_number(cell) for cell in cells]
    if bound is None or all(number is None for number in numbers):
        told = repr(value) if bound is None else f"the column {name}, for instance {next(filter(None, cells), '')!r},"
        raise CatalogueError(
            f"{condition!r} compares numbers, but {told} is none.", hint=f'--where "{name}=VALUE" compares text'
        )
    return np.array([number is not None and ORDER[sign](number, bound) for number in numbers])


def _cells(catalogue: Catalogue, name: str) -> list[str | None]:
    if name == "title":
        return [title or None for title in catalogue.titles]
    if name == "item_id":
        return list(catalogue.item_ids)
    if name not in catalogue.columns:
        near = difflib.get_close_matches(name, catalogue.columns, n=1)
        raise CatalogueError(
            f"The items table has no column {name!r}; it has title, {', '.join(catalogue.columns) or 'nothing else'}.",
            hint=f"--where {near[0]}=..." if near else "name one of these columns",
        )
    return catalogue.columns[name]


def _equal(cell: str | None, value: str) -> bool:
    if cell is None:
        return False
    mine, asked = cell.casefold(), value.casefold()
    if WORDS.get(mine, mine) == WORDS.get(asked, asked):
        return True
    if asked in mine.split(PATH_SEPARATOR):
        return True
    number = _number(cell)
    return number is not None and number == _number(value)


def _number(cell: str | None) -> float | None:
    try:
        number = float(cell or "")
    except ValueError:
        return None
    return number if np.isfinite(number) else None
