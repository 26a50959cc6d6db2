"""Measure similar items: frozen questions from the click log, and all methods on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import QuestionsError
from ..questions.sample import MAX_QUESTIONS
from ..rows import Result, Rows
from .candidate_search import searched

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..bench.similar_items import SimilarMethod, SimilarResult
    from ..questions.similar_questions import SimilarQuestions
    from ..store.store import Matrix
    from .session import Session


@dataclass(frozen=True, repr=False)
class SimilarBench(Result):
    """The figures of all methods, and the file that holds them."""

    path: Path
    result: SimilarResult

    def _frame(self) -> Any:
        """A row per method; its figures are columns by variant."""
        return Rows(self.result.rows).to_dicts()


def similar_questions(session: Session, split: str = "test", *, visit_minutes: float | None = None) -> SimilarQuestions:
    """The frozen questions about similar items of ``valid`` or ``test``; drawn from the click log where there are none.

    Parameters
    ----------
    visit_minutes
        Two clicks of a user belong to one visit when no more minutes lie between them and those in between; 30 if left out.

    Raises
    ------
    BundlecacheError
        When the interactions are missing, too few or without times, or the frozen questions do not fit.
    """
    from ..questions.similar_questions import SPLITS, load_or_freeze

    if split not in SPLITS:
        raise QuestionsError(f"There are no {split!r} questions about similar items, only valid and test ones.")
    made, notes = load_or_freeze(session.folder, session.catalogue, visit_minutes)
    for note in notes:
        session.say.note(note)
    return made[split]


def bench_similar(
    session: Session,
    *,
    split: str = "test",
    runs: Sequence[str] = (),
    models: bool = True,
    visit_minutes: float | None = None,
    sample: int = MAX_QUESTIONS,
    device: str = "auto",
    out: Path | None = None,
) -> SimilarBench:
    """Score random, popularity, co-clicks, every stored encoder and the fused vectors of runs on similar items.

    Parameters
    ----------
    split
        ``test``, or ``valid``: the questions that choices are made on.
    runs, models
        Names of runs (all if left out); ``models=False`` leaves them out.
    visit_minutes
        See :func:`similar_questions`.
    sample
        How many questions are asked at most, always the same ones; 0 asks all.
    out
        Folder of the results; ``bench/`` of the workspace if left out.

    Raises
    ------
    BundlecacheError
        When there are no questions and none can be drawn, or a run is missing.
    """
    from ..baselines import similar as methods
    from ..bench import similar_items
    from ..catalogue.click_log import read_clicks
    from ..catalogue.splits import training_graph
    from ..questions.similar_pairs import share_of_visits
    from ..questions.similar_questions import with_users

    asked = similar_questions(session, split, visit_minutes=visit_minutes).first(sample)
    count = len(session.catalogue)
    log = read_clicks(session.folder, session.catalogue, asked.header["visit_minutes"])
    asked = with_users(asked, log)
    seen = (log, asked.starts_at, count)
    field = [
        similar_items.SimilarMethod("random", "baseline", methods.by_chance(count)),
        similar_items.SimilarMethod("popularity", "baseline", methods.by_popularity(*seen)),
        similar_items.SimilarMethod("co-click kNN", "baseline", methods.by_visits(*seen)),
        similar_items.SimilarMethod("item-kNN of users", "baseline", methods.by_users(*seen)),
    ]
    edges = training_graph(session.catalogue, "bundle-item")
    marked = share_of_visits(log, asked.starts_at, edges, count) >= similar_items.REPEATED
    field += [
        _method(spec, "encoder", matrix, _is_of_clicks(matrix.modality, matrix.spec, marked))
        for spec, matrix in session.every_matrix().items()
    ]
    for name in (list(runs) or sorted(session.folder.run_names())) if models else ():
        ((_, fused),) = searched(session, (), (), name, device, verb="bench").items()
        learns_clicks = marked or _fuses_clicks(session, name)
        field.append(_method(f"fused of {fused.spec.removeprefix('run:')}", "run", fused, learns_clicks))
    with session.say.bar("similar") as bar:
        result = similar_items.run(asked, field, count, bar.step)
    return SimilarBench(similar_items.save(out or session.folder.root / "bench", result), result)


def _method(name: str, kind: str, matrix: Matrix, learns_clicks: bool) -> SimilarMethod:
    from ..baselines.similar import by_cosine
    from ..bench.similar_items import LEARNT_LATER, SimilarMethod

    vectors: Any = matrix.vectors
    size = vectors.shape[1] * vectors.dtype.itemsize
    return SimilarMethod(name, kind, by_cosine(matrix), vectors.shape[1], size, LEARNT_LATER if learns_clicks else "")


def _is_of_clicks(modality: str, spec: str, marked: bool) -> bool:
    """Whether vectors are learnt from who clicked what; those of bundles are where bundles are visits (``marked``)."""
    return modality == "graph" and (marked or "bundle-item" not in spec)


def _fuses_clicks(session: Session, run: str) -> bool:
    """Whether a run fuses vectors of who clicked what."""
    from .run import Run

    encoders = Run(session, run).manifest.get("encoders", [])
    return any(_is_of_clicks(each["modality"], each["spec"], marked=False) for each in encoders)
