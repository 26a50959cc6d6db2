"""Saves learned towers as their own library does: open_clip's ``local-dir``, or transformers' ``save_pretrained``."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError
from bundlecache.files import share
from bundlecache.pretrained import load_model, no_remote_code, quiet

from .. import open_clip_image
from ..checkpoints import checkpoint_folder, read_config
from ..clip_text import MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from bundlecache.encoder_spec import EncoderSpec

SAVED_KINDS = ("open_clip", "hf")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.index.json", "*.h5", "*.msgpack", "*.onnx", ".*")


def save(spec: EncoderSpec, towers: Mapping[str, Any], out: Path) -> None:
    """Write the checkpoint ``spec`` to the folder ``out``, with the learned weights of ``towers`` (modality -> module).

    All other weights are those of the checkpoint, byte for byte.

    Raises
    ------
    EncoderError
        When the checkpoint has no place for a weight.
    """
    if spec.kind == "open_clip":
        _save_open_clip(spec, towers, out)
    else:
        _save_transformers(spec, towers, out)
    share(out)


def _save_open_clip(spec: EncoderSpec, towers: Mapping[str, Any], out: Path) -> None:
    from safetensors.torch import save_file

    model, config, name = open_clip_image.load_model(spec)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if "image" in towers:
        _put(state, towers["image"].state_dict(), ("visual.",), spec)
    if "text" in towers:
        learned = {k: v for k, v in towers["text"].state_dict().items() if not k.startswith("logit_")}
        _put(state, learned, ("",), spec)
    out.mkdir(parents=True)
    preprocess = {key: value for key, value in model.visual.preprocess_cfg.items() if value is not None}
    with no_remote_code(), quiet():
        import open_clip

        tokenizer = getattr(open_clip.get_tokenizer(name), "tokenizer", None)
    config = json.loads(json.dumps(config))
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
        config["text_cfg"]["hf_tokenizer_name"] = config["text_cfg"].get("hf_tokenizer_name") or out.name
    (out / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1), "utf-8"
    )
    save_file({key: value.contiguous() for key, value in state.items()}, out / "open_clip_model.safetensors")


def _save_transformers(spec: EncoderSpec, towers: Mapping[str, Any], out: Path) -> None:
    folder = checkpoint_folder(spec)
    if not (folder / "config.json").is_file() or read_config(spec, folder).model_type not in ("clip", "siglip"):
        _save_alone(folder, towers, out)
        return
    whole = load_model("AutoModel", folder).model
    state = whole.state_dict()
    for modality, module in towers.items():
        inner = "vision_model." if modality == "image" else "text_model."
        _put(state, module.state_dict(), ("", inner), spec)
    whole.load_state_dict(state)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*WEIGHTS))
    with quiet():
        whole.save_pretrained(out)


def _save_alone(folder: Path, towers: Mapping[str, Any], out: Path) -> None:
    """A tower that is a model of its own: DINOv2, or a text encoder with its pooling beside it."""
    ((modality, module),) = towers.items()
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*WEIGHTS, *([] if modality == "text" else ["*.txt"])))
    for dense in folder.glob("*_Dense"):
        shutil.copytree(dense, out / dense.name, dirs_exist_ok=True)
    place = next((path.parent for path in out.glob("*_Transformer/config.json")), out)
    with quiet():
        module.save_pretrained(place)


def _put(state: dict[str, Tensor], learned: Mapping[str, Tensor], prefixes: tuple[str, ...], spec: EncoderSpec) -> None:
    """Put learned weights in the place of those of a whole checkpoint."""
    for name, value in learned.items():
        place = next((prefix + name for prefix in prefixes if prefix + name in state), None)
        if place is None or state[place].shape != value.shape:
            raise EncoderError(f"The checkpoint of {spec.text!r} has no place for the learned weight {name}.")
        state[place] = value.detach().to("cpu", state[place].dtype)


def is_pair(spec: EncoderSpec) -> bool:
    """Whether a transformers folder holds both towers of CLIP or SigLIP."""
    folder = checkpoint_folder(spec)
    return (folder / "config.json").is_file() and read_config(spec, folder).model_type in MODELS
