"""Train and load runs of UniMP in a workspace: its questions, its stored features, and what is said meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bundlecache.catalogue.histories import Histories
from bundlecache.errors import CatalogueError, Command, StoreError
from bundlecache.questions import task_file, task_split, tasks
from bundlecache.store import maintenance

from . import checkpoint, training

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.console.reporter import Reporter
    from bundlecache.questions.task_file import TaskName, TaskQuestions
    from bundlecache.recipes.unimp_recipe import UnimpRecipe
    from bundlecache.store.store import Matrix, Store
    from bundlecache.workspace import WorkspaceFolder

    from ..training.resume import Snapshot
    from .model import UniMP
    from .prompts import Prompts
    from .training import UnimpTrainResult


@dataclass(frozen=True)
class LoadedUnimp:
    """A trained model, ready to answer, with its prompts, its recipe and the picture features that it reads."""

    folder: Path
    model: UniMP
    prompts: Prompts
    recipe: UnimpRecipe
    pictures: Matrix | None
    drawn: Matrix | None = None  # picture codes, where it was trained to draw

    @property
    def training_seconds(self) -> float:
        """What its stages took."""
        return float(sum(stage["seconds"] for stage in checkpoint.read_manifest(self.folder)["stages"]))


def load(
    folder: WorkspaceFolder, run: Path, catalogue: Catalogue, store: Store, device: str, say: Reporter
) -> LoadedUnimp:
    """The model of a finished run with the features that it was trained on; features that changed since are noted.

    Raises
    ------
    BundlecacheError
        When the run is damaged or of another model, or its encoder's features are not stored any more.
    """
    manifest = checkpoint.read_manifest(run)
    pictures = None
    for made in manifest["encoders"]:
        pictures = store.matrix(catalogue.item_ids, made["modality"], made["spec"], made["table"])
        info = store.current(made["modality"], made["spec"], made["table"])
        if others := maintenance.changed_items(store, info, made["version"]):
            say.note(f"note: {others:,} picture features are others than when {run.name} was trained")
    recipe = manifest["recipe"]["items"]
    content = content_vectors(catalogue, store, recipe["vectors"]) if recipe["ids"] == "semantic" else []
    drawn = None
    if (made := manifest.get("codes")) is not None:
        drawn = store.matrix(catalogue.item_ids, "image", made["spec"], made["table"])
    with say.bar("load") as bar:
        parts = checkpoint.load(run, catalogue, pictures, content, device, folder.tokens, bar.step, drawn=drawn)
    return LoadedUnimp(run, parts.model, parts.prompts, parts.model.recipe, pictures, drawn)


def train(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    store: Store,
    recipe: UnimpRecipe,
    say: Reporter,
    *,
    name: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    stage: str = "all",
    start: Path | None = None,
    max_minutes: float | None = None,
    snapshot: Snapshot | None = None,
    writes: bool = True,
) -> UnimpTrainResult:
    """Train by ``recipe`` into ``runs/name``; the store keeps the features' versions for the run.

    ``snapshot`` is where an earlier training of that name stood. ``writes`` is False in all but one of several processes.

    Raises
    ------
    BundlecacheError
        When interactions, recipe, base model, features and questions do not fit together.
    """
    data = training_data(folder, catalogue, store, recipe, say, freeze=writes)
    seed = recipe.run.seed if seed is None else seed
    run = folder.runs / (name or f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}-seed{seed}")
    if writes and data.matrices:
        maintenance.tag(store, run.name, data.matrices)
    with say.bar("train") as bar:
        result = training.train(
            data,
            recipe,
            run,
            seed=snapshot.job["seed"] if snapshot else seed,
            device=device,
            stage=stage,
            init=start,
            max_minutes=max_minutes,
            token_cache=folder.tokens,
            progress=bar.training,
            tokenising=bar.named("texts"),
            snapshot=snapshot,
        )
    if result.stopped:
        say.warn(
            f"Stopped early by {result.stopped};",
            f"what was learned is saved in {run.name}, and this command goes on",
            Command("train", "--resume", run.name),
        )
    return result


def training_data(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    store: Store,
    recipe: UnimpRecipe,
    say: Reporter,
    *,
    freeze: bool = True,
) -> training.TrainingData:
    """What a training reads of a workspace; questions that are missing are frozen first, and said.

    Raises
    ------
    BundlecacheError
        When there are no interactions, they lack what a task needs, or the store has no features of the recipe's encoder.
    """
    notes: list[str] = []
    histories = Histories.read(folder, catalogue, notes)
    for note in dict.fromkeys(notes):
        say.note(f"note: {note}")
    _check(histories, recipe)
    asked = questions(folder, catalogue, recipe, say, freeze=freeze)
    recommend = task_file.load(tasks.path_of(folder, _name("recommend", recipe)), catalogue)
    core = tasks.prepared_as(histories, recommend.header)
    seen = core.take(task_split.training_rows(core, recommend))
    if not len(seen):
        raise CatalogueError(
            f"The split {recipe.data.split} leaves training no interaction at all.",
            hint="--set data.split=leave_last_out --set data.k_core=0",
        )
    content = content_vectors(catalogue, store, recipe.items.vectors) if recipe.items.ids == "semantic" else []
    valid = {task: each.part(test=False) for task, each in asked.items()}
    if "select" in asked:  # the second right item of its test questions is often what validation asks for
        chosen = asked["select"].part(test=True)
        valid = {task: tasks.apart_from(each, chosen) for task, each in valid.items()}
    pictures, drawn = picture_features(catalogue, store, recipe, say), None
    if "draw" in valid:
        drawn = picture_codes(catalogue, store, recipe)
        valid["draw"] = valid["draw"].take(np.flatnonzero(drawn.mask[valid["draw"].target]))
    return training.TrainingData(catalogue, seen, valid, pictures, content, drawn)


def _check(histories: Histories, recipe: UnimpRecipe) -> None:
    """Refuse interactions that the recipe's split or k-core leaves nothing of, before questions are frozen."""
    data = recipe.data
    if not histories.timed and data.split != "random":
        raise CatalogueError(
            f"The interactions have no timestamp, so the split {data.split} does not know what came last.",
            hint=[
                "add a column timestamp, or hold out by lot:",
                Command("train", "--recipe", recipe.name, "--set", "data.split=random"),
            ],
        )
    if not len(tasks.prepared(histories, data.split, data.k_core, data.questions_seed, data.min_rating or None)):
        raise CatalogueError(
            f"Of {len(histories):,} interactions none is left where users and items have at least {data.k_core} each.",
            hint=[Command("train", "--recipe", recipe.name, "--set", "data.k_core=0"), "keeps all of them"],
        )


