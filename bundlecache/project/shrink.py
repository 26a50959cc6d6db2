"""Compare smaller forms of an encoder's stored vectors: what each costs an item, and what it loses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BundlecacheError, Command
from ..rows import Rows
from .similar_bench import similar_questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..bench.shrinking import ShrunkRow
    from .session import Session

DIMS = (512, 256, 128, 64, 32)


def shrink(session: Session, encoder: str, *, k: int = 10) -> Rows[ShrunkRow]:
    """A row per dimension and type: bytes an item, recall of the ``k`` nearest items of the full vectors, nDCG@5 lost.

    Nothing is stored; ``encode --encoder`` with the encoder of a row stores its vectors. nDCG@5 is that of the frozen questions
    about similar items among options as popular, where the interactions allow them.

    Raises
    ------
    BundlecacheError
        When the store has no vectors of ``encoder``, they are token features, or ``k`` is out of range.
    """
    from ..bench.shrinking import Shrinking
    from ..candidates.index import check_k
    from ..catalogue.click_log import read_clicks
    from ..features.derived import blocks_of, training_items
    from ..features.principal_axes import PrincipalAxes
    from ..questions.similar_questions import with_users

    check_k(k)
    (full,) = session.matrices_of([encoder])
    if full.vectors.ndim != 2:
        raise BundlecacheError(
            f"{encoder} gives {full.vectors.shape[1]} vectors an item; smaller forms are of one vector an item.",
            hint=Command("status"),
        )
    try:
        questions = similar_questions(session)
        log = read_clicks(session.folder, session.catalogue, questions.header["visit_minutes"])
        questions = with_users(questions, log)
    except BundlecacheError as error:
        session.say.note(f"without nDCG@5: {error.message}")
        questions = None
    width, items = full.vectors.shape[1], np.flatnonzero(training_items(session.catalogue) & full.mask)
    dims = [dim for dim in DIMS if dim < width]
    fits = [dim for dim in dims if dim <= len(items)]
    axes = PrincipalAxes.fit(blocks_of(full, items), fits[0]) if fits else None
    forms: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [(encoder, lambda vectors: vectors)]
    if axes is not None:
        forms += [(f"pca{dim}:{encoder}", axes.first(dim).apply) for dim in fits]
    forms += [(f"first{dim}:{encoder}", partial(_first, dim)) for dim in dims]
    compared = Shrinking(full, k, questions)
    rows: Rows[ShrunkRow] = Rows()
    with session.say.bar("shrink") as bar:
        for number, (spec, form) in enumerate(forms):
            stored = str(full.vectors.dtype) if spec == encoder else "float16"
            rows.append(compared.row(spec, form, stored))
            if stored != "int8":
                rows.append(compared.row(f"int8:{spec}", partial(_bytes_of, form), "int8"))
            bar.step(number + 1, len(forms))
    return rows


def _bytes_of(form: Callable[[np.ndarray], np.ndarray], vectors: np.ndarray) -> np.ndarray:
    from ..features.principal_axes import as_bytes

    return as_bytes(form(vectors))


def _first(dim: int, vectors: np.ndarray) -> np.ndarray:
    return vectors[:, :dim]
