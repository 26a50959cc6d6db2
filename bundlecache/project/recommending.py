"""Recommend, search and explain for one user: by a UniMP run, or where there is none by the best baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, CatalogueError, Command
from ..rows import Result, Rows
from ..text import listed, quoted
from .unimp_runs import check_trained, newest, trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..bench.task_bench import Method
    from ..catalogue.histories import Histories
    from ..questions.task_file import TaskName, TaskQuestions
    from ..train.unimp.answers import UnimpAnswers
    from .session import Session

FALLBACK = {"recommend": "item-kNN", "search": "BM25 + item-kNN"}
"""The method where there is neither a UniMP run nor a saved result of `bench --task`."""
FITS = "next_item"
"""The folder of fitted baselines, in candidates/."""


@dataclass(frozen=True)
class Recommendation:
    """An item for a user. ``score`` is the probability among all items for a UniMP run; of a baseline, its own score."""

    rank: int
    item_id: str
    title: str
    score: float


@dataclass(frozen=True)
class Selection:
    """One of the items that were offered; ``probability`` is that of being named first, ``chosen`` whether it is named at all."""

    item_id: str
    title: str
    chosen: bool
    probability: float


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """What a UniMP run expects a user to say of an item: ``rating`` is the expected number of stars, ``stars`` the likeliest."""

    user_id: str
    item_id: str
    title: str
    rating: float
    stars: int
    text: str


def recommend(
    session: Session,
    user: str,
    k: int = 10,
    *,
    query: str | None = None,
    run: str | None = None,
    where: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    keep_history: bool = False,
    device: str = "auto",
) -> Rows[Recommendation]:
    """The k items that a user takes next, the likeliest first; exact among the whole catalogue.

    Parameters
    ----------
    query
        What the user types: :func:`search` says so in words.
    run
        A UniMP run; the newest one if left out. Without any, a baseline is fitted, and named.
    where, exclude
        Conditions that the items fulfil, such as ``"price<50"``; ids that are never offered.
    keep_history
        Offer items that the user has taken already, too.

    Raises
    ------
    BundlecacheError
        When the user is unknown or has no history, the run is of another kind, or no item is left to offer.
    """
    from ..candidates.index import check_k
    from ..candidates.search import allowed_items

    check_k(k)
    catalogue, task = session.catalogue, "recommend" if query is None else "search"
    if query is not None:
        check_query(query, Command("search", user, "red mug"))
    allowed = allowed_items(catalogue, where or (), exclude or ())
    model = newest(session, run, device, required=run is not None)
    if model is not None:
        check_trained(model, task)
    asked = question(session, task, user, query=query, run=model)  # type: ignore[arg-type]
    if not keep_history:
        allowed[asked.history.values] = False
        if not allowed.any():
            raise CatalogueError(
                f"{user} has taken every item that may be offered.", hint="--keep-history, or a wider --where"
            )
    (scores,) = _baseline(session, asked).scores(asked) if model is None else model.scores(asked, allowed)
    scores = np.where(allowed, scores, -np.inf)
    best = np.argsort(-scores, kind="stable")[:k]
    best = best[np.isfinite(scores[best])]
    shown = scores[best] if model is None else np.exp(scores[best])
    if model is not None:
        session.say.note(f"ranked by {model.name}")
    if len(best) < k:
        session.say.note(f"{len(best)} of {k} items: no other ones may be offered")
    ids, titles = catalogue.item_ids, catalogue.titles
    rows = zip(best.tolist(), shown.tolist(), strict=True)
    return Rows(Recommendation(rank, ids[i], titles[i], round(score, 4)) for rank, (i, score) in enumerate(rows, 1))


def check_query(query: str, example: Command) -> None:
    """Refuse a query without a letter or digit; ``example`` shows a good one.

    Raises
    ------
    BundlecacheError
        With the example.
    """
    if not any(map(str.isalnum, query)):
        raise BundlecacheError("The query holds no word.", hint=example)


def search(session: Session, user: str, query: str, k: int = 10, **how: Any) -> Rows[Recommendation]:
    """The k items that fit best what a user types, and the user; the options are those of :func:`recommend`."""
    return recommend(session, user, k, query=query, **how)


def explain(session: Session, user: str, item: str, *, run: str | None = None, device: str = "auto") -> Explanation:
    """How many stars a user gives an item, and what the user says of it.

    Raises
    ------
    BundlecacheError
        When user or item is unknown, the user has no history, or there is no UniMP run that was trained to explain.
    """
    catalogue = session.catalogue
    (index,) = catalogue.indices([item]).tolist()
    model = trained(session, run, device, "explain")
    asked = question(session, "explain", user, target=index, run=model)
    (rating,), (stars,) = model.rate(asked)
    (text,) = model.explain(asked)
    return Explanation(user, item, catalogue.titles[index], round(float(rating), 2), int(stars), text)


def rate(session: Session, user: str, item: str, *, run: str | None = None, device: str = "auto") -> tuple[float, int]:
    """The expected number of stars that a user gives an item, and the likeliest one, by a UniMP run.

    Raises
    ------
    BundlecacheError
        When user or item is unknown, the user has no history, or there is no UniMP run that was trained for preference.
    """
    (index,) = session.catalogue.indices([item]).tolist()
    model = trained(session, run, device, "preference")
    (rating,), (stars,) = model.rate(question(session, "preference", user, target=index, run=model))
    return round(float(rating), 2), int(stars)


def select(
    session: Session, user: str, items: Sequence[str], *, run: str | None = None, device: str = "auto"
) -> Rows[Selection]:
    """Which of a few items a user takes, by a UniMP run; the likeliest first.

    Raises
    ------
    BundlecacheError
        When user or an item is unknown, the user has no history, there are fewer than 2 items or more than the model has
        names for, or there is no UniMP run that was trained to select.
    """
    catalogue = session.catalogue
    offered = catalogue.indices(list(dict.fromkeys(items)))
    model = trained(session, run, device, "select")
    most = len(model.model.vocabulary.selections)
    if not 2 <= len(offered) <= most:
        raise BundlecacheError(
            f"{len(offered)} different items were given, but one selects among 2 to {most}.",
            hint=Command("recommend", user),
        )
    asked = question(session, "select", user, run=model)
    (scores,), (chosen,) = model.choose(replace(asked, candidates=offered[None]))
    order = np.argsort(-scores, kind="stable").tolist()
    ids, titles = catalogue.item_ids, catalogue.titles
    return Rows(
        Selection(ids[i], titles[i], bool(chosen[k]), round(float(np.exp(scores[k])), 4))
        for k, i in ((k, int(offered[k])) for k in order)
    )


def question(
    session: Session,
    task: TaskName,
    user: str,
    *,
    target: int = 0,
    query: str | None = None,
    run: UnimpAnswers | None = None,
) -> TaskQuestions:
    """A question about all that a user has done so far.

    Raises
    ------
    CatalogueError
        When the user is unknown or has no history, or the interactions have no times although their order matters.
    """
    from ..catalogue.columns import Lists, Strings
    from ..catalogue.histories import Histories
    from ..questions.task_file import TaskQuestions

    histories = Histories.read(session.folder, session.catalogue)
    split = "leave_last_out" if run is None else run.data.split
    if not histories.timed and split != "random":
        raise CatalogueError(
            "The interactions have no timestamp, so nobody knows what a user took last, or what comes next.",
            hint="add a column timestamp to the interactions",
        )
    rows = _rows_of(histories, user)
    if run is not None and run.data.min_rating:
        rows = rows[histories.rating[rows] >= run.data.min_rating]
    if not len(rows):
        raise CatalogueError(
            f"{quoted(user)} has liked nothing yet, so there is no history to go by.", hint="choose another user"
        )
    mine = histories.take(rows)
    more: dict[str, Any] = {} if query is None else {"query": Strings([query])}
    if task in ("preference", "explain"):
        more = {"history_rating": mine.rating, "history_explanation": mine.explanation}
    header = {"name": f"{task} of {user}", "split": split}
    history = Lists.of(np.array([0, len(rows)]), mine.item)
    return TaskQuestions(task, header, Strings([user]), np.ones(1, bool), history, np.array([target], np.int32), **more)


def _rows_of(histories: Histories, user: str) -> np.ndarray:
    """The rows of a user's interactions, the earliest first."""
    try:
        number = histories.users.index(user)
    except ValueError as error:
        some = listed(list(histories.users[:3])) if len(histories) else "none"
        raise CatalogueError(
            f"{quoted(user)} has no interaction with an item of this catalogue, as {len(histories.users):,} users have.",
            hint=f"users such as {some}",
        ) from error
    low, high = np.searchsorted(histories.user, [number, number + 1])
    return np.arange(low, high)


