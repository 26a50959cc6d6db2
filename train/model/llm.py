"""Loads the base language model: the embedded one, a local folder, a GGUF file or a hub id, all in the same way.

It is frozen: what is trained of it is a LoRA adapter. Notation: b questions, h hidden width, V words of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bundlecache import lean_imports, pretrained
from bundlecache.errors import RecipeError, counted
from bundlecache.recipes.settings import Base, Lora
from bundlecache.tokenizer_check import tokenizer_fingerprint

from . import gguf_base, quant

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""The tiny base that ships with the project; its spec is ``embedded``."""
EMBEDDED_LETTERS = 10
"""How many option letters the embedded base was pretrained with (`bundlecache.train.pretrain`)."""


@dataclass(frozen=True)
class LoadedLlm:
    """A frozen causal language model with its tokenizer, and what identifies both."""

    model: Any  # transformers.PreTrainedModel
    tokenizer: Any
    spec: str  # base.model of the recipe
    fingerprint: str  # of the weights, see `fingerprint`
    tokenizer_fingerprint: str  # see `bundlecache.tokenizer_check`
    parameters: int


def device_of(name: str) -> torch.device:
    """The device ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    RecipeError
        When the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RecipeError(f"{name!r} is no device.", hint="--device auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise RecipeError(f"Models are not trained on {device.type!r}.", hint="--device auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"The device {name} was asked for, but torch finds no GPU.", hint="--device cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("The device mps was asked for, but torch finds none.", hint="--device cpu")
    return device


def load(settings: Base, device: torch.device, cache: Path | None = None) -> LoadedLlm:
    """Load tokenizer and weights of ``settings.model``, frozen, in evaluation mode.

    ``cache`` is the folder that keeps what was in GGUF files (`bundlecache.train.model.gguf_base`).

    Raises
    ------
    RecipeError
        When the folder, file or hub id is not there, or holds no causal language model.
    """
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    quantised = quant.options(settings.quantise, getattr(torch, dtype), device)
    try:
        with _source(settings.model, cache) as (source, options):
            tokenizer = pretrained.load_tokenizer(source, **options)
            loaded = pretrained.load_model(
                "AutoModelForCausalLM", source, dtype=getattr(torch, dtype), **options, **quantised
            )
        _check_weights(loaded)
    except pretrained.PretrainedError as error:
        raise RecipeError(
            f"No causal language model could be loaded from {settings.model!r}: {error}.",
            hint=gguf_base.TAKES,
        ) from error
    model = loaded.model
    model.requires_grad_(False)
    model.config.use_cache = False
    if settings.gradient_checkpointing:
        recompute(model)
    parameters = model.num_parameters()  # of 4 bits, two stand in one number
    if quantised:
        quant.keep_as_loaded(model)
    else:
        model = model.to(device)  # a quantised one is there already
    return LoadedLlm(
        model.eval(), tokenizer, settings.model, fingerprint(model), tokenizer_fingerprint(tokenizer), parameters
    )


def _check_weights(loaded: pretrained.LoadedModel) -> None:
    """Refuse a model some of whose weights would be random, or left unread. Tied weights are not counted as missing."""
    if loaded.missing:
        raise pretrained.PretrainedError(
            f"its files lack {counted(len(loaded.missing), 'weight')} that its config.json asks for, {loaded.missing[0]} for one"
        )
    if loaded.unexpected:
        raise pretrained.PretrainedError(
            f"its files hold {counted(len(loaded.unexpected), 'weight')} that its config.json has no place for, "
            f"{loaded.unexpected[0]} for one"
        )


def recompute(model: Any, *, on: bool = True) -> None:
    """Turn gradient checkpointing on or off: activations are computed again in the backward pass instead of kept."""
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # in later transformers
    if on:
        getattr(model, f"{word}_checkpointing_enable")(**{f"{word}_checkpointing_kwargs": {"use_reentrant": False}})
    else:
        getattr(model, f"{word}_checkpointing_disable")()


@contextmanager
def _source(spec: str, cache: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """What ``from_pretrained`` is given for ``base.model``, and its options."""
    if spec == "embedded":
        if not (EMBEDDED / "config.json").is_file():
            raise RecipeError(
                f"The embedded base is not in {EMBEDDED}.", hint="make base, or python -m bundlecache.train.pretrain"
            )
        yield str(EMBEDDED), {"local_files_only": True}
    elif Path(spec).is_dir():
        yield spec, {"local_files_only": True}
    elif (file := gguf_base.file_of(spec)) is not None:
        with gguf_base.unpacked(file, cache) as folder:
            yield str(folder), {"local_files_only": True}
    elif spec.startswith((".", "/", "~")):
        raise RecipeError(f"There is no model folder or GGUF file {spec!r}.", hint=gguf_base.TAKES)
    else:
        name, _, revision = spec.partition("@")
        yield name, {"revision": revision} if revision else {}


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (64 hex digits) of names, shapes and the first 4,096 values of every weight, whatever folder they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, list(value.shape)]).encode())
        digest.update(value.flatten()[:4096].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def add_lora(llm: Any, settings: Lora) -> Any:
    """Wrap ``llm`` in a fresh, trainable LoRA adapter, which changes nothing before it is trained.

    Raises
    ------
    RecipeError
        When the model has no linear layer of one of the target names, or fewer layers than are to be adapted.
    """
    with lean_imports.deferred():
        from peft import LoraConfig, get_peft_model

    linear = sorted({name.rpartition(".")[2] for name, m in llm.named_modules() if isinstance(m, nn.Linear)})
    missing = [target for target in settings.targets if target not in linear]
    if missing or not settings.targets:
        raise RecipeError(
            f"This base model has no layer {', '.join(missing) or '(none named)'} for LoRA; it has {', '.join(linear)}.",
            hint="--set lora.targets=q_proj,v_proj",
        )
    count = int(llm.config.num_hidden_layers)
    if settings.last_layers > count:
        raise RecipeError(
            f"lora.last_layers is {settings.last_layers}, but this base model has {count} layers.",
            hint=f"--set lora.last_layers={count}, or 0 for all",
        )
    adapted = list(range(count - settings.last_layers, count)) if settings.last_layers else None
    config = LoraConfig(
        r=settings.rank,
        layers_to_transform=adapted,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what PEFT asks it
        return get_peft_model(llm, config)


def head(llm: Any, hidden: Tensor) -> Tensor:
    """Logits [b, V] of last hidden states [b, h], with the scaling that some families put behind the head."""
    return scaled(llm.config, llm.get_output_embeddings()(hidden))


def scaled(config: Any, logits: Tensor) -> Tensor:
    """Logits as they leave a model of ``config``, from those of its head."""
    if getattr(config, "logit_scale", None) is not None:
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None) is not None:
        logits = logits / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
