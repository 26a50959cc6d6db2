"""Indexes: which is chosen, that the recall it claims is what it has, and that a stale file is never searched."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers.matrices import catalogue_and_matrices, matrix, unit

from bundlecache.candidates import ann, candidate_file, index_file
from bundlecache.candidates.index import Index
from bundlecache.candidates.index_file import open_index
from bundlecache.candidates.item_vectors import ItemVectors
from bundlecache.candidates.search import for_bundles
from bundlecache.catalogue.catalogue import Bundles, Catalogue, Interactions
from bundlecache.catalogue.filters import matching_items
from bundlecache.errors import BundlecacheError, CatalogueError, QuestionsError
from bundlecache.workspace import WorkspaceFolder

COUNT = 2500


@pytest.fixture(scope="module")
def clumps():
    """2,500 vectors of 20 numbers in 125 clumps; every ninth item has none."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(125, 20))
    vectors = centres[rng.integers(125, size=COUNT)] + 0.4 * rng.normal(size=(COUNT, 20))
    return matrix(vectors.astype(np.float16), np.arange(COUNT) % 9 > 0)


def exact_best(clumps, given, k):
    keys = unit(clumps.vectors.astype(np.float64))
    scores = keys @ unit(keys[given].sum(0))
    scores[given] = -np.inf
    scores[~clumps.mask] = -np.inf
    return np.argsort(-scores, kind="stable")[:k], scores


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "pq", "disk"])
def test_an_approximate_index_has_the_recall_that_it_claims_on_queries_it_never_saw(clumps, kind):
    index = Index.build([clumps], kind=kind)
    assert index.kind == kind
    assert not index.exact
    rng = np.random.default_rng(5)
    given = [rng.choice(np.flatnonzero(clumps.mask), 2, replace=False) for _ in range(200)]
    items, scores = index.search(index.query(given), 20, given)
    hits = []
    for q, pair in enumerate(given):
        best, expected = exact_best(clumps, pair, 20)
        np.testing.assert_allclose(scores[q], expected[items[q]], atol=1e-5)
        assert not set(items[q].tolist()) & {*pair.tolist(), -1}
        hits.append(np.isin(items[q], best).mean())
    assert np.mean(hits) >= 0.98, "0.99 was asked for; 200 queries have a standard error"
    assert index.report["recall@20"] >= 0.99
    assert index.report["reached"]
    low = dataclasses.replace(index, effort=1, refine=1)
    assert index.effort > 1 or index.refine > 1, "the effort was raised"
    if kind == "ivf":
        found, _ = low.search(index.query(given), 20, given)
        assert np.mean([np.isin(found[q], exact_best(clumps, given[q], 20)[0]).mean() for q in range(200)]) < 0.97


def test_auto_is_exact_below_the_break_even_and_measures_above_it(clumps):
    assert Index.build([clumps], break_even=COUNT).report == Index.build([clumps]).report | {
        "build_seconds": pytest.approx(0, abs=9)
    }
    small = Index.build([clumps])
    assert small.exact
    assert small.report["recall@20"] == 1.0
    assert small.report["passed_over"] == []
    large = Index.build([clumps], break_even=1000, device="cpu")
    tried = [row["kind"] for row in large.report["passed_over"]]
    if large.exact:  # on a machine where flat is faster than both at this size
        assert tried == ["ivf", "hnsw"]
        assert all(row["faster"] <= 1 or not row["reached"] for row in large.report["passed_over"])
    else:
        assert large.report["faster"] > 1
        assert large.report["reached"]


