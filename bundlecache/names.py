"""One check for all names that become names of files or tags: runs, question sets, indexes, candidates, encoders.

A name is written to disk as it is typed, so it must be valid on every file system, and two different names must never
become one file. ``tag_name`` makes the tag of a Lance table from a run's name; Lance takes fewer characters.
"""

from __future__ import annotations

import hashlib
import re

from .errors import BundlecacheError, Hint

MAX_NAME_CHARS = 100  # endings such as .parquet and the names of temporary files are added; 255 bytes are allowed
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]*")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # device names of Windows
TAG = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
TAG_PREFIX = "run-"


def is_name(name: str) -> bool:
    """Whether `check_name` accepts ``name``."""
    return (
        bool(NAME.fullmatch(name)) and len(name) <= MAX_NAME_CHARS and name[-1] != "." and not RESERVED.fullmatch(name)
    )


def check_name(name: str, what: str = "run", *, hint: Hint = "--name second") -> str:
    """``name``, if it may become the name of a file, folder or tag.

    Parameters
    ----------
    name
        What the user typed.
    what
        What is named, for the sentence: "run", "question set", "index", "encoder".

    Raises
    ------
    BundlecacheError
        When it is empty, too long, has other characters than letters and digits of ASCII and ``. _ - + @``, starts
        with one of these, ends with a dot, or is a device name of Windows.

    >>> check_name("second-try.1")
    'second-try.1'
    """
    if is_name(name):
        return name
    shown = name if len(name) <= MAX_NAME_CHARS else f"{name[:20]}...{name[-10:]} ({len(name):,} characters)"
    article = "an" if what[:1] in "aeiou" else "a"
    reserved = "; this one is reserved on Windows" if RESERVED.fullmatch(name) else ""
    raise BundlecacheError(
        f"{shown!r} cannot be the name of {article} {what}: a name has 1 to {MAX_NAME_CHARS} of the characters A-Z a-z 0-9 . _ - + @, "
        f"starts with a letter or digit and does not end with a dot{reserved}.",
        hint=hint,
    )


def tag_name(run: str) -> str:
    """The tag that a run's name gets on the tables it was trained on.

    Names that Lance cannot use as a tag are replaced by their readable part and 8 digits of their SHA-256.

    >>> tag_name("demo-seed0"), tag_name("a+b")
    ('run-demo-seed0', 'run-a-b.300273da')
    """
    if TAG.fullmatch(run) and not run.endswith(".lock") and len(run) <= 2 * MAX_NAME_CHARS:
        return f"{TAG_PREFIX}{run}"
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", run)[:60].strip("-") or "x"
    return f"{TAG_PREFIX}{readable}.{hashlib.sha256(run.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
