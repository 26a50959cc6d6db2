"""The recipe of Bundle-MLLM: its tables, whose settings stand in ``settings.py``."""

from __future__ import annotations

from dataclasses import dataclass, field

from .recipe_tables import RecipeTables, Setting, field_of, read_toml
from .settings import Answer, Base, Data, Fusion, Lora, Prompt, Run, Stage

__all__ = ["Recipe", "Setting", "describe", "from_dict", "load", "read_toml"]


@dataclass(frozen=True)
class Recipe(RecipeTables):
    """All settings of a training run of Bundle-MLLM."""

    base: Base = field(default_factory=Base)
    prompt: Prompt = field(default_factory=Prompt)
    lora: Lora = field(default_factory=Lora)
    fusion: Fusion = field(default_factory=Fusion)
    answer: Answer = field(default_factory=Answer)
    data: Data = field(default_factory=Data)
    text_stage: Stage = field(default_factory=Stage)
    fusion_stage: Stage = field(default_factory=Stage)
    joint_stage: Stage = field(default_factory=Stage)
    run: Run = field(default_factory=Run)

    def stage(self, name: str) -> Stage:
        """The settings of the stage ``text``, ``fusion`` or ``joint``."""
        stage: Stage = getattr(self, f"{name}_stage")
        return stage


load, from_dict = Recipe.load, Recipe.from_dict


def describe(key: str) -> str:
    """The sentence that explains the setting ``section.key``.

    >>> describe("lora.rank")
    'Rank of the update.'
    """
    return field_of(key, Recipe.sections()).description or ""
