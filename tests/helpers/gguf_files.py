"""Writes a LLaMA with a byte-level BPE as a GGUF file, by the writer of the package gguf, as llama.cpp's converter does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(
    path: Path, model: Any, tokenizer: Any, *, kind: str = "F32", architecture: str = "llama", chat: str = ""
) -> Path:
    """``model`` with its matrices as ``kind``; its rotary halves interleaved, as llama.cpp wants them."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, tokenizer, chat, config.vocab_size)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = value.float().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                weight = weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
        weight, stored = np.ascontiguousarray(weight), gguf.GGMLQuantizationType[kind if weight.ndim > 1 else "F32"]
        if stored.name == "Q8_K":  # nobody's weights: only its size counts
            block, size = gguf.GGML_QUANT_SIZES[stored]
            data = np.zeros((weight.shape[0], max(weight.shape[1] // block, 1) * size), np.uint8)
        else:
            data = weight if stored.name == "F32" else gguf.quantize(weight, stored)
        writer.add_tensor(_name(name), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, chat: str, vocabulary: int) -> None:
    rules = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in rules["merges"]]
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    words = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    unused = [f"[PAD{k}]" for k in range(len(words), vocabulary)]  # rows of the table without a token
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*words, *unused])
    writer.add_token_types([*(3 if word in special else 1 for word in words), *(5 for _ in unused)])  # control, normal
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if chat:
        writer.add_chat_template(chat)


def _name(name: str) -> str:
    parts = name.removeprefix("model.").split(".")
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{NAMES['.'.join(parts[2:-1])]}.{parts[-1]}"
    return {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[parts[0]] + f".{parts[-1]}"
