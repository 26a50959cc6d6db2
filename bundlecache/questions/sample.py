"""A fixed sample of a question set: at most so many questions, the same ones in every run, seed and kind of wrong options.

Which questions stay follows from the bundles' ids and a seed alone. So the random and the hard questions about the same
bundles are sampled alike, sets that differ by their seed ask about the same bundles, and results of different runs are
about the same questions. Each length of a bundle keeps its share.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .question_file import Questions
    from .task_file import TaskQuestions

MAX_QUESTIONS = 5_000  # of a set that are asked when nothing else is said; the 95 % interval of a rate is then +-0.014
SEED = 0
RULE = (
    "each length of a bundle by its share, then the lowest BLAKE2b of SEED/sample/BUNDLE_ID/N"  # N: its N-th question
)
USER_RULE = "the lowest BLAKE2b of SEED/sample/USER_ID/N"  # N: the user's N-th question
EVERYTHING = 0  # the size that asks all questions


@dataclass(frozen=True)
class SampleInfo:
    """How questions were sampled: ``n_questions`` stayed of ``of``; ``sha256`` is that of the whole set."""

    n_questions: int
    of: int
    seed: int
    rule: str
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON of result files."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> SampleInfo:
        """From the JSON of result files."""
        return cls(int(row["n_questions"]), int(row["of"]), int(row["seed"]), str(row["rule"]), str(row["sha256"]))


def sample(questions: Questions, size: int = MAX_QUESTIONS, seed: int = SEED) -> Questions:
    """At most ``size`` of the questions, in their order; all of them, unchanged, where there are no more, or ``size`` is 0.

    The sample's SHA-256 follows from that of the whole set, the size, the seed and the rule. `info` says how it was drawn.
    """
    if size == EVERYTHING or len(questions) <= size:
        return questions
    rows = chosen(questions.bundle_ids, [len(given) for given in questions.partial], size, seed)
    about = SampleInfo(size, len(questions), seed, RULE, questions.sha256)
    return replace(
        questions,
        bundle_ids=[questions.bundle_ids[row] for row in rows.tolist()],
        partial=[questions.partial[row] for row in rows.tolist()],
        options=questions.options[rows],
        truth=questions.truth[rows],
        sha256=hashlib.sha256(f"{questions.sha256} sample {size} seed {seed}: {RULE}".encode()).hexdigest(),
        header={**questions.header, "sample": about.to_dict()},
    )


def sample_users(asked: TaskQuestions, size: int = MAX_QUESTIONS, seed: int = SEED) -> TaskQuestions:
    """The same of questions about user histories, of whose users each is as likely to stay."""
    if size == EVERYTHING or len(asked) <= size:
        return asked
    rows = chosen(list(asked.users), np.zeros(len(asked)), size, seed)
    about = SampleInfo(size, len(asked), seed, USER_RULE, asked.sha256)
    digest = hashlib.sha256(f"{asked.sha256} sample {size} seed {seed}: {USER_RULE}".encode()).hexdigest()
    return replace(asked.take(rows), header={**asked.header, "sample": about.to_dict(), "sha256": digest})


def info(questions: Questions) -> SampleInfo | None:
    """How these questions were sampled; None where they are a whole set."""
    found = questions.header.get("sample")
    return None if found is None else SampleInfo.from_dict(found)


def chosen(bundle_ids: Sequence[str], lengths: Sequence[int] | np.ndarray, size: int, seed: int = SEED) -> np.ndarray:
    """int64 [size], ascending: the rows of a sample; ``lengths`` [q] are the strata.

    >>> ids, lengths = [f"b{k}" for k in range(100)], [2] * 80 + [7] * 20
    >>> rows = chosen(ids, lengths, 10)
    >>> len(rows), int((rows >= 80).sum())  # a fifth has seven items
    (10, 2)
    """
    times: Counter[str] = Counter()
    keys = []
    for name in bundle_ids:
        keys.append(hashlib.blake2b(f"{seed}/sample/{name}/{times[name]}".encode(), digest_size=8).digest())
        times[name] += 1
    key = np.frombuffer(b"".join(keys), ">u8")
    stratum = np.asarray(lengths, np.int64)
    order = np.lexsort((key, stratum))  # by length, then by hash
    _, start, count = np.unique(stratum[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(start, count)  # [q] within its stratum
    return np.sort(order[place < np.repeat(_shares(count, size), count)])


def _shares(count: np.ndarray, size: int) -> np.ndarray:
    """How many of each stratum [s] are taken, ``size`` in all: in proportion, the remainder to the largest fractions.

    >>> _shares(np.array([80, 20]), 11).tolist(), _shares(np.array([1, 1, 1]), 2).tolist()
    ([9, 2], [1, 1, 0])
    """
    exact = count * size / count.sum()
    whole = np.floor(exact).astype(np.int64)
    left = np.argsort(whole - exact, kind="stable")[: size - int(whole.sum())]
    whole[left] += 1
    return whole
