"""Pairs of another catalogue, which tell what an adapted encoder has forgotten of the rest of the world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import MediaError

from .pairs import check_enough, same_titles
from .retrieval import measure
from .sides import TowerSide

if TYPE_CHECKING:
    from collections.abc import Callable

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.store.store import Matrix
    from bundlecache.workspace import WorkspaceFolder

MAX_PAIRS = 500
AT_ONCE = 64


@dataclass(frozen=True)
class OtherPairs:
    """Another catalogue; ``matrix_of`` gives its stored vectors of a modality and encoder."""

    folder: WorkspaceFolder
    catalogue: Catalogue
    matrix_of: Callable[[str, str], Matrix]

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"MRR in {self.folder.root.resolve().name}"

    def chosen(self, specs: dict[str, str], matrices: dict[str, Matrix]) -> np.ndarray:
        """int64 [<= MAX_PAIRS] items with both sides, one of each title.

        Raises
        ------
        BundlecacheError
            When there are too few.
        """
        columns = EncoderSpec.parse(specs["text"]).columns
        has = self.catalogue.has_source("image") & self.catalogue.has_source("text", columns)
        for matrix in matrices.values():
            has = has & matrix.mask
        items = np.array([item for item in np.flatnonzero(has)[: 4 * MAX_PAIRS] if self._readable(int(item))], np.int64)
        check_enough(len(items), "pair in the other catalogue", "pairs in the other catalogue")
        group = same_titles([*self.catalogue.texts(columns).take(items)])
        first = np.unique(group, return_index=True)[1]
        found: np.ndarray = items[np.sort(first)][:MAX_PAIRS]
        return found

    def probe(self, sides: tuple[Any, Any], specs: dict[str, str]) -> Callable[[], dict[str, float]]:
        """What measures the pairs by the sides as they are when it is called."""
        stored = [side.modality for side in sides if not isinstance(side, TowerSide)]
        matrices = {name: self.matrix_of(name, specs[name]) for name in stored}
        items = self.chosen(specs, matrices)
        inputs = [self._inputs(side, items, matrices, specs) for side in sides]

        @torch.no_grad()
        def found() -> dict[str, float]:
            vectors = []
            for side, given in zip(sides, inputs, strict=True):
                side.eval()
                device = next((parameter.device for parameter in side.parameters()), torch.device("cpu"))
                moved = [one.to(device) if isinstance(one, torch.Tensor) else one for one in given]
                vectors.append(np.concatenate([side(one).float().cpu().numpy() for one in moved]))
            return {self.label: measure(*vectors)[0].mrr}

        return found

    def _inputs(self, side: Any, items: np.ndarray, matrices: dict[str, Matrix], specs: dict[str, str]) -> list[Any]:
        pieces = [items[k : k + AT_ONCE] for k in range(0, len(items), AT_ONCE)]
        if side.modality in matrices:
            vectors = matrices[side.modality].vectors
            return [torch.from_numpy(np.asarray(vectors[piece], np.float32)) for piece in pieces]
        encoder = side.encoder
        if side.modality == "text":
            texts = self.catalogue.texts(EncoderSpec.parse(specs["text"]).columns)
            return [encoder.tokenize([encoder.prepare(encoder.read(texts[int(i)])) for i in p]) for p in pieces]
        return [torch.stack([encoder.prepare(encoder.read(self._path(int(i)))) for i in p]) for p in pieces]

    def _path(self, item: int) -> Any:
        return self.folder.media(str(self.catalogue.column("image")[item]))

    def _readable(self, item: int) -> bool:
        from ..picture_files import read_picture

        try:
            read_picture(self._path(item))
        except MediaError:
            return False
        return True
