"""Checkpoint folders: find or download one, read its configuration, and refuse an incomplete one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError, first_line
from bundlecache.files import user_path
from bundlecache.pretrained import PretrainedError, load_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bundlecache.encoder_spec import EncoderSpec


# What an encoder of transformers needs from a hub; never a checkpoint of another framework.
HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*_Dense/*.bin")


def checkpoint_folder(spec: EncoderSpec, name: str | None = None, files: Sequence[str] = HUB_FILES) -> Path:
    """The local folder of a checkpoint: a folder as it is, a hub id out of the hub's cache or the hub.

    Everything is then read from that folder, so that a hub id and a folder run the same code and nothing
    calls home afterwards. ``HF_HUB_OFFLINE=1`` is respected.

    Raises
    ------
    EncoderError
        When there is neither a folder nor a reachable hub repository of that name.
    """
    name = spec.name if name is None else name
    path = local_path(spec, name)
    advice = f"type --encoder {spec.kind}:/path/to/folder, a folder that holds the checkpoint"
    if name and path.is_dir():
        if spec.revision is not None:
            raise EncoderError(f"The encoder {spec.text!r} names a folder, which has no revision.", hint=advice)
        return path.resolve()
    if not name or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
        raise EncoderError(f"The encoder {spec.text!r} names no folder that exists.", hint=advice)

    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=spec.revision, allow_patterns=list(files)))
        weights = any(name.endswith(".safetensors") for name in files)
        if weights and not any(folder.rglob("*.safetensors")):  # an older repository; read with weights_only
            snapshot_download(name, revision=spec.revision, allow_patterns=[*files, "*pytorch_model*.bin"])
        return folder
    except (OSError, ValueError) as error:  # not in the cache, offline, unknown repository or revision, bad name
        raise EncoderError(
            f"The encoder {spec.text!r} is neither a folder nor in the model hub's cache, and it cannot be downloaded: "
            f"{first_line(error)}.",
            hint=f"where there is a network, `hf download {name} --local-dir FOLDER`; then {advice}",
        ) from error


def local_path(spec: EncoderSpec, name: str) -> Path:
    """The path that a spec's name would be on this machine; nothing need stand there.

    Raises
    ------
    BundlecacheError
        When no file system takes it, for instance because it is too long.
    """
    path = os.path.expanduser(name)  # noqa: PTH111 - pathlib raises where there is no such user
    return user_path(path, f"The name of the {spec.kind}: encoder") if name else Path()


def read_config(spec: EncoderSpec, folder: Path) -> Any:
    """The configuration of a transformers folder.

    Raises
    ------
    EncoderError
        When there is none, or of a model that transformers does not know.
    """
    try:
        return load_config(folder)
    except PretrainedError as error:  # a broken file, an unknown model, a missing library
        raise load_failure(spec, folder, error) from error


def load_failure(spec: EncoderSpec, folder: Path, error: Exception) -> EncoderError:
    """The one sentence about a folder that is there and cannot be loaded."""
    return EncoderError(
        f"The encoder {spec.text!r} cannot be loaded from {folder}: {first_line(error)}.",
        hint="the folder must hold a whole checkpoint in the library's own format; its own Python code is never run",
    )


def check_complete(spec: EncoderSpec, missing: Iterable[str], unused: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that lacks weights: the library would fill them with random numbers, and only warn.

    ``unused`` are beginnings of names that no vector depends on.
    """
    lacking = sorted(name for name in missing if not name.startswith(tuple(unused)))
    if lacking:
        raise EncoderError(
            f"The checkpoint of {spec.text!r} lacks {len(lacking):,} weights of the encoder, {lacking[0]} among them.",
            hint="it is of another kind of model, or incomplete",
        )


def check_vocabulary(spec: EncoderSpec, tokenizer: Any) -> None:
    """Refuse a tokenizer that tells no words apart: without its vocabulary file the library makes an empty one."""
    first, second = (tokenizer(letter)["input_ids"] for letter in "ab")
    if first == second:
        raise EncoderError(
            f"The tokenizer of {spec.text!r} knows no words, so all titles would get one vector.",
            hint="the folder lacks its vocabulary: tokenizer.json, vocab.txt or spiece.model",
        )
