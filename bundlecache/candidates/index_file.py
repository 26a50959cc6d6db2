"""Keeps an index in a file, with a header that names the vectors and items it was built from.

``candidates/indexes/text+image--auto--1f0c2a9b.faiss`` is in FAISS's own format; the ``.json`` of the same name is the
header and is written last. An index is derived data: `open_index` builds it again when a file is damaged or belongs to
other vectors or items. An exact index needs no file: it is the vectors.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..catalogue.splits import hold_out
from ..errors import Command, QuestionsError, first_line
from ..files import replacing, write_text
from ..names import check_name, is_name
from . import ann, disk_index
from .ann import faiss_module
from .index import Index
from .index_placement import build_structure, faiss_reason, half_of_memory, remark_on_cpu
from .item_vectors import ItemVectors, by_name, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from ..store.store import Matrix
    from ..workspace import WorkspaceFolder
    from .lance_index import LanceTables

FORMAT_VERSION = 1
BLOCK_IDS = 65_536  # ids that are hashed at once
REBUILD = Command("candidates", "--rebuild")


def open_index(
    workspace: WorkspaceFolder,
    catalogue: Catalogue,
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    *,
    kind: str = "auto",
    weights: Mapping[str, float] | None = None,
    metric: str = "cosine",
    memory: int | None = None,
    target: float = ann.TARGET_RECALL,
    rebuild: bool = False,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    tables: LanceTables | None = None,
) -> tuple[Index, bool]:
    """The index that the workspace keeps for these vectors, or a new one; and whether it was kept.

    Recall is measured with partial training bundles as queries. Kept is what took a measurement to choose: a flat index
    below `ann.MIN_INDEXED_ITEMS` items is made anew in no time. A kept index that does not fit, because it is damaged or
    was built from another version of the vectors or for other items, is built again; ``report["remark"]`` says why.
    With ``tables`` the index is LanceDB's over them, and the file is its header alone.
    """
    kind = ann.LANCE if tables is not None else kind
    file = index_path(workspace, matrices, kind=kind, weights=weights, metric=metric, memory=memory, target=target)
    why = ""
    if file.with_suffix(".json").is_file() and not rebuild:
        try:
            kept = load(
                file,
                matrices,
                catalogue.item_ids,
                weights=weights,
                metric=metric,
                memory=memory,
                device=device,
                tables=tables,
            )
        except QuestionsError as error:
            why = f"The index is built again: {error.message}"
        else:
            return kept, True
    index = Index.build(
        matrices,
        weights=weights,
        metric=metric,
        kind=kind,
        memory=memory,
        target=target,
        held_out=[partial for _, partial, _ in hold_out(catalogue, "train")],
        device=device,
        progress=progress,
        folder=file.parent,
        tables=tables,
        rebuild=rebuild,
    )
    if not index.exact or index.report["passed_over"]:
        save(index, file, catalogue.item_ids)
    if why:
        remark = " ".join(part for part in (why, index.report["remark"]) if part)
        index = replace(index, report={**index.report, "remark": remark})
    return index, False


def index_path(
    workspace: WorkspaceFolder,
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    *,
    kind: str = "auto",
    weights: Mapping[str, float] | None = None,
    metric: str = "cosine",
    memory: int | None = None,
    target: float = ann.TARGET_RECALL,
) -> Path:
    """The file of the index that was asked for like this."""
    named = by_name(matrices)
    specs = {name: matrix.spec for name, matrix in named.items()}
    asked = json.dumps([specs, dict(weights or {}), metric, memory, target], sort_keys=True)
    name = f"{plain('+'.join(named))}--{plain(kind)}--{short_hash(asked)}"
    return workspace.candidates / "indexes" / f"{safe_name(name)}.faiss"


def save(index: Index, path: Path, item_ids: Sequence[str]) -> None:
    """Write ``path`` (FAISS's own format, none for a flat index) and its header beside it, which comes last."""
    header = path.with_suffix(".json")
    stored = lists = 0
    if not index.exact and index.kind != ann.LANCE:
        with replacing(path) as temporary:
            header.unlink(missing_ok=True)  # its presence means complete
            if index.kind == "disk":
                disk_index.keep(index.structure, disk_index.lists_file(path))
                lists = disk_index.lists_file(path).stat().st_size
            _write(index.structure, temporary)
        stored = path.stat().st_size
    about = {"format_version": FORMAT_VERSION, "ids": _ids_of(item_ids), "file_bytes": stored, "lists_bytes": lists}
    about |= index.report
    write_text(header, json.dumps(about, indent=1, sort_keys=True) + "\n")


def load(
    path: Path,
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    item_ids: Sequence[str],
    *,
    weights: Mapping[str, float] | None = None,
    metric: str = "cosine",
    memory: float | None = None,
    device: str = "auto",
    tables: LanceTables | None = None,
) -> Index:
    """An index from its file, over the very vectors and items that it was built from.

    A flat one that does not fit into ``memory`` bytes (by default half of this machine's) is scanned; ``device`` as in
    `Index.build`.

    Raises
    ------
    QuestionsError
        When the file is missing, damaged, or was built from other vectors, items or weights than these.
    """
    header = _read_header(path)
    _check_origin(header, path, matrices, item_ids)
    vectors = ItemVectors.of(matrices, weights=weights, metric=metric)
    asked = (list(vectors.names), vectors.weights, vectors.metric)
    if asked != (header.get("modalities"), header.get("weights"), header.get("metric")):
        raise QuestionsError(f"The index {path} was built with other weights or another metric.", hint=REBUILD)
    gpu = ann.gpu_of(device)
    room = ann.gpu_room(gpu, memory)
    if header["kind"] == "flat":
        memory = half_of_memory() if memory is None else memory
        structure, remark = build_structure("flat", vectors, memory, gpu, room)
        return _reported(Index(vectors, "flat", structure), header, remark)
    if (header["kind"] == ann.LANCE) != (tables is not None):
        raise QuestionsError(f"The index {path} was built by another engine.", hint=REBUILD)
    structure = _read_structure(path, header, vectors) if tables is None else tables.structure(vectors)
    index = Index(vectors, header["kind"], structure, header["effort"], header["refine"])
    if gpu is None or index.kind in ("disk", ann.LANCE):
        return _reported(index, header, "")
    why = ann.why_no_gpu(index.kind, len(vectors.rows), vectors.width, room)
    if index.effort > ann.GPU_MAX_RESULTS and not why:
        why = f"it looks into {index.effort:,} cells, a GPU into {ann.GPU_MAX_RESULTS:,} at most"
    if not why:
        try:
            return _reported(replace(index, structure=ann.to_gpu(index.structure, gpu)), header, "")
        except RuntimeError as error:
            why = faiss_reason(error)
    return _reported(index, header, remark_on_cpu(index.kind, why))


def _read_header(path: Path) -> dict[str, Any]:
    """The header of an index, with the types that `load` relies on."""
    file = path.with_suffix(".json")
    try:
        header = json.loads(file.read_text("utf-8"))
        whole = (
            header["kind"] in (*ann.KINDS, ann.LANCE)
            and (header["kind"] != "disk" or isinstance(header["lists_bytes"], int))
            and all(isinstance(header[name], int) and header[name] >= 0 for name in ("effort", "refine"))
            and all({"table", "version"} <= set(version) for version in header["vectors"].values())
            and set(header["vectors"]) == set(header["modalities"])
            and all(isinstance(header[name], float | int) for name in ("recall@20", "queries", "reached"))
            and (header["kind"] == "flat" or isinstance(header["faster"], float | int))
            and all({"kind", "recall@20"} <= set(dropped) for dropped in header["passed_over"])
        )
        known = header["format_version"] == FORMAT_VERSION
    except FileNotFoundError as error:
        raise QuestionsError(f"There is no index {path}.", hint=Command("candidates")) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QuestionsError(f"{file} is damaged or no header of an index.", hint=REBUILD) from error
    if not known or not whole:
        raise QuestionsError(f"{path} has another format than {FORMAT_VERSION}.", hint=REBUILD)
    found: dict[str, Any] = header
    return found


def _check_origin(
    header: Mapping[str, Any],
    path: Path,
    matrices: Mapping[str, Matrix] | Sequence[Matrix],
    item_ids: Sequence[str],
) -> None:
    """Refuse an index of other vectors or other items."""
    at_hand = {name: version_of(matrix) for name, matrix in by_name(matrices).items()}
    for name, version in header["vectors"].items():
        if (now := at_hand.get(name)) != version:
            is_now = f"now it is {now['table']}, version {now['version']}" if now else "now there is none"
            raise QuestionsError(
                f"The index {path} was built from the {name} vectors {version['table']}, version {version['version']}; {is_now}.",
                hint=REBUILD,
            )
    if header.get("ids") != _ids_of(item_ids):
        raise QuestionsError(
            f"The index {path} was built for another list of items than this catalogue's.", hint=REBUILD
        )


def _read_structure(path: Path, header: Mapping[str, Any], vectors: ItemVectors) -> Any:
    """The FAISS structure of a file, compared with its header and the vectors."""
    try:
        if path.stat().st_size != header["file_bytes"]:
            raise RuntimeError("its size is not what the header says")
        if header["kind"] == "disk":
            structure = disk_index.read(path, header["lists_bytes"])
        else:
            structure = faiss_module().read_index(str(path))
        if structure.ntotal != len(vectors.rows):
            raise RuntimeError("its number of vectors is not what the catalogue has")
        if structure.d != ann.structure_width(header["kind"], vectors.width):
            raise RuntimeError("its vectors are of another width")
        if hasattr(structure, "hnsw") != (header["kind"] == "hnsw"):
            raise RuntimeError("it is of another kind than the header says")
    except (OSError, RuntimeError, MemoryError, KeyError) as error:
        raise QuestionsError(f"The index {path} is damaged ({first_line(error)[:120]}).", hint=REBUILD) from error
    return structure


def _reported(index: Index, header: Mapping[str, Any], remark: str) -> Index:
    """With the report of the index that was kept, and where it stands now."""
    now = index.about()
    report = {**header, "device": now["device"], "size_bytes": now["size_bytes"], "remark": remark}
    return replace(index, report=report)


def _write(structure: Any, path: Path) -> None:
    try:
        faiss_module().write_index(ann.off_gpu(structure), str(path))
    except RuntimeError as error:
        # FAISS's word for a disk that refuses: "... write error in FILE: 3 != 8 (No space left)"
        reason = re.search(r"\(([^()]+)\)\s*$", str(error))
        raise OSError(reason[1] if reason else str(error)) from error


def _ids_of(item_ids: Sequence[str]) -> str:
    """The hash of the ids with a zero byte between them."""
    whole = hashlib.blake2b(digest_size=16)
    for start in range(0, len(item_ids), BLOCK_IDS):
        part = "\0".join(item_ids[start : start + BLOCK_IDS])
        whole.update(("\0" * (start > 0) + part).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()


def plain(name: str) -> str:
    """A name with the characters that every file system takes."""
    return re.sub(r"[^\w+.-]", "_", name)


def safe_name(name: str) -> str:
    """``name`` where every file system takes it, otherwise its readable part and a hash: encoders have long names.

    >>> safe_name("text+image-k20"), safe_name("é")
    ('text+image-k20', 'x-954544c2')
    """
    if is_name(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9+.-]+", "_", name).strip("_.-+")[:60]
    return check_name(f"{readable or 'x'}-{short_hash(name)}", "index")


def short_hash(text: str) -> str:
    """8 hexadecimal digits that tell texts apart in the names of files."""
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
