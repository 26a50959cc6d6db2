"""The files of a checkpoint of any model: written as a whole, with the hashes of weights, and refused where they do not fit."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bundlecache import lean_imports
from bundlecache.errors import CheckpointError, Command

if TYPE_CHECKING:
    from .model.llm import LoadedLlm

ADAPTER = "adapter/adapter_model.safetensors"
LIBRARIES = ("bundlecache", "torch", "transformers", "peft", "accelerate", "numpy")


def replace_files(run: Path, names: Sequence[str], write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder, and put its files and folders ``names`` in the place of those in ``run``.

    What is not written is removed. The old manifest is removed first, the new one (the last of ``names``) is moved last.

    Raises
    ------
    CheckpointError
        When the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=run))
        try:
            write(part)
            (run / names[-1]).unlink(missing_ok=True)
            for name in names:
                move(part / name, run / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"{run} cannot be written: {error.strerror or error}.", hint="free some space or choose another --data"
        ) from error


def move(source: Path, target: Path) -> None:
    """Put ``source`` (a file, a folder or nothing) in the place of ``target``."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if source.exists():
        source.replace(target)


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of the libraries that a training depends on."""
    return {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def contiguous(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of tensors on the CPU, as safetensors writes them."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def check_weights(run: Path, manifest: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse weights that are not those that were written with the manifest; runs of earlier versions have no record.

    Raises
    ------
    CheckpointError
        Naming the file.
    """
    record = manifest.get("weights")
    written = record if isinstance(record, dict) else {}
    for name in names:
        if name in written and sha256(run / name) != written[name]:
            raise CheckpointError(
                f"The weights of {run.name} cannot be used: {name} is not the file that was written after training.",
                hint=["bring that file back, or train again:", Command("train")],
            )


def check_base(run: str, manifest: Mapping[str, Any], base: LoadedLlm) -> None:
    """Refuse another base model, or another tokenizer, than that of the training.

    Raises
    ------
    CheckpointError
        With both fingerprints.
    """
    made = manifest["base"] or {}
    if base.fingerprint != made.get("fingerprint"):
        raise CheckpointError(
            f"{run} was trained on the base model {made.get('spec')!r} ({str(made.get('fingerprint'))[:8]}), but "
            f"{base.spec!r} is another one ({base.fingerprint[:8]}).",
            hint=["bring that base model back, or train again:", Command("train")],
        )
    tokenizer = made.get("tokenizer")  # runs of earlier versions have none
    if tokenizer is not None and base.tokenizer_fingerprint != tokenizer:
        raise CheckpointError(
            f"{run} was trained with another tokenizer ({tokenizer[:8]}) than {base.spec!r} has now"
            f" ({base.tokenizer_fingerprint[:8]}), so the same titles would be other tokens.",
            hint=["bring that tokenizer back, or train again:", Command("train")],
        )


def base_entry(base: LoadedLlm) -> dict[str, Any]:
    """What a manifest says of the base model."""
    return {
        "spec": base.spec,
        "fingerprint": base.fingerprint,
        "tokenizer": base.tokenizer_fingerprint,
        "parameters": base.parameters,
    }


def save_adapter(llm: Any, base: str, folder: Path) -> None:
    """Write the LoRA adapter of ``llm`` as PEFT does, in the folder ``adapter``."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    adapter = folder / "adapter"
    adapter.mkdir()
    config = llm.peft_config["default"]
    config.base_model_name_or_path = base
    config.save_pretrained(str(adapter))
    weights = get_peft_model_state_dict(llm, save_embedding_layers=False)
    save_file(contiguous(weights), folder / ADAPTER, metadata={"format": "pt"})


def load_adapter(llm: Any, run: Path) -> None:
    """Put the LoRA adapter of a run into ``llm``.

    Raises
    ------
    CheckpointError
        When it does not fit; other errors of the file are those of safetensors.
    """
    from safetensors.torch import load_file

    with lean_imports.deferred():
        from peft import set_peft_model_state_dict

        result = set_peft_model_state_dict(llm, load_file(run / ADAPTER))
    left = [key for key in result.missing_keys if "lora_" in key] + list(result.unexpected_keys)
    if left:
        raise CheckpointError(f"The adapter of {run.name} does not fit: {left[0]}.", hint="use that run's recipe")
