"""The settings of UniMP: the tables and keys of its recipes, with their types, bounds, choices and descriptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass as settings

from ..errors import RecipeError
from ..limits import MAX_SEED
from ..text import quoted
from .recipe_tables import RecipeTables
from .settings import CONFIG, MAX_STEPS, MAX_WIDTH, Base, Lora, Words, split_list

StageName = Literal["multitask", "head"]
UNIMP = "unimp"
"""What the key `model` of these recipes, and the kind of their runs, says."""
UNIMP_STAGES: tuple[StageName, ...] = ("multitask", "head")
Task = Literal["recommend", "search", "select", "preference", "explain", "draw"]
Tasks = Annotated[tuple[Task, ...], Field(min_length=1), BeforeValidator(split_list)]
Starts = Annotated[tuple[Literal["text", "histories", "pictures"], ...], BeforeValidator(split_list)]
StageNames = Annotated[tuple[StageName, ...], Field(min_length=1), BeforeValidator(split_list)]
MAX_HISTORY = 1_000
MAX_NUMBER = 1e6
"""Shares and weights beyond this are typing errors."""


def numbers_of(words: tuple[str, ...], key: str) -> dict[str, float]:
    """``("recommend:2",)`` as ``{"recommend": 2.0}``.

    Raises
    ------
    RecipeError
        When one is not the name of a task, a colon and a number of 0 or more.
    """
    found: dict[str, float] = {}
    for word in words:
        task, _, text = word.partition(":")
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if task not in get_args(Task) or not 0 <= number <= MAX_NUMBER:
            raise RecipeError(
                f"{key} holds {quoted(word)}; each is a task and a number, and tasks are {', '.join(get_args(Task))}.",
                hint=f"--set {key}=recommend:2,search:1",
            )
        found[task] = number
    return found


@settings(frozen=True, config=CONFIG)
class UnimpLora(Lora):
    """The low-rank adapter of the language model, where there is one."""

    rank: int = Field(default=0, ge=0, le=MAX_WIDTH, description="Rank of the update; 0 leaves the model as it is.")


@settings(frozen=True, config=CONFIG)
class Vision:
    """The pictures of items: a sampler makes few latents of stored tokens, and blocks inside the model attend to them."""

    encoder: str = Field(
        default="descriptor-tokens:picture",
        description="Whose stored token features are read; empty trains without pictures.",
    )
    tasks: Annotated[tuple[Task, ...], BeforeValidator(split_list)] = Field(
        default=(), description="Tasks whose prompts show pictures; empty: all."
    )
    similar_ratings: bool = Field(
        default=False,
        description="Predict a rating also from the user's ratings of items with similar pictures, by an attention over them.",
    )
    latents: int = Field(default=64, ge=1, le=MAX_WIDTH, description="Latents of a picture.")
    width: int = Field(
        default=0, ge=0, le=MAX_WIDTH, description="Width of a latent; 0: that of the stored tokens, as in the paper."
    )
    depth: int = Field(default=6, ge=1, le=64, description="Layers of the sampler.")
    heads: int = Field(default=8, ge=1, le=1024, description="Heads of the sampler and of the blocks.")
    head_width: int = Field(default=64, ge=1, le=MAX_WIDTH, description="Width of each of these heads.")
    every_n: int = Field(default=2, ge=1, le=1000, description="A block stands before every so manieth layer.")
    start: str = Field(
        default="",
        description="A checkpoint of OpenFlamingo, whose resampler and blocks training starts from; empty: new ones.",
    )
    codes: str = Field(
        default="",
        description="Whose stored picture codes the task draw reads, such as vqgan:FOLDER; empty: the only ones there are.",
    )
    exclusive: bool = Field(
        default=True, description="A text sees its own item's picture alone; false: all pictures before it."
    )


@settings(frozen=True, config=CONFIG)
class Items:
    """How the model names items."""

    ids: Literal["atomic", "semantic"] = Field(
        default="atomic", description="A token for every item, or a few codes that items share."
    )
    levels: int = Field(
        default=3, ge=1, le=16, description="Codes of a semantic id, before the one that sets equals apart."
    )
    codes: int = Field(default=256, ge=2, le=MAX_WIDTH, description="Values of each code.")
    vectors: Words = Field(
        default=(), description="Encoders whose stored vectors make semantic ids; empty: one of each modality."
    )
    start: Starts = Field(
        default=("text",),
        description=(
            "What the rows of items begin as; parts are added. text: the mean embedding of the item's words; histories:"
            " directions that items share which are taken one soon after the other; pictures: the mean of the stored token"
            " features. Empty: at random."
        ),
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the numbers of our tokens' input rows that training drops."
    )


@settings(frozen=True, config=CONFIG)
class UnimpPrompt:
    """What the model reads of an item and of a history."""

    template: Literal["paper", "brief"] = Field(
        default="paper",
        description="The wording of instructions: that of UniMP's code, or few words for the tiny base.",
    )
    attributes: Words = Field(
        default=("category", "price", "brand", "title"), description="Columns of the items table, in this order."
    )
    attribute_names: bool = Field(default=True, description="Tell the name of a column before its text.")
    attribute_words: int = Field(default=20, ge=1, le=MAX_WIDTH, description="Words of an attribute, at most.")
    explanation_words: int = Field(default=30, ge=1, le=MAX_WIDTH, description="Words of an explanation, at most.")
    id_place: Literal["last", "first"] = Field(
        default="last",
        description=(
            "last: an item's id stands behind its attributes, as in the paper, and is predicted from them; first: before"
            " them, and every item of a history is predicted from those before it; other tasks then name items too."
        ),
    )
    selections: Literal["slots", "ids"] = Field(
        default="slots",
        description="What an answer to select names: the place of a candidate, as in the paper, or its id.",
    )


@settings(frozen=True, config=CONFIG)
class UnimpData:
    """Tasks, and how training rows are drawn: anew at every step, from the seed."""

    tasks: Tasks = Field(
        default=("recommend", "search", "select", "preference", "explain"), description="What is trained."
    )
    shares: Words = Field(
        default=(), description="How often tasks are drawn, as recommend:2; 1 where a task is not named."
    )
    weights: Words = Field(default=(), description="Factors of tasks' losses, as recommend:2; 1 where none is named.")
    history: int = Field(
        default=5, ge=1, le=MAX_HISTORY, description="Latest items of a history that recommend and search are told."
    )
    other_history: int = Field(default=4, ge=1, le=MAX_HISTORY, description="The same of the other tasks.")
    windows: Literal["random", "whole"] = Field(
        default="random",
        description=(
            "Which part of a training history is a row: random: the target is any item of it; whole: as many items as fit,"
            " and the one after them."
        ),
    )
    context: Literal["none", "id", "attributes"] = Field(
        default="id",
        description=(
            "What is predicted beside the answer: nothing; the items, ratings and explanations of the history; or these and"
            " the attributes of items."
        ),
    )
    no_context: Annotated[tuple[Task, ...], BeforeValidator(split_list)] = Field(
        default=(), description="Tasks of which the answer alone is predicted, whatever data.context says."
    )
    split: Literal["leave_last_out", "user_holdout", "time", "random"] = Field(
        default="leave_last_out", description="Which frozen questions decide what training may see."
    )
    k_core: int = Field(
        default=5, ge=0, le=MAX_STEPS, description="Of these questions: interactions of a user or item."
    )
    questions_seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Of these questions: their seed.")
    min_rating: float = Field(
        default=0.0, ge=0, le=1e6, description="Of these questions: nothing counts but what got so many stars; 0: all."
    )
    batch: int = Field(default=24, ge=1, le=MAX_WIDTH, description="Rows per optimiser step, over all processes.")
    accumulate: int = Field(
        default=1, ge=1, le=MAX_WIDTH, description="Pieces in which a batch is computed, to save memory."
    )


@settings(frozen=True, config=CONFIG)
class Loss:
    """Token-level re-weighting."""

    gamma: float = Field(
        default=2.0, ge=0, le=100, description="A token weighs (1 - p) to this power; 0 is plain cross-entropy."
    )


@settings(frozen=True, config=CONFIG)
class UnimpStage:
    """One stage of training."""

    steps: int = Field(default=1000, ge=0, le=MAX_STEPS, description="Optimiser steps.")
    lr: float = Field(default=2e-4, ge=0, le=1, description="Peak learning rate of AdamW.")
    rows_lr: float = Field(default=0.0, ge=0, le=1, description="The same of the rows of items and marks; 0: as lr.")
    vision_lr: float = Field(default=0.0, ge=0, le=1, description="The same of resampler and gated blocks; 0: as lr.")
    final_lr: float = Field(default=0.0, ge=0, le=1, description="Learning rate at the end, as a share of the peak.")
    schedule: Literal["linear", "cosine"] = Field(default="linear", description="How the rate falls.")
    warmup: int = Field(default=20, ge=0, le=MAX_STEPS, description="Steps over which the rate rises from zero.")
    weight_decay: float = Field(default=0.1, ge=0, description="Of AdamW, for the matrices of the blocks.")
    rows_decay: float = Field(default=0.0, ge=0, description="The same of the rows of items and marks.")
    clip: float = Field(default=1.0, ge=0, description="Largest gradient norm; 0 never clips.")
    average: float = Field(
        default=0.0, ge=0, lt=1, description="Validate and keep an exponential average of the weights; 0: the weights."
    )
    evaluate_every: int = Field(
        default=100, ge=1, le=MAX_STEPS, description="Steps between two looks at the validation questions."
    )
    patience: int = Field(
        default=0, ge=0, le=MAX_STEPS, description="Looks without improvement after which the stage ends; 0: none."
    )


@settings(frozen=True, config=CONFIG)
class HeadStage(UnimpStage):
    """The stage that trains the output rows alone, on cached hidden states."""

    tasks: Annotated[tuple[Task, ...], BeforeValidator(split_list)] = Field(
        default=(), description="What it is trained for; empty: all tasks that name items."
    )
    windows_per_user: int = Field(
        default=4, ge=1, le=MAX_STEPS, description="Rows of each user and task whose hidden states are kept."
    )
    batch: int = Field(default=512, ge=1, le=MAX_STEPS, description="Hidden states per optimiser step.")


@settings(frozen=True, config=CONFIG)
class UnimpRun:
    """What holds for all stages."""

    strategy: StageNames = Field(default=UNIMP_STAGES, description="The stages, in order: multitask, head.")
    select: Literal["mean", "recommend", "search", "select", "preference", "explain", "draw", "loss"] = Field(
        default="recommend",
        description=(
            "What the best weights are best at on the validation questions: a task, the mean of all trained ones, or the loss."
        ),
    )
    validation_questions: int = Field(
        default=1000,
        ge=0,
        le=MAX_STEPS,
        description="Validation questions of each task that are asked at most; 0: all.",
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Seed of weights, rows and dropout.")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="Automatic mixed precision.")
    max_minutes: float = Field(default=0.0, ge=0, description="Stop and save after so many minutes; 0 has no limit.")
    save_minutes: float = Field(
        default=5.0, ge=0, description="Minutes between two snapshots that train --resume goes on from; 0: steps only."
    )
    save_every: int = Field(default=0, ge=0, le=MAX_STEPS, description="Steps between two snapshots; 0: minutes only.")


@dataclass(frozen=True)
class UnimpRecipe(RecipeTables):
    """All settings of a training run of UniMP."""

    MODEL: ClassVar[str] = UNIMP

    base: Base = field(default_factory=Base)
    lora: UnimpLora = field(default_factory=UnimpLora)
    vision: Vision = field(default_factory=Vision)
    items: Items = field(default_factory=Items)
    prompt: UnimpPrompt = field(default_factory=UnimpPrompt)
    data: UnimpData = field(default_factory=UnimpData)
    loss: Loss = field(default_factory=Loss)
    multitask_stage: UnimpStage = field(default_factory=UnimpStage)
    head_stage: HeadStage = field(default_factory=HeadStage)
    run: UnimpRun = field(default_factory=UnimpRun)

    def __post_init__(self) -> None:
        """Check what pydantic does not see.

        Raises
        ------
        RecipeError
            When shares or weights are no numbers of tasks, every task's share is 0, or candidates have no names.
        """
        if self.prompt.selections == "ids" and self.items.ids != "atomic":
            raise RecipeError(
                "prompt.selections=ids names candidates by one token each, and semantic ids have several.",
                hint="--set prompt.selections=slots",
            )
        numbers_of(self.data.weights, "data.weights")
        shares = numbers_of(self.data.shares, "data.shares")
        if not sum(shares.get(task, 1.0) for task in self.data.tasks):
            raise RecipeError("Every task has the share 0, so nothing is drawn.", hint="--set data.shares=recommend:1")

    def stage(self, name: str) -> UnimpStage:
        """The settings of the stage ``multitask`` or ``head``."""
        stage: UnimpStage = getattr(self, f"{name}_stage")
        return stage

    def share(self, task: str) -> float:
        """How often a task is drawn, of 1."""
        shares = numbers_of(self.data.shares, "data.shares")
        return shares.get(task, 1.0) / sum(shares.get(each, 1.0) for each in self.data.tasks)

    def shows_pictures(self, task: str) -> bool:
        """Whether the prompts of a task show pictures."""
        return bool(self.vision.encoder) and (not self.vision.tasks or task in self.vision.tasks)

    def weight(self, task: str) -> float:
        """The factor of a task's loss."""
        return numbers_of(self.data.weights, "data.weights").get(task, 1.0)


load, from_dict = UnimpRecipe.load, UnimpRecipe.from_dict
