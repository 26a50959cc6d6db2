"""``hf:`` for titles, where the folder holds CLIP or SigLIP: their text towers in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bundlecache.pretrained import load_model, load_tokenizer, quiet

from .checkpoints import check_complete, check_vocabulary, load_failure
from .fingerprints import config_cause, fingerprint
from .towers import TextTower

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

PACKAGES = ("transformers", "tokenizers")
MODELS = ("clip", "clip_text_model", "siglip", "siglip_text_model")


def load(spec: EncoderSpec, options: Options, folder: Path, config: Any) -> TextTower:
    """The text tower of a whole model, or a text tower alone; only its weights are read.

    CLIP: the state of the end token, projected (a tower saved without its projection: as it is). SigLIP and
    fixed-size SigLIP 2: padded to the whole length without a mask and lower-cased, as they were trained,
    whatever the tokenizer's own defaults say; then the state of the last place through the head.
    """
    siglip = config.model_type.startswith("siglip")
    name, changes = _class_of(config)
    with quiet():
        import torch

        try:
            tokenizer = load_tokenizer(folder)
            loaded = load_model(name, folder, dtype=torch.float32, **changes)
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    tower = loaded.model
    check_complete(spec, loaded.missing)
    check_vocabulary(spec, tokenizer)
    length = min(tower.config.max_position_embeddings, tokenizer.model_max_length)
    tokenizer.padding_side = "right"

    def tokenize(titles: list[str]) -> dict[str, Any]:
        if siglip:
            titles = [title.lower() for title in titles]
        tokens = tokenizer(
            titles, padding="max_length" if siglip else True, truncation=True, max_length=length, return_tensors="pt"
        )
        return {"input_ids": tokens["input_ids"]} if siglip else dict(tokens)

    def call(**tokens: Any) -> Any:
        output = tower(**tokens)
        return output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output

    rule = f"lower-cased, padded to {length} tokens, no mask" if siglip else f"at most {length} tokens"
    return TextTower(
        spec,
        options,
        tower,
        call,
        tokenize,
        f"{rule}, {type(tower).__name__}",
        fingerprint(
            "clip text", config_cause(tower.config), sorted(tokenizer.get_vocab().items()), tensors=tower.state_dict()
        ),
        PACKAGES,
    )


def _class_of(config: Any) -> tuple[str, dict[str, Any]]:
    """The class of transformers that reads a checkpoint's text tower, and what it must be told."""
    if config.model_type == "clip":  # the tower's own configuration may name another width than the model's
        return "CLIPTextModelWithProjection", {"projection_dim": config.projection_dim}
    if config.model_type == "clip_text_model":
        projected = "CLIPTextModelWithProjection" in (config.architectures or ())
        return ("CLIPTextModelWithProjection" if projected else "CLIPTextModel"), {}
    return "SiglipTextModel", {}
