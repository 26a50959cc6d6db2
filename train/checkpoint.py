"""Saves and loads checkpoints: a PEFT adapter, one safetensors file for the item tokens, a manifest, a model card.

=====================  ====================================================================
``adapter/``           the LoRA adapter, as PEFT writes it
``fusion.safetensors`` fusion, projector, soft separator; not there after a text-only run
``answer.safetensors`` what the answer form and the evidence have of their own; not there where they have nothing
``recipe.toml``        the resolved recipe
``README.md``          a model card
``seen_bundles.parquet`` hashes of the bundles of training and validation (`bundlecache.catalogue.seen_bundles`)
``manifest.json``      what it was made from; written last, so a run that has it is complete
=====================  ====================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bundlecache import workspace
from bundlecache.catalogue.seen_bundles import FILE_NAME as SEEN_FILE
from bundlecache.catalogue.seen_bundles import SeenBundles
from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import CheckpointError, Command
from bundlecache.files import share
from bundlecache.recipes.recipe import from_dict

from . import model_card
from .checkpoint_files import (
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
from .model import llm as llms
from .model.bundle_mllm import BundleMLLM, build, histories_for
from .model.evidence import attach

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.questions.question_file import Questions
    from bundlecache.questions.sample import SampleInfo
    from bundlecache.store.store import Matrix

FORMAT_VERSION = 1
TOKENS, ANSWER = "fusion.safetensors", "answer.safetensors"
NEEDED = ("format_version", "recipe_name", "recipe", "base", "mode", "encoders", "questions", "stages")


def save(
    model: BundleMLLM,
    run: Path,
    *,
    valid: Questions,
    stages: Sequence[Mapping[str, Any]],
    seed: int,
    stopped: str | None = None,
    seen: SeenBundles | None = None,
    sample: SampleInfo | None = None,
) -> dict[str, Any]:
    """Write the checkpoint into ``run`` and return its manifest. ``stopped`` says why training ended early, if it did.

    ``seen`` are the bundles of training and validation, so that later questions about them can be left out;
    ``sample`` says which of the validation questions were asked, where not all of them were. All files
    are written into a temporary folder and moved; the old manifest is removed first, the new one is moved last.

    Raises
    ------
    CheckpointError
        When the folder cannot be written.
    """
    manifest = _manifest(model, valid, stages, seed) | {"stopped": stopped}
    if sample is not None:
        manifest["questions"]["valid"]["sample"] = sample.to_dict()

    def write(part: Path) -> None:
        if seen is not None:
            manifest["seen"] = {"file": SEEN_FILE, "sha256": sha256(seen.save(part))}
        _write(model, part, manifest)

    replace_files(run, ("adapter", TOKENS, ANSWER, "recipe.toml", "README.md", SEEN_FILE, "manifest.json"), write)
    return manifest


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a finished run.

    Raises
    ------
    CheckpointError
        When there is none, or it is damaged or of a later version.
    """
    path = run / "manifest.json"
    manifest = workspace.read_manifest(run)
    if workspace.kind_of(run) != "bundle":
        raise CheckpointError(
            f"{run.name} is a run that {workspace.RUN_KINDS[workspace.kind_of(run)]}, not one that {workspace.RUN_KINDS['bundle']}.",
            hint=Command("recommend", "USER", "--run", run.name),
        )
    found = manifest.get("format_version")
    if found is not None and found != FORMAT_VERSION:
        raise CheckpointError(f"{path} has the format {found}; this bundlecache reads {FORMAT_VERSION}.")
    if lacking := [key for key in NEEDED if key not in manifest]:
        raise CheckpointError(f"{path} lacks {lacking[0]!r}.", hint=[Command("train"), "makes a new run"])
    return manifest


def seen(run: Path) -> SeenBundles | None:
    """The bundles that ``run`` was trained on and selected with; None when it was made before they were recorded.

    Raises
    ------
    CheckpointError
        When the run is not finished, or the record is missing or damaged.
    """
    record = read_manifest(run).get("seen")
    if record is None:
        return None
    path = run / SEEN_FILE
    if not path.is_file() or sha256(path) != record.get("sha256"):
        raise CheckpointError(
            f"{path} is not the file that was written when {run.name} was trained, so nobody can say which questions"
            " the run has seen.",
            hint=["bring that file back, or train again:", Command("train")],
        )
    return SeenBundles.load(run)


def load(
    run: Path,
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix],
    device: str | torch.device = "auto",
    token_cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BundleMLLM:
    """The trained model of ``run``, ready to score.

    ``matrices`` must hold, under the same names, vectors of the very encoders that the run was trained on;
    others are ignored. ``token_cache`` is the folder that keeps the titles' token ids;
    ``progress(done, of)`` is called while titles are tokenised.

    Raises
    ------
    CheckpointError
        When the run is incomplete, or vectors or base model are not those it was trained on.
    """
    manifest = read_manifest(run)
    recipe = from_dict(manifest["recipe"], name=manifest["recipe_name"], source=f"{run.name}/manifest.json")
    place = device if isinstance(device, torch.device) else llms.device_of(device)
    names = [encoder["name"] for encoder in manifest["encoders"]]
    check_encoders(manifest, matrices, run.name)
    chosen = {name: matrices[name] for name in names}
    histories = histories_for(recipe, catalogue)
    model = build(catalogue.titles, chosen, recipe, place, token_cache, histories, progress)
    attach(model, catalogue, run)
    restore(model, run, manifest)
    return model.eval()


