"""Encode the items of a workspace: choose the encoders of a modality, run them on one or several devices."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundlecache.catalogue import splits
from bundlecache.encode import recheck
from bundlecache.encode.estimate import estimate_all
from bundlecache.encode.run import run_all
from bundlecache.encoder_spec import EncoderSpec
from bundlecache.errors import BundlecacheError, Command
from bundlecache.modalities import MODALITIES, check_modality
from bundlecache.store.import_vectors import IMPORTED

from . import registry
from .stored_vectors import StoredVectorsEncoder, adapted_sides, chain, parent_of, stored_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.console.reporter import Reporter
    from bundlecache.encode.estimate import Estimate
    from bundlecache.encode.recheck import Recheck
    from bundlecache.encode.run import Receipt
    from bundlecache.store.store import Store, TableInfo
    from bundlecache.workspace import WorkspaceFolder


ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Machines:
    """Where encoders run: one or several devices of this machine, or a Ray cluster."""

    devices: tuple[str, ...] = ("auto",)
    engine: str = "local"
    ray_address: str | None = None

    @classmethod
    def of(cls, device: str = "auto", engine: str = "local", ray_address: str | None = None) -> Machines:
        """What ``--device a,b``, ``--engine`` and ``--ray-address`` ask for, checked against each other.

        Raises
        ------
        BundlecacheError
            When they do not go together.
        """
        devices = tuple(name.strip() for name in device.split(","))
        if engine not in ENGINES:
            raise BundlecacheError(
                f"There is no engine {engine!r}; there are local and ray.", hint=Command("encode", "--engine", "ray")
            )
        if engine == "ray" and devices not in (("auto",), ("cpu",)):
            raise BundlecacheError(
                f"--engine ray finds the GPUs of its cluster itself; --device {device} cannot be asked of it.",
                hint="leave --device out, or type --device cpu",
            )
        if engine == "local" and ray_address is not None:
            raise BundlecacheError(
                "--ray-address was given without --engine ray.",
                hint=Command("encode", "--engine", "ray", "--ray-address", ray_address),
            )
        return cls(devices, engine, ray_address)


def modalities_of(name: str, specs: Sequence[str] = (), workspace: Path | None = None) -> tuple[str, ...]:
    """The modalities that ``--modality`` names; of ``all``, those that the adapted encoders ``specs`` were made for.

    Raises
    ------
    BundlecacheError
        When there is no such modality.
    """
    if name != "all":
        return (check_modality(name),)
    known = [sides for spec in specs if (sides := adapted_sides(spec, workspace))]
    if specs and len(known) == len(specs):
        return tuple(each for each in MODALITIES if all(each in sides for sides in known))
    return MODALITIES


def encodable(catalogue: Catalogue, say: Reporter) -> tuple[str, ...]:
    """All modalities, but the graph only where training may see an edge of the default one."""
    if len(splits.training_graph(catalogue, "user-item")):
        return MODALITIES
    if len(splits.training_graph(catalogue, "bundle-item")):
        say.note(
            "no graph: there are no interactions that training may see, but bundles can be learned from",
            Command("encode", "--modality", "graph", "--encoder", "lightgcn:bundle-item"),
        )
    return tuple(name for name in MODALITIES if name != "graph")


def with_columns(
    catalogue: Catalogue, columns: str | None, modalities: Sequence[str], specs: Sequence[str]
) -> list[str]:
    """The specs of text encoders with the columns that are their text (``--fields title,category``).

    Raises
    ------
    BundlecacheError
        When no text is encoded, or the items have no such column.
    """
    if columns is None:
        return [(parsed := EncoderSpec.parse(spec)).with_columns(parsed.columns).text for spec in specs]
    if "text" not in modalities:
        raise BundlecacheError(
            f"--fields {columns} says what is the text of an item, but no text is encoded here.",
            hint=Command("encode", "--modality", "text", "--fields", columns),
        )
    wanted = [name.strip() for name in columns.split(",")]
    catalogue.check_text_columns(wanted)
    return [EncoderSpec.parse(spec).with_columns(wanted).text for spec in specs or [registry.DEFAULTS["text"]]]


def check_effective(options: Sequence[str], specs: Sequence[tuple[str, str]]) -> None:
    """Refuse ``--precision`` or ``--draft`` where it changes nothing for any of the (spec, modality) pairs.

    Raises
    ------
    BundlecacheError
        Naming the encoders.
    """
    effective = set().union(*(registry.effective_options(spec, modality) for spec, modality in specs))
    about = {"precision": "the forward pass of a network", "draft": "pictures"}
    for option in options:
        if option not in effective:
            raise BundlecacheError(
                f"--{option} changes nothing for {' and '.join(spec for spec, _ in specs)}: it is about {about[option]}.",
                hint=f"leave --{option} out, or name an --encoder that it changes",
            )


def encode(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    store: Store,
    modality: str,
    specs: Sequence[str],
    say: Reporter,
    *,
    source: str = "default: embedded, no weights needed",
    machines: Machines | None = None,
    load: dict[str, Any] | None = None,
    workers: int = 4,
    retry_failed: bool = False,
    max_errors: int | None = None,
    limit: int | None = None,
    dry_run: bool = False,
) -> list[Receipt] | list[Estimate]:
    """Run the encoders ``specs`` of one modality over every new or changed item; or, ``dry_run``, only estimate that.

    Parameters
    ----------
    source
        Where the choice of encoders comes from, for the note about it.
    load
        Options of `registry.load`: dtype, batch_size, precision, draft.
    workers, retry_failed, max_errors, limit
        See `bundlecache.encode.run.run_all`.

    Raises
    ------
    BundlecacheError
        When an encoder cannot be loaded or fails on everything, or the store refuses.
    """
    specs = list(dict.fromkeys(specs))
    for spec in specs:
        say.note(f"{modality} encoder = {spec} ({source})")
    if any(parent_of(spec, modality, folder.root) for spec in specs):
        how: dict[str, Any] = {"machines": machines, "workers": workers, "retry_failed": retry_failed}
        how |= {"max_errors": max_errors, "limit": limit, "dry_run": dry_run}
        return _encode_derived(folder, catalogue, store, modality, specs, say, load or {}, how)
    graph = modality == "graph"  # one computation on the whole graph: nothing to hand out
    loader = registry.Loader(
        tuple(specs), modality, {**(load or {}), "workspace": folder.root}, catalogue if graph else None
    )
    machines = machines or Machines()
    if dry_run:
        with say.bar(modality) as bar:
            total = min(len(catalogue), limit or len(catalogue))
            return estimate_all(
                loader(machines.devices[0]),
                catalogue,
                folder,
                store,
                workers=workers,
                retry_failed=retry_failed,
                limit=limit,
                devices=len(machines.devices),
                scanned=lambda done: bar.step(done, total, note="looking"),
            )
    with say.bar(modality) as bar, ExitStack() as leaving:
        pool: Any = None
        if machines.engine == "ray" and not graph:
            from bundlecache.encode.ray_pool import RayPool

            pool = leaving.enter_context(RayPool(loader, workers, machines.ray_address, machines.devices[0]))
        elif len(machines.devices) > 1 and not graph:
            from bundlecache.encode.process_pool import ProcessPool

            pool = leaving.enter_context(ProcessPool(loader, list(machines.devices), workers))
        encoders: Any = pool.encoders if pool else loader(machines.devices[0])
        receipts = run_all(
            encoders,
            catalogue,
            folder,
            store,
            progress=bar.encoding,
            pool=pool,
            workers=workers,
            retry_failed=retry_failed,
            max_errors=max_errors,
            limit=limit,
        )
    if bar.spent:
        say.note(f"{modality}: {bar.spent}")
    return receipts


def _encode_derived(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    store: Store,
    modality: str,
    specs: Sequence[str],
    say: Reporter,
    load: dict[str, Any],
    how: dict[str, Any],
) -> list[Any]:
    """Run encoders some of which are made of stored vectors: each after the one of whose vectors, which then has nothing to do."""
    from .derived_run import about_axes, derive

    made_of = {
        step: parent_of(step, modality, folder.root) for each in specs for step in chain(each, modality, folder.root)
    }
    plain = [spec for spec in specs if made_of[spec] is None]
    made: list[Any] = []
    if plain:
        made += encode(folder, catalogue, store, modality, plain, say, source="named", load=load, **how)
    for spec, parent in made_of.items():
        if spec in plain:
            continue
        if parent is None:
            stored = stored_table(store, modality, spec)
            options = {name: value for name, value in load.items() if value != "int8"}
            if stored:
                options = {"dtype": stored.dtype, **registry.options_from_preprocess(stored.preprocess)}
            if not spec.startswith("import:"):  # no encoder makes imported vectors
                source = "others are derived from it"
                made += encode(folder, catalogue, store, modality, [spec], say, source=source, load=options, **how)
        elif not how["dry_run"]:
            dtype = load.get("dtype") or registry.STORED_DTYPES[0]
            dtype = dtype if dtype in registry.STORED_DTYPES else registry.STORED_DTYPES[0]
            encoder = registry.load(spec, modality=modality, catalogue=catalogue, dtype=dtype, workspace=folder.root)
            assert isinstance(encoder, StoredVectorsEncoder)  # noqa: S101 - its parent's vectors are stored by now
            if (told := about_axes(encoder, store)) is not None:
                say.note(told)
            with say.bar(spec) as bar:
                made.append(derive(encoder, catalogue, store, bar.step))
    return made


def encode_sample_again(
    folder: WorkspaceFolder,
    catalogue: Catalogue,
    store: Store,
    info: TableInfo,
    say: Reporter,
    *,
    sample: int,
    seed: int,
    device: str,
) -> tuple[Recheck | None, str]:
    """Encode a sample of a table again and compare it; with a remark. None where that cannot be done here."""
    if not sample or not info.rows:
        return None, "sound"
    if info.preprocess == IMPORTED:
        return None, "sound; made elsewhere, so not encoded again"
    try:
        options = {"device": device, "dtype": info.dtype, **registry.options_from_preprocess(info.preprocess)}
        encoder = registry.load(
            info.spec, modality=info.modality, catalogue=catalogue, workspace=folder.root, **options
        )
        again = recheck.recheck(encoder, catalogue, folder, store, info, sample=sample, seed=seed)
    except BundlecacheError as error:
        say.note(f"{info.spec} is not encoded again: {error.message}")
        return None, "sound; not encoded again"
    same = again.preprocess == info.preprocess
    remark = "differs" if again.differing else "sound"
    return again, remark if same else f"{remark}; libraries or options are others now"
