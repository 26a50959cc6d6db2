"""Where rows of items begin: at what their texts, histories and pictures tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import unimp_shop as world
from torch.nn import functional as F

from bundlecache.train.unimp import checkpoint, start_rows
from bundlecache.train.unimp.pictures import TokenTable


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


def test_pictures_that_differ_in_one_number_get_opposite_directions():
    made = start_rows.looks(TokenTable(world.pictures(), torch.device("cpu")))
    there = np.arange(world.ITEMS) % 7 > 0
    cosines = (made @ made.T)[there][:, there]
    kinds = np.arange(world.ITEMS)[there] % 2
    assert cosines[kinds == 0][:, kinds == 0].mean() > 0.7
    assert cosines[kinds == 0][:, kinds == 1].mean() < -0.7
    assert torch.equal(made[~there], torch.zeros_like(made[~there]))


@pytest.mark.parametrize("parts", [["text"], ["histories"], ["pictures"], ["text", "histories", "pictures"]])
def test_rows_begin_at_the_sum_of_their_parts_and_are_as_long_as_words(base, parts):
    torch.manual_seed(0)
    made = of(base, parts)
    model = made.model
    rows = model.rows.input[model.vocabulary.items.start - model.vocabulary.base_size :].detach()
    length = model.core.get_input_embeddings().weight.norm(dim=1).mean()
    known = np.arange(world.ITEMS) % 7 > 0 if parts == ["pictures"] else np.ones(world.ITEMS, bool)
    torch.testing.assert_close(rows[known].norm(dim=1), length.expand(int(known.sum())))
    cosines = F.normalize(rows[known], dim=1) @ F.normalize(rows[known], dim=1).T
    kinds = np.arange(world.ITEMS)[known] % 2
    assert cosines[kinds == 0][:, kinds == 0].mean() > cosines[kinds == 0][:, kinds == 1].mean() + 0.1


def test_titles_tell_where_rows_begin_when_prompts_show_no_text(base):
    rows = {}
    for shown in ([], ["title"]):
        torch.manual_seed(0)
        model = of(base, ["text"], prompt={"attributes": shown, "attribute_names": False}).model
        rows[bool(shown)] = model.rows.input[model.vocabulary.items.start - model.vocabulary.base_size :]
    torch.testing.assert_close(rows[True], rows[False])


def of(base, parts, **sections):
    recipe = world.recipe(base, items={"start": parts}, **sections)
    data = world.data()
    return checkpoint.assemble(data.catalogue, recipe, data.pictures, None, torch.device("cpu"), seen=data.seen)
