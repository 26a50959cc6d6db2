"""Frozen questions about similar items: an item, the items that users clicked after it, and wrong ones as popular as they are.

``questions/similar/SPLIT.parquet`` holds item_id, relevant list<string>, users list<int32> (how many users clicked each
relevant item after it) and options list<string>; its header is JSON in the schema's metadata and in ``SPLIT.json`` beside it. The
SHA-256 of the canonical lines (one JSON object per question, sorted keys, no spaces) stands in every result. A set is never
drawn again while its file is there; validation and test are frozen together, with one cut in time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalogue.click_log import VISIT_MINUTES, read_clicks
from ..catalogue.columns import Lists, Strings
from ..errors import CatalogueError, QuestionsError, first_line
from ..files import make_folder, replacing, write_text
from ..rows import Result
from .similar_pairs import REACH, Periods, grouped, pairs_of, user_shares

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..catalogue.click_log import ClickLog
    from ..workspace import WorkspaceFolder

FORMAT_VERSION = 1
SPLITS = ("valid", "test")
OPTIONS, LEAST_OPTIONS = 50, 10  # of a question: relevant items and wrong ones; a tenth of a small catalogue
MAX_RELEVANT_OPTIONS = 20  # the relevant items of most users
MAX_QUESTIONS = 5_000  # of a set; those of the first items of the catalogue, whose order is that of a hash
SEED = 0
SCHEMA = pa.schema(
    {
        "item_id": pa.large_string(),
        "relevant": pa.large_list(pa.large_string()),
        "users": pa.large_list(pa.int32()),
        "options": pa.large_list(pa.large_string()),
    }
)


@dataclass(frozen=True, repr=False)
class SimilarQuestions(Result):
    """q questions about similar items of one catalogue.

    ``query`` int32 [q] is the item, ``relevant`` the items that were clicked after it, ``users`` int32 [total] by how many
    users each, and ``options`` int32 [q, n], ascending, some of the relevant items among wrong ones that are as popular.
    """

    split: str
    query: np.ndarray
    relevant: Lists
    users: np.ndarray
    options: np.ndarray
    sha256: str
    header: dict[str, Any]
    shares: Any = None  # [users, q] what each user has of each question, where it is known; see `user_shares`

    def _frame(self) -> Any:
        """A row per question: the item asked about, the relevant ones and the options, all indices."""
        return {"query": self.query, "relevant": list(self.relevant), "options": list(self.options)}

    def __len__(self) -> int:
        return len(self.query)

    @property
    def starts_at(self) -> int:
        """Microseconds since 1970: what a method learns from clicks must be older."""
        return int(self.header["periods"][self.split])

    def first(self, count: int) -> SimilarQuestions:
        """At most ``count`` of the questions (0: all), always the same ones; the SHA-256 stays that of the whole set."""
        if not count or len(self) <= count:
            return self
        return _taken(self, np.arange(count))

    def save(self, folder: Path, catalogue: Catalogue) -> None:
        """Write the file and its header into ``folder``."""
        make_folder(folder)
        columns = _id_columns(catalogue, self.query, self.relevant, self.users, self.options)
        table = pa.table([each.cast(field.type) for each, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        header = json.dumps(self.header, indent=1, sort_keys=True)
        sidecar = folder / f"{self.split}.json"
        sidecar.unlink(missing_ok=True)  # its presence means complete
        with replacing(folder / f"{self.split}.parquet") as temporary:
            pq.write_table(table.replace_schema_metadata({"bundlecache": header}), temporary)
        write_text(sidecar, header + "\n")


def _taken(questions: SimilarQuestions, rows: np.ndarray) -> SimilarQuestions:
    """The questions of these rows."""
    relevant = questions.relevant.take(rows)
    users = Lists.of(questions.relevant.offsets, questions.users).take(rows).values
    return replace(
        questions,
        query=questions.query[rows],
        relevant=relevant,
        users=users,
        options=questions.options[rows],
        shares=None if questions.shares is None else questions.shares[:, rows],
    )


def with_users(questions: SimilarQuestions, log: ClickLog) -> SimilarQuestions:
    """The same questions, and which users they come from."""
    periods = Periods(**questions.header["periods"])
    pairs = pairs_of(log).between(*periods.bounds(questions.split))
    return replace(questions, shares=user_shares(pairs, questions.query))


def load_or_freeze(
    folder: WorkspaceFolder, catalogue: Catalogue, visit_minutes: float | None = None
) -> tuple[dict[str, SimilarQuestions], list[str]]:
    """The validation and test questions of a workspace, drawn where there are none, and sentences about what was done.

    Raises
    ------
    QuestionsError
        When a file is damaged or was changed, or questions of another ``visit_minutes`` are frozen.
    CatalogueError
        When there are none, and the interactions are too few or have no times.
    """
    place = folder.questions / "similar"
    if not any((place / f"{split}.json").is_file() for split in SPLITS):
        made = freeze(catalogue, read_clicks(folder, catalogue, visit_minutes or VISIT_MINUTES), visit_minutes)
        for questions in made.values():
            questions.save(place, catalogue)
        counts = " and ".join(f"{len(questions):,} {split}" for split, questions in made.items())
        return made, [f"questions about similar items: {counts}, frozen now in {place}"]
    found, notes = {}, []
    for split in SPLITS:
        found[split], lost = load(place, split, catalogue)
        if lost:
            notes.append(
                f"{lost:,} of {lost + len(found[split]):,} {split} questions name items that are gone; they are left out."
            )
        asked = found[split].header["visit_minutes"]
        if visit_minutes is not None and visit_minutes != asked:
            raise QuestionsError(
                f"The questions in {place} were drawn with a window of {asked:g} minutes, not {visit_minutes:g}, and "
                "results may refer to them.",
                hint=f"leave --window out, or rename {place}",
            )
    return found, notes


def freeze(
    catalogue: Catalogue, log: ClickLog, visit_minutes: float | None = None, seed: int = SEED
) -> dict[str, SimilarQuestions]:
    """Draw the validation and test questions of a click log.

    Raises
    ------
    CatalogueError
        When the clicks are too few, or at too few different times.
    """
    periods, pairs = Periods.of(log), pairs_of(log)
    made = {}
    for split in SPLITS:
        start, end = periods.bounds(split)
        first, then, users = pairs.between(start, end).counted(len(catalogue))
        items, relevant = grouped(first, then)
        rows = np.arange(min(len(items), MAX_QUESTIONS))
        clicks = np.bincount(log.item[log.visit_end < (start or 0)], minlength=len(catalogue))
        counts = Lists.of(relevant.offsets, users.astype(np.int32)).take(rows).values
        relevant = relevant.take(rows)
        options = draw_options(
            items[rows], relevant, counts, clicks, np.random.default_rng([seed, SPLITS.index(split)])
        )
        header = {
            "name": f"similar-{split}",
            "split": split,
            "seed": seed,
            "visit_minutes": visit_minutes or VISIT_MINUTES,
            "reach": REACH,
            "periods": {"valid": periods.valid, "test": periods.test},
            "of": len(items),
        }
        made[split] = _assembled(catalogue, items[rows], relevant, counts, options, header)
    if not all(map(len, made.values())):
        raise CatalogueError(
            "No click of the last visits is followed by another one.", hint="import more interactions, with their times"
        )
    return made


def _assembled(
    catalogue: Catalogue,
    query: np.ndarray,
    relevant: Lists,
    users: np.ndarray,
    options: np.ndarray,
    header: dict[str, Any],
) -> SimilarQuestions:
    columns = _id_columns(catalogue, query, relevant, users, options)
    sha256 = _digest(columns)
    size = {"n_questions": len(query), "n_options": int(options.shape[1]), "n_pairs": len(users)}
    header = {"format_version": FORMAT_VERSION, **header, **size, "sha256": sha256}
    query, users, options = (np.asarray(each, np.int32) for each in (query, users, options))
    return SimilarQuestions(header["split"], query, relevant, users, options, sha256, header)


def draw_options(
    query: np.ndarray, relevant: Lists, users: np.ndarray, clicks: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The options of questions, int64 [q, n], ascending: relevant items, and wrong ones that rank near one of them by clicks.

    ``users`` int [total] belongs to ``relevant``; ``clicks`` int [I] says how popular every item is.
    """
    n_items = len(clicks)
    n = min(OPTIONS, max(LEAST_OPTIONS, n_items // 10), n_items - 1)  # more would not be as popular
    ranked = np.lexsort((np.arange(n_items), clicks))  # by popularity
    rank = np.empty(n_items, np.int64)
    rank[ranked] = np.arange(n_items)
    rows = []
    for item, low, high in zip(query.tolist(), relevant.offsets[:-1], relevant.offsets[1:], strict=True):
        right = relevant.values[low:high].astype(np.int64)
        shown = right[np.lexsort((right, -users[low:high]))][: min(MAX_RELEVANT_OPTIONS, n)]
        wrong = _as_popular(rank[shown], ranked, np.append(right, item), n - len(shown), rng)
        spare = np.setdiff1d(right, shown)[: n - len(shown) - len(wrong)]  # where the catalogue has no other items
        rows.append(np.sort(np.concatenate([shown, wrong, spare])))
    return np.stack(rows) if rows else np.zeros((0, n), np.int64)


def _as_popular(
    near: np.ndarray, ranked: np.ndarray, excluded: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """``count`` different items whose ranks by popularity are near those of ``near``, in turn; fewer where there are no more."""
    n_items = len(ranked)
    width = max(10, n_items // 50)
    found = np.zeros(0, np.int64)
    while len(found) < count:
        if width >= n_items:
            rest = np.setdiff1d(np.arange(n_items), np.concatenate([excluded, found]))
            return np.concatenate([found, rng.permutation(rest)[: count - len(found)]])
        around = np.resize(near, 3 * count)
        drawn = around + rng.integers(-width, width + 1, len(around))
        drawn = ranked[drawn[(drawn >= 0) & (drawn < n_items)]]
        drawn = np.concatenate([found, drawn[~np.isin(drawn, excluded)]])
        found = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:count]
        width *= 2
    return found


def _id_columns(
    catalogue: Catalogue, query: np.ndarray, relevant: Lists, users: np.ndarray, options: np.ndarray
) -> list[pa.Array]:
    """The columns of a file, with ids in place of indices."""

    def ids(items: np.ndarray) -> pa.Array:
        return catalogue.item_ids.take(items).arrow

    starts = pa.array(relevant.offsets)
    wide = pa.array(np.arange(len(query) + 1, dtype=np.int64) * options.shape[1])
    return [
        ids(query),
        pa.LargeListArray.from_arrays(starts, ids(relevant.values)),
        pa.LargeListArray.from_arrays(starts, pa.array(users, pa.int32())),
        pa.LargeListArray.from_arrays(wide, ids(options.reshape(-1))),
    ]


def _digest(columns: list[pa.Array]) -> str:
    digest = hashlib.sha256()
    for line in _lines(columns):
        digest.update(line.encode())
    return digest.hexdigest()


def _lines(columns: list[pa.Array]) -> Iterator[str]:
    for row in zip(*(column.to_pylist() for column in columns), strict=True):
        named = dict(zip(SCHEMA.names, row, strict=True))
        yield json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def load(folder: Path, split: str, catalogue: Catalogue) -> tuple[SimilarQuestions, int]:
    """The questions of a file that fit the catalogue, and how many do not because items of theirs are gone.

    Raises
    ------
    QuestionsError
        When the file is missing, damaged, was changed since it was frozen, or no question of it is left.
    """
    path = folder / f"{split}.parquet"
    hint = f"restore it from a copy, or delete {folder}: the questions are then drawn again"
    try:
        header = json.loads((folder / f"{split}.json").read_text("utf-8"))
        table = pq.read_table(path).cast(SCHEMA).combine_chunks()
        columns = [table[name].combine_chunks() for name in SCHEMA.names]
        columns = [each.chunk(0) if isinstance(each, pa.ChunkedArray) else each for each in columns]
        sha256 = _digest(columns)
        fits = header["format_version"] == FORMAT_VERSION and header["split"] == split and header["periods"][split]
        frozen = header["sha256"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException, RecursionError) as error:
        raise QuestionsError(f"{path} is missing or damaged ({first_line(error)}).", hint=hint) from error
    if not fits or sha256 != frozen:
        raise QuestionsError(f"{path} was changed after it was frozen.", hint=hint)
    places = [catalogue.positions(Strings(_flat(each))) for each in (columns[0], columns[1], columns[3])]
    relevant = Lists.of(np.asarray(columns[1].offsets), places[1].astype(np.int32))
    options = places[2].reshape(len(table), -1)
    whole = SimilarQuestions(
        split, places[0].astype(np.int32), relevant, np.asarray(_flat(columns[2])), options, sha256, header
    )
    gone = np.bincount(relevant.rows[relevant.values < 0], minlength=len(table)) > 0
    kept = np.flatnonzero((places[0] >= 0) & (options >= 0).all(1) & ~gone)
    if not len(kept):
        raise QuestionsError(f"No question of {path} is about items of this catalogue.", hint=hint)
    return _taken(whole, kept), len(table) - len(kept)


def _flat(column: pa.Array) -> pa.Array:
    return column.values if pa.types.is_large_list(column.type) else column
