"""Identifies a tokenizer by what it does, and checks it against the SentencePiece model that it was built from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

PROBES = (
    "You should directly answer the question; choose the letter of the correct option.",
    '; B. green dress (2 pack), 15.6" Laptop, 10% off!',
    "Ünïcode 杯子 ☕ a;b;c;",
)
"""Texts whose ids a tokenizer must share with its SentencePiece model: words, punctuation, digits, other scripts, bytes."""

EDGES = ("", " ", " A", "A", " two  spaces", "trailing ", "line\nbreak", "\n\n", "\t", "<s>", "DON'T don't", "x" * 40)
"""Texts at whose ends and spaces tokenizers differ."""


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 (64 hex digits) of what decides the ids of ``tokenizer``, whichever library version wrote its files.

    It covers the vocabulary, the merges, the special tokens and, for normaliser and pre-tokenizer, the ids of fixed
    texts: two versions of a library write the same rules in different ways, but must give the same ids.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    merges = json.loads(backend.to_str())["model"].get("merges") if backend is not None else None
    if merges is not None:
        merges = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in merges]
    texts = [*PROBES, *EDGES]
    causes = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "merges": merges,
        "special": sorted(set(map(str, tokenizer.all_special_tokens))),
        "added": sorted(tokenizer.get_added_vocab().items()),
        "ids": [
            tokenizer(texts, add_special_tokens=False, split_special_tokens=split)["input_ids"]
            for split in (True, False)
        ],
    }
    return hashlib.sha256(json.dumps(causes).encode()).hexdigest()


def gives_ids_of(tokenizer: Any, path: Path) -> bool:
    """Whether ``tokenizer`` gives the ids of the SentencePiece model in the file ``path``.

    A file that is no SentencePiece model (``tokenizer.model`` is a name of tiktoken's files too) contradicts nothing.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(str(path))
    except (RuntimeError, OSError):
        return True
    built = tokenizer(list(PROBES), add_special_tokens=False)["input_ids"]
    return [list(ids) for ids in built] == model.encode(list(PROBES))
