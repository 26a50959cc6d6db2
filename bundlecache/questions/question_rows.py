"""Questions as columns of ids, as they stand in a file, and where these ids are in a catalogue."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import json_text
from ..catalogue.columns import Lists, Strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..catalogue.catalogue import Catalogue

NO_TRUTH = -1  # stands for a truth that is no number
COLUMNS = ("bundle_id", "partial", "options", "truth")


@dataclass(frozen=True)
class Located:
    """Where the ids of q questions are in a catalogue; -1 stands for an id that is not there.

    ``bundle`` int64 [q] is a number of a bundle, ``partial`` and ``options`` hold indices of items.
    """

    bundle: np.ndarray
    partial: Lists
    options: Lists

    def take(self, rows: np.ndarray) -> Located:
        """Those of the questions ``rows``."""
        return Located(self.bundle[rows], self.partial.take(rows), self.options.take(rows))


@dataclass(frozen=True)
class QuestionRows:
    """q questions: columns of large strings, and of lists of them; ``truth`` int64 [q] is the number of the right option.

    ``odd_truth`` holds what stands in place of a truth that is no such number, by row.
    """

    bundle_ids: pa.Array
    partial: pa.LargeListArray
    options: pa.LargeListArray
    truth: np.ndarray
    odd_truth: Mapping[int, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> QuestionRows:
        """Columns of rows ``{"bundle_id", "partial", "options", "truth"}``."""
        truths = [row["truth"] for row in rows]
        odd = {r: truth for r, truth in enumerate(truths) if not _is_number(truth)}
        lists = pa.large_list(pa.large_string())
        return cls(
            pa.array([row["bundle_id"] for row in rows], pa.large_string()),
            pa.array([row["partial"] for row in rows], lists),
            pa.array([row["options"] for row in rows], lists),
            np.array([NO_TRUTH if r in odd else truth for r, truth in enumerate(truths)], np.int64),
            odd,
        )

    @classmethod
    def of_table(cls, table: pa.Table) -> QuestionRows:
        """Columns of a table as it stands in a file; an absent list is an empty one."""
        truth = table.column("truth")
        missing = np.flatnonzero(np.asarray(pc.is_null(truth)))
        return cls(
            Strings(table.column("bundle_id")).arrow,
            _text_lists(table.column("partial")),
            _text_lists(table.column("options")),
            np.asarray(pc.fill_null(truth, NO_TRUTH)).astype(np.int64),
            dict.fromkeys(missing.tolist()),
        )

    @classmethod
    def of_indices(
        cls,
        item_ids: Strings[str],
        bundle_ids: Sequence[str],
        partial: Sequence[np.ndarray],
        options: np.ndarray,
        truth: np.ndarray,
    ) -> QuestionRows:
        """Columns of questions that hold indices of items: ``options`` [q, n], ``truth`` [q]."""
        given = Lists(partial)
        shown = np.asarray(options).reshape(len(options), -1)
        ends = np.arange(len(shown) + 1, dtype=np.int64) * shown.shape[1]
        ids = pa.array(bundle_ids, pa.large_string())
        return cls(
            ids,
            pa.LargeListArray.from_arrays(given.offsets, item_ids.take(given.values).arrow),
            pa.LargeListArray.from_arrays(ends, item_ids.take(shown.reshape(-1)).arrow),
            np.asarray(truth, np.int64),
        )

    def __len__(self) -> int:
        return len(self.bundle_ids)

    def row(self, r: int) -> dict[str, Any]:
        """One question: bundle_id, partial, options, truth."""
        return {
            "bundle_id": self.bundle_ids[r].as_py(),
            "partial": self.partial[r].as_py(),
            "options": self.options[r].as_py(),
            "truth": self.odd_truth[r] if r in self.odd_truth else int(self.truth[r]),
        }

    def take(self, rows: np.ndarray) -> QuestionRows:
        """The questions ``rows``, whose truth is a number."""
        at = pa.array(rows, pa.int64())
        return QuestionRows(self.bundle_ids.take(at), self.partial.take(at), self.options.take(at), self.truth[rows])

    def locate(self, catalogue: Catalogue) -> Located:
        """Look all ids up: of bundles, and of items."""
        bundle = pc.index_in(self.bundle_ids, value_set=catalogue.bundles.ids.arrow, skip_nulls=True)
        given, shown = self.partial.flatten(), self.options.flatten()
        items = catalogue.item_ids.positions(pa.chunked_array([given, shown]))
        return Located(
            np.asarray(pc.fill_null(bundle.cast(pa.int64()), -1)),
            Lists.of(_offsets(self.partial), items[: len(given)]),
            Lists.of(_offsets(self.options), items[len(given) :]),
        )

    def lines(self) -> Iterator[memoryview]:
        """The canonical lines in blocks: a JSON object per question with sorted keys, no spaces and letters as they are."""
        for start, count in json_text.blocks(len(self)):
            truth = pa.array(self.truth[start : start + count]).cast(pa.large_string())
            if odd := {r: value for r, value in self.odd_truth.items() if start <= r < start + count}:
                mask = np.isin(np.arange(start, start + count), [*odd])
                truth = pc.replace_with_mask(truth, mask, pa.array(["null"] * len(odd), pa.large_string()))
            options, partial = (
                json_text.lists(column.slice(start, count), ",") for column in (self.options, self.partial)
            )
            ids = json_text.texts(self.bundle_ids.slice(start, count))
            parts = ('{"bundle_id":', ids, ',"options":', options, ',"partial":', partial, ',"truth":', truth, "}\n")
            yield json_text.content(json_text.joined(*parts))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of the canonical lines."""
        total = hashlib.sha256()
        for block in self.lines():
            total.update(block)
        return total.hexdigest()


def _is_number(truth: Any) -> bool:
    return isinstance(truth, int) and not isinstance(truth, bool) and abs(truth) < 2**62


def _offsets(column: pa.LargeListArray) -> np.ndarray:
    """int64 [q + 1], where each list begins in `flatten`."""
    lengths = np.asarray(pc.list_value_length(column)).astype(np.int64)
    return np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])


def _text_lists(column: pa.ChunkedArray) -> pa.LargeListArray:
    """A column as lists of large strings without nulls: an absent list becomes an empty one."""
    wide = column.cast(pa.large_list(pa.large_string())).combine_chunks()
    lengths = np.asarray(pc.fill_null(pc.list_value_length(wide), 0)).astype(np.int64)
    return pa.LargeListArray.from_arrays(np.concatenate([np.zeros(1, np.int64), lengths.cumsum()]), wide.flatten())
