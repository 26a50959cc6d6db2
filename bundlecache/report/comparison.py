"""Two runs on the same frozen questions: their differences in settings and in results.

``a`` is the run that the page is about, ``b`` the one it is compared with; a difference is a minus b,
paired by question.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bench import result_files
from ..bench.findings import left_out
from ..bench.metrics import hits, mcnemar, measure, paired_difference, reciprocal_ranks
from ..bench.result_rows import Difference
from ..errors import BundlecacheError, Command, RecipeError
from ..recipes.recipe import Recipe
from ..recipes.recipe_tables import field_of
from ..workspace import read_manifest
from . import model_answers as answers
from .question_cards import Media, card
from .reliability import breakdowns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ..bench.results import QuestionSetResult
    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder
    from .model_answers import Answered

SHOWN = 6  # questions that were gained, and as many that were lost
FIGURES: tuple[tuple[str, str, Callable[[np.ndarray, np.ndarray], np.ndarray]], ...] = (
    ("HitRate@1", "hit@1", lambda scores, truth: hits(scores, truth, 1)),
    ("HitRate@3", "hit@3", lambda scores, truth: hits(scores, truth, 3)),
    ("HitRate@5", "hit@5", lambda scores, truth: hits(scores, truth, 5)),
    ("MRR", "mrr", reciprocal_ranks),
)


def compare(workspace: WorkspaceFolder, run: Path, against: Path, catalogue: Catalogue) -> dict[str, Any]:
    """Everything the page of a comparison shows, as plain data.

    Raises
    ------
    BundlecacheError
        When both are one run, or have answered no frozen questions in common.
    CheckpointError
        When one of their files is damaged.
    """
    if run.resolve() == against.resolve():
        raise BundlecacheError(f"{run.name} cannot be compared with itself.", hint="--against another run")
    a, b = read_manifest(run), read_manifest(against)
    media = Media(workspace, catalogue)
    sets, other = _sets(run, against, catalogue, media)
    return {
        "a": run.name,
        "b": against.name,
        "sets": sets,
        "others": other,
        "settings": settings(a, b, Recipe.sections()),
        "vectors": vectors(a, b),
        "stages": [{"run": name, "stages": m.get("stages", [])} for name, m in ((run.name, a), (against.name, b))],
        "media": {"sounds": media.sounds, "pictures": catalogue.column("image").any()},
    }


def settings(a: dict[str, Any], b: dict[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, versions and origins of two manifests that differ, and how many are the same.

    ``sections`` are the tables of their recipes.
    """
    left, right = _flat(a), _flat(b)
    keys = list(dict.fromkeys([*left, *right]))
    rows = [
        {"key": key, "what": _described(key, sections), "a": _shown(left, key), "b": _shown(right, key)}
        for key in keys
        if left.get(key) != right.get(key)
    ]
    return {"rows": rows, "same": len(keys) - len(rows)}


