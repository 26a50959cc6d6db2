"""Encode the items of a workspace into its store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command
from ..modalities import MODALITIES
from ..rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .session import Session


def use_store(session: Session, address: str | None = None, options: Mapping[str, str] | None = None) -> None:
    """Keep the vectors on an object store from now on, ``s3://BUCKET/PREFIX``.

    Raises
    ------
    BundlecacheError
        When options come without an address, or vectors are stored elsewhere already.
    """
    from ..store import location

    if address is not None:
        location.set_location(session.folder.store, address, dict(options or {}))
    elif options:
        raise BundlecacheError("--store-option was given without --store.", hint="--store s3://BUCKET/PREFIX")


def encode(
    session: Session,
    modality: str = "all",
    *,
    encoder: str | Sequence[str] | None = None,
    fields: str | None = None,
    device: str = "auto",
    engine: str = "local",
    ray_address: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    draft: int | None = None,
    workers: int = 4,
    retry_failed: bool = False,
    max_errors: int | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    store: str | None = None,
    store_options: Mapping[str, str] | None = None,
) -> Rows[Any]:
    """Run frozen encoders once over every new or changed item, into the store; one receipt per encoder.

    The rows are of :class:`bundlecache.encode.run.Receipt`, with ``dry_run`` of
    :class:`bundlecache.encode.estimate.Estimate`.

    Parameters
    ----------
    modality
        "text", "image", "audio", "graph" or "all"; adapted encoders know theirs.
    encoder
        One or several specs ``kind:name``; those that the store has already if left out, else the default ones.
    fields
        Columns that are the text of an item, "title,category"; the title alone if left out.
    device, engine, ray_address
        "auto", "cpu", "cuda", "cuda:0,cuda:1" (a process on each); engine "ray" with the head's address.
    dtype, batch_size, precision, draft
        How vectors are stored (as before, else float16); items per forward; type of the forward pass; reduced reading of JPEGs (pixels).
    workers, retry_failed, max_errors
        Decoding threads; try failed items again; stop when more items fail.
    limit, dry_run
        Look at the first so many items only; store nothing, and say what would be encoded, how long and how large.
    store, store_options
        Keep the vectors on an object store from now on, see :meth:`use_store`.

    Raises
    ------
    BundlecacheError
        When an encoder is unknown or cannot be loaded, or options do not go together.
    """
    from ..features import encode_workspace as stage_a
    from ..features import registry

    specs = [encoder] if isinstance(encoder, str) else list(encoder or ())
    wanted = stage_a.modalities_of(modality, specs, session.folder.root)
    if specs and len(wanted) == len(MODALITIES):
        raise BundlecacheError(
            f"--encoder {specs[0]} was given for all modalities, but an encoder reads one.",
            hint=Command("encode", "--modality", registry.modality_of(specs[0]), "--encoder", specs[0]),
        )
    texts = stage_a.with_columns(session.catalogue, fields, wanted, specs)
    given = {"precision": precision != "auto", "draft": draft is not None}
    stage_a.check_effective(
        [name for name in given if given[name]],
        [(spec, name) for name in wanted for spec in specs or [registry.DEFAULTS[name]]],
    )
    machines = stage_a.Machines.of(device, engine, ray_address)
    if not dry_run:
        use_store(session, store, store_options)
    if modality == "all" and not specs:
        wanted = stage_a.encodable(session.catalogue, session.say)
    load = {"dtype": dtype, "batch_size": batch_size, "precision": precision, "draft": draft}
    return Rows(
        receipt
        for name in wanted
        for receipt in session.run_encoders(
            name,
            texts if name == "text" else specs,
            machines=machines,
            load={name: value for name, value in load.items() if value is not None},
            workers=workers,
            retry_failed=retry_failed,
            max_errors=max_errors,
            limit=limit,
            dry_run=dry_run,
        )
    )
