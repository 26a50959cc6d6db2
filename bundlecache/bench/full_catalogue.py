"""Full-catalogue ranking: every held-out item among all items of the catalogue, less the partial bundle.

A choice among ten options says which method reads a bundle best; it does not say which one would find the item in
a shop. Here nothing is drawn: the same held-out items that the frozen questions ask about are ranked among
everything, by any `Ranker`, in pieces that fit into memory. A language model answers by letters, so it does not rank
a catalogue: it reranks the first few of a ranker that does (`FirstFew`).

``bench/full.json`` of a workspace::

    {"format_version": 1,
     "held_out": {"sets", "sha256", "n_questions", "n_bundles", "n_items", "split", "cold",
                  "history": items of the longest history that joins a query, "with_history": how many queries},
     "methods":  [{"name", "kind", "n", "recall@1" ... "recall@100", "ndcg@1" ... "ndcg@100", "mrr",
                   and "..._interval" of each, "seconds", "first": items that a model puts in order,
                   "on_top_of": {"name", "delta", "interval"}}],
     "slices":   see `slices`,
     "verdict":  ["..."]}

With one right item per question Recall@k is the share of questions whose item stands among the first k. Ties
count by the average over their places; intervals are 95 % bootstraps over bundles. Methods stand best first by Recall@20.
``on_top_of`` is, in pairs, what a user's history adds to the Recall@20 of the method that knows no user, and what another
order of the first few adds to Recall@1. ``full.csv`` and ``full.html`` stand beside the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..baselines.personal import PersonalRanker
from ..files import write_text
from ..questions.file import Questions, assemble
from .findings import chosen_on, personal, standing
from .metrics import Places, intervals

if TYPE_CHECKING:
    from pathlib import Path

    from ..baselines.rankers import Kind, Ranker
    from ..catalogue.model import Catalogue
    from ..questions.user_history import UserHistories
    from .slices import Slicer

FORMAT_VERSION = 1
DEPTHS = (1, 5, 10, 20, 50, 100)
MAIN = "recall@20"
FIGURES = (*(f"recall@{k}" for k in DEPTHS), *(f"ndcg@{k}" for k in DEPTHS), "mrr")
CELLS = 2**22  # scores computed at once, [questions, items]
FEW = 10  # items that a model reranks


@dataclass(frozen=True)
class HeldOut:
    """q distinct (bundle, held-out item): ``partial`` holds the rest of each bundle, ``truth`` [q] the item's index.

    ``history`` is what the bundle's user took elsewhere; empty where no method looks at that.
    """

    sets: list[str]
    split: str
    bundle_ids: list[str]
    partial: list[np.ndarray]
    truth: np.ndarray
    sha256: str
    history: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.bundle_ids)

    @classmethod
    def of(cls, sets: Sequence[Questions], catalogue: Catalogue, histories: UserHistories | None = None) -> HeldOut:
        """What frozen questions ask about, each bundle and item once, whatever the options were."""
        found = {
            (bundle_id, int(options[truth])): partial
            for asked in sets
            for bundle_id, partial, options, truth in zip(
                asked.bundle_ids, asked.partial, asked.options, asked.truth, strict=True
            )
        }
        ids, total = catalogue.item_ids, hashlib.sha256()
        for (bundle_id, item), given in found.items():
            total.update(json.dumps([bundle_id, [ids[i] for i in given], ids[item]]).encode())
        bundle_ids, partial = [bundle_id for bundle_id, _ in found], list(found.values())
        truth = np.array([item for _, item in found], np.int64)
        history = [np.zeros(0, np.int32)] * len(truth)
        if histories is not None:
            history = histories.besides(bundle_ids, partial, truth[:, None])
        return cls(
            sets=[asked.name for asked in sets],
            split=" and ".join(sorted({asked.split for asked in sets})),
            bundle_ids=bundle_ids,
            partial=partial,
            truth=truth,
            sha256=total.hexdigest(),
            history=history,
        )

    @property
    def length(self) -> np.ndarray:
        """[q] items of each bundle, the held-out one among them."""
        return np.array([len(items) for items in self.partial]) + 1

    @property
    def unit(self) -> np.ndarray:
        """[q] a number for each bundle."""
        return np.unique(self.bundle_ids, return_inverse=True)[1]

    def chunks(self, n_items: int) -> Iterator[tuple[np.ndarray, Questions]]:
        """(rows [c], those questions with the whole catalogue as options): together all questions, each once.

        The options of a question are all ``n_items`` items less its partial bundle and its history, for methods that
        look at no history too: the truth never stands there, so an option that does would be known to be wrong. They
        are in the order of the catalogue; questions that have equally many share a chunk.
        """
        taken = [len(items) + len(history) for items, history in zip(self.partial, self.history, strict=True)]
        for size in np.unique(taken).tolist():
            rows = np.flatnonzero(np.array(taken) == size)
            step = max(1, CELLS // n_items)
            for part in (rows[low : low + step] for low in range(0, len(rows), step)):
                yield part, self._among_all(part, n_items)

    def _among_all(self, rows: np.ndarray, n_items: int) -> Questions:
        kept = np.ones((len(rows), n_items), bool)
        for line, row in enumerate(rows.tolist()):
            kept[line, self.partial[row]] = False
            kept[line, self.history[row]] = False
        options = np.nonzero(kept)[1].astype(np.int32).reshape(len(rows), -1)
        return Questions(
            name="full",
            split=self.split,
            negatives="all",
            seed=0,
            bundle_ids=[self.bundle_ids[row] for row in rows],
            partial=[self.partial[row] for row in rows],
            options=options,
            truth=(options < self.truth[rows][:, None]).sum(axis=1),
            sha256=f"{self.sha256}/{n_items}/{rows[0]}+{len(rows)}",
            header={},
        )


@dataclass(frozen=True)
class FirstFew:
    """A model, or a model and a ranker together, puts the ``few`` best items of a ranker into another order.

    What it is shown follows from ``first`` alone; where items tie at the edge, those that stand first in the catalogue
    are shown, which is by lot. An item that is not shown keeps its place.
    """

    first: Ranker
    second: Ranker
    catalogue: Catalogue
    few: int = FEW

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.second.name}, first {self.few}"

    @property
    def kind(self) -> Kind:
        """That of the model."""
        return self.second.kind

    def places(self, asked: Questions, scores: np.ndarray) -> Places:
        """Where the truths stand after reranking; ``scores`` [q, n] are those of ``first``."""
        few = min(self.few, scores.shape[1])
        shown = np.argsort(-scores, axis=1, kind="stable")[:, :few]  # [q, few]
        there = shown == asked.truth[:, None]
        inside = there.any(axis=1)
        before = Places.of(scores, asked.truth)
        better = np.maximum(before.better, few)  # of those left out: places of a tie that were not shown
        level = before.better + before.level - better
        options = np.take_along_axis(asked.options, shown, axis=1)
        header = {"name": f"first{few}", "split": asked.split, "negatives": self.first.name, "seed": 0}
        again = assemble(self.catalogue, asked.bundle_ids, asked.partial, options, there.argmax(axis=1), header)
        after = Places.of(self.second.scores(again), again.truth)
        return Places(np.where(inside, after.better, better), np.where(inside, after.level, np.maximum(level, 1)))


def rank(
    rankers: Sequence[Ranker],
    held: HeldOut,
    n_items: int,
    reranked: Sequence[FirstFew] = (),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, tuple[Places, float]]:
    """Name -> the truths' places [q] and the seconds it took, fitting included; of ``reranked`` the second look alone."""
    places = {method.name: Places(np.zeros(len(held), np.int64), np.ones(len(held), np.int64)) for method in rankers}
    places |= {method.name: Places(np.zeros(len(held), np.int64), np.ones(len(held), np.int64)) for method in reranked}
    seconds = dict.fromkeys(places, 0.0)
    done = 0
    for rows, asked in held.chunks(n_items):
        for ranker in rankers:
            start = time.perf_counter()
            scores = ranker.scores(asked)
            seconds[ranker.name] += time.perf_counter() - start
            _put(places[ranker.name], rows, Places.of(scores, asked.truth))
            for method in reranked:
                if method.first is ranker:
                    start = time.perf_counter()
                    found = method.places(asked, scores)
                    seconds[method.name] += time.perf_counter() - start
                    _put(places[method.name], rows, found)
        done += len(rows)
        progress(done, len(held))
    return {name: (places[name], seconds[name]) for name in places}


