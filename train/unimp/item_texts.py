"""What UniMP reads of items and of what people wrote: attributes as one text per item, cleaned, cut, and kept as token ids.

An item is ``Category lamp Price 12.50 Brand Birch Title Red lamp``: the columns that the recipe names, each cut to so many
words, ``Unknown`` where it is empty. Their ids are kept on disk as those of titles are (`bundlecache.train.prompts.titles`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bundlecache.errors import RecipeError
from bundlecache.text import listed, quoted

from ..prompts.title_tokens import Ending
from ..prompts.titles import read_titles
from ..prompts.tokens import Packed, clean, encode_many, reserved

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.recipes.unimp_recipe import UnimpPrompt

EMPTY = "Unknown"
"""What stands where an attribute is empty."""
TOKENS_PER_WORD = 8
"""An item's text is cut to so many tokens per word that its attributes may have: long words of no language, for instance."""
MAX_REMEMBERED = 200_000  # texts of people whose ids are kept in memory
ITEM_MARK = " Item"
"""Stands in the key of the cache, so that the ids of items are told from those of titles."""


class ItemTexts:
    """The token ids of all items' texts, and those of any other text on request.

    ``shown`` [I] are the texts as they are read; ``fresh`` says how many had to be tokenised.

    Raises
    ------
    RecipeError
        When the catalogue lacks a column that the recipe names.
    """

    def __init__(
        self,
        tokenizer: Any,
        catalogue: Catalogue,
        settings: UnimpPrompt,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        texts = attribute_texts(catalogue, settings)
        most = settings.attribute_words * TOKENS_PER_WORD * len(settings.attributes)
        found = read_titles(tokenizer, texts, [Ending(ITEM_MARK, "", "")], most, cache, progress)
        self.shown, self.ids, self.fresh = found.shown, found.ids[""], found.fresh
        self._control = reserved(tokenizer)
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, texts: Sequence[str | None], words: int | None = None) -> Packed:
        """The ids of texts that people wrote, cleaned and cut to so many ``words``; an empty list for None."""
        cut = [" ".join(clean(text or "", self._control).split()[:words]) for text in texts]
        new = [text for text in dict.fromkeys(cut) if text and text not in self._known]
        if len(self._known) + len(new) > MAX_REMEMBERED:
            self._known.clear()
            new = [text for text in dict.fromkeys(cut) if text]
        self._known |= dict(zip(new, encode_many(self.tokenizer, [f" {text}" for text in new]), strict=True))
        return Packed.of([self._known[text] if text else [] for text in cut])

    def telling(self, catalogue: Catalogue, cache: Path | None = None) -> ItemTexts:
        """These, or the titles where prompts show no text: what tells one item from the other."""
        if self.settings.attributes:
            return self
        return ItemTexts(self.tokenizer, catalogue, replace(self.settings, attributes=("title",)), cache)

    def extended(self, catalogue: Catalogue, cache: Path | None = None) -> ItemTexts:
        """Those of a catalogue that has grown."""
        return ItemTexts(self.tokenizer, catalogue, self.settings, cache)


def attribute_texts(catalogue: Catalogue, settings: UnimpPrompt) -> pa.Array:
    """The text of every item [I], one column after the other, without a Python object for any of them.

    Raises
    ------
    RecipeError
        When the catalogue lacks a column.
    """
    there = ["title", *catalogue.columns]
    if unknown := [name for name in settings.attributes if name not in there]:
        raise RecipeError(
            f"The items have no column {quoted(unknown[0])} that the model could read; they have {listed(there)}.",
            hint=f"--set prompt.attributes={','.join(name for name in settings.attributes if name in there) or 'title'}",
        )
    parts: list[Any] = []
    for name in settings.attributes:
        cells = (catalogue.titles if name == "title" else catalogue.column(name)).arrow.cast(pa.string())
        if settings.attribute_names:
            parts.append(name.replace("_", " ").capitalize())
        parts.append(_cut(cells, settings.attribute_words))
    joined = pc.binary_join_element_wise(*parts, " ") if parts else pa.array([""] * len(catalogue), pa.string())
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _cut(cells: pa.Array, words: int) -> pa.Array:
    """The first ``words`` of every cell, with single spaces between them; EMPTY where there is none."""
    spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.fill_null(cells, ""), r"\s+", " "))
    cut = pc.replace_substring_regex(spaced, rf"^((?:\S+ ){{{words - 1}}}\S+) .*$", r"\1")
    return pc.if_else(pc.equal(cut, ""), EMPTY, cut)


def rate_places(rating: np.ndarray, rates: int) -> np.ndarray:
    """int64: which of the rate tokens 0..rates - 1 says each rating; halves go to the even one, -1 where there is none.

    >>> rate_places(np.array([1.0, 4.6, 9.0, np.nan]), 5).tolist()
    [0, 4, 4, -1]
    """
    places = np.clip(np.rint(np.nan_to_num(rating, nan=1.0)), 1, rates).astype(np.int64) - 1
    return np.where(np.isnan(rating), -1, places)
