"""The library face: a workspace and its runs do in Python what the commands do, with typed results."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.paths import TOP
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.bench import proposals
from bundlecache.rows import Result, Rows

QUICK = {"text_stage.steps": 3, "fusion_stage.steps": 3, "fusion_stage.contrastive_steps": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop with one finished run, `first`."""
    root = make_shop(tmp_path_factory.mktemp("library"))
    run = bc.open(root, quiet=True).train("demo", settings=QUICK, name="first")
    assert run.result is not None
    return root


def test_a_folder_without_a_catalogue_is_one_sentence(tmp_path: Path):
    with pytest.raises(bc.BundlecacheError, match="holds no items"):
        bc.open(tmp_path)


def test_every_item_is_encoded_once_and_receipts_balance(tmp_path: Path):
    shop = bc.open(make_shop(tmp_path), quiet=True)
    (receipt,) = shop.encode(modality="image")
    assert (receipt.encoded, receipt.absent) == (22, 2)
    assert receipt.balances
    (again,) = shop.encode(modality="image")
    assert (again.encoded, again.cached, again.forwards) == (0, 22, 0)
    images = shop.vectors("image")
    assert images.ids == shop.catalogue.item_ids
    assert images.vectors.shape[0] == images.mask.shape[0] == 24
    assert images.mask.sum() == 22


def test_the_way_from_candidates_to_completions(trained: Path):
    shop = bc.open(trained, quiet=True)
    assert shop.candidates(k=5).candidates.header["k"] == 5
    run = shop.run("latest")
    assert run.name == "first"
    scores = run.evaluate(["test-random10"], ablation=False)
    assert {row.questions for row in scores} == {"test-random10"}
    assert {"Bundle-MLLM", "popularity", "random"} <= {row.method for row in scores}
    assert all(0 <= row.hit_1_low <= row.hit_1_high <= 1 for row in scores)
    completions = run.complete(["item-02", "item-04"], k=3)
    assert [row.rank for row in completions] == [1, 2, 3]
    assert not {"item-02", "item-04"} & {row.item_id for row in completions}
    assert run.complete_many([["item-02", "item-04"]], k=3) == [completions]
    assert shop.status().runs == ["first"]


def test_results_become_data_frames(trained: Path):
    pandas = pytest.importorskip("pandas")
    frame = bc.open(trained, quiet=True).run().complete(["item-02"], k=3).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["rank", "item_id", "title", "probability"]


NO_TABLES = {"Path", "Any", "None", "Workspace", "Run", "RunKind", "Ranker", "LoadedRun", "ManyCompleter"}
"""Returned types that are no results: paths, and objects to go on with."""


def result_types() -> dict[str, type]:
    """All types that the methods of a workspace and of a run, and the functions of the package, return."""
    from bundlecache.project.run import Run
    from bundlecache.project.workspace import Workspace

    calls = [call for owner in (Workspace, Run) for name, call in vars(owner).items() if not name.startswith("_")]
    calls += [bc.import_data, bc.make_demo, bc.update_data]
    found = {"Matrix": bc.Matrix, "Questions": bc.Questions, "Evaluation": bc.Evaluation}
    for call in calls:
        annotation = getattr(call, "__annotations__", {}).get("return", "")
        module = importlib.import_module(call.__module__) if annotation else None
        for name in {*re.findall(r"\b[A-Z]\w+\b", re.sub(r"Rows\[[^]]*\]+", "", annotation))} - NO_TABLES:
            found[name] = vars(module).get(name) or imported_for_types(module, name)
    return found


