"""Bundle-MLLM once more, in numpy and float64, item by item and question by question: slow, short, shares no code.

Written from the paper and from what the public code was seen to do. Weights come as ``{name: float64 array}``
with the names of a state dict; ``settings`` are those of a recipe's ``[fusion]``.
"""

from __future__ import annotations

from math import erf

import numpy as np

PAPER = (
    "You are a helpful and honest assistant. The following are multiple choice questions about {task}. You should "
    "directly answer the question by choosing the letter of the correct option. Only provide the letter of your answer, "
    "without any explanation or mentioning the option content. Question: {history}Given the partial {bundle}: {given}, which "
    "candidate {item} should be included into this {bundle}?\nOptions: {options}\nYour answer should indicate your "
    "choice with a single letter (e.g., “A,” “B,” “C,” etc.).\nChoice:"
)
BRIEF = "{history}Bundle:{given}\nOptions:{options}\nAnswer:"
SOFT = "\ue000"  # stands in no title
LETTERS = "ABCDEFGHIJKLMNOPQRST"


# One item -------------------------------------------------------------------------------------------------


def unit(x):
    return x / max(np.linalg.norm(x), 1e-12)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def layer_norm(x, weight=1.0, bias=0.0):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def modality(w, settings, k, kind, x):
    """One vector of the common width from the vector ``x`` of modality number ``k``."""
    how = settings.graph_input if kind == "graph" else settings.content_input
    if how == "l2":
        x = unit(x)
    if how == "standardise":
        x = (x - w[f"fusion.mean{k}"]) / w[f"fusion.std{k}"]
    layers = sorted(int(name.split(".")[3]) for name in w if name.startswith(f"fusion.nets.{k}.") and "weight" in name)
    for layer in layers:
        x = x if layer == layers[0] else np.maximum(x, 0)
        x = w[f"fusion.nets.{k}.{layer}.weight"] @ x + w[f"fusion.nets.{k}.{layer}.bias"]
    x = unit(x) if settings.normalise else x
    return x + w["fusion.kind"][k] if settings.type_embedding else x


def fuse(w, settings, kinds, vectors):
    """One vector of the common width from the item's ``vectors``, None where it has none."""
    there = [k for k, x in enumerate(vectors) if x is not None]
    if not there:
        return w["fusion.absent"]
    x = np.stack([modality(w, settings, k, kinds[k], vectors[k]) for k in there])
    base = layer_norm(x) if settings.layer_norm == "attention" else x
    value = base @ w["fusion.value.weight"].T if settings.value_projection else base
    rows = []
    for row in base:
        query = w["fusion.query.weight"] @ row
        scores = np.array([query @ (w["fusion.key.weight"] @ other) for other in base]) / np.sqrt(settings.width)
        rows.append(softmax(scores) @ value)
    y = np.stack(rows) + (x if settings.residual else 0)
    if settings.pooling == "mean":
        fused = y.mean(0)
    else:
        query = w["fusion.pool.query.weight"] @ w["separator"]
        base = layer_norm(y) if settings.layer_norm == "attention" else y
        scores = np.array([query @ (w["fusion.pool.key.weight"] @ row) for row in base]) / np.sqrt(settings.width)
        fused = softmax(scores) @ (base @ w["fusion.pool.value.weight"].T if settings.value_projection else base)
    if settings.layer_norm == "fused":
        fused = layer_norm(fused, w["fusion.norm.weight"], w["fusion.norm.bias"])
    return fused


def item_token(w, settings, kinds, vectors):
    """The item's token in the language model."""
    x = w["projector.0.weight"] @ fuse(w, settings, kinds, vectors) + w["projector.0.bias"]
    x = np.array([0.5 * v * (1 + erf(v / np.sqrt(2))) for v in x])
    x = w["projector.2.weight"] @ x + w["projector.2.bias"]
    if settings.output == "embedding":
        x = x / np.sqrt((x**2).mean() + 1e-12) * w["embedding_rms"] * w["scale"]
    return x


# One prompt -----------------------------------------------------------------------------------------------


