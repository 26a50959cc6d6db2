"""Reads a checkpoint of Bundle-MLLM's public code into a run of the recipe ``public-code``.

==================================  =====================================================================
``adapter_model.safetensors|.bin``  the LoRA adapter, as PEFT writes it; ``adapter_config.json`` beside it if there
``fusion.bin``                      ``w1 w2 w3`` of content, ``bi_transformation``, ``cf_transformation``,
                                    ``w_q w_k w_v``, and ``w_q2 w_k2 w_v2`` of pooling by the prompt token
``projector_model_fuse.bin``        two linear layers, ``dense1`` and ``output``
``prompt_token.bin``                an embedding of one row: the soft separator
==================================  =====================================================================

Weights are found by the end of their names, whatever module they stand in, and must have the shapes that their layer
needs. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from bundlecache.bench.metrics import strict_hits
from bundlecache.errors import CheckpointError
from bundlecache.files import read_json, write_text
from bundlecache.foreign_tensors import read_tensors

from . import checkpoint
from .inference.scoring import score
from .model.bundle_mllm import BundleMLLM, build
from .model.llm import device_of

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.questions.freeze import Questions
    from bundlecache.recipes.recipe import Recipe
    from bundlecache.store.store import Matrix

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
CONTENT = ("w1", "w2", "w3")
GRAPHS = ("bi_transformation", "cf_transformation")
ATTENTION = {"w_q": "query", "w_k": "key", "w_v": "value"}  # their name -> ours
PROJECTOR = ("dense1", "output")
FOLDER_HINT = "give the folder of a finished run of that code"
FILE_HINT = "check that the file was written by that code"
DEFAULT_ALPHA = 16.0
UNKNOWN_SCALES = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")
"""Keys of adapter_config.json that change how LoRA is scaled; the public code sets none of them."""


class Linear(NamedTuple):
    """The weight [out, in] and the bias [out] of a linear layer."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class PublicCheckpoint:
    """The files of a checkpoint, read and checked one by one."""

    folder: Path
    fusion: dict[str, Tensor]  # by their names
    projector: tuple[Linear, Linear]
    separator: Tensor | None  # [h]
    adapter: dict[str, Tensor]  # by PEFT's names, lora_A [r, in] and lora_B [out, r]
    alpha: float  # of LoRA, whose scale is alpha / r

    @property
    def rank(self) -> int:
        """R of LoRA."""
        return next(value.shape[0] for name, value in self.adapter.items() if ".lora_A." in name)

    @property
    def targets(self) -> list[str]:
        """The layers that LoRA adapts."""
        return sorted({name.split(".lora_")[0].rpartition(".")[2] for name in self.adapter if ".lora_" in name})


