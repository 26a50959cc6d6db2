"""Percentile bootstraps: 95 % intervals of means over questions, over bundles, and over seeds and questions.

All three draw again what was drawn, with a fixed seed, so that the same values give the same interval to the last digit.
"""

from __future__ import annotations

import numpy as np

DRAWS = 10_000  # of one figure; cheap, because only the distinct values are drawn again
FEWER_DRAWS = 1_000  # of many figures at once, or of seeds and questions


def bootstrap(values: np.ndarray, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of the mean of ``values`` [q] when questions are drawn again.

    Drawing q questions with replacement draws how often each distinct value occurs from a multinomial, so
    only those counts are drawn: the same distribution, without a [draws, q] matrix.

    >>> low, high = bootstrap(np.repeat([0.0, 1.0], 50))  # 50 of 100: about 0.5 +- 1.96 * 0.05
    >>> round(low, 2), round(high, 2)
    (0.4, 0.6)
    >>> bootstrap(np.full(30, 0.1))
    (0.1, 0.1)
    """
    levels, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    if len(levels) == 1:
        return float(levels[0]), float(levels[0])
    total = int(counts.sum())
    rng = np.random.default_rng(seed)
    draws = min(DRAWS, max(1_000, 50_000_000 // len(levels)))
    drawn = rng.multinomial(total, counts / total, size=draws)  # [draws, levels]
    return _ends(drawn @ levels / total, level)


def intervals(
    values: np.ndarray, size: np.ndarray | None = None, *, seed: int = 0, level: float = 0.95, draws: int = FEWER_DRAWS
) -> np.ndarray:
    """The percentile intervals [f, 2] of the means of ``values`` [q, f]: `bootstrap` of many figures at once.

    All columns see the same draws. With ``size`` [q], row q is the sum of so many questions that are drawn
    together, such as those about one bundle, and the mean is that of questions.

    >>> always, half = np.ones(100), np.repeat([0.0, 1.0], 50)
    >>> intervals(np.stack([always, half], axis=1)).round(1).tolist()
    [[1.0, 1.0], [0.4, 0.6]]
    >>> intervals(np.array([[4.0], [0.5]]), np.array([4, 1])).tolist()  # 4 of 4, or half of 1
    [[0.5, 1.0]]
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    size = np.ones(count) if size is None else np.asarray(size, np.float64)
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // max(count, 1))
    means = []
    for done in range(0, draws, block):
        times = rng.multinomial(count, np.full(count, 1 / count), size=min(block, draws - done))  # [block, q]
        means.append(times @ values / (times @ size)[:, None])
    return _percentiles(np.concatenate(means), level)  # [f, 2]


def seeds_interval(values: np.ndarray, draws: int = FEWER_DRAWS) -> tuple[float, float]:
    """The percentile interval of the mean of ``values`` [seeds, q]: seeds are drawn again, then questions.

    >>> seeds_interval(np.array([[1.0, 1.0], [0.0, 0.0]]))  # two seeds that disagree about everything
    (0.0, 1.0)
    """
    if len(values) == 1:
        return bootstrap(values[0])
    rng = np.random.default_rng(0)
    seeds, questions = values.shape
    means = np.empty(draws)
    for k in range(draws):
        chosen = values[rng.integers(seeds, size=seeds)].mean(0)
        means[k] = chosen[rng.integers(questions, size=questions)].mean()
    return _ends(means)


def _percentiles(means: np.ndarray, level: float) -> np.ndarray:
    """Both ends [..., 2] of the middle ``level`` of drawn means [draws, ...]."""
    tail = (1 - level) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def _ends(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    low, high = _percentiles(means, level).tolist()
    return low, high
