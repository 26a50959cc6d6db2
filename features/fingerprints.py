"""Fingerprints of encoders: SHA-256 over settings and weights, and the versions of libraries that change a vector."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bundlecache import json_text
from bundlecache.catalogue.columns import Strings

if TYPE_CHECKING:
    from collections.abc import Mapping


def fingerprint(*causes: object, tensors: Mapping[str, Any] | None = None) -> str:
    """SHA-256 hex over plain values (as canonical JSON) and, by name, every tensor's shape, type and bytes.

    A column of texts is hashed as a list of them, without becoming one.
    """
    digest = hashlib.sha256(b"[")
    for number, cause in enumerate(causes):
        digest.update(b", " if number else b"")
        if isinstance(cause, Strings):
            _add_column(digest, cause)
        else:
            digest.update(json.dumps(cause, sort_keys=True, default=str).encode())
    digest.update(b"]")
    if tensors:
        import torch

        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _add_column(digest: Any, column: Strings[Any]) -> None:
    """As `json.dumps` writes a list of the column's texts."""
    digest.update(b"[")
    for start, count in json_text.blocks(len(column)):
        quoted = json_text.texts(column.arrow.slice(start, count), ascii_only=True)
        separated = json_text.content(json_text.joined(", ", quoted))
        digest.update(separated if start else separated[len(", ") :])
    digest.update(b"]")


def config_cause(config: Any) -> dict[str, Any]:
    """A transformers configuration without what does not change a vector: versions, paths, file types."""
    passing = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures"}
    plain = json.loads(config.to_json_string(use_diff=False))

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items() if key not in passing}
        return value

    return clean(plain)


def package_versions(*names: str) -> str:
    """``name 1.2`` for each: the versions that may change a pixel or a sample, patch releases left out."""
    return ", ".join(f"{name} {'.'.join(version(name).split('.')[:2])}" for name in names)