def _baseline(session: Session, asked: TaskQuestions) -> Method:
    """The baseline that the latest `bench --task` found best, fitted beside the same questions; else a simple one, on all interactions.

    What it learnt is kept in the workspace, until the interactions are others.
    """
    from ..baselines import saved_fit
    from ..baselines.next_item import Training
    from ..bench.task_bench import saved_best
    from ..catalogue.histories import Histories
    from .tasks import baselines, task_setup

    best, header = saved_best(session.folder.root / "bench" / "tasks", asked.task)
    if header is not None:
        which: dict[str, Any] = {name: header.get(name) for name in ("split", "k_core", "seed", "min_rating")}
        training = task_setup(session, asked.task, **which).training
        why = "the best baseline in bench --task"
    else:
        nothing = asked.take(np.zeros(0, np.int64))  # these methods stop by no validation
        training = Training(session.catalogue, Histories.read(session.folder, session.catalogue), nothing)
        best, why = FALLBACK[asked.task], "as long as no bench --task has found a better one"
    session.say.note(f"No UniMP run yet, so {best} ranks, {why}", Command("train", "--recipe", "unimp"))
    method = next(method for method in baselines(training, asked.task) if method.name == best)

    def tell(name: str) -> None:
        session.say.note(f"{name} is fitted to {len(training.seen):,} interactions, and kept")

    return saved_fit.fitted(method, training, session.folder.candidates / FITS, tell)
