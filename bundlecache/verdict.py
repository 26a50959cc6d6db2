"""What a table of methods says, in sentences, for readers who do not want to read tables.

A difference is called one only where its paired 95 % interval leaves out zero; everything else is
"cannot be told apart on these questions". A model that loses is said to lose.
"""

from __future__ import annotations

from typing import Any

SHORTCUTS = {
    "popularity": "picking the most popular option",
    "category slots": "looking at nothing but the categories",
}
NAMES = {"text": "text", "image": "picture", "audio": "sound", "graph": "graph"}


def sentences(results: dict[str, Any]) -> list[str]:
    """The verdict on one question set, from its methods and ablation; see `bench` for their layout."""
    methods = results["methods"]
    by_name = {row["name"]: row for row in methods}
    model = by_name.get(results.get("model"))
    out = [_opening(results, model)] if model else [_no_model(results)]
    if model is not None:
        cosines = [row for row in methods if is_single_cosine(row)]
        collaborative = [row for row in methods if row["kind"] == "collaborative"]
        rest = [row for row in methods if row["kind"] == "content" and row not in cosines]
        out += _against(cosines, "every cosine of a single modality", "the best cosine of a single modality")
        out += _against(collaborative, "every baseline of who took what", "the best baseline of who took what")
        out += _against(rest, "every other baseline", "the best other baseline")
        out += [_earlier(row) for row in methods if row["kind"] == "model" and row is not model]
        if model["valid_ratio"] < 1:
            share = _percent(1 - model["valid_ratio"])
            out.append(f"In {share} of the questions the model's answer was no option letter; these count as misses.")
    out += _shortcuts(by_name, results["questions"]["n_options"])
    out += [_ablated(row) for row in results["ablation"]]
    return out


def is_single_cosine(row: dict[str, Any]) -> bool:
    """Whether a row is the cosine of one content modality."""
    return row["kind"] == "content" and row["name"].startswith("cosine ") and row["name"] != "cosine sum"


def standing(interval: list[float]) -> str:
    """``better``, ``worse`` or ``level``: where the model stands by the interval of its difference."""
    low, high = interval
    return "better" if low > 0 else "worse" if high < 0 else "level"


def _opening(results: dict[str, Any], model: dict[str, Any]) -> str:
    questions = results["questions"]
    low, high = model["hit@1_interval"]
    return (
        f"The model ({model['name']}) finds the missing item at its first attempt in {_percent(model['hit@1'])} of "
        f"{questions['n_questions']:,} {questions['split']} questions with {questions['n_options']} options "
        f"(95 % interval {_percent(low)} to {_percent(high)}); guessing finds {_percent(1 / questions['n_options'])}."
    )


def _no_model(results: dict[str, Any]) -> str:
    questions, best = results["questions"], results["methods"][0]
    return (
        f"No trained model was evaluated on these {questions['n_questions']:,} questions; the best baseline is "
        f"{best['name']} with {_percent(best['hit@1'])}."
    )


def _against(rows: list[dict[str, Any]], every: str, best_of: str) -> list[str]:
    """How the model stands against a family of baselines; ``rows`` are best first."""
    if not rows:
        return []
    unbeaten = [row for row in rows if standing(row["versus_model"]["interval"]) != "better"]
    row = (unbeaten or rows)[0]
    seen = f"{row['name']} finds {_percent(row['hit@1'])}, {_difference(row['versus_model'])}"
    if not unbeaten:
        return [
            f"It beats {every}; the strongest is {row['name']}, which finds {_percent(row['hit@1'])}, {_difference(row['versus_model'])}."
        ]
    if standing(row["versus_model"]["interval"]) == "worse":
        return [f"It loses to {best_of}: {seen}."]
    return [f"It cannot be told apart from {best_of} on these questions: {seen}."]


def _difference(versus: dict[str, Any]) -> str:
    low, high = versus["interval"]
    side = "behind the model" if versus["delta"] >= 0 else "ahead of it"
    return f"{_points(abs(versus['delta']))} {side} (95 % interval of the difference {low * 100:+.1f} to {high * 100:+.1f})"


def _earlier(row: dict[str, Any]) -> str:
    versus = row["versus_model"]
    words = {
        "better": "The model beats",
        "worse": "The model falls behind",
        "level": "The model cannot be told apart from",
    }
    return f"{words[standing(versus['interval'])]} {row['name']}, which finds {_percent(row['hit@1'])}, {_difference(versus)}."


def _shortcuts(by_name: dict[str, dict[str, Any]], n_options: int) -> list[str]:
    """Baselines that should know nothing of the bundle, and still answer well: then the questions are easy."""
    return [
        f"A shortcut solves part of these questions: {words} finds {_percent(by_name[name]['hit@1'])}."
        for name, words in SHORTCUTS.items()
        if name in by_name and by_name[name]["hit@1_interval"][0] > 1.5 / n_options
    ]


def _ablated(row: dict[str, Any]) -> str:
    low, high = row["delta_interval"]
    interval = f"(95 % interval {low * 100:+.1f} to {high * 100:+.1f})"
    vectors = f"the {NAMES.get(row['without'], row['without'])} vectors"
    if high < 0:
        return (
            f"Without {vectors} it finds {_percent(row['hit@1'])}: they are worth {_points(-row['delta'])} {interval}."
        )
    if low > 0:
        return f"Without {vectors} it does better, by {_points(row['delta'])} {interval}: they do harm here."
    return f"Without {vectors} nothing measurable changes {interval}."


def _percent(rate: float) -> str:
    return f"{rate * 100:.1f} %"


def _points(rate: float) -> str:
    return f"{rate * 100:.1f} points"
