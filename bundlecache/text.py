"""One cleaning of text from elsewhere (tables, file names, arguments) before a terminal or a message shows it."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")  # would steer a terminal
MAX_SHOWN_CHARS = 80  # of a value quoted in a message


def clean_text(text: str) -> str:
    """``text`` in one line, with a space in place of control characters and marks of the writing direction.

    >>> clean_text("red\\x1b[31m\\ndress")
    'red [31m dress'
    """
    return CONTROL.sub(" ", text)


def quoted(value: object, limit: int = MAX_SHOWN_CHARS) -> str:
    """A value as a message quotes it: one line, no control characters, cut to ``limit`` characters.

    >>> quoted("lamp\\n"), quoted("x" * 200, limit=6)
    ("'lamp '", "'xxxxx…'")
    """
    text = str(value)
    text = clean_text(text[: limit + 1])
    return repr(text if len(text) <= limit else f"{text[: limit - 1]}…")


def listed(names: list[str], limit: int = 30) -> str:
    """Names for a message, separated by commas; beyond ``limit`` their number stands for them.

    >>> listed(["a", "b", "c"], limit=2), listed([])
    ('a, b and 1 more', 'none')
    """
    shown = ", ".join(quoted(name)[1:-1] for name in names[:limit])
    return f"{shown} and {len(names) - limit:,} more" if len(names) > limit else shown or "none"
