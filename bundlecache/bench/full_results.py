"""Results of full-catalogue ranking as typed rows, and their files ``full.json`` and ``full.csv``.

``bench/full.json`` of a workspace::

    {"format_version": 1,
     "held_out": {"sets", "sha256", "n_questions", "n_bundles", "n_items", "split", "cold",
                  "history": items of the longest history that joins a query, "with_history": how many queries,
                  "samples": as in `result_files`, where not all questions were asked,
                  "proposals": {"n_items", "found", "index", "index_recall", "checked"}, where the catalogue is large},
     "methods":  [{"name", "kind", "n", "recall@1" ... "recall@100", "ndcg@1" ... "ndcg@100", "mrr",
                   and "..._interval" of each, "seconds", "first": items that a model puts in order,
                   "proposed": the share of its first 20 that was proposed, where the catalogue is large,
                   "on_top_of": {"name", "delta", "interval"}}],
     "slices":   see `slices`,
     "verdict":  the findings in words}
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..files import write_text
from ..questions.sample import SampleInfo
from .findings import chosen_on, left_out_questions, measured, personal, sampled
from .proposals import ProposalInfo
from .result_rows import Difference, Interval, Slices, interval_of
from .results import slices_from_dict, slices_to_dict

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 1
DEPTHS = (1, 5, 10, 20, 50, 100)
MAIN = "recall@20"
FIGURES = (*(f"recall@{k}" for k in DEPTHS), *(f"ndcg@{k}" for k in DEPTHS), "mrr")


@dataclass(frozen=True)
class FullMethodResult:
    """One method among the whole catalogue: every figure of `FIGURES` by name, and its 95 % interval over bundles.

    ``first`` is how many items a model puts into another order. ``on_top_of`` is, in pairs, what a user's history adds to
    the Recall@20 of the method that knows no user, or what another order of the first few adds to Recall@1. ``proposed`` is
    the share of its first 20 of the whole catalogue that was among the proposals, where it ranked these alone.
    """

    name: str
    kind: str
    n: int
    figures: dict[str, float]
    intervals: dict[str, Interval]
    seconds: float
    first: int | None = None
    on_top_of: Difference | None = None
    proposed: float | None = None

    @property
    def value(self) -> float:
        """Recall@20, by which methods are sorted."""
        return self.figures[MAIN]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        made: dict[str, Any] = {"name": self.name, "kind": self.kind, "n": self.n}
        for figure in FIGURES:
            made[figure], made[f"{figure}_interval"] = self.figures[figure], list(self.intervals[figure])
        made["seconds"] = self.seconds
        if self.first is not None:
            made["first"] = self.first
        if self.proposed is not None:
            made["proposed"] = self.proposed
        return made if self.on_top_of is None else {**made, "on_top_of": self.on_top_of.to_dict()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> FullMethodResult:
        """From the JSON of result files."""
        on_top_of = row.get("on_top_of")
        return cls(
            name=row["name"],
            kind=row["kind"],
            n=row["n"],
            figures={figure: row[figure] for figure in FIGURES},
            intervals={figure: interval_of(row[f"{figure}_interval"]) for figure in FIGURES},
            seconds=row["seconds"],
            first=row.get("first"),
            on_top_of=None if on_top_of is None else Difference.from_dict(on_top_of),
            proposed=row.get("proposed"),
        )


@dataclass(frozen=True)
class HeldOutInfo:
    """Which held-out items were looked for; ``cold`` is the share of them that no training bundle holds.

    ``history`` is the most items of a user that join a query, ``with_history`` how many queries some join, ``trained_on``
    how many questions were left out because a model was trained on their bundle.
    """

    sets: list[str]
    sha256: str
    n_questions: int
    n_bundles: int
    n_items: int
    split: str
    cold: float
    history: int
    with_history: int
    trained_on: int = 0
    samples: tuple[SampleInfo, ...] = ()
    proposals: ProposalInfo | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        later = ("samples", "proposals")
        made = {key: value for key, value in vars(self).items() if key not in later and (key != "trained_on" or value)}
        if self.samples:
            made["samples"] = [each.to_dict() for each in self.samples]
        return made | ({} if self.proposals is None else {"proposals": self.proposals.to_dict()})

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> HeldOutInfo:
        """From the JSON of result files."""
        samples = tuple(SampleInfo.from_dict(each) for each in row.get("samples", ()))
        proposals = ProposalInfo.from_dict(row["proposals"]) if "proposals" in row else None
        return cls(**{**row, "samples": samples, "proposals": proposals})


@dataclass(frozen=True)
class FullCatalogueResult:
    """All methods among the whole catalogue, best first by Recall@20."""

    held_out: HeldOutInfo
    methods: list[FullMethodResult]
    slices: Slices = field(default_factory=dict)

    @property
    def findings(self) -> list[str]:
        """What the table says, in words."""
        return sentences(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        return {
            "format_version": FORMAT_VERSION,
            "held_out": self.held_out.to_dict(),
            "methods": [row.to_dict() for row in self.methods],
            "slices": slices_to_dict(self.slices),
            "verdict": self.findings,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> FullCatalogueResult:
        """From the JSON of result files."""
        methods = [FullMethodResult.from_dict(row) for row in found["methods"]]
        return cls(HeldOutInfo.from_dict(found["held_out"]), methods, slices_from_dict(found["slices"]))


def sentences(results: FullCatalogueResult) -> list[str]:
    """What the table says, in words."""
    held, rows = results.held_out, results.methods
    best = rows[0]
    low, high = best.intervals[MAIN]
    guess = 20 / held.n_items
    out = [
        f"{best.name} puts {best.value * 100:.1f}% ({low * 100:.1f} to {high * 100:.1f}) of {held.n_questions:,} held-out items "
        f"among its first 20 of {held.n_items:,}; guessing puts {min(guess, 1) * 100:.1f}% there."
    ]
    alike = [
        row.name
        for row in rows[1:]
        if row.kind != "chance" and row.first is None and row.intervals[MAIN][1] >= best.value
    ]
    if alike:
        out.append(f"Within its interval stand {'; '.join(alike)} too.")
    out += [_reordered(row) for row in rows if row.first is not None and row.on_top_of is not None]
    if held.proposals is not None:
        out += _proposed(held.proposals, rows)
    out += sampled(held.samples)
    out += left_out_questions(held.trained_on, held.n_questions)
    out += chosen_on(held.split)
    if held.with_history:
        out.append(
            f"In {held.with_history:,} of the queries up to {held.history} items that the bundle's user took elsewhere "
            "join; for all methods these are then no options, so figures without histories differ."
        )
        out += personal(rows)
    if held.cold > 0:
        out.append(
            f"{held.cold * 100:.0f}% of the held-out items stand in no training bundle: whoever knows only what was bundled "
            "ties on them."
        )
    return out


def _proposed(by: ProposalInfo, rows: list[FullMethodResult]) -> list[str]:
    """That only proposals were ranked, and what that costs."""
    held = sorted((row.proposed, row.name) for row in rows if row.proposed is not None)
    out = [
        f"So many items are not ranked whole: each method ranks exactly {by.n_items:,} items of a question, which the index "
        f"({by.index}), item neighbours and popularity propose; how many others stand before the right one is estimated by "
        f"items drawn by lot. {by.found * 100:.1f}% of the held-out items are proposed; the rest counts as not found."
    ]
    if held:
        (low, worst), (high, _) = held[0], held[-1]
        out.append(
            f"Of the first 20 items of a method that ranks everything, {low * 100:.0f}% ({worst}) to {high * 100:.0f}% are "
            f"proposed, measured on {by.checked:,} questions; a method with a low share is shown too high."
        )
    return out


def _reordered(row: FullMethodResult) -> str:
    """What a model makes of the first few that it is shown."""
    gain = measured(row.on_top_of)
    name, delta, (low, high) = gain.name, gain.delta, gain.interval
    change = {
        "better": f"{delta * 100:.1f} points more often ({low * 100:.1f} to {high * 100:.1f})",
        "worse": f"{-delta * 100:.1f} points less often ({-high * 100:.1f} to {-low * 100:.1f})",
        "level": f"neither more nor less often, as far as can be told ({low * 100:+.1f} to {high * 100:+.1f} points)",
    }[gain.standing]
    model = row.name.removesuffix(f", first {row.first}")
    return (
        f"{model} puts the first {row.first} of {name} into another order; the right item then stands first {change}."
    )


def save(folder: Path, results: FullCatalogueResult) -> Path:
    """Write ``full.csv``, a row per method, and ``full.json``, whose path is given; the page is `report.bench_pages`'."""
    names = ["name", "kind", "n", *(each for figure in FIGURES for each in (figure, f"{figure} low", f"{figure} high"))]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names, "seconds"], lineterminator="\n")
    writer.writeheader()
    for row in results.methods:
        ends = {
            f"{figure} {side}": round(row.intervals[figure][at], 6)
            for figure in FIGURES
            for at, side in enumerate(("low", "high"))
        }
        plain = {"name": row.name, "kind": row.kind, "n": row.n, "seconds": row.seconds}
        writer.writerow({**plain, **{figure: round(row.figures[figure], 6) for figure in FIGURES}, **ends})
    write_text(folder / "full.csv", text.getvalue())
    write_text(folder / "full.json", json.dumps(results.to_dict(), indent=1) + "\n")
    return folder / "full.json"
