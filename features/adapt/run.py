"""Adapts an encoder to the catalogue of a workspace: from a recipe to a folder with an encoder, its figures and a verdict."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import BundlecacheError, Command, counted
from bundlecache.files import make_folder, write_text
from bundlecache.report.adapt_page import BeforeAndAfter, write_page
from bundlecache.rows import Result
from bundlecache.training_log import Stop, TrainingLog

from ..devices import resolve_device
from . import save_towers, snapshot
from .build import MODALITIES, build_pair, check_towers, sources_of
from .folder import MANIFEST, RESULT, SideOfAdapted, base_spec, clear, write_manifest, write_projections
from .loop import Adaptation, Epoch, shown
from .pairs import make_pairs
from .retrieval import Retrieval, gain, measure
from .sampling import nearest_pictures
from .sides import TowerSide
from .verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.console.reporter import Reporter
    from bundlecache.recipes.adapt_recipe import AdaptRecipe
    from bundlecache.store.store import Matrix
    from bundlecache.workspace import WorkspaceFolder

    from .build import Sources
    from .other_pairs import OtherPairs
    from .pair import Pair
    from .pairs import Pairs

REPORT = "report.html"
MAPPED = 600  # pictures on the map
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, repr=False)
class AdaptResult(Result):
    """What came of an adaptation. ``encoder`` is None where nothing beats zero-shot; ``stopped`` says why it ended early."""

    name: str
    encoder: str | None
    epochs: list[Epoch]
    kept: int  # epoch; 0 is zero-shot
    before: Retrieval
    after: Retrieval
    gain: tuple[float, float, float]  # of the MRR on test pairs, and its 95 % interval
    verdict: list[str]
    path: Path
    seconds: float
    stopped: str | None
    pairs: dict[str, Any]

    def _frame(self) -> Any:
        """A row per epoch, zero-shot first."""
        return self.rows

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The epochs as rows of a table, zero-shot first."""
        return shown(self.epochs, self.epochs[self.kept])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "encoder": self.encoder,
            "verdict": self.verdict,
            "kept_epoch": self.kept,
            "test": {"zero_shot": self.before.to_dict(), "kept": self.after.to_dict(), "mrr_gain": list(self.gain)},
            "epochs": [epoch.to_dict() for epoch in self.epochs],
            "pairs": self.pairs,
            "path": str(self.path),
            "seconds": round(self.seconds, 2),
            "stopped": self.stopped,
        }


