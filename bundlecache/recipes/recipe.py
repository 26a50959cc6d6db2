"""Training recipes: one TOML file whose tables and keys are the dataclasses of ``settings.py``.

An unknown key is an error that names the nearest allowed one; ``section.key=value`` overrides a file; and
every resolved setting knows where it came from.
"""

from __future__ import annotations

import dataclasses
import difflib
import operator
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RecipeError
from .settings import STAGES, Base, Data, Fusion, Lora, Prompt, Run, Stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "SECTIONS",
    "STAGES",
    "Base",
    "Data",
    "Fusion",
    "Lora",
    "Prompt",
    "Recipe",
    "Run",
    "Setting",
    "Stage",
    "describe",
    "from_dict",
    "load",
]
WITHIN = {"at least": operator.ge, "at most": operator.le, "more than": operator.gt, "less than": operator.lt}
"""What the bounds of a setting mean."""
SHIPPED = Path(__file__).parents[2] / "train" / "recipes"
"""Where the recipes lie that a name alone refers to."""


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run. ``sources`` says, per key, where its value came from."""

    base: Base = field(default_factory=Base)
    prompt: Prompt = field(default_factory=Prompt)
    lora: Lora = field(default_factory=Lora)
    fusion: Fusion = field(default_factory=Fusion)
    data: Data = field(default_factory=Data)
    text_stage: Stage = field(default_factory=Stage)
    fusion_stage: Stage = field(default_factory=Stage)
    joint_stage: Stage = field(default_factory=Stage)
    run: Run = field(default_factory=Run)
    name: str = field(default="defaults", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def stage(self, name: str) -> Stage:
        """The settings of the stage ``text``, ``fusion`` or ``joint``."""
        stage: Stage = getattr(self, f"{name}_stage")
        return stage

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Every setting as ``{section: {key: value}}``, ready for TOML or JSON."""
        return {
            section: {
                k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(getattr(self, section)).items()
            }
            for section in SECTIONS
        }

    def to_toml(self) -> str:
        """The resolved recipe as TOML that :func:`load` reads back to an equal recipe."""
        tables = [
            f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
            for section, values in self.to_dict().items()
        ]
        return "\n".join(tables)

    def settings(self) -> list[Setting]:
        """Every setting with its value and its source, in the order of the sections; :func:`describe` explains a key."""
        return [
            Setting(key, getattr(getattr(self, section), f.name), self.sources.get(key, "default"))
            for section, cls in SECTIONS.items()
            for f in fields(cls)
            if (key := f"{section}.{f.name}")
        ]


class Setting(NamedTuple):
    """One resolved setting; printed as ``lora.rank=8 (train/recipes/demo.toml)``."""

    key: str
    value: Any
    source: str

    def __str__(self) -> str:
        return f"{self.key}={_toml(self.value)} ({self.source})"


SECTIONS: dict[str, type] = {
    "base": Base,
    "prompt": Prompt,
    "lora": Lora,
    "fusion": Fusion,
    "data": Data,
    "text_stage": Stage,
    "fusion_stage": Stage,
    "joint_stage": Stage,
    "run": Run,
}


