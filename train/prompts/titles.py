"""Caches the token ids of titles on disk: no title is tokenised twice by one tokenizer for one wording.

The last word of a title may share a token with what follows (``),`` is one token of Llama-2's). So a title is kept
together with the beginning of what follows it, up to the next space: its *ending*. Most tokenizers have no token with a
space behind another character; then the ids between two spaces do not depend on what stands outside, and a prompt can be
put together by copying ids. This is checked for every title, by tokenising it between the words that stand around it in
a prompt: where the ids of the neighbours are not found again on both sides, the title is marked as not ``exact``, and
prompts that contain it are tokenised whole.

One Arrow file per tokenizer and wording, memory-mapped; for new titles the file is written anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bundlecache.errors import BundlecacheError
from bundlecache.files import replacing

from .tokens import Packed, clean, encode_many, reserved

FORMAT = 1
TITLES_PER_CALL = 8192  # of the tokenizer


@dataclass(frozen=True)
class Ending:
    """What follows a title up to the next space, and an example of what stands before the title and after that.

    ``right`` is empty or begins with a space.
    """

    left: str
    text: str
    right: str


@dataclass(frozen=True)
class Titles:
    """The catalogue's titles in their order: as shown, their ids by ending, and whether those are exact [I]."""

    shown: pa.ChunkedArray
    ids: dict[str, Packed]
    exact: np.ndarray
    fresh: int  # titles that had to be tokenised


def read_titles(
    tokenizer: Any, titles: Sequence[str], endings: Sequence[Ending], max_tokens: int, folder: Path | None
) -> Titles:
    """The ids of ``titles``, from the cache in ``folder`` as far as they are there, else tokenised and kept there.

    A folder that cannot be written, or a damaged file in it, costs time and nothing else.
    """
    path = None if folder is None else folder / f"{_key(tokenizer, endings, max_tokens)}.arrow"
    known = _load(path, endings)
    control = reserved(tokenizer)
    plain = pa.array([clean(title, control) for title in titles], pa.string())
    new = pc.unique(plain)
    new = new.filter(pc.invert(pc.is_in(new, value_set=known["title"])))
    if len(new):
        made = [
            _tokenised(tokenizer, new[k : k + TITLES_PER_CALL].to_pylist(), endings, max_tokens)
            for k in range(0, len(new), TITLES_PER_CALL)
        ]
        known = pa.concat_tables([known, *made]).combine_chunks()
        if path is not None:
            with suppress(BundlecacheError):
                _save(known, path)
    rows = pc.index_in(plain, value_set=known["title"]).to_numpy(zero_copy_only=False)
    ids = {ending.text: _packed(known[f"ids {k}"], rows) for k, ending in enumerate(endings)}
    exact = known["exact"].to_numpy()[rows] if len(rows) else np.zeros(0, bool)
    return Titles(known["shown"].take(pa.array(rows)), ids, exact, len(new))


def cache_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of all that may change a tokenizer's ids: its rules and vocabulary, and the versions of the libraries.

    Stricter than `bundlecache.tokenizer_check.tokenizer_fingerprint`: a cache is made anew at no cost but time.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        causes: list[Any] = [{name: rules[name] for name in sorted(rules) if name not in ("padding", "truncation")}]
    else:
        model = Path(getattr(tokenizer, "vocab_file", None) or "")
        weights = hashlib.sha256(model.read_bytes()).hexdigest() if model.is_file() else ""
        causes = [sorted(tokenizer.get_vocab().items()), weights, repr(sorted(tokenizer.init_kwargs.items()))]
    causes += [type(tokenizer).__name__, reserved(tokenizer), version("transformers"), version("tokenizers")]
    return hashlib.sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()


def shorten(tokenizer: Any, titles: Sequence[str], max_tokens: int) -> list[str]:
    """``titles`` cut, where they are longer, to their longest beginning of at most ``max_tokens`` tokens."""
    cut = list(titles)
    lengths = [len(ids) for ids in encode_many(tokenizer, [f" {title}" if title else "" for title in titles])]
    long = [k for k, length in enumerate(lengths) if length > max_tokens]
    low, high = np.zeros(len(long), int), np.array([len(titles[k]) for k in long], int)  # fits, does not fit
    while (high - low > 1).any():
        middle = (low + high) // 2
        tried = encode_many(tokenizer, [f" {titles[k][:m]}".rstrip() for k, m in zip(long, middle, strict=True)])
        fits = np.array([len(ids) <= max_tokens for ids in tried], bool)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    for k, m in zip(long, low, strict=True):
        cut[k] = titles[k][:m].rstrip()
    return cut


def _tokenised(tokenizer: Any, titles: list[str], endings: Sequence[Ending], max_tokens: int) -> pa.Table:
    shown = shorten(tokenizer, titles, max_tokens)
    exact = np.ones(len(titles), bool)
    columns: dict[str, Any] = {}
    for k, ending in enumerate(endings):
        left, right = encode_many(tokenizer, [ending.left, ending.right])
        texts = [ending.left + (f" {title}" if title else "") + ending.text + ending.right for title in shown]
        lists = []
        for row, ids in enumerate(encode_many(tokenizer, texts)):
            stop = len(ids) - len(right)
            exact[row] &= stop >= len(left) and ids[: len(left)] == left and ids[stop:] == right
            lists.append(ids[len(left) : max(stop, len(left))])
        columns[f"ids {k}"] = pa.array(lists, pa.list_(pa.int32()))
    return pa.table({"title": titles, "shown": shown, "exact": exact, **columns}, _schema(endings))


def _schema(endings: Sequence[Ending]) -> pa.Schema:
    fields = [("title", pa.string()), ("shown", pa.string()), ("exact", pa.bool_())]
    return pa.schema([*fields, *((f"ids {k}", pa.list_(pa.int32())) for k in range(len(endings)))])


def _key(tokenizer: Any, endings: Sequence[Ending], max_tokens: int) -> str:
    wording = json.dumps([FORMAT, max_tokens, *(astuple(ending) for ending in endings)])
    return f"{cache_fingerprint(tokenizer)[:16]}-{hashlib.sha256(wording.encode()).hexdigest()[:8]}"


def _load(path: Path | None, endings: Sequence[Ending]) -> pa.Table:
    schema = _schema(endings)
    if path is not None:
        with suppress(OSError, pa.ArrowInvalid):
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            if table.schema.equals(schema):
                return table
    return schema.empty_table()


def _save(table: pa.Table, path: Path) -> None:
    with replacing(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as file:
        file.write_table(table)


def _packed(column: pa.ChunkedArray, rows: np.ndarray) -> Packed:
    """Rows of a list column in one chunk; the ids stay where they are, on disk as a rule."""
    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    bounds = lists.offsets.to_numpy()
    start, stop = bounds[:-1].astype(np.int64)[rows], bounds[1:].astype(np.int64)[rows]
    return Packed(lists.values.to_numpy(), start, stop - start)
