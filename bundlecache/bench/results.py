"""Results of the benchmark as typed rows; ``to_dict`` and ``from_dict`` give and read the JSON of result files.

Every row is flat, so that ``pandas.DataFrame(results.methods)`` is a table of methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..questions.sample import SampleInfo
from .result_rows import AblationRow, Group, MethodResult, ProbeResult, Slices, renamed

FORMAT_VERSION = 1


@dataclass(frozen=True)
class QuestionSetInfo:
    """Which frozen questions were answered; ``sets`` and their hashes where several differ by their seed.

    ``trained_on`` is how many questions were left out because a run was trained on their bundle. ``samples`` say, set by
    set, how the questions were sampled (`questions.sample`); empty where whole sets were asked.
    """

    name: str
    sha256: str
    n_questions: int
    n_options: int
    split: str
    negatives: str
    sets: tuple[str, ...] = ()
    sha256s: tuple[str, ...] = ()
    trained_on: int = 0
    samples: tuple[SampleInfo, ...] = ()

    @property
    def amount(self) -> str:
        """How many questions were asked, and of how many where they are a sample: ``5,000 of 20,000``."""
        whole = sum(each.of for each in self.samples)
        return f"{self.n_questions:,}" + (f" of {whole:,}" if whole else "")

    @property
    def chance(self) -> float:
        """HitRate@1 of guessing."""
        return 1 / self.n_options

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        made: dict[str, Any] = {
            "name": self.name,
            "sha256": self.sha256,
            "n_questions": self.n_questions,
            "n_options": self.n_options,
            "split": self.split,
            "negatives": self.negatives,
        }
        if self.sets:
            made |= {"sets": list(self.sets), "sha256s": list(self.sha256s)}
        if self.samples:
            made["samples"] = [each.to_dict() for each in self.samples]
        return made | ({"trained_on": self.trained_on} if self.trained_on else {})

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> QuestionSetInfo:
        """From the JSON of result files."""
        plain = {key: row[key] for key in ("name", "sha256", "n_questions", "n_options", "split", "negatives")}
        sets, sha256s = (tuple(row.get(key, ())) for key in ("sets", "sha256s"))
        samples = tuple(SampleInfo.from_dict(each) for each in row.get("samples", ()))
        return cls(**plain, sets=sets, sha256s=sha256s, trained_on=row.get("trained_on", 0), samples=samples)


@dataclass(frozen=True)
class AskedHow:
    """How models were asked: in how many orders of the options, and about how many options per forward (None: all)."""

    permutations: int = 1
    at_once: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        return {"permutations": self.permutations, "at_once": self.at_once}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> AskedHow:
        """From the JSON of result files."""
        return cls(int(row.get("permutations", 1)), row.get("at_once"))


ASKED_ONCE = AskedHow()


@dataclass(frozen=True)
class QuestionSetResult:
    """All methods on one question set, best first; the model is the one that the others are compared with.

    ``findings`` say in words what the tables say, ``worth`` what the model's seconds buy (apart, because it differs from
    run to run). ``attention`` is that of `bundlecache.train.inference.scoring.attention`, ``model_answers`` the model's
    HitRate@1 by position of the truth and its calibration.
    """

    questions: QuestionSetInfo
    methods: list[MethodResult]
    model: str | None = None
    how: AskedHow = ASKED_ONCE
    ablation: list[AblationRow] = field(default_factory=list)
    probes: list[ProbeResult] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    slices: Slices = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    worth: list[str] = field(default_factory=list)
    model_answers: dict[str, Any] | None = None
    attention: dict[str, Any] | None = None

    @property
    def model_row(self) -> MethodResult | None:
        """The model's row; None where no model was evaluated."""
        return None if self.model is None else self.by_name().get(self.model)

    def by_name(self) -> dict[str, MethodResult]:
        """The methods by their names."""
        return {method.name: method for method in self.methods}

    def to_dict(self, *, timed: bool = True) -> dict[str, Any]:
        """The JSON of result files; without ``timed`` the same evaluation gives the same digits."""
        methods = [method.to_dict() for method in self.methods]
        made: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "questions": self.questions.to_dict(),
            "model": self.model,
            "how": self.how.to_dict(),
            "methods": methods if timed else [without_times(row) for row in methods],
            "ablation": [row.to_dict() for row in self.ablation],
            "probes": [row.to_dict() for row in self.probes],
            "leaks": self.leaks,
        }
        if self.slices:
            made["slices"] = slices_to_dict(self.slices)
        made["verdict"] = self.findings
        if timed:
            made["worth"] = self.worth
        if self.model_answers is not None:
            made |= {"model_answers": self.model_answers, "attention": self.attention}
        return made

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> QuestionSetResult:
        """From the JSON of result files.

        Raises
        ------
        KeyError, TypeError, ValueError, StopIteration
            When it is damaged.
        """
        model = found.get("model")
        return cls(
            questions=QuestionSetInfo.from_dict(found["questions"]),
            methods=[MethodResult.from_dict(row) for row in found["methods"]],
            model=None if model is None else renamed(model),
            how=AskedHow.from_dict(found.get("how", {})),
            ablation=[AblationRow.from_dict(row) for row in found["ablation"]],
            probes=[ProbeResult.from_dict(row) for row in found.get("probes", ())],
            leaks=list(found.get("leaks", ())),
            slices=slices_from_dict(found.get("slices", {})),
            findings=[renamed(sentence) for sentence in found["verdict"]],
            worth=list(found.get("worth", ())),
            model_answers=found.get("model_answers"),
            attention=found.get("attention"),
        )


def without_times(row: Mapping[str, Any]) -> dict[str, Any]:
    """A method's JSON without what differs from run to run."""
    return {key: value for key, value in row.items() if key not in ("seconds", "training_seconds")}


def slices_to_dict(slices: Slices) -> dict[str, list[dict[str, Any]]]:
    """The JSON of result files."""
    return {way: [group.to_dict() for group in groups] for way, groups in slices.items()}


def slices_from_dict(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Slices:
    """From the JSON of result files."""
    return {way: [Group.from_dict(group) for group in groups] for way, groups in found.items()}