def read(folder: Path) -> PublicCheckpoint:
    """Read the files in ``folder``.

    Raises
    ------
    BundlecacheError
        When a file is missing or damaged, or a weight does not have the shape that its layer needs.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.", hint=FOLDER_HINT)
    fusion = _tensors(folder / "fusion.bin")
    path = next((folder / name for name in ADAPTERS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder} holds neither {' nor '.join(ADAPTERS)}.", hint=FOLDER_HINT)
    width = _layer(fusion, CONTENT[-1], folder / "fusion.bin").weight.shape[0]
    return PublicCheckpoint(
        folder,
        fusion,
        _projector(_tensors(folder / "projector_model_fuse.bin"), width, folder / "projector_model_fuse.bin"),
        _separator(folder / "prompt_token.bin"),
        _adapter(path),
        _alpha(folder / "adapter_config.json"),
    )


def overrides(folder: Path) -> list[str]:
    """The settings of the recipe ``public-code`` that follow from the files: widths, rank and targets of LoRA.

    Raises
    ------
    BundlecacheError
        As `read`.
    """
    found = read(folder)
    widths = [_layer(found.fusion, name, folder / "fusion.bin").weight.shape[0] for name in CONTENT]
    return [
        f"lora.rank={found.rank}",
        f"lora.alpha={found.alpha}",
        f"lora.targets={json.dumps(found.targets)}",
        f"fusion.hidden={widths[:-1]}",
        f"fusion.width={widths[-1]}",
        f"fusion.projector_width={found.projector[0].weight.shape[0]}",
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
    """Write the weights in ``folder`` as the run ``run``; returns the names of those that the recipe does not use.

    ``matrices`` are content, bundle graph and user graph, in this order. The run says how many questions of ``valid``
    the weights answer; they were not chosen on them.

    Raises
    ------
    BundlecacheError
        When files, base model and vectors do not fit together.
    """
    found = read(folder)
    recipe = replace(recipe, fusion=replace(recipe.fusion, modalities=tuple(matrices)))
    if recipe.answer.form != "letters":
        raise CheckpointError(
            f"The public code's models answer by letter, but the settings ask for answer.form={recipe.answer.form}.",
            hint="leave answer.form out",
        )
    model = build(catalogue.titles, matrices, recipe, device_of(device), token_cache)
    unused = load(model, found)
    model.mode = "mm"
    answers = score(model.eval(), valid)
    hits = float(strict_hits(answers.logits, valid.truth, answers.valid).mean())
    stage = {"name": "joint", "steps": 0, "best_step": 0, "seconds": 0.0, "best_valid_hit@1": hits}
    checkpoint.save(model, run, valid=valid, stages=[{**stage, "trainable_parameters": 0}], seed=0)
    write_text(run.parent / "latest", run.name + "\n")
    return unused


def load(model: BundleMLLM, found: PublicCheckpoint) -> list[str]:
    """Put the weights of ``found`` into ``model``; returns the names of those that its recipe does not use.

    Raises
    ------
    CheckpointError
        When a weight is missing, or of another shape than the model's.
    """
    from peft import set_peft_model_state_dict

    assert model.tokens is not None  # noqa: S101 - the recipe fuses
    path = found.folder / "fusion.bin"
    ours = {name: value.shape for name, value in model.tokens.named_parameters()}
    theirs = _their_names(ours)
    state = {name: _tensor(found.fusion, end, path) for name, end in theirs.items()}
    for index, layer in zip((0, 2), found.projector, strict=True):
        state |= {f"projector.{index}.weight": layer.weight, f"projector.{index}.bias": layer.bias}
    if "separator" in ours:
        if found.separator is None:
            raise CheckpointError(
                f"{found.folder} holds no prompt_token.bin, which the recipe's soft separator needs.",
                hint="--set prompt.separator=none for a run with --del_sp, or --set prompt.separator=hard",
            )
        state["separator"] = found.separator
    for name, value in state.items():
        if value.shape != ours[name]:
            raise CheckpointError(
                f"The weights in {found.folder} do not fit: {theirs.get(name, name)} has the shape {list(value.shape)}, "
                f"and base model, vectors and recipe need {list(ours[name])}.",
                hint="--base, the three --encoder in order, and --set name what it was trained on",
            )
    if missing := [name for name in ours if name not in state and not name.endswith("absent")]:
        raise CheckpointError(
            f"{found.folder} has no weights for {missing[0]}.", hint="--set turns off what was not trained"
        )
    model.tokens.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    try:
        result = set_peft_model_state_dict(model.llm, found.adapter)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()[:200]
        raise CheckpointError(
            f"The adapter in {found.folder} does not fit the base model: {reason}", hint="--base"
        ) from error
    if strange := [*result.unexpected_keys, *(key for key in result.missing_keys if "lora_" in key)]:
        raise CheckpointError(
            f"The adapter in {found.folder} does not fit the base model: {strange[0]}.", hint="--base"
        )
    used = set(theirs.values())
    return sorted(name for name in found.fusion if not any(_ends(name, end) for end in used))


def _their_names(ours: Mapping[str, Any]) -> dict[str, str]:
    """Our names of fusion's weights -> the ends of theirs, of those that the model has."""
    names = {f"nets.0.{2 * k}": name for k, name in enumerate(CONTENT)}
    names |= {f"nets.{k}.0": name for k, name in enumerate(GRAPHS, start=1)}
    names |= {own: their for their, own in ATTENTION.items()}
    names |= {f"pool.{own}": f"{their}2" for their, own in ATTENTION.items()}
    every = {f"fusion.{own}.{part}": f"{their}.{part}" for own, their in names.items() for part in ("weight", "bias")}
    return {own: their for own, their in every.items() if own in ours}


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _tensor(tensors: Mapping[str, Tensor], end: str, path: Path) -> Tensor:
    """The one tensor whose name ends so; a weight is a matrix, a bias a vector."""
    found = [value for name, value in tensors.items() if _ends(name, end)]
    if len(found) != 1:
        raise CheckpointError(f"{path} holds {len(found)} weights called {end}, not one.", hint=FILE_HINT)
    if found[0].ndim != (1 if end.endswith("bias") else 2):
        raise CheckpointError(
            f"{path}: {end} has the shape {list(found[0].shape)}, and a {'vector' if end.endswith('bias') else 'matrix'} "
            "is needed.",
            hint=FILE_HINT,
        )
    return found[0]


