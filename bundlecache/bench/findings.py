"""Describes a table of methods in sentences.

A difference is reported only where its paired 95 % interval excludes zero; otherwise the methods "cannot be told
apart".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..questions.sample import SampleInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .result_rows import AblationRow, Difference, MethodResult, ProbeResult
    from .results import QuestionSetResult

SHORTCUTS = {
    "popularity": "picking the most popular option",
    "category slots": "looking at nothing but the categories that go together",
    "category overlap": "picking the option of the most similar category",
}
LEAK = "leaking graph"
NAMES = {"image": "picture", "audio": "sound"}
ALONE = {"history": "user's history", "evidence": "evidence of simple methods"}
"""What a model may be asked without, beside vectors of a modality."""
SPLITS = {"valid": "validation", "test": "test"}


class OnTopRow(Protocol):
    """A method that may rerank another one."""

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def on_top_of(self) -> Difference | None: ...  # noqa: D102


def sentences(results: QuestionSetResult) -> list[str]:
    """The findings on one question set."""
    methods = results.methods
    by_name, model = results.by_name(), results.model_row
    out = [_opening(results, model)] if model else [_no_model(results)]
    out += sampled(results.questions.samples)
    out += left_out_questions(results.questions.trained_on, results.questions.n_questions)
    out += chosen_on(results.questions.split)
    if model is not None:
        cosines = [row for row in methods if is_single_cosine(row)]
        collaborative = [row for row in methods if row.kind == "collaborative"]
        rest = [row for row in methods if row.kind == "content" and row not in cosines]
        out += _against(cosines, "every cosine of a single modality", "the best cosine of a single modality")
        out += _against(collaborative, "every baseline of who took what", "the best baseline of who took what")
        out += _against(rest, "every other baseline", "the best other baseline")
        variants = [row for row in methods if row.kind == "model" and row is not model]
        out += [_together(row) if row.on_top_of is not None else _variant(row) for row in variants]
        if model.valid_ratio < 1:
            share = _percent(1 - model.valid_ratio)
            out.append(f"In {share} of the questions the model's answer was no option letter; these count as misses.")
    if (orders := results.how.permutations) > 1 and any(row.kind == "model" for row in methods):
        out.append(
            f"Models were asked every question in {orders} orders of its options; their probabilities are averaged."
        )
    return out + personal(methods) + _shortcuts(by_name, results) + _probes(results) + results.leaks


def left_out_questions(count: int, asked: int) -> list[str]:
    """How many questions were not asked, because a run has seen their bundles.

    >>> left_out_questions(256, 100)[0]
    '256 of 356 questions are left out: a run was trained on or selected with their bundle, its group or exactly its items.'
    """
    if not count:
        return []
    return [
        f"{count:,} of {count + asked:,} questions are left out: a run was trained on or selected with their bundle, its group "
        "or exactly its items."
    ]


def sampled(samples: Sequence[SampleInfo]) -> list[str]:
    """How many of the frozen questions were asked, and what asks all of them; nothing where all were asked.

    >>> sampled([SampleInfo(5000, 20000, 0, "...", "...")])[0]
    'The questions are a fixed sample: 5,000 of 20,000 (seed 0); --sample all asks all of them.'
    """
    if not samples:
        return []
    asked, of = sum(each.n_questions for each in samples), sum(each.of for each in samples)
    return [
        f"The questions are a fixed sample: {asked:,} of {of:,} (seed {samples[0].seed}); --sample all asks all of them."
    ]


def chosen_on(split: str) -> list[str]:
    """A warning where ``split`` was used to choose weights, so that its figures are too high."""
    if "valid" not in split:
        return []
    return [
        "These are validation questions: rankers that learn chose their weights on validation bundles, and trained models "
        "the checkpoint that is kept, so their figures here are too high. Test questions tell what they are worth."
    ]


def near_a_leak(rows: Sequence[MethodResult], probes: Sequence[ProbeResult], suspects: Sequence[str]) -> list[str]:
    """A sentence per stored graph that scores so high that it must contain the held-out edges.

    The limit is halfway between the best method on the training graph and the leaking graph.
    """
    leak = next((row for row in probes if row.name == LEAK), None)
    fair = [row.hit1 for row in rows if row.kind == "collaborative" and row.name not in suspects]
    if leak is None or not fair or leak.hit1 - max(fair) < 0.1:
        return []
    return [
        f"{row.name} looks as if it had seen the held-out edges: it finds {_percent(row.hit1)}, where a graph that "
        f"holds them finds {_percent(leak.hit1)} and training edges alone give {_percent(max(fair))}."
        for row in rows
        if row.name in suspects and row.hit1_interval[0] > (max(fair) + leak.hit1) / 2
    ]


def worth(results: QuestionSetResult) -> list[str]:
    """Compares the model's gain and time with those of the best other method; empty where nothing was timed."""
    methods, chance = results.methods, results.questions.chance
    model = results.model_row
    if model is None:
        return []
    rival = next((row for row in methods if row.kind not in ("model", "chance", "personal")), None)
    if rival is None or rival.versus_model is None:
        return []
    cost, other = model.cost_seconds, rival.cost_seconds
    if cost is None or other is None:
        return []
    took = f"{_seconds(cost)} {'of training and answering' if model.training_seconds else 'to answer'}"
    gain, stands = model.hit1 - rival.hit1, rival.versus_model.standing
    rates = ", ".join(
        f"{max(row.hit1 - chance, 0) * 100 / max(seconds, 1e-3):,.2g} for {row.name}"
        for row, seconds in ((model, cost), (rival, other))
    )
    if stands != "better":
        return [
            f"It is not worth its cost here: it took {took}, and {rival.name} answers "
            f"{'as well' if stands == 'level' else 'better'} in {_seconds(other)}, fitting included."
        ]
    each = (cost - other) / (gain * 100)
    return [
        f"It took {took}, {rival.name} {_seconds(other)}, fitting included: each point gained costs {_seconds(max(each, 0))}. "
        f"Points above chance per second: {rates}."
    ]


