"""Tiny random checkpoints of the true architectures, and media files, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

WORDS = ["red", "blue", "wool", "coat", "lamp", "bell", "a", "of", "with", "##s", "##ly", "warm", "cold", "mug"]


def open_clip_folder(path: Path, seed: int = 0, *, custom: bool = False, **changes: object) -> Path:
    """What ``open_clip`` itself reads by ``local-dir:``; 2 layers, 64 wide, 32-pixel pictures, 32-d vectors."""
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
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
    config |= {"custom_text": custom}
    path.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path / "open_clip_model.safetensors")
    steps = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": steps}))
    return path


def clap_folder(path: Path, seed: int = 0, *, fusion: bool = False) -> Path:
    """ClapModel with its HTSAT audio tower in four one-block stages, and the feature extractor beside it."""
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


def laion_clap_file(path: Path, seed: int = 0, *, fusion: bool = False) -> Path:
    """The weights of :func:`clap_folder` as LAION-AI/CLAP saves them: its names, one qkv, scores, a module prefix."""
    import re

    import torch
    from transformers import ClapModel

    model = ClapModel.from_pretrained(clap_folder(path, seed, fusion=fusion))
    state: dict[str, torch.Tensor] = {"logit_scale_a": torch.ones(())}
    for name, tensor in model.state_dict().items():
        if name.startswith("text_") or re.search(r"self\.(key|value)\.", name):
            continue
        if ".self.query." in name:
            tensor = torch.cat([model.state_dict()[name.replace("query", part)] for part in ("query", "key", "value")])
        for ours, theirs in (
            ("audio_model.audio_encoder.", "audio_branch."),
            ("batch_norm.", "bn0."),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.self.query", "attn.qkv"),
            ("attention.self", "attn"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            (".output.dense", ".mlp.fc2"),
            ("audio_projection.linear1", "audio_projection.0"),
            ("audio_projection.linear2", "audio_projection.2"),
        ):
            name = name.replace(ours, theirs)
        state[f"module.{name}"] = tensor
    state["module.audio_branch.logmel_extractor.melW"] = torch.zeros(513, 64)
    state["module.audio_branch.tscam_conv.weight"] = torch.zeros(3)
    state["module.text_branch.embeddings.position_ids"] = torch.arange(5)
    file = path / "original.pt"
    torch.save({"epoch": 3, "name": "HTSAT", "best": np.float64(0.25), "state_dict": state}, file)
    return file


def bert_folder(path: Path, seed: int = 0) -> Path:
    """BertModel with a WordPiece tokenizer, 2 layers, 32 wide, pooled by the mean."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(i) for i in range(10)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary += [x for c in letters for x in (c, f"##{c}") if x not in vocabulary]
    tokenizer = BertTokenizerFast({name: i for i, name in enumerate(vocabulary)}, model_max_length=64)
    tokenizer.save_pretrained(path)
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


VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def clip_folder(path: Path, seed: int = 0, part: str = "CLIPModel") -> Path:
    """CLIPModel, or one tower of it by its class name, with a byte-pair tokenizer; 40 px, of which 32 are read."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(i) for i in range(10)]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters), "ed</w>", "un"]
    tokenizer = hf.CLIPTokenizer(
        {name: i for i, name in enumerate(names)}, [("e", "d</w>"), ("u", "n")], model_max_length=16
    )
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**TEXT, **ids, "vocab_size": len(names), "max_position_embeddings": 16, "initializer_factor": 4.0}
    vision = {**VISION, "intermediate_size": 48, "initializer_factor": 4.0}
    model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    if part != "CLIPModel":
        config = model.config.vision_config if "Vision" in part else model.config.text_config
        config.projection_dim = 24
        model = getattr(hf, part)(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    hf.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def siglip_folder(path: Path, seed: int = 0, part: str = "SiglipModel", *, two: bool = False) -> Path:
    """SiglipModel or its vision tower, with a SentencePiece tokenizer or Gemma's as SigLIP 2 has; 12 tokens."""
    import io

    import sentencepiece
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    path.mkdir(parents=True, exist_ok=True)
    if two:
        names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581"]
        names += [chr(c) for c in range(33, 127) if chr(c) not in names]
        vocabulary = {name: i for i, name in enumerate(names)}
        tokenizer = hf.GemmaTokenizer(vocabulary, [], model_max_length=12)
    else:
        titles = [" ".join(WORDS[i:] + WORDS[:i]).replace("#", "") for i in range(len(WORDS))]
        model, size = io.BytesIO(), {"vocab_size": 60, "hard_vocab_limit": False}
        ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(titles), model_writer=model, minloglevel=5, **size, **ids
        )
        (path / "spiece.model").write_bytes(model.getvalue())
        tokenizer = hf.SiglipTokenizer(vocab_file=str(path / "spiece.model"), model_max_length=12)
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "projection_size": 32}
    config = hf.SiglipConfig(text_config=text, vision_config={**VISION, "intermediate_size": 48})
    model = hf.SiglipModel(config) if part == "SiglipModel" else getattr(hf, part)(config.vision_config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    hf.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def dinov2_folder(path: Path, seed: int = 0, *, registers: int = 0) -> Path:
    """Dinov2Model, or the one with registers; its positions are for 48 pixels, of which it reads 32."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    vision = {**VISION, "image_size": 48}
    if registers:
        config = hf.Dinov2WithRegistersConfig(**vision, num_register_tokens=registers)
        hf.Dinov2WithRegistersModel(config).save_pretrained(path)
    else:
        hf.Dinov2Model(hf.Dinov2Config(**vision)).save_pretrained(path)
    hf.BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def blip2_folder(path: Path, seed: int = 0, part: str = "Blip2ForConditionalGeneration") -> Path:
    """BLIP-2 with an OPT language model, in several files; 5 queries of 24 numbers."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    asking = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    asking |= {"encoder_hidden_size": 32, "vocab_size": 32, "cross_attention_frequency": 2}
    language = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "vocab_size": 640}
    language |= {"num_attention_heads": 2, "word_embed_proj_dim": 32}
    config = hf.Blip2Config(
        vision_config={**VISION, "intermediate_size": 48, "initializer_range": 0.2},
        qformer_config={**asking, "initializer_range": 0.2},
        text_config=language,
        num_query_tokens=5,
        image_token_index=639,
    )
    model = getattr(hf, part)(config)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(path, max_shard_size="60KB")
    hf.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def open_clip_text_folder(path: Path, seed: int = 0) -> Path:
    """The open_clip folder again, with room for every word of open_clip's own tokenizer."""
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return open_clip_folder(path, seed, text_cfg=text)


def adapted_folder(modality: str) -> Callable[..., Path]:
    """What makes an adapted encoder as `bundlecache adapt` writes it: a projection behind `embedded:clip`."""

    def make(path: Path, seed: int = 0) -> Path:
        import torch

        from bundlecache.features import registry
        from bundlecache.features.adapt import folder

        parent = registry.load("embedded:clip", modality=modality, catalogue=None)  # type: ignore[arg-type]
        path.mkdir(parents=True)
        torch.manual_seed(seed)
        folder.write_projections(path, {modality: torch.randn(48, 64)})
        side = folder.SideOfAdapted("embedded:clip", parent.fingerprint, "head", "", "", projected=True)
        folder.write_manifest(path, {modality: side}, {"seed": seed})
        return path

    return make


def timm_folder(path: Path, seed: int = 0) -> Path:
    """The smallest residual network of timm with random weights, as timm publishes one: config.json and weights."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", pretrained=False)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    path.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path / "model.safetensors")
    config = {**model.pretrained_cfg, "input_size": [3, 64, 64]}
    plain = {key: value for key, value in config.items() if isinstance(value, int | float | str | list | tuple)}
    (path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": plain}))
    return path


def vqgan_folder(path: Path, seed: int = 0) -> Path:
    """A VQ autoencoder with 16 codes for 8 x 8 px of 32 px pictures."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    sizes = {"embed_dim": 4, "num_embeddings": 16, "latent_channels": 8, "base_channels": 32, "num_patches": 4}
    config = hf.JanusVQVAEConfig(channel_multiplier=[1, 1, 1, 1], num_res_blocks=1, initializer_range=0.5, **sizes)
    model = hf.JanusVQVAE(config)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    model.save_pretrained(path)
    return path


FOLDERS = {
    ("image", "vqgan"): vqgan_folder,
    ("image", "timm"): timm_folder,
    ("text", "hf"): bert_folder,
    ("text", "open_clip"): open_clip_text_folder,
    ("image", "hf"): clip_folder,
    ("image", "open_clip"): open_clip_folder,
    ("image", "blip2"): blip2_folder,
    ("image", "adapted"): adapted_folder("image"),
    ("text", "adapted"): adapted_folder("text"),
    ("audio", "clap"): clap_folder,
    ("audio", "laion_clap"): laion_clap_file,
}  # by modality and the head of the spec


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
