"""Compare methods: all rankers and trained runs on the same questions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..questions.sample import MAX_QUESTIONS
from ..questions.sample import sample as sampled
from ..rows import Result
from .evaluation import Evaluation
from .graph_check import warn_of_other_edges
from .run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..baselines.learned import Reranked
    from ..baselines.rankers import ModelRanker
    from ..baselines.sources import Sources
    from ..bench.benchmark import ModelAnswers
    from ..bench.full_catalogue import FirstFew
    from ..bench.full_results import FullCatalogueResult
    from ..bench.held_out_items import HeldOut
    from ..bench.proposals import Proposals
    from ..bench.results import QuestionSetResult
    from ..questions.question_file import Questions
    from ..train.run import LoadedRun
    from .session import Session


@dataclass(frozen=True, repr=False)
class BenchResult(Result):
    """Results per family of question sets, and the page that shows them."""

    path: Path
    results: list[QuestionSetResult]

    def _frame(self) -> Any:
        """A row per method and question set, as `Evaluation`."""
        return Evaluation(self.results).to_dicts()


@dataclass(frozen=True, repr=False)
class FullBenchResult(Result):
    """All methods among the whole catalogue, and the page that shows them."""

    path: Path
    result: FullCatalogueResult

    def _frame(self) -> Any:
        """A row per method."""
        return [row.to_dict() for row in self.result.methods]


def bench(
    session: Session,
    questions: Sequence[str] = (),
    *,
    runs: Sequence[str] = (),
    models: bool = True,
    history: int = 0,
    permutations: int = 1,
    at_once: int | None = None,
    batch_size: int = 32,
    sample: int = MAX_QUESTIONS,
    device: str = "auto",
    out: Path | None = None,
) -> BenchResult:
    """Score all methods on all question sets: one table, leakage probes, and findings in words.

    Parameters
    ----------
    questions, runs, models
        Names of question sets (all test sets if left out) and of runs (all); ``models=False`` scores baselines alone.
    history
        Ask again with so many latest items of the bundle's user in the query.
    permutations, at_once, batch_size, device
        How models are asked, see `Run.evaluate`.
    sample
        How many questions of a set are asked at most, always the same ones (`questions.sample`); 0 asks all.
    out
        Folder of the results; ``bench/`` of the workspace if left out.

    Raises
    ------
    BundlecacheError
        When questions or runs are missing or do not fit, or ``out`` cannot be written.
    """
    from ..bench import benchmark, leaderboard
    from ..bench.results import AskedHow
    from ..report import bench_pages

    folder, sets = _folder_and_sets(session, questions, out, sample)
    field = _Field(session, sets, runs if models else None, device, permutations, at_once, batch_size)
    setup = benchmark.BenchSetup.of(
        field.sources,
        list(field.models.values()),
        field.personal(history, field.strangers),
        how=AskedHow(permutations, at_once),
    )
    with session.say.bar("fit") as bar:
        setup.costs.fit_all(setup.rankers, field.sets[0], bar.step)
    with session.say.bar("bench") as bar:
        results = benchmark.run(
            setup, field.sets, field.answers, model=field.newest(), trained_on=field.trained_on, progress=bar.step
        )
    leaderboard.save(folder, results)
    return BenchResult(bench_pages.write_bench(folder, results), results)


def bench_full(
    session: Session,
    questions: Sequence[str] = (),
    *,
    runs: Sequence[str] = (),
    models: bool = True,
    history: int = 0,
    permutations: int = 1,
    at_once: int | None = None,
    batch_size: int = 32,
    sample: int = MAX_QUESTIONS,
    device: str = "auto",
    out: Path | None = None,
) -> FullBenchResult:
    """Rank every held-out item among the whole catalogue; the options are those of :func:`bench`."""
    from ..bench import full_catalogue, full_results
    from ..bench.fitting_costs import FittingCosts
    from ..bench.held_out_items import HeldOut
    from ..bench.slices import Slicer
    from ..report import bench_pages

    folder, sets = _folder_and_sets(session, questions, out, sample)
    field = _Field(session, sets, runs if models else None, device, permutations, at_once, batch_size)
    personal = field.personal(history, [])
    held = HeldOut.of(field.sets, session.catalogue, personal[0].histories if personal else None)
    few = [each for both in field.reranked for each in field.first_few(both)]
    if field.loaded and not few:
        session.say.note(
            "A language model reranks; without a learned ranker there is nothing to rerank, and it is left out."
        )
    rankers = [*field.rankers, *personal]
    costs = FittingCosts()
    with session.say.bar("fit") as bar:
        costs.fit_all(rankers, field.sets[0], bar.step)
    proposals = _proposals(session, field, held)
    recall = None
    if proposals is not None:
        with session.say.bar("check") as bar:
            recall = proposals.recall(rankers, held, bar.step)
    with session.say.bar("rank") as bar:
        ranked = full_catalogue.run(
            rankers,
            held,
            Slicer(session.catalogue),
            few,
            trained_on=sum(field.trained_on.values()),
            progress=bar.step,
            proposals=proposals,
            recall=recall,
            costs=costs,
        )
    full_results.save(folder, ranked)
    return FullBenchResult(bench_pages.write_full(folder, ranked), ranked)


def _proposals(session: Session, field: _Field, held: HeldOut) -> Proposals | None:
    """The items to rank where the catalogue is too large to be ranked whole; None where it is not."""
    from ..bench import proposals
    from ..candidates.index_file import open_index

    matrices = [matrix for matrix in field.sources.matrices.values() if matrix.mask.any()]
    if len(session.catalogue) <= proposals.MAX_RANKED_WHOLE or not matrices:
        return None
    with session.say.bar("index") as bar:
        index, _ = open_index(session.folder, session.catalogue, matrices, progress=bar.step)
    with session.say.bar("propose") as bar:
        return proposals.propose(index, field.sources, held, bar.step)


def _folder_and_sets(
    session: Session, questions: Sequence[str], out: Path | None, sample: int
) -> tuple[Path, list[Questions]]:
    """Where results go, tried before any model is read, and the questions to ask, frozen where there are none."""
    from ..files import make_folder

    names = list(questions) or session.all_test_sets()
    sets = session.question_sets(names)
    folder = out or session.folder.root / "bench"
    make_folder(folder)
    return folder, [sampled(asked, sample) for asked in sets]


class _Field:
    """Every method that takes part: baselines, loaded runs, and the runs on top of the learned ranker."""

    def __init__(
        self,
        session: Session,
        sets: list[Questions],
        runs: Sequence[str] | None,
        device: str,
        permutations: int,
        at_once: int | None,
        batch_size: int,
    ) -> None:
        from ..baselines import registry
        from ..bench.exclude_seen import validation_left_out
        from ..train import run as stage_b

        self.session = session
        names = [] if runs is None else list(runs) or sorted(session.folder.run_names())
        self.how = {"batch_size": batch_size, "permutations": permutations, "at_once": at_once}
        self.loaded: dict[str, LoadedRun] = {}
        for name in names:
            loaded = Run(session, name).load(device)
            shown = stage_b.MODEL if len(names) == 1 else f"{stage_b.MODEL} ({loaded.folder.name})"
            self.loaded[shown] = loaded
        self.sets, self.trained_on = list(sets), dict.fromkeys((asked.name for asked in sets), 0)
        if self.loaded:
            asked = stage_b.unseen_questions(self.loaded, sets, session.catalogue, session.say)
            self.sets = [kept for kept, _ in asked]
            self.trained_on = {kept.name: left_out for kept, left_out in asked}
        matrices = session.every_matrix()
        of_runs = [matrix for loaded in self.loaded.values() for matrix in loaded.matrices.values()]
        warn_of_other_edges(
            session,
            [*matrices.values(), *of_runs],
            "test figures are too high until they are learned again and runs are trained on them",
        )
        self.sources: Sources = session.sources(matrices)
        self.models: dict[str, ModelRanker] = {
            name: loaded.ranker(name, **loaded.how(self.how)) for name, loaded in self.loaded.items()
        }
        for model in self.models.values():
            if (left_out := validation_left_out(model, self.sources)) is not None:
                session.say.note(left_out)
        others = [name for name, loaded in self.loaded.items() if loaded.how(self.how) != self.how]
        if others and (permutations != 1 or at_once is not None):
            session.say.note(f"{', '.join(others)}: no letters, so orders and options at once change nothing")
        self.rankers = self.sources.rankers(*registry.all_makers())

    @property
    def reranked(self) -> list[Reranked]:
        """Every model on top of the learned ranker, where there is one."""
        from ..baselines.registry import reranked

        return [both for model in self.models.values() for both in reranked(model, self.sources)]

    def first_few(self, both: Reranked) -> list[FirstFew]:
        """A model that reranks what the learned ranker puts first: alone and with it, or adding to what it has as evidence."""
        from ..bench.full_catalogue import FirstFew

        name, loaded = both.model.name, self.loaded[both.model.name]
        if loaded.model.evidence is None:
            return [FirstFew(both.ranker, second, self.session.catalogue) for second in (both.model, both)]
        beyond = loaded.beyond_evidence(name, **loaded.how(self.how))
        return [FirstFew(both.ranker, beyond, self.session.catalogue, adds=True)]

    @property
    def strangers(self) -> list[ModelRanker]:
        """The models whose prompt tells no user's history."""
        return [self.models[name] for name, loaded in self.loaded.items() if loaded.model.histories is None]

    def newest(self) -> str | None:
        """The model that others are compared with: the newest run where it is among them."""
        if not self.loaded:
            return None
        latest = self.session.folder.run()
        return next((name for name, loaded in self.loaded.items() if loaded.folder == latest), list(self.loaded)[-1])

    def answers(self, asked: Questions) -> list[ModelAnswers]:
        """Every run's answers and those of its untrained base model, as `benchmark.run` takes them."""
        from ..train import run as stage_b

        return stage_b.answers_of_runs(self.loaded, asked, self.how)

    def personal(self, latest: int, models: Sequence[ModelRanker]) -> list[Any]:
        """Methods that look at the ``latest`` items of a bundle's user too; none where no question has such items."""
        from ..baselines.learned import unseen_validation
        from ..baselines.personal import PersonalRanker
        from ..baselines.registry import PERSONAL
        from ..questions.user_history import UserHistories

        if not latest:
            return []
        histories = UserHistories(self.session.catalogue, latest)
        if not any(len(history) for asked in self.sets for history in histories.of(asked)):
            self.session.say.note(
                "No bundle's user took anything outside held-out bundles: there is no history to look at."
            )
            return []
        sources = self.sources
        return [
            PersonalRanker(ranker, histories, partial(unseen_validation, ranker, sources))
            for ranker in (*sources.rankers(*PERSONAL), *models)
        ]
