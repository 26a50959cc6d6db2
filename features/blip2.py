"""``blip2:``: the Q-Former of BLIP-2, its query outputs averaged; ``blip2-tokens:``, each of them; ``blip2-vision:``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError
from bundlecache.pretrained import no_remote_code, quiet

from .checkpoints import check_complete, checkpoint_folder, load_failure, read_config
from .fingerprints import config_cause, fingerprint
from .hf_image import PACKAGES, image_transform
from .towers import ImageTower

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options


def load(spec: EncoderSpec, options: Options) -> ImageTower:
    """A folder of ``Blip2Model`` or any of its kin with safetensors, or a hub id.

    The Q-Former asks the picture with a fixed number of learned queries (32); ``blip2:`` is the mean of their
    last states, 768 wide, ``blip2-tokens:`` those states, ``blip2-vision:`` the pooled CLS of the vision tower.
    The language model is not read, however large it is, and no file is fetched that holds nothing else.
    """
    folder = checkpoint_folder(spec, files=("*.json", "*.txt", "*.model"))
    config = read_config(spec, folder)
    if config.model_type != "blip-2":
        raise EncoderError(
            f"{spec.text!r} is a {config.model_type} model, not BLIP-2.", hint=f"type --encoder hf:{spec.name}"
        )
    vision_only = spec.kind == "blip2-vision"
    with no_remote_code(), quiet():
        try:
            transform, steps = image_transform(folder)
            model = _unfilled(config, vision_only)
            places = _places(folder, set(model.state_dict()))
            checkpoint_folder(spec, files=sorted(set(places.values())))
            missing = model.load_state_dict(_weights(folder, places), strict=False, assign=True).missing_keys
        except EncoderError:
            raise
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    check_complete(spec, missing)

    def call(pixels: Any) -> Any:
        seen = model["vision_model"](pixel_values=pixels)
        if vision_only:
            return seen.pooler_output  # [n, d]
        patches = seen.last_hidden_state  # [n, p, d]
        queries = model.query_tokens.expand(len(patches), -1, -1)  # [n, q, h]
        states = model["qformer"](query_embeds=queries, encoder_hidden_states=patches).last_hidden_state  # [n, q, h]
        return states if spec.kind == "blip2-tokens" else states.mean(dim=1)

    made = {"blip2-vision": "pooled CLS", "blip2-tokens": "query outputs"}.get(spec.kind, "mean of the query outputs")
    causes = [config_cause(config.vision_config)] + ([] if vision_only else [config_cause(config.qformer_config)])
    return ImageTower(
        spec,
        options,
        model,
        call,
        transform,
        f"{steps}; {made}",
        fingerprint("blip2", causes, tensors=model.state_dict()),
        PACKAGES,
    )


def _unfilled(config: Any, vision_only: bool) -> Any:
    """The vision tower, and with it the Q-Former and its queries, without memory for their weights yet."""
    import torch
    from transformers import Blip2QFormerModel, Blip2VisionModel

    with torch.device("meta"):
        model = torch.nn.ModuleDict({"vision_model": Blip2VisionModel(config.vision_config)})
        if not vision_only:
            model["qformer"] = Blip2QFormerModel(config.qformer_config)
            shape = (1, config.num_query_tokens, config.qformer_config.hidden_size)
            model.register_parameter("query_tokens", torch.nn.Parameter(torch.empty(shape)))
    return model


def _places(folder: Path, names: set[str]) -> dict[str, str]:
    """Which file of the folder holds each tensor, for those of ``names`` that are in any."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return dict.fromkeys(names, "model.safetensors")
    places = json.loads(index.read_text("utf-8"))["weight_map"]
    return {name: place for name, place in places.items() if name in names}


def _weights(folder: Path, places: dict[str, str]) -> dict[str, Any]:
    """The tensors at these places, float32; no other tensor is read."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for file in sorted(set(places.values())):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"it holds no {file}, and BLIP-2 is read from safetensors alone")
        with safe_open(folder / file, "pt") as shard:
            here = {name for name, place in places.items() if place == file} & set(shard.keys())
            found |= {name: shard.get_tensor(name).float() for name in here}
    return found
