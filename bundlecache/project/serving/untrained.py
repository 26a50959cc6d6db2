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
    with session.say.bar("fit") as bar:
        told = [0]

        def step(name: str) -> None:
            told[0] = min(told[0] + 1, ranker.fit_steps)
            bar.step(told[0], ranker.fit_steps, name)

        sources.listeners.append(step)
        _ = ranker.fitted
        sources.listeners.remove(step)
    make_folder(path.parent)
    saved_ranker.save(ranker, path)
    return ranker
