"""Files as Bundle-MLLM's public code and Meta publish them: a checkpoint, and a base folder with a bare tokenizer.model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

WORDS = (
    "You should directly answer question choosing letter correct option Given partial red dress warm lamp cold bell mug"
)
LETTERS = "ABCDEFGHIJKLMNOPQRST"
RANK, ALPHA, WIDTH, INNER = 3, 12, 6, 9  # of LoRA, fusion and projector
LAYERS, HEADS = 2, 2


def sentencepiece_model(folder: Path) -> Path:
    """A small SentencePiece model with the settings of Llama-2's; every option letter is one piece."""
    words = WORDS.split()
    sentences = [f"{a} {b} {a}; {b}." for a in words for b in words] + [f"; {c}. lamp, {c}" for c in LETTERS] * 50
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=450,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=[],
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"


def base_folder(folder: Path, hidden: int = 32) -> Path:
    """A random Llama whose folder holds config.json, model.safetensors and tokenizer.model, and nothing else."""
    folder.mkdir()
    pieces = sentencepiece.SentencePieceProcessor(str(sentencepiece_model(folder))).get_piece_size()
    config = LlamaConfig(
        vocab_size=pieces, hidden_size=hidden, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=2048, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def save_checkpoint(
    folder: Path, content: int, graph: int, hidden: int, suffix: str = "bin", seed: int = 0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Random weights in the files and names of the public code; returns fusion, projector, adapter and prompt token."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    layers = {"w1": (content, content), "w2": (10, content), "w3": (WIDTH, 10)}
    layers |= {"bi_transformation": (WIDTH, graph), "cf_transformation": (WIDTH, graph)}
    fusion = {}
    for name, shape in layers.items():
        prefix = "c_encoder." if name.startswith("w") else ""
        fusion |= {f"{prefix}{name}.weight": torch.randn(shape) / shape[1] ** 0.5}
        fusion |= {f"{prefix}{name}.bias": torch.randn(shape[0]) / 3}
    fusion |= {f"attention.{name}.weight": torch.randn(WIDTH, WIDTH) for name in ("w_q", "w_k", "w_v")}
    projector = {"dense1.weight": torch.randn(INNER, WIDTH), "dense1.bias": torch.randn(INNER)}
    projector |= {"output.weight": torch.randn(hidden, INNER) / 9, "output.bias": torch.randn(hidden) / 9}
    adapter = {}
    for layer in range(LAYERS):
        for target in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{target}.lora"
            adapter[f"{name}_A.weight"] = torch.randn(RANK, hidden) / 9
            adapter[f"{name}_B.weight"] = torch.randn(hidden, RANK) / 9
    token = torch.randn(1, hidden)
    folder.mkdir(exist_ok=True)
    torch.save(fusion, folder / "fusion.bin")
    # The file lists "output" first: its place says nothing.
    torch.save(dict(sorted(projector.items(), reverse=True)), folder / "projector_model_fuse.bin")
    torch.save({"weight": token}, folder / "prompt_token.bin")
    if suffix == "bin":
        torch.save(adapter, folder / "adapter_model.bin")
    else:
        save_file(adapter, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    return fusion, projector, adapter, token