def test_the_plan_follows_size_and_memory():
    count, width = 1_000_000, 768
    enough = ann.bytes_needed("ivf", count, width)
    assert ann.plan("auto", 49_999, width, memory=1e12) == ["flat"]
    assert ann.plan("auto", 100_000, width, memory=1e12) == ["ivf", "hnsw", "flat"]
    assert ann.plan("auto", count, width, memory=1e12) == ["ivf", "flat"]
    assert ann.plan("auto", count, width, memory=enough - 1) == ["pq", "flat"]
    assert ann.plan("auto", count, width, memory=1e6) == ["flat"]
    assert ann.plan("pq", count, width, memory=1e12) == ["pq"]
    assert ann.plan("ivf", 100, width, memory=1e12) == ["flat"]
    needed = [ann.bytes_needed(kind, count, width) for kind in ("hnsw", "ivf", "pq")]
    assert needed == sorted(needed, reverse=True)
    with pytest.raises(BundlecacheError, match="are allowed"):
        ann.plan("hnsw", count, width, memory=1e9)
    with pytest.raises(BundlecacheError, match="no index 'lsh'"):
        ann.plan("lsh", count, width, memory=1e9)


def test_a_gpu_is_never_asked_to_look_into_more_cells_than_it_can():
    assert ann.efforts("ivf", 4_000_000)[-1] == 4000
    assert ann.efforts("ivf", 4_000_000, gpu=True)[-1] == ann.GPU_MAX_RESULTS


def test_a_gpu_is_planned_with_by_what_is_free_there_and_what_faiss_has_there():
    count, width = 1_000_000, 768
    flat, ivf = (2 * ann.bytes_needed(kind, count, width) for kind in ("flat", "ivf"))
    assert ann.plan("auto", count, width, memory=1e12, room=flat) == ["flat"], "exact, and nothing to build"
    assert ann.plan("auto", count, width, memory=1e12, room=flat - 1) == ["ivf", "flat"]
    assert ann.plan("auto", count, width, memory=1, room=ivf) == ["ivf", "flat"], (
        "on the GPU it takes none of this memory"
    )
    assert ann.plan("auto", count, width, memory=1, room=ivf - 1) == ["pq", "flat"]
    assert ann.plan("pq", count, width, memory=1, room=ivf) == ["pq"]
    with pytest.raises(BundlecacheError, match="are allowed"):
        ann.plan("hnsw", count, width, memory=1, room=1e12)
    assert ann.why_no_gpu("ivf", count, width, ivf) == ""
    assert "takes 3,1" in ann.why_no_gpu("ivf", count, width, ivf - 1)
    assert ann.why_no_gpu("hnsw", count, width, 1e12) == "FAISS has no graph on a GPU"
    assert ann.why_no_gpu("pq", count, 768, 1e12) == ""
    assert "no pq of 104 codes" in ann.why_no_gpu("pq", count, 832, 1e12)
    assert "of 4 bits" in ann.why_no_gpu("pq", 1000, 768, 1e12)
    assert ann.gpu_room(None) == 0
    assert ann.gpu_room(0, 5e9) <= 5e9
    assert ann.gpu_of("cpu") is None
    assert ann.gpu_of("cuda:99") is None


@pytest.mark.gpu
@pytest.mark.skipif(ann.gpu_of() is None, reason="FAISS sees no GPU")
@pytest.mark.parametrize("kind", ["flat", "ivf", "pq"])
def test_on_a_gpu_the_same_is_found_as_on_the_cpu(clumps, tmp_path, kind):
    here, there = (Index.build([clumps], kind=kind, device=device, memory=1e9) for device in ("cpu", "auto"))
    assert (here.report["device"], there.report["device"]) == ("cpu", "gpu"), there.report["remark"]
    assert there.report["recall@20"] >= 0.99
    assert there.report["reached"]
    given = [
        np.array(pair)
        for pair in np.random.default_rng(5).permutation(np.flatnonzero(clumps.mask))[:600].reshape(-1, 2)
    ]
    query = here.query(given)
    (mine, near), (theirs, far) = (index.search(query, 20, given) for index in (there, here))
    if kind == "flat":
        np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(near, far)
    else:
        hits = [np.isin(mine[q], exact_best(clumps, pair, 20)[0]).mean() for q, pair in enumerate(given)]
        assert np.mean(hits) >= 0.98
    whole = there.search(query[:3], COUNT, given[:3])[0]
    np.testing.assert_array_equal(whole, here.search(query[:3], COUNT, given[:3])[0])
    ids = [str(i) for i in range(COUNT)]
    for index, device in ((there, "cpu"), (here, "auto")):  # what is kept is searched on either
        index_file.save(index, tmp_path / "kept.faiss", ids)
        again = index_file.load(tmp_path / "kept.faiss", [clumps], ids, device=device)
        assert again.report["device"] == {"cpu": "cpu", "auto": "gpu"}[device]
        assert (again.search(query, 20, given)[0] == index.search(query, 20, given)[0]).mean() > 0.98
    full = Index.build([clumps], kind="flat", memory=1000)
    assert full.report["device"] == "cpu"
    assert "MB are free and allowed" in full.report["remark"]


