"""The arguments and options of `recommend`, `search`, `explain` and `draw`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..limits import MAX_K
from . import options as o

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


def offering(verb: Callable[..., None]) -> Callable[..., None]:
    """The ``verb`` behind whose arguments the options of `_offer` stand; it is called with all of them by name."""
    own = [each for each in inspect.signature(verb, eval_str=True).parameters.values() if each.kind in POSITIONAL]
    shared = inspect.signature(_offer, eval_str=True).parameters.values()
    vars(verb)["__signature__"] = inspect.Signature([*own, *shared])
    return verb


POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _offer(
    k: Recommendations = 10,
    where: o.Where = None,
    exclude: o.Exclude = None,
    keep_history: KeepHistory = False,
    run: UnimpRun = None,
    data: o.Data = Path("data"),
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> Any:
    """What `recommend` and `search` have in common."""
