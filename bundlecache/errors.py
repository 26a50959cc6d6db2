"""The errors that a user of bundlecache is meant to read, and the commands that they propose.

Every message is one sentence that says what was given and what is allowed; ``hint`` says what to do next. The command
line prints both and exits with 1. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .text import clean_text

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, init=False)
class Command:
    """A command of bundlecache, as data: the verb and its arguments. The workspace is added when it is shown.

    >>> print(Command("encode", "--modality", "image"))
    bundlecache encode --modality image
    >>> Command("train").line("my shop")
    "bundlecache train --data 'my shop'"
    """

    verb: str
    arguments: tuple[str, ...]

    def __init__(self, verb: str, *arguments: object) -> None:
        object.__setattr__(self, "verb", verb)
        object.__setattr__(self, "arguments", tuple(map(str, arguments)))

    def line(self, data: Path | str | None = None) -> str:
        """The line to type; ``data`` is the workspace, if it is not the default one."""
        words = ["bundlecache", self.verb, *self.arguments]
        if data is not None and "--data" not in self.arguments:
            words += ["--data", str(data)]
        return " ".join(word if word.isupper() else shlex.quote(word) for word in words)  # DIR stays a placeholder

    def __str__(self) -> str:
        return self.line()


Hint: TypeAlias = str | Command | Sequence[str | Command]
"""What to do next: words, a command, or a sequence of both, which are joined by spaces."""


def hint_text(hint: Hint | None, data: Path | str | None = None) -> str:
    """A hint as one line, its commands with the workspace ``data``.

    >>> hint_text(["choose an empty folder, or", Command("demo", "--overwrite")])
    'choose an empty folder, or bundlecache demo --overwrite'
    """
    parts = [hint] if isinstance(hint, str | Command) else (hint or ())
    return " ".join(part.line(data) if isinstance(part, Command) else part for part in parts)


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what it counts, as sentences need it.

    >>> counted(1, "item"), counted(2000, "item"), counted(0, "entry is", "entries are")
    ('1 item', '2,000 items', '0 entries are')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop, for a sentence of ours; the error's type if it has no text.

    >>> first_line(ValueError("no such layer.\\nsee above"))
    'no such layer'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]


class BundlecacheError(Exception):
    """A problem that the user can solve: ``message`` says what is wrong, ``hint`` what to type next.

    ``advice`` is the hint as it was given; its commands are data, so that a face can add the workspace to them.
    """

    def __init__(self, message: str, *, hint: Hint | None = None) -> None:
        self.message = clean_text(
            message
        )  # names of files, columns and arguments may hold characters that steer a terminal
        super().__init__(self.message)
        self.advice = hint
        self.hint = clean_text(hint_text(hint)) if hint else None

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class CatalogueError(BundlecacheError):
    """The workspace or one of its input tables cannot be used."""


class MediaError(BundlecacheError):
    """One item's picture, sound or text cannot be used; the message is the reason in the errors table."""


class EncoderError(BundlecacheError):
    """An encoder is unknown, cannot be loaded or gave something that is no vector."""


class StoreError(BundlecacheError):
    """The embedding store lacks something, is locked, damaged or cannot be written."""


class QuestionsError(BundlecacheError):
    """A question or candidate file is missing, damaged or does not fit the catalogue."""


class RecipeError(BundlecacheError):
    """A training recipe, or the language model it names, cannot be used."""


class LongPromptError(RecipeError):
    """A prompt is longer than the language model can read: the matter of one question, which others may be without."""


class CheckpointError(BundlecacheError):
    """A run folder is missing, incomplete or belongs to other vectors or questions."""
