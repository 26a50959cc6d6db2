"""Runs of Bundle-MLLM's public code, read into a model of the recipe ``public-code``.

==================================  =====================================================================
``adapter_model.bin|safetensors``   the LoRA adapter, as PEFT writes it; ``adapter_config.json`` beside it if there
``fusion.bin``                      ``w1 w2 w3`` of content, ``bi_transformation``, ``cf_transformation``,
                                    ``w_q w_k w_v``, and ``w_q2 w_k2 w_v2`` of pooling by the prompt token
``projector_model_fuse.bin``        two linear layers
``prompt_token.bin``                an embedding of one row: the soft separator
==================================  =====================================================================

Weights are found by the end of their names, whatever module they stand in. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bundlecache.errors import CheckpointError
from bundlecache.files import write_text

from . import checkpoint
from .inference.scoring import score
from .model import llm as llms
from .model.bundle_mllm import BundleMLLM, build

if TYPE_CHECKING:
    from bundlecache.catalogue.model import Catalogue
    from bundlecache.questions.file import Questions
    from bundlecache.recipes.recipe import Recipe
    from bundlecache.store.store import Matrix

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
CONTENT = ("w1", "w2", "w3")
GRAPHS = ("bi_transformation", "cf_transformation")
ATTENTION = {"w_q": "query", "w_k": "key", "w_v": "value"}


def overrides(folder: Path) -> list[str]:
    """The settings of the recipe ``public-code`` that follow from the files: widths, rank and targets of LoRA.

    Raises
    ------
    CheckpointError
        When a file is missing or damaged.
    """
    fusion, adapter = _tensors(folder / "fusion.bin"), _tensors(_adapter(folder))
    layers = [_end(fusion, f"{name}.weight", folder / "fusion.bin").shape[0] for name in CONTENT]
    projector = _pair(_tensors(folder / "projector_model_fuse.bin"), folder)
    ranks = [value.shape[0] for name, value in adapter.items() if "lora_A" in name]
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in adapter if ".lora_" in name})
    if not ranks:
        raise CheckpointError(f"{_adapter(folder)} holds no LoRA weights.", hint="give the folder of a finished run")
    config = folder / "adapter_config.json"
    alpha = json.loads(config.read_text("utf-8")).get("lora_alpha", 16) if config.is_file() else 16
    return [
        f"lora.rank={ranks[0]}",
        f"lora.alpha={float(alpha)}",
        f"lora.targets={json.dumps(targets)}",
        f"fusion.hidden={layers[:-1]}",
        f"fusion.width={layers[-1]}",
        f"fusion.projector_width={projector[0][0].shape[0]}",
    ]


def make_run(
    folder: Path,
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix],
    valid: Questions,
    recipe: Recipe,
    run: Path,
    device: str = "auto",
    token_cache: Path | None = None,
) -> list[str]:
    """Write the weights in ``folder`` as the run ``run``; returns the names of those that were of no use.

    ``matrices`` are content, bundle graph and user graph, in this order. The run says how many questions of ``valid``
    the weights answer; they were not chosen on them.

    Raises
    ------
    BundlecacheError
        When files, base model and vectors do not fit together.
    """
    recipe = replace(recipe, fusion=replace(recipe.fusion, modalities=tuple(matrices)))
    model = build(catalogue.titles, matrices, recipe, llms.device_of(device), token_cache)
    ignored = load(model, folder)
    model.mode = "mm"
    answers = score(model.eval(), valid)
    hits = float(((answers.logits.argmax(1) == valid.truth) & answers.valid).mean())
    stage = {"name": "joint", "steps": 0, "best_step": 0, "seconds": 0.0, "best_valid_hit@1": hits}
    checkpoint.save(model, run, valid=valid, stages=[{**stage, "trainable_parameters": 0}], seed=0)
    write_text(run.parent / "latest", run.name + "\n")
    return ignored


def load(model: BundleMLLM, folder: Path) -> list[str]:
    """Put the weights in ``folder`` into ``model``; returns the names of those that its recipe has no use for.

    Raises
    ------
    CheckpointError
        When a file is missing or damaged, or a weight is of another shape.
    """
    from peft import set_peft_model_state_dict

    assert model.tokens is not None  # noqa: S101 - the recipe fuses
    fusion, path = _tensors(folder / "fusion.bin"), folder / "fusion.bin"
    wanted = _names(model.tokens.state_dict())
    state = {ours: _end(fusion, theirs, path) for ours, theirs in wanted.items()}
    for index, (weight, bias) in zip((0, 2), _pair(_tensors(folder / "projector_model_fuse.bin"), folder), strict=True):
        state |= {f"projector.{index}.weight": weight, f"projector.{index}.bias": bias}
    if model.tokens.separator is not None:
        state["separator"] = next(iter(_tensors(folder / "prompt_token.bin").values())).reshape(-1)
    adapter = _tensors(_adapter(folder))
    try:
        left = model.tokens.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
        result = set_peft_model_state_dict(model.llm, adapter)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:200]
        raise CheckpointError(
            f"The weights in {folder} do not fit: {reason}", hint="--base, the three --encoder in order, and --set"
        ) from error
    parameters = dict(model.tokens.named_parameters())
    if missing := [name for name in left.missing_keys if name in parameters and not name.endswith("absent")]:
        raise CheckpointError(f"{folder} has no weights for {missing[0]}.", hint="--set turns off what was not trained")
    if strange := [*result.unexpected_keys, *(key for key in result.missing_keys if "lora_" in key)]:
        raise CheckpointError(f"The adapter in {folder} does not fit the base model: {strange[0]}.", hint="--base")
    used = set(wanted.values())
    return sorted(name for name in fusion if not any(_ends(name, end) for end in used))


def _names(state: Iterable[str]) -> dict[str, str]:
    """Our names of fusion's weights -> the ends of theirs, of those that ``state`` has."""
    names = {f"nets.0.{2 * k}": name for k, name in enumerate(CONTENT)}
    names |= {f"nets.{k}.0": name for k, name in enumerate(GRAPHS, start=1)}
    names |= {ours: theirs for theirs, ours in ATTENTION.items()}
    names |= {f"pool.{ours}": f"{theirs}2" for theirs, ours in ATTENTION.items()}
    every = {f"fusion.{o}.{part}": f"{t}.{part}" for o, t in names.items() for part in ("weight", "bias")}
    return {ours: theirs for ours, theirs in every.items() if ours in state}


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _end(tensors: Mapping[str, Tensor], end: str, path: Path) -> Tensor:
    """The one tensor whose name ends so."""
    found = [value for name, value in tensors.items() if _ends(name, end)]
    if len(found) != 1:
        raise CheckpointError(f"{path} holds {len(found)} weights called {end}, not one.", hint="is it of that code?")
    return found[0]


def _pair(tensors: Mapping[str, Tensor], folder: Path) -> list[tuple[Tensor, Tensor]]:
    """The two layers of the projector, weight and bias each, by the numbers in their names."""
    weights = sorted(
        (name for name in tensors if _ends(name, "weight")), key=lambda n: list(map(int, re.findall(r"\d+", n)))
    )
    try:
        first, second = ((tensors[name], tensors[name.removesuffix("weight") + "bias"]) for name in weights)
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / 'projector_model_fuse.bin'} is not two linear layers.", hint="is it of that code?"
        ) from error
    return [first, second]


def _adapter(folder: Path) -> Path:
    for name in ADAPTERS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder} holds neither {' nor '.join(ADAPTERS)}.", hint="give the folder of a finished run of that code"
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name; a pickle may hold nothing else."""
    from safetensors.torch import load_file

    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        found = {"weight": found} if isinstance(found, Tensor) else found
        if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
            return dict(found)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no {path.name}." if (folder := path.parent).is_dir() else f"There is no folder {folder}.",
            hint="give the folder of a finished run of that code",
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}).", hint="save it again with torch.save"
        ) from error
    raise CheckpointError(f"{path} holds no tensors by name.", hint="give the folder of a finished run of that code")