def questions(
    folder: WorkspaceFolder, catalogue: Catalogue, recipe: UnimpRecipe, say: Reporter, *, freeze: bool = True
) -> dict[str, TaskQuestions]:
    """The frozen questions of the recipe's tasks, by task; ``draw`` asks those of ``search``.

    Raises
    ------
    BundlecacheError
        When a task lacks what it needs, naming the tasks that can be trained.
    """
    made: dict[str, TaskQuestions] = {}
    data = recipe.data
    for task in data.tasks:
        asks: TaskName = "search" if task == "draw" else task
        path = tasks.path_of(folder, _name(asks, recipe))
        if freeze and not path.with_suffix(".json").is_file():
            say.note(f"No questions of the task {asks} yet: freezing them now", Command("questions", "--task", asks))
            try:
                tasks.freeze_missing(
                    folder,
                    catalogue,
                    [asks],
                    data.split,
                    data.k_core,
                    data.questions_seed,
                    min_rating=data.min_rating or None,
                )
            except CatalogueError as error:
                if not made:
                    raise
                others = ",".join(each for each in data.tasks if each in made)
                raise CatalogueError(
                    f"{task} cannot be trained: {error.message}",
                    hint=["leave it out:", Command("train", "--recipe", recipe.name, "--set", f"data.tasks={others}")],
                ) from error
        made[task] = replace(task_file.load(path, catalogue), task=task)
    return made


