"""Decides where an index is kept: in the memory of a GPU or of this machine, or on disk, where its vectors are scanned."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import ann, disk_index
from .item_vectors import ItemVectors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .lance_index import LanceTables


def build_structure(
    kind: str,
    vectors: ItemVectors,
    memory: float,
    gpu: int | None,
    room: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    folder: Path | None = None,
    tables: LanceTables | None = None,
    rebuild: bool = False,
) -> tuple[Any, str]:
    """A structure where it fits, on the GPU or off it, None for a flat one that fits nowhere; why not on the GPU.

    ``folder`` is where an index of the kind ``disk`` is built, ``tables`` are what one of ``lance`` is over.
    """
    if kind == ann.LANCE:
        assert tables is not None  # noqa: S101 - see Index.build
        return tables.structure(vectors, rebuild=rebuild, progress=progress), ""
    if kind == "disk":
        return disk_index.build(vectors, folder=folder, memory=memory, seed=seed, progress=progress), ""
    remark = ""
    if gpu is not None:
        why = ann.why_no_gpu(kind, len(vectors.rows), vectors.width, room)
        if not why:
            try:
                return ann.build(kind, vectors, seed=seed, gpu=gpu, progress=progress), ""
            except RuntimeError as error:  # somebody else took the memory meanwhile
                why = faiss_reason(error)
        remark = remark_on_cpu(kind, why)
    if kind == "flat" and ann.bytes_needed(kind, len(vectors.rows), vectors.width) > memory:
        return None, remark
    return ann.build(kind, vectors, seed=seed, progress=progress), remark


def remark_on_cpu(kind: str, why: str) -> str:
    """The sentence that says why an index is not on the GPU."""
    return f"The index {kind} is searched on the CPU: {why}."


def faiss_reason(error: RuntimeError) -> str:
    """What FAISS says of a GPU, without its own file names."""
    return "FAISS says " + str(error).strip().splitlines()[-1].rpartition("failed: ")[2][:120].rstrip(".")


def half_of_memory() -> float:
    """Half of this machine's memory in bytes; 8 GB where it is unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    except (AttributeError, ValueError, OSError):
        return 8e9
