"""Keeps what the learned ranker was fitted to, so that a completion need not fit it again.

The file holds the weights, what trained parts (the set encoder) have learned, and how many seconds that took. It belongs to
the vectors, items, texts, clicks, split, seed and parts that it was fitted with; for others it is not used.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from ..catalogue.seen_bundles import split_digest
from ..column_digest import add_texts
from ..files import read_arrays, replacing
from .learned import LearnedRanker, stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from .rankers import Ranker
    from .sources import Sources

CATEGORIES = ("category", "categories")
SECONDS = "kept_seconds"  # of a ranker: how long it was fitted
MAX_PART_BYTES = 2**28  # of one part; larger ones are fitted again


def save(ranker: LearnedRanker, path: Path) -> None:
    """Write the weights of a fitted ranker, and what its trained parts have learned, as a .npz file."""
    weights, scale = ranker.fitted
    arrays = {"weights": weights, "scale": scale, "cause": np.array(_cause(ranker))}
    if (spent := seconds_of(ranker)) is not None:
        arrays["seconds"] = np.array(spent)
    for number, part in enumerate(ranker.parts):
        if (learned := _learned(part)) is not None and learned[0].nbytes <= MAX_PART_BYTES:
            arrays |= {f"part{number}": learned[0], f"number{number}": np.array(learned[1])}
            if (spent := seconds_of(part)) is not None:
                arrays[f"seconds{number}"] = np.array(spent)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def restore(sources: Sources, path: Path) -> LearnedRanker | None:
    """The learned ranker of ``sources``: as it was saved where that fits, else still to be fitted; None where there is none."""
    ranker = next((each for each in sources.rankers(stack) if isinstance(each, LearnedRanker)), None)
    if ranker is None or not path.is_file():
        return ranker
    arrays = read_arrays(path) or {}  # a derived file: what cannot be read is made again
    lacking = {"cause", "weights", "scale"} - arrays.keys()
    if not lacking and str(arrays["cause"]) == _cause(ranker) and len(arrays["weights"]) == 2 * len(ranker.parts):
        _remember(ranker, (arrays["weights"], arrays["scale"]), arrays.get("seconds"))
        for number, part in enumerate(ranker.parts):
            if f"part{number}" in arrays:
                learned = arrays[f"part{number}"], float(arrays[f"number{number}"])
                _remember(part, learned, arrays.get(f"seconds{number}"))
    return ranker


def seconds_of(ranker: Ranker) -> float | None:
    """How long a ranker was fitted, without what it stands on, where that was kept; it need not be fitted again."""
    kept: float | None = vars(ranker).get(SECONDS) if hasattr(ranker, "__dict__") else None
    return kept


def keep_seconds(ranker: LearnedRanker, spent: Callable[[Ranker], float]) -> None:
    """Note how long the ranker and its trained parts were fitted, for :func:`save`."""
    for each in (ranker, *ranker.parts):
        if each is ranker or _learned(each) is not None:
            vars(each)[SECONDS] = spent(each)


def total_seconds(path: Path) -> float:
    """How long the ranker in a file and its trained parts were fitted; 0 where the file says nothing of it."""
    return float(sum(array for name, array in (read_arrays(path) or {}).items() if name.startswith("seconds")))


def _cause(ranker: LearnedRanker) -> str:
    """A hash of all that a fit depends on."""
    sources = ranker.sources
    vectors = sorted((m.table, m.spec, m.fingerprint, m.version) for m in sources.matrices.values())
    parts = [part.name for part in ranker.parts]
    cause = [vectors, split_digest(sources.catalogue), _catalogue_digest(sources.catalogue), sources.seed, parts]
    return hashlib.sha256(json.dumps(cause).encode()).hexdigest()


def _catalogue_digest(catalogue: Catalogue) -> str:
    """A hash of what the parts read of a catalogue beside its bundles: ids, titles, categories, and who clicked what."""
    digest = hashlib.sha256()
    for column in (catalogue.item_ids, catalogue.titles, *(catalogue.column(name) for name in CATEGORIES)):
        add_texts(digest, column.arrow)
    for numbers in (catalogue.interactions.user, catalogue.interactions.item):
        digest.update(np.ascontiguousarray(numbers).tobytes())
    return digest.hexdigest()


def _learned(part: Ranker) -> tuple[np.ndarray, float] | None:
    """What a trained part keeps as ``fitted``: vectors [I, d] and a number; None for every other part."""
    fitted = getattr(part, "fitted", None)
    if isinstance(fitted, tuple) and len(fitted) == 2 and isinstance(fitted[0], np.ndarray):
        return (fitted[0], fitted[1]) if isinstance(fitted[1], float) else None
    return None


def _remember(ranker: Ranker, fitted: tuple[np.ndarray, object], seconds: np.ndarray | None) -> None:
    if seconds is not None:
        vars(ranker)[SECONDS] = float(seconds)
    vars(ranker)["fitted"] = fitted  # where functools.cached_property looks first
