"""Semantic ids: every item as a few codes, learnt from its stored vectors, so that a large catalogue needs no token per item.

The vectors are quantised level by level: k-means learns codes of the vectors, then of what the chosen codes leave, and so on
(residual quantisation, as TIGER's ids, Rajput et al., 2023, without its autoencoder). A last level numbers the items whose
codes are equal. Items without vectors share a first code of their own. All of it is determined by the vectors and the seed,
and kept with the run: an item keeps its id when others come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bundlecache.candidates.ann import faiss_module
from bundlecache.errors import BundlecacheError, Command
from bundlecache.files import replacing
from bundlecache.store.text_columns import places_of_ids, text_column
from bundlecache.vector_math import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bundlecache.store.store import Matrix
    from bundlecache.store.text_columns import Texts

LEVELS, CODES = 3, 256
ITERATIONS = 20  # of k-means
SAMPLES_PER_CODE = 256  # vectors that k-means learns from
BLOCK_ITEMS = 65_536  # quantised at once
LEAST_LAST_CODES = (
    32  # of the last level; at least twice as many as items share the others, so that new ones find a place
)
CODES_FILE, CODEBOOK_FILE = "semantic_ids.parquet", "semantic_ids.safetensors"


@dataclass(frozen=True)
class ItemCodes:
    """The codes of I items, ``sizes[l]`` different ones at level l; no two items have the same.

    ``codebooks`` [levels - 1] hold the centres float32 [codes, d] of all levels but the last. Code ``len(codebooks[0])`` of
    the first level is that of items without vectors.
    """

    codes: np.ndarray  # int32 [I, levels]
    sizes: tuple[int, ...]
    codebooks: tuple[np.ndarray, ...]

    @property
    def levels(self) -> int:
        """Codes of an item, the last one included, which only tells equal items apart."""
        return len(self.sizes)

    @property
    def size(self) -> int:
        """Tokens that a vocabulary needs for each level, so that one size fits all of them."""
        return max(self.sizes)

    def save(self, folder: Path, item_ids: Texts) -> None:
        """Write codes and codebooks into the folder of a run."""
        from safetensors.numpy import save_file

        lists = pa.FixedSizeListArray.from_arrays(pa.array(self.codes.ravel()), self.levels)
        with replacing(folder / CODEBOOK_FILE) as temporary:
            save_file({f"level_{level}": book for level, book in enumerate(self.codebooks)}, temporary)
        metadata = {"sizes": " ".join(map(str, self.sizes))}
        table = pa.table({"item_id": text_column(item_ids), "codes": lists}).replace_schema_metadata(metadata)
        with replacing(folder / CODES_FILE) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def learn(matrices: Sequence[Matrix], *, levels: int = LEVELS, codes: int = CODES, seed: int = 0) -> ItemCodes:
    """Quantise the vectors of all items by ``levels`` codes each, and number those that are equal in one level more.

    Several matrices stand beside each other, each brought to length 1; one that an item lacks counts as zeros.

    Raises
    ------
    BundlecacheError
        When no item has a vector.
    """
    vectors = _Joined(matrices)
    there = np.flatnonzero(vectors.there)
    if not len(there):
        raise BundlecacheError(
            "No item has a vector, so there is nothing to make semantic ids from.", hint="--set items.ids=atomic"
        )
    rng = np.random.default_rng(seed)
    rest = vectors.of(np.sort(rng.permutation(there)[: codes * SAMPLES_PER_CODE]))  # [s, d]
    books = []
    for level in range(levels):
        book = _centres(rest, min(codes, len(rest)), seed + level)
        books.append(book)
        rest = rest - book[_nearest(rest, book)]
    quantised = _quantise(vectors, there, books)  # [t, levels]
    number = _number_equal(quantised)
    absent = len(vectors.there) - len(there)
    last = max(LEAST_LAST_CODES, 2 * int(number.max() + 1), -(-absent // math.prod(len(book) for book in books[1:])))
    sizes = (len(books[0]) + 1, *(len(book) for book in books[1:]), last)
    made = np.empty((len(vectors.there), levels + 1), np.int32)
    made[there] = np.concatenate([quantised, number[:, None]], axis=1)
    made[~vectors.there] = _spread(np.arange(absent), sizes)
    return ItemCodes(made, sizes, tuple(books))


def load(folder: Path, item_ids: Texts, matrices: Sequence[Matrix]) -> ItemCodes:
    """The ids that a run saved, for the present catalogue: known items have theirs, new ones get free ones by the same codebooks.

    Raises
    ------
    BundlecacheError
        When the files are missing or damaged, or too many new items are equal.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        table = pq.read_table(folder / CODES_FILE)
        sizes = tuple(map(int, table.schema.metadata[b"sizes"].split()))
        codes = np.asarray(table["codes"].combine_chunks().flatten()).reshape(len(table), len(sizes))
        files = load_file(folder / CODEBOOK_FILE)
        books = tuple(files[f"level_{level}"] for level in range(len(sizes) - 1))
    except (OSError, pa.ArrowException, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BundlecacheError(f"The semantic ids in {folder} are damaged.", hint=Command("train")) from error
    place = places_of_ids(item_ids, text_column(table["item_id"]))
    made = np.full((len(item_ids), len(sizes)), -1, np.int32)
    made[place >= 0] = codes[place[place >= 0]]
    new = np.flatnonzero(place < 0)
    if len(new):
        _place_new(made, new, codes, _Joined(matrices), sizes, books)
    return ItemCodes(made, sizes, books)


def _place_new(
    made: np.ndarray,
    new: np.ndarray,
    known_codes: np.ndarray,
    vectors: _Joined,
    sizes: tuple[int, ...],
    books: Sequence[np.ndarray],
) -> None:
    """Write free ids for ``new`` items into ``made`` [I, levels]; where the nearest place is full, the next code is taken."""
    taken = {tuple(row) for row in known_codes.tolist()}
    without_vector: Iterator[tuple[int, ...]] = ((sizes[0] - 1, *rest) for rest in np.ndindex(*sizes[1:]))
    for item in new.tolist():
        places: Iterator[tuple[int, ...]] = without_vector
        if vectors.there[item]:
            places = _places_by_distance(vectors.of(np.array([item])), books, sizes[-1])
        code = next((place for place in places if place not in taken), None)
        if code is None:
            raise BundlecacheError("The semantic ids of this run are all taken.", hint=Command("train"))
        taken.add(code)
        made[item] = code


def _places_by_distance(vector: np.ndarray, books: Sequence[np.ndarray], last_codes: int) -> Iterator[tuple[int, ...]]:
    """All ids of a vector [1, d] with its own codes, then those with another code at the last learnt level, the nearest first."""
    first = []
    for book in books[:-1]:
        first.append(int(_nearest(vector, book)[0]))
        vector = vector - book[first[-1]]
    order = np.argsort(_distances(vector, books[-1])[0], kind="stable")
    for code in order.tolist():
        for last in range(last_codes):
            yield (*first, code, last)


class _Joined:
    """The vectors of several matrices side by side, read in blocks."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self.matrices = list(matrices)
        self.there: np.ndarray = np.logical_or.reduce([matrix.mask for matrix in matrices])  # bool [I]

    def of(self, items: np.ndarray) -> np.ndarray:
        """float32 [n, d] of these items; each matrix has length 1, or is zero where the item lacks it."""
        parts = []
        for matrix in self.matrices:
            rows = unit_rows(np.asarray(matrix.vectors[items], np.float32).reshape(len(items), -1))
            parts.append(np.where(matrix.mask[items][:, None], rows, np.float32(0)))
        return np.ascontiguousarray(np.concatenate(parts, axis=1))


def _centres(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """float32 [count, d] the centres of k-means."""
    means: Any = faiss_module().Kmeans(
        vectors.shape[1],
        count,
        niter=ITERATIONS,
        seed=seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=10**9,
    )
    means.train(np.ascontiguousarray(vectors))
    centres: np.ndarray = means.centroids
    return centres


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """int64 [n] the nearest centre of each vector; of equally near ones the first."""
    nearest: np.ndarray = _distances(vectors, centres).argmin(axis=1)
    return nearest


def _distances(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """float32 [n, codes] squared distances, less the squared length of the vector."""
    distances: np.ndarray = (centres**2).sum(axis=1) - 2 * vectors @ centres.T
    return distances


def _quantise(vectors: _Joined, items: np.ndarray, books: Sequence[np.ndarray]) -> np.ndarray:
    """int32 [n, levels - 1] the codes of items that have a vector."""
    made = np.empty((len(items), len(books)), np.int32)
    for low in range(0, len(items), BLOCK_ITEMS):
        rest = vectors.of(items[low : low + BLOCK_ITEMS])
        for level, book in enumerate(books):
            chosen = _nearest(rest, book)
            made[low : low + BLOCK_ITEMS, level] = chosen
            rest = rest - book[chosen]
    return made


def _number_equal(codes: np.ndarray) -> np.ndarray:
    """int32 [n] 0, 1, ... among the rows that are equal, in their order.

    >>> _number_equal(np.array([[1, 1], [0, 2], [1, 1], [1, 1]])).tolist()
    [0, 0, 1, 2]
    """
    order = np.lexsort(codes.T[::-1])  # stable
    ordered = codes[order]
    first = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    place = np.arange(len(codes))
    number = np.empty(len(codes), np.int32)
    number[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return number


def _spread(number: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """int32 [n, levels] the codes of the items without vectors: their numbers, written in digits behind the first code.

    >>> _spread(np.array([0, 1, 2, 3]), (5, 3, 2)).tolist()
    [[4, 0, 0], [4, 0, 1], [4, 1, 0], [4, 1, 1]]
    """
    digits = np.stack(np.unravel_index(number, sizes[1:]), axis=1)
    made: np.ndarray = np.concatenate([np.full((len(number), 1), sizes[0] - 1), digits], axis=1).astype(np.int32)
    return made
