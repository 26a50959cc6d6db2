"""Experimental: what drawing a picture by its codes asks first, the items that the model retrieves for a query.

As in the paper's eq. 9, items are retrieved first, by the model's own scores of ``search``; the prompt shows picture, text
and codes of the best of them, and the answer is the codes of the picture to draw (`bundlecache.train.unimp.prompts`). Codes
are ids behind those of the items (`Vocabulary.codes`). Notation: q questions, t codes of a picture, I items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from bundlecache.errors import Command, StoreError

from .item_scores import item_scores

if TYPE_CHECKING:
    from bundlecache.questions.task_file import TaskQuestions
    from bundlecache.store.store import Matrix

    from .model import UniMP
    from .prompts import Prompts

RETRIEVED = 2
UNREACHED = np.float32(-1e30)  # the score of an item that no beam reaches


def count_of(codes: Matrix) -> int:
    """How many different codes a vocabulary needs for stored ones [I, t, 1], which begin with 1.

    Raises
    ------
    StoreError
        When fewer items have a picture than the prompt shows, or these are no codes.
    """
    spec, few = codes.spec, int(codes.mask.sum()) <= RETRIEVED
    if codes.vectors.shape[1:] != (codes.vectors.shape[1], 1):
        raise StoreError(
            f"{spec} stores features, not codes of pictures, so no picture can be made of them.",
            hint="--set vision.codes=vqgan:FOLDER",
        )
    if few:
        raise StoreError(
            f"{int(codes.mask.sum())} items have picture codes of {spec}; drawing needs more than {RETRIEVED}.",
            hint=Command("encode", "--modality", "image", "--encoder", spec),
        )
    return int(codes.vectors.max(initial=0))


def check_count(codes: Matrix, count: int) -> None:
    """Refuse stored codes beyond those that a model was built for.

    Raises
    ------
    StoreError
        With both numbers.
    """
    if (most := int(codes.vectors.max(initial=0))) > count:
        raise StoreError(
            f"The store has picture codes up to {most:,}, and the model was built for {count:,}.",
            hint=[
                Command("train", "--recipe", "unimp", "--set", "data.tasks=recommend,search,draw"),
                "makes a new run",
            ],
        )


@torch.inference_mode()
def retrieve(model: UniMP, prompts: Prompts, asked: TaskQuestions, *, without_target: bool = False) -> TaskQuestions:
    """Questions of ``draw`` with the `RETRIEVED` best items for the query as ``candidates`` [q, RETRIEVED], best first.

    These are items with codes, by the model's own scores of ``search``; ``without_target`` never shows what is to be drawn.
    The model is as it was afterwards, and rows do not depend on its dropout.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    scores = item_scores(model, prompts.ask(replace(asked, task="search")))
    for module, training in modes:
        module.training = training
    known = np.where(prompts.drawable, np.maximum(scores, UNREACHED), -np.inf)
    if without_target:
        known[np.arange(len(asked)), asked.target] = -np.inf
    best = np.argsort(-known, axis=1, kind="stable")[:, :RETRIEVED]
    return replace(asked, candidates=best.astype(np.int32))
