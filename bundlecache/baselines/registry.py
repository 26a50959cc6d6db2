"""The simple methods that stand beside every model, on the same questions.

Each baseline is a function in ``REGISTRY`` that looks at what is there and gives the rankers it can make,
so a new one is a function and a line, and the contract test picks it up. All of them see training
bundles and the interactions of training users only; what is tuned is tuned on validation bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .content import all_words, category_overlap, category_slots, cosine_sum, cosines, title_words, z_sum
from .graphs import als, bpr, chance, co_occurrence, item_knn, lightgcn, popularity, ppmi
from .learned import injected, reranked, stack, weighted_cosine
from .sources import Sources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalogue.model import Catalogue
    from ..store.store import Matrix
    from .rankers import Ranker

__all__ = ["PERSONAL", "REGISTRY", "Sources", "all_baselines", "reranked"]

REGISTRY: list[Callable[[Sources], Iterable[Ranker]]] = [
    chance,
    popularity,
    category_slots,
    category_overlap,
    title_words,
    all_words,
    co_occurrence,
    ppmi,
    item_knn,
    als,
    bpr,
    lightgcn,
    cosines,
    cosine_sum,
    weighted_cosine,
    z_sum,
    injected,
    stack,
]

PERSONAL: list[Callable[[Sources], Iterable[Ranker]]] = [title_words, co_occurrence, item_knn, cosines, z_sum, stack]
"""Those that are worth asking for a user's history too."""


def all_baselines(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix],
    *,
    seed: int = 0,
    learners: tuple[Callable[[Sources], Iterable[Ranker]], ...] = (),
) -> list[Ranker]:
    """Every baseline whose inputs exist, in the order of ``REGISTRY``; ``learners`` as in `Sources`.

    ``matrices`` may be keyed by anything: a vector's name comes from its own modality and spec, and
    several graph or image matrices give several rankers.
    """
    return Sources(catalogue, matrices, seed, learners).rankers(*REGISTRY)
