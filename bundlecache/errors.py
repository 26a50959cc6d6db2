"""The one family of errors that a user of bundlecache is meant to read.

Every message is one sentence that says what was given and what is allowed; ``hint`` says what to type
next. The command line prints both and exits with 1. Anything else that is raised is a bug, and keeps
its traceback.
"""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what it counts, as sentences need it.

    >>> counted(1, "item"), counted(2000, "item"), counted(0, "entry is", "entries are")
    ('1 item', '2,000 items', '0 entries are')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


class BundlecacheError(Exception):
    """Something the user can mend: ``message`` says what, ``hint`` what to type next."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

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


class CheckpointError(BundlecacheError):
    """A run folder is missing, incomplete or belongs to other vectors or questions."""
