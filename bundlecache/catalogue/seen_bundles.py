"""Which bundles a model was trained on or selected with, so that no later question about them counts as unseen.

Splits can change after a model was trained (another import, another split column). A run therefore keeps hashes of
its bundles, of their groups and of their sets of items in its own folder; `SeenBundles.of_questions` compares
questions with them. Hashes depend on ids alone, not on the order of rows or on other items of the catalogue.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import json_text
from ..errors import CheckpointError, Command
from ..files import replacing
from ..sorted_arrays import sorted_distinct
from . import splits
from .columns import Lists, Strings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .catalogue import Catalogue

FILE_NAME = "seen_bundles.parquet"  # in the folder of a run
FORMAT_VERSION = b"1"
SCHEMA = pa.schema({"use": pa.string(), "kind": pa.string(), "hash": pa.uint64()})
USES = ("trained", "selected", "graph")
KINDS = ("bundle", "group", "items")
BLOCK_BUNDLES = 16_384  # bundles whose ids are Python texts at once


class QuestionsLike(Protocol):
    """The part of `bundlecache.questions.question_file.Questions` that is needed here."""

    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def bundle_ids(self) -> list[str]: ...  # noqa: D102
    @property
    def partial(self) -> list[np.ndarray]: ...  # noqa: D102
    @property
    def options(self) -> np.ndarray: ...  # noqa: D102
    @property
    def truth(self) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class BundleKeys:
    """uint64 hashes of bundles: of their ids, of their groups and of their sets of items; in any order, sorted when kept."""

    bundle: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    group: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    items: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def match(self, other: BundleKeys) -> np.ndarray:
        """Bool [len(other)], whether a bundle of ``other`` has its id, group or set of items among these."""
        return np.any([np.isin(getattr(other, kind), getattr(self, kind)) for kind in KINDS], axis=0)


def bundle_keys(catalogue: Catalogue, indices: Iterable[int] | None = None) -> BundleKeys:
    """The hashes of these bundles (all when ``indices`` is None), in their order."""
    bundles = catalogue.bundles
    chosen = np.arange(len(bundles)) if indices is None else np.array([*indices], np.int64)
    return BundleKeys(
        bundle=_hashes("bundle", bundles.ids.take(chosen)),
        group=_hashes("group", bundles.group.take(chosen)),
        items=_hashes("items", _item_sets(catalogue, bundles.items.take(chosen))),
    )


def split_digest(catalogue: Catalogue) -> str:
    """SHA-256 (hex) of the split of every bundle: two catalogues with the same digest train on the same bundle ids."""
    order = np.asarray(pc.array_sort_indices(catalogue.bundles.ids.arrow))
    parts = pa.array(splits.assign(catalogue)[order], pa.large_string())
    lines = json_text.joined(catalogue.bundles.ids.take(order).arrow, "\0", parts, "\n")
    return hashlib.sha256(json_text.content(lines)).hexdigest()


@dataclass(frozen=True)
class SeenBundles:
    """What a model has seen: the bundles it was ``trained`` on, those it was ``selected`` with (validation).

    ``graph`` holds the groups of the users whose interactions are edges of the training graph.
    """

    trained: BundleKeys
    selected: BundleKeys
    graph: BundleKeys = field(default_factory=BundleKeys)

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        trained: Sequence[int] | np.ndarray | None = None,
        selected: Sequence[int] | np.ndarray | None = None,
    ) -> SeenBundles:
        """What a training on ``catalogue`` sees; indices of bundles, by default the splits train and valid."""
        split = splits.assign(catalogue)
        edges = splits.visible_edges(catalogue, split, ("train",))
        users = sorted_distinct(catalogue.interactions.user[edges])
        visible = catalogue.interactions.group.take(users).codes()[1]
        return cls(
            trained=bundle_keys(catalogue, np.flatnonzero(split == "train") if trained is None else trained),
            selected=bundle_keys(catalogue, np.flatnonzero(split == "valid") if selected is None else selected),
            graph=BundleKeys(group=_hashes("group", sorted(visible))),
        )

    def of_questions(self, questions: QuestionsLike, catalogue: Catalogue, *, graph: bool = False) -> np.ndarray:
        """Bool [q], whether the model has seen a question's bundle, its group or exactly its items.

        Bundles of training count for every question, those of validation for questions of the test split alone.

        Parameters
        ----------
        graph
            Whether the model used vectors of a graph: then the groups whose interactions are edges of it count too.
        """
        asked = self._keys_of(questions, catalogue)
        seen = self.trained.match(asked)
        if questions.split == "test":
            seen |= self.selected.match(asked)
        if graph:
            seen |= self.graph.match(asked)
        # An imported question may hold other items than the bundle that it names.
        truth = questions.options[np.arange(len(questions.truth)), questions.truth]
        whole = [np.append(partial, right) for partial, right in zip(questions.partial, truth, strict=True)]
        own = _hashes("items", _item_sets(catalogue, Lists(whole)))
        seen |= np.isin(own, self.trained.items)
        return seen | np.isin(own, self.selected.items) if questions.split == "test" else seen

    def joined(self, other: SeenBundles) -> SeenBundles:
        """What either of two models has seen."""
        uses = {
            use: BundleKeys(
                **{
                    kind: np.union1d(getattr(getattr(self, use), kind), getattr(getattr(other, use), kind))
                    for kind in KINDS
                }
            )
            for use in USES
        }
        return SeenBundles(**uses)

    def save(self, folder: Path) -> Path:
        """Write `FILE_NAME` into the folder of a run; gives the path."""
        rows = [(use, kind, np.unique(getattr(getattr(self, use), kind))) for use in USES for kind in KINDS]
        columns = {
            "use": np.repeat([use for use, _, _ in rows], [len(hashes) for *_, hashes in rows]),
            "kind": np.repeat([kind for _, kind, _ in rows], [len(hashes) for *_, hashes in rows]),
            "hash": np.concatenate([hashes for *_, hashes in rows]),
        }
        table = pa.table(columns, schema=SCHEMA).replace_schema_metadata({"format_version": FORMAT_VERSION})
        with replacing(folder / FILE_NAME) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return folder / FILE_NAME

    @classmethod
    def load(cls, folder: Path) -> SeenBundles | None:
        """What `save` wrote; None for a run that was trained before such files were written.

        Raises
        ------
        CheckpointError
            When the file is damaged.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        try:
            table = pq.read_table(path, schema=SCHEMA)
            hashes = table.column("hash").to_numpy()
            chosen = {
                (name, value): np.asarray(pc.equal(table.column(name), value))
                for name, values in (("use", USES), ("kind", KINDS))
                for value in values
            }
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} is damaged: nobody can say which bundles this run was trained on.", hint=Command("train")
            ) from error
        return cls(
            **{
                use: BundleKeys(**{kind: hashes[chosen["use", use] & chosen["kind", kind]] for kind in KINDS})
                for use in USES
            }
        )

    @staticmethod
    def _keys_of(questions: QuestionsLike, catalogue: Catalogue) -> BundleKeys:
        bundles, names = catalogue.bundles, pa.array(questions.bundle_ids, pa.large_string())
        found = pc.index_in(names, value_set=bundles.ids.arrow)
        known = np.asarray(pc.is_valid(found))
        numbers = np.asarray(found.drop_null()).astype(np.int64)
        groups = pc.replace_with_mask(names, known, bundles.group.take(numbers).arrow)
        sets = np.full(len(names), "", object)
        sets[known] = [*_item_sets(catalogue, bundles.items.take(numbers))]
        return BundleKeys(_hashes("bundle", Strings(names)), _hashes("group", Strings(groups)), _hashes("items", sets))


def _item_sets(catalogue: Catalogue, lists: Lists) -> Iterator[str]:
    """The ids of each list in ascending order, as one text."""
    for start in range(0, len(lists), BLOCK_BUNDLES):
        block = lists[start : start + BLOCK_BUNDLES]
        ids, ends = catalogue.item_ids.take(block.values).arrow.to_pylist(), block.offsets.tolist()
        for first, last in itertools.pairwise(ends):
            yield "\0".join(sorted(ids[first:last]))


def _hashes(kind: str, texts: Iterable[str]) -> np.ndarray:
    """uint64 [texts]: eight bytes of a cryptographic hash, so that collisions stay out of sight below 10^9 texts."""
    digests = (hashlib.blake2b(f"{kind}\0{text}".encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
