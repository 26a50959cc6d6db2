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
MinRating = Annotated[
    float | None,
    Option(
        "--min-rating",
        help="--task: ask about interactions with so many stars alone, that is what users liked; 4 is usual.",
        show_default=False,
    ),
]
TrainingSeeds = Annotated[
    list[int] | None,
    Option(
        "--seed",
        help="--task: training seed of the baselines that learn; given several times, figures are means over the seeds.",
        min=0,
        show_default=False,
    ),
]
KeepHistory = Annotated[
    bool, Option("--keep-history/--no-keep-history", help="--task: rank the items of a user's history too.")
]


def task_options(
    task: str | None, split: str | None, k_core: int | None, min_rating: float | None = None
) -> dict[str, Any]:
    """The options that were given with ``--task``.

    Raises
    ------
    BundlecacheError
        When they were given without it.
    """
    known = {"split": split, "k_core": k_core, "min_rating": min_rating}
    given = {name: value for name, value in known.items() if value is not None}
    if given and task is None:
        raise BundlecacheError(
            "--split, --k-core and --min-rating are options of tasks on user histories.",
            hint=Command("questions", "--task", "recommend"),
        )
    return given
