"""A workspace and a run as a server keeps them: read once, asked about many bundles at once, replaced as a whole.

A `Resident` never changes what it answers with: a new run or new vectors make a new one beside it. It works without a
trained run too: the learned ranker ranks then, or, where there are no bundles to learn from, the cosine of the search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...errors import BundlecacheError, CatalogueError, Command, QuestionsError
from ...text import listed, quoted
from ..completion.complete_bundles import Bundle, Ranking, complete_bundles
from ..run import Run
from .cart import Answer, Cart, Seconds, View
from .confidence import FILE, Calibration, calibration, margin_of
from .item_search import NEAREST, ItemSearch
from .new_items import NewItem, NewItems
from .shown_item import ShownItems
from .together import Together
from .untrained import fitted_ranker
from .why import Why, explain

if TYPE_CHECKING:
    from ...baselines.rankers import Ranker
    from ...candidates.index import Index
    from ...store.store import Matrix
    from ...train.model.bundle_mllm import BundleMLLM
    from ...train.run import LoadedRun
    from ..session import Session

UNTRAINED_OPTIONS = 100  # candidates of a bundle where no run says how many it was trained on
OPTIONS = 10  # candidates among which the margin is taken where nothing was calibrated
COSINE = "cosine"
SAID = {"learned-ranker": "the learned ranker", COSINE: "the cosine of the search", "model": "the model"}


class Resident:
    """One run (or none) with its model, vectors, index and rankers; ``run`` is its name.

    Raises
    ------
    BundlecacheError
        When the run is missing or damaged, or does not fit the workspace.
    """

    def __init__(self, session: Session, run: str | None = None, *, device: str = "auto") -> None:
        from ...bench import method_selection

        self.session, self.device = session, device
        self._ranker: Ranker | None
        self.catalogue = session.catalogue
        self._run = Run(session, run) if run is not None else None
        self._loaded: LoadedRun | None = self._run.load(device) if self._run is not None else None
        self.matrices: Mapping[str, Matrix] = (self._loaded and self._loaded.matrices) or session.matrices()
        if self._loaded is not None:
            _ready_to_answer(self._loaded.model)
        self.index = self._opened_index()
        self._indexes: dict[tuple[str, ...], Index] = {}  # by the names of their vectors
        self._sources = session.sources(dict(self.matrices))
        self.method, self._ranker = COSINE, None
        if self._run is not None:
            self.method, self._ranker = self._run.ranker(None, device, {"permutations": 1, "at_once": None})
        elif (ranker := fitted_ranker(session, self._sources)) is not None:
            self.method, self._ranker = method_selection.LEARNED, ranker
        self.calibration: Calibration | None = None
        self.new_items = NewItems(session, self.matrices, device)
        self.shown = ShownItems(self.catalogue)
        self.search = ItemSearch(self.catalogue, self.shown.prices, self._nearest)
        self.together = Together(self.catalogue)

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
        self.complete([Cart(partial.astype(np.int64), 1)])
        return self

    def cart(
        self,
        items: Sequence[str | NewItem],
        *,
        k: int = 5,
        exclude: Sequence[str] = (),
        where: Sequence[str] = (),
        user: str | None = None,
        options: int | None = None,
    ) -> Cart:
        """A cart of item ids and new items, checked; an id counts once.

        Raises
        ------
        BundlecacheError
            When it holds no item, an id is unknown, a condition is none, or nothing is left to offer.
        """
        from ...candidates import search

        if not items:
            raise QuestionsError("The bundle holds no item; it needs at least one.", hint='"items": ["ID", ...]')
        distinct = list(dict.fromkeys([item if isinstance(item, str) else id(item) for item in items]))
        new = {id(item): item for item in items if not isinstance(item, str)}
        places: dict[str | int, int] = {key: -1 - place for place, key in enumerate(new)}
        ids = [each for each in distinct if isinstance(each, str)]
        places |= dict(zip(ids, self.catalogue.indices(ids).tolist(), strict=True))
        partial = np.array([places[each] for each in distinct], np.int64)
        allowed = search.allowed_items(self.catalogue, where, exclude) if where or exclude else None
        if user is not None:
            self._check_user(user)
        return Cart(partial, k, options, user, allowed, tuple(new.values()))

    def _check_user(self, user: str) -> None:
        if self._loaded is None or self._loaded.model.histories is None:
            who = "Without a trained run, no" if self.run is None else f"The prompt of {self.run} tells no"
            raise CatalogueError(f"{who} user's history is read.", hint='leave "user" out')
        if user not in self.catalogue.interactions.users:
            raise CatalogueError(f"There is no user {quoted(user)} in the interactions.", hint='leave "user" out')

    def complete(self, carts: Sequence[Cart]) -> tuple[list[Answer | BundlecacheError], Seconds]:
        """What completes every cart; those of equal number of candidates are ranked in one call of the model."""
        began = time.perf_counter()
        view = self._view([item for cart in carts for item in cart.new])
        encoded = time.perf_counter()
        answers: list[Answer | BundlecacheError | None] = [None] * len(carts)
        proposed = self._proposed(carts, view)
        retrieved = time.perf_counter()
        groups: dict[str, list[int]] = {}
        for at, found in enumerate(proposed):
            if isinstance(found, BundlecacheError):
                answers[at] = found
            else:
                groups.setdefault(self._method_of(carts[at]), []).append(at)
        for method, places in groups.items():
            bundles = [self._bundle(carts[at], proposed[at], view) for at in places]  # type: ignore[arg-type]
            for at, ranking in zip(places, self._ranked(bundles, method, view), strict=True):
                answers[at] = self._answer(carts[at], ranking, method)
        done = time.perf_counter()
        seconds = Seconds(encoded - began, retrieved - encoded, done - retrieved)
        return [answer for answer in answers if answer is not None], seconds

    def explain(self, cart: Cart, answer: Answer) -> list[Why]:
        """Why each item of an answer was offered."""
        view = self._view(cart.new)
        return explain(answer.items, view.partial(cart), view.matrices, self.together, self.model)

    def calibrate(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Measure on validation questions how often the method is right at which margin, if nobody did before."""
        from ...baselines.learned import unseen_validation

        if self._ranker is None:
            return
        run = self._run
        path = (self.session.folder.candidates if run is None else run.path) / FILE
        stamp = "" if run is None else str((run.path / "manifest.json").stat().st_mtime_ns)
        about = [self.method, self.run or "", stamp, self.store_version]
        asked = unseen_validation(self._ranker, self._sources)
        self.calibration = calibration(path, about, asked, self._ranker, ended)

    def _view(self, new: Sequence[NewItem]) -> View:
        """What is seen with these new items, which are encoded if they are not yet."""
        if not new:
            return View(self.matrices, self.index.vectors, self.model)
        distinct = list({id(item): item for item in new}.values())
        self.new_items.encode(distinct)
        matrices = self.new_items.extended(distinct)
        model = self.model
        if model is not None:
            model = model.with_new_items([item.title for item in distinct], matrices)
        places = {id(item): len(self.catalogue) + place for place, item in enumerate(distinct)}
        return View(matrices, self.index.vectors.extended(matrices), model, places)

    def _method_of(self, cart: Cart) -> str:
        """What ranks a cart: a user's history and new items are read by the model alone."""
        from ...bench import method_selection

        if cart.user is not None or (cart.new and self.model is not None):
            return method_selection.MODEL
        if cart.new and not len(cart.known):
            return COSINE  # the learned ranker knows items of the catalogue only
        return self.method

    def _bundle(self, cart: Cart, proposed: np.ndarray, view: View) -> Bundle:
        if self.model is None:
            return Bundle(cart.known, proposed)
        bundle = Bundle(view.partial(cart), proposed)
        if cart.user is None or self.model.histories is None:
            return bundle
        hidden = [*cart.known.tolist(), *proposed.tolist()]
        return replace(bundle, history=self.model.histories.of_user(cart.user, hidden))

    def _ranked(self, bundles: list[Bundle], method: str, view: View) -> list[Ranking]:
        from ...bench import method_selection

        if method == method_selection.MODEL:
            return complete_bundles(bundles, model=view.model)
        if method == COSINE:
            return [_by_place(bundle) for bundle in bundles]
        return complete_bundles(bundles, ranker=self._ranker)

    def _answer(self, cart: Cart, ranking: Ranking, method: str) -> Answer:
        items = ranking.items[: cart.k].tolist()
        probabilities = [round(p, 6) if np.isfinite(p) else None for p in ranking.probabilities[: cart.k].tolist()]
        options = OPTIONS if self.calibration is None else self.calibration.options
        margin, confidence = margin_of(ranking.probabilities, options), None
        if margin is not None and self.calibration is not None and method == self.method:
            confidence = self.calibration.at(margin)
        shown = None if margin is None else round(margin, 6)
        return Answer(items, probabilities, shown, confidence, method, self._notes(cart, ranking, method))

    def _notes(self, cart: Cart, ranking: Ranking, method: str) -> list[str]:
        """What the reader of an answer must know about it."""
        notes = []
        if self.run is None:
            notes.append(f"No run is trained in this workspace, so {SAID[method]} ranks.")
        elif cart.new and method != self.method:
            notes.append("The model alone ranks, because the learned ranker knows items of the catalogue only.")
        if cart.new and self.run is None and len(cart.known):
            notes.append("New items are searched by, but the ranking looks at the others alone.")
        notes += self.new_items.notes.values() if cart.new else ()
        if len(ranking.items) < cart.k:
            notes.append(f"{len(ranking.items)} of {cart.k} completions: there are no more candidates.")
        return notes

    def similar(self, item: int, k: int, modality: str | None = None) -> tuple[list[int], list[float]]:
        """The k items nearest to one, and how near, by one modality or by all that the index mixes.

        Raises
        ------
        BundlecacheError
            When the modality is not stored, or the item has no vector of it.
        """
        from ...candidates.similar import most_similar

        index = self.index if modality is None else self._index_of(modality)
        items, scores = most_similar(self.catalogue, index, item, k)
        return items.tolist(), [round(float(score), 4) for score in scores]

    def _index_of(self, modality: str) -> Index:
        chosen = [name for name, matrix in self.matrices.items() if modality in (name, matrix.modality)]
        if not chosen:
            raise QuestionsError(
                f"No vectors of {quoted(modality)} answer; there are {', '.join(self.matrices)}.",
                hint=f"modality={next(iter(self.matrices))}",
            )
        return self._index_over(*chosen)

    def _index_over(self, *names: str) -> Index:
        """The index of exactly these stored vectors."""
        from ...candidates.index import Index

        if names not in self._indexes:
            self._indexes[names] = Index.build({name: self.matrices[name] for name in names}, kind="flat", memory=0)
        return self._indexes[names]

    def _proposed(self, carts: Sequence[Cart], view: View) -> list[np.ndarray | BundlecacheError]:
        """The candidates of every cart, those of carts with the same filter and number in one search."""
        found: list[np.ndarray | BundlecacheError] = [QuestionsError("")] * len(carts)
        query = view.vectors.query([view.partial(cart) for cart in carts])
        alike: dict[tuple[int, int], list[int]] = {}
        for at, cart in enumerate(carts):
            if not query[at].any():
                found[at] = self._without_vectors(cart)
                continue
            count = min(max(cart.options or self.default_options, cart.k), len(self.catalogue))
            alike.setdefault((count, id(cart.allowed)), []).append(at)
        for (count, _), places in alike.items():
            members = [carts[at].known for at in places]
            items, _ = self.index.search(query[places], count, members, carts[places[0]].allowed)
            for at, row in zip(places, items, strict=True):
                kept = row[row >= 0]
                nothing = QuestionsError("No item is left to complete the bundle with.", hint='a wider "filter"')
                found[at] = kept if len(kept) else nothing
        return found

    def _without_vectors(self, cart: Cart) -> BundlecacheError:
        given = [self.catalogue.item_ids[item] for item in cart.known.tolist()] + ["a new item"] * len(cart.new)
        return QuestionsError(
            f"None of {listed(given, 5)} has a vector of {' or '.join(self.index.modalities)}.",
            hint=Command("encode", "--modality", "all"),
        )

    def _nearest(self, text: str, allowed: np.ndarray) -> np.ndarray:
        """The items nearest in meaning to a text, by the first stored text vectors."""
        found = self.new_items.text_vector(text)
        if found is None:
            return np.zeros(0, np.int32)
        name, vector = found
        length = float(np.linalg.norm(vector))
        query = (vector / (length or 1.0))[None].astype(np.float32)
        items, scores = self._index_over(name).search(query, min(NEAREST, len(self.catalogue)), None, allowed)
        return items[0][(items[0] >= 0) & (scores[0] > 0)]

    def _opened_index(self) -> Index:
        from ...candidates.index_file import open_index

        session = self.session
        with session.say.bar("index") as bar:
            index, _ = open_index(session.folder, self.catalogue, self.matrices, device=self.device, progress=bar.step)
        return index


def _ready_to_answer(model: BundleMLLM) -> None:
    """Compute once what every answer needs: the fused tokens of all items, and the adapter's part of the weights."""
    import torch

    from ...train.inference import item_tokens

    item_tokens.keep(model)
    if all(weight.dtype == torch.float32 for weight in model.llm.parameters()):  # in fewer bits a sum would cost digits
        model.llm.merge_adapter()


def _by_place(bundle: Bundle) -> Ranking:
    """The candidates as the search found them; a cosine is no probability, so there is none."""
    return Ranking(np.asarray(bundle.proposed, np.int32), np.full(len(bundle.proposed), np.nan))
