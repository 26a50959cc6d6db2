"""Saves and loads runs of UniMP: what was trained, which item each row belongs to, and a manifest.

======================  =========================================================================
``unimp.safetensors``   resampler, gated blocks, and the rows of marks and items; no weight of the base
``adapter/``            the LoRA adapter, as PEFT writes it, where the recipe has one
``items.parquet``       the ids of the items, in the order of their rows
``semantic_ids.*``      the codes of items, where ``items.ids`` is semantic
``recipe.toml``         the resolved recipe
``README.md``           a model card
``manifest.json``       what it was made from; written last, so a run that has it is complete
======================  =========================================================================

A catalogue may grow: rows of known items are found by their ids, and new items get new rows (`start_rows.like_others`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bundlecache import workspace
from bundlecache.errors import CheckpointError, Command
from bundlecache.files import share
from bundlecache.recipes.unimp_recipe import UNIMP, UnimpRecipe
from bundlecache.store.text_columns import places_of_ids, text_column

from ..checkpoint_files import (
    ADAPTER,
    base_entry,
    check_base,
    check_weights,
    contiguous,
    load_adapter,
    replace_files,
    save_adapter,
    sha256,
    versions,
)
from ..model import llm as llms
from . import drawing, model_card, semantic_ids, start_rows
from .item_texts import ItemTexts
from .model import UniMP, build
from .pictures import TokenTable
from .prompts import Prompts
from .vocabulary import AtomicIds, SemanticIds, Vocabulary

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.catalogue.histories import Histories
    from bundlecache.questions.task_file import TaskQuestions
    from bundlecache.store.store import Matrix

FORMAT_VERSION = 1
WEIGHTS, ITEMS_FILE = "unimp.safetensors", "items.parquet"
FILES = (
    WEIGHTS,
    "adapter",
    ITEMS_FILE,
    semantic_ids.CODES_FILE,
    semantic_ids.CODEBOOK_FILE,
    "recipe.toml",
    "README.md",
)
NEEDED = ("format_version", "recipe_name", "recipe", "base", "encoders", "questions", "stages", "items", "weights")


@dataclass(frozen=True)
class Parts:
    """A model, its prompts, and the stored features that it was built over."""

    model: UniMP
    prompts: Prompts
    pictures: Matrix | None
    codes: semantic_ids.ItemCodes | None  # where ids are semantic
    drawn: Matrix | None = None  # picture codes, where it was trained to draw


def assemble(
    catalogue: Catalogue,
    recipe: UnimpRecipe,
    pictures: Matrix | None,
    codes: semantic_ids.ItemCodes | None,
    device: torch.device,
    token_cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    drawn: Matrix | None = None,
    n_codes: int | None = None,
    seen: Histories | None = None,
) -> Parts:
    """A new model of ``recipe`` over a catalogue; weights are drawn from torch's global seed.

    ``pictures`` are the stored token features, None without vision; ``codes`` are the semantic ids of the items, None for
    atomic ones; ``drawn`` are picture codes for the task draw, of ``n_codes`` different ones, all that are stored where that is
    None. ``token_cache`` keeps the token ids of items; ``progress(done, of)`` is called while they are made. ``seen`` are the
    interactions that training may see, for rows that begin at them.

    Raises
    ------
    RecipeError, StoreError
        When base model, columns or features do not fit the recipe.
    """
    base = llms.load(recipe.base, device, None if token_cache is None else token_cache.with_name("bases"))
    ids = AtomicIds(len(catalogue)) if codes is None else SemanticIds(codes.codes, codes.size)
    if drawn is not None:
        stored = drawing.count_of(drawn)
        n_codes = stored if n_codes is None else n_codes
        drawing.check_count(drawn, n_codes)
    vocabulary = Vocabulary(base.model.get_input_embeddings().weight.shape[0], ids, n_codes or 0)
    texts = ItemTexts(base.tokenizer, catalogue, recipe.prompt, token_cache, progress)
    model = build(base, vocabulary, None if pictures is None else TokenTable(pictures, device), recipe)
    if recipe.items.start:
        start_rows.put(model, recipe.items.start, texts.telling(catalogue, token_cache), seen)
    prompts = Prompts(vocabulary, texts, recipe, getattr(base.model.config, "max_position_embeddings", None), drawn)
    return Parts(model, prompts, pictures, codes, drawn)


def save(
    parts: Parts,
    run: Path,
    catalogue: Catalogue,
    *,
    valid: Mapping[str, TaskQuestions],
    stages: Sequence[Mapping[str, Any]],
    seed: int,
    stopped: str | None = None,
) -> dict[str, Any]:
    """Write a run and return its manifest; ``valid`` are the validation questions by task, ``stopped`` says why it ended early.

    Raises
    ------
    CheckpointError
        When the folder cannot be written.
    """
    manifest = _manifest(parts, catalogue, valid, stages, seed) | {"stopped": stopped}

    def write(part: Path) -> None:
        from safetensors.torch import save_file

        model = parts.model
        save_file(contiguous(model.own_state()), part / WEIGHTS, metadata={"format": "pt"})
        if model.recipe.lora.rank:
            save_adapter(model.llm, model.recipe.base.model, part)
        pq.write_table(pa.table({"item_id": catalogue.item_ids.arrow}), part / ITEMS_FILE, compression="zstd")
        if parts.codes is not None:
            parts.codes.save(part, catalogue.item_ids)
        share(part)
        names = (WEIGHTS, ADAPTER, ITEMS_FILE)
        manifest["weights"] = {name: sha256(part / name) for name in names if (part / name).is_file()}
        (part / "recipe.toml").write_text(model.recipe.to_toml(), "utf-8")
        (part / "README.md").write_text(model_card.text(model.recipe, manifest), "utf-8")
        (part / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")

    replace_files(run, (*FILES, "manifest.json"), write)
    return manifest


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a finished run of UniMP.

    Raises
    ------
    CheckpointError
        When there is none, it is damaged or of a later version, or the run is one of another model.
    """
    manifest = workspace.read_manifest(run)
    if (kind := workspace.kind_of(run)) != "unimp":
        raise CheckpointError(
            f"{run.name} is a run that {workspace.RUN_KINDS[kind]}, not one that {workspace.RUN_KINDS['unimp']}.",
            hint=Command("train", "--recipe", "unimp"),
        )
    if (found := manifest.get("format_version")) != FORMAT_VERSION:
        raise CheckpointError(f"{run} has the format {found}; this bundlecache reads {FORMAT_VERSION}.")
    if lacking := [key for key in NEEDED if key not in manifest]:
        raise CheckpointError(
            f"{run / 'manifest.json'} lacks {lacking[0]!r}.",
            hint=[Command("train", "--recipe", "unimp"), "makes a new run"],
        )
    return manifest


