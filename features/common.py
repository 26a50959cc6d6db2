"""What every encoder shares: the parsed spec, the options of a run, devices, fingerprints, folders.

Nothing heavy is imported at the top, so that listing the encoders costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError, MediaError, first_line
from bundlecache.pretrained import PretrainedError, load_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bundlecache.catalogue.model import Catalogue
    from bundlecache.encoder_spec import EncoderSpec

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
# What an encoder of transformers needs from a hub; never a checkpoint of another framework.
HUB_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*_Dense/*.bin")


@dataclass(frozen=True)
class Options:
    """How to run an encoder; encoders without weights pass over what does not concern them."""

    catalogue: Catalogue  # graph encoders learn from its training split
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1": see resolve_device
    dtype: str = "float16"  # as stored: "float16" | "float32"
    batch_size: int | None = None  # None: the encoder's own default
    precision: str = "auto"  # of the forward pass: see computing
    draft: int | None = None  # pixels that a side keeps when a JPEG is read at a part of its size; None: all


def resolve_device(device: str) -> str:
    """``auto`` is the first CUDA device, or the CPU; a device that is asked for and absent is an error."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in DEVICES:
        raise EncoderError(
            f"{device!r} is no device; there are auto, {', '.join(DEVICES)}, cuda:1.", hint="type --device auto"
        )
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EncoderError(
            f"The device {device!r} cannot be used here: {first_line(error)}.", hint="type --device cpu, or auto"
        ) from error
    return device


def folder_of(spec: EncoderSpec, name: str | None = None, files: Sequence[str] = HUB_FILES) -> Path:
    """The local folder of a checkpoint: a folder as it is, a hub id out of the hub's cache or the hub.

    Everything is then read from that folder, so that a hub id and a folder run the same code and nothing
    calls home afterwards. ``HF_HUB_OFFLINE=1`` is respected.

    Raises
    ------
    EncoderError
        When there is neither a folder nor a reachable hub repository of that name.
    """
    name = spec.name if name is None else name
    path = Path(name).expanduser()
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


def fingerprint(*causes: object, tensors: Mapping[str, Any] | None = None) -> str:
    """SHA-256 hex over plain values (as canonical JSON) and, by name, every tensor's shape, type and bytes."""
    digest = hashlib.sha256(json.dumps(causes, sort_keys=True, default=str).encode())
    if tensors:
        import torch

        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_cause(config: Any) -> dict[str, Any]:
    """A transformers configuration without what does not change a vector: versions, paths, file types."""
    passing = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "architectures"}
    plain = json.loads(config.to_json_string(use_diff=False))

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items() if key not in passing}
        return value

    return clean(plain)


def as_tensor(output: Any) -> Any:
    """The projected vectors [n, d] of ``get_*_features``: a tensor before transformers 5, a pooled output since.

    Raises
    ------
    TypeError
        For anything else: a vector must never be guessed.
    """
    import torch

    if isinstance(output, torch.Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    if isinstance(pooled, torch.Tensor):
        return pooled
    raise TypeError(f"expected a tensor or an output with pooler_output, got {type(output).__name__}")


def computing(device: str, dtype: str, precision: str = "auto") -> str:
    """The type of the forward pass; ``auto`` is half precision on CUDA if half is stored anyway, else float32."""
    if precision != "auto":
        return precision
    return "float16" if device.startswith("cuda") and dtype == "float16" else "float32"


def forward(module: Any, inputs: Any, device: str, compute: str) -> Any:
    """``module(inputs)`` on the device without gradients, its products in ``compute``; a tensor or a dict of tensors."""
    import torch

    if isinstance(inputs, dict):
        inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    else:
        inputs = inputs.to(device, non_blocking=True)
    half = torch.bfloat16 if compute == "bfloat16" else torch.float16
    with torch.inference_mode(), torch.autocast(device.split(":")[0], half, enabled=compute != "float32"):
        return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def measured_dim(encoder: Any, samples: list[Any]) -> int:
    """The width of an encoder's vectors, asked of one forward pass rather than of a configuration."""
    return int(encoder.encode(samples).shape[-1])


def to_numpy(tensor: Any) -> Any:
    """A tensor on any device as a float32 array."""
    return tensor.detach().float().cpu().numpy()


def readable(path: Path, what: str) -> Path:
    """The path of a file that is there and holds something.

    Raises
    ------
    MediaError
        With the reason in plain words.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise MediaError(f"there is no {what} file {path.name}")
        if path.stat().st_size == 0:
            raise MediaError(f"the {what} file is empty (0 bytes)")
    except OSError as error:  # no permission, a name too long, a dead network mount
        raise MediaError(f"the {what} file cannot be read: {first_line(error)}") from error
    return path


def libraries(*names: str) -> str:
    """``name 1.2`` for each: the versions that may change a pixel or a sample, patch releases left out."""
    return ", ".join(f"{name} {'.'.join(version(name).split('.')[:2])}" for name in names)
