"""UniMP's parts on tiny models: what pictures reach, what is trained, what is saved, and what is generated."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_unimp as tiny

from bundlecache.errors import RecipeError, StoreError
from bundlecache.recipes.unimp_recipe import UnimpStage
from bundlecache.train.training.stage import PEAK
from bundlecache.train.unimp import losses
from bundlecache.train.unimp.batch import Batch
from bundlecache.train.unimp.gated_attention import GatedBlock
from bundlecache.train.unimp.model import build
from bundlecache.train.unimp.pictures import TokenTable
from bundlecache.train.unimp.resampler import Resampler
from bundlecache.train.unimp.stages import parameter_groups
from bundlecache.train.unimp.vocabulary import AtomicIds, SemanticIds, Vocabulary

LLAMA, NEOX = tiny.CONFIGS
OTHERS = {
    "OPTForCausalLM": {"word_embed_proj_dim": 12, "ffn_dim": 24, "max_position_embeddings": 64, "pad_token_id": 1},
    "GPT2LMHeadModel": {"n_positions": 64, "n_layer": 3, "n_head": 2, "n_embd": 16},
    "MptForCausalLM": {"d_model": 16, "n_heads": 2, "n_layers": 3, "expansion_ratio": 2, "max_seq_len": 64},
    "Gemma2ForCausalLM": {"intermediate_size": 24, "head_dim": 8, "num_key_value_heads": 1, "sliding_window": 8},
}  # families whose layers, embeddings, heads or caches differ


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def folder(name):
        if name not in made:
            config = {} if name in tiny.CONFIGS else {**tiny.COMMON, **OTHERS[name]}
            made[name] = tiny.save_base(tmp_path_factory.mktemp(name), name, **config)
        return made[name]

    return folder


def digest(llm):
    state = {name: value.numpy().tobytes() for name, value in llm.state_dict().items() if "lora_" not in name}
    return hashlib.sha256(b"".join(state[name] for name in sorted(state))).hexdigest()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_alike(one, other, rtol=1e-5):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=rtol, atol=rtol * float(value.abs().max()))


@pytest.mark.parametrize("name", [LLAMA, NEOX, *OTHERS])
@torch.no_grad()
def test_closed_gates_leave_the_logits_of_any_family_to_the_bit(folder_of, name):
    model = tiny.model_of(folder_of(name))
    ids = torch.tensor([[5, 9, 30, 2, 11, 8, 3, 27, 30, 1]])
    plain = model.core(ids, use_cache=False).logits
    batch = Batch(ids, ids >= 0, ids < 0, torch.ones(1), torch.tensor([[2]]))
    opened = model.logits(model.hidden(batch, batch.there))
    assert not torch.equal(opened[:, : tiny.WORDS], plain[0])
    for block in model.blocks.values():
        block.gate.zero_()
        block.feed_gate.zero_()
    assert torch.equal(model.logits(model.hidden(batch, batch.there))[:, : tiny.WORDS], plain[0])
    model.blocks.remove()
    assert torch.equal(model.core(ids, use_cache=False).logits, plain)


@torch.no_grad()
def test_a_picture_reaches_its_own_positions_first_and_none_before_it(folder_of):
    histories, depth = [([1, 2, 5], 4)], {}
    for features in (tiny.pictures().vectors, None):
        matrix = tiny.pictures()
        if features is None:
            matrix.vectors[2] += 1  # of the second picture
        model = tiny.model_of(folder_of(LLAMA), matrix=matrix, every_n=1)
        seen = depth.setdefault(features is None, [])
        for layer in model.decoder.layers:
            layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
        batch = tiny.batch_of(model.vocabulary, histories)
        model.hidden(batch, batch.there)
    time = (batch.ids[0] == model.vocabulary.image).cumsum(0)
    changed = [((one - other).abs().amax((0, 2)) > 1e-6) for one, other in zip(*depth.values(), strict=True)]
    assert torch.equal(changed[0], time == 2)  # in front of the first layer is the first block
    assert all(torch.equal(some[time >= 2], torch.ones_like(some[time >= 2])) for some in changed[1:])
    assert not any(some[time < 2].any() for some in changed)


@torch.no_grad()
def test_an_item_without_picture_is_not_seen(folder_of):
    model = tiny.model_of(folder_of(NEOX))
    batch = tiny.batch_of(model.vocabulary, [([tiny.WITHOUT, 6], 0)])
    pictures, x = model.see(batch), torch.randn(1, batch.ids.shape[1], 16)
    block = model.blocks["1"]
    for look, before in ((block._exclusive, pictures.time == 1), (block._all_before, pictures.time == 1)):
        seen = look(x, pictures)[0]
        assert not seen[(before | (pictures.time == 0))[0]].any()
        assert seen[pictures.time[0] == 2].abs().amin(1).gt(0).all()


@pytest.mark.parametrize("exclusive", [True, False])
@torch.no_grad()
def test_a_row_alone_is_the_row_among_others(folder_of, exclusive):
    model = tiny.model_of(folder_of(LLAMA), exclusive=exclusive)
    batch = tiny.batch_of(model.vocabulary)
    many = model.hidden(batch, batch.there)
    alone = [model.hidden(one := batch.take([r]), one.there) for r in range(len(batch))]
    torch.testing.assert_close(torch.cat(alone), many, atol=1e-5, rtol=1e-5)
    model.keep_latents()
    torch.testing.assert_close(model.hidden(batch, batch.there), many, atol=1e-5, rtol=1e-5)
    model.sight.resampler.norm.bias += 1
    torch.testing.assert_close(model.hidden(batch, batch.there), many, atol=1e-5, rtol=1e-5)
    model.train().eval()  # training changes the resampler, so nothing is kept beyond it
    assert (model.hidden(batch, batch.there) - many).abs().max() > 1e-3


def test_pieces_and_parts_of_a_step_add_up_to_it(folder_of, monkeypatch):
    model = tiny.model_of(folder_of(NEOX))
    model.train_only("multitask")
    batch = tiny.batch_of(model.vocabulary)
    whole = model.train()(batch)
    whole.backward()
    expected = gradients(model)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 2 * model.vocabulary.size)  # two labels at once
    model.zero_grad()
    pieces = [model(batch.take(rows), denominator=batch.count) for rows in ([2], [0, 1])]  # the first has no picture
    assert sum(piece.item() for piece in pieces) == pytest.approx(whole.item(), rel=1e-5)
    for piece in pieces:
        piece.backward()
    assert_alike(expected, gradients(model))
    model.zero_grad()
    model(batch.take([2])).backward()
    assert gradients(model).keys() == expected.keys()  # processes exchange the gradients of all, seen or not


def test_half_precision_and_rows_without_labels_or_pictures_train(folder_of):
    batch = tiny.batch_of(tiny.model_of(folder_of(LLAMA)).vocabulary)
    blank = Batch(batch.ids, batch.there, torch.zeros_like(batch.labels), batch.weight, batch.images)
    exact = None
    for number in (torch.float32, torch.bfloat16):
        model = tiny.model_of(folder_of(LLAMA))
        model.core.to(number)
        parameters = model.train_only("multitask")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=number == torch.bfloat16):
            loss = model.train()(batch)
        exact = loss.item() if exact is None else exact
        (loss + model(blank, denominator=1)).backward()
        assert loss.item() == pytest.approx(exact, rel=0.02)
        assert all(p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in parameters)
    first = torch.zeros_like(batch.there)
    first[:, 0] = True  # before any picture
    assert model.hidden(batch, first).shape == (len(batch), 16)


def test_dropout_changes_our_rows_in_training_and_words_never(folder_of):
    model = tiny.model_of(folder_of(LLAMA))
    model.rows.dropout.p = 0.5
    words, ours = torch.arange(4)[None], torch.tensor([list(model.vocabulary.items)[:4]])
    kept = model.rows.embed(model.core, ours)
    dropped = model.rows.train().embed(model.core, ours)
    assert {0.0, 2.0} == {round(float(share), 4) for share in (dropped / kept).flatten()}
    assert torch.equal(model.rows.embed(model.core, words), model.core.get_input_embeddings()(words))


@pytest.mark.parametrize("lora", [0, 2])
def test_the_base_stays_and_only_what_is_named_is_trained_and_saved(folder_of, lora):
    model = tiny.model_of(folder_of(LLAMA), lora=lora)
    before, names = digest(model.core), set(model.own_state())
    parameters = model.train_only("multitask")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    adapter = {name for name in trained if "lora_" in name}
    assert names == trained - adapter
    assert bool(adapter) == bool(lora)
    assert names == {name for name, _ in model.named_parameters() if name.startswith(("sight.", "blocks.", "rows."))}
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    model.train()(tiny.batch_of(model.vocabulary)).backward()
    optimizer.step()
    assert digest(model.core) == before
    assert all(not torch.equal(p, kept[name]) for name, p in model.named_parameters() if name in kept)


def test_rows_and_what_sees_pictures_have_rates_and_decays_of_their_own(folder_of):
    model = tiny.model_of(folder_of(LLAMA), lora=2)
    stage = UnimpStage(lr=1e-3, rows_lr=2e-3, vision_lr=3e-3, weight_decay=0.1, rows_decay=0.2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = model.train_only("multitask")
    groups = parameter_groups(model, parameters, stage)
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, parameters))
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            matrix = name.startswith("blocks.") and parameter.ndim > 1
            sees = name.startswith(("blocks.", "sight."))
            rate, decay = (2e-3, 0.2) if name.startswith("rows.") else (3e-3, 0.1 * matrix) if sees else (1e-3, 0.0)
            assert (group[PEAK], group["weight_decay"]) == (rate, decay), name
    plain = parameter_groups(model, parameters, UnimpStage(lr=1e-3))
    assert {group[PEAK] for group in plain} == {1e-3}


@torch.no_grad()
def test_a_rating_follows_those_of_items_with_the_same_picture_and_of_no_others(folder_of):
    matrix = tiny.pictures()
    matrix.vectors[5] = matrix.vectors[1]  # looks like item 1, and item 2 does not
    model = tiny.model_of(folder_of(LLAMA), matrix=matrix, similar_ratings=True)
    model.ratings.sharpness.fill_(5.0)
    words, (first, last) = model.vocabulary, (model.vocabulary.rates[0], model.vocabulary.rates[4])

    def stars(rating_of_1, rating_of_2, target=5):
        ids = [
            words.image,
            words.answer,
            rating_of_1,
            words.image,
            words.answer,
            rating_of_2,
            words.image,
            words.answer,
        ]
        ids = torch.tensor([ids])
        batch = Batch(ids, ids >= 0, ids < 0, torch.ones(1), torch.tensor([[1, 2, target]]))
        ratings, model.ratings = model.ratings, None
        without = model.hidden(batch, batch.last)
        model.ratings = ratings
        return model.hidden(batch, batch.last) - without

    torch.testing.assert_close(stars(first, last), model.ratings.values[:1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(stars(last, first), model.ratings.values[4:], rtol=1e-3, atol=1e-4)
    assert torch.equal(stars(first, last, tiny.WITHOUT), torch.zeros(1, model.ratings.values.shape[1]))


@pytest.mark.parametrize("name", [LLAMA, NEOX])
def test_recomputed_activations_give_the_same_gradients(folder_of, name):
    found = []
    for recompute in (False, True):
        model = tiny.model_of(folder_of(name), lora=2 if name == LLAMA else 0, every_n=1)
        model.train_only("multitask")
        if recompute:
            tiny.llms.recompute(model.core)
        batch = tiny.batch_of(model.vocabulary)
        model.train()(batch).backward()
        found.append(gradients(model))
    assert_alike(*found)


@pytest.mark.parametrize("name", [LLAMA, NEOX])
def test_the_head_stage_trains_output_rows_without_the_language_model(folder_of, name):
    model = tiny.model_of(folder_of(name))
    tied = model.rows.output is None
    assert tied == (name == LLAMA)
    shared = model.rows.input.detach().clone()
    (rows,) = model.train_only("head")
    assert rows is model.rows.output
    assert torch.equal(rows, shared) == tied
    batch = tiny.batch_of(model.vocabulary)
    loss = model.train()(batch)
    loss.backward()
    expected, rows.grad = rows.grad, None
    labels = model.labels(batch)
    ours = model.head_loss(labels)
    ours.backward()
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(rows.grad, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(model.rows.input, shared)
    with torch.no_grad():
        rows += 1
    fresh = tiny.model_of(folder_of(name))
    fresh.load_own_state({key: value.detach().clone() for key, value in model.own_state().items()})
    assert torch.equal(fresh.rows.output, rows)


@torch.no_grad()
def test_a_grown_catalogue_keeps_the_rows_of_its_old_items(folder_of):
    old, new = tiny.model_of(folder_of(NEOX)), tiny.model_of(folder_of(NEOX))
    new.rows.input += 1
    before = new.rows.input.clone()
    items = np.array([4, -1, 0, 1, 2, 3, 5, 6, 7])  # which old item each is
    rows = new.vocabulary.rows_of(old.vocabulary, items)
    new.load_own_state(old.own_state(), rows)
    first = new.vocabulary.items.start - tiny.WORDS
    assert torch.equal(new.rows.input[:first], old.rows.input[:first])
    assert torch.equal(new.rows.input[first], old.rows.input[first + 4])
    assert torch.equal(new.rows.input[first + 1], before[first + 1])
    assert torch.equal(new.rows.output[first + 6], old.rows.output[first + 5])


@pytest.mark.parametrize("name", [LLAMA, NEOX, "MptForCausalLM", "Gemma2ForCausalLM"])
@torch.no_grad()
def test_cached_generation_is_the_prompt_computed_anew_for_every_token(folder_of, name):
    model = tiny.model_of(folder_of(name))
    prompts = tiny.prompts_of(tiny.batch_of(model.vocabulary))  # of several lengths
    words = list(range(2, tiny.WORDS))
    for r, (best, *_) in enumerate(model.generate(prompts, 5, lambda _: words)):
        row, made, score = prompts.take([r]), [], 0.0
        for _ in range(5):
            ids = torch.cat([row.ids, torch.tensor([made], dtype=torch.long)], dim=1)
            longer = Batch(ids, torch.ones_like(ids, dtype=torch.bool), ids < 0, row.weight, row.images)
            likely = model.logits(model.hidden(longer, longer.last))[0].log_softmax(-1)
            made.append(words[int(likely[words].argmax())])
            score += float(likely[made[-1]])
        assert best.ids == tuple(made)
        assert best.score == pytest.approx(score, abs=1e-4)


@torch.no_grad()
def test_free_text_holds_words_of_the_base_and_stops_at_its_end(folder_of):
    model = tiny.model_of(folder_of(NEOX))
    prompts = tiny.prompts_of(tiny.batch_of(model.vocabulary))
    texts = [best.ids for best, *_ in model.generate(prompts, 6)]
    assert all(0 < len(ids) <= 6 and max(ids) < tiny.WORDS and 1 not in ids for ids in texts)  # 1 ends a text
    at = model.vocabulary.end_of_chunk - tiny.WORDS
    model.rows.output[at] = model.hidden(prompts, prompts.last).mean(0) * 50
    assert [best.ids for best, *_ in model.generate(prompts, 6)] == [()] * len(prompts)


@torch.no_grad()
def test_the_softmax_over_items_ranks_as_a_beam_search_does(folder_of):
    model = tiny.model_of(folder_of(LLAMA))
    prompts = tiny.prompts_of(tiny.batch_of(model.vocabulary))
    hidden = model.hidden(prompts, prompts.last)
    ranks = model.item_logits(hidden).argsort(dim=1, descending=True)
    likely = model.logits(hidden).log_softmax(-1)
    items = model.vocabulary.items
    found = model.generate(prompts, 3, lambda ids: [] if ids else list(items), beams=tiny.ITEMS)
    for r, beams in enumerate(found):
        assert [beam.ids[0] - items.start for beam in beams] == ranks[r].tolist()
        assert [beam.score for beam in beams] == pytest.approx([float(likely[r, b.ids[0]]) for b in beams], abs=1e-5)


@torch.no_grad()
def test_beams_over_several_tokens_are_the_best_of_all_continuations(folder_of):
    model = tiny.model_of(folder_of(NEOX))
    (prompt,) = [tiny.prompts_of(tiny.batch_of(model.vocabulary)).take([0])]
    words, every = [3, 9, 14], []
    for first in words:
        for second in words:
            ids = torch.cat([prompt.ids, torch.tensor([[first, second]])], dim=1)
            longer = Batch(ids, torch.ones_like(ids, dtype=torch.bool), ids < 0, prompt.weight, prompt.images)
            likely = model.logits(model.hidden(longer, longer.there)).log_softmax(-1)
            every.append((float(likely[-3, first] + likely[-2, second]), (first, second)))
    found = model.generate(prompt, 2, lambda _: words, beams=9)[0]
    assert [beam.ids for beam in found] == [ids for _, ids in sorted(every, reverse=True)]


def test_the_parts_have_the_sizes_that_the_paper_names():
    with torch.device("meta"):
        sampler, block = Resampler(1024, 64, 6, 8, 64), GatedBlock(2560, 1024, 8, 64)
    count = [sum(p.numel() for p in part.parameters()) for part in (sampler, block)]
    assert [round(some / 1e6) for some in (count[0], 16 * count[1])] == [63, 898]  # million, with 16 blocks


def test_ids_are_in_one_order_and_semantic_ones_have_several_tokens():
    codes = np.array([[0, 1], [0, 2], [3, 1]])
    words = Vocabulary(100, SemanticIds(codes, 4), codes=6)
    assert (words.image, words.answer, words.end_of_chunk, words.rates.start) == (100, 101, 102, 103)
    assert words.of_items(np.array([2, 0])).tolist() == [[121, 123], [118, 123]]
    assert (words.extra, words.codes) == (32, range(126, 132))
    assert Vocabulary(100, AtomicIds(3)).of_item(2) == (120,)
    with pytest.raises(RecipeError, match="same semantic id"):
        SemanticIds(codes[[0, 0]], 4)


def test_vectors_that_are_no_tokens_and_too_few_layers_are_refused(folder_of):
    matrix = tiny.pictures()
    object.__setattr__(matrix, "vectors", matrix.vectors[:, 0])
    with pytest.raises(StoreError, match="one vector an item"):
        TokenTable(matrix, tiny.CPU)
    with pytest.raises(RecipeError, match="3 layers"):
        tiny.model_of(folder_of(LLAMA), every_n=4)


def test_a_checkpoint_of_open_flamingo_gives_its_resampler_and_blocks(folder_of, tmp_path):
    made = tiny.model_of(folder_of(NEOX))
    back = {"sight.resampler.": "perceiver.", "blocks.1.": "lang_encoder.gpt_neox.layers.1.gated_cross_attn_layer."}
    inside = {".norm_": ".0.norm_", ".attention.to_": ".0.to_", ".feed.": ".1."}, {
        "layer.norm.": "layer.attn.norm.", "layer.attention.": "layer.attn.", "layer.feed.": "layer.ff.",
        "layer.gate": "layer.attn_gate", "layer.feed_gate": "layer.ff_gate",
    }  # fmt: skip
    theirs = {"lang_encoder.gpt_neox.embed_in.weight": torch.zeros(3, 2)}
    for name, value in made.own_state().items():
        for (ours, their), rules in zip(back.items(), inside, strict=True):
            if name.startswith(ours):
                key = name.replace(ours, their)
                for old, new in rules.items():
                    key = key.replace(old, new)
                theirs[key] = value.detach() + 1
    assert "perceiver.layers.0.0.norm_media.weight" in theirs
    torch.save(theirs, tmp_path / "checkpoint.pt")
    start = str(tmp_path / "checkpoint.pt")
    model = build(made.base, made.vocabulary, made.pictures, replace(made.recipe, vision=tiny.vision(start=start)))
    for name, value in model.own_state().items():
        assert torch.equal(value, made.own_state()[name] + 1) or name.startswith("rows."), name
    with pytest.raises(RecipeError, match=r"holds nothing for blocks\.0"):
        tiny.model_of(folder_of(NEOX), every_n=1, start=start)
