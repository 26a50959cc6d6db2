"""`--engine lance`: LanceDB's own IVF_PQ index over the tables of the store, searched without holding all vectors in memory.

An index makes a new version of a Lance table, and everything that was made from the vectors names their version. So the
index is made on a *shallow clone* of the version: a table of its own that refers to the data files of the store's table
and holds the index alone. It is derived data, in ``candidates/indexes/`` or, where the tables are on an object store,
below ``indexes/`` beside them, for all machines. What it finds is scored again with the exact vectors.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, QuestionsError
from ..store.tables import locked, opening, storing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..store.location import StoreLocation
    from ..store.store import Matrix
    from .item_vectors import ItemVectors

KIND = "lance"
KMEANS_SAMPLES_PER_LIST, KMEANS_ITERATIONS = 64, 10  # Lance's own 256 and 50 take ten times as long for the same recall
NUMBERS_PER_CODE = 8  # numbers of a vector that one byte of an index stands for, about
MIN_ITEMS = 4096  # items below which an index of bytes has too little to learn from
DISTANCES = {"cosine": "cosine", "inner product": "dot"}


@dataclass(frozen=True)
class LanceTables:
    """Where the tables of vectors are, and where indexes over them are made."""

    location: StoreLocation
    indexes: Path
    catalogue: Catalogue

    def structure(
        self, vectors: ItemVectors, *, rebuild: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> LanceStructure:
        """The indexes over the tables of ``vectors``; those that are not there yet are built.

        Raises
        ------
        BundlecacheError
            When a table is not in the store (fused tokens), or the disk refuses.
        """
        datasets = [
            self._open(part.matrix, DISTANCES[vectors.metric], rebuild=rebuild, progress=progress)
            for part in vectors.parts
        ]
        return LanceStructure(datasets, vectors, self.catalogue)

    def _open(
        self, matrix: Matrix, distance: str, *, rebuild: bool, progress: Callable[[int, int], None] | None
    ) -> Any:
        if not self.location.has(matrix.table):
            raise BundlecacheError(
                f"{matrix.spec} is in no table of the store, which is what Lance searches.", hint="--engine faiss"
            )
        name = f"{matrix.table}--{distance}--v{matrix.version}"
        with locked(self.location.root, f"index--{matrix.table}"):
            found = None if rebuild else self._existing(name)
            if found is None:
                self._remove(f"{matrix.table}--{distance}--v")
                found = self._make(matrix, name, distance, progress)
        return found

    def _uri(self, name: str) -> str:
        return f"{self.location}/indexes/{name}.lance" if self.location.address else str(self.indexes / f"{name}.lance")

    def _existing(self, name: str) -> Any | None:
        """The clone of this name with its index; None where there is none, or one that was not finished."""
        import lance

        try:
            dataset = lance.dataset(self._uri(name), storage_options=self.location.options or None)
            return dataset if dataset.list_indices() else None
        except (ValueError, OSError, RuntimeError):
            return None

    def _make(self, matrix: Matrix, name: str, distance: str, progress: Callable[[int, int], None] | None) -> Any:
        def told(step: Any) -> None:
            if progress is not None and step.stage == "shuffle" and step.total:
                progress(step.completed, step.total)

        with opening(self.location.uri(matrix.table)):
            table = self.location.dataset(matrix.table, matrix.version)
            rows = table.count_rows()
        width = matrix.vectors.shape[1]
        with storing(self.location.root):
            if self.location.address is None:
                self.indexes.mkdir(parents=True, exist_ok=True)
            clone = table.shallow_clone(self._uri(name), table.version, storage_options=self.location.options or None)
            return clone.create_index(
                "vector",
                "IVF_PQ",
                metric=distance,
                num_partitions=n_lists(rows),
                num_sub_vectors=codes_of(width),
                max_iters=KMEANS_ITERATIONS,
                sample_rate=KMEANS_SAMPLES_PER_LIST,
                progress_callback=told,
            )

    def _remove(self, start: str) -> None:
        """Delete the indexes of older versions of a table, and one that was not finished."""
        if self.location.address is None:
            for folder in self.indexes.glob(f"{start}*.lance"):
                shutil.rmtree(folder, ignore_errors=True)
            return
        import lancedb

        database = lancedb.connect(f"{self.location}/indexes", storage_options=self.location.options or None)
        for name in database.list_tables().tables:
            if name.startswith(start):
                database.drop_table(name)


class LanceStructure:
    """Indexes over one or several tables, searched like a structure of FAISS: positions in ``vectors.rows``.

    ``nprobe`` lists of each are searched. For a mix of modalities the nearest of each are found; which of them are the
    nearest in the mix, the exact scores say afterwards.
    """

    def __init__(self, datasets: list[Any], vectors: ItemVectors, catalogue: Catalogue) -> None:
        self.datasets = datasets
        self.borders = list(zip(vectors.offsets[:-1], vectors.offsets[1:], strict=True))
        self.rows, self.d, self.ntotal = vectors.rows, vectors.width, len(vectors.rows)
        self.nprobe = 1
        self.places = [self._places(dataset, catalogue) for dataset in datasets]

    def _places(self, dataset: Any, catalogue: Catalogue) -> tuple[np.ndarray, np.ndarray]:
        """Row ids of a table, ascending, and for each the position in ``rows``; -1 for a row that is not valid."""
        with opening(dataset.uri):
            table = dataset.to_table(columns=["item_id"], with_row_id=True).sort_by("_rowid")
        items = catalogue.positions(table["item_id"])
        place = np.searchsorted(self.rows, items).astype(np.int32)
        place[(items < 0) | (self.rows[np.minimum(place, len(self.rows) - 1)] != items)] = -1
        return table["_rowid"].to_numpy(), place

    def search(self, query: np.ndarray, ask: int) -> tuple[None, np.ndarray]:
        """Nothing, and int64 [q, <= ask * tables] positions in ``rows``, -1 where fewer were found."""
        found = np.concatenate(
            [self._of(number, query[:, low:high], ask) for number, (low, high) in enumerate(self.borders)], axis=1
        )
        if len(self.datasets) > 1:
            found.sort(axis=1)
            found[:, 1:][found[:, 1:] == found[:, :-1]] = -1
        return None, found

    def _of(self, number: int, query: np.ndarray, ask: int) -> np.ndarray:
        """int64 [q, ask] the positions that table ``number`` gives, best first."""
        out = np.full((len(query), ask), -1, np.int64)
        asked = np.flatnonzero(query.any(axis=1))  # of these modalities, the bundle may have no vector
        if not len(asked):
            return out
        nearest = {"column": "vector", "q": query[asked], "k": ask, "nprobes": self.nprobe}
        try:
            scanner = self.datasets[number].scanner(columns=["_distance"], with_row_id=True, nearest=nearest)
            got = scanner.to_table().sort_by("query_index")  # those of a query stay in their order
        except (OSError, ValueError, RuntimeError) as error:
            raise QuestionsError(
                f"The index cannot be searched: {str(error).splitlines()[0][:200]}.", hint="--rebuild makes it again"
            ) from error
        ids, places = self.places[number]
        asking = got["query_index"].to_numpy()
        column = np.arange(len(asking)) - np.searchsorted(asking, asking)
        out[asked[asking], column] = places[np.searchsorted(ids, got["_rowid"].to_numpy())]
        return out


def n_lists(count: int) -> int:
    """Lists of an index over so many rows."""
    return max(1, int(math.sqrt(count)))


def codes_of(width: int) -> int:
    """Bytes of a vector in an index: the divisor of ``width`` that is nearest to one for `NUMBERS_PER_CODE` numbers.

    >>> codes_of(512), codes_of(300), codes_of(7)
    (64, 30, 1)
    """
    divisors = [number for number in range(1, width + 1) if width % number == 0]
    return min(divisors, key=lambda number: (abs(number - width / NUMBERS_PER_CODE), number))
