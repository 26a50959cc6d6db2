"""What a baseline may look at: the catalogue as training sees it, the stored vectors, questions to learn from."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.sparse import csr_array

from ..catalogue import splits
from ..errors import QuestionsError
from ..questions import freeze as questions
from ..questions import sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..catalogue.catalogue import Catalogue
    from ..questions.question_file import Questions
    from ..store.store import Matrix
    from .rankers import Ranker

T = TypeVar("T")
OPTIONS = 10  # of the questions that are drawn to learn from
DRAWS = 3  # of questions about each training bundle: another item held out, other options
MAX_ASKED = 2_000  # bundles of a third, and of the validation split, that are asked about
KINDS = 2  # of wrong options: random, and hard where there are categories
FOLDS = ("train", "valid", "test")  # names for three thirds of the training bundles, nothing more


@dataclass(frozen=True)
class Sources:
    """The catalogue, the stored vectors by any key, a seed, and the baselines that the caller adds.

    ``learners`` are makers of rankers from a higher floor (`bundlecache.train.set_encoder_baseline`), because this floor trains
    nothing with torch. The registry lists them, and the learned ranker weighs them.
    """

    catalogue: Catalogue
    matrices: Mapping[str, Matrix]
    seed: int = 0
    learners: tuple[Callable[[Sources], Iterable[Ranker]], ...] = ()
    _made: dict[Callable[..., Iterable[Ranker]], list[Ranker]] = field(default_factory=dict, repr=False, compare=False)
    listeners: list[Callable[[str], None]] = field(default_factory=list, repr=False, compare=False)
    _of_items: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def rankers(self, *makers: Callable[[Sources], Iterable[Ranker]]) -> list[Ranker]:
        """What these baselines give, each made once: methods that stand on others share what was fitted."""
        for make in makers:
            if make not in self._made:
                self._made[make] = list(make(self))
        return [ranker for make in makers for ranker in self._made[make]]

    def forget(self) -> None:
        """Let go of the rankers that were made, and of what they were fitted to; of a fold that was asked all it is asked."""
        self._made.clear()

    def tell(self, what: str) -> None:
        """Tell the ``listeners`` that a step of a long fit is done."""
        for listener in self.listeners:
            listener(what)

    @contextmanager
    def heard(self, listener: Callable[[int, str], None]) -> Iterator[None]:
        """Call ``listener(number, what)`` after every step that is told meanwhile; the first has the number 1."""
        numbers = itertools.count(1)

        def hear(what: str) -> None:
            listener(next(numbers), what)

        self.listeners.append(hear)
        try:
            yield
        finally:
            self.listeners.remove(hear)

    def of_items(self, name: str, make: Callable[[], T]) -> T:
        """What follows from the items alone, such as words of titles: made once for these sources and their `folds`."""
        if name not in self._of_items:
            self._of_items[name] = make()
        found: T = self._of_items[name]
        return found

    def baskets(self, graph: str) -> csr_array:
        """float32 [baskets, I]: one row per training bundle (bundle-item) or training user (user-item)."""
        edges = splits.training_graph(self.catalogue, graph)  # [E, 2]
        _, row = np.unique(edges[:, 0], return_inverse=True)
        shape = (int(row.max()) + 1 if len(edges) else 0, len(self.catalogue))
        return csr_array((np.ones(len(edges), np.float32), (row, edges[:, 1])), shape=shape)

    @cached_property
    def graphs(self) -> dict[str, csr_array]:
        """The training graphs that have an edge, by the word tables use for them."""
        both = {"bundles": self.baskets("bundle-item"), "users": self.baskets("user-item")}
        return {word: graph for word, graph in both.items() if graph.nnz}

    def of(self, *, graph: bool) -> list[Matrix]:
        """The stored matrices with a vector in them: those of graphs, or those of content."""
        return [m for m in self.matrices.values() if (m.modality == "graph") is graph and m.mask.any()]

    @cached_property
    def training(self) -> Catalogue:
        """The catalogue as training may see it: no held-out bundle, and no user who made one."""
        return splits.visible(self.catalogue, "train")

    @cached_property
    def validation(self) -> list[Questions]:
        """Questions about validation bundles, random and hard; drawn here, without a look at test bundles.

        Of more than `MAX_ASKED` bundles, a fixed sample is asked about.
        """
        return self._drawn(_asked(splits.visible(self.catalogue, "train", "valid"), "valid", unasked="test"), "valid")

    @cached_property
    def folds(self) -> list[tuple[Sources, list[Questions]]]:
        """Three times two thirds of the training groups, each with questions about the other third.

        What is fitted on the former answers the latter as it will answer test questions: without having
        seen their bundles or users. The graph vectors of the store have seen them, and are left out. Of a third with
        more than `MAX_ASKED` bundles, a fixed sample is asked about.
        """
        bundles = self.training.bundles
        third = splits.assign(replace(self.training, bundles=bundles.with_split(None)), self.seed, 1 / 3, 1 / 3)
        content = {name: matrix for name, matrix in self.matrices.items() if matrix.modality != "graph"}
        made = []
        for fold in FOLDS:
            split = np.where(third == fold, "test", "train")
            catalogue = replace(self.training, bundles=bundles.with_split(split))
            seen = splits.visible(catalogue, "train")
            sources = Sources(seen, content, self.seed, self.learners, _of_items=self._of_items)
            made.append((sources, self._drawn(_asked(catalogue, "test", unasked="valid"), "test", DRAWS)))
        return [(sources, asked) for sources, asked in made if asked and len(sources.catalogue.bundles)]

    def _drawn(self, catalogue: Catalogue, split: str, draws: int = 1) -> list[Questions]:
        """Questions per bundle and kind of wrong options, as far as the catalogue has enough items for them."""
        kinds = ("random", "hard") if any(catalogue.column("category")) else ("random",)
        try:
            return [
                questions.freeze(catalogue, split=split, n_options=OPTIONS, negatives=kind, seed=self.seed + draw)
                for draw in range(draws)
                for kind in kinds
            ]
        except QuestionsError:
            return []


def _asked(catalogue: Catalogue, part: str, *, unasked: str) -> Catalogue:
    """The catalogue with at most `MAX_ASKED` bundles in the split ``part``; the others of it go to the split ``unasked``.

    Neither split is seen in training, so what training sees stays the same.
    """
    bundles = catalogue.bundles
    split = splits.assign(catalogue).copy()
    there = np.flatnonzero(split == part)
    if len(there) <= MAX_ASKED:
        return catalogue
    kept = there[sample.chosen(list(bundles.ids.take(there)), bundles.items.lengths[there], MAX_ASKED)]
    split[np.setdiff1d(there, kept)] = unasked
    return replace(catalogue, bundles=bundles.with_split(split))
