"""Counts the stored vectors whose text was edited since; needs no encoder.

Of pictures and sounds every file would have to be looked at, so only ``encode`` and its dry run see that they changed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from ..catalogue import cache
from ..encoder_spec import EncoderSpec
from ..errors import CatalogueError
from ..store.table_schema import IMPORTED
from ..store.text_columns import differs, places_of_ids, take, text_column
from .scan import scan_items

if TYPE_CHECKING:
    from ..catalogue.catalogue import Catalogue
    from ..store.store import Store, TableInfo
    from ..workspace import WorkspaceFolder
    from .scan import Scan


def changed_texts(
    store: Store, info: TableInfo, catalogue: Catalogue, workspace: WorkspaceFolder, scan: Scan | None = None
) -> int:
    """The items of a table of texts whose text is another one now; 0 for other modalities and imported vectors.

    The number is kept beside a cached catalogue, for this version of the table. After a run, ``scan`` is that of all texts.
    """
    if info.modality != "text" or info.preprocess == IMPORTED:
        return 0
    # A table that was dropped and made again counts its versions anew.
    key = hashlib.sha256(repr((info.table, info.version, info.updated)).encode()).hexdigest()[:16]
    file = catalogue.cached_in / f"changed-{key}.npy" if catalogue.cached_in else None
    if (known := cache.read_array(file)) is not None and scan is None:
        return int(known)
    try:
        scan = scan or scan_items("text", catalogue, workspace, workers=1, columns=EncoderSpec.parse(info.spec).columns)
    except CatalogueError:  # the items have lost a column; `encode` says so
        return 0
    stored = store.dataset(info).to_table(columns=["item_id", "content_hash"], filter="live")
    row = places_of_ids(scan.ids(scan.present), among=stored["item_id"])  # [p]
    there = np.flatnonzero(row >= 0)
    changed = differs(take(scan.hashes, there), take(text_column(stored["content_hash"]), row[there]))
    count = int(changed.sum())
    cache.write_array(file, np.array(count))
    return count
