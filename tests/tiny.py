"""Tiny random checkpoints of the true architectures, and media files, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bundlecache._torchvision import prepare

WORDS = ["red", "blue", "wool", "coat", "lamp", "bell", "a", "of", "with", "##s", "##ly", "warm", "cold", "mug"]


def open_clip_folder(path: Path, seed: int = 0, **changes: object) -> Path:
    """What ``open_clip`` itself reads by ``local-dir:``; 2 layers, 64 wide, 32-pixel pictures, 32-d vectors."""
    prepare()
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
        **changes,
    }
    model = open_clip.CLIP(**config)
    path.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path / "open_clip_model.safetensors")
    steps = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": steps}))
    return path


def clap_folder(path: Path, seed: int = 0, *, fusion: bool = False) -> Path:
    """ClapModel with its HTSAT audio tower in four one-block stages, and the feature extractor beside it."""
    prepare()
    import torch
    from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

    torch.manual_seed(seed)
    audio = ClapAudioConfig(
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 2],
        patch_embeds_hidden_size=8,
        hidden_size=64,
        enable_fusion=fusion,
        fusion_type="aff_2d" if fusion else None,
    )
    text = ClapTextConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=24))
    model.save_pretrained(path)
    ClapFeatureExtractor(truncation="fusion" if fusion else "rand_trunc").save_pretrained(path)
    return path


def bert_folder(path: Path, seed: int = 0) -> Path:
    """BertModel with a WordPiece tokenizer, 2 layers, 32 wide, pooled by the mean."""
    prepare()
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(i) for i in range(10)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary += [x for c in letters for x in (c, f"##{c}") if x not in vocabulary]
    path.mkdir(parents=True)
    (path / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab_file=str(path / "vocab.txt"), model_max_length=64).save_pretrained(path)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(path)
    return path


def sentence_transformer_folder(path: Path, pooling: str = "pooling_mode_cls_token", seed: int = 0) -> Path:
    """The same BERT under a sentence-transformers folder: its own pooling, a dense layer, normalisation."""
    import torch
    from safetensors.torch import save_file

    bert_folder(path, seed)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for i, (folder, kind) in enumerate(kinds.items())
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": True}))
    for folder in ("1_Pooling", "2_Dense"):
        (path / folder).mkdir()
    (path / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, pooling: True}))
    dense = {"in_features": 32, "out_features": 12, "bias": True}
    dense["activation_function"] = "torch.nn.modules.activation.Tanh"
    (path / "2_Dense/config.json").write_text(json.dumps(dense))
    weights = {"linear.weight": torch.randn(12, 32), "linear.bias": torch.randn(12)}
    save_file(weights, path / "2_Dense/model.safetensors")
    return path


def pictures(folder: Path) -> list[Path]:
    """Five small pictures of different sizes and modes."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    made = []
    for i, (size, mode) in enumerate(
        [((40, 40), "RGB"), ((64, 33), "RGB"), ((20, 50), "L"), ((48, 48), "P"), ((7, 9), "RGB")]
    ):
        pixels = np.clip(rng.normal((60 + 40 * i, 200 - 40 * i, 90), 25, (size[1], size[0], 3)), 0, 255).astype(
            np.uint8
        )
        made.append(folder / f"{i}.png")
        Image.fromarray(pixels).convert(mode).save(made[-1])
    return made


def sounds(folder: Path) -> list[Path]:
    """A tone, a stereo chord, silence, twenty samples, and 12 seconds of noise at 8 kHz."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    t = np.arange(22_050) / 22_050
    tone = 0.4 * np.sin(2 * np.pi * 440 * t)
    chord = np.stack([tone, 0.3 * np.sin(2 * np.pi * 550 * t)], axis=1)
    waves = {
        "tone.wav": (tone, 22_050),
        "chord.flac": (chord, 22_050),
        "silence.wav": (np.zeros(4000), 8000),
        "short.wav": (tone[:20], 22_050),
        "long.ogg": (rng.normal(0, 0.1, 96_000), 8000),
    }
    for name, (wave, rate) in waves.items():
        soundfile.write(folder / name, wave, rate)
    return [folder / name for name in waves]
