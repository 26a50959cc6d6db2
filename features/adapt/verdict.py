"""What came of an adaptation, in words: whether it found more than zero-shot, and by how much for certain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .retrieval import gain

if TYPE_CHECKING:
    import numpy as np

    from .loop import Adaptation
    from .retrieval import Retrieval


def verdict(
    adaptation: Adaptation, before: Retrieval, after: Retrieval, each: tuple[np.ndarray, np.ndarray], paired: bool
) -> list[str]:
    """Sentences about the pairs of the side ``test``, which chose nothing; the first one is the verdict.

    Parameters
    ----------
    before, after, each
        The figures at zero-shot and of the kept epoch, and for both the MRR of each pair.
    paired
        Whether zero-shot means anything: towers that never met find nothing before they are trained.
    """
    sentences = []
    best = adaptation.best_epoch
    if best.epoch == 0:
        sentences.append("No epoch was better than zero-shot on held-out pairs, so nothing was saved.")
    else:
        mean, low, high = gain(*each)
        start = "zero-shot" if paired else "the untrained pair"
        change = f"MRR from {before.mrr:.3f} to {after.mrr:.3f} on {after.pairs} test pairs, {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        if low > 0:
            sentences.append(f"Epoch {best.epoch} is better than {start}: {change}.")
        elif high < 0:
            sentences.append(f"Epoch {best.epoch} is worse than {start} on test pairs: {change}; use the parent.")
        else:
            sentences.append(f"Epoch {best.epoch} is not certain to be better than {start}: {change}.")
    if adaptation.collapse:
        sentences.append(
            f"The training collapsed and was ended: {adaptation.collapse}. Type a smaller --set training.lr=RATE."
        )
    zero_shot, kept = adaptation.epochs[0].probes, best.probes
    sentences += [
        f"{name} fell from {zero_shot[name]:.3f} to {kept[name]:.3f}."
        for name in sorted(kept.keys() & zero_shot.keys())
        if best.epoch and kept[name] < zero_shot[name]
    ]
    return sentences
