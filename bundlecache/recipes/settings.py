"""The settings of Stage B: frozen dataclasses, one sentence a field; the tables and keys of a recipe file.

These fields are the one source of the keys, their defaults, their documentation and their checks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STAGES = ("text", "fusion", "joint")


LARGEST = 65_536
"""Widths, ranks and questions at once beyond this are slips of the hand."""
SEEDS = 2**32
"""Seeds are smaller than this."""


def _setting(
    default: Any,
    sentence: str,
    choices: tuple[str, ...] = (),
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field of a recipe; bounds hold for every number in a list, too."""
    bounds = {"at least": at_least, "at most": at_most, "more than": above, "less than": below}
    return field(default=default, metadata={"help": sentence, "choices": choices, "bounds": bounds})


@dataclass(frozen=True)
class Base:
    """The language model."""

    model: str = _setting("embedded", "The language model: 'embedded', a local folder, or a hub id (ID@REVISION).")
    dtype: str = _setting(
        "auto",
        "Number format of the frozen weights; auto is bfloat16 on a GPU and float32 on a CPU.",
        ("auto", "float32", "bfloat16", "float16"),
    )
    quantise: str = _setting(
        "none",
        "Bits a frozen weight: as dtype says, 8, or 4 (NF4), by the extra quant.",
        ("none", "8bit", "4bit"),
    )
    gradient_checkpointing: bool = _setting(
        False, "Recompute activations in the backward pass: less memory, 1.3 to 1.5 times as long."
    )


@dataclass(frozen=True)
class Prompt:
    """What the language model reads."""

    template: str = _setting(
        "brief",
        "The wording: brief for the tiny base, paper for base models, chat for instruct models (framed by the "
        "tokenizer's own template), auto for the one of the last two that fits, public-code for that to the letter.",
        ("brief", "paper", "chat", "auto", "public-code"),
    )
    task: str = _setting("bundle construction", "What the paper's wording calls the task.")
    bundle: str = _setting("bundle", "What a bundle is called, for instance fashion outfit or music playlist.")
    item: str = _setting("item", "What an item is called, for instance fashion item or song.")
    separator: str = _setting(
        "soft",
        "What stands between a title and its fused token: a learnt vector, fixed words, or nothing.",
        ("soft", "hard", "none"),
    )
    separator_init: str = _setting(
        "", "Words whose mean embedding starts the soft separator; empty draws it at random."
    )
    separator_words: str = _setting(", content token:", "The words of the hard separator.")
    max_title_tokens: int = _setting(32, "Longer titles are cut to this many tokens.", at_least=1)
    max_given: int = _setting(16, "Longer partial bundles are cut to their first items.", at_least=1, at_most=1000)
    history: int = _setting(
        0,
        "Tell this many of the latest items that the bundle's user took elsewhere; 0 tells none.",
        at_least=0,
        at_most=1000,
    )


@dataclass(frozen=True)
class Lora:
    """The low-rank adapter of the language model."""

    rank: int = _setting(8, "Rank of the update.", at_least=1, at_most=LARGEST)
    alpha: float = _setting(16.0, "The update is scaled by alpha / rank.", above=0)
    dropout: float = _setting(0.05, "Dropout in front of the adapter, from 0 to below 1.", at_least=0, below=1)
    targets: tuple[str, ...] = _setting(("q_proj", "v_proj"), "Names of the linear layers that get an adapter.")


@dataclass(frozen=True)
class Fusion:
    """How the vectors of one item become one token."""

    modalities: tuple[str, ...] = _setting(
        (),
        "Which stored modalities are fused, or encoders by their specs (two graphs, say); empty takes all there are.",
    )
    width: int = _setting(64, "Width in which modalities attend to each other.", at_least=1, at_most=LARGEST)
    hidden: tuple[int, ...] = _setting(
        (),
        "Hidden widths of the input net of text, image and audio vectors; 0 stands for the vector's own width.",
        at_least=0,
        at_most=LARGEST,
    )
    content_input: str = _setting(
        "l2",
        "What happens to text, image and audio vectors first: unit length, per-column z-score, or nothing.",
        ("l2", "standardise", "none"),
    )
    graph_input: str = _setting("none", "The same for graph vectors.", ("l2", "standardise", "none"))
    normalise: bool = _setting(True, "Bring every modality to unit length before attention.")
    value_projection: bool = _setting(False, "Give attention a learnt value matrix; without it V is the input itself.")
    pooling: str = _setting(
        "mean",
        "How the modalities of an item become one: their mean, or a second attention that the soft separator asks; "
        "detached, this does not train the separator.",
        ("mean", "separator", "separator-detached"),
    )
    residual: bool = _setting(False, "Add the input to what attention returns.")
    type_embedding: bool = _setting(False, "Add a learnt vector that says which modality a row is.")
    layer_norm: str = _setting(
        "none",
        "Where LayerNorm stands: nowhere, before attention, or on the fused vector.",
        ("none", "attention", "fused"),
    )
    projector_width: int = _setting(
        128, "Hidden width of the projector into the language model.", at_least=1, at_most=LARGEST
    )
    output: str = _setting(
        "free",
        "Length of a fused token: free, or that of a mean word embedding times a learnt scale.",
        ("free", "embedding"),
    )
    input_dropout: float = _setting(
        0.0,
        "Dropout on the vectors themselves, from 0 to below 1: against learning items by heart.",
        at_least=0,
        below=1,
    )
    modality_dropout: float = _setting(
        0.0, "Chance that training hides a modality of an item that has others, below 1.", at_least=0, below=1
    )


