"""UniMP once more, in numpy and float64, row by row: slow, short, shares no code with the package.

Written from the paper, OpenFlamingo's description and transformers' model pages. Weights come as ``{name: float64 array}``
with the names of a state dict: those of the model's own parts, and those of a base model, LLaMA or GPT-NeoX.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf


def norm(w, name, x, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * w[f"{name}.weight"] + w[
        f"{name}.bias"
    ]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def feed(w, name, x):
    return gelu(norm(w, f"{name}.0", x) @ w[f"{name}.1.weight"].T) @ w[f"{name}.3.weight"].T


def attend(w, name, heads, queries, media):
    """What query rows [s, d] see of media rows [n, w]: all of them, head by head."""
    q = queries @ w[f"{name}.to_q.weight"].T
    k, v = np.split(media @ w[f"{name}.to_kv.weight"].T, 2, axis=1)
    seen = []
    for mine in np.split(np.arange(q.shape[1]), heads):
        seen.append(softmax(q[:, mine] @ k[:, mine].T / np.sqrt(len(mine))) @ v[:, mine])
    return np.concatenate(seen, axis=1) @ w[f"{name}.to_out.weight"].T


# A picture -----------------------------------------------------------------------------------------------------


def resample(w, heads, tokens):
    """Latents [n, w] of one picture's tokens [t, d]."""
    if "sight.resampler.widen.weight" in w:
        tokens = tokens @ w["sight.resampler.widen.weight"].T + w["sight.resampler.widen.bias"]
    latents, layer = w["sight.resampler.latents"], 0
    while (name := f"sight.resampler.layers.{layer}") and f"{name}.norm_media.weight" in w:
        normed = norm(w, f"{name}.norm_latents", latents)
        media = np.concatenate([norm(w, f"{name}.norm_media", tokens), normed])
        latents = latents + attend(w, f"{name}.attention", heads, normed, media)
        latents = latents + feed(w, f"{name}.feed", latents)
        layer += 1
    return norm(w, "sight.resampler.norm", latents)


def gated(w, layer, heads, x, shown, latents, *, exclusive):
    """A gated block in front of ``layer``: ``shown`` [L] says how many pictures stand up to each position of a row.

    ``latents`` are those of the row's pictures in order, None for a picture that is missing.
    """
    name = f"blocks.{layer}"
    seen = np.zeros_like(x)
    for time in set(shown.tolist()):
        these = latents[time - 1 : time] if exclusive and time else [] if exclusive else latents[:time]
        there = [some for some in these if some is not None]
        if there:
            query = norm(w, f"{name}.norm", x[shown == time])
            seen[shown == time] = attend(w, f"{name}.attention", heads, query, np.concatenate(there))
    x = x + np.tanh(w[f"{name}.gate"]) * seen
    return x + np.tanh(w[f"{name}.feed_gate"]) * feed(w, f"{name}.feed", x)


# A language model ---------------------------------------------------------------------------------------------


def turned(x, positions, base):
    """Rotary positions of x [L, d]: the first half of the numbers is turned against the second."""
    half = x.shape[1] // 2
    angle = positions[:, None] / base ** (np.arange(half) / half)
    a, b = x[:, :half], x[:, half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=1)


def causal(q, k, v):
    score = q @ k.T / np.sqrt(q.shape[1])
    return softmax(np.where(np.tri(len(q), dtype=bool), score, -np.inf)) @ v


