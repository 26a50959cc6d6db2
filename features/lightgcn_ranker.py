"""LightGCN as a method of next-item recommendation, learnt from what the task's training may see.

The stored vectors of `lightgcn:user-item` cannot be taken: their graph holds the interactions that tasks ask about.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bundlecache.baselines.next_item import HistoryRanker, by_factors

from . import lightgcn, lightgcn_large

if TYPE_CHECKING:
    from bundlecache.baselines.next_item import Learnt, Training


def lightgcn_ranker(training: Training) -> HistoryRanker:
    """LightGCN as a ranker; it is learnt when it is first asked."""
    return HistoryRanker("LightGCN", partial(_factors, training), partial(by_factors, training))


def _factors(training: Training) -> Learnt:
    seen, n_items = training.seen, len(training.catalogue)
    item = seen.item.astype("int64")
    if len(seen) <= lightgcn_large.SMALL_GRAPH_EDGES:
        users, items = lightgcn.train(seen.user, item, n_items, lightgcn.Settings(seed=training.seed))
    else:
        made = lightgcn_large.train(seen.user, item, n_items, lightgcn_large.Settings(seed=training.seed))
        users, items = made.left, made.item
    return {"users": users, "items": items}
