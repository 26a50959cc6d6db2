"""What an adaptation is watched by beside its held-out pairs: similar items of this shop, and pairs of other catalogues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, Command
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..features.adapt.other_pairs import OtherPairs
    from ..store.store import Matrix

MAX_ITEMS = 1000  # that are encoded after every epoch
SIMILAR = "similar nDCG@5"


def similar_items(session: Session) -> Callable[[Callable[[np.ndarray], np.ndarray]], dict[str, float]] | None:
    """nDCG@5 on the validation questions about similar items, by the picture vectors; None where there are no visits.

    The function that is returned takes what gives the vectors [n, k] of items [n].
    """
    from ..baselines.similar import by_cosine
    from ..bench.similar_metrics import figures
    from ..store.store import Matrix
    from .similar_bench import similar_questions

    try:
        questions = similar_questions(session, "valid")
    except BundlecacheError:  # no clicks, or without times
        return None
    pictures = session.catalogue.has_source("image")
    needed, count = np.zeros(len(pictures), bool), 0
    for query, options in zip(questions.query, questions.options, strict=True):
        more = needed.copy()
        more[options] = more[query] = True
        if (more & pictures).sum() > MAX_ITEMS:
            break
        needed, count = more, count + 1
    if not count:
        return None
    items, asked = np.flatnonzero(needed & pictures), questions.first(count)

    def probe(vectors_of: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        some = vectors_of(items)
        whole: Any = np.zeros((len(pictures), some.shape[1]), np.float32)
        whole[items] = some
        matrix = Matrix("image", "adapting", "", "", 0, whole, needed & pictures)
        return {SIMILAR: figures(asked, by_cosine(matrix), len(pictures)).mean("ndcg@5", "matched")}

    return probe


def other_catalogue(root: Path | str) -> OtherPairs:
    """The pairs of another workspace.

    Raises
    ------
    BundlecacheError
        When it holds no catalogue, or later, when its vectors are needed and not stored.
    """
    from ..features.adapt.other_pairs import OtherPairs

    other = Session(root, quiet=True)

    def matrix_of(modality: str, spec: str) -> Matrix:
        stored = {(info.modality, info.spec) for info in other.store.tables() if info.rows and not info.tokens}
        if (modality, spec) not in stored:
            command = Command("encode", "--modality", modality, "--encoder", spec, "--data", root)
            raise BundlecacheError(f"{root} holds no {modality} vectors of {spec}.", hint=command)
        return other.store.matrix(other.catalogue.item_ids, modality, spec)

    return OtherPairs(other.folder, other.catalogue, matrix_of)
