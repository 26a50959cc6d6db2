"""Snapshots from which an interrupted training is resumed: one safetensors file, written atomically.

It holds the trained weights, the best weights so far and the optimiser's moments as tensors; its header holds, as JSON,
the finished stages, the step, the best figures and the number of lines of the log. No state of a random generator is
needed, because everything random at a step follows from the seed and the number of the step. A checksum over all of it
tells a damaged file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bundlecache.column_digest import add_texts
from bundlecache.errors import CheckpointError, Command
from bundlecache.files import replacing
from bundlecache.recipes.any_recipe import AnyRecipe, from_dict
from bundlecache.recipes.recipe_tables import BUNDLE_MLLM, MODEL_KEY

if TYPE_CHECKING:
    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.questions.question_file import Questions
    from bundlecache.store.store import Matrix

    from ..model.bundle_mllm import BundleMLLM

FILE = "resume.safetensors"
FORMAT_VERSION = 1
COLUMNS = "columns:"
"""In front of a digest of the catalogue's columns; earlier snapshots hold one of its rows, without it."""
BLOCK_ROWS = 65_536  # of a matrix that are hashed at once
WEIGHTS = "model."  # in front of the names of trained weights
AGAIN = "train anew under another name: bundlecache train --name another"


@dataclass(frozen=True)
class Snapshot:
    """The state of a training. ``stage`` is empty at the beginning of a stage."""

    job: dict[str, Any]  # the inputs of the training, see `job`
    stages: list[dict[str, Any]]  # rows of finished stages
    place: int  # the current stage, an index into the strategy
    history: int  # lines of history.jsonl
    stage: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def save(self, run: Path) -> None:
        """Write it into the folder ``run``, in the place of an earlier one.

        Raises
        ------
        BundlecacheError
            When the folder cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        header = {"job": self.job, "stages": self.stages, "place": self.place, "history": self.history}
        header |= {"stage": self.stage, "format_version": FORMAT_VERSION}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        with replacing(run / FILE) as temporary:
            try:
                text = json.dumps(header)
                save_file(tensors, temporary, metadata={"bundlecache": text, "crc32": _checksum(text, tensors)})
            except SafetensorError as error:
                raise CheckpointError(
                    f"{run} cannot be written: {error}.", hint="free some space or choose another --data"
                ) from error

    @classmethod
    def read(cls, run: Path) -> Snapshot:
        """The snapshot in the folder ``run``.

        Raises
        ------
        CheckpointError
            When there is none, or it is damaged or of a later version.
        """
        from safetensors import SafetensorError, safe_open

        path = run / FILE
        if not path.is_file():
            if (run / "manifest.json").is_file():
                raise CheckpointError(f"The run {run.name} is finished.", hint=Command("evaluate", "--run", run.name))
            raise CheckpointError(
                f"There is no training called {run.name!r} to go on with.", hint=Command("train", "--name", run.name)
            )
        try:
            with safe_open(path, "pt") as file:
                made = file.metadata()
                header = json.loads(made["bundlecache"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if (
                made.get("crc32", (now := _checksum(made["bundlecache"], tensors))) != now
            ):  # earlier versions wrote none
                raise ValueError("its checksum is another one")
            version = header.pop("format_version")
            if version == FORMAT_VERSION:
                return cls(**header, tensors=tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged.", hint=AGAIN) from error
        raise CheckpointError(f"{path} has the format {version}; this bundlecache reads {FORMAT_VERSION}.", hint=AGAIN)

    @property
    def model(self) -> str:
        """The model that is being trained, as its recipe calls it."""
        return str(self.job.get(MODEL_KEY, BUNDLE_MLLM))

    @property
    def recipe(self) -> AnyRecipe:
        """The recipe that is being trained. Before there was a setting for it, all validation questions were asked."""
        tables = self.job["recipe"]
        run = {"validation_questions": 0, **tables.get("run", {})}
        return from_dict({**tables, MODEL_KEY: self.model, "run": run}, name=self.job["recipe name"], source=FILE)

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Copy the trained weights into ``model``, which was built from the same inputs.

        Raises
        ------
        CheckpointError
            When a weight is missing or has another shape.
        """
        for name, parameter in trained(model).items():
            saved = self.tensors.get(WEIGHTS + name)
            if saved is None or saved.shape != parameter.shape:
                raise CheckpointError(f"{FILE} is damaged: it holds no weight {name} of this model.", hint=AGAIN)
            parameter.copy_(saved)

    def check(self, job: Mapping[str, Any], catalogue: Catalogue) -> None:
        """Refuse to resume with other inputs than those the training began with.

        ``catalogue`` is that of ``job``; snapshots of earlier versions hold another digest of it.

        Raises
        ------
        CheckpointError
            Naming the input that differs.
        """
        # A setting that is newer than the snapshot had its default.
        recipe = json.loads(json.dumps(self.recipe.to_dict()))
        if not str(self.job["catalogue"]).startswith(COLUMNS):
            job = {**job, "catalogue": _digest_rows(catalogue)}
        for key, was in {**self.job, "recipe": recipe}.items():
            if job[key] != was:
                raise CheckpointError(
                    f"The {key} {'are' if key.endswith('s') else 'is'} not what this training began with, so going on would not be the same training.",
                    hint=f"bring the former {key} back, or {AGAIN}",
                )