def restore(model: BundleMLLM, run: Path, manifest: Mapping[str, Any]) -> None:
    """Put the weights of ``run`` into ``model``, which was built from the same base and encoders.

    Raises
    ------
    CheckpointError
        When the base model or the shape of the weights differs, or a file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_base(run.name, manifest, model.base)
    try:
        check_weights(run, manifest, (ADAPTER, TOKENS, ANSWER))
        load_adapter(model.llm, run)
        if manifest["encoders"] and model.tokens is not None:
            model.tokens.load_state_dict(load_file(run / TOKENS))
        own = model.own_state()
        if own and manifest.get("answer", "letters") == model.answer.name:  # else a training begins with another form
            _put(load_file(run / ANSWER), own)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:200]
        raise CheckpointError(
            f"The weights of {run.name} cannot be used: {reason}", hint=[Command("train"), "makes a new run"]
        ) from error
    model.mode = manifest["mode"]


def check_encoders(manifest: Mapping[str, Any], matrices: Mapping[str, Matrix], run: str = "this run") -> None:
    """Refuse vectors that are not of the encoders a run was trained on.

    Raises
    ------
    CheckpointError
        Naming the encoder, and the command that makes its vectors.
    """
    for encoder in manifest["encoders"]:
        name, made = encoder["name"], f"{encoder['spec']} ({encoder['fingerprint'][:8]})"
        hint: list[str | Command] = [
            Command("encode", "--modality", encoder["modality"], "--encoder", encoder["spec"]),
            "or train again",
        ]
        if name not in matrices:
            raise CheckpointError(f"{run} needs {name} vectors of {made}, and there are none.", hint=hint)
        given = matrices[name]
        same = (given.fingerprint, given.vectors.shape[1]) == (encoder["fingerprint"], encoder["dim"])
        if not same or _content(given.modality, given.spec) != _content(encoder["modality"], encoder["spec"]):
            raise CheckpointError(
                f"{run} was trained on {name} vectors of {made}, but these are of {given.spec} ({given.fingerprint[:8]}).",
                hint=hint,
            )


def _content(modality: str, spec: str) -> Any:
    """What vectors are of beside the encoder's weights: which graph, or which columns of the items table.

    Both graphs have encoders of the same code and often of the same width. A model folder may have moved, so other
    specs are compared by the fingerprint of their weights alone.
    """
    return spec if modality == "graph" else EncoderSpec.parse(spec).columns


def check_questions(manifest: Mapping[str, Any], questions: Questions, run: str = "this run") -> None:
    """Refuse validation questions that carry the name, but not the content, of those a run was selected on.

    Raises
    ------
    CheckpointError
        With both hashes.
    """
    for known in manifest["questions"].values():
        if known["name"] == questions.name and known["sha256"] != questions.sha256:
            raise CheckpointError(
                f"{run} was selected on the questions {questions.name} ({known['sha256'][:8]}), but this file of "
                f"that name holds others ({questions.sha256[:8]}).",
                hint="bring back that file, or train again",
            )


def _manifest(model: BundleMLLM, valid: Questions, stages: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    recipe, base, embeddings = model.recipe, model.base, model.embeddings
    fused = [stage for stage in stages if stage["name"] != "text"]
    encoders = []
    if embeddings is not None and fused:
        for name, matrix in zip(embeddings.names, embeddings.matrices, strict=True):
            about = {key: getattr(matrix, key) for key in ("modality", "spec", "fingerprint", "table", "version")}
            encoders.append({"name": name, **about, "dim": int(matrix.vectors.shape[1])})
    return {
        "format_version": FORMAT_VERSION,
        "recipe_name": recipe.name,
        "recipe": recipe.to_dict(),
        "base": base_entry(base),
        "mode": model.mode,
        "answer": model.answer.name,
        "encoders": encoders,
        "questions": {"valid": {"name": valid.name, "sha256": valid.sha256}},
        "stages": [dict(stage) for stage in stages],
        "seed": seed,
        "encoder_calls": 0,  # nothing in this package can call an encoder: it reads stored vectors
        "versions": versions(),
    }


def _write(model: BundleMLLM, folder: Path, manifest: dict[str, Any]) -> None:
    """Write the files of a checkpoint, and the SHA-256 of its weights into the manifest."""
    from safetensors.torch import save_file

    save_adapter(model.llm, model.recipe.base.model, folder)
    if manifest["encoders"] and model.tokens is not None:
        save_file(contiguous(model.tokens.state_dict()), folder / TOKENS, metadata={"format": "pt"})
    if own := model.own_state():
        save_file(contiguous(own), folder / ANSWER, metadata={"format": "pt"})
    share(folder)
    written = [name for name in (ADAPTER, TOKENS, ANSWER) if (folder / name).is_file()]
    manifest["weights"] = {name: sha256(folder / name) for name in written}
    (folder / "recipe.toml").write_text(model.recipe.to_toml(), "utf-8")
    (folder / "README.md").write_text(model_card.text(model.recipe, manifest), "utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def _put(saved: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Copy ``saved`` tensors into those of the model, which must have the same names and shapes."""
    if odd := sorted(saved.keys() ^ own.keys()):
        raise RuntimeError(f"{ANSWER} and the model do not both have {odd[0]}")
    with torch.no_grad():
        for name, value in own.items():
            if saved[name].shape != value.shape:
                raise RuntimeError(f"{name} has another shape")
            value.copy_(saved[name])
