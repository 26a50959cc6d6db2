"""Finds what an instruct model's own chat template puts around one user message.

The template comes with the tokenizer and is the only source of markers, system texts and spaces: nothing about any
family of models is written here. It is the program of somebody else; transformers runs it in jinja's sandbox.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundlecache.errors import RecipeError, first_line

from .tokens import ALPHABET, encode_control

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

MESSAGE = "the-message-of-the-user"  # stands for the message while the text around it is found
FIXED = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""Variables that some templates read: answer without thinking first, and give the same text on every day."""
MAX_TEMPLATE_CHARS = 200_000  # of a rendered template; a real one adds some hundred to the message


MAX_TEMPLATE_LINES = 3_000_000
"""Lines of Python that one rendering may run, its compilation included: about two seconds. A real one runs some 10,000."""


@dataclass(frozen=True)
class Frame:
    """The text in front of a user's message, and behind it up to where the answer begins."""

    head: str = ""
    tail: str = ""

    def __bool__(self) -> bool:
        return bool(self.head or self.tail)


def frame(tokenizer: Any) -> Frame:
    """The frame of ``tokenizer``'s own template.

    Raises
    ------
    RecipeError
        When there is no template, or none that takes a single user message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RecipeError(
            "This base model's tokenizer has no chat template, so it is no instruct model.",
            hint="--set prompt.template=paper",
        )
    rendered = _render(tokenizer, [{"role": "user", "content": MESSAGE}], answered=False)
    if rendered.count(MESSAGE) != 1:
        raise RecipeError(
            f"The chat template shows a user's message {rendered.count(MESSAGE)} times instead of once.",
            hint="--set prompt.template=paper",
        )
    head, _, tail = rendered.partition(MESSAGE)
    whole = Frame(head, tail)
    if tail.endswith(" ") and not letter_spellings(tokenizer, whole)[0]:
        return Frame(head, tail.rstrip(" "))  # the last space belongs to the token of the answer
    return whole


def letter_spellings(tokenizer: Any, around: Frame, answers: Sequence[str] = ALPHABET) -> list[list[int]]:
    """The first id of each answer "A", "B", ... (or of ``answers``) where the template has an assistant say it; empty where
    it shares a token with the text before it.
    """
    asked = around.head + MESSAGE + around.tail
    before = encode_control(tokenizer, asked)
    spellings = []
    for letter in answers:
        turns = [{"role": "user", "content": MESSAGE}, {"role": "assistant", "content": letter}]
        said = _render(tokenizer, turns, answered=True)
        if not said.startswith(asked):  # the template writes down an answer otherwise than it asks for one
            said = asked + letter
        ids = encode_control(tokenizer, said)
        spellings.append(ids[len(before) : len(before) + 1] if ids[: len(before)] == before else [])
    return spellings


def _render(tokenizer: Any, turns: list[dict[str, str]], *, answered: bool) -> str:
    try:
        with _lines_limited(MAX_TEMPLATE_LINES):
            text = str(
                tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answered, **FIXED)
            )
    except Exception as error:  # jinja's errors, and whatever the template's own expressions raise
        raise RecipeError(
            f"The chat template of this base model cannot be used: {first_line(error)}.",
            hint="--set prompt.template=paper",
        ) from error
    if len(text) > MAX_TEMPLATE_CHARS:
        raise RecipeError(
            f"The chat template of this base model writes {len(text):,} characters around one message.",
            hint="--set prompt.template=paper",
        )
    return text


@contextmanager
def _lines_limited(count: int) -> Iterator[None]:
    """Raise TimeoutError in what is called here when it has run so many lines of Python: loops within loops have no other end."""
    left, before = [count], sys.gettrace()

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                raise TimeoutError(f"it has not ended after {count:,} steps")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