def job(
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix],
    valid: Questions,
    model: BundleMLLM,
    seed: int,
    strategy: list[str],
) -> dict[str, Any]:
    """The inputs that determine a training's result; a resumed training must have the same."""
    return {
        "recipe name": model.recipe.name,
        "recipe": json.loads(json.dumps(model.recipe.to_dict())),
        "seed": seed,
        "strategy": strategy,
        "base model": model.base.fingerprint,
        "validation questions": [valid.name, valid.sha256],
        "catalogue": digest_catalogue(catalogue),
        "vectors": {name: digest_matrix(matrix) for name, matrix in matrices.items()},
    }


def forget(run: Path) -> None:
    """Delete the snapshot of a finished training, and temporary files that a kill left behind."""
    (run / FILE).unlink(missing_ok=True)
    for half in (*run.glob(".*.tmp"), *run.glob(".part-*")):
        shutil.rmtree(half) if half.is_dir() else half.unlink()


def trained(model: Any) -> dict[str, nn.Parameter]:
    """The parameters that any stage may train, by name: all but those of the base model, ``model.llm``."""
    base = {id(p) for name, p in model.llm.named_parameters() if "lora_" not in name}
    return {name: p for name, p in model.named_parameters() if id(p) not in base}


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of the header and of the names and bytes of all tensors."""
    total = zlib.crc32(header.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def digest_catalogue(catalogue: Catalogue) -> str:
    """Of all columns, without a Python object for each cell."""
    digest = hashlib.blake2b(digest_size=16)
    of, edges = catalogue.bundles, catalogue.interactions
    names = list(catalogue.columns)
    digest.update(json.dumps([len(catalogue), len(of), len(edges), names]).encode())
    texts = (catalogue.item_ids, catalogue.titles, *catalogue.columns.values())
    for column in (*texts, of.ids, of.split, of.group, of.name, edges.users, edges.group):
        add_texts(digest, column.arrow)
    for numbers in (of.items.offsets, of.items.values, edges.user, edges.item):
        digest.update(np.ascontiguousarray(numbers).tobytes())
    return f"{COLUMNS}{digest.hexdigest()}"


def _digest_rows(catalogue: Catalogue) -> str:
    """As snapshots of earlier versions hold it."""
    digest = hashlib.blake2b(digest_size=16)
    of, edges = catalogue.bundles, catalogue.interactions
    bundles = {name: [*getattr(of, name)] for name in ("ids", "items", "split", "group", "name")}
    bundles["items"] = [items.tolist() for items in of.items]
    columns = {name: [*cells] for name, cells in catalogue.columns.items()}
    for part in ([*catalogue.item_ids], [*catalogue.titles], columns, bundles, [*edges.users], [*edges.group]):
        digest.update(json.dumps(part).encode())
    digest.update(edges.user.tobytes() + edges.item.tobytes())
    return digest.hexdigest()


def digest_matrix(matrix: Matrix) -> list[str]:
    """Encoder, fingerprint and a hash of the vectors, which may be token features."""
    digest = hashlib.blake2b(digest_size=16)
    for k in range(0, len(matrix.vectors), BLOCK_ROWS):
        digest.update(np.ascontiguousarray(matrix.vectors[k : k + BLOCK_ROWS]).tobytes())
    digest.update(np.ascontiguousarray(matrix.mask).tobytes())
    return [matrix.spec, matrix.fingerprint, digest.hexdigest()]
