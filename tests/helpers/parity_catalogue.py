"""A catalogue whose even items bundle only with even ones, its vectors and questions, and every baseline fitted on it."""

from __future__ import annotations

import numpy as np

from bundlecache.baselines.registry import all_baselines
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.questions.question_file import Questions
from bundlecache.store.store import Matrix
from bundlecache.train.set_encoder_baseline import LEARNERS

ITEMS, UNSEEN, OPTIONS = 40, 4, 5


def parity_catalogue(test_bundles_of: int = 2) -> Catalogue:
    """Even items bundle, and are bought, only with even ones; the last four stand nowhere and know no category."""
    rng, seen = np.random.default_rng(0), ITEMS - UNSEEN
    members = [rng.choice(seen // 2, 4, replace=False) * 2 + b % 2 for b in range(150)]
    other = np.random.default_rng(1)
    members[100:] = [other.choice(seen, test_bundles_of, replace=False) for _ in range(50)]
    edges = [(u, i) for u in range(60) for i in rng.choice(seen // 2, 6, replace=False) * 2 + u % 2]
    user, item = np.array(edges, np.int32).T
    names = [f"b{b}" for b in range(150)]
    return Catalogue(
        item_ids=[f"i{i}" for i in range(ITEMS)],
        titles=[f"{'Warm' if i % 2 == 0 else 'Cold'} thing" if i < seen else "" for i in range(ITEMS)],
        columns={
            "category": [
                ("Parity > even" if i % 2 == 0 else "Parity > odd") if i < seen else None for i in range(ITEMS)
            ]
        },
        bundles=Bundles(
            names, [m.astype(np.int32) for m in members], ["train"] * 100 + ["test"] * 50, names, [None] * 150
        ),
        interactions=Interactions([f"u{u}" for u in range(60)], user, item, [f"u{u}" for u in range(60)]),
    )


def parity_matrices() -> dict[str, Matrix]:
    """Vectors that tell even from odd, of length anything; the last four items have none."""
    made = {}
    specs = {
        "text": "descriptor:text",
        "image": "descriptor:picture",
        "ui": "lightgcn:user-item",
        "bi": "lightgcn:bundle-item",
    }
    for seed, (key, spec) in enumerate(specs.items()):
        rng = np.random.default_rng(seed)
        vectors = np.eye(8)[np.arange(ITEMS) % 2] * rng.uniform(1, 9, (ITEMS, 1)) + rng.normal(0, 0.05, (ITEMS, 8))
        mask = np.arange(ITEMS) < ITEMS - UNSEEN
        modality = key if key in ("text", "image") else "graph"
        made[key] = Matrix(modality, spec, key, "f", 1, (vectors * mask[:, None]).astype(np.float16), mask)
    return made


def parity_questions(count: int = 60) -> Questions:
    """One option of the right parity among wrong ones; every third question's last two options are unseen items."""
    rng = np.random.default_rng(9)
    seen = ITEMS - UNSEEN
    partial, options, truth = [], [], []
    for q in range(count):
        own = rng.choice(seen // 2, 4, replace=False) * 2 + q % 2
        wrong = rng.choice(seen // 2, OPTIONS - 1, replace=False) * 2 + 1 - q % 2
        row = np.array([*wrong[: OPTIONS - 1], own[0]])
        if q % 3 == 0:
            row[:2] = rng.choice(np.arange(seen, ITEMS), 2, replace=False)
        order = rng.permutation(OPTIONS)
        partial.append(own[1:].astype(np.int32))
        options.append(row[order])
        truth.append(int(np.flatnonzero(order == OPTIONS - 1)[0]))
    return Questions(
        name="test-random5",
        split="test",
        negatives="random",
        seed=0,
        bundle_ids=[f"q{q}" for q in range(count)],
        partial=partial,
        options=np.array(options, np.int32),
        truth=np.array(truth, np.int64),
        sha256="0" * 64,
        header={},
    )


FITTED = {
    ranker.name: ranker for ranker in all_baselines(parity_catalogue(), parity_matrices(), learners=LEARNERS)
}  # lazily, once for all tests
