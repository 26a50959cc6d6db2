"""Candidates: FAISS finds what plain numpy finds, ties fall the same way, and nothing given is offered."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.matrices import catalogue_and_matrices, matrix, unit

from bundlecache.candidates import candidate_file
from bundlecache.candidates.ann import faiss_module, parse_bytes
from bundlecache.candidates.index import Index
from bundlecache.candidates.search import allowed_items, complete, for_bundles
from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.errors import BundlecacheError, QuestionsError


@pytest.mark.parametrize("queries", [1, 3, 40])  # FAISS takes another path from 20 queries on
def test_results_equal_numpy_argsort(queries):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 24)).astype(np.float16).astype(np.float32)
    index = Index.build([matrix(vectors)])
    query = unit(rng.normal(size=(queries, 24))).astype(np.float32)
    banned = [rng.choice(500, 5, replace=False) for _ in range(queries)]
    items, scores = index.search(query, 20, banned)
    expected = query.astype(np.float64) @ unit(vectors.astype(np.float64)).T
    for q in range(queries):
        expected[q, banned[q]] = -np.inf
        assert items[q].tolist() == np.argsort(-expected[q], kind="stable")[:20].tolist()
        np.testing.assert_allclose(scores[q], expected[q, items[q]], atol=1e-6)


def test_equal_items_come_in_the_order_of_their_index_however_many_they_are():
    vectors = np.zeros((300, 8))
    vectors[:, 0] = 1
    vectors[::3] = np.eye(8)[1]
    index = Index.build([matrix(vectors)])
    query = np.eye(8, dtype=np.float32)[:1]
    items, _ = index.search(query, 7, [np.array([1, 4])])
    assert items[0].tolist() == [2, 5, 7, 8, 10, 11, 13]
    many, _ = index.search(np.repeat(query, 30, 0), 7, [np.array([1, 4])] * 30)
    assert (many == items).all(), "one query and many give the same"


def test_scores_that_only_rounding_tells_apart_are_ties():
    # Every item is the same whole numbers in another order: equal sums, which single precision adds up differently.
    rng = np.random.default_rng(0)
    numbers = rng.integers(-50, 60, 96)
    vectors = np.stack([rng.permutation(numbers) for _ in range(400)]).astype(np.float32)
    index = Index.build([matrix(vectors)])
    query = unit(np.ones((25, 96))).astype(np.float32)
    rough, position = index.structure.search(query, 9)
    assert len(np.unique(rough)) > 1 or position[0].tolist() != list(range(9)), "FAISS alone would do"
    items, _ = index.search(query, 9, [np.array([2])] * 25)
    assert items.tolist() == [[0, 1, 3, 4, 5, 6, 7, 8, 9]] * 25
    one, _ = index.search(query[:1], 9, [np.array([2])])
    assert (one == items[:1]).all()


def test_two_modalities_score_the_weighted_mean_of_their_cosines():
    rng = np.random.default_rng(1)
    text, image = rng.normal(size=(60, 6)), rng.normal(size=(60, 10)) * 50
    index = Index.build({"text": matrix(text), "image": matrix(image, modality="image")}, weights={"image": 3.0})
    given = np.array([4, 9])
    items, scores = index.search(index.query([given]), 58, [given])
    cos_text = unit(text) @ unit(unit(text)[given].sum(0))
    cos_image = unit(image) @ unit(unit(image)[given].sum(0))
    expected = (cos_text + 3 * cos_image) / 4
    expected[given] = -np.inf
    assert items[0].tolist() == np.argsort(-expected, kind="stable")[:58].tolist()
    np.testing.assert_allclose(scores[0], expected[items[0]], atol=1e-5)


def test_an_item_with_none_of_the_modalities_is_no_candidate_and_one_with_some_is():
    rng = np.random.default_rng(2)
    has_text, has_image = np.arange(30) % 3 > 0, np.arange(30) % 2 > 0
    index = Index.build(
        [matrix(rng.normal(size=(30, 5)), has_text), matrix(rng.normal(size=(30, 5)), has_image, "image")]
    )
    items, scores = index.search(index.query([np.array([1])]), 30)
    found = items[0][items[0] >= 0]
    assert sorted(found.tolist()) == np.flatnonzero(has_text | has_image).tolist()
    assert np.isneginf(scores[0][items[0] < 0]).all()


def test_members_without_vectors_do_not_blur_the_query():
    vectors = np.eye(6)
    mask = np.array([True, True, True, True, True, False])
    vectors[5] = 9
    index = Index.build([matrix(vectors, mask)])
    query = index.query([np.array([5]), np.array([0, 5]), np.array([0])])
    assert not query[0].any()
    np.testing.assert_array_equal(query[1], query[2])
    items, _ = index.search(query, 3)
    assert items[0].tolist() == [-1, -1, -1]


def test_rank_is_the_place_in_the_whole_catalogue():
    rng = np.random.default_rng(4)
    index = Index.build([matrix(rng.normal(size=(80, 7)), np.arange(80) != 9)])
    given = [np.array([1, 2]), np.array([3]), np.array([4])]
    truth = np.array([50, 9, 60])
    query = index.query(given)
    ranks = index.ranks(query, truth, given)
    whole, _ = index.search(query, 79, given)
    assert ranks[0] == whole[0].tolist().index(50) + 1
    assert ranks[1] == 0, "item 9 has no vector"
    assert ranks[2] == whole[2].tolist().index(60) + 1


def test_candidates_of_bundles_hold_no_member_and_recall_counts_every_bundle(workspace):
    catalogue, matrices, even = catalogue_and_matrices(workspace)
    made = for_bundles(catalogue, matrices, 8, "test")
    held = splits.hold_out(catalogue, "test")
    assert made.table.num_rows == len(held) == made.header["metrics"]["n"]
    for row, (b, partial, truth) in zip(made.table.to_pylist(), held, strict=True):
        found = catalogue.indices(row["candidates"])
        assert row["bundle_id"] == catalogue.bundles.ids[b]
        assert not set(found.tolist()) & set(partial.tolist())
        assert (even[found] == even[partial[0]]).all(), "even items complete even bundles"
        assert row["scores"] == sorted(row["scores"], reverse=True)
        if catalogue.item_ids[truth] in row["candidates"]:
            assert row["candidates"][row["rank"] - 1] == catalogue.item_ids[truth]
        else:
            assert row["rank"] > 8
    ranks = np.array(made.table.column("rank"))
    assert made.header["metrics"]["recall@8"] == pytest.approx((ranks <= 8).mean(), abs=1e-4)
    assert made.summary()["recall@8"] == made.header["metrics"]["recall@8"]


def test_a_saved_set_comes_back_and_is_refused_beside_other_vectors(workspace):
    catalogue, matrices, _ = catalogue_and_matrices(workspace)
    made = for_bundles(catalogue, list(matrices.values()), 5)
    path = made.save(workspace)
    assert path == workspace.candidates / "text-k5.parquet"
    again = candidate_file.load(path, matrices)
    assert again.table.equals(made.table)
    assert again.header == made.header
    newer = {"text": matrix(matrices["text"].vectors, version=2)}
    for other in (newer, {}):
        with pytest.raises(QuestionsError, match="was made from the text vectors"):
            candidate_file.load(path, other)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(QuestionsError, match="damaged"):
        candidate_file.load(path, matrices)
    with pytest.raises(QuestionsError, match=r"bundlecache candidates --k 5"):
        candidate_file.load(path.with_name("image-k5.parquet"), matrices)


def test_recall_is_told_no_deeper_than_the_catalogue_and_a_mix_has_a_file_of_its_own(workspace):
    catalogue, matrices, _ = catalogue_and_matrices(workspace)
    metrics = for_bundles(catalogue, matrices, 500).header["metrics"]
    assert [name for name in metrics if "@" in name] == ["recall@1", "recall@5", "recall@10", "recall@20"]
    both = {**matrices, "image": matrix(matrices["text"].vectors[:, ::-1], modality="image")}
    paths = [
        for_bundles(catalogue, both, 5, weights=weights).save(workspace)
        for weights in (None, {"text": 2.0, "image": 2.0}, {"image": 3.0})
    ]
    assert paths[0] == paths[1] == workspace.candidates / "text+image-k5.parquet"
    assert paths[2] != paths[0]
    with pytest.raises(QuestionsError, match=r"bundlecache candidates --k 5"):
        candidate_file.load(paths[2].with_name(paths[2].name.replace("text", "audio")), both)


def test_complete_leaves_the_given_items_out_and_says_when_it_cannot(workspace):
    catalogue, matrices, even = catalogue_and_matrices(workspace)
    given = np.flatnonzero(even)[:2]
    found = complete(catalogue, matrices, given, 6)
    assert len(found) == 6
    assert even[found].all()
    assert not set(found.tolist()) & set(given.tolist())
    assert len(complete(catalogue, matrices, given, 100)) == 22
    with pytest.raises(QuestionsError, match="No item was given"):
        complete(catalogue, matrices, given[:0])
    nothing = {"text": matrix(matrices["text"].vectors, np.arange(24) != given[0])}
    with pytest.raises(QuestionsError, match="has a vector of text"):
        complete(catalogue, nothing, given[:1])


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Index.build([]), "No modality is left"),
        (lambda: Index.build([matrix(np.eye(3))], weights={"text": 0}), "text has the weight 0"),
        (lambda: Index.build([matrix(np.eye(3))], weights={"text": -1}), "must be 0 or more"),
        (lambda: Index.build([matrix(np.eye(3))], weights={"image": 1}), "given for 'image'"),
        (lambda: Index.build([matrix(np.eye(3), np.zeros(3, bool))]), "No item has a vector of text"),
        (lambda: Index.build([matrix(np.eye(3))]).search(np.eye(3, dtype=np.float32), 0), "k is 0"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_sentence(build, sentence):
    with pytest.raises(BundlecacheError, match=sentence):
        build()


def test_without_faiss_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BundlecacheError, match=r"bundlecache\[cpu\]"):
        faiss_module()


def test_a_bundle_of_all_items_has_no_completion_and_says_so():
    catalogue = Catalogue(list("abc"), ["", "", ""], {}, Bundles(), Interactions())
    with pytest.raises(QuestionsError, match="holds all 3"):
        complete(catalogue, [matrix(np.eye(3))], np.arange(3, dtype=np.int32))


def test_complete_offers_only_what_a_filter_allows_and_nothing_excluded(workspace):
    catalogue = Catalogue.read(workspace)
    matrices = {"text": matrix(np.random.default_rng(0).normal(size=(len(catalogue), 8)))}
    given = np.array([0, 1], np.int32)
    first = complete(catalogue, matrices, given, 5)
    excluded = [catalogue.item_ids[i] for i in first[:2]]
    allowed = allowed_items(catalogue, exclude=excluded)
    assert allowed.sum() == len(catalogue) - 2
    assert complete(catalogue, matrices, given, 3, allowed=allowed).tolist() == first[2:].tolist()
    with pytest.raises(BundlecacheError, match="is none of the"):
        allowed_items(catalogue, exclude=["nobody"])
    with pytest.raises(BundlecacheError, match="No item is left to offer"):
        allowed_items(catalogue, exclude=catalogue.item_ids)
    nothing = np.zeros(len(catalogue), bool)
    nothing[given] = True
    with pytest.raises(BundlecacheError, match="the bundle holds all 2 that have a vector and may be offered"):
        complete(catalogue, matrices, given, 3, allowed=nothing)


@pytest.mark.parametrize("k", [0, -3, 10_001, 10**12, 10**60])
def test_a_number_of_candidates_that_no_list_has_is_refused(workspace, k):
    catalogue = Catalogue.read(workspace)
    matrices = {"text": matrix(np.eye(len(catalogue)))}
    for call in (lambda: complete(catalogue, matrices, np.array([0]), k), lambda: for_bundles(catalogue, matrices, k)):
        with pytest.raises(BundlecacheError, match="1 to 10,000 candidates can be asked for"):
            call()


HEADERS = ["[" * 20_000, "[]", "{}", '{"vectors": 3}', '{"vectors": {"text": 3}}', '{"vectors": {"text": {}}}', "\xff"]


@pytest.mark.parametrize("header", HEADERS)
def test_a_candidate_set_edited_by_hand_is_one_sentence(workspace, header):
    catalogue = Catalogue.read(workspace)
    matrices = {"text": matrix(np.eye(len(catalogue)))}
    path = for_bundles(catalogue, matrices, 5).save(workspace)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"bundlecache": header}), path)
    with pytest.raises(BundlecacheError, match="damaged or no candidate set") as refused:
        candidate_file.load(path, matrices)
    assert refused.value.hint == "bundlecache candidates --k 5"


@pytest.mark.parametrize("size", ["9" * 400 + "GB", "1" * 30, "\u0664GB", "nan", "inf", "-1"])
def test_a_size_of_memory_that_is_none_is_one_sentence(size):
    with pytest.raises(BundlecacheError, match="is no size of memory"):
        parse_bytes(size)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e308, 1e-300, -1])
def test_a_weight_that_single_precision_cannot_hold_is_refused(weight):
    with pytest.raises(BundlecacheError, match="weight must be 0 or more"):
        Index.build([matrix(np.eye(3))], weights={"text": weight})
