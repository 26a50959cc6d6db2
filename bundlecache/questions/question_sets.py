"""The question sets of a workspace: the default ones, freezing missing ones, import and export."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..catalogue import splits
from ..errors import Command, QuestionsError
from . import importing
from .checks import MALFORMED, counts, faults, in_words
from .freeze import freeze, name_of
from .question_file import Questions, build, bundle_ids, missing, names_in, read, restore_hint

if TYPE_CHECKING:
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix, Store
    from ..workspace import WorkspaceFolder
    from .question_rows import QuestionRows

NEGATIVES = ("random", "hard")
"""The kinds of wrong options of the default sets."""
SETS = ("valid", "test")
"""The splits that are asked about."""
OPTIONS = 10
"""The number of options of the default sets."""
VERSION = re.compile(r"-v\d+$")
"""The end of the name of a set that was derived from another one."""


class Bar(Protocol):
    """What shows progress, such as `console.reporter.ProgressBar`."""

    def step(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""


@dataclass(frozen=True)
class QuestionSetInfo:
    """One set: ``made`` is "now" or "before"; ``left_out`` counts the questions of an imported file that were wrong, by kind in words."""

    name: str
    questions: int
    options: int
    sha256: str
    made: str | None = None
    left_out: int | None = None
    left_out_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ExportedSet:
    """One set that was written as JSON Lines."""

    file: str
    questions: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(vars(self))


def path(folder: WorkspaceFolder, name: str) -> Path:
    """The file of the question set ``name``, for instance ``questions/test-random10.parquet``."""
    return folder.questions / f"{name}.parquet"


def names(folder: WorkspaceFolder) -> list[str]:
    """Names of the complete question sets of a workspace."""
    return names_in(folder.questions)


def load(
    folder: WorkspaceFolder, catalogue: Catalogue, name: str, *, say: Callable[[str], None] | None = None
) -> Questions:
    """The question set ``name``; if some of its questions no longer fit the catalogue, a new set without them.

    Items and bundles are deleted, and splits change. The file of the set stays as it is; the questions that still fit,
    unchanged and in their order, are a set of their own, ``NAME-v2``, with its own SHA-256, which is written when it is
    first needed. ``say`` is told so in one sentence.

    Raises
    ------
    QuestionsError
        When there is no such set, its file is damaged or was changed, or none of its questions fits the catalogue.
    """
    if name not in names(folder):
        raise missing(folder.questions, name)
    file = path(folder, name)
    rows, header = read(file)
    located = rows.locate(catalogue)
    found = faults(rows, located, header["split"], catalogue, imported="source" in header)
    kept = np.flatnonzero([fault is None for fault in found])
    if len(kept) == len(rows) or any(fault and fault.kind == MALFORMED for fault in found):
        return build(rows, located, header, catalogue, str(file), restore_hint(file), found)
    left_out = in_words(counts(found))
    if not len(kept):
        first = next(fault.clause for fault in found if fault)
        raise QuestionsError(
            f"None of the {len(rows):,} questions of {name} fits this catalogue ({left_out}): {first}.",
            hint=[Command("questions", "--seed", int(header["seed"]) + 1), "freezes others beside them"],
        )
    reduced = _reduced(folder, catalogue, name, header, rows.take(kept), counts(found))
    if say is not None:
        say(
            f"{len(rows) - len(kept):,} of the {len(rows):,} questions of {name} no longer fit the catalogue ({left_out}); "
            f"the other {len(kept):,} are the set {reduced.name} (SHA-256 {reduced.sha256[:12]})."
        )
    return reduced


def misplaced(folder: WorkspaceFolder, catalogue: Catalogue, name: str) -> tuple[int, int, dict[str, Any]]:
    """How many questions of a set are about bundles that the catalogue lacks or has in another split; of how many; its header.

    Raises
    ------
    QuestionsError
        When the file is missing or damaged.
    """
    asked, header = bundle_ids(path(folder, name))
    at = pc.index_in(asked.cast(pa.large_string()), value_set=catalogue.bundles.ids.arrow).drop_null()
    there = int((splits.assign(catalogue)[np.asarray(at)] == header["split"]).sum())
    return len(asked) - there, len(asked), header


def load_all(
    folder: WorkspaceFolder, catalogue: Catalogue, wanted: Sequence[str], *, say: Callable[[str], None] | None = None
) -> list[Questions]:
    """These sets as `load` returns them, without duplicates: a set and its reduced form count once."""
    loaded = [load(folder, catalogue, name, say=say) for name in wanted]
    return list({asked.name: asked for asked in loaded}.values())


def _reduced(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    name: str,
    header: Mapping[str, Any],
    kept: QuestionRows,
    left_out: Mapping[str, int],
) -> Questions:
    """The set of the questions ``kept`` of the set ``name``, from its file or new."""
    base, sha256 = VERSION.sub("", name), kept.sha256
    for number in itertools.count(2):
        file = path(folder, f"{base}-v{number}")
        if not file.is_file():
            break
        try:
            rows, existing = read(file)
        except QuestionsError:  # damaged or incompletely written: it is kept as it is
            continue
        if existing["sha256"] == sha256:
            return build(rows, rows.locate(catalogue), existing, catalogue, str(file), restore_hint(file))
    about = {
        **header,
        "name": file.stem,
        "derived_from": {"name": name, "sha256": header["sha256"]},
        "left_out": sum(left_out.values()),
        "left_out_by": dict(left_out),
    }
    reduced = build(kept, kept.locate(catalogue), about, catalogue, str(file), restore_hint(file))
    reduced.save(file, catalogue)
    return reduced


def default_names(folder: WorkspaceFolder, split: str) -> list[str]:
    """The sets of a split that are used when none is named: those with ten options, otherwise all."""
    usual = usual_names(split, OPTIONS)
    made = [name for name in names(folder) if name.startswith(f"{split}-")]
    if not made or set(usual) & set(made):
        return usual
    return sorted(made, key=lambda name: "random" not in name)


def usual_names(split: str, options: int, kinds: Sequence[str] = NEGATIVES) -> list[str]:
    """The names of the sets of a split with this number of options, one per kind of wrong options."""
    return [name_of(split, kind, options) for kind in kinds]


def freeze_missing(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    store: Store,
    *,
    options: int = OPTIONS,
    seed: int = 0,
    kinds: Sequence[str] = NEGATIVES,
    difficulty: float = 1.0,
    matrices: Callable[[], Mapping[str, Matrix]] = dict,
    say: Callable[[str], None] | None = None,
    bar: Callable[[], AbstractContextManager[Bar]] | None = None,
) -> list[QuestionSetInfo]:
    """Freeze the validation and test sets that are missing; existing sets are not changed.

    ``matrices`` gives the stored vectors by modality; it is called for ``nearest:MODALITY`` only. ``bar`` opens
    what shows how many questions are drawn, of how many in all missing sets.

    Raises
    ------
    QuestionsError
        When the catalogue has too few items or bundles, or a kind of wrong options is unknown.
    """
    if difficulty != 1 and not set(kinds) - set(NEGATIVES):
        raise QuestionsError(
            f"--difficulty {difficulty:g} changes none of the negatives {' and '.join(kinds)}.",
            hint="--negatives same-category, or another kind that has a difficulty",
        )
    vectors: np.ndarray | None = None
    if not catalogue.column("category").any():  # then hard options are near items
        content = [name for name in store.modalities() if name != "graph"] or store.modalities()
        vectors = store.matrix(catalogue.item_ids, content[0]).vectors if content else None
    near = matrices() if any("nearest:" in kind for kind in kinds) else {}
    splits.keep(folder, catalogue)
    there, rows = set(names(folder)), []
    wanted = [(split, kind, name_of(split, kind, options, seed, difficulty)) for split in SETS for kind in kinds]
    missing_bundles = sum(
        int((splits.assign(catalogue) == split).sum()) for split, _, name in wanted if name not in there
    )
    done = 0
    with bar() if bar else nullcontext() as shown:
        for split, kind, name in wanted:
            made = name not in there
            if made:
                frozen = freeze(
                    catalogue,
                    split=split,
                    n_options=options,
                    negatives=kind,
                    seed=seed,
                    vectors=vectors,
                    difficulty=difficulty,
                    matrices=near,
                    progress=None if shown is None else _after(done, missing_bundles, shown.step),
                )
                frozen.save(path(folder, name), catalogue)
                there.add(name)
                done += len(frozen)
            else:
                frozen = load(folder, catalogue, name, say=say)
            size = len(frozen), frozen.n_options, frozen.sha256[:16]
            rows.append(QuestionSetInfo(frozen.name, *size, made="now" if made else "before"))
    return rows


def _after(before: int, total: int, step: Callable[[int, int], None]) -> Callable[[int], None]:
    """Progress of one set, where ``before`` questions of other sets are drawn and ``total`` are to be drawn in all."""
    return lambda done: step(before + done, total)


def take_over(
    folder: WorkspaceFolder, catalogue: Catalogue, file: Path, *, skip_broken: bool = False
) -> list[QuestionSetInfo]:
    """Store the sets of a file that others froze; importing it again is allowed, other content under the same name is not.

    Raises
    ------
    QuestionsError
        When the file or one of its questions does not fit the catalogue; ``skip_broken`` leaves such questions out.
    """
    rows = []
    splits.keep(folder, catalogue)
    for asked in importing.read(file, catalogue, skip_broken=skip_broken):
        asked.save(path(folder, asked.name), catalogue)
        rows.append(
            QuestionSetInfo(
                asked.name,
                len(asked),
                asked.n_options,
                asked.sha256[:16],
                left_out=asked.header["left_out"],
                left_out_by=in_words(asked.header["left_out_by"]) or None,
            )
        )
    return rows


def export(
    folder: WorkspaceFolder, catalogue: Catalogue, out: Path, *, say: Callable[[str], None] | None = None
) -> list[ExportedSet]:
    """Write all sets as JSON Lines into ``out``."""
    rows = []
    for asked in load_all(folder, catalogue, names(folder), say=say):
        file = out / f"{asked.name}.jsonl"
        asked.export_jsonl(file, catalogue)
        rows.append(ExportedSet(str(file), len(asked), asked.sha256))
    return rows
