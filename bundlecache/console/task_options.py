"""The options of tasks on user histories: of `questions --task` and `bench --task`."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Option

from ..errors import BundlecacheError, Command

TaskOption = Annotated[
    str | None,
    Option(
        "--task",
        help="Of user histories instead of bundles: recommend, search, select, preference, explain, or all.",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str | None,
    Option(
        "--split",
        help="--task: leave_last_out (if left out), user_holdout, time, or random where there are no times.",
        show_default=False,
    ),
]
KCore = Annotated[
    int | None,
    Option(
        "--k-core",
        help="--task: leave out users and items with fewer interactions, until none has; 5 if left out.",
        min=0,
        show_default=False,
    ),
]
KeepHistory = Annotated[
    bool, Option("--keep-history/--no-keep-history", help="--task: rank the items of a user's history too.")
]


def task_options(task: str | None, split: str | None, k_core: int | None) -> dict[str, Any]:
    """The options that were given with ``--task``.

    Raises
    ------
    BundlecacheError
        When they were given without it.
    """
    given = {name: value for name, value in (("split", split), ("k_core", k_core)) if value is not None}
    if given and task is None:
        raise BundlecacheError(
            "--split and --k-core are options of tasks on user histories.",
            hint=Command("questions", "--task", "recommend"),
        )
    return given
