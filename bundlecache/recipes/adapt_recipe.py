"""The settings of an adaptation: the tables and keys of its recipes, with their types, bounds, choices and descriptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from ..limits import MAX_SEED
from .recipe_tables import RecipeTables
from .settings import CONFIG, MAX_STEPS, MAX_WIDTH

Mode = Literal["frozen", "head", "lora", "full"]
MODES: tuple[Mode, ...] = ("frozen", "head", "lora", "full")


@settings(frozen=True, config=CONFIG)
class Towers:
    """Which towers are adapted, and how."""

    encoder: str = Field(default="embedded:clip", description="The picture tower, and the text tower beside it.")
    text_encoder: str = Field(default="", description="Another text encoder, joined with the picture tower.")
    image: Mode = Field(default="full", description="What of the picture tower learns: frozen, head, lora or full.")
    text: Mode = Field(default="full", description="What of the text tower learns: frozen, head, lora or full.")
    width: int = Field(default=0, ge=0, le=MAX_WIDTH, description="Width of joined vectors; 0: that of the towers.")
    lora_rank: int = Field(default=8, ge=1, le=MAX_WIDTH, description="Rank of a LoRA update.")
    lora_alpha: float = Field(default=16.0, gt=0, le=MAX_WIDTH, description="Scale of a LoRA update, over its rank.")


@settings(frozen=True, config=CONFIG)
class Training:
    """Loss, batches and optimiser."""

    loss: Literal["sigmoid", "softmax"] = Field(
        default="softmax", description="sigmoid: as SigLIP learns; softmax: as CLIP learns."
    )
    epochs: int = Field(default=10, ge=1, le=MAX_STEPS, description="Passes over the training pairs.")
    batch: int = Field(default=64, ge=2, le=MAX_STEPS, description="Pairs a step, over all processes.")
    micro_batch: int = Field(
        default=0,
        ge=0,
        le=MAX_STEPS,
        description="Pairs a forward where a batch is larger than memory; 0: all at once.",
    )
    hard_negatives: int = Field(
        default=0, ge=0, le=64, description="Of every drawn pair, so many nearest pictures join its batch."
    )
    lr: float = Field(default=1e-5, gt=0, le=1, description="Peak learning rate of towers.")
    text_lr: float = Field(default=0.0, ge=0, le=1, description="The same of the text tower; 0: as lr.")
    head_lr: float = Field(default=1e-3, gt=0, le=1, description="Peak learning rate of projections.")
    scale_lr: float = Field(default=0.0, ge=0, le=1, description="Of temperature and bias; 0: as fitted at the start.")
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="Factor of the rate for each layer further down.")
    weight_decay: float = Field(default=0.05, ge=0, le=1, description="Of AdamW, for matrices alone.")
    warmup: float = Field(default=0.03, ge=0, le=1, description="Share of the steps in which the rate rises.")
    clip: float = Field(default=1.0, ge=0, le=1e9, description="Largest norm of the gradient; 0: any.")
    augment: bool = Field(default=True, description="Cut and mirror the pictures that a learning tower reads.")
    crop: float = Field(default=0.7, gt=0, le=1, description="Smallest share of a picture that a cut keeps.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Of products; auto is bfloat16 on CUDA and float32 elsewhere."
    )
    save_minutes: float = Field(default=10.0, ge=0, le=MAX_STEPS, description="Between two snapshots; 0: none.")
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Of batches, cuts and projections.")


@dataclass(frozen=True)
class AdaptRecipe(RecipeTables):
    """All settings of an adaptation."""

    MODEL: ClassVar[str] = "adaptation"

    towers: Towers = field(default_factory=Towers)
    training: Training = field(default_factory=Training)


load, from_dict = AdaptRecipe.load, AdaptRecipe.from_dict