def left_out(name: str) -> str:
    """The name of an ablated input.

    >>> left_out("image"), left_out("history"), left_out("evidence")
    ('picture vectors', "user's history", 'evidence of simple methods')
    """
    return ALONE.get(name) or f"{NAMES.get(name, name)} vectors"


def ablated(row: AblationRow) -> str:
    """A sentence on the effect of leaving out one modality, or the user's history."""
    (low, high), single = row.delta_interval, row.without in ALONE
    without = f"Without the {left_out(row.without)}"
    if high < 0:
        worth = f"{'it is' if single else 'they are'} worth {_points(-row.delta)} {_range(-high, -low)}"
        return f"{without} it finds {_percent(row.hit1)}: {worth}."
    if low > 0:
        harm = f"{'it does' if single else 'they do'} harm, {_points(row.delta)} {_range(low, high)}"
        return f"{without} it finds {_percent(row.hit1)}: {harm}."
    return f"{without} nothing measurable changes: {_open(-high, -low)}."


def beyond_evidence(results: QuestionSetResult) -> list[str]:
    """What a model that reads the learned ranker's evidence uses beside it: its own words and fused tokens."""
    ranker = results.by_name().get("learned ranker")
    if ranker is None or ranker.versus_model is None or all(row.without != "evidence" for row in results.ablation):
        return []
    low, high = ranker.versus_model.interval  # of the model less the ranker
    gain = ranker.versus_model.delta
    used = {
        "better": f"add {_points(gain)} {_range(low, high)}",
        "worse": f"cost {_points(-gain)} {_range(-high, -low)}",
        "level": "add nothing that can be told from chance",
    }[ranker.versus_model.standing]
    return [
        f"It reads as evidence all that the {ranker.name} reads; what it uses beyond that, the words of titles and the fused "
        f"tokens of whole bundles, {used}."
    ]


def is_single_cosine(row: MethodResult) -> bool:
    """Whether a row is the cosine of one content modality."""
    return row.kind == "content" and row.name.startswith("cosine ") and row.name != "cosine sum"


def measured(difference: Difference | None) -> Difference:
    """The difference, checked to be measured."""
    if difference is None:
        raise ValueError("no difference was measured for this row")
    return difference


def _standing(row: MethodResult) -> str:
    """The model compared with a row: ``better``, ``worse`` or ``level``."""
    return measured(row.versus_model).standing


def _opening(results: QuestionSetResult, model: MethodResult) -> str:
    questions = results.questions
    return (
        f"{model.name} finds the missing item at its first attempt in {_percent(model.hit1)} of "
        f"{questions.n_questions:,} {SPLITS.get(questions.split, '')} questions {_range(*model.hit1_interval)}; guessing finds "
        f"{_percent(1 / questions.n_options)}. Brackets hold 95% intervals."
    )


def _no_model(results: QuestionSetResult) -> str:
    questions, best = results.questions, results.methods[0]
    return (
        f"No trained model was evaluated on these {questions.n_questions:,} questions; the best baseline is "
        f"{best.name} with {_percent(best.hit1)}."
    )


