"""Derives the vectors of all items from the stored ones of another encoder, into a table of their own: no file is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from bundlecache.encode.run import Receipt
from bundlecache.store.failures import Failure, count_failed
from bundlecache.store.table_schema import Identity, as_stored, flaws
from bundlecache.store.text_columns import differs, is_among, places, places_of_ids, take, text_column

from .derived import BLOCK_ITEMS, DerivedEncoder, axes_file, read_about

if TYPE_CHECKING:
    from collections.abc import Callable

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.store.store import Store

    from .stored_vectors import StoredVectorsEncoder


def derive(
    encoder: StoredVectorsEncoder, catalogue: Catalogue, store: Store, progress: Callable[[int, int], None]
) -> Receipt:
    """Write what is new or changed in the parent's table; items that it lost, or that failed there, are out here too."""
    began = time.monotonic()
    parent, identity = encoder.parent, Identity.of(encoder)
    wanted = text_column(catalogue.item_ids)
    rows = store.dataset(parent).to_table(columns=["item_id", "content_hash"], filter="live")
    mine = np.flatnonzero(is_among(rows["item_id"], wanted))
    ids, hashes = take(text_column(rows["item_id"]), mine), take(text_column(rows["content_hash"]), mine)
    matrix = store.matrix(catalogue.item_ids, parent.modality, parent.spec, parent.table)
    errors = store.errors(parent.table)
    lost = is_among(errors["item_id"], wanted) & ~is_among(
        errors["item_id"], ids
    )  # what failed before keeps its vector
    failed = {
        row["item_id"]: Failure(row["stage"], row["reason"], row["content_hash"])
        for row in errors.filter(pa.array(lost)).to_pylist()
    }
    flawed: dict[str, Failure] = {}
    with store.writer(identity) as table:
        note = store.begin_run(identity)
        row = places_of_ids(ids, among=table.item_ids)
        todo = row < 0
        known = np.flatnonzero(~todo)
        todo[known] = differs(take(hashes, known), take(table.hashes, row[known]))
        new = np.flatnonzero(todo)
        for low in range(0, len(new), BLOCK_ITEMS):
            block = new[low : low + BLOCK_ITEMS]
            block_ids, block_hashes = take(ids, block), take(hashes, block)
            made = as_stored(encoder.shrunk(matrix.vectors[places(block_ids, among=wanted)]), identity)
            bad = flaws(made)
            flawed |= {
                block_ids[at].as_py(): Failure("check", why, block_hashes[at].as_py()) for at, why in bad.items()
            }
            good = np.setdiff1d(np.arange(len(block)), list(bad))
            if len(good):
                table.write(take(block_ids, good), take(block_hashes, good), made[good])
            progress(low + len(block), len(new))
        absent = take(wanted, np.flatnonzero(~is_among(wanted, ids)))
        table.update_status(wanted, failed | flawed, dead=pa.concat_arrays([absent, text_column(list(flawed))]))
        table.tidy()
        receipt = Receipt(
            modality=encoder.modality,
            spec=encoder.spec,
            table=identity.table_name,
            items=len(catalogue),
            encoded=len(new) - len(flawed),
            cached=len(ids) - len(new),
            failed=count_failed(failed) + len(flawed),
            absent=len(catalogue) - len(ids) - count_failed(failed),
            forwards=0,
            reused=0,
            batch_size=BLOCK_ITEMS,
            seconds=time.monotonic() - began,
            decode_share=0.0,
            forward_share=0.0,
            write_share=0.0,
        )
        store.end_run(note, identity, receipt.to_dict())
    return receipt


def about_axes(encoder: StoredVectorsEncoder, store: Store) -> str | None:
    """A sentence where axes were fitted to an earlier version of the parent's table; None where they were not."""
    if not isinstance(encoder, DerivedEncoder) or encoder.axes is None:
        return None
    path = axes_file(encoder.how, encoder.parent, store)
    about = read_about(path)
    if about["version"] == encoder.parent.version:
        return None
    return (
        f"{encoder.spec}: its axes were fitted to {about['items']:,} items of version {about['version']} of "
        f"{encoder.how.parent} (now {encoder.parent.version}) and stay, so that old and new vectors can be compared; delete "
        f"{path} to fit them again"
    )
