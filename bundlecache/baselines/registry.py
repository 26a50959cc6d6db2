"""The simple methods that stand beside every model, on the same questions.

Each baseline is a function that looks at what is there and gives the rankers it can make: those of ``REGISTRY``, and
those that installed packages name under the entry point ``bundlecache.baselines``, so that a new one needs no fork::

    [project.entry-points."bundlecache.baselines"]
    my_baseline = "my_package.ranking:my_baseline"    # def my_baseline(sources: Sources) -> Iterator[Ranker]

All of them see training bundles and the interactions of training users only; what is tuned is tuned on validation bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from ..errors import BundlecacheError, first_line
from .content import all_words, category_overlap, category_slots, cosine_sum, cosines, title_words, z_sum
from .graphs import als, bpr, chance, co_occurrence, item_knn, lightgcn, popularity, ppmi
from .learned import injected, reranked, stack, weighted_cosine
from .sources import Sources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix
    from .rankers import Ranker

__all__ = ["PERSONAL", "REGISTRY", "Sources", "all_baselines", "all_makers", "reranked"]

Maker = Callable[[Sources], "Iterable[Ranker]"]
ENTRY_POINTS = "bundlecache.baselines"

REGISTRY: list[Maker] = [
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

PERSONAL: list[Maker] = [title_words, co_occurrence, item_knn, cosines, z_sum, stack]
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
    return Sources(catalogue, matrices, seed, learners).rankers(*all_makers())


@cache
def all_makers() -> tuple[Maker, ...]:
    """``REGISTRY``, then the baselines of installed packages by the names of their entry points.

    Raises
    ------
    BundlecacheError
        When one of them cannot be imported.
    """
    return (*REGISTRY, *map(_loaded, sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)))


def _loaded(point: EntryPoint) -> Maker:
    try:
        return cast("Maker", point.load())
    except Exception as error:  # a package of somebody else may raise anything
        raise BundlecacheError(
            f"The baseline {point.name} ({point.value}) cannot be imported: {first_line(error)}",
            hint="repair or uninstall its package",
        ) from error
