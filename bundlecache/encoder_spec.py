"""The name of an encoder: ``kind:name@revision#columns``, parsed in one place.

``hf:FOLDER`` encodes titles; ``hf:FOLDER#title+category`` encodes both columns of the items table and counts
everywhere as an encoder of its own, with its own table, cosine and place in recipes. The columns are part of the
spec because tables, runs and reports refer to an encoder by its spec. A spec without columns means titles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TITLE = ("title",)  # the columns of a text encoder whose spec names none


@dataclass(frozen=True)
class EncoderSpec:
    """The parts of a spec; ``text`` is the whole of it, as tables and messages show it.

    >>> spec = EncoderSpec.parse("hf:MiniLM@v2#title+category")
    >>> spec.kind, spec.name, spec.revision, spec.columns
    ('hf', 'MiniLM', 'v2', ('title', 'category'))
    >>> spec.without_columns, spec.with_columns(["brand"]).text
    ('hf:MiniLM@v2', 'hf:MiniLM@v2#brand')
    """

    text: str
    kind: str
    name: str
    revision: str | None = None
    columns: tuple[str, ...] = TITLE  # of the items table; only text encoders read others than the title

    @classmethod
    def parse(cls, text: str) -> EncoderSpec:
        """Split a spec; an ``@`` or ``#`` that belongs to an existing path stays in the name."""
        plain, columns = _split_columns(text)
        kind, _, name = plain.partition(":")
        if "@" not in name or _exists(name.removeprefix("local-dir:")):
            return cls(text, kind, name, None, columns)
        name, _, revision = name.rpartition("@")
        return cls(text, kind, name, revision or None, columns)

    @property
    def without_columns(self) -> str:
        """The spec without its columns: the same for all encoders that share the weights."""
        return _split_columns(self.text)[0]

    def with_columns(self, columns: Sequence[str]) -> EncoderSpec:
        """The same encoder for the text of these columns, in their order; repeated names count once.

        >>> EncoderSpec.parse("descriptor:text#brand").with_columns(["title"]).text
        'descriptor:text'
        """
        columns, plain = tuple(dict.fromkeys(columns)), self.without_columns
        text = plain if columns == TITLE else f"{plain}#{'+'.join(columns)}"
        return EncoderSpec(text, self.kind, self.name, self.revision, columns)


def _split_columns(text: str) -> tuple[str, tuple[str, ...]]:
    plain, mark, listed = text.rpartition("#")
    if not mark or _exists(text.partition(":")[2]):
        return text, TITLE
    return plain, tuple(listed.split("+"))


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))  # noqa: PTH110, PTH111 - pathlib raises for a name that is too long
