"""``laion_clap:FILE.pt``: the original CLAP checkpoints of LAION (630k-audioset-best.pt, music_audioset_....pt).

Their own package caps numpy below 2 and asks the network for a text tower that no sound needs. The audio
tower is the HTSAT that transformers has too: here the weights of the file are put into that one, by name,
and heard as :mod:`bundlecache.features.clap_audio` hears. The architecture is read off the shapes of the weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.errors import EncoderError
from bundlecache.pretrained import no_remote_code, quiet

from .checkpoints import check_complete, load_failure, local_path
from .clap_audio import ClapAudio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options

TOWER = "audio_branch."
RENAMED = (  # part of an original name -> that of transformers
    (r"^audio_branch\.bn0\.", "audio_branch.batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^audio_projection\.0\.", "audio_projection.linear1."),
    (r"^audio_projection\.2\.", "audio_projection.linear2."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
)
# Constants that transformers works out itself, and the heads of other tasks.
PASSED_OVER = re.compile(r"attn_mask$|^audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.")
SOUND = {  # how all of these checkpoints were trained to hear
    "sampling_rate": 48_000,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "hop_length": 480,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "padding": "repeatpad",
}


def load(spec: EncoderSpec, options: Options) -> ClapAudio:
    """A checkpoint file as LAION-AI/CLAP saves it. Nothing is fetched, and nothing but tensors is unpickled."""
    path = local_path(spec, spec.name)
    if not path.is_file():
        raise EncoderError(
            f"The encoder {spec.text!r} names no file that exists.",
            hint="download a checkpoint of LAION-AI/CLAP, then type --encoder laion_clap:/path/to/630k-audioset-best.pt",
        )
    with no_remote_code(), quiet():
        try:
            weights = _audio_weights(path)
            if f"{TOWER}patch_embed.proj.weight" not in weights:
                raise EncoderError(
                    f"The file of {spec.text!r} holds no HTSAT audio tower.",
                    hint="the PANN towers are not supported; 630k-*.pt, music_*.pt and music_speech_*.pt are HTSAT",
                )
            from transformers import ClapFeatureExtractor, ClapModel

            config = _config(weights)
            fused = config.audio_config.enable_fusion
            extractor = ClapFeatureExtractor(
                feature_size=config.audio_config.num_mel_bins, truncation="fusion" if fused else "rand_trunc", **SOUND
            )
            model = ClapModel(config)
            lacking, _ = model.load_state_dict(_renamed(weights), strict=False)
        except EncoderError:
            raise
        except Exception as error:  # a damaged file, shapes that fit no tower: torch has many ways to say it
            raise load_failure(spec, path, error) from error
    check_complete(spec, lacking, unused=("text_", "logit_scale"))
    return ClapAudio(spec, options, model, extractor)


def _audio_weights(path: Path) -> dict[str, Any]:
    """The tensors of the audio tower and its projection, by their original names."""
    import numpy as np
    import torch

    # Training left its best scores in the file as numpy numbers: plain values, safe to read.
    scalar = np.float64(0).__reduce__()[0]
    plain: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    plain += [np.dtype, *(type(np.dtype(name)) for name in ("f4", "f8", "i8"))]
    with torch.serialization.safe_globals(plain):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    state: Mapping[str, Any] = loaded.get("state_dict", loaded)
    names = {name.removeprefix("module."): name for name in state}
    return {short: state[name] for short, name in names.items() if short.startswith((TOWER, "audio_projection."))}


def _config(weights: Mapping[str, Any]) -> Any:
    """The architecture, as the weights' shapes tell it; the text tower is as small as can be, and thrown away."""
    from transformers import ClapConfig

    def shape(name: str) -> list[int]:
        return list(weights[name].shape)

    def blocks(layer: str) -> list[str]:
        return sorted({m[0] for name in weights if (m := re.match(rf"{re.escape(layer)}\.blocks\.\d+", name))})

    layers = sorted({m[0] for name in weights if (m := re.match(r"audio_branch\.layers\.\d+", name))})
    tables = [shape(f"{layer}.blocks.0.attn.relative_position_bias_table") for layer in layers]  # [(2w - 1)^2, heads]
    first = f"{layers[0]}.blocks.0"
    fused = f"{TOWER}patch_embed.mel_conv2d.weight" in weights
    width, _, patch, _ = shape(f"{TOWER}patch_embed.proj.weight")
    return ClapConfig(
        projection_dim=shape("audio_projection.2.weight")[0],
        text_config={"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        | {"intermediate_size": 8, "max_position_embeddings": 8},
        audio_config={
            "num_mel_bins": shape(f"{TOWER}bn0.weight")[0],
            "patch_embeds_hidden_size": width,
            "patch_size": patch,
            "depths": [len(blocks(layer)) for layer in layers],
            "num_hidden_layers": len(layers),
            "num_attention_heads": [heads for _, heads in tables],
            "window_size": (round(tables[0][0] ** 0.5) + 1) // 2,
            "mlp_ratio": shape(f"{first}.mlp.fc1.weight")[0] / width,
            "hidden_size": shape(f"{TOWER}norm.weight")[0],
            "projection_dim": shape("audio_projection.2.weight")[0],
            "enable_fusion": fused,
            "fusion_type": "aff_2d" if fused else None,
        },
    )


def _renamed(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights by the names of transformers, which keeps query, key and value apart."""
    out: dict[str, Any] = {}
    for original, tensor in weights.items():
        if PASSED_OVER.search(original):
            continue
        name = original
        for old, new in RENAMED:
            name = re.sub(old, new, name)
        if ".self.qkv." in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[name.replace("qkv", part)] = rows
        else:
            out[name] = tensor
    return out
