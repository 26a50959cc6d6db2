"""Train runs of a workspace, or make one of a checkpoint that other code trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command
from ..rows import Result
from .graph_check import warn_of_other_edges
from .run import Run
from .session import IS_FOLLOWER, require_one_process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..recipes.unimp_recipe import UnimpRecipe
    from ..train.unimp.training import UnimpTrainResult
    from .session import Session


@dataclass(frozen=True, repr=False)
class ImportedCheckpoint(Result):
    """The run that was made, what it fuses, and the weights that were of no use."""

    run: Run
    adapter: str
    fuses: list[str]
    base: str
    ignored: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": self.run.name,
            "adapter": self.adapter,
            "fuses": self.fuses,
            "base": self.base,
            "ignored": self.ignored,
        }


def train(
    session: Session,
    recipe: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | Sequence[str] = (),
    stage: str = "all",
    start: str | None = None,
    name: str | None = None,
    validation: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    resume: str | None = None,
) -> Run:
    """Train a model on the cached vectors: Bundle-MLLM, which completes bundles, or UniMP, which predicts what users do.

    Parameters
    ----------
    recipe
        Name of a shipped recipe ("evidence" if left out) or a TOML file; its key ``model`` says which model is trained.
    settings
        Overrides, ``{"lora.rank": 16}`` or ``["lora.rank=16"]``.
    stage, start
        A stage of the recipe ("text", "fusion", "joint"; of UniMP "multitask", "head"), or "all": the recipe's strategy; a
        run whose weights training goes on from.
    name, seed, max_minutes
        Of the new run; the recipe's ``run.seed`` if left out; stop and save after so many minutes.
    validation
        The bundle questions on which the best weights are chosen; the random validation questions if left out.
    resume
        Go on with the training of this name, which was stopped or killed.

    Raises
    ------
    BundlecacheError
        When recipe, base model, vectors and questions do not fit together.
    """
    from ..recipes.unimp_recipe import UnimpRecipe
    from ..train import run as stage_b
    from ..train.shipped_recipes import DEFAULT_RECIPE, load_any_recipe
    from ..train.training.resume import Snapshot

    overrides = overrides_of(settings)
    snapshot = None
    if resume:
        if recipe or overrides or start or name or validation or seed is not None or stage != "all":
            raise BundlecacheError(
                "A training goes on with its own recipe, stages, seed and questions.",
                hint=Command("train", "--resume", resume),
            )
        snapshot = Snapshot.read(session.folder.runs / resume)
    stage_b.check_new_name(session.folder, name)
    resolved = snapshot.recipe if snapshot else load_any_recipe(recipe or DEFAULT_RECIPE, overrides)
    how: dict[str, Any] = {
        "name": resume or name,
        "seed": seed,
        "device": device,
        "stage": stage,
        "max_minutes": max_minutes,
        "snapshot": snapshot,
        "writes": not IS_FOLLOWER,
    }
    if isinstance(resolved, UnimpRecipe):
        result = _train_unimp(session, resolved, validation, start, how)
        return Run(session, result.run.name, result)
    matrices, wanted = session.training_matrices(resolved), resolved.fusion.modalities
    fused = [matrix for name, matrix in matrices.items() if not wanted or name in wanted or matrix.modality in wanted]
    if stage != "text":  # that stage reads no vectors
        until = "validation figures of this training are too high until they are learned again"
        warn_of_other_edges(session, fused, until)
    made = stage_b.train(
        session.folder,
        session.catalogue,
        session.store,
        matrices,
        session.validation_set(snapshot.job["validation questions"][0] if snapshot else validation),
        resolved,
        session.say,
        start=session.folder.run(start) if start else None,
        **how,
    )
    return Run(session, made.run.name, made)


def _train_unimp(
    session: Session, recipe: UnimpRecipe, validation: str | None, start: str | None, how: Mapping[str, Any]
) -> UnimpTrainResult:
    """Train UniMP; the demo's own picture features are made where there are none, and said."""
    from ..train import run as stage_b
    from ..train.unimp import run as unimp

    if validation is not None:
        raise BundlecacheError(
            "UniMP chooses its weights on the questions of its own tasks, so no set of bundle questions is named.",
            hint="--set data.split=time chooses other task questions",
        )
    stage_b.describe(recipe, session.say)
    embedded = "descriptor-tokens:picture"
    stored = {info.spec for info in session.store.tables() if info.rows}
    if recipe.vision.encoder == embedded and embedded not in stored and session.catalogue.has_source("image").any():
        require_one_process("encode")
        session.say.note(
            "No picture features yet, so the embedded encoder makes them",
            Command("encode", "--modality", "image", "--encoder", embedded),
        )
        session.run_encoders("image", [embedded])
    return unimp.train(
        session.folder,
        session.catalogue,
        session.store,
        recipe,
        session.say,
        start=session.folder.run(start, "unimp") if start else None,
        **how,
    )


def import_checkpoint(
    session: Session,
    source: Path | str,
    *,
    encoders: Sequence[str],
    base: str,
    settings: Sequence[str] = (),
    name: str = "imported",
    validation: str | None = None,
    device: str = "auto",
) -> ImportedCheckpoint:
    """Make a run of a checkpoint of Bundle-MLLM's public code.

    ``encoders`` are the stored vectors it was trained on: content, bundle graph, user graph.

    Raises
    ------
    BundlecacheError
        When files are missing or damaged, or do not fit the base model and the vectors.
    """
    from ..candidates.item_vectors import by_name
    from ..train import bundle_mllm_import as importing
    from ..train import run as stage_b
    from ..train.shipped_recipes import load_recipe

    stage_b.check_new_name(session.folder, name)
    matrices = by_name(session.matrices_of(encoders))
    if len(matrices) != 3:
        raise BundlecacheError(
            f"That code fuses three vectors of an item, but {len(matrices)} were named.",
            hint="--encoder CONTENT --encoder BUNDLE-GRAPH --encoder USER-GRAPH",
        )
    valid = session.validation_set(validation)
    given = [*importing.overrides(Path(source)), f"base.model={base}", *settings]
    resolved = load_recipe("public-code", given)
    with session.say.bar("import"):
        ignored = importing.make_run(
            Path(source),
            session.catalogue,
            matrices,
            valid,
            resolved,
            session.folder.runs / name,
            device,
            session.folder.tokens,
        )
    if ignored:
        session.say.note(f"of no use to this recipe: {', '.join(ignored)}")
    return ImportedCheckpoint(Run(session, name), f"rank {resolved.lora.rank}", list(matrices), base, list(ignored))


def overrides_of(settings: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """``{"lora.rank": 16}`` as ``["lora.rank=16"]``; JSON's words for plain values are TOML's too."""
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return list(settings)
