"""``hf:`` for pictures: vision towers of transformers (CLIP, SigLIP, SigLIP 2, DINOv2); ``hf-tokens:``, their patches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError
from bundlecache.pretrained import load_model, load_processor, quiet

from .checkpoints import check_complete, checkpoint_folder, load_failure, read_config
from .fingerprints import config_cause, fingerprint
from .towers import ImageTower

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

PACKAGES = ("Pillow", "transformers")
# What an image processor does to a picture, in the order in which it does it.
STEPS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_pad", "pad_size"),
)
UNUSED = ("embeddings.mask_token",)  # only pre-training masks patches; checkpoints may lack it


def load(spec: EncoderSpec, options: Options) -> ImageTower:
    """A vision tower, or the vision tower of a whole model: a folder as ``save_pretrained`` writes it, or a hub id.

    Of a whole model only the tower's weights are read. CLIP gives projected vectors, as
    ``get_image_features`` does (a tower saved without its projection: the pooled CLS), SigLIP and fixed-size
    SigLIP 2 those of the attention pooling, DINOv2 its CLS. ``hf-tokens:`` gives ``last_hidden_state`` without
    CLS and registers: for CLIP the last block as it is, for the others behind their final norm.
    """
    folder = checkpoint_folder(spec)
    config = read_config(spec, folder)
    name, changes = _class_of(spec, config)
    with quiet():
        import torch

        try:
            transform, steps = image_transform(folder)
            loaded = load_model(name, folder, dtype=torch.float32, **changes)
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    tower = loaded.model
    check_complete(spec, loaded.missing, unused=UNUSED)
    tokens = spec.kind == "hf-tokens"
    if not tokens and getattr(tower, "use_head", True) is False:
        raise EncoderError(
            f"The checkpoint of {spec.text!r} has no pooling head, so it gives patches only.",
            hint=f"type --encoder hf-tokens:{spec.name}",
        )
    weights = {name: value for name, value in tower.state_dict().items() if not name.startswith(UNUSED)}
    return ImageTower(
        spec,
        options,
        tower,
        _patches(tower) if tokens else _vectors(tower),
        transform,
        f"{steps}; {'patches' if tokens else 'pooled'}",
        fingerprint("hf image", config_cause(tower.config), tensors=weights),
        PACKAGES,
    )


def _class_of(spec: EncoderSpec, config: Any) -> tuple[str, dict[str, Any]]:
    """The class of transformers that reads a checkpoint's vision tower, and what it must be told."""
    kind = config.model_type
    if kind == "clip":  # the tower's own configuration may name another width than the model's
        return "CLIPVisionModelWithProjection", {"projection_dim": config.projection_dim}
    if kind == "clip_vision_model":
        projected = "CLIPVisionModelWithProjection" in (config.architectures or ())
        return ("CLIPVisionModelWithProjection" if projected else "CLIPVisionModel"), {}
    if kind in ("siglip", "siglip_vision_model"):
        return "SiglipVisionModel", {}
    if kind in ("dinov2", "dinov2_with_registers"):
        return ("Dinov2Model" if kind == "dinov2" else "Dinov2WithRegistersModel"), {}
    if kind in ("siglip2", "siglip2_vision_model"):
        raise EncoderError(
            f"{spec.text!r} is a NaFlex checkpoint of SigLIP 2, which keeps the shape of every picture; "
            "only its checkpoints of one size are supported.",
            hint=f"type --encoder {spec.kind}:google/siglip2-base-patch16-224",
        )
    blip = f"type --encoder blip2:{spec.name}" if kind == "blip-2" else ""
    raise EncoderError(
        f"{spec.text!r} is a {kind} model; the vision towers that can be read are CLIP, SigLIP, SigLIP 2 and DINOv2.",
        hint=blip or "open_clip: has many more towers, for example --encoder open_clip:ViT-B-16-SigLIP/webli",
    )


def _vectors(tower: Any) -> Callable[[Any], Any]:
    def call(pixels: Any) -> Any:
        output = tower(pixel_values=pixels)
        return output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output

    return call


def _patches(tower: Any) -> Callable[[Any], Any]:
    config = tower.config
    first = 0 if config.model_type.startswith("siglip") else 1 + getattr(config, "num_register_tokens", 0)
    return lambda pixels: tower(pixel_values=pixels).last_hidden_state[:, first:]


def image_transform(folder: Path) -> tuple[Callable[[Any], Any], str]:
    """What the folder's image processor makes of an RGB image, float32 [3, s, s], and the same in short words.

    Always its Pillow form, which gives the same pixels everywhere; the torchvision form resizes otherwise.

    Raises
    ------
    ValueError
        When the folder does not say how: the library would guess sizes and means.
    """
    import torch

    # Where both files say something, the library follows the newer one, the first.
    said = _json(folder / "processor_config.json").get("image_processor") or _json(folder / "preprocessor_config.json")
    if lacking := {"size", "image_mean", "image_std"} - set(said):
        raise ValueError(f"its preprocessor_config.json does not say {', '.join(sorted(lacking))}")
    processor = load_processor("AutoImageProcessor", folder, backend="pil")

    def transform(image: Any) -> Any:
        return torch.from_numpy(processor(image, return_tensors="np")["pixel_values"][0])

    told = processor.to_dict()
    steps = ", ".join(f"{name} {told[name]}" for name in STEPS if told.get(name) is not None)
    return transform, f"{type(processor).__name__} {steps}"


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
