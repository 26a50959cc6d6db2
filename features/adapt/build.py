"""Builds the two sides of an adaptation from a recipe: which towers, from where, and what of them learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import BundlecacheError, EncoderError

from .. import registry
from .folder import STORED, base_spec
from .pair import FITTED_PAIRS, FRESH, Pair, fit_scale
from .save_towers import SAVED_KINDS
from .sides import StoredSide, TowerSide, projection_of, random_cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.recipes.adapt_recipe import AdaptRecipe
    from bundlecache.store.store import Matrix
    from bundlecache.workspace import WorkspaceFolder

    from .pairs import Pairs

SAMPLED = 2048  # training vectors from which a projection begins
MODALITIES = ("image", "text")


@dataclass(frozen=True)
class Sources:
    """What the sides are made of: for each modality its spec, its mode, and stored vectors or a tower."""

    specs: dict[str, str]
    modes: dict[str, str]
    matrices: dict[str, Matrix]
    encoders: dict[str, Any]

    @property
    def paired(self) -> bool:
        """Whether both towers were trained together."""
        return self.specs["image"] == EncoderSpec.parse(self.specs["text"]).without_columns

    def dim(self, modality: str) -> int:
        """Width of its vectors, before any projection."""
        if modality in self.matrices:
            return int(self.matrices[modality].vectors.shape[1])
        return int(self.encoders[modality].dim)

    def fingerprint(self, modality: str) -> str:
        """Of the vectors or weights that the adaptation begins with."""
        found: str = (self.matrices.get(modality) or self.encoders[modality]).fingerprint
        return found


def sources_of(
    recipe: AdaptRecipe,
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    device: str,
    matrix_of: Callable[[str, str], Matrix],
) -> Sources:
    """Load the towers that learn, and the stored vectors of those that do not.

    Raises
    ------
    BundlecacheError
        When a tower cannot be loaded, or cannot be trained.
    """
    t = recipe.towers
    modes: dict[str, str] = {"image": t.image, "text": t.text}
    specs = {"image": t.encoder, "text": t.text_encoder or t.encoder}
    matrices = {name: matrix_of(name, specs[name]) for name in MODALITIES if modes[name] in STORED}
    encoders = {}
    for name in MODALITIES:
        if modes[name] in STORED:
            continue
        parsed = base_spec(specs[name], name, folder.root)
        if parsed.kind not in SAVED_KINDS:
            raise EncoderError(
                f"{specs[name]} has no weights that can be trained and saved; those of open_clip: and hf: can.",
                hint=f"--{name} head trains a projection of its vectors",
            )
        columns = EncoderSpec.parse(specs[name]).columns
        encoders[name] = registry.load(
            parsed.with_columns(columns).text if name == "text" else parsed.text,
            modality=name,
            catalogue=catalogue,
            device=device,
            workspace=folder.root,
        )
    return Sources(specs, modes, matrices, encoders)


def check_towers(recipe: AdaptRecipe) -> None:
    """Refuse towers that are unknown or make no pair, and a recipe in which nothing learns.

    Raises
    ------
    BundlecacheError
        Saying which.
    """
    t = recipe.towers
    if {t.image, t.text} == {"frozen"}:
        raise BundlecacheError("Both towers are frozen, so nothing would learn.", hint="--image head, lora or full")
    _check_tower(t.encoder, "image", t.text_encoder)
    _check_tower(t.text_encoder or t.encoder, "text", t.text_encoder)


def _check_tower(spec: str, modality: str, text_encoder: str) -> None:
    plain = EncoderSpec.parse(spec).without_columns
    if any(kind.matches(plain) for kind in registry.kinds(modality)):
        return
    if modality == "text" and not text_encoder and any(kind.matches(plain) for kind in registry.kinds("image")):
        raise EncoderError(
            f"{spec} has no text tower; pairs are pictures and titles.",
            hint="name a text encoder to join it with: --text-encoder descriptor:text",
        )
    registry.modality_of(spec)  # an unknown name is an error of its own
    raise EncoderError(
        f"{spec} makes no {modality} vectors.", hint="--encoder names a picture tower, --text-encoder a text encoder"
    )


def build_pair(
    sources: Sources,
    recipe: AdaptRecipe,
    pairs: Pairs,
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    seen: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Pair, Pairs]:
    """The pair at the beginning, unchanged where both towers were trained together, and the pairs that can be read.

    ``seen`` is told how many pictures were read, of how many.

    Raises
    ------
    BundlecacheError
        When the widths of frozen vectors do not allow one width, or too few pictures can be read.
    """
    width = _width(recipe, {name: sources.dim(name) for name in MODALITIES}, sources.modes)
    sides: dict[str, Any] = {}
    for name in MODALITIES:
        if name in sources.matrices:
            sides[name] = StoredSide(name, sources.matrices[name].vectors, None)
        else:
            sides[name] = _tower_side(sources, recipe, name, folder, catalogue)
    if isinstance(sides["image"], TowerSide):
        items = np.concatenate([pairs.train, pairs.valid, pairs.test])
        pairs = pairs.without(items[~sides["image"].readable(items, seen)])
    sample = pairs.train
    for name, side in sides.items():
        if sources.modes[name] == "head" or (sources.modes[name] != "frozen" and sources.dim(name) != width):
            identity = sources.paired and sources.modes[name] == "head"
            made = projection_of(_some_vectors(side, sample), width, identity=identity)
            side.projection = made.to(_device(sources))
    scale, bias = _scale(sources, recipe, sides, pairs)
    return Pair(sides["image"], sides["text"], scale, bias), pairs


def _tower_side(
    sources: Sources, recipe: AdaptRecipe, name: str, folder: WorkspaceFolder, catalogue: Catalogue
) -> TowerSide:
    return TowerSide(
        sources.encoders[name],
        _source(name, sources.specs[name], folder, catalogue),
        lora=(recipe.towers.lora_rank, recipe.towers.lora_alpha) if sources.modes[name] == "lora" else None,
        cut=random_cut(recipe) if name == "image" and recipe.training.augment else None,
        precision=recipe.training.precision,
    )


def _device(sources: Sources) -> str:
    return next((str(encoder.device) for encoder in sources.encoders.values()), "cpu")


def _width(recipe: AdaptRecipe, dims: dict[str, int], modes: dict[str, str]) -> int:
    fixed = {name: dims[name] for name in MODALITIES if modes[name] == "frozen"}
    asked = recipe.towers.width or next(iter(fixed.values()), 0) or min(dims.values())
    for name, d in fixed.items():
        if d != asked:
            raise BundlecacheError(
                f"The frozen {name} vectors are {d} wide, so the joined ones cannot be {asked}.",
                hint=f"--set towers.width={d}",
            )
    return asked


def _source(modality: str, spec: str, folder: WorkspaceFolder, catalogue: Catalogue) -> Callable[[int], Any]:
    if modality == "image":
        column = catalogue.column("image")
        return lambda item: folder.media(str(column[item]))
    texts = catalogue.texts(EncoderSpec.parse(spec).columns)
    return lambda item: texts[item]


@torch.no_grad()
def _some_vectors(side: Any, items: np.ndarray, size: int = 64) -> np.ndarray:
    """float32 [n, k] of at most `SAMPLED` items."""
    side.eval()
    some = np.sort(items[:SAMPLED])
    pieces = [side(side.inputs(some[k : k + size])).cpu().numpy() for k in range(0, len(some), size)]
    return np.concatenate(pieces)


def _scale(sources: Sources, recipe: AdaptRecipe, sides: dict[str, Any], pairs: Pairs) -> tuple[float, float]:
    """Temperature and bias: where CLIP and SigLIP begin for towers that never met, else as they fit best."""
    kind = recipe.training.loss
    if not sources.paired:
        return FRESH[kind]
    some = np.sort(pairs.train[:FITTED_PAIRS])
    vectors = [torch.from_numpy(_some_vectors(sides[name], some)) for name in MODALITIES]
    return fit_scale(kind, vectors[0], vectors[1], torch.from_numpy(pairs.group[some]))
