"""Reads recipes: TOML files whose tables and keys are the settings of dataclasses, the same way for every model.

An unknown key is an error that names the nearest allowed one; ``section.key=value`` overrides a file; and every
resolved setting knows where it came from. Shipped recipes lie beside the code that runs them, so their folder is an argument.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args

import tomli_w
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..errors import RecipeError, first_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Made = TypeVar("Made", bound="RecipeTables")

RETIRED = ("run.validation",)
"""Settings of former versions that had no effect: files that have them are read."""
BUNDLE_MLLM = "bundle-mllm"
"""The model of a recipe that names none."""
MODEL_KEY = "model"
"""The one key of a recipe that stands outside of any table: which model it is for."""


@dataclass(frozen=True)
class RecipeTables:
    """A recipe: a subclass has a field for every table, whose ``default_factory`` is the pydantic dataclass of its settings.

    ``sources`` says, per key, where its value came from.
    """

    MODEL: ClassVar[str] = BUNDLE_MLLM

    name: str = field(default="defaults", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def sections(cls) -> dict[str, type]:
        """The tables by name, each with the class of its settings."""
        known = {one.name for one in dataclasses.fields(RecipeTables)}
        return {one.name: one.default_factory for one in dataclasses.fields(cls) if one.name not in known}  # type: ignore[misc]

    @classmethod
    def load(
        cls: type[Made], spec: str | Path | None = None, overrides: Sequence[str] = (), *, shipped: Path | None = None
    ) -> Made:
        """Read a recipe and apply ``section.key=value`` overrides in order.

        Parameters
        ----------
        spec
            A TOML file, the name of one in the folder ``shipped``, or None for the defaults.

        Raises
        ------
        RecipeError
            When the recipe is missing or no TOML, a key is unknown, or a value is of the wrong kind.
        """
        if spec is None:
            return cls.from_dict({}, overrides)
        path, tables = read_toml(spec, shipped, "recipe", "--recipe takes one of these names or a TOML file")
        return cls.from_dict(tables, overrides, name=path.stem, source=source_of(path, shipped))

    @classmethod
    def from_dict(
        cls: type[Made],
        tables: Mapping[str, Any],
        overrides: Sequence[str] = (),
        *,
        name: str = "defaults",
        source: str = "given",
    ) -> Made:
        """The recipe of ``{section: {key: value}}``; what is not named keeps its default.

        Raises
        ------
        RecipeError
            When it is for another model, a key is unknown or a value is of the wrong kind.
        """
        model = tables.get(MODEL_KEY, cls.MODEL)
        if model != cls.MODEL:
            raise RecipeError(
                f"The recipe {name} is for the model {model!r}, and one for {cls.MODEL!r} is needed here.",
                hint="--recipe takes a recipe of that model",
            )
        sections, sources = resolve(
            cls.sections(), {key: table for key, table in tables.items() if key != MODEL_KEY}, overrides, source
        )
        return cls(**sections, name=name, sources=sources)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Every setting as ``{section: {key: value}}``, ready for TOML or JSON."""
        return {
            section: {
                k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(getattr(self, section)).items()
            }
            for section in self.sections()
        }

    def to_toml(self) -> str:
        """The resolved recipe as TOML that :meth:`load` reads back to an equal recipe."""
        model = {} if self.MODEL == BUNDLE_MLLM else {MODEL_KEY: self.MODEL}
        return tomli_w.dumps({**model, **self.to_dict()})

    def settings(self) -> list[Setting]:
        """Every setting with its value and its source, in the order of the sections; `recipe.describe` explains a key."""
        return [
            Setting(f"{section}.{name}", value, self.sources.get(f"{section}.{name}", "default"))
            for section, values in self.to_dict().items()
            for name, value in values.items()
        ]


class Setting(NamedTuple):
    """One resolved setting; printed as ``lora.rank=8 (train/recipes/demo.toml)``."""

    key: str
    value: Any
    source: str

    def __str__(self) -> str:
        return f"{self.key}={json.dumps(self.value, ensure_ascii=False)} ({self.source})"


def source_of(path: Path, shipped: Path | None) -> str:
    """How the source of a setting is called: ``train/recipes/demo.toml``, or a path as it was given."""
    return "/".join(path.parts[-3:]) if path.parent == shipped else str(path)


def read_toml(spec: str | Path, shipped: Path | None, what: str, hint: str) -> tuple[Path, dict[str, Any]]:
    """The file that is meant, by the name of one in the folder ``shipped`` or by its path, and its tables.

    Raises
    ------
    RecipeError
        When it is missing or no TOML.
    """
    known = {path.stem: path for path in sorted(shipped.glob("*.toml"))} if shipped else {}
    path = known.get(str(spec), Path(spec))
    try:
        return path, tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, tomllib.TOMLDecodeError | UnicodeDecodeError):
            raise RecipeError(f"{path} is no TOML: {first_line(error)}.", hint="correct that line") from error
        raise RecipeError(
            f"There is no {what} {str(spec)[:200]!r}; shipped are {', '.join(known) or 'none'}.", hint=hint
        ) from error
    except RecursionError as error:
        raise RecipeError(f"{path} is no {what}: its values are nested too deeply.", hint=hint) from error