def _layer(tensors: Mapping[str, Tensor], name: str, path: Path) -> Linear:
    """The linear layer of that name, whose weight and bias must fit together."""
    layer = Linear(*(_tensor(tensors, f"{name}.{part}" if name else part, path) for part in ("weight", "bias")))
    if layer.weight.shape[0] != len(layer.bias):
        raise CheckpointError(
            f"{path}: {name} has a weight of the shape {list(layer.weight.shape)} and a bias of {len(layer.bias)} numbers.",
            hint=FILE_HINT,
        )
    return layer


def _projector(tensors: Mapping[str, Tensor], width: int, path: Path) -> tuple[Linear, Linear]:
    """The two layers in the order of the computation, the first of which reads vectors of ``width``.

    Their names say the order (``dense1``, ``output``); layers of other names are ordered by their shapes, and by the
    numbers in their names where both orders would fit.
    """
    names = sorted({name.rpartition(".")[0] for name in tensors}, key=lambda n: [int(k) for k in re.findall(r"\d+", n)])
    if len(names) != 2 or len(tensors) != 4:
        raise CheckpointError(f"{path} is not two linear layers.", hint=FILE_HINT)
    ends = [name.rpartition(".")[2] for name in names]
    if set(ends) == set(PROJECTOR):
        names = [names[ends.index(name)] for name in PROJECTOR]
        orders = [names]
    else:
        orders = [names, names[::-1]]
    for first, second in orders:
        layers = _layer(tensors, first, path), _layer(tensors, second, path)
        if layers[0].weight.shape[1] == width and layers[1].weight.shape[1] == layers[0].weight.shape[0]:
            return layers
    shapes = ", ".join(f"{name} {list(tensors[f'{name}.weight'].shape)}" for name in names)
    raise CheckpointError(
        f"The layers of {path} do not follow one another from vectors of {width}: {shapes}.", hint=FILE_HINT
    )


def _separator(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    tensors = list(_tensors(path).values())
    if len(tensors) != 1 or tensors[0].ndim not in (1, 2) or tensors[0].numel() != tensors[0].shape[-1]:
        raise CheckpointError(f"{path} is not an embedding of one row.", hint=FILE_HINT)
    return tensors[0].reshape(-1)


def _adapter(path: Path) -> dict[str, Tensor]:
    """LoRA's weights by the names that PEFT gives them in a file, without the name of the adapter."""
    found = {re.sub(r"(\.lora_[AB])\.default\.", r"\1.", name): value for name, value in _tensors(path).items()}
    wrong = [(name, value) for name, value in found.items() if ".lora_" in name and value.ndim != 2]
    if wrong:
        raise CheckpointError(
            f"{path}: {wrong[0][0]} has the shape {list(wrong[0][1].shape)}, and a matrix is needed.", hint=FILE_HINT
        )
    ranks = {value.shape[0] for name, value in found.items() if ".lora_A." in name}
    if len(ranks) != 1 or 0 in ranks:
        said = f"LoRA weights of the ranks {', '.join(map(str, sorted(ranks)))}" if ranks else "no LoRA weights"
        raise CheckpointError(f"{path} holds {said}; needed is one rank.", hint=FOLDER_HINT)
    return found


def _alpha(path: Path) -> float:
    if not path.is_file():
        return DEFAULT_ALPHA
    try:
        settings = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not valid JSON.", hint=FOLDER_HINT) from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds a {type(settings).__name__}, not a JSON object.", hint=FOLDER_HINT)
    if unknown := [key for key in UNKNOWN_SCALES if settings.get(key)]:
        raise CheckpointError(f"{path} sets {unknown[0]}, which the import cannot reproduce.", hint=FOLDER_HINT)
    alpha = settings.get("lora_alpha", DEFAULT_ALPHA)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
        raise CheckpointError(f"{path} says lora_alpha = {alpha!r}, and a number above 0 is needed.", hint=FOLDER_HINT)
    return float(alpha)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, all of them finite."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no {path.name}.", hint=FOLDER_HINT)
    found = read_tensors(path)
    if wrong := [name for name, value in found.items() if not value.isfinite().all()]:
        raise CheckpointError(f"{path}: {wrong[0]} holds numbers that are not finite.", hint=FILE_HINT)
    return found