def prompt_text(template, words, given, options, separator, *, soft=True, taken=()):
    """The text of a question about the titles ``given`` and ``options``, with `SOFT` for every fused token.

    ``taken`` are the titles of the user's history.
    """
    public, brief = template == "public-code", template == "brief"
    before = {"hard": ", content token:"}.get(separator, "" if brief else ",") + (" " if public else "")

    def item(label, title):
        return (f"{label} {title}" if label else f"{title}") + (before + SOFT if soft else "") + ";"

    letters = [letter if brief else f"{letter}." for letter in LETTERS]
    past, shown = ([item("" if brief else f"{k}.", t) for k, t in enumerate(titles, 1)] for titles in (taken, given))
    offered = [item(n, t) for n, t in zip(letters, options, strict=False)]
    if brief:
        history = "History:" + "".join(f" {x}" for x in past) + "\n" if past else ""
        options = "".join(f" {x}" for x in offered)
        return BRIEF.format(history=history, given="".join(f" {x}" for x in shown), options=options)
    texts = {"given": "".join(f"{x} " for x in shown), "options": "".join(f"{x} " for x in offered)}
    texts["history"] = "The user's history, latest last: " + "".join(f"{x} " for x in past) if past else ""
    return PAPER.format(**words, **texts) + (" " if public else "")


def prompt_ids(tokenizer, text, *, apart, separator):
    """Ids of a prompt with BOS in front: ``"separator"`` for that, ``("item", k)`` for the k-th fused token.

    ``apart`` tokenises each text between them by itself, instead of as it is spelled after a word.
    """

    def plain(segment):
        return tokenizer(segment, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for k, segment in enumerate(text.split(SOFT)):
        if k:
            ids += ["separator"] * (separator == "soft") + [("item", k - 1)]
        if segment:
            ids += plain(segment) if apart or not k else plain("a" + segment)[len(plain("a")) :]
    return ids


def embeddings(w, table, ids, tokens):
    """[L, h]: word embeddings, the separator, and the fused ``tokens`` of given items and options in their order."""
    rows = []
    for i in ids:
        rows.append(w["separator"] if i == "separator" else tokens[i[1]] if isinstance(i, tuple) else table[i])
    return np.stack(rows)


# The language model ---------------------------------------------------------------------------------------


def llama(w, config, x, hidden=0):
    """Logits [2, V] behind the last two of embeddings ``x`` [L, h]; nobody sees the first ``hidden``, which are padding."""
    length, heads, width = len(x), config.num_attention_heads, config.hidden_size // config.num_attention_heads
    angle = np.outer(
        np.arange(length) - hidden, config.rope_parameters["rope_theta"] ** (-np.arange(0, width, 2) / width)
    )
    cos, sin = np.cos(np.concatenate([angle, angle], 1)), np.sin(np.concatenate([angle, angle], 1))

    def rms(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * weight

    def turned(x):
        return x * cos + np.concatenate([-x[:, width // 2 :], x[:, : width // 2]], 1) * sin

    seen = np.tril(np.ones((length, length), bool))
    seen[:, :hidden] = False
    for n in range(config.num_hidden_layers):
        v = {name.removeprefix(f"layers.{n}."): value for name, value in w.items() if name.startswith(f"layers.{n}.")}
        y = rms(x, v["input_layernorm.weight"])
        q, k, value = (y @ v[f"self_attn.{name}_proj.weight"].T for name in "qkv")
        out = []
        for head in range(heads):
            mine = slice(head * width, (head + 1) * width)
            shared = head // (heads // config.num_key_value_heads)
            theirs = slice(shared * width, (shared + 1) * width)
            scores = turned(q[:, mine]) @ turned(k[:, theirs]).T / np.sqrt(width)
            scores = np.where(seen, scores, -1e30)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            out.append(weights / weights.sum(1, keepdims=True) @ value[:, theirs])
        x = x + np.concatenate(out, 1) @ v["self_attn.o_proj.weight"].T
        y = rms(x, v["post_attention_layernorm.weight"])
        gate = y @ v["mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ v["mlp.up_proj.weight"].T)) @ v["mlp.down_proj.weight"].T
    return rms(x[-2:], w["norm.weight"]) @ w["lm_head.weight"].T


def cross_entropy(logits, target):
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target]


def loss(w, config, x, answer, kind, letters, stop=None, table=None):
    """The loss of one question whose prompt is ``x`` [L, h] and whose right letter has the index ``answer``."""
    if kind == "letters":
        return cross_entropy(llama(w, config, x)[-1][letters], answer)
    if kind == "vocabulary":
        return cross_entropy(llama(w, config, x)[-1], letters[answer])
    logits = llama(w, config, np.concatenate([x, table[[letters[answer]]]]))
    return (cross_entropy(logits[-2], letters[answer]) + cross_entropy(logits[-1], stop)) / 2
