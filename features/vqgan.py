"""``vqgan:``: pictures as codes of a VQ autoencoder of transformers, and pictures out of codes again. Experimental.

The class is `JanusVQVAE` (LlamaGen's and Janus' tokenizer; a folder of `save_pretrained`, model type janus_vqgan). A vector is a
code: [t, 1] numbers a picture, row by row. Codes begin with 1, so that 0 means "no picture", as everywhere in the store.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import Command, EncoderError
from bundlecache.pretrained import load_model, quiet

from .checkpoints import check_complete, checkpoint_folder, load_failure, read_config
from .fingerprints import config_cause, fingerprint
from .towers import ImageTower

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from .encoder_options import Options

PACKAGES = ("Pillow", "transformers")
HALF_EXACT = 2_048
"""Whole numbers up to this one are exact in half precision."""


def load(spec: EncoderSpec, options: Options) -> ImageTower:
    """The encoder side of a VQ autoencoder; pictures are squashed to the size that it was trained for.

    Raises
    ------
    EncoderError
        When the folder holds another model, or its codes are too many for float16.
    """
    model = _model(spec)
    if options.dtype == "float16" and model.config.num_embeddings > HALF_EXACT:
        raise EncoderError(
            f"{spec.text!r} has {model.config.num_embeddings:,} codes, and float16 tells {HALF_EXACT:,} apart.",
            hint="type --dtype float32",
        )
    side = _side(model.config)
    return ImageTower(
        spec,
        replace(options, precision="float32"),  # a rounded latent may be nearest to another code
        model,
        _codes(model),
        _transform(side),
        f"squashed to {side} px, bicubic, -1 to 1; nearest code by direction, from 1",
        _fingerprint(model),
        PACKAGES,
    )


def decode(spec: str, codes: np.ndarray, made_by: str | None = None) -> np.ndarray:
    """Pictures uint8 [n, s, s, 3] of stored codes [n, t], which begin with 1.

    ``made_by`` is the fingerprint of the encoder that the codes are of.

    Raises
    ------
    EncoderError
        When the folder holds no such model or another one, or a picture of it has another number of codes.
    """
    import torch

    model = _model(EncoderSpec.parse(spec))
    if made_by is not None and (found := _fingerprint(model)) != made_by:
        raise EncoderError(
            f"The codes were made by {spec!r} as {made_by[:8]}, and the model there is another one now ({found[:8]}).",
            hint=[
                Command("encode", "--modality", "image", "--encoder", spec),
                "and train again, or bring the former one back",
            ],
        )
    if codes.ndim != 2 or codes.shape[1] != model.config.num_patches**2:
        raise EncoderError(f"A picture of {spec!r} has {model.config.num_patches**2} codes, not {codes.shape[1:]}.")
    with torch.inference_mode():
        pixels = model.decode(torch.from_numpy(codes.astype(np.int64) - 1))  # [n, 3, s, s]
    shown: np.ndarray = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return shown


def _model(spec: EncoderSpec) -> Any:
    folder = checkpoint_folder(spec)
    config = read_config(spec, folder)
    if config.model_type != "janus_vqgan":
        raise EncoderError(
            f"{spec.text!r} is a {config.model_type} model; vqgan: reads VQ autoencoders of transformers (janus_vqgan).",
            hint="save the VQ model of Janus by itself: model.model.vqmodel.save_pretrained(FOLDER)",
        )
    with quiet():
        import torch

        try:
            loaded = load_model("JanusVQVAE", folder, dtype=torch.float32)
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    check_complete(spec, loaded.missing)
    return loaded.model.eval()


def _fingerprint(model: Any) -> str:
    return fingerprint("vqgan", 1, config_cause(model.config), tensors=model.state_dict())


def _codes(model: Any) -> Callable[[Any], Any]:
    """From pictures to codes: the entry of the codebook that has the direction of the latent.

    Decoding brings entries to unit length, so encoding does too; the model's own ``encode`` does not.
    """
    from torch.nn.functional import normalize

    def call(pixels: Any) -> Any:
        latents = normalize(model.quant_conv(model.encoder(pixels)), dim=1).flatten(2)  # [n, e, t]
        book = normalize(model.quantize.embedding.weight, dim=1)  # [codes, e]
        return (book @ latents).argmax(1)[..., None] + 1.0

    return call


def _side(config: Any) -> int:
    """Pixels of a picture's side: every level but the first halves them."""
    return int(config.num_patches * 2 ** (len(config.channel_multiplier) - 1))


def _transform(side: int) -> Callable[[Image], Any]:
    def transform(image: Image) -> Any:
        import torch
        from PIL.Image import Resampling

        pixels = np.asarray(image.resize((side, side), Resampling.BICUBIC), np.float32)
        return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)

    return transform
