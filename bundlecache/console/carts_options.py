"""The options of `complete --from`: a file of carts, its columns, and the file of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

CartFile = Annotated[
    Path | None,
    Option(
        "--from",
        metavar="FILE",
        help="Complete the carts of this Parquet, CSV or JSON lines file: a row per cart and item (order_id, item), or a "
        "row per cart with a list (item_ids).",
        show_default=False,
    ),
]
BundleFile = Annotated[Path | None, Option("--file", hidden=True, help="The old name of --from.")]
CartColumns = Annotated[
    list[str] | None,
    Option(
        "--map",
        metavar="NAME=COLUMN",
        help="With --from: the column of bundle_id, item_id or item_ids; guessed from the names if left out.",
        show_default=False,
    ),
]
AnswerFile = Annotated[
    Path | None,
    Option(
        "--out",
        metavar="FILE",
        help="With --from: the Parquet file of the answers, a row per cart. A killed command goes on when it is typed again.",
        show_default=False,
    ),
]
CompleteEngine = Annotated[
    str, Option("--engine", help="With --from: local (also under torchrun), or ray: actors of Ray Data complete.")
]