def test_the_memory_that_is_told_is_what_faiss_takes(clumps, tmp_path):
    for kind in ("ivf", "hnsw", "pq"):
        index = Index.build([clumps], kind=kind, target=0.5)
        index_file.save(index, tmp_path / f"{kind}.faiss", [str(i) for i in range(COUNT)])
        told = index.report["size_bytes"]
        assert (tmp_path / f"{kind}.faiss").stat().st_size == pytest.approx(told, rel=0.35)


def test_an_index_that_is_allowed_no_memory_is_scanned_and_finds_the_same(clumps):
    held, scanned = Index.build([clumps]), Index.build([clumps], memory=0)
    assert scanned.structure is None
    assert scanned.report["size_bytes"] == 0
    given = [np.array([10, 20]), np.array([33])]
    query = held.query(given)
    for mine, theirs in zip(scanned.search(query, 30, given), held.search(query, 30, given), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_index_that_the_disk_refuses_is_one_sentence(clumps, tmp_path):
    import resource

    index, ids = Index.build([clumps], kind="ivf", target=0.5), [str(i) for i in range(COUNT)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # Python ignores the signal that comes with it
    try:
        with pytest.raises(BundlecacheError, match=r"kept.faiss cannot be written: File too large\."):
            index_file.save(index, tmp_path / "kept.faiss", ids)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir()), "neither a part of it nor a header"
    (tmp_path / "file").write_text("")
    with pytest.raises(BundlecacheError, match="cannot be written"):
        index_file.save(index, tmp_path / "file" / "kept.faiss", ids)


def test_a_kept_exact_index_takes_no_more_memory_than_it_may_either(clumps, tmp_path):
    ids = [str(i) for i in range(COUNT)]
    index_file.save(Index.build([clumps]), tmp_path / "kept.faiss", ids)
    assert index_file.load(tmp_path / "kept.faiss", [clumps], ids, memory=0).structure is None
    assert index_file.load(tmp_path / "kept.faiss", [clumps], ids).structure is not None


def test_banned_items_that_are_not_indexed_do_not_stand_for_ones_that_were_found(clumps):
    few = dataclasses.replace(Index.build([clumps], kind="ivf"), effort=1, refine=1)
    absent = np.flatnonzero(~clumps.mask)
    banned = [np.tile(absent, 9)]
    items, _ = few.search(few.query([np.array([1, 2])]), 600, banned)
    assert (items >= 0).all(), "one cell does not hold so many, and all others are allowed"


@pytest.mark.parametrize("held_out", ["without a vector", "everything", "few"])
def test_queries_that_cannot_measure_recall_are_replaced_by_single_items(clumps, held_out):
    absent, there = np.flatnonzero(~clumps.mask), np.flatnonzero(clumps.mask)
    bundles = {"without a vector": [absent[:3]] * 200, "everything": [there] * 200, "few": [there[:2]] * 3}[held_out]
    report = Index.build([clumps], kind="ivf", held_out=bundles).report
    assert report["queries"] == 256
    assert report["reached"]


def test_a_target_out_of_reach_is_said(monkeypatch):
    monkeypatch.setattr(ann, "REFINEMENTS", (2,))
    vectors = np.random.default_rng(1).normal(
        size=(600, 64)
    )  # nothing is near to anything: a byte for eight numbers is little
    index = Index.build([matrix(vectors)], kind="pq")
    assert not index.report["reached"]
    assert index.report["recall@20"] < 0.99
    assert index.effort == ann.efforts("pq", 600)[-1], "all was tried"
    assert Index.build([matrix(vectors)], target=1.0).report["reached"]


def test_an_inner_product_counts_lengths_and_a_cosine_does_not():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(40, 6)) * np.arange(1, 41)[:, None]
    product = ItemVectors.of([matrix(vectors, modality="graph")], metric="inner product")
    query = product.query([np.array([3, 30])])[0]
    scores = product.take(np.arange(40)) @ query
    expected = vectors @ vectors[[3, 30]].mean(0)
    assert np.argsort(-scores).tolist() == np.argsort(-expected).tolist()
    cosine = ItemVectors.of([matrix(vectors)])
    assert np.allclose(np.linalg.norm(cosine.take(np.arange(40)), axis=1), 1)
    with pytest.raises(BundlecacheError, match="inner product one modality alone"):
        ItemVectors.of([matrix(vectors), matrix(vectors, modality="image")], metric="inner product")
    tokens = matrix(np.zeros((40, 2, 3)))
    with pytest.raises(BundlecacheError, match="token features, 2 an item"):
        ItemVectors.of([tokens])


