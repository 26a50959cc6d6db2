"""What simple methods know of each option, as numbers that the model adds to the option's score (``fusion.evidence``).

The features are those of the learned ranker (`bundlecache.baselines.learned`): what popularity, words, categories,
co-occurrence, factors, cosines and the set encoder say of the option beside the partial bundle. Training begins with the
learned ranker's own weights, so where the model itself says nothing yet, as the answer form ``pointer`` does, its
answers are those of the learned ranker. The weights are then trained with the model.

A question about a training bundle must not be answered from that bundle. Its features come from methods that were
fitted without the third of the training groups that it belongs to, the same thirds on which the learned ranker is fitted.

Notation: b questions in a batch, n options, p methods; each gives a z-score and a score as it stands, so f = 2p features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bundlecache.baselines import saved_ranker
from bundlecache.baselines.learned import PARTS, LearnedRanker, features_of
from bundlecache.baselines.sources import Sources
from bundlecache.bench.fitting_costs import FittingCosts
from bundlecache.questions.question_file import Questions

from ..set_encoder_baseline import LEARNERS

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.baselines.rankers import Ranker
    from bundlecache.catalogue.catalogue import Catalogue

    from .bundle_mllm import BundleMLLM

SLOWNESS = 0.1
"""The weights learn at this share of the stage's rate: they were fitted already, on more questions than a step has."""
RANKER_FILE = "evidence.npz"
"""What the methods have learned from the training bundles, in the folder of a run, so that a completion fits none of them."""


class RankerEvidence(nn.Module):
    """The features of options, and one weight for each; see the module."""

    def __init__(self, ranker: LearnedRanker) -> None:
        super().__init__()
        self._ranker = ranker
        self._third_of: dict[int, int] = {}  # training bundle -> number in `_thirds`
        self._thirds: list[list[Ranker | None]] = []  # by third, the methods that have not seen it; p of them
        count = 2 * len(ranker.parts)
        self.change = nn.Parameter(torch.zeros(count))
        self.register_buffer("begun", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))

    @property
    def sources(self) -> Sources:
        """What the methods behind the features look at."""
        return self._ranker.sources

    @property
    def weights(self) -> Tensor:
        """[f] those of the learned ranker and what training changed of them."""
        return self.get_buffer("begun") + SLOWNESS * self.change

    def fit(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Fit the methods, begin with the learned ranker's weights, and know which third each training bundle is in.

        ``progress(done, of)`` is called after each method that has answered.
        """
        sources, steps = self._ranker.sources, self._ranker.fit_steps

        def count(number: int, _what: str) -> None:
            if progress is not None:
                progress(min(number, steps), steps)

        with sources.heard(count):
            if sources.validation:  # one question makes a method fit itself
                costs = FittingCosts()
                costs.fit(self._ranker, sources.validation[0])
                saved_ranker.keep_seconds(self._ranker, costs.own)
            weights, scale = self._ranker.fitted
        with torch.no_grad():
            self.get_buffer("begun").copy_(torch.from_numpy(weights))
            self.get_buffer("scale").copy_(torch.from_numpy(scale))
        row = {bundle: k for k, bundle in enumerate(sources.catalogue.bundles.ids)}
        names = [part.name for part in self._ranker.parts]
        for number, (fold, _) in enumerate(sources.folds):
            fitted = {part.name: part for part in fold.rankers(*PARTS)}
            self._thirds.append([fitted.get(name) for name in names])
            left_out = set(sources.training.bundles.ids) - set(fold.catalogue.bundles.ids)
            self._third_of |= {row[bundle]: number for bundle in left_out}

    def features(
        self, partial: Sequence[np.ndarray], options: Sequence[np.ndarray], bundles: np.ndarray | None
    ) -> np.ndarray:
        """float32 [b, n, f]; see `bundlecache.train.answers.form.Evidence`. n is the greatest number of options."""
        third = np.zeros(len(options), np.int64)
        if bundles is not None:  # of a bundle that is in no third nothing may be said
            third = np.array([self._third_of.get(int(bundle), -1) for bundle in bundles])
        size = np.array([len(some) for some in options])
        found = np.zeros((len(options), int(size.max(initial=0)), len(self.change)), np.float32)
        for number, count in sorted(set(zip(third.tolist(), size.tolist(), strict=True))):
            if number < 0:
                continue
            parts = list(self._ranker.parts) if bundles is None else self._thirds[number]
            rows = np.flatnonzero((third == number) & (size == count)).tolist()
            shown = np.stack([options[r] for r in rows])
            found[rows, :count] = self._of(parts, [partial[r] for r in rows], shown)
        return found

    def _of(self, parts: Sequence[Ranker | None], partial: Sequence[np.ndarray], options: np.ndarray) -> np.ndarray:
        count = len(options)
        asked = Questions(
            "", "", "", 0, [""] * count, list(partial), options, np.zeros(count, np.int64), sha256="", header={}
        )
        known = [k for k, part in enumerate(parts) if part is not None]  # a third may lack a graph that the whole has
        found = np.zeros((*options.shape, 2 * len(parts)), np.float32)
        at = [*known, *(len(parts) + k for k in known)]
        with torch.inference_mode(mode=False), torch.enable_grad():  # the set encoder may still have to be trained
            found[..., at] = features_of([part for part in parts if part is not None], asked)
        return found / self.get_buffer("scale").cpu().numpy()

    def forward(self, features: Tensor) -> Tensor:
        """What is added to the options' scores, float32 [b, n]; ``features`` are those of :meth:`features`."""
        return features @ self.weights

    def save(self, run: Path) -> None:
        """Keep what the methods have learned in the folder of a run."""
        saved_ranker.save(self._ranker, run / RANKER_FILE)


def attach(model: BundleMLLM, catalogue: Catalogue, run: Path | None = None) -> RankerEvidence | None:
    """Give ``model`` the evidence that its recipe asks for, over the vectors that it fuses; None where it asks for none.

    It is not fitted yet, but for what is kept in ``run``.
    """
    if model.recipe.fusion.evidence == "none":
        return None
    table = model.embeddings
    fused = {} if table is None else dict(zip(table.names, table.matrices, strict=True))
    sources = Sources(catalogue, fused, learners=LEARNERS)
    ranker = None if run is None else saved_ranker.restore(sources, run / RANKER_FILE)
    ranker = ranker or LearnedRanker("learned ranker", "content", sources, keeps_folds=True)
    model.evidence = made = RankerEvidence(ranker).to(model.device)
    return made
