"""An exact FAISS index over any mix of modalities, and the query of a partial bundle.

An item's key is the concatenation of its unit vectors of the chosen modalities, each scaled by the root of
its weight, and brought to length 1 as a whole: an inner product of two keys is then the weighted mean of
the modalities' cosines. The query of a partial bundle is the mean of its members' vectors, modality by
modality, made the same way. The index is exact (`IndexFlatIP`); what it returns is scored again in double
precision, so that equal items get equal scores and ties fall by the item's index on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BundlecacheError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from .store import Matrix

SLACK = 16  # asked for beyond k, so that a tie rarely needs a second search
TINY = 1e-6  # two scores in single precision that differ by less are taken as equal
TIE = 1e-5  # FAISS's single precision may order what lies closer than this either way


def faiss_module() -> ModuleType:
    """FAISS, or one sentence about how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise BundlecacheError(
            "FAISS is not installed; it comes in one of two extras that exclude each other, cpu and gpu.",
            hint='pip install "bundlecache[cpu]"',
        ) from error
    return faiss


@dataclass(frozen=True)
class Index:
    """An exact index over the c items that have at least one of the chosen modalities.

    ``keys`` float32 [I, D] has zero rows for the others; ``rows`` int32 [c] are their item indices.
    ``offsets`` [m+1] are the borders of the modalities in D, ``norms`` float32 [I] the lengths of the keys
    before the last normalisation, by which `query` undoes it.
    """

    modalities: tuple[str, ...]
    versions: dict[str, dict[str, Any]]
    offsets: tuple[int, ...]
    weights: tuple[float, ...]
    keys: np.ndarray
    norms: np.ndarray
    rows: np.ndarray
    flat: Any

    @classmethod
    def build(
        cls,
        matrices: Mapping[str, Matrix] | Sequence[Matrix],
        *,
        weights: Mapping[str, float] | None = None,
        zscore: bool = False,
    ) -> Index:
        """Index every item that has a vector of at least one modality.

        Parameters
        ----------
        matrices
            Vectors, rows in the order of the catalogue; by name, or as `by_name` names them.
        weights
            By modality, 1 where not given; 0 leaves a modality out.
        zscore
            Bring every dimension to mean 0 and deviation 1 over the items first.

        Raises
        ------
        BundlecacheError
            When no modality is left, a weight is negative or names no modality, or no item has a vector.
        """
        weights, matrices = dict(weights or {}), by_name(matrices)
        if unknown := sorted(set(weights) - set(matrices)):
            raise BundlecacheError(
                f"A weight was given for {unknown[0]!r}, but the chosen modalities are {', '.join(matrices) or 'none'}.",
                hint="bundlecache status lists what is encoded",
            )
        if any(weight < 0 for weight in weights.values()):
            raise BundlecacheError("A modality's weight must be 0 or more.", hint="leave the modality out instead")
        used = {name: matrix for name, matrix in matrices.items() if weights.get(name, 1.0) > 0}
        if not used:
            raise BundlecacheError("No modality is left to search by.", hint="bundlecache encode --modality all")
        scale = {name: float(np.sqrt(weights.get(name, 1.0))) for name in used}
        widths = [matrix.vectors.shape[1] for matrix in used.values()]
        offsets = np.cumsum([0, *widths]).tolist()
        parts = np.zeros((len(next(iter(used.values())).mask), offsets[-1]), np.float32)  # [I, D]
        for low, high, (name, matrix) in zip(offsets[:-1], offsets[1:], used.items(), strict=True):
            parts[:, low:high] = _units(matrix, zscore)
            parts[:, low:high] *= scale[name]
        norms = _lengths(parts)  # [I]
        keys = _normalise(parts)
        rows = np.flatnonzero(norms > 0).astype(np.int32)
        if not len(rows):
            raise BundlecacheError(
                f"No item has a vector of {' or '.join(used)}.", hint="bundlecache status says what failed"
            )
        flat = faiss_module().IndexFlatIP(keys.shape[1])
        flat.add(keys[rows])
        return cls(
            modalities=tuple(used),
            versions={name: version_of(matrix) for name, matrix in used.items()},
            offsets=tuple(offsets),
            weights=tuple(weights.get(name, 1.0) for name in used),
            keys=keys,
            norms=norms,
            rows=rows,
            flat=flat,
        )

    def query(self, partials: Sequence[np.ndarray]) -> np.ndarray:
        """Keys of partial bundles: float32 [q, D]; a row of zeros where no member has a vector."""
        out = np.zeros((len(partials), self.keys.shape[1]), np.float32)
        for q, partial in enumerate(partials):
            members = self.keys[partial].astype(np.float64) * self.norms[partial, None]  # absent ones are zero
            for m, (low, high) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
                mean = members[:, low:high].sum(0)
                norm = np.linalg.norm(mean)
                if norm > 0:
                    out[q, low:high] = mean / norm * np.sqrt(self.weights[m])
        return _normalise(out)

    def search(
        self, query: np.ndarray, k: int, exclude: Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of every query, ties by item index.

        Parameters
        ----------
        query
            float32 [q, D], from `query`.
        exclude
            For every query the item indices that may not be returned.

        Returns
        -------
        items, scores
            int32 [q, k], -1 where the catalogue has no more; float32 [q, k], -inf there.

        Raises
        ------
        BundlecacheError
            When ``k`` is below 1.
        """
        if k < 1:
            raise BundlecacheError(f"k is {k}; at least 1 candidate must be asked for.", hint="--k 20")
        items = np.full((len(query), k), -1, np.int32)
        scores = np.full((len(query), k), -np.inf, np.float32)
        query = np.ascontiguousarray(query, np.float32)
        banned: Sequence[np.ndarray] = exclude if exclude is not None else [np.zeros(0, np.int32)] * len(query)
        pending = np.flatnonzero(query.any(axis=1))  # a query of nothing is near to nothing
        ask = k + max((len(b) for b in banned), default=0) + SLACK
        while len(pending):
            ask = min(ask, len(self.rows))
            rough, position = self.flat.search(query[pending], ask)  # [p, ask]
            again = []
            for q, near, last in zip(pending.tolist(), position, rough[:, -1], strict=True):
                found, exact = self._rescore(query[q], self.rows[near], banned[q])
                enough = ask == len(self.rows) or (len(found) >= k and exact[k - 1] > last + TIE)
                if not enough:  # a tie may go on behind the last one that FAISS gave
                    again.append(q)
                    continue
                n = min(k, len(found))
                items[q, :n], scores[q, :n] = found[:n], exact[:n]
            pending = np.array(again, np.int64)
            ask *= 4
        return items, scores

    def _rescore(self, query: np.ndarray, found: np.ndarray, banned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = found[~np.isin(found, banned)]
        exact = (self.keys[found].astype(np.float64) * query.astype(np.float64)).sum(1).astype(np.float32)
        order = np.lexsort((found, -exact))
        return found[order], exact[order]

    def ranks(self, query: np.ndarray, truth: np.ndarray, exclude: Sequence[np.ndarray]) -> np.ndarray:
        """int64 [q] the truth's place among all items (1 is best), 0 where it has no vector.

        ``truth`` int [q]. Items as good as the truth (closer than single precision tells) count as before
        it when their index is smaller, as in `search`.
        """
        out = np.zeros(len(query), np.int64)
        able = np.zeros(len(self.keys), bool)
        able[self.rows] = True
        for start in range(0, len(query), 256):
            block = slice(start, start + 256)
            scores = query[block] @ self.keys[self.rows].T  # [<=256, c]
            for q, row in enumerate(scores, start):
                if not able[truth[q]] or not query[q].any():
                    continue
                mine = row[np.searchsorted(self.rows, truth[q])]
                near = np.flatnonzero(row >= mine - TINY)
                ahead = (row[near] > mine + TINY) | (self.rows[near] < truth[q])
                banned = exclude[q][able[exclude[q]]]
                theirs = row[np.searchsorted(self.rows, banned)]
                out_of_it = (theirs > mine + TINY) | ((theirs >= mine - TINY) & (banned < truth[q]))
                out[q] = 1 + ahead.sum() - out_of_it.sum()
        return out


def by_name(matrices: Mapping[str, Matrix] | Sequence[Matrix]) -> dict[str, Matrix]:
    """Matrices by modality; a second one of the same modality goes by its encoder (``lightgcn:user-item``)."""
    if isinstance(matrices, Mapping):
        return dict(matrices)
    named: dict[str, Matrix] = {}
    for matrix in matrices:
        named[matrix.spec if matrix.modality in named else matrix.modality] = matrix
    return named


def version_of(matrix: Matrix) -> dict[str, Any]:
    """What names the vectors that an index was made from."""
    return {
        "spec": matrix.spec,
        "table": matrix.table,
        "fingerprint": matrix.fingerprint,
        "version": matrix.version,
    }


def _units(matrix: Matrix, zscore: bool) -> np.ndarray:
    """float32 [I, d] unit vectors, zero rows where the mask says that there is none."""
    vectors = np.array(matrix.vectors, np.float32)
    mask = np.asarray(matrix.mask, bool)
    if zscore and mask.any():
        present = vectors[mask].astype(np.float64)
        vectors = ((vectors - present.mean(0)) / np.maximum(present.std(0), 1e-6)).astype(np.float32)
    vectors[~mask] = 0
    return _normalise(vectors)


def _normalise(vectors: np.ndarray) -> np.ndarray:
    """Bring the rows to length 1, in place; rows of zeros stay."""
    norms = _lengths(vectors)
    vectors /= np.where(norms > 0, norms, 1)[:, None]
    return vectors


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """float32 [I]; added up in double precision, so that the order of the numbers leaves no trace."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)).astype(np.float32)
