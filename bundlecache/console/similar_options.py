"""The options and arguments of `similar`, `bench --similar` and `shrink`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..limits import MAX_K

SimilarTo = Annotated[str, Argument(metavar="ITEM", help="The id of an item of the catalogue.")]
SimilarItems = Annotated[int, Option("--k", help="Similar items to print.", min=1, max=MAX_K)]
Similar = Annotated[
    bool, Option("--similar", help="Score similar items instead: what users clicked after an item in the same visit.")
]
Window = Annotated[
    float | None,
    Option(
        "--window",
        help="With --similar: minutes between two clicks of one visit, when questions are first drawn; 30 if left out.",
        min=0,
        max=10_000_000,
        show_default=False,
    ),
]
ShrunkEncoder = Annotated[str, Option("--encoder", help="The encoder whose stored vectors are to be smaller.")]
Nearest = Annotated[
    int, Option("--k", help="Nearest items of the full vectors that are to be found.", min=1, max=MAX_K)
]