def llama_layer(w, config, i, x):
    name, at = f"model.layers.{i}", np.arange(len(x))

    def rms(which, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * w[f"{which}.weight"]

    normed, width = rms(f"{name}.input_layernorm", x), config.head_dim
    q, k, v = (normed @ w[f"{name}.self_attn.{one}_proj.weight"].T for one in "qkv")
    shared, theta = config.num_attention_heads // config.num_key_value_heads, config.rope_parameters["rope_theta"]
    heads = []
    for h in range(config.num_attention_heads):
        mine, theirs = slice(h * width, (h + 1) * width), slice(h // shared * width, (h // shared + 1) * width)
        heads.append(causal(turned(q[:, mine], at, theta), turned(k[:, theirs], at, theta), v[:, theirs]))
    x = x + np.concatenate(heads, axis=1) @ w[f"{name}.self_attn.o_proj.weight"].T
    normed = rms(f"{name}.post_attention_layernorm", x)
    gate, up = (normed @ w[f"{name}.mlp.{one}_proj.weight"].T for one in ("gate", "up"))
    x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{name}.mlp.down_proj.weight"].T
    return rms("model.norm", x) if i + 1 == config.num_hidden_layers else x


def neox_layer(w, config, i, x):
    name, at, eps = f"gpt_neox.layers.{i}", np.arange(len(x)), config.layer_norm_eps

    def linear(which, x):
        return x @ w[f"{name}.{which}.weight"].T + w[f"{name}.{which}.bias"]

    width = config.hidden_size // config.num_attention_heads
    part = int(width * config.rope_parameters["partial_rotary_factor"])
    qkv = linear("attention.query_key_value", norm(w, f"{name}.input_layernorm", x, eps))
    heads = []
    for mine in np.split(qkv, config.num_attention_heads, axis=1):  # query, key and value of a head side by side
        q, k, v = np.split(mine, 3, axis=1)
        theta = config.rope_parameters["rope_theta"]
        q, k = (np.concatenate([turned(s[:, :part], at, theta), s[:, part:]], axis=1) for s in (q, k))
        heads.append(causal(q, k, v))
    attended = linear("attention.dense", np.concatenate(heads, axis=1))
    inner = linear("mlp.dense_h_to_4h", norm(w, f"{name}.post_attention_layernorm", x, eps))
    x = x + attended + linear("mlp.dense_4h_to_h", gelu(inner))
    return norm(w, "gpt_neox.final_layer_norm", x, eps) if i + 1 == config.num_hidden_layers else x


NAMES = {  # layer, input rows, output rows
    "llama": (llama_layer, "model.embed_tokens.weight", "model.embed_tokens.weight"),
    "gpt_neox": (neox_layer, "gpt_neox.embed_in.weight", "lm_head.weight"),
}


def similar_ratings(w, x, ids, shown, images, tokens, answer, rates):
    """Last hidden states [L, h] with what the ratings of items with similar pictures add to them at ``answer``."""

    def key(item):
        seen = w["ratings.axes"] @ (tokens(item).mean(0) - w["ratings.centre"])
        return seen / np.linalg.norm(seen)

    def looks_at(place):
        return images[shown[place] - 1] if shown[place] and tokens(images[shown[place] - 1]) is not None else None

    out = x.copy()
    for place in np.flatnonzero(ids == answer):
        before = [j for j in range(place) if ids[j] in rates and looks_at(j) is not None]
        if looks_at(place) is None or not before:
            continue
        mine = key(looks_at(place))
        scores = [w["ratings.nothing"], *(np.exp(w["ratings.sharpness"]) * mine @ key(looks_at(j)) for j in before)]
        for share, j in zip(softmax(np.array(scores))[1:], before, strict=True):
            out[place] += share * w["ratings.values"][ids[j] - rates.start]
    return out


def row_logits(w, base, config, vision, ids, images, vocabulary, tokens):
    """Logits [L, V + E] of one row; ``tokens`` gives an item's picture tokens or None."""
    layer, words, head = NAMES[config.model_type]
    out = w.get("rows.output", w["rows.input"])
    x = np.concatenate([base[words], w["rows.input"]])[ids]
    shown = np.cumsum(ids == vocabulary.image)
    latents = [None if tokens(i) is None else resample(w, vision.heads, tokens(i)) for i in images if i >= 0]
    for i in range(config.num_hidden_layers):
        if f"blocks.{i}.gate" in w:
            x = gated(w, i, vision.heads, x, shown, latents, exclusive=vision.exclusive)
        x = layer(base, config, i, x)
    if vision.similar_ratings:
        x = similar_ratings(w, x, ids, shown, images, tokens, vocabulary.answer, vocabulary.rates)
    return x @ np.concatenate([base[head], out]).T


def loss(rows, gamma):
    """The loss of rows ``(logits [L, V + E], ids, labels, weight)``, label by label."""
    total, labels = 0.0, 0
    for logits, ids, marked, weight in rows:
        for j in range(1, len(ids)):
            if marked[j]:
                p = softmax(logits[j - 1])[ids[j]]
                total += weight * (1 - p) ** gamma * -np.log(p)
                labels += 1
    return total / labels
