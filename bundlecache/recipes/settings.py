"""The settings of Stage B: the tables and keys of a recipe, with their types, bounds, choices and descriptions.

These pydantic dataclasses are the one source of the keys, their defaults, their documentation and their checks. Values
are checked strictly: text is no number, and 1 is not true.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from ..limits import MAX_OPTIONS, MAX_SEED

STAGES = ("text", "fusion", "joint")
MAX_WIDTH = 65_536
"""Widths, ranks and questions at once beyond this are typing errors."""
MAX_STEPS = 10**9
"""Steps and counts of steps beyond this are typing errors."""

CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def split_list(value: Any) -> Any:
    """A list as a tuple; text is split at its commas, as ``--set lora.targets=q_proj,k_proj`` gives it."""
    if isinstance(value, str):
        return tuple(part for part in (part.strip() for part in value.split(",")) if part)
    return tuple(value) if isinstance(value, list) else value


def split_numbers(value: Any) -> Any:
    """The same for whole numbers: ``--set fusion.hidden=768,256``."""
    parts = split_list(value)
    try:
        return tuple(int(part) if isinstance(part, str) else part for part in parts)
    except (TypeError, ValueError):
        return parts


Words = Annotated[tuple[str, ...], BeforeValidator(split_list)]
Widths = Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_WIDTH)], ...], BeforeValidator(split_numbers)]
Stages = Annotated[tuple[Literal["text", "fusion", "joint"], ...], Field(min_length=1), BeforeValidator(split_list)]
Pairs = Annotated[
    tuple[Literal["bundles", "categories", "histories"], ...], Field(min_length=1), BeforeValidator(split_list)
]


@dataclass(frozen=True, config=CONFIG)
class Base:
    """The language model."""

    model: str = Field(
        default="embedded",
        description=(
            "The language model: 'embedded', a local folder, a GGUF file, 'smollm2' (the extra small-llm),"
            " or a hub id (ID@REVISION)."
        ),
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of the frozen weights; auto is bfloat16 on a GPU and float32 on a CPU.",
    )
    quantise: Literal["none", "8bit", "4bit"] = Field(
        default="none", description="Bits a frozen weight: as dtype says, 8, or 4 (NF4), by the extra quant."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, 1.3 to 1.5 times as long."
    )


@dataclass(frozen=True, config=CONFIG)
class Prompt:
    """What the language model reads."""

    template: Literal["brief", "paper", "chat", "auto", "public-code"] = Field(
        default="brief",
        description=(
            "The wording: brief for the tiny base, paper for base models, chat for instruct models (framed by"
            " the tokenizer's own template), auto for the one of the last two that fits, public-code for that"
            " to the letter."
        ),
    )
    task: str = Field(default="bundle construction", description="What the paper's wording calls the task.")
    bundle: str = Field(
        default="bundle", description="What a bundle is called, for instance fashion outfit or music playlist."
    )
    item: str = Field(default="item", description="What an item is called, for instance fashion item or song.")
    fused_tokens: bool = Field(
        default=True,
        description=(
            "Show the fused token of each item behind its title. Without them the language model reads titles alone, in a"
            " half of the time where few layers are adapted; the answer form pointer still compares options' tokens with it."
        ),
    )
    separator: Literal["soft", "hard", "none"] = Field(
        default="soft",
        description="What stands between a title and its fused token: a learnt vector, fixed words, or nothing.",
    )
    separator_init: str = Field(
        default="", description="Words whose mean embedding starts the soft separator; empty draws it at random."
    )
    separator_words: str = Field(default=", content token:", description="The words of the hard separator.")
    max_title_tokens: int = Field(
        default=32, ge=1, le=MAX_WIDTH, description="Longer titles are cut to this many tokens."
    )
    small_letters: bool = Field(
        default=False,
        description=(
            "Read titles that are in capitals alone in small letters, the first one left: about half the tokens, and words"
            " that a pretrained language model knows."
        ),
    )
    max_given: int = Field(
        default=16, ge=1, le=1000, description="Longer partial bundles are cut to their first items."
    )
    history: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Tell this many of the latest items that the bundle's user took elsewhere; 0 tells none.",
    )
    without_titles: bool = Field(
        default=False,
        description="Train even where no item has a title: the prompt then holds item tokens alone.",
    )


@dataclass(frozen=True, config=CONFIG)
class Lora:
    """The low-rank adapter of the language model."""

    rank: int = Field(default=8, ge=1, le=MAX_WIDTH, description="Rank of the update.")
    alpha: float = Field(default=16.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout in front of the adapter, from 0 to below 1.")
    targets: Words = Field(default=("q_proj", "v_proj"), description="Names of the linear layers that get an adapter.")
    last_layers: int = Field(
        default=0,
        ge=0,
        le=MAX_WIDTH,
        description=(
            "Adapt only the last so many layers; 0 adapts all. Where titles alone are read, nothing is computed backwards"
            " through the layers before them."
        ),
    )


@dataclass(frozen=True, config=CONFIG)
class Fusion:
    """How the vectors of one item become one token."""

    modalities: Words = Field(
        default=(),
        description=(
            "Which stored modalities are fused, or encoders by their specs (two graphs, say); empty takes all"
            " there are."
        ),
    )
    width: int = Field(default=64, ge=1, le=MAX_WIDTH, description="Width in which modalities attend to each other.")
    hidden: Widths = Field(
        default=(),
        description="Hidden widths of the input net of text, image and audio vectors; 0 stands for the vector's own width.",
    )
    content_input: Literal["l2", "standardise", "none"] = Field(
        default="l2",
        description="What happens to text, image and audio vectors first: unit length, per-column z-score, or nothing.",
    )
    graph_input: Literal["l2", "standardise", "none"] = Field(default="none", description="The same for graph vectors.")
    normalise: bool = Field(default=True, description="Bring every modality to unit length before attention.")
    value_projection: bool = Field(
        default=False, description="Give attention a learnt value matrix; without it V is the input itself."
    )
    pooling: Literal["mean", "separator", "separator-detached"] = Field(
        default="mean",
        description=(
            "How the modalities of an item become one: their mean, or a second attention that the soft "
            "separator asks; detached, this does not train the separator."
        ),
    )
    residual: bool = Field(default=False, description="Add the input to what attention returns.")
    type_embedding: bool = Field(default=False, description="Add a learnt vector that says which modality a row is.")
    layer_norm: Literal["none", "attention", "fused"] = Field(
        default="none", description="Where LayerNorm stands: nowhere, before attention, or on the fused vector."
    )
    projector_width: int = Field(
        default=128, ge=1, le=MAX_WIDTH, description="Hidden width of the projector into the language model."
    )
    output: Literal["free", "embedding"] = Field(
        default="free",
        description="Length of a fused token: free, or that of a mean word embedding times a learnt scale.",
    )
    input_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Dropout on the vectors themselves, from 0 to below 1: against learning items by heart.",
    )
    modality_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Chance that training hides a modality of an item that has others, below 1.",
    )
    evidence: Literal["none", "residual"] = Field(
        default="none",
        description=(
            "What simple methods know of an option (co-occurrence, words, categories, cosines, ...): residual adds it to the"
            " option's score, with weights that begin as the learned ranker's and are trained with the model."
        ),
    )


@dataclass(frozen=True, config=CONFIG)
class Answer:
    """How the model is asked for an answer, and how it learns from the right one."""

    form: Literal["letters", "pointer", "likelihood", "yes-no"] = Field(
        default="letters",
        description=(
            "letters: all options stand in one prompt, and the answer is the letter of one; pointer: a small head scores "
            "each option at its own end; likelihood: how much likelier the bundle makes an option's title; "
            "yes-no: each option is judged alone. All but letters take any number of options in any order."
        ),
    )
    option_titles: bool = Field(
        default=True,
        description=(
            "Whether options show their titles, in the forms pointer and yes-no; without them an option is its fused "
            "token alone, which costs a sixth or so. Prompts without fused tokens show titles in any case."
        ),
    )


@dataclass(frozen=True, config=CONFIG)
class Data:
    """How training questions are drawn: anew at every step, from the seed."""

    options: int = Field(default=10, ge=2, le=MAX_OPTIONS, description="Options per training question.")
    batch: int = Field(default=16, ge=1, le=MAX_WIDTH, description="Questions per optimiser step.")
    accumulate: int = Field(
        default=1, ge=1, le=MAX_WIDTH, description="Pieces in which a batch is computed, to save memory."
    )
    partial: Literal["random", "all"] = Field(
        default="random",
        description="How much of the rest of a bundle is given: all of it, or a random number of items.",
    )
    negatives: str = Field(
        default="random",
        description=(
            "Wrong options: random, hard (of the truth's category), mixed (half of each); or "
            "nearest:MODALITY, same-category, popularity-matched, co-occurring, several joined by +."
        ),
    )
    difficulty: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="How hard wrong options are that are nearest, same-category, ...: 0 (random) to 1 (hardest).",
    )
    curriculum: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description=(
            "Share of a stage's steps over which questions with the wrong options of negatives become more, from none to all;"
            " the others have random ones. 0 has them in all questions from the first step."
        ),
    )
    bucket: int = Field(
        default=8,
        ge=1,
        le=MAX_WIDTH,
        description="Batches that are drawn together and sorted by length, so that little is padding.",
    )


@dataclass(frozen=True, config=CONFIG)
class Stage:
    """One stage of training."""

    steps: int = Field(default=300, ge=0, le=MAX_STEPS, description="Optimiser steps.")
    lr: float = Field(default=3e-4, ge=0, description="Peak learning rate of AdamW.")
    final_lr: float = Field(default=0.0, ge=0, le=1, description="Learning rate at the end, as a share of the peak.")
    warmup: int = Field(default=20, ge=0, le=MAX_STEPS, description="Steps over which the rate rises from zero.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    clip: float = Field(default=1.0, ge=0, description="Largest gradient norm; 0 never clips.")
    evaluate_every: int = Field(
        default=50, ge=1, le=MAX_STEPS, description="Steps between two looks at the validation questions."
    )
    patience: int = Field(
        default=0,
        ge=0,
        le=MAX_STEPS,
        description="Looks without improvement after which the stage ends; 0 never ends early.",
    )
    average: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Validate and keep an exponential average of the weights, in which those of a step count for this share one step"
            " later, 0.98 say; 0 keeps the weights as they stand."
        ),
    )
    contrastive_steps: int = Field(
        default=0,
        ge=0,
        le=MAX_STEPS,
        description="Steps that first pull the fused tokens of like items together; not in the paper.",
    )
    contrastive_pairs: Pairs = Field(
        default=("bundles",),
        description=(
            "Which items those steps pull together: bundles (two of a training bundle), categories (two of a category),"
            " histories (two that a user took one after the other; users who made a bundle of validation or test are left out)."
        ),
    )


@dataclass(frozen=True, config=CONFIG)
class Run:
    """What holds for all stages."""

    strategy: Stages = Field(default=("text", "fusion"), description="The stages, in order: text, fusion, joint.")
    loss: Literal["vocabulary", "letters", "letter-and-stop"] = Field(
        default="vocabulary",
        description=(
            "Cross-entropy of the answer's letter over the whole vocabulary or over the option letters; or, "
            "as the public code, over the vocabulary, mean of the letter and the full stop behind it."
        ),
    )
    select: Literal["hit@1", "loss"] = Field(
        default="hit@1",
        description="What the best weights are best at on these questions; the loss is steadier where they are few.",
    )
    validation_questions: int = Field(
        default=2000,
        ge=0,
        le=MAX_STEPS,
        description=(
            "Validation questions that are asked at most, always the same ones, of each length of a bundle its share;"
            " 0 asks all."
        ),
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Seed of weights, questions and dropout.")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="Automatic mixed precision.")
    max_minutes: float = Field(default=0.0, ge=0, description="Stop and save after so many minutes; 0 has no limit.")
    save_minutes: float = Field(
        default=5.0,
        ge=0,
        description="Minutes between two snapshots that train --resume goes on from; 0 counts steps only.",
    )
    save_every: int = Field(
        default=0, ge=0, le=MAX_STEPS, description="Steps between two snapshots; 0 counts minutes only."
    )