@pytest.fixture
def kept(workspace):
    catalogue, matrices, even = catalogue_and_matrices(workspace)
    return workspace, catalogue, matrices, even


def many(count=300):
    rng = np.random.default_rng(3)
    catalogue = Catalogue(
        [f"i{i}" for i in range(count)], [f"t{i}" for i in range(count)], {}, Bundles(), Interactions()
    )
    return catalogue, {"text": matrix(rng.normal(size=(count, 12)))}


def test_a_kept_index_is_used_again_or_built_for_other_vectors_and_items(tmp_path):
    workspace = WorkspaceFolder(tmp_path)
    catalogue, matrices = many()
    built, kept = open_index(workspace, catalogue, matrices, kind="ivf")
    again, reused = open_index(workspace, catalogue, matrices, kind="ivf")
    assert (kept, reused) == (False, True)
    assert again.effort == built.effort
    assert again.report["recall@20"] == built.report["recall@20"]
    query = built.query([np.array([1, 2])])
    np.testing.assert_array_equal(again.search(query, 20)[0], built.search(query, 20)[0])
    file = index_file.index_path(workspace, matrices, kind="ivf")
    newer = {"text": matrix(matrices["text"].vectors, version=2)}
    fresh, reused = open_index(workspace, catalogue, newer, kind="ivf")
    assert not reused
    assert "from the text vectors text--x, version 1; now it is text--x, version 2" in fresh.report["remark"]
    assert json.loads(file.with_suffix(".json").read_text())["vectors"]["text"]["version"] == 2
    renamed = dataclasses.replace(catalogue, item_ids=["other", *catalogue.item_ids[1:]])
    with pytest.raises(QuestionsError, match="another list of items"):
        index_file.load(file, newer, renamed.item_ids)
    assert "another list of items" in open_index(workspace, renamed, newer, kind="ivf")[0].report["remark"]
    with pytest.raises(QuestionsError, match="other weights"):
        index_file.load(file, newer, renamed.item_ids, weights={"text": 2.0})
    with pytest.raises(QuestionsError, match="now there is none"):
        index_file.load(file, {"image": newer["text"]}, renamed.item_ids)
    assert fresh.report["kind"] == "ivf"


