"""Adapt an encoder to the pictures and titles of a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BundlecacheError, Command
from .session import IS_FOLLOWER, require_one_process
from .training import overrides_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..features.adapt.run import AdaptResult
    from ..store.store import Matrix
    from .session import Session

DEMO, HEAD, JOIN = "adapt-demo", "adapt-head", "adapt-join"


def adapt(
    session: Session,
    encoder: str | None = None,
    *,
    name: str = "tuned",
    recipe: str | Path | None = None,
    text_encoder: str | None = None,
    image: str | None = None,
    text: str | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    others: Sequence[Path | str] = (),
) -> AdaptResult:
    """Train an encoder on the pictures and titles of this workspace; the result is the encoder ``adapted:NAME``.

    Zero-shot is measured first. The best epoch on held-out pairs is kept; where none is better than zero-shot, there is
    no new encoder, and the verdict says so.

    Parameters
    ----------
    encoder
        The picture tower, and the text tower beside it. If left out, that of the recipe.
    recipe
        Name of a shipped recipe or a TOML file. If left out, "adapt-join" where a text encoder is named, "adapt-head" where an
        encoder is, else "adapt-demo".
    text_encoder
        Another text encoder, joined with the picture tower.
    image, text
        What of each tower learns: "frozen", "head" (a projection of stored vectors), "lora" or "full".
    settings
        Overrides, ``{"training.lr": 1e-5}`` or ``["training.lr=1e-5"]``.
    max_minutes, resume
        Stop and save after so many minutes; go on with the adaptation of this name.
    overwrite
        Replace an earlier adaptation of this name.
    others
        Other workspaces, whose pairs tell after every epoch what was forgotten.

    Raises
    ------
    BundlecacheError
        When towers, pairs and recipe do not fit together.
    """
    from ..features.adapt import run, snapshot
    from ..names import check_name
    from ..recipes import adapt_recipe
    from .adapt_probes import other_catalogue, similar_items

    given = overrides_of(settings)
    if resume:
        if encoder or recipe or text_encoder or image or text or given or seed is not None or overwrite:
            raise BundlecacheError(
                "An adaptation goes on with its own encoder, recipe and seed.",
                hint=Command("adapt", "--resume", resume),
            )
        job = snapshot.read(session.folder.adapted / check_name(resume, "adaptation"))[0]
        resolved = adapt_recipe.from_dict(job["recipe"], name=job["recipe name"], source=snapshot.FILE)
    else:
        named = {"encoder": encoder, "text_encoder": text_encoder, "image": image, "text": text}
        flags = [f'towers.{key}="{value}"' for key, value in named.items() if value]
        flags += [] if seed is None else [f"training.seed={seed}"]
        chosen = recipe or (JOIN if text_encoder else HEAD if encoder else DEMO)
        resolved = adapt_recipe.load(chosen, [*flags, *given], shipped=run.RECIPES)
        if not recipe:
            session.say.note(f"recipe = {chosen}", Command("adapt", "--recipe", "NAME"))

    def matrix_of(modality: str, spec: str) -> Matrix:
        stored = {(info.modality, info.spec) for info in session.store.tables() if info.rows and not info.tokens}
        if (modality, spec) not in stored:
            require_one_process("encode")
            command = Command("encode", "--modality", modality, "--encoder", spec)
            session.say.note(f"The store holds no {modality} vectors of {spec}: encoding them now", command)
            session.run_encoders(modality, [spec])
        return session.store.matrix(session.catalogue.item_ids, modality, spec)

    return run.adapt(
        session.folder,
        session.catalogue,
        resolved,
        session.say,
        matrix_of,
        name=check_name(resume or name, "adaptation"),
        similar=similar_items(session),
        others=[other_catalogue(root) for root in others],
        device=device,
        max_minutes=max_minutes,
        resume=resume is not None,
        overwrite=overwrite,
        writes=not IS_FOLLOWER,
    )