def load(
    run: Path,
    catalogue: Catalogue,
    pictures: Matrix | None,
    content: Sequence[Matrix] = (),
    device: str | torch.device = "auto",
    token_cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    recipe: UnimpRecipe | None = None,
    drawn: Matrix | None = None,
) -> Parts:
    """The trained model of ``run`` over the present catalogue, ready to answer.

    ``pictures`` are features of the encoder that the run was trained on; ``content`` are the vectors behind semantic ids,
    for items that came later; ``drawn`` are picture codes, where it draws. ``recipe`` is that of the run where None; a
    training that starts from the run has its own.

    Raises
    ------
    CheckpointError
        When the run is incomplete, or features or base model are not those it was trained on.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = read_manifest(run)
    made = UnimpRecipe.from_dict(manifest["recipe"], name=manifest["recipe_name"], source=f"{run.name}/manifest.json")
    recipe = recipe or made
    if (recipe.items.ids, bool(recipe.lora.rank)) != (made.items.ids, bool(made.lora.rank)):
        raise CheckpointError(
            f"{run.name} has {made.items.ids} ids and {'a' if made.lora.rank else 'no'} LoRA adapter, and the recipe wants others.",
            hint=f"--set items.ids={made.items.ids} --set lora.rank={made.lora.rank}",
        )
    check_pictures(manifest, pictures, run.name)
    there = manifest.get("codes")  # what it was trained to draw with; a training that goes on may begin to draw
    if there is not None and drawn is not None and drawn.fingerprint != there["fingerprint"]:
        raise CheckpointError(
            f"{run.name} draws with codes of {there['spec']} ({there['fingerprint'][:8]}), but these are of {drawn.spec}"
            f" ({drawn.fingerprint[:8]}).",
            hint=[Command("encode", "--modality", "image", "--encoder", there["spec"]), "or train again"],
        )
    n_codes = None if there is None else there["count"]
    codes = None
    if recipe.items.ids == "semantic":
        codes = semantic_ids.load(run, catalogue.item_ids, content)
    place = device if isinstance(device, torch.device) else llms.device_of(device)
    parts = assemble(catalogue, recipe, pictures, codes, place, token_cache, progress, drawn, n_codes)
    model = parts.model
    check_base(run.name, manifest, model.base)
    try:
        check_weights(run, manifest, (WEIGHTS, ADAPTER, ITEMS_FILE))
        known = places_of_ids(catalogue.item_ids, text_column(pq.read_table(run / ITEMS_FILE)["item_id"]))
        count = manifest["items"]["count"]
        ids = AtomicIds(count) if codes is None else model.vocabulary.item_ids
        older = Vocabulary(model.vocabulary.base_size, ids, n_codes or 0)
        model.load_own_state(load_file(run / WEIGHTS), model.vocabulary.rows_of(older, np.asarray(known)))
        if recipe.lora.rank:
            load_adapter(model.llm, run)
    except (OSError, pa.ArrowException, SafetensorError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:200]
        raise CheckpointError(
            f"The weights of {run.name} cannot be used: {reason}",
            hint=[Command("train", "--recipe", "unimp"), "makes a new run"],
        ) from error
    start_rows.like_others(
        model, parts.prompts.texts.telling(catalogue, token_cache), np.flatnonzero(np.asarray(known) < 0)
    )
    model.eval()
    return parts


def check_pictures(manifest: Mapping[str, Any], pictures: Matrix | None, run: str) -> None:
    """Refuse features that are not of the encoder a run was trained on.

    Raises
    ------
    CheckpointError
        Naming the encoder, and the command that makes its features.
    """
    for encoder in manifest["encoders"]:
        same = pictures is not None and (pictures.fingerprint, pictures.vectors.shape[2:]) == (
            encoder["fingerprint"],
            (encoder["dim"],),
        )
        if not same:
            made = f"{encoder['spec']} ({encoder['fingerprint'][:8]})"
            there = (
                "there are none" if pictures is None else f"these are of {pictures.spec} ({pictures.fingerprint[:8]})"
            )
            raise CheckpointError(
                f"{run} was trained on picture features of {made}, but {there}.",
                hint=[Command("encode", "--modality", "image", "--encoder", encoder["spec"]), "or train again"],
            )


def _codes_entry(parts: Parts) -> dict[str, Any]:
    """What a manifest says of picture codes, where there are any."""
    if parts.drawn is None:
        return {}
    about = {key: getattr(parts.drawn, key) for key in ("spec", "fingerprint", "table", "version")}
    return {"codes": {**about, "count": len(parts.model.vocabulary.codes)}}


def _manifest(
    parts: Parts,
    catalogue: Catalogue,
    valid: Mapping[str, TaskQuestions],
    stages: Sequence[Mapping[str, Any]],
    seed: int,
) -> dict[str, Any]:
    recipe, base, pictures = parts.model.recipe, parts.model.base, parts.pictures
    encoders = []
    if pictures is not None:
        about = {key: getattr(pictures, key) for key in ("modality", "spec", "fingerprint", "table", "version")}
        tokens, dim = pictures.vectors.shape[1:]
        encoders.append({"name": pictures.modality, **about, "dim": int(dim), "tokens": int(tokens)})
    return {
        "format_version": FORMAT_VERSION,
        "kind": UNIMP,
        "recipe_name": recipe.name,
        "recipe": recipe.to_dict(),
        "base": base_entry(base),
        "encoders": encoders,
        "questions": {task: {"name": asked.name, "sha256": asked.sha256} for task, asked in valid.items()},
        "items": {"count": len(catalogue), "ids": recipe.items.ids},
        **_codes_entry(parts),
        "stages": [dict(stage) for stage in stages],
        "seed": seed,
        "encoder_calls": 0,  # nothing in this package can call an encoder: it reads stored features
        "versions": versions(),
    }
