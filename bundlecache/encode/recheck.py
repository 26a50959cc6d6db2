"""Encode a sample of the stored items again and compare: does the encoder still give the same vectors?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoder_spec import EncoderSpec
from ..errors import BundlecacheError, EncoderError
from ..store.table_schema import Identity, as_numpy, as_stored
from ..store.tables import among
from ..store.text_columns import differs, places, take, text_column
from .batcher import reason_of
from .scan import scan_items

if TYPE_CHECKING:
    from ..catalogue.catalogue import Catalogue
    from ..store.store import Store, TableInfo
    from ..workspace import WorkspaceFolder
    from .encoder import Encoder
    from .scan import Source

# What other devices, batch shapes and library versions may change: the least cosine, and the largest
# difference of two numbers as a part of the row's largest number.
TOLERANCES = {"float16": (0.999, 0.02), "float32": (0.9999, 0.005), "int8": (0.999, 0.02)}


@dataclass(frozen=True)
class Recheck:
    """The least cosine and the largest difference (see TOLERANCES) over a sample of ``compared`` items.

    ``differing`` items are beyond the tolerances, or could be encoded once and cannot any more. ``preprocess``
    is the encoder's now: it may name other libraries than the table's does.
    """

    preprocess: str
    compared: int
    differing: list[str]
    least_cosine: float | None
    difference: float | None


def recheck(
    encoder: Encoder,
    catalogue: Catalogue,
    workspace: WorkspaceFolder,
    store: Store,
    info: TableInfo,
    *,
    sample: int = 32,
    seed: int = 0,
) -> Recheck:
    """Encode up to ``sample`` random items of a table again whose content is still that of their row.

    Raises
    ------
    EncoderError
        When the encoder has other weights than the one that made the table, or does not work.
    """
    identity = Identity.of(encoder)
    if encoder.fingerprint != info.fingerprint:
        raise EncoderError(f"{info.spec} has other weights now than when these vectors were made.")
    if (identity.tokens, identity.dim) != (info.tokens, info.dim):
        raise EncoderError(f"{info.spec} gives vectors of another shape now than when these were made.")
    rows = store.dataset(info).to_table(columns=["item_id", "content_hash"], filter="live")
    columns = EncoderSpec.parse(info.spec).columns
    found = scan_items(info.modality, catalogue, workspace, workers=4, columns=columns).for_encoder(encoder)
    row = places(found.ids(found.present), among=rows["item_id"])  # [p]
    there = np.flatnonzero(row >= 0)
    stored_hashes = take(text_column(rows["content_hash"]), row[there])
    same = there[~differs(take(found.hashes, there), stored_hashes)]
    picks = np.sort(np.random.default_rng(seed).permutation(len(same))[:sample])
    item_ids = found.ids(found.present[same[picks]]).to_pylist()
    made, differing = _encode(encoder, identity, dict(zip(item_ids, found.sources(same[picks]), strict=True)))
    if not made:
        return Recheck(encoder.preprocess, len(item_ids), differing, None, None)
    stored = _stored(store, info, list(made))
    again = np.stack(list(made.values())).astype(np.float64)  # [n, w]
    was = np.stack([stored[item_id] for item_id in made]).astype(np.float64)
    norms = np.linalg.norm(again, axis=1) * np.linalg.norm(was, axis=1)
    cosine = (again * was).sum(axis=1) / np.maximum(norms, 1e-300)  # [n]
    apart = np.abs(again - was).max(axis=1) / np.maximum(np.abs(was).max(axis=1), 1e-300)  # [n]
    least, most = TOLERANCES[info.dtype]
    far = ~((cosine >= least) & (apart <= most))  # NaN is far
    differing += [item_id for item_id, bad in zip(made, far.tolist(), strict=True) if bad]
    return Recheck(encoder.preprocess, len(item_ids), differing, float(cosine.min()), float(apart.max()))


def _encode(
    encoder: Encoder, identity: Identity, sources: dict[str, Source]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows [w] by item, and the items that cannot be encoded."""
    samples: dict[str, Any] = {}
    for item_id, source in sources.items():
        with suppress(BundlecacheError):
            samples[item_id] = encoder.prepare(encoder.read(source.value))
    made: dict[str, np.ndarray] = {}
    todo = list(samples)
    for low in range(0, len(todo), max(1, encoder.batch_size)):
        part = todo[low : low + max(1, encoder.batch_size)]
        try:
            vectors = np.asarray(encoder.encode([samples[item_id] for item_id in part]))
        except Exception as error:
            raise EncoderError(f"{identity.spec} does not work here: {reason_of(error)}.") from error
        made |= zip(part, as_stored(vectors, identity), strict=True)
    return made, [item_id for item_id in sources if item_id not in samples]


def _stored(store: Store, info: TableInfo, item_ids: list[str]) -> dict[str, np.ndarray]:
    table = store.dataset(info).to_table(columns=["item_id", "vector"], filter=among(item_ids))
    return dict(zip(table["item_id"].to_pylist(), as_numpy(table["vector"]), strict=True))
