"""The options and arguments of `similar` and `bench --similar`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..limits import MAX_K

SimilarTo = Annotated[str, Argument(metavar="ITEM", help="The id of an item of the catalogue.")]
SimilarItems = Annotated[int, Option("--k", help="Similar items to print.", min=1, max=MAX_K)]
