"""Conditions on item attributes, as a person types them: ``category=coat``, ``price<50``, ``in_stock=true``.

``=`` and ``!=`` compare numbers as numbers, and text without regard to case; yes, true and 1 are the same value, and so
are no, false and 0. A category path (``Women > Coats``) equals each of its steps. ``<``, ``<=``, ``>`` and ``>=``
compare numbers. An item whose cell is empty never matches, nor does one whose cell is no number where one is needed.
"""

from __future__ import annotations

import difflib
import operator
import re
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from ..errors import CatalogueError
from ..text import listed, quoted
from .category_paths import PATH_SEPARATOR
from .columns import Strings
from .tables import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .catalogue import Catalogue

CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*", re.DOTALL)
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
TRUTH_WORDS = {"yes": "true", "1": "true", "no": "false", "0": "false"}  # how tables and people write true and false


def matching_items(catalogue: Catalogue, conditions: Sequence[str]) -> np.ndarray:
    """Bool [I], the items that match all ``conditions``; its sum is their number.

    Raises
    ------
    CatalogueError
        When a condition cannot be parsed, names no column, orders values that are no numbers, or no item matches all.
    """
    out = np.ones(len(catalogue), bool)
    for condition in conditions:
        out &= _matches(catalogue, condition)
    if not out.any():
        typed = " and ".join(quoted(condition)[1:-1] for condition in conditions)
        raise CatalogueError(f"None of the {len(catalogue):,} items matches {typed}.", hint="give a wider --where")
    return out


def _matches(catalogue: Catalogue, condition: str) -> np.ndarray:
    parsed = CONDITION.fullmatch(condition)
    if parsed is None:
        raise CatalogueError(
            f"{quoted(condition)} is no condition; one is a column, one of = != < <= > >=, and a value.",
            hint='--where category=coat, --where "price<50"',
        )
    name, sign, value = parsed.groups()
    codes, cells = _cells(catalogue, name).codes()  # each distinct cell is compared once
    if sign in ("=", "!="):
        matches = [_equal(cell, value) is (sign == "=") for cell in cells]
        return np.array([*matches, False], bool)[codes]  # an empty cell, -1, matches nothing
    bound, numbers = number(value), [number(cell) for cell in cells]
    if bound is None or all(each is None for each in numbers):
        what = quoted(value)
        if bound is not None:
            what = f"the column {name}, for instance {quoted(next(filter(None, cells), ''))},"
        raise CatalogueError(
            f"{quoted(condition)} compares numbers, but {what} is none.", hint=f'--where "{name}=VALUE" compares text'
        )
    return np.array([*(each is not None and COMPARE[sign](each, bound) for each in numbers), False], bool)[codes]


def _cells(catalogue: Catalogue, name: str) -> Strings[str] | Strings[str | None]:
    if name == "title":
        titles = catalogue.titles.arrow
        return Strings(pc.if_else(pc.equal(pc.binary_length(titles), 0), None, titles))
    if name == "item_id":
        return catalogue.item_ids
    if name not in catalogue.columns:
        near = difflib.get_close_matches(name, catalogue.columns, n=1)
        there = listed(["title", *catalogue.columns])
        raise CatalogueError(
            f"The items table has no column {quoted(name)}; it has {there}.",
            hint=f"--where {near[0]}=..." if near else "name one of these columns",
        )
    return catalogue.columns[name]


def _equal(cell: str, value: str) -> bool:
    mine, asked = cell.casefold(), value.casefold()
    if TRUTH_WORDS.get(mine, mine) == TRUTH_WORDS.get(asked, asked) or asked in mine.split(PATH_SEPARATOR):
        return True
    as_number = number(cell)
    return as_number is not None and as_number == number(value)
