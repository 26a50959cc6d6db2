"""A workspace: the folder that holds a catalogue and all that is made from it.

====================  ==========================================================
``items.*``           item_id, title, and optionally image, audio, category, ...
``bundles.*``         bundle_id, item_ids, and optionally split, group, name
``interactions.*``    user_id, item_id, and optionally timestamp, rating, group
``store/``            vectors, one Lance table per (modality, encoder)
``splits.parquet``    the split of every bundle since questions were first frozen
``questions/``        frozen multiple-choice questions
``candidates/``       FAISS candidate sets
``runs/``             trained models, their results and reports
``adapted/``          encoders adapted to the catalogue, and their reports
====================  ==========================================================

``*`` is parquet, csv or jsonl. The upper three are inputs; the others are made, and the folders among them are git-ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import CatalogueError, CheckpointError, Command, MediaError
from .files import is_regular, read_json, user_path
from .text import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = (".parquet", ".csv", ".jsonl")
TABLES = ("items", "bundles", "interactions")
RunKind = Literal["bundle", "unimp"]
RUN_KINDS: dict[RunKind, str] = {"bundle": "completes bundles", "unimp": "answers the tasks of user histories"}
LISTED = {  # what every entry of these lists of a run's manifest has
    "encoders": ("name", "modality", "spec", "fingerprint", "table", "version", "dim"),
    "stages": ("name", "steps", "seconds", "trainable_parameters"),
}
STAGE_FIGURE: dict[str | None, str] = {None: "best_valid_hit@1", "unimp": "best_valid"}
"""What a stage in a manifest says of validation, by the kind that the manifest names; those of bundles name none."""


@dataclass(frozen=True)
class WorkspaceFolder:
    """The paths of one workspace. ``allow_outside`` lets item tables name media files anywhere on disk.

    Raises
    ------
    BundlecacheError
        When the path is empty, or one that the file system cannot look up (too long, with a NUL character).
    """

    root: Path
    allow_outside: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", user_path(self.root, "The workspace"))

    @property
    def store(self) -> Path:
        """Vectors, errors and receipts."""
        return self.root / "store"

    @property
    def catalogue_cache(self) -> Path:
        """The input tables as mapped columns; made anew when it is deleted."""
        return self.root / "store" / "catalogue"

    @property
    def tokens(self) -> Path:
        """Token ids of titles, by tokenizer."""
        return self.root / "store" / "tokens"

    @property
    def bases(self) -> Path:
        """Base models that were in GGUF files, unpacked."""
        return self.root / "store" / "bases"

    @property
    def questions(self) -> Path:
        """Frozen question files."""
        return self.root / "questions"

    @property
    def kept_splits(self) -> Path:
        """The splits that bundles were given when questions were first frozen."""
        return self.root / "splits.parquet"

    @property
    def candidates(self) -> Path:
        """Candidate sets."""
        return self.root / "candidates"

    @property
    def runs(self) -> Path:
        """Trained models."""
        return self.root / "runs"

    @property
    def adapted(self) -> Path:
        """Encoders adapted to the catalogue."""
        return self.root / "adapted"

    def table(self, name: str) -> Path | None:
        """The file of an input table (``items``, ``bundles``, ``interactions``), or None when there is none.

        Raises
        ------
        CatalogueError
            When there are files of one table in two formats, so that nobody could say which one counts.
        """
        found = [path for suffix in SUFFIXES if is_regular(path := self.root / f"{name}{suffix}")]
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise CatalogueError(
                f"{self.root} holds {names}, but a table may be there in one format only.",
                hint="delete or move away the one that is out of date",
            )
        return found[0] if found else None

    def media(self, uri: str) -> Path:
        """The file that an ``image`` or ``audio`` cell names, relative to the workspace.

        Raises
        ------
        MediaError
            For web addresses, and for paths that leave the workspace while ``allow_outside`` is off: a
            catalogue is data from elsewhere and must not be able to read any file of this machine.
        """
        if "://" in uri and not uri.startswith("file://"):
            scheme = uri.split("://", 1)[0]
            raise MediaError(
                f"{quoted(scheme)[1:-1]}:// addresses are not fetched, only files of the workspace are read"
            )
        try:
            path = (self.root / uri.removeprefix("file://")).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise MediaError(f"the path {quoted(uri)} cannot be resolved") from error
        if not self.allow_outside and not path.is_relative_to(self.root.resolve()):
            raise MediaError(f"the path {quoted(uri)} leaves the workspace (--allow-outside permits it)")
        return path

    def run(self, name: str | None = None, kind: RunKind | None = "bundle") -> Path:
        """The folder of run ``name``; of the latest one when ``name`` is None, or if that was deleted, of the newest.

        Raises
        ------
        CatalogueError
            When there is no such run, or it is of another kind; None allows every kind.
        """
        if name is None:
            latest = self.runs / "latest"
            name = latest.read_text("utf-8", "replace").strip() if is_regular(latest) else ""
            if not name or not self._has(name, kind):  # deleted since, or of another kind
                return self._newest(kind)
        if not self._has(name, kind):
            names = sorted(self.run_names(kind))
            given = f"There is no finished run {quoted(name)} in {self.root}"
            if name in self.run_names(None):
                asked = RUN_KINDS["bundle" if kind is None else kind]
                given = f"{name} is a run that {RUN_KINDS[kind_of(self.runs / name)]}, not one that {asked}"
            raise CatalogueError(
                f"{given}; there are: {listed(names)}.", hint=f"--run {names[-1]}" if names else _training(kind)
            )
        return self.runs / name

    def _newest(self, kind: RunKind | None) -> Path:
        runs = [self.runs / name for name in sorted(self.run_names(kind))]
        if not runs:
            of_kind = "" if kind != "unimp" else f" that {RUN_KINDS[kind]}"
            raise CatalogueError(f"There is no trained model{of_kind} in {self.root} yet.", hint=_training(kind))
        return max(runs, key=lambda run: (run / "manifest.json").stat().st_mtime_ns)

    def _has(self, name: str, kind: RunKind | None) -> bool:
        return name in self.run_names(None) and (kind is None or kind_of(self.runs / name) == kind)

    def run_names(self, kind: RunKind | None = "bundle") -> Iterator[str]:
        """Names of the finished runs of a kind, or of all, in no particular order."""
        folders = (path.parent for path in self.runs.glob("*/manifest.json"))
        return (folder.name for folder in folders if kind is None or kind_of(folder) == kind)


def _training(kind: RunKind | None) -> Command:
    return Command("train", "--recipe", "unimp") if kind == "unimp" else Command("train")


def kind_of(run: Path) -> RunKind:
    """What a finished run answers; where its manifest does not say it or is damaged, bundles."""
    try:
        return "unimp" if read_json(run / "manifest.json").get("kind") == "unimp" else "bundle"
    except (OSError, ValueError, AttributeError):
        return "bundle"


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a finished run, its parts of the kinds that `bundlecache.train.checkpoint` writes.

    Raises
    ------
    CheckpointError
        When there is none, or it is damaged.
    """
    path = run / "manifest.json"
    try:
        manifest: dict[str, Any] = read_json(path)
        tables = [manifest.get(name) or {} for name in ("base", "questions", "versions", "recipe")]
        lacking = [key for name in LISTED for row in manifest.get(name, []) for key in LISTED[name] if key not in row]
        lacking += [stage for stage in manifest.get("stages", []) if STAGE_FIGURE[manifest.get("kind")] not in stage]
        sound = not lacking and all(isinstance(table, dict) for table in tables)
    except FileNotFoundError as error:
        raise CheckpointError(f"{run} holds no finished run.", hint=Command("train")) from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged.", hint=[Command("train"), "makes a new run"]) from error
    if not sound:
        raise CheckpointError(f"{path} was changed by hand or is damaged.", hint=[Command("train"), "makes a new run"])
    return manifest
