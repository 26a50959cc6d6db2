"""Loads models, tokenizers and processors with transformers: the only module that calls ``from_pretrained``.

Code that comes with a model is never run, and nobody is asked about it: every call passes
``trust_remote_code=False``, and `no_remote_code` does the same for libraries that call transformers themselves. A local
folder never calls home. Whatever is wrong with a folder becomes one `PretrainedError` in plain words.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import lean_imports
from .tokenizer_check import gives_ids_of

JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
MAX_LAYERS = 10_000
ABSENT = dict.fromkeys(
    ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
)  # of cached_file: a file that a hub's repository lacks is None
VOCABULARIES = (
    "tokenizer.json",
    "*.model",
    "*vocab*",
    "*.tiktoken",
    "tekken.json",
)  # files, one of which a tokenizer needs
MAX_SIZE = 10_000_000  # of a vocabulary or a width; far beyond any model
PROBE = "a word, 3 \u2603"
"""A text that every tokenizer must take, with a character that is a word of none."""


class PretrainedError(ValueError):
    """Why a folder or a hub id cannot be loaded: the second half of a sentence, without a full stop."""


@dataclass(frozen=True)
class LoadedModel:
    """A model, the names of its weights that the files lack, and those that the files have beyond it."""

    model: Any  # transformers.PreTrainedModel
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_config(source: str | Path, **options: Any) -> Any:
    """The configuration of a folder or a hub id; ``options`` are those of ``from_pretrained``.

    Raises
    ------
    PretrainedError
        When there is none, it is damaged, or only the model's own code could read it.
    """
    with _reading(source) as transformers:
        return transformers.AutoConfig.from_pretrained(source, **_safe(source, options))


def load_tokenizer(source: str | Path, **options: Any) -> Any:
    """The tokenizer of a folder or a hub id; of a bare SentencePiece model, the one that gives its ids.

    Raises
    ------
    PretrainedError
        When there is none, it is damaged, or its ids would not be those of the ``tokenizer.model`` beside it.
    """
    with _reading(source) as transformers:
        given = _safe(source, options)
        if Path(source).is_dir() and "gguf_file" not in options:
            _check_tokenizer(Path(source), transformers)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **given)
        tokenizer(PROBE)  # settings of the wrong kind are found when they are first used
        if _file(source, "tokenizer.json", given) is not None:
            return tokenizer  # which says all that decides the ids
        path = _file(source, "tokenizer.model", given)
        if path is None or gives_ids_of(tokenizer, path):
            return tokenizer
        # Without a tokenizer_config.json, transformers 5 builds one that puts no space in front of a text.
        tokenizer = transformers.LlamaTokenizer.from_pretrained(source, **given)
        if gives_ids_of(tokenizer, path):
            return tokenizer
        raise PretrainedError(
            "the tokenizer that transformers builds from its tokenizer.model does not give the ids of that SentencePiece "
            "model, so a tokenizer.json or a tokenizer_config.json must stand beside it"
        )


def load_model(kind: str, source: str | Path, **options: Any) -> LoadedModel:
    """The model of a folder or a hub id by the class ``kind`` of transformers, such as ``AutoModelForCausalLM``.

    Weights that the files lack are filled with random numbers: callers must look at ``missing``.

    Raises
    ------
    PretrainedError
        When files are missing, damaged or pickled, or do not fit the configuration.
    """
    language = kind == "AutoModelForCausalLM"
    with _reading(source, pictures=not language) as transformers:
        if Path(source).is_dir():
            _check_weights(Path(source), layered=language)
        given = _safe(source, options)
        asked = {**_where(given), **({"gguf_file": given["gguf_file"]} if "gguf_file" in given else {})}
        config = given.get("config") or transformers.AutoConfig.from_pretrained(source, **_safe(source, asked))
        if "/" in (attention := str(getattr(config, "_attn_implementation", None) or "")):
            raise PretrainedError(f"its config.json asks for code from a hub ({attention}), which is never run")
        model, info = getattr(transformers, kind).from_pretrained(source, output_loading_info=True, **given)
        if wrong := sorted(info["mismatched_keys"]):
            raise PretrainedError(f"its weights do not have the shapes of its config.json, {wrong[0][0]} for one")
        return LoadedModel(model, tuple(sorted(info["missing_keys"])), tuple(sorted(info["unexpected_keys"])))


def load_processor(kind: str, source: str | Path, **options: Any) -> Any:
    """The image processor or feature extractor of a folder by the class ``kind``, such as ``AutoImageProcessor``.

    Raises
    ------
    PretrainedError
        When there is none or it is damaged.
    """
    with _reading(source, pictures=True) as transformers:
        return getattr(transformers, kind).from_pretrained(source, **_safe(source, options))


@contextmanager
def no_remote_code() -> Iterator[None]:
    """Around calls of a library that calls transformers itself: a model's own code is refused, and nobody is asked."""
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # seconds that the question would wait for a "y" on standard input
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and progress bars of model libraries while they load; errors are raised, not logged."""
    from transformers.utils import logging as transformers_logging

    level, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _reading(source: str | Path, *, pictures: bool = False) -> Iterator[Any]:
    """The module transformers, quiet; what fails inside is a `PretrainedError`.

    Models and processors that may read ``pictures`` are imported with all that they import, language models are not.
    """
    with nullcontext() if pictures else lean_imports.deferred(), no_remote_code(), quiet():
        import transformers

        try:
            if Path(source).is_dir():
                check_folder(Path(source))
            yield transformers
        except PretrainedError:
            raise
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise PretrainedError(_reason(error)) from error


def _safe(source: str | Path, options: Mapping[str, Any]) -> dict[str, Any]:
    local = {"local_files_only": True} if Path(source).is_dir() else {}
    return {**options, **local, "trust_remote_code": False}


def _where(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("revision", "local_files_only") if name in options}


def check_folder(folder: Path) -> None:
    """Refuse a folder whose JSON files are damaged or say what no model can be.

    Raises
    ------
    PretrainedError
        Naming the file and what stands in it.
    """
    if (folder / "adapter_config.json").is_file():
        raise PretrainedError("it is the folder of an adapter, not of a whole model")
    for name in JSON_FILES:
        found = _json_object(folder / name)
        if name != "config.json":
            continue
        for field in SIZES:
            value, most = found.get(field), MAX_LAYERS if field == "num_hidden_layers" else MAX_SIZE
            if isinstance(value, int | float) and not 1 <= value <= most:
                raise PretrainedError(f"its config.json says {field} = {value}, which must be 1 to {most:,}")
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        with tokenizer.open("rb") as file:
            if not file.read(64).lstrip().startswith(b"{"):
                raise PretrainedError("its tokenizer.json is not a JSON object")


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"its {path.name} is not valid JSON") from error
    if not isinstance(found, dict):
        raise PretrainedError(f"its {path.name} holds a {type(found).__name__}, not a JSON object")
    return found


def _check_tokenizer(folder: Path, transformers: Any) -> None:
    """Refuse a folder without the words of a tokenizer, unless its class needs none (it reads bytes)."""
    if any(any(folder.glob(name)) for name in VOCABULARIES):
        return
    settings = [_json_object(folder / name) for name in ("tokenizer_config.json", "config.json")]
    named = getattr(transformers, str(settings[0].get("tokenizer_class")), None)
    if getattr(named, "vocab_files_names", None) == {}:
        return
    own = (
        "; its auto_map names code of its own, which is never run"
        if any("auto_map" in each for each in settings)
        else ""
    )
    raise PretrainedError(
        f"it holds no file of a tokenizer, such as tokenizer.json, tokenizer.model, or vocab.json with merges.txt{own}"
    )


def _check_weights(folder: Path, *, layered: bool) -> None:
    """Refuse weights that are cut off or, of a language model, hold fewer layers than its configuration asks for."""
    from safetensors import safe_open

    layers = _json_object(folder / "config.json").get("num_hidden_layers")
    names: list[str] = []
    for path in sorted(folder.glob("model*.safetensors")):
        with _whole(path), safe_open(path, "pt") as file:
            names += file.keys()
    numbers = [int(part) for name in names for part in name.split(".") if part.isdigit()]
    if layered and isinstance(layers, int) and numbers and layers > 1 + max(numbers):
        raise PretrainedError(f"its config.json says {layers:,} layers, but its weights hold {1 + max(numbers):,}")


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise PretrainedError(f"its {path.name} is cut off or no safetensors file") from error


def _file(source: str | Path, name: str, options: Mapping[str, Any]) -> Path | None:
    """A file of a folder, or of a hub's repository, if it has it."""
    from transformers.utils import cached_file

    if Path(source).is_dir():
        return path if (path := Path(source) / name).is_file() else None
    found = cached_file(source, name, **ABSENT, **_where(options))
    return None if found is None else Path(found)


def _reason(error: Exception) -> str:
    """Another library's error in plain words, without its full stop."""
    import pickle

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if "custom code" in text:
        return "it needs Python code of its own, and code that comes with a model is never run"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        return "its weights are a pickle that holds more than tensors, which is never opened; save them as safetensors"
    if "ignore_mismatched_sizes" in text:
        return "its weights do not have the shapes of its config.json"
    if isinstance(error, OSError | ValueError | ImportError) and lines:
        return lines[0].rstrip(".")[:300]
    return f"{type(error).__name__}: {lines[0] if lines else 'without words'}".rstrip(".")[:300]
