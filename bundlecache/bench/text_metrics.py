"""How near said texts are to those of people: BLEU-4, ROUGE-L and METEOR (the extra `explain`).

=========  ===================================================================================================
BLEU-4     of all texts together, as sacrebleu computes it (13a tokens, smoothing exp): 0 to 1, not a mean of texts
ROUGE-L    F-measure of the longest common subsequence of stemmed words, as rouge-score computes it; mean of texts
METEOR     nltk's, with its stages of exact words and stems; no synonyms, for which WordNet would be needed; mean
same text  the share of texts that are equal to the letter
=========  ===================================================================================================

The interval of BLEU is a percentile bootstrap over questions: it is computed anew from the counts of the texts drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import BundlecacheError
from .bootstrap import FEWER_DRAWS

ORDERS = 4  # of BLEU's word groups


class NoSynonyms:
    """What nltk's METEOR looks synonyms up in: empty, because WordNet is not installed with it."""

    def synsets(self, _word: str) -> list[Any]:
        """None."""
        return []


def installed() -> bool:
    """Whether the packages of the extra `explain` are there."""
    return all(find_spec(name) is not None for name in ("nltk", "rouge_score", "sacrebleu"))


def text_figures(said: Sequence[str], true: Sequence[str]) -> tuple[float, tuple[float, float], dict[str, np.ndarray]]:
    """BLEU-4 of ``said`` texts beside the ``true`` ones [q], its 95 % interval, and the other figures of each text [q].

    Raises
    ------
    BundlecacheError
        When the packages of the extra `explain` are not installed.
    """
    try:
        from nltk.stem.porter import PorterStemmer
        from nltk.translate.meteor_score import single_meteor_score
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise BundlecacheError(
            f"Texts are compared by {error.name}, which is not installed.", hint="pip install 'bundlecache[explain]'"
        ) from error
    bleu, rouge = BLEU(effective_order=True), RougeScorer(["rougeL"], use_stemmer=True)
    words, stemmer, synonyms = bleu.tokenizer, PorterStemmer(), NoSynonyms()
    known: dict[tuple[str, str], tuple[list[int], list[float]]] = {}  # many texts are alike
    for pair in set(zip(said, true, strict=True)):
        mine, theirs = pair
        counted = bleu.sentence_score(mine, [theirs])
        longest = rouge.score(theirs, mine)["rougeL"].fmeasure
        tokens = [words(text.lower()).split() for text in (theirs, mine)]
        meteor = single_meteor_score(*tokens, stemmer=stemmer, wordnet=synonyms) if all(tokens) else 0.0
        known[pair] = (
            [*counted.counts, *counted.totals, counted.sys_len, counted.ref_len],
            [longest, meteor, float(mine == theirs)],
        )
    counts = np.array([known[pair][0] for pair in zip(said, true, strict=True)], np.int64)  # [q, 2 * 4 + 2]
    means = np.array([known[pair][1] for pair in zip(said, true, strict=True)])  # [q, 3]

    def together(total: np.ndarray) -> float:
        right, shown, (length, wanted) = np.split(total, [ORDERS, 2 * ORDERS])
        made = BLEU.compute_bleu(right.tolist(), shown.tolist(), int(length), int(wanted), smooth_method="exp")
        return float(made.score) / 100

    rng, count = np.random.default_rng(0), len(counts)
    drawn = [together(rng.multinomial(count, np.full(count, 1 / count)) @ counts) for _ in range(FEWER_DRAWS)]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    values = dict(zip(("ROUGE-L", "METEOR", "same text"), means.T, strict=True))
    return together(counts.sum(axis=0)), (low, high), values
