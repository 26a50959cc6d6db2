"""The specs of derived encoders: ``pca128:SPEC``, ``first128:SPEC`` and ``int8:SPEC`` of any stored encoder SPEC, also of one another."""

from __future__ import annotations

import re
from dataclasses import dataclass

DERIVED = re.compile(r"(?P<kind>pca|first)(?P<dim>[1-9]\d{0,4})|(?P<int8>int8)")
FORMS = (
    ("pcaN:SPEC", "N principal axes of the stored vectors of another encoder; reads no file"),
    ("firstN:SPEC", "the first N numbers of stored vectors, for encoders trained that way (Matryoshka)"),
    ("int8:SPEC", "stored vectors in one byte a number"),
)


@dataclass(frozen=True)
class Derivation:
    """What is done to the stored vectors of ``parent``: ``pca`` or ``first`` to ``dim`` numbers, or ``int8`` (0)."""

    kind: str
    dim: int
    parent: str

    @classmethod
    def parse(cls, spec: str) -> Derivation | None:
        """The parts of a spec; None where it is not derived.

        >>> Derivation.parse("int8:pca128:descriptor:picture")
        Derivation(kind='int8', dim=0, parent='pca128:descriptor:picture')
        >>> Derivation.parse("descriptor:picture") is None
        True
        """
        word, _, parent = spec.partition(":")
        found = DERIVED.fullmatch(word)
        if found is None or not parent:
            return None
        return cls(found["kind"] or "int8", int(found["dim"] or 0), parent)


def generic(word: str) -> str:
    """The word before the colon of a spec as it stands in the registry.

    >>> generic("pca128"), generic("hf")
    ('pcaN', 'hf')
    """
    found = DERIVED.fullmatch(word)
    return word if found is None or found["int8"] else f"{found['kind']}N"
