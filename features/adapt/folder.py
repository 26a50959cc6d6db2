"""The folder of an adapted encoder: towers in their library's own format, projections, and a manifest that is written last."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import Command, EncoderError
from bundlecache.files import read_json, write_text
from bundlecache.text import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MANIFEST, PROJECTIONS, RESULT = "manifest.json", "projections.safetensors", "result.json"
FORMAT_VERSION = 1
STORED = ("frozen", "head")  # what a side learns where its tower stays as it was


@dataclass(frozen=True)
class SideOfAdapted:
    """What one modality of an adapted encoder is: a tower, and the name of its projection, if it has one."""

    parent: str  # the spec that was adapted
    parent_fingerprint: str
    mode: str  # frozen, head, lora or full
    kind: str  # of the tower's spec, where it was saved
    folder: str  # inside the folder of the adaptation; empty where the parent itself is the tower
    projected: bool

    def tower(self, root: Path) -> str:
        """The spec of the tower."""
        if not self.folder:
            return self.parent
        place = root / self.folder
        return f"open_clip:local-dir:{place}" if self.kind == "open_clip" else f"{self.kind}:{place}"


@dataclass(frozen=True)
class AdaptedFolder:
    """An adapted encoder on disk."""

    root: Path
    sides: dict[str, SideOfAdapted]
    cause: dict[str, Any]  # all that made it: parents, pairs, recipe, epoch

    @classmethod
    def find(cls, spec: EncoderSpec, workspace: Path | None) -> AdaptedFolder:
        """The adaptation that ``adapted:NAME`` or ``adapted:FOLDER`` names.

        Raises
        ------
        EncoderError
            When there is none, or it did not become better than its parent.
        """
        root = Path(spec.name)
        if not (root / MANIFEST).is_file() and workspace is not None and "/" not in spec.name:
            root = workspace / "adapted" / spec.name
        try:
            manifest = read_json(root / MANIFEST)
            sides = {name: SideOfAdapted(**side) for name, side in manifest["sides"].items()}
            return cls(root.resolve(), sides, dict(manifest["cause"]))
        except FileNotFoundError as error:
            raise cls._absent(spec, root, workspace) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise EncoderError(
                f"{root / MANIFEST} is damaged or of another version of bundlecache.",
                hint=[Command("adapt", "--name", "another"), "adapts anew"],
            ) from error

    @staticmethod
    def _absent(spec: EncoderSpec, root: Path, workspace: Path | None) -> EncoderError:
        if (root / RESULT).is_file():
            return EncoderError(
                f"The adaptation {quoted(spec.name)} was not better than its parent, so there is no encoder of it.",
                hint=f"its figures are in {root / 'report.html'}",
            )
        known = sorted(path.parent.name for path in (workspace / "adapted").glob(f"*/{MANIFEST}")) if workspace else []
        return EncoderError(
            f"There is no adapted encoder {quoted(spec.name)}; there are {listed(known) if known else 'none'}.",
            hint=f"type --encoder adapted:{known[-1]}" if known else Command("adapt", "--name", spec.name),
        )

    def stored_parent(self, modality: str, spec: EncoderSpec) -> str | None:
        """The encoder whose stored vectors a side is made of: its parent, where no weight of the tower was learned."""
        side = self.sides.get(modality)
        if side is None or side.mode not in STORED:
            return None
        return EncoderSpec.parse(side.parent).with_columns(spec.columns).text

    def projection(self, modality: str) -> Tensor | None:
        """The projection of a modality [k, d], float32; None where it has none."""
        if not self.sides[modality].projected:
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.root / PROJECTIONS)[modality]
        except (OSError, KeyError, SafetensorError) as error:
            raise EncoderError(
                f"{self.root / PROJECTIONS} is missing or damaged.",
                hint=[Command("adapt", "--name", "another"), "adapts anew"],
            ) from error


def base_spec(spec: str, modality: str, workspace: Path | None) -> EncoderSpec:
    """The spec of a modality's tower behind ``spec``, in its own library's kind; adapted and embedded ones are looked up.

    Raises
    ------
    EncoderError
        When an adapted encoder ends in a projection: it is no tower.
    """
    parsed = EncoderSpec.parse(spec)
    if parsed.without_columns == "embedded:clip":
        from .embedded import FOLDER

        return EncoderSpec.parse(f"open_clip:local-dir:{FOLDER}")
    if parsed.kind != "adapted":
        return parsed
    found = AdaptedFolder.find(parsed, workspace)
    if any(side.projected for side in found.sides.values()):
        raise EncoderError(
            f"{spec} ends in a projection, so only a head can be trained on it.",
            hint="--image head --text head, or adapt its parent anew",
        )
    return base_spec(found.sides[modality].tower(found.root), modality, workspace)


def write_manifest(root: Path, sides: Mapping[str, SideOfAdapted], cause: Mapping[str, Any]) -> None:
    """Write the manifest, last of all files."""
    content = {
        "format_version": FORMAT_VERSION,
        "sides": {name: vars(side) for name, side in sides.items()},
        "cause": dict(cause),
    }
    write_text(root / MANIFEST, json.dumps(content, indent=1) + "\n")


def write_projections(root: Path, projections: Mapping[str, Tensor]) -> None:
    """Write the projections [k, d] by modality."""
    from safetensors.torch import save_file

    if projections:
        save_file({name: value.detach().cpu().contiguous() for name, value in projections.items()}, root / PROJECTIONS)


def clear(root: Path) -> None:
    """Delete an earlier result of this name, its manifest first."""
    (root / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