def imported_for_types(module, name: str) -> type:
    """What a module imports under ``if TYPE_CHECKING``."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            source = importlib.import_module("." * node.level + (node.module or ""), module.__package__)
            return getattr(source, name)
    raise AssertionError(f"{module.__name__} does not import {name}")


def test_every_result_becomes_a_data_frame_and_is_short_in_a_notebook():
    types = result_types()
    assert {"CandidateSets", "Status", "Receipt", "Vectors", "BenchResult", "AblationTable", "Explanation"} <= set(
        types
    )
    for name, found in types.items():
        assert callable(getattr(found, "to_pandas", None)), f"{name} has no to_pandas()"
        assert found.__repr__ is Result.__repr__ or issubclass(found, Rows), f"{name} shows all it holds"


def test_data_frames_of_results_hold_their_rows(trained: Path, tmp_path: Path):
    pytest.importorskip("pandas")
    shop = bc.open(trained, quiet=True)
    candidates = shop.candidates(k=4)
    bench = shop.bench(["test-random10"], models=False, sample=5, out=tmp_path / "bench")
    questions = shop.question_sets(["test-random10"])[0]
    vectors = shop.vectors("image")
    matrix = shop.store.matrix(shop.catalogue.item_ids, "image")
    imported = bc.import_data("tables", trained, tmp_path / "again")[1]
    results = [
        (candidates, len(candidates.candidates.table), "candidates"),
        (bench, len(bench.results[0].methods), "hit_1"),
        (questions, len(questions), "options"),
        (vectors, 22, 0),
        (matrix, 22, 0),
        (shop.status(), len(shop.status().store), "missing"),
        (shop.encode("text")[0], 1, "cached"),
        (shop.verify(sample=1), len(shop.store.tables()), "table"),
        (imported, 1, "items"),
    ]
    for result, rows, column in results:
        frame = result.to_pandas()
        assert len(frame) == rows, result
        assert column in frame.columns
        assert repr(result).startswith(f"<{type(result).__name__}: ")
        assert len(repr(result)) <= 160
    assert questions.to_pandas()["bundle_id"].tolist() == questions.bundle_ids
    assert vectors.to_pandas().loc["item-00"].tolist() == pytest.approx(vectors.vectors[vectors.ids.index("item-00")])


def test_many_rows_are_cut_off_in_a_notebook():
    assert repr(Rows([1, 2])) == "[1, 2]"
    assert repr(Rows(range(1000))).endswith("8, 9, ... 990 more]")


def test_results_are_dataclasses_with_immutable_fields(trained: Path):
    row = bc.open(trained, quiet=True).run().complete(["item-02"], k=1)[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.rank = 2  # type: ignore[misc]


def test_quiet_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    shop = bc.open(make_shop(tmp_path), quiet=True)
    shop.train("demo", settings=QUICK, stage="text")
    assert capfd.readouterr() == ("", "")


def test_a_seed_of_the_recipe_is_used_unless_one_is_given(trained: Path):
    shop = bc.open(trained, quiet=True)
    seeds = {}
    for name, given in (("recipe", {}), ("given", {"seed": 7})):
        run = shop.train("demo", settings={**QUICK, "run.seed": 5}, stage="text", name=f"seed-{name}", **given)
        seeds[name] = run.manifest["seed"]
    assert seeds == {"recipe": 5, "given": 7}


def test_questions_that_a_run_was_trained_on_are_left_out(trained: Path, tmp_path: Path):
    """After an import with another split, test questions of today are about bundles that the old run has seen."""
    root = shutil.copytree(trained, tmp_path / "shop")
    shop = bc.open(root, quiet=True)
    from bundlecache.catalogue import splits

    before = dict(zip(shop.catalogue.bundles.ids, splits.assign(shop.catalogue), strict=True))
    table = pq.read_table(root / "bundles.parquet")
    other = {"train": "test", "test": "train", "valid": "valid"}
    rotated = [other[str(before[bundle])] for bundle in table["bundle_id"].to_pylist()]
    pq.write_table(table.append_column("split", pa.array(rotated)), root / "bundles.parquet")
    shutil.rmtree(root / "questions")
    (root / "splits.parquet").unlink(missing_ok=True)
    changed = bc.open(root, quiet=True)
    changed.questions(options=3, negatives=["random"])
    with pytest.raises(bc.BundlecacheError, match="trained on"):
        changed.run("first").evaluate(["test-random3"])


def test_graph_vectors_of_another_split_are_said_with_the_command_that_learns_them_again(
    trained: Path, tmp_path: Path, capsys
):
    """They hold edges of what may be a validation or test bundle today, so figures of what reads them are too high."""
    from bundlecache.catalogue import splits
    from bundlecache.console.tables import show_status

    root = shutil.copytree(trained, tmp_path / "shop")
    sentence, command = "learned from other edges", "encode --modality graph --encoder lightgcn:user-item"
    shop = bc.open(root)
    assert shop.status().other_edges == []
    shop.candidates(k=3)
    assert sentence not in capsys.readouterr().err
    before = dict(zip(shop.catalogue.bundles.ids, splits.assign(shop.catalogue), strict=True))
    table = pq.read_table(root / "bundles.parquet")
    other = {"train": "test", "test": "train", "valid": "train"}
    rotated = [other[str(before[bundle])] for bundle in table["bundle_id"].to_pylist()]
    rotated[rotated.index("test")] = "valid"
    pq.write_table(table.append_column("split", pa.array(rotated)), root / "bundles.parquet")
    shutil.rmtree(root / "questions")
    (root / "splits.parquet").unlink(missing_ok=True)
    changed = bc.open(root)
    status = changed.status()
    assert status.other_edges == ["lightgcn:user-item"]
    show_status(status.to_dict(), root, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert sentence in shown
    assert command in shown
    for act in (
        lambda: changed.candidates(k=3),
        lambda: changed.candidates(k=3, run="first"),
        lambda: changed.train("demo", settings=QUICK, name="again"),
    ):
        act()
        said = " ".join(capsys.readouterr().err.split())
        assert said.count(sentence) == 1
        assert command in said
    assert "validation figures of this training are too high" in said
    changed.bench(models=False, sample=5, out=tmp_path / "bench")
    assert command in " ".join(capsys.readouterr().err.split())
    changed.run("again").evaluate(baselines=False, ablation=False, sample=5)
    assert command in " ".join(capsys.readouterr().err.split())
    changed.encode("graph", encoder=["lightgcn:user-item", "int8:lightgcn:user-item"])
    changed.run("again").evaluate(baselines=False, ablation=False, sample=5)
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said, "the run was trained on the old ones"
    assert command not in said.partition(sentence)[2]
    changed.candidates(k=3)
    assert sentence not in capsys.readouterr().err
    changed.candidates(k=3, run="again")
    assert "and a run is trained on them" in " ".join(capsys.readouterr().err.split()), "its fused vectors too"
    assert changed.status().other_edges == []
    assert bc.open(root).status().other_edges == []


DECOYS = {
    "train.py": "raise AssertionError('the user\\'s train.py was imported')",
    "cli.py": "raise AssertionError('the user\\'s cli.py was imported')",
    "features/__init__.py": "raise AssertionError('the user\\'s features was imported')",
}


@pytest.mark.parametrize("how", ["script", "kernel"])
def test_modules_of_the_user_called_like_ours_disturb_nothing(tmp_path: Path, how: str):
    """Beside a script its folder comes first on the path, in a notebook kernel the current folder does."""
    root = make_shop(tmp_path)
    for name, text in DECOYS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    trains = (
        f"shop.train('demo', settings={QUICK!r}, stage='text')\n" if how == "script" else ""
    )  # once is enough: 15 seconds
    code = (
        f"import bundlecache as bc\nshop = bc.open({str(root)!r}, quiet=True)\nshop.encode('text')\n{trains}"
        "import bundlecache.cli, bundlecache.features.registry, bundlecache.train.run\nprint('fine')"
    )
    (tmp_path / "mine.py").write_text(code)
    command = [sys.executable, "mine.py"] if how == "script" else [sys.executable, "-c", code]

    env = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr


def test_the_best_method_on_validation_completes_unless_another_is_named(trained: Path, tmp_path: Path):
    import json

    root = shutil.copytree(trained, tmp_path / "shop")
    run = bc.open(root, quiet=True).run("first")
    by_model = run.complete(["item-02"], k=10)
    run.evaluate(["test-random10"], ablation=False)
    choice = json.loads((run.path / "completion.json").read_text())
    assert choice["best"] in ("model", "learned-ranker", "both")
    answers = {method: run.complete(["item-02"], k=10, method=method) for method in ("model", "learned-ranker", "both")}
    assert answers["model"] == by_model
    assert answers["learned-ranker"] != by_model
    assert run.complete(["item-02"], k=10) == answers[choice["best"]]
    with pytest.raises(bc.BundlecacheError, match="learned-ranker"):
        run.complete(["item-02"], method="magic")


@pytest.mark.parametrize("name", bc.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(bc, name) is not None


def test_a_bench_of_a_sample_says_so_in_its_results_and_on_its_page(trained: Path, tmp_path: Path):
    made = bc.open(trained, quiet=True).bench(["test-random10"], models=False, sample=3, out=tmp_path)
    (result,) = made.results
    whole = result.questions.samples[0]
    assert result.questions.amount == f"3 of {whole.of}"
    assert whole.sha256 in (tmp_path / "index.html").read_text("utf-8")
    assert f"3 of {whole.of} test questions" in made.path.read_text("utf-8")


def test_an_evaluation_of_a_sample_asks_what_the_bench_asks(trained: Path, tmp_path: Path):
    shop = bc.open(trained, quiet=True)
    alone = shop.run().evaluate(["test-random10"], sample=3, baselines=False, ablation=False)
    beside = shop.bench(["test-random10"], models=False, sample=3, out=tmp_path)
    assert alone.sets[0].questions.samples == beside.results[0].questions.samples
    assert alone.sets[0].questions.sha256 == beside.results[0].questions.sha256


def test_of_a_large_catalogue_every_method_ranks_proposals_and_the_run_too(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(proposals, "MAX_RANKED_WHOLE", 10)
    monkeypatch.setattr(proposals, "PROPOSED", 8)
    ranked = bc.open(trained, quiet=True).bench_full(["test-random10"], out=tmp_path).result
    assert ranked.held_out.proposals is not None
    assert ranked.held_out.proposals.n_items == 8
    assert 0 < ranked.held_out.proposals.found < 1
    names = {row.name for row in ranked.methods}
    assert names >= {"popularity", "learned ranker"}
    assert any(name.endswith(", first 10") for name in names), "the run, by whatever name"
    for row in ranked.methods:
        assert row.figures["recall@5"] <= ranked.held_out.proposals.found
        assert row.first is not None or 0 < (row.proposed or 0) <= 1
    assert "8 proposed items of each question" in (tmp_path / "full.html").read_text("utf-8")
