"""The options of ``bundlecache adapt``, each with its help, bounds and type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from ..limits import MAX_SEED

_MODE = "frozen, head (a projection of stored vectors), lora or full; as the recipe says if left out."

Encoder = Annotated[
    str | None,
    Option(
        "--encoder",
        help="Picture tower, and the text tower beside it, as in encode --encoder; that of the recipe if left out.",
        show_default=False,
    ),
]
TextEncoder = Annotated[
    str | None,
    Option("--text-encoder", help="Another text encoder, joined with the picture tower.", show_default=False),
]
NewName = Annotated[str, Option("--name", help="Name of the new encoder, which is then adapted:NAME.")]
Recipe = Annotated[
    str | None,
    Option(
        "--recipe",
        help="adapt-demo, adapt-head, adapt-join, adapt-siglip, adapt-mercari or a TOML file; adapt-head for a named --encoder, adapt-join for a --text-encoder.",
        show_default=False,
    ),
]
ImageMode = Annotated[
    str | None, Option("--image", help=f"What of the picture tower learns: {_MODE}", show_default=False)
]
TextMode = Annotated[str | None, Option("--text", help=f"What of the text tower learns: {_MODE}", show_default=False)]
Settings = Annotated[
    list[str] | None, Option("--set", help="Override a setting: --set training.lr=1e-5", show_default=False)
]
Seed = Annotated[
    int | None,
    Option(
        "--seed",
        help="Seed of batches, cuts and held-out pairs; the recipe's if left out.",
        min=0,
        max=MAX_SEED,
        show_default=False,
    ),
]
Resume = Annotated[
    str | None,
    Option("--resume", help="Go on with the adaptation NAME, which was stopped or killed.", show_default=False),
]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace an earlier adaptation of this name.")]
Others = Annotated[
    list[Path] | None,
    Option("--other", help="Another workspace: how much of its pairs is forgotten. Repeatable.", show_default=False),
]
