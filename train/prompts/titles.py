"""Caches the token ids of titles on disk: no title is tokenised twice by one tokenizer for one wording.

One Arrow file per tokenizer, wording and list of titles, in the order of the catalogue and memory-mapped: opening it
reads nothing but a hash of the titles. When titles change, the new file takes what it can from the one before it, which
is then deleted. `bundlecache.train.prompts.title_tokens` says how the ids are made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bundlecache.column_digest import add_texts
from bundlecache.errors import BundlecacheError
from bundlecache.files import replacing

from .title_tokens import Ending, schema, shorten, tokenised
from .tokens import Packed, clean, reserved

FORMAT = 1
PLAIN_ASCII = r"^[!-~]+( [!-~]+)*$"
"""Printable ASCII with single spaces between words: `clean` changes no such title that holds no control token."""


@dataclass(frozen=True)
class Titles:
    """The catalogue's titles in their order: as shown, their ids by ending, and whether those are exact [I]."""

    shown: pa.Array | pa.ChunkedArray
    ids: dict[str, Packed]
    exact: np.ndarray
    fresh: int  # titles that had to be tokenised


def read_titles(
    tokenizer: Any,
    titles: pa.Array,
    endings: Sequence[Ending],
    max_tokens: int,
    folder: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> Titles:
    """The ids of ``titles`` (strings), from the cache in ``folder`` as far as they are there, else tokenised and kept there.

    A folder that cannot be written, or a damaged file in it, costs time and nothing else. ``progress(done, of)`` is
    called while titles are tokenised.
    """
    key = _key(tokenizer, endings, max_tokens)
    path = None if folder is None else folder / f"{key}-{_digest(titles)}.arrow"
    table, fresh = _load(path, endings), 0
    if table is None or len(table) != len(titles):
        earlier = [] if folder is None else _earlier(folder, key)
        table, fresh = _made(tokenizer, titles, endings, max_tokens, earlier, progress)
        if path is not None:
            with suppress(BundlecacheError, OSError):
                _save(table, path)
                table = _load(path, endings) or table
                for old in earlier:
                    if old != path:
                        old.unlink(missing_ok=True)
    ids = {ending.text: _packed(table[f"ids {k}"]) for k, ending in enumerate(endings)}
    exact = table["exact"].to_numpy(zero_copy_only=False) if len(table) else np.zeros(0, bool)
    return Titles(table["shown"].combine_chunks(), ids, exact, fresh)


def extended(titles: Titles, count: int, tokenizer: Any, more: Sequence[str], max_tokens: int) -> Titles:
    """The first ``count`` of ``titles`` and, as they are shown, ``more`` behind them, which have no ids of their own."""
    control = reserved(tokenizer)
    shown = shorten(tokenizer, [clean(title, control) for title in more], max_tokens)
    known = titles.shown.slice(0, count)
    chunks = known.chunks if isinstance(known, pa.ChunkedArray) else [known]
    return replace(titles, shown=pa.chunked_array([*chunks, pa.array(shown, titles.shown.type)]))


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


def _made(
    tokenizer: Any,
    titles: pa.Array,
    endings: Sequence[Ending],
    max_tokens: int,
    earlier: Sequence[Path],
    progress: Callable[[int, int], None] | None,
) -> tuple[pa.Table, int]:
    """The table of all titles in their order, and how many of them no file of ``earlier`` held."""
    plain = _cleaned(titles, reserved(tokenizer))
    distinct = new = pc.unique(plain)
    parts = []
    for known in (_load(old, endings) for old in earlier):
        if known is not None:
            parts.append(known)
            new = new.filter(pc.invert(pc.is_in(new, value_set=known["title"])))
    if len(new):
        parts.append(tokenised(tokenizer, new, endings, max_tokens, progress))
    table = pa.concat_tables([schema(endings).empty_table(), *parts]).combine_chunks()
    if len(distinct) == len(plain) == len(new):  # the table is in the order of the titles already
        return table, len(new)
    return table.take(pc.index_in(plain, value_set=table["title"])).combine_chunks(), len(new)


def _cleaned(titles: pa.Array, control: Sequence[str]) -> pa.Array:
    """`clean` of all titles; the cells that it cannot change are not touched."""
    whole = pc.fill_null(titles, "")
    odd = pc.invert(pc.match_substring_regex(whole, PLAIN_ASCII))
    for word in control:
        odd = pc.or_(odd, pc.match_substring(whole, word, ignore_case=True))
    rows = np.flatnonzero(odd.to_numpy(zero_copy_only=False))
    if not len(rows):
        return whole
    changed = [clean(title, control) for title in whole.take(pa.array(rows)).to_pylist()]
    return pc.replace_with_mask(whole, odd, pa.array(changed, pa.string()))


def _key(tokenizer: Any, endings: Sequence[Ending], max_tokens: int) -> str:
    wording = json.dumps([FORMAT, max_tokens, *(astuple(ending) for ending in endings)])
    return f"{cache_fingerprint(tokenizer)[:16]}-{hashlib.sha256(wording.encode()).hexdigest()[:8]}"


def _digest(titles: pa.Array) -> str:
    """16 hex digits: which titles they are, in which order."""
    digest = hashlib.blake2b(digest_size=8)
    add_texts(digest, titles)
    return digest.hexdigest()


def _earlier(folder: Path, key: str) -> list[Path]:
    """Files of other titles, or of the format without a digest, the newest first."""
    return sorted(folder.glob(f"{key}*.arrow"), key=lambda path: -path.stat().st_mtime)


def _load(path: Path | None, endings: Sequence[Ending]) -> pa.Table | None:
    if path is not None:
        with suppress(OSError, pa.ArrowInvalid):
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            if table.schema.equals(schema(endings)):
                return table
    return None


def _save(table: pa.Table, path: Path) -> None:
    with replacing(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as file:
        file.write_table(table)


def _packed(column: pa.ChunkedArray) -> Packed:
    """A list column; the ids stay where they are, on disk as a rule."""
    lists = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return Packed(lists.values.to_numpy(), lists.offsets.to_numpy())
