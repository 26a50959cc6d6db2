"""What was made from other vectors, bundles or splits than those of today, and the command that makes it anew.

Only headers, manifests and ids are read, so that ``status`` stays quick; what costs more is kept beside the cached catalogue.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BundlecacheError, Command, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..store.store import TableInfo
    from .session import Session


@dataclass(frozen=True)
class Stale:
    """One thing that does not fit any more: ``what`` it is, ``why``, and the ``command`` to type."""

    what: str
    why: str
    command: Command

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the command as a list of words, without the workspace."""
        return {"what": self.what, "why": self.why, "command": [self.command.verb, *self.command.arguments]}


def stale(session: Session) -> list[Stale]:
    """Question sets, candidate sets and runs that do not fit the vectors and bundles of today."""
    infos = session.store.tables()
    return [*_question_sets(session), *_candidate_sets(session, infos), *_runs(session, infos)]


def _question_sets(session: Session) -> Iterator[Stale]:
    from ..questions import question_sets

    newest = {}  # of NAME, NAME-v2, ...: the questions that still fitted are a set of their own
    for name in sorted(question_sets.names(session.folder), key=lambda name: (len(name), name)):
        newest[question_sets.VERSION.sub("", name)] = name
    for name in newest.values():
        try:
            gone, of, header = question_sets.misplaced(session.folder, session.catalogue, name)
        except BundlecacheError:  # of a damaged file, which every command that reads it says
            continue
        if gone:
            why = f"{gone:,} of its {of:,} questions are about bundles that are gone or of another split now"
            again = Command("questions", "--seed", header["seed"] + 1)
            if gone < of:
                why += "; the next command that asks it makes a set of the others"
                again = Command("train") if header["split"] == "valid" else Command("bench", "--questions", name)
            yield Stale(f"questions {name}", why, again)


def _candidate_sets(session: Session, infos: Sequence[TableInfo]) -> Iterator[Stale]:
    from ..candidates import candidate_file
    from ..candidates.item_vectors import version_of
    from ..store.coverage import current_tables

    now = {info.table: version_of(info) for info in infos}
    current = {modality: chosen[0].spec for modality, chosen in current_tables(infos).items()}
    for path in sorted(session.folder.candidates.glob("*.parquet")):
        header = candidate_file.header(path)
        others = [
            made["spec"]
            for name, made in header.get("vectors", {}).items()
            if not name.startswith("fused-") and now.get(made["table"]) != made
        ]
        if others:
            why = f"the vectors of {' and '.join(others)} have changed"
            yield Stale(f"candidates {path.stem}", why, Command("candidates", *_options(header, current)))


def _options(header: Mapping[str, Any], current: Mapping[str, str]) -> list[str]:
    """What was typed for a candidate set, as far as it is not the default; ``current`` are the encoders of the modalities."""
    specs = {name: made["spec"] for name, made in header["vectors"].items()}
    by_modality = all(current.get(name) == spec for name, spec in specs.items())
    words = ["--k", str(header["k"])]
    words += [
        word for name, spec in specs.items() for word in (("--modality", name) if by_modality else ("--encoder", spec))
    ]
    if header.get("split", "test") != "test":
        words += ["--split", header["split"]]
    for condition in header.get("where", []):
        words += ["--where", condition]
    for name, weight in (header.get("weights") or {}).items():
        words += [] if weight == 1 else ["--weight", f"{name}={weight:g}"]
    if header.get("metric", "cosine") != "cosine":
        words += ["--metric", header["metric"].replace(" ", "-")]
    return words


def _runs(session: Session, infos: Sequence[TableInfo]) -> Iterator[Stale]:
    from ..workspace import read_manifest

    for name in sorted(session.folder.run_names(None)):
        try:
            manifest = read_manifest(session.folder.runs / name)
        except BundlecacheError:
            continue
        train = Command("train", *(("--recipe", "unimp") if manifest.get("kind") == "unimp" else ()))
        for encoder in manifest.get("encoders", []):
            if (found := _of_other_vectors(session, name, encoder, infos, train)) is not None:
                yield found
        if count := _seen(session, name, manifest):
            why = f"it has seen {counted(count, 'bundle')} of today's validation and test"
            yield Stale(f"run {name}", why, train)


def _of_other_vectors(
    session: Session,
    run: str,
    encoder: Mapping[str, Any],
    infos: Sequence[TableInfo],
    train: Command,
) -> Stale | None:
    """Whether the vectors that a run reads by one encoder are gone, or others than when it was trained."""
    from ..store import maintenance

    modality, spec = encoder["modality"], encoder["spec"]
    stored = [info for info in infos if (info.modality, info.spec) == (modality, spec) and info.rows]
    info = next((info for info in stored if info.table == encoder["table"]), stored[0] if stored else None)
    if info is None or info.fingerprint != encoder["fingerprint"]:
        why = f"the {modality} vectors of {spec} that it reads {'have changed' if info else 'are not stored any more'}"
        again = train if info else Command("encode", "--modality", modality, "--encoder", spec)
        return Stale(f"run {run}", why, again)
    if info.table != encoder["table"]:  # the same weights, stored in another way: versions cannot be compared
        return None
    version = int(encoder["version"])
    cause = ("moved", info.table, version, info.version, info.updated)
    moved = _kept(session, cause, lambda: maintenance.changed_items(session.store, info, version))
    if not moved:
        return None
    why = f"{moved:,} of its {modality} vectors have changed since it was trained"
    is_current = info is next(other for other in infos if other.modality == modality and other.rows)
    return Stale(f"run {run}", why, Command("drift", "--modality", modality, "--from", run) if is_current else train)


def _kept(session: Session, cause: tuple[object, ...], count: Callable[[], int | None]) -> int | None:
    """``count()``, kept beside the cached catalogue for ``cause``, all that it depends on; None, not known, is not kept."""
    from ..catalogue import cache

    folder, key = session.catalogue.cached_in, hashlib.sha256(repr(cause).encode()).hexdigest()[:16]
    file = folder / f"stale-{key}.npy" if folder else None
    if (known := cache.read_array(file)) is not None:
        return int(known)
    found = count()
    if found is not None:
        cache.write_array(file, np.array(found))
    return found


def _seen(session: Session, run: str, manifest: Mapping[str, Any]) -> int:
    """How many of today's held-out bundles a run has seen; 0 where that was not recorded."""
    record = manifest.get("seen")
    if not isinstance(record, dict):
        return 0
    graph = any(encoder["modality"] == "graph" for encoder in manifest.get("encoders", []))
    cause = ("seen", record.get("sha256"), session.catalogue.kept_splits.file_sha256, graph)
    return _kept(session, cause, lambda: _count_seen(session.catalogue, session.folder.runs / run, graph)) or 0


def _count_seen(catalogue: Catalogue, run: Path, graph: bool) -> int:
    from ..catalogue import splits
    from ..catalogue.seen_bundles import SeenBundles, bundle_keys

    seen = SeenBundles.load(run)
    if seen is None:
        return 0
    split = splits.assign(catalogue)
    uses = {"valid": [seen.trained], "test": [seen.trained, seen.selected]}
    if graph:
        uses = {part: [*keys, seen.graph] for part, keys in uses.items()}
    count = 0
    for part, keys in uses.items():
        asked = bundle_keys(catalogue, np.flatnonzero(split == part))
        count += int(np.any([each.match(asked) for each in keys], axis=0).sum())
    return count