def resolve(
    kinds: Mapping[str, type], tables: Mapping[str, Any], overrides: Sequence[str], source: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of every section, by its name and its pydantic dataclass, and where each value came from.

    Raises
    ------
    RecipeError
        When a key is unknown or a value is of the wrong kind.
    """
    given = [
        (f"{section}.{key}", value, source)
        for section, table in tables.items()
        for key, value in _entries(kinds, section, table)
        if f"{section}.{key}" not in RETIRED
    ]
    given += [(*_parse(override), f"--set {override}") for override in overrides]
    values: dict[str, dict[str, Any]] = {section: {} for section in kinds}
    for key, value, _ in given:
        field_of(key, kinds)
        section, _, setting = key.partition(".")
        values[section][setting] = value
    sections = {section: _section(kind, section, values[section]) for section, kind in kinds.items()}
    return sections, {key: origin for key, _, origin in given}


def _entries(kinds: Mapping[str, type], section: str, table: Any) -> list[tuple[str, Any]]:
    if not isinstance(table, Mapping):
        raise RecipeError(f"The recipe sets {section!r} outside of any table.", hint=_nearest(section, kinds))
    return list(table.items())


def _parse(override: str) -> tuple[str, Any]:
    """``lora.rank=4`` -> ("lora.rank", 4); a value that is no TOML is taken as text."""
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"{override!r} is no override.", hint="write section.key=value, for instance lora.rank=4")
    try:
        return key.strip(), tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return key.strip(), text.strip()


def _fields(kind: type) -> dict[str, FieldInfo]:
    fields: dict[str, FieldInfo] = kind.__pydantic_fields__  # type: ignore[attr-defined]
    return fields


def field_of(key: str, kinds: Mapping[str, type]) -> FieldInfo:
    """The setting ``section.key`` of these tables.

    Raises
    ------
    RecipeError
        When there is none, naming the nearest.
    """
    section, _, name = key.partition(".")
    found = _fields(kinds[section]).get(name) if section in kinds else None
    if found is None:
        raise RecipeError(f"A recipe has no setting {key!r}.", hint=_nearest(key, kinds))
    return found


def _nearest(key: str, kinds: Mapping[str, type]) -> str:
    known = [f"{section}.{name}" for section, kind in kinds.items() for name in _fields(kind)]
    leaf = key.rpartition(".")[2]
    close = difflib.get_close_matches(key, known, 1, 0.6) or [k for k in known if k.endswith(f".{leaf}")]
    close = close or difflib.get_close_matches(leaf, [k.partition(".")[2] for k in known], 1, 0.5)
    nearest = next((k for k in known if close and (k == close[0] or k.endswith(f".{close[0]}"))), None)
    return f"did you mean {nearest}?" if nearest else f"its tables are {', '.join(kinds)}"


def _section(kind: type, section: str, values: Mapping[str, Any]) -> Any:
    """The settings of a section from its values.

    Raises
    ------
    RecipeError
        When a value is of another type, out of bounds, or not among the choices.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        wrong = error.errors()[0]
    name = str(wrong["loc"][0])
    found = _fields(kind)[name]
    shown = f"{section}.{name} is {_shortened(values[name])}"
    raise RecipeError(f"{shown}{_allowed(wrong['type'], wrong.get('ctx', {}), found)}.", hint=found.description)


def _allowed(kind: str, context: Mapping[str, Any], found: FieldInfo) -> str:
    """What a setting takes, as the end of a sentence, from pydantic's kind of error and its context."""
    bounds = {  # pydantic's kinds of errors
        "greater_than_equal": ("at least", "ge"),
        "less_than_equal": ("at most", "le"),
        "greater_than": ("more than", "gt"),
        "less_than": ("less than", "lt"),
    }
    if kind in bounds:
        words, bound = bounds[kind]
        value = context[bound]
        return f", but must be {words} {int(value) if value == int(value) else value:,}"
    if choices := _choices(found.annotation):
        return f"; allowed are {', '.join(choices)}"
    types = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if isinstance(found.default, tuple):
        return ", but it takes a list of " + ("whole numbers" if "int" in str(found.annotation) else "words")
    return f", but it takes {types[type(found.default)]}"


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words that a ``Literal``, or a tuple of one, allows."""
    inner = get_args(annotation)
    if inner and all(isinstance(word, str) for word in inner):
        return inner
    return _choices(inner[0]) if inner else ()


def _shortened(value: Any) -> str:
    """A value as it was given; thousands of digits or entries are cut."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a whole number of more than 30 digits"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