def adapt(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    recipe: AdaptRecipe,
    say: Reporter,
    matrix_of: Callable[[str, str], Matrix],
    *,
    name: str,
    similar: Callable[[Callable[[np.ndarray], np.ndarray]], dict[str, float]] | None = None,
    others: Sequence[OtherPairs] = (),
    device: str = "auto",
    max_minutes: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    writes: bool = True,
) -> AdaptResult:
    """Train, evaluate and save; see `bundlecache.project.adapting.adapt` for what users give.

    ``matrix_of`` gives the stored vectors of a modality and encoder, and makes them where there are none. ``similar``
    measures similar items after every epoch, given what encodes pictures as they are encoded now; ``others`` are catalogues
    whose pairs are measured too.

    Raises
    ------
    BundlecacheError
        When towers, pairs and recipe do not fit together, or the name is taken.
    """
    began = time.perf_counter()
    root = folder.adapted / name
    was, state, tensors = snapshot.read(root) if resume else ({}, {}, {})
    if writes:  # of several processes, another one may have made the folder by now
        check_free(root, resume=resume, overwrite=overwrite)
    check_towers(recipe)
    pairs = _pairs(folder, catalogue, recipe)
    accelerator = _accelerator(resolve_device(device))
    sources = sources_of(recipe, folder, catalogue, str(accelerator.device), matrix_of)
    for matrix in sources.matrices.values():
        pairs = pairs.without(np.flatnonzero(~matrix.mask))
    with say.bar("reading") as bar:
        pair, readable = build_pair(sources, recipe, pairs, folder, catalogue, partial(bar.step, note="pictures"))
    if skipped := len(pairs.train) + len(pairs.valid) + len(pairs.test) - _count(readable):
        say.warn(
            f"{counted(skipped, 'pair')} left out:", "their pictures cannot be read", Command("status", "--errors")
        )
    pairs = readable
    say.note(
        f"{len(pairs.train):,} pairs to train on, {len(pairs.valid):,} choose the epoch, {len(pairs.test):,} measure it; "
        f"{pairs.groups:,} different titles, held out {pairs.sha256[:12]}"
    )
    if writes and overwrite and not resume:
        clear(root)
    make_folder(root)
    job = snapshot.job_of(recipe, sources, pairs)
    if resume:
        snapshot.check(was, job, name)
    save = partial(snapshot.save, root, job) if writes else None
    lines = state.get("lines", 0)
    with (
        Stop(max_minutes or 0.0) as stop,
        TrainingLog(root, enabled=writes, keep=lines) as log,
        say.bar("adapting") as bar,
    ):
        made = Adaptation(
            pair,
            pairs,
            recipe,
            accelerator,
            log,
            stop,
            neighbours=_neighbours(recipe, pair, pairs),
            probe=_probe(similar, readable, [other.probe((pair.image, pair.text), sources.specs) for other in others]),
            save=save,
            progress=lambda done, of, note: bar.step(done, of, note=note),
        )
        old = _looked_at(made)
        if resume:
            made.restore(state, tensors)
        stopped = made.run()
        if stopped:
            made.restore_best()
        new = _looked_at(made)
    n = len(pairs.test)
    (before, each_before), (after, each_after) = (measure(image[:n], text) for image, text in (old, new))
    kept = made.best_epoch.epoch
    result = AdaptResult(
        name=name,
        encoder=f"adapted:{name}" if kept and not stopped else None,
        epochs=made.epochs,
        kept=kept,
        before=before,
        after=after,
        gain=gain(each_before, each_after),
        verdict=verdict(made, before, after, (each_before, each_after), sources.paired),
        path=root,
        seconds=time.perf_counter() - began,
        stopped=stop.reason if stopped else None,
        pairs=_pairs_row(pairs),
    )
    if writes and not stopped:
        if kept:
            save_encoder(root, sources, pair, folder, job | {"epoch": kept})
        found = BeforeAndAfter(_shown_items(pairs), n, (old[0], new[0]), (old[1], new[1]))
        write_page(root / REPORT, result.to_dict(), found, recipe.to_dict(), folder, catalogue)
        write_text(root / RESULT, json.dumps(result.to_dict(), indent=1) + "\n")
        (root / snapshot.FILE).unlink(missing_ok=True)
    return result


