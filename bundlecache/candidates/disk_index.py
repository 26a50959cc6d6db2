"""The index `disk`: FAISS's IVF with its lists in a file, built in pieces, for more vectors than memory.

The cells are learnt from a sample; pieces of the items are added to copies of the empty structure and written; FAISS
merges their lists into one file (`OnDiskInvertedLists`), which a search reads through a memory map. In memory are
the centres of the cells and one piece. ``NAME.ivfdata`` holds the lists, ``NAME.faiss`` the rest.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import time
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ann
from .item_vectors import BLOCK_ITEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .item_vectors import ItemVectors

PIECE_BYTES = 2 << 30  # bytes of vectors that are held while a piece is built, at most
STALE_SECONDS = 24 * 3600.0  # after which the folder of a build that was killed is deleted
PREFIX = "building-"


def build(
    vectors: ItemVectors,
    *,
    folder: Path | None = None,
    memory: float = PIECE_BYTES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """The structure over ``vectors.rows``; its lists are in a folder inside ``folder`` until `keep` moves them.

    That folder is deleted with the structure.
    """
    faiss = ann.faiss_module()
    from faiss.contrib.ondisk import merge_ondisk

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    try:
        structure = ann.trained("disk", vectors, seed=seed)
        blocks = max(1, int(min(memory, PIECE_BYTES) / (ann.bytes_needed("ivf", 1, vectors.width) * BLOCK_ITEMS)))
        pieces: list[str] = []
        piece, held, done, count = faiss.clone_index(structure), 0, 0, len(vectors.rows)
        for items, block in vectors.blocks():
            piece.add_with_ids(block, np.arange(done, done + len(items), dtype=np.int64))
            done, held = done + len(items), held + 1
            if held == blocks or done == count:
                pieces.append(str(place / f"piece-{len(pieces)}.faiss"))
                faiss.write_index(piece, pieces[-1])
                piece, held = faiss.clone_index(structure), 0
            if progress is not None:
                progress(done, count)
        with _silent():
            merge_ondisk(structure, pieces, str(place / "lists.ivfdata"))
        for name in pieces:
            Path(name).unlink()
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    weakref.finalize(structure, shutil.rmtree, place, ignore_errors=True)
    return structure


def keep(structure: Any, target: Path) -> None:
    """Move the lists of a structure to the file ``target``, which its index file then names."""
    lists = _lists(structure)
    if Path(lists.filename) != target:
        Path(lists.filename).replace(target)  # the memory map stays
        lists.filename = str(target)


def read(path: Path, lists_bytes: int) -> Any:
    """A structure from its file; the lists stay on disk.

    Raises
    ------
    RuntimeError
        When the lists are not the file that belongs to it, or FAISS cannot read it.
    """
    faiss = ann.faiss_module()
    if lists_file(path).stat().st_size != lists_bytes:
        raise RuntimeError("the size of its lists is not what the header says")
    return faiss.read_index(str(path), faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY)


def lists_file(path: Path) -> Path:
    """The file of the lists of an index file."""
    return path.with_suffix(".ivfdata")


def _lists(structure: Any) -> Any:
    faiss = ann.faiss_module()
    return faiss.downcast_InvertedLists(faiss.extract_index_ivf(structure).invlists)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what FAISS itself prints ("resizing ...") off standard output, which may be JSON."""
    flush = ctypes.CDLL(None).fflush  # FAISS prints by the C library, whose buffer may be written much later
    try:
        kept = os.dup(1)
    except OSError:  # standard output is closed
        yield
        return
    sys.stdout.flush()
    flush(None)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _remove_stale(folder: Path) -> None:
    for old in folder.glob(f"{PREFIX}*"):
        if time.time() - old.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