def run(
    rankers: Sequence[Ranker],
    held: HeldOut,
    slicer: Slicer,
    reranked: Sequence[FirstFew] = (),
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    seed: int = 0,
) -> dict[str, Any]:
    """Rank every held-out item among the whole catalogue by every method; the layout stands above."""
    catalogue = slicer.catalogue
    found = rank(rankers, held, len(catalogue), reranked, progress)
    kinds = {method.name: method.kind for method in rankers} | {method.name: method.kind for method in reranked}
    under = {each.name: (each.on_top_of, MAIN) for each in rankers if isinstance(each, PersonalRanker)}
    under |= {each.name: (each.first.name, "recall@1") for each in reranked}
    few = {each.name: each.few for each in reranked}
    values = {name: figures(places) for name, (places, _) in found.items()}
    unit = held.unit
    rows = []
    for name, (_, seconds) in found.items():
        sums = np.stack([np.bincount(unit, weights=values[name][figure]) for figure in FIGURES], axis=1)
        ranges = intervals(sums, np.bincount(unit), seed=seed).tolist()  # [figures][2]
        row: dict[str, Any] = {"name": name, "kind": kinds[name], "n": len(held)}
        for figure, ends in zip(FIGURES, ranges, strict=True):
            row[figure], row[f"{figure}_interval"] = float(values[name][figure].mean()), ends
        row["seconds"] = round(seconds, 4)
        if name in few:
            row["first"] = few[name]
        below, figure = under.get(name, ("", ""))
        if below in found:
            gain = values[name][figure] - values[below][figure]  # [q]
            (ends,) = intervals(np.bincount(unit, weights=gain)[:, None], np.bincount(unit), seed=seed).tolist()
            row["on_top_of"] = {"name": below, "delta": float(gain.mean()), "interval": ends}
        rows.append(row)
    rows.sort(key=lambda row: -row[MAIN])
    labels, names = slicer.labels(held.truth, held.length)
    told = {
        "sets": held.sets,
        "sha256": held.sha256,
        "n_questions": len(held),
        "n_bundles": len(set(held.bundle_ids)),
        "n_items": len(catalogue),
        "split": held.split,
        "cold": float((labels["cold"] == names["cold"].index("cold")).mean()),
        "history": max(map(len, held.history), default=0),
        "with_history": sum(len(history) > 0 for history in held.history),
    }
    results = {"format_version": FORMAT_VERSION, "held_out": told, "methods": rows}
    results["slices"] = slicer.slices(held.truth, held.length, values, main=MAIN, unit=unit, seed=seed)
    return {**results, "verdict": sentences(results)}