def _against(rows: Sequence[MethodResult], every: str, best_of: str) -> list[str]:
    """A sentence that compares the model with a family of baselines; ``rows`` are best first."""
    if not rows:
        return []
    unbeaten = [row for row in rows if _standing(row) != "better"]
    row = (unbeaten or rows)[0]
    if not unbeaten:
        return [f"It beats {every}; the strongest is {_seen(row)}."]
    if _standing(row) == "worse":
        return [f"It loses to {best_of}: {_seen(row)}."]
    return [f"It cannot be told apart from {best_of}: {_seen(row)}."]


def _variant(row: MethodResult) -> str:
    words = {"better": "It beats", "worse": "It falls behind", "level": "It cannot be told apart from"}
    return f"{words[_standing(row)]} {_seen(row)}."


def _together(row: MethodResult) -> str:
    """A sentence on what the model adds to the ranker that it reranks."""
    gain = measured(row.on_top_of)
    base, delta, (low, high) = gain.name, gain.delta, gain.interval
    model = row.name.removesuffix(f" + {base}")
    adds = {
        "better": f"adds {_points(delta)} {_range(low, high)} to it",
        "worse": f"costs it {_points(-delta)} {_range(-high, -low)}",
        "level": "adds nothing that can be told from chance",
    }[gain.standing]
    return f"Reranking what the {base} scores by {model} {adds}: together they find {_percent(row.hit1)}."


def personal(methods: Sequence[OnTopRow]) -> list[str]:
    """What the history of a bundle's user adds to the methods that know no user."""
    rows = [row.on_top_of for row in methods if row.kind == "personal" and row.on_top_of is not None]
    said = {
        "better": (
            "adds to",
            [f"{r.name} ({_points(r.delta)})" for r in rows if r.standing == "better"],
        ),
        "worse": (
            "harms",
            [f"{r.name} ({_points(-r.delta)})" for r in rows if r.standing == "worse"],
        ),
        "level": ("changes nothing measurable for", [f"{r.name}" for r in rows if r.standing == "level"]),
    }
    return [f"What the bundle's user took elsewhere {does} {'; '.join(whom)}." for does, whom in said.values() if whom]


def _seen(row: MethodResult) -> str:
    """A method's figure and how far it is from the model's: less where the model is better."""
    versus = measured(row.versus_model)
    delta, (low, high) = versus.delta, versus.interval
    side = {
        "better": f"{_points(delta)} less {_range(low, high)}",
        "worse": f"{_points(-delta)} more {_range(-high, -low)}",
        "level": _open(low, high),
    }[_standing(row)]
    return f"{row.name} with {_percent(row.hit1)}, {side}"


def _shortcuts(by_name: dict[str, MethodResult], results: QuestionSetResult) -> list[str]:
    """Baselines that know little of the bundle, and still answer well: then the questions are easy."""
    chance = results.questions.chance
    probed = any(row.name == "most popular" for row in results.probes)
    return [
        f"A shortcut solves part of these questions: {words} finds {_percent(by_name[name].hit1)}."
        for name, words in SHORTCUTS.items()
        if name in by_name
        and by_name[name].hit1_interval[0] > 1.5 * chance
        and not (name == "popularity" and probed)  # the probe says it
    ]


def _probes(results: QuestionSetResult) -> list[str]:
    """Which leak probes succeed; or that none does."""
    probes = [row for row in results.probes if row.name != LEAK]
    if len(probes) < 2:
        return []
    chance, best = _percent(results.questions.chance), results.methods[0].hit1
    out = [
        f"A leak probe succeeds: {row.words} finds {_percent(row.hit1)} {_range(*row.hit1_interval)}, where guessing "
        f"finds {chance}." + (" These questions are solved by it." if row.hit1 > 0.8 * best else "")
        for row in sorted(probes, key=lambda row: -row.hit1)
        if row.succeeds
    ]
    return out or [f"All {len(probes)} leak probes stand at chance: {', '.join(row.name for row in probes)}."]


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _percent(rate: float) -> str:
    return f"{rate * 100:.1f}%"


def _points(rate: float) -> str:
    return f"{rate * 100:.1f} points"


def _range(low: float, high: float) -> str:
    return f"({low * 100:.1f} to {high * 100:.1f})"


def _open(low: float, high: float) -> str:
    """The range of a difference whose interval includes zero."""
    if low == high == 0:
        return "the same"
    if high <= 0 or low >= 0:
        return f"anything up to {_points(max(-low, high))} {'more' if high <= 0 else 'less'}"
    return f"anything from {_points(-low)} more to {high * 100:.1f} less"
