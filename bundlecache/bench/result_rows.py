"""Rows of the result tables: methods, ablations, probes and groups of questions, with the JSON of result files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ZERO_SHOT = "zero-shot LLM"
"""How tables call the base model as it was before training."""
OLD_ZERO_SHOT = "base model, untrained"
"""How result files written before 2026-11-26 call it."""

Interval = tuple[float, float]  # the low and the high end of a 95 % interval


@dataclass(frozen=True)
class Difference:
    """A paired difference of a figure on the same questions; ``p`` is that of McNemar's exact test, where it was made.

    ``name`` is the other method, where the row does not say it.
    """

    delta: float
    interval: Interval
    p: float | None = None
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        named = {} if self.name is None else {"name": self.name}
        tested = {} if self.p is None else {"p": self.p}
        return {**named, "delta": self.delta, "interval": list(self.interval), **tested}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Difference:
        """From the JSON of result files."""
        name = row.get("name")
        return cls(row["delta"], interval_of(row["interval"]), row.get("p"), None if name is None else renamed(name))

    @property
    def standing(self) -> str:
        """``better``, ``worse`` or ``level``: what the interval says of the first of the two methods.

        >>> Difference(0.1, (0.02, 0.18)).standing, Difference(0.1, (-0.02, 0.22)).standing
        ('better', 'level')
        """
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "level"


@dataclass(frozen=True)
class MethodResult:
    """One method on one question set; rates lie in 0..1.

    ``seconds`` is answering, ``training_seconds`` is training or fitting with all that the method stands on; None
    where no time was taken. ``versus_model`` is the model's HitRate@1 minus this method's, ``on_top_of`` what this method
    adds to the one that it reranks or personalises.
    """

    name: str
    kind: str
    n: int
    hit1: float
    hit3: float
    hit5: float
    mrr: float
    hit1_interval: Interval
    valid_ratio: float = 1.0
    hit1_valid_only: float = 0.0
    seconds: float | None = None
    training_seconds: float | None = None
    versus_model: Difference | None = None
    on_top_of: Difference | None = None

    @property
    def cost_seconds(self) -> float | None:
        """Training or fitting and answering together; None where answering was not timed."""
        return None if self.seconds is None else self.seconds + (self.training_seconds or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        made = {
            "name": self.name,
            "kind": self.kind,
            "n": self.n,
            "hit@1": self.hit1,
            "hit@3": self.hit3,
            "hit@5": self.hit5,
            "mrr": self.mrr,
            "hit@1_interval": list(self.hit1_interval),
            "valid_ratio": self.valid_ratio,
            "hit@1_valid_only": self.hit1_valid_only,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
        }
        for key, difference in (("versus_model", self.versus_model), ("on_top_of", self.on_top_of)):
            if difference is not None:
                made[key] = difference.to_dict()
        return made

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> MethodResult:
        """From the JSON of result files."""
        return cls(
            name=renamed(row["name"]),
            kind=row["kind"],
            n=row["n"],
            hit1=row["hit@1"],
            hit3=row["hit@3"],
            hit5=row["hit@5"],
            mrr=row["mrr"],
            hit1_interval=interval_of(row["hit@1_interval"]),
            valid_ratio=row["valid_ratio"],
            hit1_valid_only=row["hit@1_valid_only"],
            seconds=row.get("seconds"),
            training_seconds=row.get("training_seconds"),
            versus_model=_difference(row.get("versus_model")),
            on_top_of=_difference(row.get("on_top_of")),
        )


@dataclass(frozen=True)
class AblationRow:
    """The model without the vectors of one modality, or without the user's history; ``delta`` is minus the whole model."""

    without: str
    hit1: float
    hit1_interval: Interval
    delta: float
    delta_interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        return {
            "without": self.without,
            "hit@1": self.hit1,
            "hit@1_interval": list(self.hit1_interval),
            "delta": self.delta,
            "delta_interval": list(self.delta_interval),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> AblationRow:
        """From the JSON of result files."""
        ends = interval_of(row["hit@1_interval"]), interval_of(row["delta_interval"])
        return cls(row["without"], row["hit@1"], ends[0], row["delta"], ends[1])


@dataclass(frozen=True)
class ProbeResult:
    """A leakage probe: how often it is right, and whether that is more than guessing."""

    name: str
    words: str
    hit1: float
    hit1_interval: Interval
    succeeds: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        return {
            "name": self.name,
            "words": self.words,
            "hit@1": self.hit1,
            "hit@1_interval": list(self.hit1_interval),
            "succeeds": self.succeeds,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ProbeResult:
        """From the JSON of result files."""
        return cls(row["name"], row["words"], row["hit@1"], interval_of(row["hit@1_interval"]), row["succeeds"])


@dataclass(frozen=True)
class GroupMethod:
    """One method on one group of questions: its figures by name, and the interval of the main one."""

    name: str
    figures: dict[str, float]
    main: str
    interval: Interval

    @property
    def value(self) -> float:
        """The main figure."""
        return self.figures[self.main]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        return {"name": self.name, **self.figures, f"{self.main}_interval": list(self.interval)}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> GroupMethod:
        """From the JSON of result files."""
        main = next(key for key in row if key.endswith("_interval")).removesuffix("_interval")
        figures = {key: value for key, value in row.items() if key not in ("name", f"{main}_interval")}
        return cls(renamed(row["name"]), figures, main, interval_of(row[f"{main}_interval"]))


@dataclass(frozen=True)
class Group:
    """A group of n questions with every method's figures, best first; ``small`` groups say little."""

    group: str
    n: int
    small: bool
    methods: list[GroupMethod]

    def by_name(self) -> dict[str, GroupMethod]:
        """The methods by their names."""
        return {method.name: method for method in self.methods}

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        methods = [method.to_dict() for method in self.methods]
        return {"group": self.group, "n": self.n, "small": self.small, "methods": methods}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Group:
        """From the JSON of result files."""
        return cls(row["group"], row["n"], row["small"], [GroupMethod.from_dict(each) for each in row["methods"]])


Slices = dict[str, list[Group]]  # way to group -> its groups


def interval_of(ends: Sequence[float]) -> Interval:
    """The two ends as read from JSON."""
    low, high = ends
    return float(low), float(high)


def _difference(row: Mapping[str, Any] | None) -> Difference | None:
    return None if row is None else Difference.from_dict(row)


def renamed(text: str) -> str:
    """A name or sentence of a result file with the names of today."""
    return text.replace(OLD_ZERO_SHOT, ZERO_SHOT)
