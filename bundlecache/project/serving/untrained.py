"""The learned ranker of a workspace without a trained run: fitted once, and kept in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...baselines.learned import LearnedRanker
    from ...baselines.sources import Sources
    from ..session import Session

FILE = "learned_ranker.npz"  # in candidates/


def fitted_ranker(session: Session, sources: Sources) -> LearnedRanker | None:
    """The learned ranker of ``sources``, fitted; None where there are no bundles or no vectors to learn from."""
    from ...baselines import saved_ranker
    from ...files import make_folder

    path = session.folder.candidates / FILE
    ranker = saved_ranker.restore(sources, path)
    if ranker is None or "fitted" in vars(ranker):
        return ranker
    session.say.note("No trained run: the learned ranker is fitted now, and kept.")
    steps = ranker.fit_steps
    with session.say.bar("fit") as bar, sources.heard(lambda number, what: bar.step(min(number, steps), steps, what)):
        _ = ranker.fitted
    make_folder(path.parent)
    saved_ranker.save(ranker, path)
    return ranker