@dataclass(frozen=True)
class Data:
    """How training questions are drawn: anew at every step, from the seed."""

    options: int = _setting(10, "Options per training question.", at_least=2)
    batch: int = _setting(16, "Questions per optimiser step.", at_least=1, at_most=LARGEST)
    accumulate: int = _setting(1, "Pieces in which a batch is computed, to save memory.", at_least=1)
    partial: str = _setting(
        "random",
        "How much of the rest of a bundle is given: all of it, or a random number of items.",
        ("random", "all"),
    )
    negatives: str = _setting(
        "random",
        "Wrong options: random, hard (of the truth's category), mixed (half of each); or nearest:MODALITY, "
        "same-category, popularity-matched, co-occurring, several joined by +.",
    )
    difficulty: float = _setting(
        1.0,
        "How hard wrong options are that are nearest, same-category, ...: 0 (random) to 1 (hardest).",
        at_least=0,
        at_most=1,
    )
    bucket: int = _setting(
        8,
        "Batches that are drawn together and sorted by length, so that little is padding.",
        at_least=1,
        at_most=LARGEST,
    )


@dataclass(frozen=True)
class Stage:
    """One stage of training."""

    steps: int = _setting(300, "Optimiser steps.", at_least=0)
    lr: float = _setting(3e-4, "Peak learning rate of AdamW.", at_least=0)
    final_lr: float = _setting(0.0, "Learning rate at the end, as a share of the peak.", at_least=0, at_most=1)
    warmup: int = _setting(20, "Steps over which the rate rises from zero.", at_least=0)
    weight_decay: float = _setting(0.0, "Weight decay of AdamW.", at_least=0)
    clip: float = _setting(1.0, "Largest gradient norm; 0 never clips.", at_least=0)
    evaluate_every: int = _setting(50, "Steps between two looks at the validation questions.", at_least=1)
    patience: int = _setting(0, "Looks without improvement after which the stage ends; 0 never ends early.", at_least=0)
    contrastive_steps: int = _setting(
        0, "Steps that first pull the fused tokens of bundled items together; not in the paper.", at_least=0
    )


@dataclass(frozen=True)
class Run:
    """What holds for all stages."""

    strategy: tuple[str, ...] = _setting(("text", "fusion"), "The stages, in order: text, fusion, joint.", STAGES)
    loss: str = _setting(
        "vocabulary",
        "Cross-entropy of the answer's letter over the whole vocabulary or over the option letters; or, as the public "
        "code, over the vocabulary, mean of the letter and the full stop behind it.",
        ("vocabulary", "letters", "letter-and-stop"),
    )
    validation: str = _setting("valid-random10", "The frozen questions on which the best weights are chosen.")
    select: str = _setting(
        "hit@1",
        "What the best weights are best at on these questions; the loss is steadier where they are few.",
        ("hit@1", "loss"),
    )
    seed: int = _setting(0, "Seed of weights, questions and dropout.", at_least=0, below=SEEDS)
    precision: str = _setting("no", "Automatic mixed precision.", ("no", "bf16", "fp16"))
    max_minutes: float = _setting(0.0, "Stop and save after so many minutes; 0 has no limit.", at_least=0)
    save_minutes: float = _setting(
        5.0, "Minutes between two snapshots that train --resume goes on from; 0 counts steps only.", at_least=0
    )
    save_every: int = _setting(0, "Steps between two snapshots; 0 counts minutes only.", at_least=0)
