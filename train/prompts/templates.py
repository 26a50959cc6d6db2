"""The wordings of a prompt, and which of them a recipe and a tokenizer lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bundlecache.errors import RecipeError


@dataclass(frozen=True)
class Template:
    """The pieces of a prompt, in order; ``{number}``, ``{letter}`` and the words of the recipe are filled in."""

    opening: str  # up to the partial bundle
    opening_with_history: str  # up to the user's history, where the prompt contains it
    after_history: str  # from there to the partial bundle
    partial_label: str
    option_label: str
    before_soft: str  # between title and separator, only where a fused token follows
    after_item: str
    after_partial: str  # from the partial bundle to the options
    closing: str
    soft_space: str = ""  # in front of everything soft
    labelled_blocks: bool = False  # an option that is a text of its own begins with the label of a first option
    separate_segments: bool = False  # texts between soft places are tokenised as if nothing stood before them

    def filled(self, words: Mapping[str, str]) -> Template:
        """The template with the words of the recipe; numbers and letters are still to come."""
        texts = ("opening", "opening_with_history", "after_history", "after_partial", "closing")
        return replace(self, **{name: getattr(self, name).format(**words) for name in texts})


# The wording of the paper's experiments, with the answer one space behind the colon. The user's history is ours.
_TASK = (
    "You are a helpful and honest assistant. The following are multiple choice questions about {task}."
    " You should directly answer the question by choosing the letter of the correct option. Only provide the"
    " letter of your answer, without any explanation or mentioning the option content. Question:"
)
_PARTIAL = " Given the partial {bundle}:"
PAPER = Template(
    opening=_TASK + _PARTIAL,
    opening_with_history=f"{_TASK} The user's history, latest last:",
    after_history=_PARTIAL,
    partial_label=" {number}.",
    option_label=" {letter}.",
    before_soft=",",
    after_item=";",
    after_partial=" , which candidate {item} should be included into this {bundle}?\nOptions:",
    closing=" \nYour answer should indicate your choice with a single letter (e.g., “A,” “B,” “C,” etc.).\nChoice:",
)
TEMPLATES = {
    "brief": Template("Bundle:", "History:", "\nBundle:", "", " {letter}", "", ";", "\nOptions:", "\nAnswer:"),
    "paper": PAPER,
    "chat": replace(PAPER, closing=PAPER.closing.removesuffix("\nChoice:")),
    # The public code's: a space in front of everything soft and of the answer, each text tokenised by itself.
    "public-code": replace(PAPER, closing=f"{PAPER.closing} ", soft_space=" ", separate_segments=True),
}


def template_name(asked: str, tokenizer: Any) -> str:
    """The name of the template that ``prompt.template`` asks for; ``auto`` is ``chat`` for an instruct model, else ``paper``.

    Raises
    ------
    RecipeError
        When there is no such template.
    """
    if asked == "auto":
        return "chat" if getattr(tokenizer, "chat_template", None) else "paper"
    if asked not in TEMPLATES:
        raise RecipeError(
            f"There is no prompt template {asked!r}; there are {', '.join(TEMPLATES)}, auto.",
            hint="--set prompt.template=auto",
        )
    return asked


_LEAD = "You are a helpful and honest assistant. The following are questions about {task}. Question:"
_QUESTION = " , should the following candidate {item} be included into this {bundle}?\nCandidate:"
_BRIEF: dict[str, dict[str, Any]] = {
    # The embedded base learnt to judge an option at its end where it begins with a letter: .88 of random questions, not .77.
    "pointer": {"closing": "", "labelled_blocks": True},
    "likelihood": {"after_partial": "\nAnswer:", "closing": ""},
    "yes-no": {"labelled_blocks": True},
}
_LONG: dict[str, dict[str, Any]] = {
    "pointer": {"after_partial": _QUESTION, "closing": ""},
    "likelihood": {
        "after_partial": " , which {item} should be included into this {bundle}? Answer with its title.",
        "closing": "",
    },
    "yes-no": {"after_partial": _QUESTION, "closing": " \nAnswer with yes or no."},
}
_LINE = {"likelihood": ("after_partial", "\nTitle:"), "yes-no": ("closing", "\nAnswer:")}
"""What a wording without a chat template adds, so that the answer begins behind a colon."""


def template_of(name: str, form: str) -> Template:
    """The template ``name`` as the answer form ``form`` asks: of other forms than letters, each option is a text of its own."""
    template = TEMPLATES[name]
    if form == "letters":
        return template
    if name == "brief":
        return replace(template, **_BRIEF[form])
    changes: dict[str, Any] = {
        "opening": _LEAD + _PARTIAL,
        "opening_with_history": f"{_LEAD} The user's history, latest last:",
    }
    changes |= _LONG[form]
    if name != "chat" and form in _LINE:
        field, line = _LINE[form]
        changes[field] += line
    return replace(template, **changes)