HARMS = {
    "cut": lambda file, _: file.write_bytes(file.read_bytes()[:-100]),
    "gone": lambda file, _: file.unlink(),
    "a list": lambda _, header: header.write_text("[]"),
    "deep": lambda _, header: header.write_text("[" * 20_000 + "]" * 20_000),
    "no text": lambda _, header: header.write_bytes(b"\xff\xfe"),
    "format": lambda _, header: edit(header, format_version=9),
    "kind": lambda _, header: edit(header, kind="ivf"),
    "effort": lambda _, header: edit(header, effort="far"),
    "vectors": lambda _, header: edit(header, vectors={"text": 3}),
    "no vectors": lambda _, header: edit(header, vectors=[]),
    "recall": lambda _, header: edit(header, **{"recall@20": None}),
}


def edit(header, **changes):
    header.write_text(json.dumps(json.loads(header.read_text()) | changes))


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_index_is_built_again_and_said(tmp_path, harm):
    workspace = WorkspaceFolder(tmp_path)
    catalogue, matrices = many()
    whole, _ = open_index(workspace, catalogue, matrices, kind="hnsw")
    file = index_file.index_path(workspace, matrices, kind="hnsw")
    HARMS[harm](file, file.with_suffix(".json"))
    with pytest.raises(QuestionsError, match=r"damaged|another format|weights|built from"):
        index_file.load(file, matrices, catalogue.item_ids)
    again, kept = open_index(workspace, catalogue, matrices, kind="hnsw")
    assert not kept
    assert again.report["remark"].startswith("The index is built again: ")
    assert again.words.partition(",")[0] == whole.words.partition(",")[0]
    assert open_index(workspace, catalogue, matrices, kind="hnsw")[1], "it is whole once more"


def test_a_flat_index_leaves_no_file(kept):
    workspace, catalogue, matrices, _ = kept
    index, reused = open_index(workspace, catalogue, matrices)
    assert index.exact
    assert not reused
    assert not (workspace.candidates / "indexes").exists()


def shop(**columns):
    count = len(next(iter(columns.values())))
    return Catalogue(
        [f"i{i}" for i in range(count)], [f"T{i}" for i in range(count)], columns, Bundles(), Interactions()
    )


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("category=coat", [0, 2]),
        ("category = COAT", [0, 2]),
        ("category=women", [2]),
        ("category!=coat", [1]),
        ("price<50", [0]),
        ("price<=50", [0, 1]),
        ("price>49.5", [1, 2]),
        ("price>=1e3", [2]),
        ("price=50.0", [1]),
        ("in_stock=true", [0, 1]),
        ("in_stock=false", [2]),
        ("in_stock=yes", [0, 1]),
        ("in_stock=NO", [2]),
        ("in_stock!=no", [0, 1]),
        ("title=t2", [2]),
        ("item_id!=i0", [1, 2, 3]),
    ],
)
def test_conditions_select_what_they_say(condition, expected):
    catalogue = shop(
        category=["coat", "hat", "Women > Coat", None],
        price=["49.5", "50", "1000", "n/a"],
        in_stock=["True", "1", "no", None],
    )
    assert np.flatnonzero(matching_items(catalogue, [condition])).tolist() == expected


def test_several_conditions_must_all_hold():
    catalogue = shop(price=["1", "5", "9"])
    assert matching_items(catalogue, ["price>1", "price<9"]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("price", "is no condition"),
        ("=3", "is no condition"),
        ("prise<3", "no column 'prise'"),
        ("price<cheap", "'cheap' is none"),
        ("brand<3", "the column brand, for instance 'Acme', is none"),
        ("price>99", "None of the 2 items matches"),
    ],
)
def test_a_condition_that_cannot_be_is_one_sentence(condition, sentence):
    with pytest.raises(CatalogueError, match=sentence):
        matching_items(shop(price=["1", "2"], brand=["Acme", None]), [condition])


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_filtered_search_is_exact_whatever_the_index(clumps, kind):
    index = Index.build([clumps], kind=kind)
    among = np.arange(COUNT) % 5 == 0
    given = [np.array([1, 2]), np.array([100])]
    items, _ = index.search(index.query(given), 25, given, among)
    for q, pair in enumerate(given):
        _, scores = exact_best(clumps, pair, 25)
        scores[~among] = -np.inf
        assert items[q].tolist() == np.argsort(-scores, kind="stable")[:25].tolist()


