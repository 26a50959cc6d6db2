"""The modalities of an item, and the one check of a modality that a user names."""

from __future__ import annotations

from .errors import BundlecacheError, Command

MODALITIES = ("text", "image", "audio", "graph")
"""In the order in which tables, reports and recipes list them."""


def check_modality(name: str) -> str:
    """``name``, if it is a modality.

    Raises
    ------
    BundlecacheError
        When it is none.

    >>> check_modality("image")
    'image'
    """
    if name not in MODALITIES:
        raise BundlecacheError(
            f"There is no modality {name[:80]!r}; there are {', '.join(MODALITIES)}.",
            hint=Command("encode", "--modality", "image"),
        )
    return name