def load(spec: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides in order.

    ``spec`` is the name of a shipped recipe, a TOML file, or None for the defaults.

    Raises
    ------
    RecipeError
        When the recipe is missing or no TOML, a key is unknown, or a value is of the wrong kind.
    """
    if spec is None:
        return from_dict({}, overrides)
    path, tables = read_toml(spec, SHIPPED, "recipe", "--recipe takes one of these names or a TOML file")
    source = f"train/recipes/{path.name}" if path.parent == SHIPPED else str(path)
    return from_dict(tables, overrides, name=path.stem, source=source)


def read_toml(spec: str | Path, folder: Path, what: str, hint: str) -> tuple[Path, dict[str, Any]]:
    """The file that is meant, by the name of one in ``folder`` or by its path, and its tables.

    Raises
    ------
    RecipeError
        When it is missing or no TOML.
    """
    shipped = sorted(path.stem for path in folder.glob("*.toml"))
    path = folder / f"{spec}.toml" if str(spec) in shipped else Path(spec)
    try:
        return path, tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(
            f"There is no {what} {str(spec)!r}; shipped are {', '.join(shipped) or 'none'}.", hint=hint
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no TOML: {error}.", hint="mend that line") from error


def describe(key: str) -> str:
    """The sentence that explains the setting ``section.key``.

    >>> describe("lora.rank")
    'Rank of the update.'
    """
    sentence: str = _find(key)[1].metadata["help"]
    return sentence


def from_dict(
    tables: Mapping[str, Any], overrides: Sequence[str] = (), *, name: str = "defaults", source: str = "given"
) -> Recipe:
    """The recipe of ``{section: {key: value}}``; what is not named keeps its default.

    Raises
    ------
    RecipeError
        When a key is unknown or a value is of the wrong kind.
    """
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    sources: dict[str, str] = {}
    given = [
        (f"{section}.{key}", value, source)
        for section, table in tables.items()
        for key, value in _entries(section, table)
    ]
    given += [(*_parse(override), f"--set {override}") for override in overrides]
    for key, value, origin in given:
        section, setting = _find(key)
        values[section][setting.name] = _check(key, value, setting)
        sources[key] = origin
    sections = {section: cls(**values[section]) for section, cls in SECTIONS.items()}
    return Recipe(**sections, name=name, sources=sources)


def _entries(section: str, table: Any) -> list[tuple[str, Any]]:
    if not isinstance(table, Mapping):
        raise RecipeError(f"The recipe sets {section!r} outside of any table.", hint=_nearest(section))
    return list(table.items())


def _parse(override: str) -> tuple[str, Any]:
    """``lora.rank=4`` -> ("lora.rank", 4); a value that is no TOML is taken as text."""
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"{override!r} is no override.", hint="write section.key=value, for instance lora.rank=4")
    try:
        return key.strip(), tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text.strip()


def _find(key: str) -> tuple[str, dataclasses.Field[Any]]:
    section, _, name = key.partition(".")
    for setting in fields(SECTIONS[section]) if section in SECTIONS else ():
        if setting.name == name:
            return section, setting
    raise RecipeError(f"A recipe has no setting {key!r}.", hint=_nearest(key))


def _nearest(key: str) -> str:
    known = [f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in fields(cls)]
    leaf = key.rpartition(".")[2]
    close = difflib.get_close_matches(key, known, 1, 0.6) or [k for k in known if k.endswith(f".{leaf}")]
    close = close or difflib.get_close_matches(leaf, [k.partition(".")[2] for k in known], 1, 0.5)
    nearest = next((k for k in known if close and (k == close[0] or k.endswith(f".{close[0]}"))), None)
    return f"did you mean {nearest}?" if nearest else f"its tables are {', '.join(SECTIONS)}"


def _check(key: str, value: Any, setting: dataclasses.Field[Any]) -> Any:
    """``value`` as the type of the field's default.

    Raises
    ------
    RecipeError
        When it is of another type, out of bounds, or not among the choices.
    """
    default, choices = setting.default, setting.metadata["choices"]
    if isinstance(default, tuple) and isinstance(value, str):
        value = [part for part in (part.strip() for part in value.split(",")) if part]
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list"}[
        type(default)
    ]
    fits = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300,
        str: isinstance(value, str),
        tuple: isinstance(value, list | tuple),
    }[type(default)]
    if fits and isinstance(default, tuple):
        member = int if key == "fusion.hidden" else str
        if member is int:
            value = [int(v) if isinstance(v, str) and re.fullmatch(r"-?\d{1,9}", v) else v for v in value]
        fits = all(isinstance(v, member) and not isinstance(v, bool) for v in value)
    if not fits:
        raise RecipeError(f"{key} is {value!r}, but it takes {kind}.", hint=setting.metadata["help"])
    value = tuple(value) if isinstance(default, tuple) else float(value) if isinstance(default, float) else value
    members = value if isinstance(value, tuple) else (value,)
    if choices and (not members or any(v not in choices for v in members)):
        raise RecipeError(f"{key} is {value!r}; allowed are {', '.join(choices)}.", hint=setting.metadata["help"])
    numbers = [v for v in members if isinstance(v, int | float) and not isinstance(v, bool)]
    for words, bound in setting.metadata["bounds"].items():
        if bound is not None and not all(WITHIN[words](v, bound) for v in numbers):
            raise RecipeError(f"{key} is {value!r}, but must be {words} {bound:,}.", hint=setting.metadata["help"])
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)
