"""A workspace and a run as a server keeps them: read once, asked about many bundles at once, replaced as a whole.

A `Resident` never changes what it answers with: a new run or new vectors make a new one beside it. It works without a
trained run too: the learned ranker ranks then, or, where there are no bundles to learn from, the cosine of the search.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BundlecacheError, CatalogueError, Command, QuestionsError
from ..text import listed, quoted
from .completion import Bundle, Ranking, complete_bundles
from .item_search import ItemSearch
from .run import Run
from .shown_item import ShownItems
from .together import Together

if TYPE_CHECKING:
    from ..baselines.rankers import Ranker
    from ..candidates.index import Index
    from ..store.store import Matrix
    from ..train.model.bundle_mllm import BundleMLLM
    from ..train.run import LoadedRun
    from .session import Session

UNTRAINED_OPTIONS = 100  # candidates of a bundle where no run says how many it was trained on
COSINE = "cosine"
RANKER_FILE = "learned_ranker.npz"  # in candidates/: what the ranker of a workspace without a run was fitted to


@dataclass(frozen=True)
class Cart:
    """A partial bundle as it is asked about: item indices, and what may complete it.

    ``allowed`` bool [I] are the items that may be offered, None for all of them.
    """

    partial: np.ndarray
    k: int = 5
    options: int | None = None
    user: str | None = None
    allowed: np.ndarray | None = None


@dataclass(frozen=True)
class Answer:
    """What completes a cart: item indices and probabilities, best first, and how they were found."""

    items: list[int]
    probabilities: list[float | None]
    margin: float | None
    method: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Seconds:
    """How long the steps of a call took."""

    encode: float = 0.0
    retrieve: float = 0.0
    rank: float = 0.0


class Resident:
    """One run (or none) with its model, vectors, index and rankers; ``run`` is its name.

    Raises
    ------
    BundlecacheError
        When the run is missing or damaged, or does not fit the workspace.
    """

    def __init__(self, session: Session, run: str | None = None, *, device: str = "auto") -> None:
        self.session, self.device = session, device
        self.catalogue = session.catalogue
        self._run = Run(session, run) if run is not None else None
        self._loaded: LoadedRun | None = self._run.load(device) if self._run is not None else None
        self.matrices: Mapping[str, Matrix] = (self._loaded and self._loaded.matrices) or session.matrices()
        self.index = self._opened_index()
        self.method, self._ranker = self._chosen_method()
        self.shown = ShownItems(self.catalogue)
        self.search = ItemSearch(self.catalogue, self.shown.prices)
        self.together = Together(self.catalogue)
        self._indexes: dict[str, Index] = {}

    @property
    def run(self) -> str | None:
        """The name of the run; None where none is loaded."""
        return None if self._run is None else self._run.name

    @property
    def model(self) -> BundleMLLM | None:
        """The model of the run."""
        return None if self._loaded is None else self._loaded.model

    @cached_property
    def store_version(self) -> str:
        """Which version of the stored vectors answers, by modality or encoder."""
        return " ".join(f"{name}@{matrix.version}" for name, matrix in self.matrices.items())

    @property
    def default_options(self) -> int:
        """How many candidates are ranked where a request does not say."""
        return UNTRAINED_OPTIONS if self._loaded is None else self._loaded.model.max_options

    def prepare(self) -> Resident:
        """Do now what the first question would wait for; returns itself."""
        self.together.prepare()
        self.search.find()
        first = np.flatnonzero(self.search.popularity)[:1]
        partial = first if len(first) else self.index.rows[:1]
        self.complete([Cart(partial, 1)])
        return self

    def cart(
        self,
        items: Sequence[str],
        *,
        k: int = 5,
        exclude: Sequence[str] = (),
        where: Sequence[str] = (),
        user: str | None = None,
        options: int | None = None,
    ) -> Cart:
        """A cart of item ids, checked.

        Raises
        ------
        BundlecacheError
            When it holds no item, an id is unknown, a condition is none, or nothing is left to offer.
        """
        from ..candidates import search

        if not items:
            raise QuestionsError("The bundle holds no item; it needs at least one.", hint='"items": ["ID", ...]')
        partial = self.catalogue.indices(list(dict.fromkeys(items)))
        allowed = search.allowed_items(self.catalogue, where, exclude) if where or exclude else None
        if user is not None:
            self._check_user(user)
        return Cart(partial, k, options, user, allowed)

    def _check_user(self, user: str) -> None:
        if self._loaded is None or self._loaded.model.histories is None:
            who = "Without a trained run, no" if self.run is None else f"The prompt of {self.run} tells no"
            raise CatalogueError(f"{who} user's history is read.", hint='leave "user" out')
        if user not in self.catalogue.interactions.users:
            raise CatalogueError(f"There is no user {quoted(user)} in the interactions.", hint='leave "user" out')

    def complete(self, carts: Sequence[Cart]) -> tuple[list[Answer | BundlecacheError], Seconds]:
        """What completes every cart; those of equal number of candidates are ranked in one call of the model."""
        began = time.perf_counter()
        answers: list[Answer | BundlecacheError | None] = [None] * len(carts)
        proposed = self._proposed(carts)
        retrieved = time.perf_counter()
        groups: dict[bool, list[int]] = {}
        for at, found in enumerate(proposed):
            if isinstance(found, BundlecacheError):
                answers[at] = found
            else:
                groups.setdefault(carts[at].user is not None, []).append(at)
        for personal, places in groups.items():
            bundles = [self._bundle(carts[at], proposed[at]) for at in places]  # type: ignore[arg-type]
            method, rankings = self._ranked(bundles, personal=personal)
            for at, ranking in zip(places, rankings, strict=True):
                answers[at] = self._answer(carts[at], ranking, method)
        done = time.perf_counter()
        return [answer for answer in answers if answer is not None], Seconds(0.0, retrieved - began, done - retrieved)

    def _bundle(self, cart: Cart, proposed: np.ndarray) -> Bundle:
        bundle = Bundle(cart.partial, proposed)
        if cart.user is None or self._loaded is None or self._loaded.model.histories is None:
            return bundle
        hidden = [*cart.partial.tolist(), *proposed.tolist()]
        return replace(bundle, history=self._loaded.model.histories.of_user(cart.user, hidden))

    def _ranked(self, bundles: list[Bundle], *, personal: bool) -> tuple[str, list[Ranking]]:
        """How bundles were ranked, and the rankings; a user's history is read by the model alone."""
        from ..bench import method_selection

        model = None if self._loaded is None else self._loaded.model
        if model is not None and (personal or self.method == method_selection.MODEL):
            return method_selection.MODEL, complete_bundles(bundles, model=model)
        if self._ranker is None:
            return self.method, [_by_place(bundle) for bundle in bundles]
        return self.method, complete_bundles(bundles, ranker=self._ranker)

    def _answer(self, cart: Cart, ranking: Ranking, method: str) -> Answer:
        items = ranking.items[: cart.k].tolist()
        known = [round(p, 6) if np.isfinite(p) else None for p in ranking.probabilities.tolist()]
        probabilities, margin = known[: cart.k], None
        if len(known) > 1 and known[0] is not None and known[1] is not None:
            margin = round(known[0] - known[1], 6)
        notes = []
        if self.run is None:
            notes.append(f"No run is trained in this workspace, so the {self.method} ranks.")
        if len(items) < cart.k:
            notes.append(f"{len(items)} of {cart.k} completions: there are {len(ranking.items)} candidates.")
        return Answer(items, probabilities, margin, method, notes)

    def similar(self, item: int, k: int, modality: str | None = None) -> tuple[list[int], list[float]]:
        """The k items nearest to one, and how near, by one modality or by all that the index mixes.

        Raises
        ------
        BundlecacheError
            When the modality is not stored, or the item has no vector of it.
        """
        from ..candidates.similar import most_similar

        index = self.index if modality is None else self._index_of(modality)
        items, scores = most_similar(self.catalogue, index, item, k)
        return items.tolist(), [round(float(score), 4) for score in scores]

    def _index_of(self, modality: str) -> Index:
        from ..candidates.index import Index

        chosen = {name: matrix for name, matrix in self.matrices.items() if modality in (name, matrix.modality)}
        if not chosen:
            raise QuestionsError(
                f"No vectors of {quoted(modality)} answer; there are {', '.join(self.matrices)}.",
                hint=f"modality={next(iter(self.matrices))}",
            )
        if modality not in self._indexes:
            self._indexes[modality] = Index.build(chosen, kind="flat", memory=0)
        return self._indexes[modality]

    def _proposed(self, carts: Sequence[Cart]) -> list[np.ndarray | BundlecacheError]:
        """The candidates of every cart, those of carts with the same filter and number in one search."""
        found: list[np.ndarray | BundlecacheError] = [QuestionsError("")] * len(carts)
        query = self.index.query([cart.partial for cart in carts])
        alike: dict[tuple[int, int], list[int]] = {}
        for at, cart in enumerate(carts):
            if not query[at].any():
                given = listed([self.catalogue.item_ids[i] for i in cart.partial.tolist()], 5)
                found[at] = QuestionsError(
                    f"None of {given} has a vector of {' or '.join(self.index.modalities)}.",
                    hint=Command("encode", "--modality", "all"),
                )
                continue
            count = min(max(cart.options or self.default_options, cart.k), len(self.catalogue))
            alike.setdefault((count, id(cart.allowed)), []).append(at)
        for (count, _), places in alike.items():
            partials = [carts[at].partial for at in places]
            items, _ = self.index.search(query[places], count, partials, carts[places[0]].allowed)
            for at, row in zip(places, items, strict=True):
                kept = row[row >= 0]
                found[at] = (
                    kept
                    if len(kept)
                    else QuestionsError(
                        "No item is left to complete the bundle with.", hint='a wider "filter", or fewer "exclude"'
                    )
                )
        return found

    def _opened_index(self) -> Index:
        from ..candidates.index_file import open_index

        session = self.session
        with session.say.bar("index") as bar:
            index, _ = open_index(session.folder, self.catalogue, self.matrices, device=self.device, progress=bar.step)
        return index

    def _chosen_method(self) -> tuple[str, Ranker | None]:
        """The method that ranks candidates, and its ranker: the best on validation questions, as evaluate found it."""
        from ..bench import method_selection

        if self._run is not None:
            return self._run.ranker(None, self.device, {"permutations": 1, "at_once": None})
        ranker = self._fitted_ranker()
        return (method_selection.LEARNED, ranker) if ranker is not None else (COSINE, None)

    def _fitted_ranker(self) -> Ranker | None:
        """The learned ranker of a workspace without a run, fitted once and kept; None without bundles or vectors."""
        from ..baselines import saved_ranker

        session = self.session
        path = session.folder.candidates / RANKER_FILE
        sources = session.sources(dict(self.matrices))
        ranker = saved_ranker.restore(sources, path)
        if ranker is None:
            return None
        if "fitted" not in vars(ranker):
            session.say.note("No trained run: the learned ranker is fitted now, and kept.")
            with session.say.bar("fit") as bar:
                done = 0

                def step(name: str) -> None:
                    nonlocal done
                    done += 1
                    bar.step(min(done, ranker.fit_steps), ranker.fit_steps, name)

                sources.listeners.append(step)
                _ = ranker.fitted
                sources.listeners.remove(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            saved_ranker.save(ranker, path)
        return ranker


def _by_place(bundle: Bundle) -> Ranking:
    """The candidates as the search found them; a cosine is no probability, so there is none."""
    return Ranking(np.asarray(bundle.proposed, np.int32), np.full(len(bundle.proposed), np.nan))