def test_filtered_candidates_fulfil_the_filter_and_have_a_file_of_their_own(kept):
    workspace, catalogue, matrices, _ = kept
    made = for_bundles(catalogue, matrices, 4, where=["category=lamp"])
    lamps = np.array(catalogue.column("category")) == "lamp"
    for row in made.table.to_pylist():
        assert lamps[catalogue.indices(row["candidates"])].all()
        assert row["rank"] == 0 or lamps[catalogue.index[row["truth"]]]
    assert made.header["offered"] == lamps.sum()
    assert made.header["metrics"]["unreachable"] == sum(
        not lamps[catalogue.index[t]] for t in made.table["truth"].to_pylist()
    )
    path = made.save(workspace)
    assert path != candidate_file.path(workspace, ["text"], 4)
    assert candidate_file.load(path, matrices).header["where"] == ["category=lamp"]


def test_copies_of_the_truth_are_neither_offered_nor_counted_against_it(kept):
    _, catalogue, matrices, even = kept
    before = for_bundles(catalogue, matrices, 20)
    assert before.header["copies_excluded"] == 0
    truths = [catalogue.index[t] for t in before.table["truth"].to_pylist()]
    truth = truths[0]
    partial = {catalogue.index[i] for i in before.table["partial"].to_pylist()[0]}
    rivals = [i for i in np.flatnonzero(even == even[truth]).tolist() if i not in {truth} | partial][:3]
    titles = list(catalogue.titles)
    titles[rivals[0]] = titles[truth].upper()
    vectors = matrices["text"].vectors.copy()
    vectors[rivals[1]] = vectors[truth]
    copied = dataclasses.replace(catalogue, titles=titles)
    made = for_bundles(copied, {"text": matrix(vectors)}, 20)
    offered = made.table["candidates"].to_pylist()[0]
    assert catalogue.item_ids[rivals[0]] not in offered
    assert catalogue.item_ids[rivals[1]] not in offered
    assert catalogue.item_ids[rivals[2]] in offered
    assert made.header["copies_excluded"] >= 2
    graph = for_bundles(catalogue, {"graph": matrix(vectors, modality="graph")}, 20)
    assert catalogue.item_ids[rivals[1]] in graph.table["candidates"].to_pylist()[0], "graph vectors tell no content"


def test_approximate_candidates_say_where_they_stopped_looking():
    rng = np.random.default_rng(4)
    count = 2000
    members = [rng.choice(count, 3, replace=False).astype(np.int32) for _ in range(40)]
    bundles = Bundles([f"b{b}" for b in range(40)], members, ["test"] * 40, [f"b{b}" for b in range(40)], [None] * 40)
    catalogue = Catalogue([f"i{i}" for i in range(count)], [f"t{i}" for i in range(count)], {}, bundles, Interactions())
    vectors = matrix(rng.normal(size=(count, 16)))
    exact = for_bundles(catalogue, [vectors], 5)
    near = for_bundles(catalogue, Index.build([vectors], kind="ivf", target=1.0), 5)
    for mine, theirs in zip(near.table["rank"].to_pylist(), exact.table["rank"].to_pylist(), strict=True):
        assert mine == theirs or (mine == -1 and theirs > 90)
    assert near.header["metrics"]["unreachable"] == 0
    assert near.header["index"]["kind"] == "ivf"


def test_sizes_of_memory_are_read_as_people_write_them():
    assert ann.parse_bytes("500 MB") == 500_000_000
    assert ann.parse_bytes("2gib") == 2**31
    for text in ("", "much", "0", "-1GB", "3 apples"):
        with pytest.raises(BundlecacheError, match="no size of memory"):
            ann.parse_bytes(text)
