"""Search the whole catalogue for items that may complete the bundles of a split."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command
from ..rows import Result
from .graph_check import warn_of_other_edges
from .run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..candidates.candidate_file import Candidates
    from ..store.store import Matrix, TableInfo
    from .session import Session


ENGINES = ("faiss", "lance")


@dataclass(frozen=True, repr=False)
class CandidateSets(Result):
    """The k nearest items to each bundle of a split, and how the index that found them does."""

    path: Path
    candidates: Candidates
    index: str
    seconds: float

    def _frame(self) -> Any:
        """A row per bundle: bundle_id, partial, truth, candidates, scores, rank."""
        return self.candidates.table

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            **self.candidates.summary(),
            "index": self.candidates.header["index"],
            "seconds": self.seconds,
        }


def candidates(
    session: Session,
    k: int = 20,
    *,
    modalities: Sequence[str] = (),
    encoders: Sequence[str] = (),
    run: str | None = None,
    weights: Mapping[str, float] | None = None,
    split: str = "test",
    where: Sequence[str] = (),
    index: str = "auto",
    metric: str = "cosine",
    recall: float = 0.99,
    max_memory: str | None = None,
    rebuild: bool = False,
    device: str = "auto",
    engine: str = "faiss",
) -> CandidateSets:
    """Search the whole catalogue for the k items nearest to each partial bundle of a split.

    Parameters
    ----------
    modalities, encoders, run
        What is searched: vectors of these modalities (all stored ones if left out), of these encoders, or the
        fused tokens of a run.
    weights
        Weight by modality, 1 if left out.
    where
        Conditions on item attributes, ``"price<50"``; what fulfils them is searched exactly.
    index, metric, recall, max_memory, rebuild
        "auto", "flat", "ivf", "hnsw", "pq" or "disk"; "cosine" or "inner-product"; Recall@20 against exact that an index
        must reach; its memory, "8GB"; build a kept index again.
    engine
        "faiss", or "lance": LanceDB's own IVF_PQ index over the tables of the store, for more vectors than memory.

    Raises
    ------
    BundlecacheError
        When what is searched is not stored, or an option is none that is allowed.
    """
    from ..candidates import ann, search
    from ..candidates.index_file import open_index

    if engine not in ENGINES:
        raise BundlecacheError(f"There is no engine {engine!r}; there are faiss and lance.", hint="--engine lance")
    tables = None
    if engine == "lance" and not where:  # what a filter leaves is scanned exactly
        from ..candidates.lance_index import LanceTables

        if index != "auto":
            raise BundlecacheError(
                f"--index {index} is one of FAISS; LanceDB has its own.", hint="leave --index out, or --engine faiss"
            )
        tables = LanceTables(session.store.location, session.folder.candidates / "indexes", session.catalogue)
    if device != "auto":
        from ..features import registry

        registry.resolve_device(device)  # also where no run is searched
    matrices = searched(session, modalities, encoders, run, device)
    if run:
        until = "held-out items are found too often until they are learned again and a run is trained on them"
        warn_of_other_edges(session, _tables_of(session, run), until)
    else:
        until = "held-out items are found too often until they are learned again"
        warn_of_other_edges(session, matrices.values(), until)
    began = time.perf_counter()
    with session.say.bar("index") as bar:
        built, kept = open_index(
            session.folder,
            session.catalogue,
            matrices,
            # What a filter leaves is scanned exactly and on the CPU, whatever is kept.
            kind="flat" if where and index in ("auto", *ann.KINDS) else index,
            weights=dict(weights or {}),
            metric=metric.replace("-", " "),
            memory=0 if where else ann.parse_bytes(max_memory) if max_memory else None,
            target=recall,
            rebuild=rebuild,
            device="cpu" if where else device,
            progress=bar.step,
            tables=tables,
        )
    if built.report["remark"]:
        session.say.note(f"note: {built.report['remark']}")
    if not built.report["reached"]:
        session.say.warn(
            f"Recall@20 of {recall:g} is out of reach",
            f"for {built.kind}: {built.report['recall@20']:.3f} is what it has (--index flat is exact).",
        )
    made = search.for_bundles(session.catalogue, built, k, split, where=where)
    if k > made.header["offered"]:
        session.say.note(f"note: {made.header['offered']:,} items can be offered, so no list is longer than that.")
    path = made.save(session.folder)
    return CandidateSets(path, made, built.words + (", kept" if kept else ""), round(time.perf_counter() - began, 3))


def searched(
    session: Session,
    modalities: Sequence[str],
    encoders: Sequence[str],
    run: str | None,
    device: str,
    verb: str = "candidates",
) -> dict[str, Matrix]:
    """The vectors to search by, by name: of modalities (all stored ones by default), of encoders, or of a run.

    Raises
    ------
    BundlecacheError
        When more than one of them is named, or what is named is not stored.
    """
    from ..candidates.item_vectors import by_name

    if sum(map(bool, (modalities, encoders, run))) > 1:
        raise BundlecacheError(
            "Only one of --modality, --encoder and --run says what is searched.",
            hint=Command(verb, "--help"),
        )
    if run:
        folder = session.folder.run(None if run == "latest" else run)
        fused = session.fused_vectors.get(folder.name)
        if fused is None:
            from ..train.inference import item_tokens

            loaded = Run(session, folder.name).load(device)
            fused = session.fused_vectors[folder.name] = item_tokens.fused(loaded.model, loaded.folder)
        return {f"fused-{folder.name}": fused}
    if encoders:
        return by_name(session.matrices_of(encoders))
    return session.matrices(modalities)


def _tables_of(session: Session, run: str) -> list[TableInfo]:
    """The tables of the vectors that a run fuses."""
    read = {encoder["table"] for encoder in Run(session, run).manifest["encoders"]}
    return [info for info in session.store.tables() if info.table in read]