def vectors(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """Every stored table that one of the runs was trained on, at which version, and what that means."""
    left, right = ({encoder["name"]: encoder for encoder in m.get("encoders", [])} for m in (a, b))
    return [
        {"name": name, "a": left.get(name), "b": right.get(name), **_table_change(left.get(name), right.get(name))}
        for name in dict.fromkeys([*left, *right])
    ]


def paired(a: Answered, b: Answered) -> dict[str, Any]:
    """The figures of both on the same questions, their paired differences, and McNemar's p of the first places."""
    rows = []
    both = [(np.where(each.valid[:, None], each.probabilities, np.nan), each) for each in (a, b)]
    figures = [measure(scores, each.truth, each.valid).to_dict() for scores, each in both]
    for name, key, value in FIGURES:
        of = [value(scores, each.truth) for scores, each in both]
        delta, low, high = paired_difference(*of)
        rows.append({"name": name, "a": figures[0][key], "b": figures[1][key], "delta": delta, "interval": [low, high]})
    counts = {
        "both": int((a.right & b.right).sum()),
        "gained": int((a.right & ~b.right).sum()),
        "lost": int((~a.right & b.right).sum()),
        "neither": int((~a.right & ~b.right).sum()),
    }
    return {"rows": rows, "p": mcnemar(a.right, b.right), "counts": counts, "n": len(a)}


def sentence(a: str, b: str, figures: dict[str, Any]) -> str:
    """Which of two runs finds more, or that this cannot be told."""
    first = figures["rows"][0]
    low, high = (f"{abs(x) * 100:.1f}" if first["delta"] else "0" for x in first["interval"])
    found = f"{a} finds {first['a']:.1%} of {figures['n']:,} questions at its first attempt, {b} {first['b']:.1%}"
    p = f"McNemar p = {figures['p']:.3f}" if figures["p"] >= 0.001 else "McNemar p < 0.001"
    where = Difference(first["delta"], tuple(first["interval"])).standing
    if where == "level":
        span = f"{first['interval'][0] * 100:+.1f} to {first['interval'][1] * 100:+.1f}".replace("-", "\u2212")
        return f"{found}: the two cannot be told apart (difference {span} points, {p})."
    more = "more" if where == "better" else "less"
    near, far = sorted((float(low), float(high)))
    return f"{found}: {abs(first['delta']) * 100:.1f} points {more} ({near:.1f} to {far:.1f}; {p})."


def _sets(
    run: Path, against: Path, catalogue: Catalogue, media: Media
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Question sets that both answered, and for every other one a sentence why it is not compared."""
    left, right = result_files.load(run), result_files.load(against)
    sets: list[dict[str, Any]] = []
    others: list[dict[str, str]] = []
    for name in dict.fromkeys([*left, *right]):
        if why := _apart(name, left.get(name), right.get(name), run.name, against.name):
            others.append({"name": name, "why": why})
            continue
        a, b = answers.read(run, left[name]), answers.read(against, right[name])
        if a is None or b is None:
            lacking = run.name if a is None else against.name
            others.append({"name": name, "why": f"{lacking} holds no answers of a model to {name}."})
        else:
            sets.append(_set(left[name], right[name], a, b, (run.name, against.name), catalogue, media))
    if not sets:
        told = others[0]["why"] if others else f"Neither {run.name} nor {against.name} was evaluated yet."
        raise BundlecacheError(
            told, hint=[Command("evaluate", "--run", run.name), "and", Command("evaluate", "--run", against.name)]
        )
    return sets, others


def _apart(name: str, left: QuestionSetResult | None, right: QuestionSetResult | None, a: str, b: str) -> str | None:
    if left is None or right is None:
        return f"{name} was answered by {a if right is None else b} only."
    shas = left.questions.sha256, right.questions.sha256
    if shas[0] != shas[1]:
        return (
            f"{a} and {b} answered different questions under the name {name} (SHA-256 {shas[0][:12]} and {shas[1][:12]}), "
            "so their figures cannot be compared."
        )
    if left.questions.n_questions != right.questions.n_questions:
        return f"{a} and {b} answered different parts of {name}: questions that a run was trained on are left out."
    return None


def _set(
    left: QuestionSetResult,
    right: QuestionSetResult,
    a: Answered,
    b: Answered,
    names: tuple[str, str],
    catalogue: Catalogue,
    media: Media,
) -> dict[str, Any]:
    figures, orders = paired(a, b), [each.how.permutations for each in (left, right)]
    said = sentence(*names, figures)
    if orders[0] != orders[1]:
        said += f" {names[0]} was asked every question in {orders[0]} orders of its options, {names[1]} in {orders[1]}."
    groups = []
    for way in breakdowns(a, catalogue, max(orders)):
        rows = []
        for row in way["rows"]:
            members = way["group"] == row["place"]
            delta, low, high = paired_difference(a.right[members], b.right[members])
            other = float(b.right[members].mean())
            rows.append({**row, "a": row["hit@1"], "b": other, "delta": delta, "interval": [low, high]})
        groups.append({"title": way["title"], "rows": rows})
    gained, lost = (a.right & ~b.right), (b.right & ~a.right)
    return {
        "questions": left.questions,
        "figures": figures,
        "sentence": said,
        "groups": groups,
        "hidden": _hidden(left, right),
        "attention": [
            {"run": name, "numbers": found}
            for name, each in zip(names, (left, right), strict=True)
            if (found := answers.attention(each))
        ],
        "seconds": [_seconds(each) for each in (left, right)],
        "kinds": [
            {
                "key": key,
                "title": title,
                "note": f"Right in {right}, not in {wrong}: {rows.sum():,} questions. Shown: where the right item gained most.",
                "cards": [{**_pair(a, b, q, media), "kind": key} for q in _moved(a, b, rows)],
            }
            for key, title, right, wrong, rows in (
                ("gained", "Gained", *names, gained),
                ("lost", "Lost", *reversed(names), lost),
            )
            if rows.any()
        ],
    }


def _moved(a: Answered, b: Answered, rows: np.ndarray) -> list[int]:
    """The question numbers in ``rows`` [q] where the right item's probability moved most."""
    numbers = np.flatnonzero(rows)
    truth = a.truth[numbers]
    moved = np.abs(a.probabilities[numbers, truth] - b.probabilities[numbers, truth])
    return numbers[np.argsort(-moved, kind="stable")][:SHOWN].tolist()


def _pair(a: Answered, b: Answered, q: int, media: Media) -> dict[str, Any]:
    both = card(a, q, media)
    for k, option in enumerate(both["options"]):
        option["other"] = float(b.probabilities[q, k])
        option["other_chosen"] = k == int(b.predicted[q])
    return both


def _hidden(left: QuestionSetResult, right: QuestionSetResult) -> list[dict[str, Any]]:
    """What hiding each part cost either run."""
    costs = [{row.without: row for row in each.ablation} for each in (left, right)]
    return [
        {"name": left_out(name), "a": costs[0].get(name), "b": costs[1].get(name)}
        for name in dict.fromkeys([*costs[0], *costs[1]])
    ]


def _seconds(results: QuestionSetResult) -> dict[str, float | None]:
    row = results.model_row
    if row is None:
        return {"answering": None, "training": None}
    return {"answering": row.seconds, "training": row.training_seconds}


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    """Everything that a run was made with, by dotted names."""
    flat: dict[str, Any] = {"recipe": manifest.get("recipe_name"), "seed": manifest.get("seed")}
    for section, table in (manifest.get("recipe") or {}).items():
        flat |= (
            {f"{section}.{key}": value for key, value in table.items()} if isinstance(table, dict) else {section: table}
        )
    base = manifest.get("base") or {}
    flat |= {"weights of the base": str(base.get("fingerprint"))[:12], "base": base.get("spec")}
    for part, asked in (manifest.get("questions") or {}).items():
        if isinstance(asked, dict):
            flat[f"{part} questions"] = f"{asked.get('name')} {str(asked.get('sha256'))[:12]}"
    return flat | {f"version of {name}": number for name, number in (manifest.get("versions") or {}).items()}


def _described(key: str, sections: Mapping[str, Any]) -> str:
    try:
        return field_of(key, sections).description or ""
    except RecipeError:
        return ""


def _shown(flat: dict[str, Any], key: str) -> str:
    value = flat.get(key)
    return "\u2013" if value is None else value if isinstance(value, str) else json.dumps(value)


def _table_change(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, Any]:
    if a is None or b is None:
        return {"change": "only in one of the runs", "differs": True}
    if a["fingerprint"] != b["fingerprint"] or a["spec"] != b["spec"]:
        return {"change": "another encoder, or other weights", "differs": True}
    if a["table"] != b["table"]:
        return {"change": "the same encoder in another table", "differs": True}
    if a["version"] != b["version"]:
        return {"change": "the table was written to in between", "differs": True}
    return {"change": "the very same", "differs": False}
