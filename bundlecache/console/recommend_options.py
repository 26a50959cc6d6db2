"""The arguments and options of `recommend`, `search`, `explain` and `draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..limits import MAX_K

ForUser = Annotated[str, Argument(metavar="USER", help="A user of the interactions.")]
Query = Annotated[str, Argument(metavar="QUERY", help='What the user types, for instance "red mug".')]
ExplainedItem = Annotated[str, Argument(metavar="ITEM", help="The id of an item of the catalogue.")]
Recommendations = Annotated[int, Option("--k", help="Items to print.", min=1, max=MAX_K)]
UnimpRun = Annotated[
    str | None,
    Option(
        "--run", help="Name of a UniMP run; the newest one if left out, or without any a baseline.", show_default=False
    ),
]
ExplainRun = Annotated[
    str | None, Option("--run", help="Name of a UniMP run; the newest one if left out.", show_default=False)
]
PictureFile = Annotated[Path, Option("--out", help="The file of the picture: .png, .jpg or .webp.")]
KeepHistory = Annotated[
    bool, Option("--keep-history/--no-keep-history", help="Offer items too that the user has taken already.")
]
