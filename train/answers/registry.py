"""The answer forms by name, with the prompts that they ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompts.builder import PromptBuilder
from ..prompts.option_blocks import BlockPrompts
from .form import AnswerForm
from .letters import Letters
from .likelihood import Likelihood
from .pointer import Pointer
from .yes_no import YesNo

if TYPE_CHECKING:
    from bundlecache.recipes.recipe import Recipe


def make_form(name: str, hidden: int, *, fused: bool, evidence: bool = False) -> AnswerForm:
    """The form ``name`` for a language model of width ``hidden``.

    ``fused``: the model has fused tokens; ``evidence``: and what simple methods know of the options.
    """
    if name == "pointer":
        return Pointer(hidden, fused=fused)
    return Letters() if name == "letters" else {"likelihood": Likelihood, "yes-no": YesNo}[name](evidence=evidence)


def make_prompts(
    recipe: Recipe,
    tokenizer: Any,
    titles: Sequence[str],
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PromptBuilder:
    """The builder of the prompts that the form of ``recipe`` asks.

    Raises
    ------
    RecipeError
        When the template is unknown, or the tokenizer lacks the token of an answer.
    """
    form = recipe.answer.form
    if form == "letters":
        return PromptBuilder(tokenizer, titles, recipe.prompt, recipe.data.options, cache, progress)
    titled = recipe.answer.option_titles
    return BlockPrompts(tokenizer, titles, recipe.prompt, form, cache, progress, titled=titled)
