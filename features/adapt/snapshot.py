"""The file from which an interrupted adaptation is resumed: weights, best weights and optimiser as tensors, the rest as JSON."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any

from bundlecache.errors import CheckpointError, Command
from bundlecache.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from bundlecache.recipes.adapt_recipe import AdaptRecipe

    from .build import Sources
    from .pairs import Pairs

FILE = "resume.safetensors"


def save(root: Path, job: Mapping[str, Any], state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the snapshot in the place of an earlier one.

    Raises
    ------
    BundlecacheError
        When the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps({"job": dict(job), "state": dict(state)})
    with replacing(root / FILE) as temporary:
        try:
            save_file(plain, temporary, metadata={"bundlecache": text, "crc32": _checksum(text, plain)})
        except SafetensorError as error:
            raise CheckpointError(f"{root} cannot be written: {error}.", hint="free some space") from error


def read(root: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Job, state and tensors of the snapshot in the folder ``root``.

    Raises
    ------
    CheckpointError
        When there is none or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = root / FILE
    if not path.is_file():
        done = (root / "result.json").is_file()
        raise CheckpointError(
            f"The adaptation {root.name!r} is finished."
            if done
            else f"There is no adaptation called {root.name!r} to go on with.",
            hint=Command("adapt", "--name", f"{root.name}-2" if done else root.name),
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if metadata["crc32"] != _checksum(metadata["bundlecache"], tensors):
            raise ValueError("its checksum is another one")
        header = json.loads(metadata["bundlecache"])
        return header["job"], header["state"], tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged.", hint=[Command("adapt", "--name", f"{root.name}-2"), "begins anew"]
        ) from error


def job_of(recipe: AdaptRecipe, sources: Sources, pairs: Pairs) -> dict[str, Any]:
    """What decides the result of an adaptation; a resumed one must have the same."""
    trained = hashlib.sha256(pairs.train.tobytes() + pairs.group.tobytes()).hexdigest()
    return {
        "recipe": json.loads(json.dumps(recipe.to_dict())),
        "recipe name": recipe.name,
        "vectors": {name: sources.fingerprint(name) for name in ("image", "text")},
        "held-out pairs": pairs.sha256,
        "training pairs": trained,
    }


def check(was: Mapping[str, Any], now: Mapping[str, Any], name: str) -> None:
    """Refuse to go on with other inputs.

    Raises
    ------
    CheckpointError
        Naming the input that differs.
    """
    for key, value in was.items():
        if now.get(key) != value:
            raise CheckpointError(
                f"The {key} of {name} {'is' if key == 'recipe name' else 'are'} not what this adaptation began with.",
                hint=["bring the former ones back, or begin anew:", Command("adapt", "--name", f"{name}-2")],
            )


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    import torch

    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), zlib.crc32(name.encode(), total))
    return f"{total:08x}"
