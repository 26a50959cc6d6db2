"""The text of an item as encoders read it: stripped, and refused where nothing is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundlecache.errors import MediaError

if TYPE_CHECKING:
    from pathlib import Path


TEXT_READING = "stripped"


def clean_text(source: Path | str) -> str:
    """A title without surrounding space.

    Raises
    ------
    MediaError
        When nothing is left.
    """
    # A lone half of a surrogate pair (damaged UTF-16) would break every tokenizer.
    text = str(source).encode("utf-8", "ignore").decode("utf-8").strip()
    if not text:
        raise MediaError("the text is empty")
    return text
