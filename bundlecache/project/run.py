"""A trained run of a workspace: evaluate it, complete bundles with it, write its report or a plain model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command
from ..questions.sample import MAX_QUESTIONS
from ..questions.sample import sample as sampled
from ..rows import Result, Rows
from ..workspace import kind_of, read_manifest
from . import drawing, recommending
from .completion.complete_bundles import Bundle, complete_bundles
from .completion.complete_many import BLOCK_BUNDLES, ManyCompleter, histories
from .evaluation import Evaluation
from .graph_check import warn_of_other_edges
from .tasks import evaluate_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..baselines.rankers import Ranker
    from ..bench.task_bench import TaskResult
    from ..train.run import LoadedRun
    from ..train.training.loop import TrainResult
    from ..train.unimp.training import UnimpTrainResult
    from ..workspace import RunKind
    from .completion.complete_bundles import Ranking
    from .drawing import Drawn
    from .recommending import Explanation, Recommendation, Selection
    from .session import Session


@dataclass(frozen=True)
class Completion:
    """One item that may complete a bundle; ``probability`` is the model's, among the candidates it was asked about."""

    rank: int
    item_id: str
    title: str
    probability: float


@dataclass(frozen=True, repr=False)
class Page(Result):
    """A report that was written; ``findings`` are sentences (of a comparison of two runs)."""

    path: Path
    findings: tuple[str, ...] = ()


