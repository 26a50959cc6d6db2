"""Look after the stored vectors of a workspace: verify, compact, drift, import and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command, counted
from ..rows import Result, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..store.drift import Drift
    from .session import Session


@dataclass(frozen=True)
class TableCheck:
    """What verifying one table found: damaged rows, and how a sample that was encoded again differs."""

    encoder: str
    table: str
    rows: int
    damaged: int
    matrices: int
    compared: int
    differing: int
    least_cosine: float | None
    difference: float | None
    remark: str
    items: list[str]


@dataclass(frozen=True, repr=False)
class Verification(Result):
    """All tables, and one sentence per damaged one; ``repaired`` says whether the damage was taken out."""

    tables: Rows[TableCheck]
    damage: dict[str, str]
    repaired: bool

    def _frame(self) -> Any:
        """A row per table."""
        return self.tables.to_dicts()

    def require_sound(self) -> None:
        """Raise where something is damaged and was not repaired, or vectors differ from what is encoded now.

        Raises
        ------
        BundlecacheError
            With the command that puts it right.
        """
        if self.damage and not self.repaired:
            raise BundlecacheError(
                f"Damaged: {len(self.damage)} of {counted(len(self.tables), 'table')}.",
                hint=[
                    Command("verify", "--repair"),
                    "takes the damage out, and",
                    Command("encode"),
                    "makes it anew",
                ],
            )
        for row in self.tables:
            if row.differing:
                raise BundlecacheError(
                    f"{row.encoder} gives other vectors now than those stored, for {row.differing} of {row.compared} items "
                    f"({', '.join(row.items[:5])}): another device, library or file of weights?",
                    hint=[Command("compact", "--drop", row.table), "and then", Command("encode")],
                )


@dataclass(frozen=True)
class CompactedTable:
    """The bytes of a table before and after; ``kept_for`` names the runs whose versions are kept."""

    table: str
    before_bytes: int
    after_bytes: int
    kept_for: str | None


@dataclass(frozen=True, repr=False)
class ImportedVectors(Result):
    """Rows that were given, and what became of them."""

    encoder: str
    rows: int
    stored: int
    unknown: int
    failed: int
    without: int
    dim: int | str
    dtype: str
    table: str


def verify(
    session: Session, *, sample: int = 32, repair: bool = False, device: str = "auto", seed: int = 0
) -> Verification:
    """Read every stored row against its checksum, and encode a random sample again."""
    from ..features import encode_workspace as stage_a
    from ..store import verify as check

    rows: Rows[TableCheck] = Rows()
    broken = {}
    for info in session.store.tables(heads=True):
        with session.say.bar(info.modality) as bar:
            damage = check.verify(session.store, info, session.catalogue.item_ids, bar.step)
        again, remark = None, "damaged"
        if damage:
            broken[info.spec] = str(damage)
            if repair:
                check.repair(session.store, info, damage)
        else:
            with session.say.bar("again"):
                again, remark = stage_a.encode_sample_again(
                    session.folder,
                    session.catalogue,
                    session.store,
                    info,
                    session.say,
                    sample=sample,
                    seed=seed,
                    device=device,
                )
        rows.append(
            TableCheck(
                encoder=info.spec,
                table=info.table,
                rows=damage.rows,
                damaged=len(damage.item_ids) + len(damage.doubled) + damage.lost,
                matrices=len(damage.matrices),
                compared=again.compared if again else 0,
                differing=len(again.differing) if again else 0,
                least_cosine=again.least_cosine if again else None,
                difference=again.difference if again else None,
                remark=remark,
                items=[*damage.item_ids, *damage.doubled, *(again.differing if again else [])],
            )
        )
    return Verification(rows, broken, repair)


def compact(session: Session, *, drop: Sequence[str] = (), old_encoders: bool = False) -> Rows[CompactedTable]:
    """Make the store small: pieces written together, old versions and unused matrices deleted."""
    from ..store import maintenance

    folder, store = session.folder, session.store
    runs = [path.name for path in folder.runs.iterdir() if path.is_dir()] if folder.runs.is_dir() else []
    infos = store.tables()
    gone = maintenance.choose(infos, drop, old_encoders=old_encoders)
    rows = Rows(CompactedTable(info.table, maintenance.drop(store, info, runs), 0, "dropped") for info in gone)
    for info in session.say.each("compact", [info for info in infos if info not in gone]):
        before, after = maintenance.compact(store, info, session.catalogue.item_ids, runs)
        kept = (
            ", ".join(maintenance.tags(store, store.current(info.modality, info.spec, info.table))) if info.rows else ""
        )
        rows.append(CompactedTable(info.table, before, after, kept or None))
    if swept := maintenance.sweep(store):
        rows.append(CompactedTable("matrices of no table", swept, 0, "dropped"))
    return rows


def drift(
    session: Session, modalities: Sequence[str] = (), *, start: str | None = None, sample: int = 1000, seed: int = 0
) -> Rows[Drift]:
    """How far vectors moved since a run, a version or another encoder (``start``); since the last training by default.

    Raises
    ------
    BundlecacheError
        When nothing is stored, or there is nothing earlier to compare with.
    """
    from ..store import drift as moves

    wanted = list(modalities) or session.store.modalities()
    if not wanted:
        raise BundlecacheError(
            f"Nothing is stored in {session.folder.root} yet.", hint=Command("encode", "--modality", "all")
        )
    rows: Rows[Drift] = Rows()
    why = None
    for name in wanted:
        info = session.store.current(name)
        try:
            old = moves.find(session.store, info, start)
        except BundlecacheError as error:  # of several modalities, one may have a past
            why = error
            continue
        with session.say.bar(name):
            now = moves.snapshot(session.store, info, item_ids=session.catalogue.item_ids)
            rows.append(moves.compare(name, old, now, sample=sample, seed=seed))
    if why and (not rows or modalities):
        raise why
    return rows


def import_vectors(
    session: Session, source: Path | str, *, modality: str, name: str, ids: Path | str | None = None
) -> ImportedVectors:
    """Put vectors that other programs made into the store; the encoder is then called ``import:NAME``.

    Raises
    ------
    BundlecacheError
        When the file is of no known layout, or shapes or ids do not fit.
    """
    from ..features import encode_workspace as stage_a
    from ..store import import_vectors as imports
    from ..store.text_columns import is_among

    if modality == "all":
        raise BundlecacheError("Vectors are of one modality, not of all.", hint="--modality image")
    (wanted,) = stage_a.modalities_of(modality)
    found = imports.read(Path(source), session.catalogue, wanted, name, Path(ids) if ids else None)
    with session.say.bar("import"):
        info = session.store.write(found.identity, found.item_ids, found.vectors)
    failed = int(is_among(session.store.errors(info.table)["item_id"], found.item_ids).sum())
    return ImportedVectors(
        encoder=info.spec,
        rows=found.given,
        stored=len(found.item_ids) - failed,
        unknown=found.unknown,
        failed=failed,
        without=len(session.catalogue) - len(found.item_ids),
        dim=f"{info.tokens}x{info.dim}" if info.tokens else info.dim,
        dtype=info.dtype,
        table=info.table,
    )


def export(session: Session, out: Path | str = "export", format: str = "parquet") -> list[Path]:  # noqa: A002
    """Write the stored vectors as "parquet" or "npy" files that pandas, pyarrow and NumPy read; their paths."""
    return session.store.export(Path(out), format, session.catalogue.item_ids)