def _name(task: str, recipe: UnimpRecipe) -> str:
    data = recipe.data
    return tasks.name_of(task, data.split, data.k_core, data.questions_seed, data.min_rating or None)


def picture_features(catalogue: Catalogue, store: Store, recipe: UnimpRecipe, say: Reporter) -> Matrix | None:
    """The stored token features of the recipe's encoder; None for a recipe without pictures.

    Raises
    ------
    StoreError
        When there are none, naming the command that makes them.
    """
    spec = recipe.vision.encoder
    if not spec:
        return None
    stored = [info for info in store.tables() if info.modality == "image" and info.spec == spec and info.rows]
    blind = Command("train", "--recipe", recipe.name, "--set", "vision.encoder=")
    if not catalogue.has_source("image").any():
        raise StoreError(
            f"No item has a picture, and the recipe {recipe.name} looks at pictures.", hint=["train without:", blind]
        )
    if not stored:
        raise StoreError(
            f"The store holds no picture features of {spec}, which the recipe {recipe.name} reads.",
            hint=[
                Command("encode", "--modality", "image", "--encoder", spec),
                "makes them;",
                blind,
                "trains without pictures",
            ],
        )
    if not stored[0].tokens:
        raise StoreError(
            f"{spec} stores one vector a picture, and the model reads several tokens.",
            hint="--set vision.encoder=descriptor-tokens:picture, or hf-tokens:FOLDER",
        )
    matrix = store.matrix(catalogue.item_ids, "image", spec)
    if without := int((~matrix.mask).sum()):
        say.note(f"note: {without:,} of {len(catalogue):,} items have no picture; they are known by their words alone")
    return matrix


def picture_codes(catalogue: Catalogue, store: Store, recipe: UnimpRecipe) -> Matrix:
    """The stored picture codes that the task draw reads.

    Raises
    ------
    StoreError
        When there are none, or those of several encoders and the recipe names none.
    """
    spec = recipe.vision.codes
    stored = [info for info in store.tables() if info.modality == "image" and info.tokens and info.rows]
    found = list(dict.fromkeys(info.spec for info in stored if info.spec == spec or (not spec and info.dim == 1)))
    if len(found) == 1:
        return store.matrix(catalogue.item_ids, "image", found[0])
    if found:
        raise StoreError(
            f"The store holds picture codes of {len(found)} encoders, and the recipe {recipe.name} names none.",
            hint=f"--set vision.codes={found[0]}",
        )
    others = ",".join(task for task in recipe.data.tasks if task != "draw")
    raise StoreError(
        f"The store holds no picture codes{f' of {spec}' if spec else ''}, of which the task draw makes pictures.",
        hint=[
            Command("encode", "--modality", "image", "--encoder", spec or "vqgan:FOLDER"),
            "makes them;",
            Command("train", "--recipe", recipe.name, "--set", f"data.tasks={others or 'recommend,search'}"),
            "does without",
        ],
    )


def content_vectors(catalogue: Catalogue, store: Store, specs: Sequence[str]) -> list[Matrix]:
    """The vectors that semantic ids are made of: those of the encoders named, or one of each modality but the graph.

    Raises
    ------
    StoreError
        When there are none.
    """
    named = {info.spec: info.modality for info in store.tables() if info.rows and not info.tokens}
    wanted = list(specs)
    if not wanted:
        modalities = [name for name in store.modalities() if name != "graph"]
        if not modalities:
            raise StoreError(
                "Semantic ids are made of stored vectors, and there are none.",
                hint=[Command("encode"), "or --set items.ids=atomic"],
            )
        return [store.matrix(catalogue.item_ids, name) for name in modalities]
    if missing := [spec for spec in wanted if spec not in named]:
        raise StoreError(
            f"The store holds no vectors of {missing[0]}, of which semantic ids were to be made.",
            hint=Command("encode", "--modality", "MODALITY", "--encoder", missing[0]),
        )
    return [store.matrix(catalogue.item_ids, named[spec], spec) for spec in wanted]
