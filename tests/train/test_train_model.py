"""The model: soft places get the right vectors, the answer is read where it stands, and batches do not matter."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from helpers import train_shop as world

from bundlecache.errors import RecipeError, StoreError
from bundlecache.recipes.settings import Base, Lora
from bundlecache.train.inference.item_tokens import attention
from bundlecache.train.inference.scoring import complete, orders, score, score_options, score_variants
from bundlecache.train.inference.tournament import play
from bundlecache.train.model import embeddings
from bundlecache.train.model import llm as llms
from bundlecache.train.model.bundle_mllm import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cat():
    return world.catalogue()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def model(cat, base):
    torch.manual_seed(0)
    made = build(cat.titles, world.matrices(), world.recipe(base), CPU)
    made.mode = "mm"
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # an adapter that does something
    return made.eval()


def test_the_hybrid_sequence_is_words_then_separator_then_the_items_token(model):
    given, options = [np.array([3]), np.array([1, 2])], [np.array([4, 5]), np.array([3, 0])]
    batch = model.prompts.build(given, options, "mm")
    with torch.inference_mode():
        tokens = model.item_tokens(batch.items)
        mixed = model.embed(batch.ids, tokens)
        words = model.llm.get_input_embeddings().weight
    for q, (shown, offered) in enumerate(zip(given, options, strict=True)):
        order = iter([*shown, *offered])
        for place in range(batch.last[q] + 1):
            code = batch.ids[q, place]
            if code >= 0:
                assert torch.equal(mixed[q, place], words[code])
            elif code == -1:
                assert torch.equal(mixed[q, place], model.tokens.separator)
            else:
                alone = model.item_tokens(np.array([next(order)]))[0]
                torch.testing.assert_close(mixed[q, place], alone, atol=1e-6, rtol=0)
        assert next(order, None) is None


def test_the_separator_starts_at_the_embedding_that_the_recipe_names(cat, base, model):
    sep = model.base.tokenizer.convert_tokens_to_ids("<sep>")
    assert torch.equal(model.tokens.separator, model.llm.get_input_embeddings().weight[sep])
    torch.manual_seed(0)
    drawn = build(cat.titles, world.matrices(), world.recipe(base, prompt={"separator_init": ""}), CPU)
    assert drawn.tokens.separator.abs().sum() > 0
    none = build(cat.titles, world.matrices(), world.recipe(base, prompt={"separator": "none"}), CPU)
    assert none.tokens.separator is None


def test_logits_are_those_of_the_whole_model_at_the_answer(model):
    given, options = [np.array([3]), np.array([1, 2, 7])], [np.array([4, 5]), np.array([3, 0])]
    batch = model.prompts.build(given, options, "mm")
    with torch.inference_mode():
        tokens = model.item_tokens(batch.items)
        ours = model.logits(batch, tokens)
        for q, last in enumerate(batch.last):
            whole = model.llm(inputs_embeds=model.embed(batch.ids, tokens)[q : q + 1, : last + 1]).logits[0, -1]
            torch.testing.assert_close(ours[q], whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["mm", "text"])
def test_one_question_at_a_time_gives_what_a_batch_gives(model, cat, mode):
    questions = world.questions(cat)
    many = score(model, questions, batch_size=32, mode=mode)
    one = score(model, questions, batch_size=1, mode=mode)
    np.testing.assert_allclose(one.logits, many.logits, atol=1e-4)
    assert (one.valid == many.valid).all()
    np.testing.assert_allclose(many.probabilities().sum(1), 1, atol=1e-6)


def test_valid_means_that_the_likeliest_token_is_one_of_the_questions_letters(model, cat):
    questions = world.questions(cat)
    answers = score(model, questions)
    for q in range(5):
        batch = model.prompts.build(questions.partial[q : q + 1], list(questions.options[q : q + 1]), "mm")
        with torch.inference_mode():
            top = int(model.logits(batch, model.item_tokens(batch.items)).argmax())
        assert answers.valid[q] == (top in model.prompts.letters[: questions.n_options])


def test_text_mode_is_blind_to_vectors_and_leaving_a_modality_out_is_not(model, cat):
    questions = world.questions(cat)
    full = score(model, questions).logits
    assert (score(model, questions, without=[]).logits == full).all()
    assert (score(model, questions, without=["graph"]).logits != full).any()
    other = build(cat.titles, world.matrices(seed=5), model.recipe, CPU).eval()
    other.load_state_dict(model.state_dict())
    assert (score(other, questions, mode="text").logits == score(model, questions, mode="text").logits).all()
    assert (score(other, questions, mode="mm").logits != full).any()
    with pytest.raises(RecipeError, match="audio"):
        score(model, questions, without=["audio"])
    with pytest.raises(RecipeError, match="mode"):
        score(model, questions, mode="smell")


def test_mean_attention_counts_only_what_items_have(model, cat):
    questions = world.questions(cat)
    found = attention(model, questions)
    items = np.unique(questions.options)
    mask = model.embeddings.mask[torch.from_numpy(items.astype(np.int64))].numpy()
    assert found["items"] == mask.any(1).sum()
    assert found["names"] == list(model.embeddings.names)
    assert sum(found["weight"]) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(found["present"], mask[mask.any(1)].mean(0), atol=1e-5)
    np.testing.assert_allclose(np.sum(found["matrix"], axis=1), 1, atol=1e-4)


def test_complete_ranks_all_candidates(model):
    ranked = complete(model, np.array([1, 3]), [5, 7, 2])
    assert sorted(item for item, _ in ranked) == [2, 5, 7]
    assert [p for _, p in ranked] == sorted((p for _, p in ranked), reverse=True)
    assert sum(p for _, p in ranked) == pytest.approx(1)
    assert score_options(model, [], np.zeros((0, 4), np.int32)).logits.shape == (0, 4)


def consistent(groups):
    """Asks a model that judges option k by itself at -0.3 * (7 k mod n)."""
    return [(-0.3 * ((7 * group) % 1009), np.ones(len(group), bool)) for group in groups]


@pytest.mark.parametrize("n", [21, 50, 100, 1000])
@pytest.mark.parametrize("size", [2, 3, 10, 20])
def test_a_tournament_of_independent_judgements_equals_asking_at_once(n, size):
    asked = []

    def ask(groups):
        asked.extend(group.shape[1] for group in groups)
        return consistent(groups)

    scores, valid = play(ask, 3, n, size)
    whole = consistent([np.tile(np.arange(n), (3, 1))])[0][0]
    whole = whole - np.log(np.exp(whole).sum(1, keepdims=True))
    difference = scores - whole  # one scale, whose zero is the finalists' instead of everyone's
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-6)
    assert max(asked) <= size
    assert valid.all()


def test_more_options_than_letters_are_all_ranked_and_winners_come_from_the_final(model, cat):
    given = [np.array([1, 3]), np.array([0])]
    options = np.stack([np.setdiff1d(np.arange(world.ITEMS), [1, 3])[:40], np.arange(4, 44)])
    assert len(model.prompts.letters) < 40
    answers = score_options(model, given, options)
    assert np.isfinite(answers.logits).all()
    one = [score_options(model, given[q : q + 1], options[q : q + 1], batch_size=3).logits[0] for q in range(2)]
    np.testing.assert_allclose(np.stack(one), answers.logits, atol=1e-3)
    fewer = options[:, :9]
    assert (
        np.abs(score_options(model, given, fewer, at_once=9).logits - score_options(model, given, fewer).logits).max()
        > 0.01
    )
    with pytest.raises(RecipeError, match="letters for 2 to"):
        score_options(model, given, fewer, at_once=27)
    ranked = complete(model, given[0], options[0].tolist())
    assert sorted(i for i, _ in ranked) == sorted(options[0].tolist())
    assert sum(p for _, p in ranked) == pytest.approx(1, abs=1e-5)


def test_orders_are_the_own_one_first_and_put_every_option_everywhere():
    for n, count in ((4, 4), (10, 10), (10, 20)):
        made = orders(n, count)
        assert made[0].tolist() == list(range(n))
        assert len({tuple(order) for order in made}) == count
        for block in range(0, count, n):
            assert all(len(set(column)) == n for column in np.stack(made[block : block + n]).T.tolist())
    assert [order[0] for order in orders(10, 3)] == [0, 3, 6]


def test_asked_in_all_orders_the_place_of_an_option_no_longer_matters(model):
    given, options = [np.array([1, 3])] * 2, np.array([[5, 7, 2, 9], [9, 5, 7, 2]])  # the same, turned by one
    once, often = (score_options(model, given, options, permutations=p) for p in (1, 4))
    assert np.abs(np.roll(once.logits[1], -1) - once.logits[0]).max() > 1e-3
    np.testing.assert_allclose(np.roll(often.logits[1], -1), often.logits[0], atol=1e-4)
    mean = np.zeros(4)
    for order in orders(4, 4):
        mean[order] += score_options(model, given[:1], options[:1, order]).probabilities()[0] / 4
    np.testing.assert_allclose(often.probabilities()[0], mean, atol=1e-5)


def test_what_prompts_begin_with_is_read_once_and_changes_nothing(model, cat, monkeypatch):
    from bundlecache.train.model import bundle_mllm as models

    given, same = [np.array([3, 1, 2])] * 3, np.array([[4, 5, 7, 8], [9, 11, 10, 6], [12, 5, 13, 20]])
    other = [np.array([3]), np.array([1, 2, 9]), np.array([8])]
    read = []
    decoder = model.llm.get_base_model().model
    hook = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    made = {}
    for share in (0.0, 2.0):
        monkeypatch.setattr(models, "MIN_SHARED_SHARE", share)
        made[share] = []
        for partial in (given, other):
            batch = model.prompts.build(partial, list(same), "mm")
            model.train_only("fusion")
            model.zero_grad(set_to_none=True)
            model(batch, np.array([1, 0, 3]), 4, "mm").backward()  # stage 2: gradients go through the rest alone
            made[share] += [p.grad.clone() for p in model.tokens.parameters() if p.grad is not None]
            with torch.inference_mode():
                made[share].append(model.logits(batch, model.item_tokens(batch.items)))
            model.train_only("joint")
            made[share].append(model(batch, np.array([1, 0, 3]), 4, "mm").detach())
    hook.remove()
    for shared, whole in zip(made[0.0], made[2.0], strict=True):
        torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-5)
    prefixes = [shape for shape in read if shape[0] == 1]
    assert len(prefixes) == 4, "twice in stage 2, twice in scoring, never where the adapter learns"
    batch = model.prompts.build(given, list(same), "mm")
    in_common = int((batch.ids == batch.ids[:1]).all(0).argmin())
    assert [shape[1] for shape in prefixes[:2]] == [int((batch.ids[0] < 0).argmax()), in_common]
    assert prefixes[2] == prefixes[3]


def test_the_ladder_holds_every_rung_of_a_run(model, cat):
    seen = []
    variants = score_variants(model, world.questions(cat), progress=lambda done, of: seen.append((done, of)))
    assert list(variants.answers) == ["Bundle-MLLM", "Bundle-MLLM, titles only (stage 1)", "zero-shot LLM"]
    assert list(variants.ablation) == ["image", "graph"]
    assert set(variants.seconds) == set(variants.answers) | set(variants.ablation)
    assert seen[-1][0] == seen[-1][1]
    text = score(model, world.questions(cat), mode="text").logits
    assert (variants.answers["zero-shot LLM"].logits != text).any()  # the adapter was off


def test_titles_alone_are_no_stage_1_where_stage_2_trained_what_they_use(model, cat, monkeypatch):
    monkeypatch.setattr(model, "own_state", lambda: {"answer.direction": torch.zeros(1)})
    assert list(score_variants(model, world.questions(cat), ablation=False).answers)[1] == "Bundle-MLLM, titles only"


def test_of_two_encoders_of_a_modality_the_ladder_leaves_out_one_at_a_time(cat, base):
    matrices = world.matrices()
    matrices["test:other"] = world.matrix("image", world.matrices(seed=5)["image"].vectors)
    recipe = world.recipe(base, fusion={"modalities": ["image", "graph", "test:other"]})
    model = build(cat.titles, matrices, recipe, CPU).eval()
    assert model.embeddings.names == list(recipe.fusion.modalities), "weights of the input nets are kept by place"
    model.mode = "mm"
    variants = score_variants(model, world.questions(cat))
    logits = [
        variants.answers["Bundle-MLLM"].logits,
        *(variants.ablation[name].logits for name in model.embeddings.names),
    ]
    assert all((one != other).any() for one, other in itertools.combinations(logits, 2))


def test_rows_are_gathered_alike_from_the_device_and_from_disk():
    matrices = world.matrices()
    mapped, resident = (embeddings.EmbeddingTable.of(matrices, (), CPU) for _ in range(2))
    resident._resident = [embeddings._on_device(matrix.vectors, CPU) for matrix in matrices.values()]
    items = np.array([5, 0, 31])
    for a, b in zip(resident.rows(items)[0], mapped.rows(items)[0], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(resident.rows(items)[1], mapped.rows(items)[1])
    assert not resident.rows(items, ["graph"])[1][:, 1].any()


def test_vectors_are_never_read_whole_on_a_cpu(monkeypatch):
    matrices = world.matrices()
    read = []

    class Watched(np.ndarray):  # says how many rows are read at once
        def __getitem__(self, at):
            found = super().__getitem__(at)
            read.append(len(found) if found.ndim > 1 else 1)
            return np.asarray(found)

    some = {name: dataclasses.replace(m, vectors=m.vectors.view(Watched)) for name, m in matrices.items()}
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 4)
    monkeypatch.setattr(embeddings, "WHOLE_BYTES", 0)
    table = embeddings.EmbeddingTable.of(some, (), CPU)
    table.rows(np.array([3, 1]))
    assert table.moments(0) is not None
    assert max(read) <= 4


def test_moments_added_up_in_blocks_are_those_of_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    (matrix, *_) = world.matrices().values()
    vectors = (1000 + rng.normal(size=(503, 3)) * [1e-2, 1, 50]).astype(np.float32)
    mask = rng.random(503) < 0.9
    table = embeddings.EmbeddingTable({"image": dataclasses.replace(matrix, vectors=vectors, mask=mask)}, CPU)
    monkeypatch.setattr(embeddings, "BLOCK_ROWS", 100)
    monkeypatch.setattr(embeddings, "WHOLE_BYTES", 0)
    mean, deviation = table.moments(0)
    exact = vectors[mask].astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), exact.std(0), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"base": {"model": "/no/such/folder"}}, "/no/such/folder"),
        ({"base": {"model": "nobody/has-this"}}, "nobody/has-this"),
        ({"lora": {"targets": ["c_attn"]}}, "c_attn"),
        ({"fusion": {"modalities": ["audio"]}}, "audio"),
        ({"data": {"options": 30}}, "letters"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(cat, base, settings, word):
    with pytest.raises((RecipeError, StoreError), match=word):
        build(cat.titles, world.matrices(), world.recipe(base, **settings), CPU)


def test_a_prompt_longer_than_the_model_reads_is_one_sentence(model):
    batch = model.prompts.build([np.arange(16)] * 1, [np.arange(16, 20)], "mm")
    long = dataclasses.replace(batch, ids=np.zeros((1, 513), np.int64))
    with pytest.raises(RecipeError, match="513"):
        model.embed(long.ids, None)


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match="causal language model"):
        llms.load(Base(model=str(tmp_path)), CPU)


def test_a_fresh_adapter_changes_nothing_and_the_fingerprint_sees_one_weight(base):
    one, two = llms.load(Base(model=str(base)), CPU), llms.load(Base(model=str(base)), CPU)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before = one.model(ids).logits
        after = llms.add_lora(one.model, Lora(dropout=0.0)).eval()(ids).logits
    assert torch.equal(before, after)
    assert llms.fingerprint(two.model) == two.fingerprint
    with torch.no_grad():
        two.model.lm_head.weight[0, 0] += 1
    assert llms.fingerprint(two.model) != two.fingerprint


@pytest.mark.parametrize("count", [0, -1, 1001, 10**20])
def test_a_number_of_orders_that_never_ends_is_refused(count):
    with pytest.raises(RecipeError, match="in 1 to 1,000 orders"):
        orders(4, count)