def figures(places: Places) -> dict[str, np.ndarray]:
    """Every figure of every question, [q] each.

    Second of the catalogue: no hit at 1, a hit at 5 and beyond, NDCG 1 / log2(3), reciprocal rank 1 / 2.

    >>> one = figures(Places(np.array([1]), np.array([1])))
    >>> [round(float(one[name][0]), 3) for name in ("recall@1", "recall@5", "ndcg@20", "mrr")]
    [0.0, 1.0, 0.631, 0.5]
    """
    made = {f"recall@{k}": places.within(k) for k in DEPTHS} | {f"ndcg@{k}": places.ndcg(k) for k in DEPTHS}
    return made | {"mrr": places.reciprocal()}


def sentences(results: dict[str, Any]) -> list[str]:
    """What the table says, in words."""
    held, rows = results["held_out"], results["methods"]
    best = rows[0]
    low, high = best[f"{MAIN}_interval"]
    guess = 20 / held["n_items"]
    out = [
        f"{best['name']} puts {best[MAIN] * 100:.1f}% ({low * 100:.1f} to {high * 100:.1f}) of {held['n_questions']:,} held-out items "
        f"among its first 20 of {held['n_items']:,}; guessing puts {min(guess, 1) * 100:.1f}% there."
    ]
    alike = [
        row["name"]
        for row in rows[1:]
        if row["kind"] != "chance" and "first" not in row and row[f"{MAIN}_interval"][1] >= best[MAIN]
    ]
    if alike:
        out.append(f"Within its interval stand {'; '.join(alike)} too.")
    out += [_reordered(row) for row in rows if "first" in row and "on_top_of" in row]
    out += chosen_on(held["split"])
    if held["with_history"]:
        out.append(
            f"In {held['with_history']:,} of the queries up to {held['history']} items that the bundle's user took elsewhere "
            "join; for all methods these are then no options, so figures without histories differ."
        )
        out += personal(rows)
    if held["cold"] > 0:
        out.append(
            f"{held['cold'] * 100:.0f}% of the held-out items stand in no training bundle: whoever knows only what was bundled "
            "ties on them."
        )
    return out


def _reordered(row: dict[str, Any]) -> str:
    """What a model makes of the first few that it is shown."""
    name, delta, (low, high) = (row["on_top_of"][key] for key in ("name", "delta", "interval"))
    change = {
        "better": f"{delta * 100:.1f} points more often ({low * 100:.1f} to {high * 100:.1f})",
        "worse": f"{-delta * 100:.1f} points less often ({-high * 100:.1f} to {-low * 100:.1f})",
        "level": f"neither more nor less often, as far as can be told ({low * 100:+.1f} to {high * 100:+.1f} points)",
    }[standing(row["on_top_of"]["interval"])]
    model = row["name"].removesuffix(f", first {row['first']}")
    return f"{model} puts the first {row['first']} of {name} into another order; the right item then stands first {change}."


def save(folder: Path, results: dict[str, Any]) -> Path:
    """Write ``full.json``, ``full.csv`` with a row per method, and ``full.html``; gives the path of the page."""
    from ..report import bench_pages as boards

    names = ["name", "kind", "n", *(each for figure in FIGURES for each in (figure, f"{figure} low", f"{figure} high"))]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names, "seconds"], lineterminator="\n")
    writer.writeheader()
    for row in results["methods"]:
        ends = {
            f"{figure} {side}": round(row[f"{figure}_interval"][at], 6)
            for figure in FIGURES
            for at, side in enumerate(("low", "high"))
        }
        plain = {name: row[name] for name in ("name", "kind", "n", "seconds")}
        writer.writerow({**plain, **{figure: round(row[figure], 6) for figure in FIGURES}, **ends})
    path = folder / "full.json"
    for file, content in (
        (path.with_suffix(".csv"), text.getvalue()),
        (path, json.dumps(results, indent=1) + "\n"),
    ):
        write_text(file, content)
    return boards.write_full(folder, results)


def _put(places: Places, rows: np.ndarray, found: Places) -> None:
    places.better[rows], places.level[rows] = found.better, found.level
