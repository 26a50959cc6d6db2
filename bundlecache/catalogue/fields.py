"""Which columns of the items table are an item's text, and how a spec says so.

``hf:FOLDER`` reads titles; ``hf:FOLDER#title+category`` reads both columns and is, everywhere, another encoder: it
has a table, a cosine and a place in recipes of its own. The columns stand in the spec because it is what tables,
runs and reports name; vectors of titles alone keep the specs that they always had.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Catalogue

TITLE = ("title",)


def join(spec: str, columns: Sequence[str]) -> str:
    """The spec of an encoder that reads these columns, in their order.

    >>> join("descriptor:text", ["title", "category"]), join("descriptor:text", ["title"])
    ('descriptor:text#title+category', 'descriptor:text')
    """
    plain, columns = split(spec)[0], tuple(dict.fromkeys(columns))
    return plain if columns == TITLE else f"{plain}#{'+'.join(columns)}"


def split(spec: str) -> tuple[str, tuple[str, ...]]:
    """A spec without its columns, and the columns; a ``#`` that belongs to an existing path stays in the spec.

    >>> split("hf:MiniLM#title+category"), split("hf:MiniLM")
    (('hf:MiniLM', ('title', 'category')), ('hf:MiniLM', ('title',)))
    """
    plain, mark, columns = spec.rpartition("#")
    if not mark or Path(spec.partition(":")[2]).expanduser().exists():
        return spec, TITLE
    return plain, tuple(columns.split("+"))


def check(catalogue: Catalogue, columns: Sequence[str]) -> None:
    """Refuse columns that the items table lacks; an id is no text, it would give away which items belong together.

    Raises
    ------
    CatalogueError
        Naming the columns there are.
    """
    there = [*TITLE, *catalogue.columns]
    for name in columns:
        if name not in there:
            raise CatalogueError(
                f"The items have no text column {name!r}; there are {', '.join(there)}.", hint="--fields title"
            )


def texts(catalogue: Catalogue, columns: Sequence[str]) -> list[str]:
    """[I] the cells of these columns that are not empty, joined by ". "; "" where all are."""
    cells = [catalogue.titles if name == "title" else catalogue.column(name) for name in columns]
    return [". ".join(cell for cell in row if cell) for row in zip(*cells, strict=True)]