def check_free(root: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a name that is taken.

    Raises
    ------
    BundlecacheError
        With the commands that would go on or replace it.
    """
    if resume or overwrite or not root.is_dir() or not any(root.iterdir()):
        return
    if (root / snapshot.FILE).is_file():
        raise BundlecacheError(
            f"The adaptation {root.name!r} was stopped before its end.",
            hint=[Command("adapt", "--resume", root.name), "goes on,", "--overwrite begins anew"],
        )
    raise BundlecacheError(
        f"There is an adaptation {root.name!r} already.", hint="choose another --name, or --overwrite it"
    )


def save_encoder(root: Path, sources: Sources, pair: Pair, folder: WorkspaceFolder, cause: dict[str, Any]) -> None:
    """Write the towers and projections of the pair as it is now, and the manifest last."""
    import shutil

    learned: dict[str, dict[str, Any]] = {}
    for name in MODALITIES:
        side = getattr(pair, name)
        if isinstance(side, TowerSide):
            module = side.module if side.lora is None else side.lora.merge_and_unload()
            learned.setdefault(base_spec(sources.specs[name], name, folder.root).text, {})[name] = module
    # An adapted encoder is one spec, but its towers may be of two checkpoints.
    bases = {
        base_spec(sources.specs[name], name, folder.root).text for name in MODALITIES if learned and sources.paired
    }
    folders: dict[str, tuple[str, str]] = {}
    for spec, towers in learned.items():
        parsed = EncoderSpec.parse(spec)
        place = "model" if len(bases) == 1 else next(iter(towers))
        shutil.rmtree(root / place, ignore_errors=True)
        save_towers.save(parsed, towers, root / place)
        for name in MODALITIES if len(bases) == 1 else towers:
            folders[name] = (parsed.kind, place)
    projections = {name: side.projection for name in MODALITIES if (side := getattr(pair, name)).projection is not None}
    write_projections(root, {name: layer.weight for name, layer in projections.items()})
    sides = {
        name: SideOfAdapted(
            parent=sources.specs[name],
            parent_fingerprint=sources.fingerprint(name),
            mode=sources.modes[name],
            kind=folders.get(name, ("", ""))[0],
            folder=folders.get(name, ("", ""))[1],
            projected=name in projections,
        )
        for name in MODALITIES
    }
    write_manifest(root, sides, cause)


def _pairs(folder: WorkspaceFolder, catalogue: Catalogue, recipe: AdaptRecipe) -> Pairs:
    columns = EncoderSpec.parse(recipe.towers.text_encoder or recipe.towers.encoder).columns
    catalogue.check_text_columns(columns)
    has = catalogue.has_source("image") & catalogue.has_source("text", columns)
    return make_pairs(catalogue, has, folder.adapted, seed=recipe.training.seed, columns=columns)


def _probe(
    similar: Callable[[Callable[[np.ndarray], np.ndarray]], dict[str, float]] | None,
    pairs: Pairs,
    others: Sequence[Callable[[], dict[str, float]]],
) -> Callable[[Adaptation], dict[str, float]]:
    known = pairs.group >= 0

    def probe(made: Adaptation) -> dict[str, float]:
        found = {} if similar is None else similar(lambda items: _with_zeros(made, items, known))
        for other in others:
            found |= other()
        return found

    return probe


def _with_zeros(made: Adaptation, items: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Picture vectors [n, k] as they are now; zeros for items without a pair, whose pictures may be unreadable."""
    some = made.vectors(made.pair.image, items[known[items]])
    out = np.zeros((len(items), some.shape[1]), np.float32)
    out[known[items]] = some
    return out


def _shown_items(pairs: Pairs) -> np.ndarray:
    """The test pairs, and others for the map."""
    return np.concatenate([pairs.test, pairs.valid, pairs.train])[: max(len(pairs.test), MAPPED)]


def _looked_at(made: Adaptation) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of the shown items [n, k] and titles of the test pairs [t, k], as they are encoded now."""
    pairs = made.pairs
    return made.vectors(made.pair.image, _shown_items(pairs)), made.vectors(made.pair.text, pairs.test)


def _pairs_row(pairs: Pairs) -> dict[str, Any]:
    counts = {name: len(getattr(pairs, name)) for name in ("train", "valid", "test")}
    return {**counts, "titles": pairs.groups, "held_out_sha256": pairs.sha256}


def _count(pairs: Pairs) -> int:
    return len(pairs.train) + len(pairs.valid) + len(pairs.test)


def _neighbours(recipe: AdaptRecipe, pair: Pair, pairs: Pairs) -> np.ndarray | None:
    if not recipe.training.hard_negatives:
        return None
    pair.eval()
    with torch.no_grad():
        pieces = [
            pair.image(pair.image.inputs(pairs.train[k : k + 256])).float().cpu().numpy()
            for k in range(0, len(pairs.train), 256)
        ]
    return nearest_pictures(np.concatenate(pieces), pairs.group[pairs.train])


def _accelerator(device: str) -> Any:
    """An Accelerator for the device; under ``accelerate launch`` every process has its own."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device.startswith("cuda:") and "WORLD_SIZE" not in os.environ:
        torch.cuda.set_device(torch.device(device))
    AcceleratorState._reset_state(reset_partial_state=int(os.environ.get("WORLD_SIZE", "1")) == 1)
    return Accelerator(cpu=device == "cpu")


__all__ = ["MANIFEST", "RECIPES", "AdaptResult", "adapt"]