class Run:
    """A finished run. Its model is loaded when it is first needed, and kept.

    ``result`` is what the training gave, if this session trained it.
    """

    def __init__(
        self,
        session: Session,
        name: str | None = None,
        result: TrainResult | UnimpTrainResult | None = None,
        kind: RunKind | None = None,
    ) -> None:
        self._session = session
        self.path = session.folder.run(None if name == "latest" else name, kind)
        self.result = result
        self._loaded: dict[str, LoadedRun] = {}
        self._rankers: dict[tuple[Any, ...], tuple[str, Ranker]] = {}  # by how they were asked for

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    @property
    def name(self) -> str:
        """The name of its folder in runs/."""
        return self.path.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What it was trained from: recipe, encoders, questions, stages, versions."""
        return read_manifest(self.path)

    @property
    def kind(self) -> RunKind:
        """What it answers: "bundle" or "unimp"."""
        return kind_of(self.path)

    def load(self, device: str = "auto") -> LoadedRun:
        """The model and its vectors, for use with `bundlecache.train.inference.scoring`.

        Raises
        ------
        BundlecacheError
            When the run is of another kind, or damaged.
        """
        self._session.folder.run(self.name, "bundle")
        if device not in self._loaded:
            from ..train import run as stage_b

            session = self._session
            self._loaded[device] = stage_b.load(
                session.folder, self.path, session.catalogue, session.store, device, session.say
            )
        return self._loaded[device]

    def evaluate(
        self,
        questions: Sequence[str] = (),
        *,
        options: int | None = None,
        permutations: int = 1,
        at_once: int | None = None,
        batch_size: int = 32,
        sample: int = MAX_QUESTIONS,
        baselines: bool = True,
        ablation: bool = True,
        device: str = "auto",
    ) -> Evaluation:
        """Answer frozen questions, one forward pass each up to as many options as trained on, beside the baselines.

        Parameters
        ----------
        questions
            Names of question sets; the random and hard test questions by default.
        options
            Answer the test questions of so many options instead; they are frozen if there are none.
        permutations, at_once, batch_size
            In how many orders of its options a question is asked, about how many at once, how many questions a forward.
        sample
            How many questions of a set are asked at most, always the same ones (`questions.sample`); 0 asks all.
        baselines, ablation
            Score the simple methods on the same questions; score the model without each modality in turn.

        Raises
        ------
        BundlecacheError
            When questions are missing, or run and workspace do not fit together.
        """
        from ..files import make_folder
        from ..train import run as stage_b

        session = self._session
        sets = session.question_sets(list(questions) or session.default_test_sets(options))
        make_folder(self.path / "results")
        loaded = self.load(device)
        warn_of_other_edges(
            session,
            loaded.matrices.values(),
            "test figures are too high until they are learned again and a run is trained on them",
        )
        self._rankers.clear()  # the best method on validation may be another one afterwards
        results = stage_b.evaluate(
            loaded,
            [sampled(asked, sample) for asked in sets],
            session.sources(loaded.matrices),
            session.say,
            how={"batch_size": batch_size, "permutations": permutations, "at_once": at_once},
            baselines=baselines,
            ablation=ablation,
        )
        return Evaluation(results)

    def complete(
        self,
        items: Sequence[str],
        k: int = 5,
        *,
        options: int | None = None,
        user: str | None = None,
        method: str | None = None,
        where: Sequence[str] = (),
        exclude: Sequence[str] = (),
        permutations: int = 1,
        at_once: int | None = None,
        device: str = "auto",
    ) -> Rows[Completion]:
        """The k items that complete a partial bundle best: FAISS proposes candidates, the model chooses among them.

        Parameters
        ----------
        items
            Ids of the items in the bundle.
        options
            How many candidates the model chooses among; by default as many as it was trained on.
        user
            Whose history the prompt tells, for a run trained with ``prompt.history``; the model alone ranks then.
        method
            "model", "learned-ranker" or "both" ranks the candidates; the best one on validation questions if left out,
            as the last evaluation found it, else the model.
        where, exclude
            Conditions that a completion fulfils, such as ``"price<50"``; ids that are never offered.

        Raises
        ------
        BundlecacheError
            When an id is unknown, none of the items has a vector, or no item is left to offer.
        """
        from ..bench import method_selection
        from ..candidates import search

        session = self._session
        catalogue = session.catalogue
        partial = catalogue.indices(list(dict.fromkeys(items)))  # a bundle holds an item once
        loaded = self.load(device)
        model = loaded.model
        searched = loaded.matrices or session.matrices()  # a model of titles alone fuses no vectors
        allowed = None
        if where or exclude:
            allowed = search.allowed_items(catalogue, where, exclude)
            session.say.note(f"{int(allowed.sum()):,} of {len(catalogue):,} items may be offered")
        proposed = search.complete(catalogue, searched, partial, options or model.max_options, allowed=allowed)
        how: dict[str, Any] = {"permutations": permutations, "at_once": at_once}
        bundle = Bundle(partial, proposed)
        if user is not None:
            bundle = replace(bundle, history=histories(loaded).of_user(user, [*partial, *proposed]))
            (ranking,) = complete_bundles([bundle], model=model, **how)
        else:
            chosen, by = self.ranker(method, device, how)
            by_model = chosen == method_selection.MODEL
            (ranking,) = complete_bundles([bundle], model=model if by_model else None, ranker=by, **how)
        if len(ranking.items) < k:
            session.say.note(
                f"{len(ranking.items)} of {k} completions: there are {len(proposed)} candidates to choose among"
            )
        return self._completions(ranking, k)

    def ranker(self, method: str | None, device: str, how: dict[str, Any]) -> tuple[str, Ranker]:
        """The method that ranks candidates, and its ranker: found and said once, because all bundles are read for it."""
        from ..baselines.learned import Reranked
        from ..bench import method_selection
        from ..bench.exclude_seen import validation_left_out

        key = (method, device, *how.values())
        if key not in self._rankers:
            loaded = self.load(device)
            model, sources = loaded.ranker(self.name, **how), self._session.sources(loaded.matrices)
            self._rankers[key] = method_selection.completion_ranker(
                self.path, sources, replace(model, remembers=False), method
            )
            by = self._rankers[key][1]
            weighed = isinstance(by, Reranked) and by.known_weights is None
            if weighed and (left_out := validation_left_out(model, sources)) is not None:
                self._session.say.note(left_out)
            self._note_ranker(self._rankers[key][0], asked_for=method is not None)
        return self._rankers[key]

    def _note_ranker(self, method: str, *, asked_for: bool) -> None:
        """Say which method ranks, and whether it was compared with others."""
        from ..bench import method_selection

        choice = None if asked_for else method_selection.load(self.path)
        if asked_for or (choice is not None and method not in choice.compared):
            self._session.say.note(f"ranked by {method}")
        elif choice is not None:
            self._session.say.note(f"ranked by {method}, the best on validation questions")
        else:
            evaluate = Command("evaluate", "--run", self.name)
            self._session.say.note(f"ranked by {method}; which method is best is not known yet", evaluate)

    def many(self, *, method: str | None = None, device: str = "auto", **options: Any) -> ManyCompleter:
        """The run as it completes blocks of bundles at once; the options are those of :meth:`complete`."""
        how = {"permutations": options.get("permutations", 1), "at_once": options.get("at_once")}
        return ManyCompleter(self._session, self.load(device), lambda: self.ranker(method, device, how), **options)

    def complete_many(self, bundles: Sequence[Sequence[str]], k: int = 5, **options: Any) -> list[Rows[Completion]]:
        """:meth:`complete` for every bundle (item ids), with the same options: blocks of them are answered at once.

        Raises
        ------
        BundlecacheError
            As :meth:`complete`, for the first bundle that has no completions; `Workspace.complete_file` goes on instead.
        """
        answer, made = self.many(**options), list[Rows[Completion]]()
        with self._session.say.bar("complete") as bar:
            for start in range(0, len(bundles), BLOCK_BUNDLES):
                for ranking in answer(bundles[start : start + BLOCK_BUNDLES]):
                    if isinstance(ranking, BundlecacheError):
                        raise ranking
                    made.append(self._completions(ranking, k))
                bar.step(len(made), len(bundles))
        return made

    def _completions(self, ranking: Ranking, k: int) -> Rows[Completion]:
        """The k best items of a ranking."""
        ids, titles = self._session.catalogue.item_ids, self._session.catalogue.titles
        best = zip(ranking.items[:k].tolist(), ranking.probabilities[:k].tolist(), strict=True)
        return Rows(Completion(rank, ids[i], titles[i], round(p, 4)) for rank, (i, p) in enumerate(best, start=1))

    def recommend(self, user: str, k: int = 10, **options: Any) -> Rows[Recommendation]:
        """The k items that a user takes next, of a UniMP run; the options are those of `Workspace.recommend`."""
        return recommending.recommend(self._session, user, k, run=self.name, **options)

    def search(self, user: str, query: str, k: int = 10, **options: Any) -> Rows[Recommendation]:
        """The k items that fit best what a user types, of a UniMP run."""
        return recommending.search(self._session, user, query, k, run=self.name, **options)

    def explain(self, user: str, item: str, *, device: str = "auto") -> Explanation:
        """How many stars a user gives an item and what the user says of it, of a UniMP run."""
        return recommending.explain(self._session, user, item, run=self.name, device=device)

    def draw(self, user: str, query: str, out: Path | str = "drawing.png", *, device: str = "auto") -> Drawn:
        """Draw what a user searches for into a picture file, of a UniMP run. Experimental."""
        return drawing.draw(self._session, user, query, out, run=self.name, device=device)

    def rate(self, user: str, item: str, *, device: str = "auto") -> tuple[float, int]:
        """The expected number of stars and the likeliest one, of a UniMP run."""
        return recommending.rate(self._session, user, item, run=self.name, device=device)

    def select(self, user: str, items: Sequence[str], *, device: str = "auto") -> Rows[Selection]:
        """Which of a few items a user takes, of a UniMP run."""
        return recommending.select(self._session, user, items, run=self.name, device=device)

    def evaluate_tasks(
        self,
        tasks: Sequence[str] = (),
        *,
        sample: int = MAX_QUESTIONS,
        baselines: bool = True,
        device: str = "auto",
    ) -> list[tuple[Path, TaskResult]]:
        """Answer the frozen test questions of the tasks that a UniMP run was trained for; files of results, and results.

        At most ``sample`` of each task, always the same ones; 0 asks all.

        Raises
        ------
        BundlecacheError
            When the run is of another kind, or was not trained for one of the ``tasks``.
        """
        return evaluate_run(self._session, self.name, tasks, sample=sample, baselines=baselines, device=device)

    def report(self, against: str | None = None, out: Path | None = None) -> Page:
        """Write one self-contained HTML page about the run, or about it and another one.

        Raises
        ------
        BundlecacheError
            When the runs cannot be compared, or the file cannot be written.
        """
        from ..report import run_page, unimp_comparison, unimp_page

        folder, catalogue = self._session.folder, self._session.catalogue
        if self.kind == "unimp":
            if against is None:
                return Page(unimp_page.write(self.path, out))
            path, findings = unimp_comparison.write(self.path, folder.run(against, "unimp"), out)
            return Page(path, tuple(findings))
        if against is None:
            return Page(run_page.write(folder, self.path, catalogue, out=out))
        path, findings = run_page.write_comparison(folder, self.path, folder.run(against), catalogue, out=out)
        return Page(path, tuple(findings))

    def merge(self, out: Path, device: str = "auto") -> list[Path]:
        """Write the run as a plain language model: LoRA merged, tokenizer, one embedding row per item; the paths.

        Raises
        ------
        BundlecacheError
            When ``out`` exists or cannot be written, or the run fuses nothing.
        """
        from ..train import merge

        loaded = self.load(device)
        with self._session.say.bar("merge"):
            return merge.merge(loaded.model, self._session.catalogue.item_ids, out)
