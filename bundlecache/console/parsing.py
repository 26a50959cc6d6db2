"""Parse what is typed beyond what Typer does: empty arguments, NAME=VALUE pairs, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer import BadParameter
from typer.core import TyperCommand

from ..errors import BundlecacheError, Command
from ..text import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..catalogue.readers.tables import TablesRequest

MAX_SAMPLE_DIGITS = 12


class Verb(TyperCommand):
    """A command that refuses empty arguments, ``--out ''`` would mean the current folder, and says which number to type."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the words, then parse them.

        Raises
        ------
        BundlecacheError
            When one of them is empty.
        """
        for before, word in zip(["", *args], args, strict=False):
            name, equals, value = word.partition("=")
            option = before if before.startswith("--") else ""
            if equals and name.startswith("--") and not value.strip():
                option, word = name, ""
            if not word.strip():
                what = option or "An argument"
                raise BundlecacheError(
                    f"{what} is empty.", hint=f"{option} VALUE, or leave it out" if option else "leave it out"
                )
        try:
            return super().parse_args(ctx, args)
        except BadParameter as error:
            if example := _number_to_type(error.param):
                error.message += f"\ntry: {example}"
            raise


def _number_to_type(option: Any) -> str:
    """An option of numbers with a number that it takes: its default, else the least one; nothing for other options."""
    least = getattr(option, "min", None)
    if least is None:
        return ""
    return f"{option.opts[-1]} {least if option.default is None else option.default}"


def pairs(given: Sequence[str] | None, option: str, example: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a dictionary.

    >>> pairs(["region=eu-west-1"], "--store-option", "region=eu-west-1")
    {'region': 'eu-west-1'}

    Raises
    ------
    BundlecacheError
        When a name or a value is missing.
    """
    found = {}
    for text in given or ():
        name, _, value = text.partition("=")
        if not (name and value):
            raise BundlecacheError(f"{option} is NAME=VALUE, not {text!r}.", hint=f"{option} {example}")
        found[name] = value
    return found


def weights(given: Sequence[str] | None) -> dict[str, float]:
    """``image=2`` as a weight by modality or encoder.

    >>> weights(["image=2"])
    {'image': 2.0}

    Raises
    ------
    BundlecacheError
        When a weight is no number.
    """
    found = {}
    for text in given or ():
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise BundlecacheError(f"{text!r} is no weight of a modality.", hint="--weight image=2")
    return found


def tables_request(
    items: Path | None,
    orders: Path | None,
    events: Path | None,
    maps: Sequence[str] | None,
    dates: str,
    fetch: bool,
) -> TablesRequest | None:
    """What ``--items``, ``--map`` and the like say about a folder of tables; None where none was typed."""
    from ..catalogue.readers.tables import TablesRequest

    request = TablesRequest(items, orders, events, tuple(maps or ()), dates, fetch)
    return None if request == TablesRequest() else request


def check_question_options(
    files: Sequence[Path] | None, export_to: Path | None, skip_broken: bool, *, drawn: bool
) -> None:
    """Refuse options of ``questions`` that would be ignored; ``drawn`` says whether some change what is drawn.

    Raises
    ------
    BundlecacheError
        Naming the options that do not go together.
    """
    if files and export_to is not None:
        raise BundlecacheError(
            "FILEs are taken over, --export writes what is there: one of them at a time.",
            hint=Command("questions", *files),
        )
    if files and drawn:
        raise BundlecacheError(
            "FILEs are taken over as they are; --options, --negatives, --difficulty and --seed draw others.",
            hint=Command("questions", *files),
        )
    if skip_broken and not files:
        raise BundlecacheError("--skip-broken is for questions of a FILE, and none was given.", hint="name the FILE")


def sample_size(text: str | int) -> int:
    """``--sample`` as a number of questions; 0 for ``all``.

    >>> sample_size("5000"), sample_size("all"), sample_size("0")
    (5000, 0, 0)

    Raises
    ------
    BundlecacheError
        When it is neither ``all`` nor a whole number of 0 or more.
    """
    typed = str(text).strip().lower()
    if typed == "all":
        return 0
    if not (typed.isascii() and typed.isdigit() and len(typed) <= MAX_SAMPLE_DIGITS):
        raise BundlecacheError(
            f"--sample is {quoted(typed[:30])}; it takes a number of questions, or all.", hint="--sample 5000"
        )
    return int(typed)


def check_completed(
    items: list[str] | None, file: Path | None, out: Path | None, engine: str, columns: list[str] | None
) -> tuple[Path, Path] | None:
    """The file of carts and that of the answers, where carts are given as a file; None where items are.

    Raises
    ------
    BundlecacheError
        When neither or both are given, or options that belong to a file without one.
    """
    if file is not None and items:
        raise BundlecacheError(f"Items and the file {file} were given; one of them is completed.", hint="leave out one")
    if file is None:
        if out is not None or engine != "local" or columns:
            raise BundlecacheError(
                "--out, --map and --engine belong to a file of carts, --from.", hint="--from carts.parquet"
            )
        if not items:
            raise BundlecacheError(
                "No item was given; a bundle starts with at least one.",
                hint=[Command("complete", "ITEM..."), "or --from carts.parquet --out completions.parquet"],
            )
        return None
    if out is None:
        raise BundlecacheError("--from needs the file of its answers.", hint="--out completions.parquet")
    return file, out
