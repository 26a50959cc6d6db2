"""What people type: every verb works or says in one sentence what to type, and never shows a traceback."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runner import invoke, run_process, succeed
from helpers.shop import make_shop
from typer.testing import CliRunner

from bundlecache.workspace import WorkspaceFolder

VERBS = [
    "demo",
    "import",
    "encode",
    "status",
    "questions",
    "candidates",
    "train",
    "evaluate",
    "bench",
    "complete",
    "report",
    "import-checkpoint",
    "merge",
    "ablate",
    "verify",
    "compact",
    "drift",
    "import-vectors",
    "export",
]
QUICK = [
    "--recipe",
    "demo",
    "--set",
    "text_stage.steps=3",
    "--set",
    "fusion_stage.steps=3",
    "--set",
    "fusion_stage.contrastive_steps=2",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> WorkspaceFolder:
    """A small shop after `train` alone was typed: the command makes what it lacks."""
    workspace = WorkspaceFolder(make_shop(tmp_path_factory.mktemp("cli")))
    succeed("train", "--data", workspace.root, "--name", "first", *QUICK)
    return workspace


def test_bench_scores_models_and_baselines_in_one_table_and_writes_three_files(trained: WorkspaceFolder):
    made = json.loads(succeed("bench", "--data", trained.root, "--json").stdout)
    names = {row["name"] for row in made["results"][0]["methods"]}
    assert {"Bundle-MLLM", "zero-shot LLM", "popularity", "learned ranker", "random"} <= names
    assert made["results"][0]["model"] == "Bundle-MLLM"
    assert made["results"][0]["probes"]
    assert {path.name for path in (trained.root / "bench").iterdir()} == {"results.json", "table.csv", "index.html"}
    alone = succeed("bench", "--no-models", "--questions", "test-random10", "--data", trained.root).stdout
    assert "Bundle-MLLM" not in alone
    assert "leak probe" in alone


def test_bench_full_ranks_the_whole_catalogue_and_by_shows_groups(trained: WorkspaceFolder, tmp_path):
    made = json.loads(succeed("bench", "--full", "--data", trained.root, "--out", tmp_path, "--json").stdout)["results"]
    rows = {row["name"]: row for row in made["methods"]}
    assert {"popularity", "learned ranker", "Bundle-MLLM, first 10", "Bundle-MLLM + learned ranker, first 10"} <= set(
        rows
    )
    assert made["held_out"]["n_items"] == 24
    assert rows["Bundle-MLLM, first 10"]["recall@10"] == pytest.approx(rows["learned ranker"]["recall@10"])
    assert {path.name for path in tmp_path.iterdir()} == {"full.json", "full.csv", "full.html"}
    told = succeed(
        "bench", "--no-models", "--by", "cold", "--by", "length", "--data", trained.root, "--out", tmp_path
    ).stdout
    assert "by cold: hit@1" in told
    assert "by length: hit@1" in told
    assert "category, length, popularity, cold" in str(invoke("bench", "--by", "hue", "--data", trained.root).exception)


def test_bench_asks_in_several_orders_and_full_leaves_a_history_out(trained: WorkspaceFolder, tmp_path: Path):
    how = ["bench", "--data", trained.root, "--out", tmp_path, "--json"]
    asked = [*how, "--questions", "test-random10"]
    made = json.loads(succeed(*asked, "--permutations", "2", "--at-once", "4").stdout)["results"][0]
    assert made["how"] == {"permutations": 2, "at_once": 4}
    model = next(row for row in made["methods"] if row["name"] == "Bundle-MLLM")
    answered = succeed("evaluate", "--data", trained.root, "--json", "--permutations", "2", "--at-once", "4").stdout
    same = next(r for r in json.loads(answered) if r["questions"]["name"] == "test-random10")
    assert same["how"] == made["how"]
    assert model["hit@1"] == next(row for row in same["methods"] if row["name"] == "Bundle-MLLM")["hit@1"]
    full = json.loads(succeed(*asked, "--full", "--history", "3").stdout)["results"]
    assert full["held_out"]["history"] == 3
    assert {"learned ranker + history", "Bundle-MLLM, first 10"} <= {row["name"] for row in full["methods"]}


def test_a_folder_that_cannot_be_written_is_said_before_any_model_is_read(trained: WorkspaceFolder, tmp_path: Path):
    root = shutil.copytree(trained.root, tmp_path / "shop")
    shutil.rmtree(root / "runs" / "first" / "results", ignore_errors=True)
    (root / "runs" / "first" / "fusion.safetensors").write_bytes(b"damaged")  # would be the error of reading it
    for folder, verb in ((root / "runs" / "first" / "results", ["evaluate"]), (tmp_path / "out", ["bench"])):
        folder.write_text("in the way")
        place = ["--out", folder] if verb == ["bench"] else []
        assert "cannot be written" in str(invoke(*verb, "--data", root, *place).exception)


def test_questions_go_out_as_lines_and_come_back_the_same(trained: WorkspaceFolder, tmp_path: Path):
    succeed("questions", "--data", trained.root, "--export", tmp_path / "out")
    files = sorted((tmp_path / "out").glob("test-*.jsonl"))
    other = WorkspaceFolder(make_shop(tmp_path))
    rows = json.loads(succeed("questions", *files, "--data", other.root, "--json").stdout)
    assert [row["name"] for row in rows] == [file.stem for file in files]
    for file, row in zip(files, rows, strict=True):
        assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(row["sha256"])
    again = succeed("questions", *files, "--data", other.root)
    assert "test-random10" in again.stdout
    done = run_process("questions", tmp_path / "none.jsonl", "--data", other.root)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_its_defaults(verb: str):
    result = CliRunner().invoke(__import__("bundlecache.cli", fromlist=["app"]).app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output
    assert verb in ("complete", "import") or "default: data" in result.output


def test_help_lists_the_verbs_in_the_order_of_the_pipeline():
    output = CliRunner().invoke(__import__("bundlecache.cli", fromlist=["app"]).app, ["--help"]).output
    places = [output.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)


def test_the_version_is_printed():
    assert "bundlecache 0." in succeed("--version").output


@pytest.mark.parametrize(
    "args",
    [
        ["encode", "--modality", "smell"],
        ["encode", "--modality", "image", "--encoder", "magic:wand"],
        ["encode", "--encoder", "descriptor:picture"],
        ["encode", "--modality", "image", "--encoder", "open_clip:local-dir:/no/such/folder"],
        ["encode", "--modality", "image", "--dtype", "int3"],
        ["encode", "--modality", "image", "--device", "abacus"],
        ["candidates", "--modality", "smell"],
        ["drift", "--modality", "smell"],
        ["questions", "--difficulty", "0.5"],
        ["questions", "--export", "lines", "a.jsonl"],
        ["questions", "--export", "/proc/none"],
        ["candidates", "--split", "dev"],
        ["train", "--recipe", "no-such-recipe"],
        ["train", "--set", "lora.rnak=8"],
        ["train", "--set", "base.model=/no/such/model"],
        ["train", "--stage", "third"],
        ["train", "--from", "no-such-run"],
        ["evaluate", "--run", "no-such-run"],
        ["evaluate", "--questions", "no-such-questions"],
        ["complete", "no-such-item"],
        ["report", "--run", "no-such-run"],
        ["export", "--format", "punch-cards"],
        ["import", "no-such-format", "."],
        ["import", "bundlerec", "/no/such/folder"],
    ],
    ids=" ".join,
)
def test_mistakes_get_one_clear_sentence_and_no_traceback(trained: WorkspaceFolder, args: list[str]):
    from bundlecache import BundlecacheError

    result = invoke(*args, "--data", trained.root)
    assert isinstance(result.exception, BundlecacheError), (result.output, result.exception)
    assert "\n" not in result.exception.message
    assert result.exception.hint or len(result.exception.message) > 30


def test_a_mistake_exits_with_1_and_says_what_to_type_next(tmp_path: Path):
    done = run_process("status", "--data", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "try:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "verb", [["encode", "--modality", "image"], ["candidates", "--k", "5"], ["status"], ["questions"]], ids=" ".join
)
def test_verbs_work_alone_on_an_untouched_workspace(workspace: WorkspaceFolder, verb: list[str]):
    succeed(*verb, "--data", workspace.root)


@pytest.mark.parametrize("verb", [["evaluate"], ["report"], ["complete", "item-01"]], ids=" ".join)
def test_what_needs_a_model_names_the_command_that_makes_one(workspace: WorkspaceFolder, verb: list[str]):
    assert invoke(*verb, "--data", workspace.root).exception.hint == "bundlecache train"  # type: ignore[union-attr]


def test_the_whole_way_gives_results_a_report_and_a_completion(trained: WorkspaceFolder):
    results = json.loads(succeed("evaluate", "--data", trained.root, "--json").stdout)
    assert {row["questions"]["name"] for row in results} == {"test-random10", "test-hard10"}
    names = {method["name"] for method in results[0]["methods"]}
    assert {"random", "popularity", "Bundle-MLLM"} <= names
    assert {row["without"] for row in results[0]["ablation"]} == {"text", "image", "audio", "graph"}
    succeed("report", "--data", trained.root)
    assert "<html" in (trained.runs / "first" / "report.html").read_text("utf-8")
    completed = json.loads(
        succeed("complete", "item-02", "item-04", "--data", trained.root, "--json", "--k", "3").stdout
    )
    assert [row["rank"] for row in completed] == [1, 2, 3]
    assert not {"item-02", "item-04"} & {row["item_id"] for row in completed}


def test_another_number_of_options_is_evaluated_and_completed_in_several_orders(trained: WorkspaceFolder):
    how = ["--data", trained.root, "--json", "--options", "14", "--permutations", "2"]
    results = json.loads(succeed("evaluate", *how, "--no-baselines", "--no-ablation").stdout)
    assert {row["questions"]["name"] for row in results} == {"test-random14", "test-hard14"}
    assert all(row["questions"]["n_options"] == 14 for row in results)
    completed = json.loads(succeed("complete", "item-02", *how, "--k", "14").stdout)
    assert len({row["item_id"] for row in completed}) == 14
    assert [row["probability"] for row in completed] == sorted((r["probability"] for r in completed), reverse=True)


def test_two_graphs_are_fused_by_the_specs_of_their_encoders(trained: WorkspaceFolder, tmp_path: Path):
    root = shutil.copytree(trained.root, tmp_path / "shop")
    succeed("encode", "--modality", "graph", "--encoder", "lightgcn:bundle-item", "--data", root)
    chosen = "fusion.modalities=image,lightgcn:bundle-item,lightgcn:user-item"
    succeed("train", "--data", root, "--name", "graphs", "--set", chosen, *QUICK)
    made = json.loads((root / "runs" / "graphs" / "manifest.json").read_text("utf-8"))
    assert [e["name"] for e in made["encoders"]] == ["image", "lightgcn:bundle-item", "lightgcn:user-item"]
    succeed("complete", "item-02", "--data", root, "--run", "graphs")
    absent = invoke("train", "--data", root, "--name", "other", "--set", "fusion.modalities=image,bpr:user-item")
    assert "bpr:user-item" in str(absent.exception)


def test_evaluate_gives_the_same_digits_twice_and_with_any_batch_size(trained: WorkspaceFolder):
    def digits(*args: str) -> str:
        return succeed("evaluate", "--data", trained.root, "--json", *args).stdout

    assert digits() == digits() == digits("--batch-size", "1")


def test_missing_questions_are_an_error_and_never_drawn_again_silently(trained: WorkspaceFolder, tmp_path: Path):
    copy = tmp_path / "shop"
    shutil.copytree(trained.root, copy)
    (copy / "questions" / "test-random10.json").unlink()
    assert invoke("evaluate", "--data", copy).exception.hint == "bundlecache questions"  # type: ignore[union-attr]
    shutil.rmtree(copy / "questions")
    assert invoke("evaluate", "--data", copy).exception.hint == "bundlecache questions"  # type: ignore[union-attr]


def test_a_users_history_is_told_and_users_are_named_where_there_is_no_such(trained: WorkspaceFolder, tmp_path: Path):
    root = shutil.copytree(trained.root, tmp_path / "shop")
    told = ["--set", "prompt.history=3", "--name", "personal", "--data", root]
    few = [f"joint_stage.{name}" for name in ("steps=3", "warmup=0", "contrastive_steps=2")]
    succeed("train", *told, *(word for setting in few for word in ("--set", setting)))
    assert json.loads((root / "runs" / "personal" / "manifest.json").read_text("utf-8"))["recipe_name"] == "evidence"
    made = json.loads(succeed("evaluate", "--run", "personal", "--data", root, "--json", "--no-baselines").stdout)
    assert "history" in {row["without"] for row in made[0]["ablation"]}
    ask = ["complete", "item-02", "--run", "personal", "--data", root, "--json"]
    answers = [json.loads(succeed(*ask, *whose).stdout) for whose in ([], ["--user", "user-1"])]
    assert answers[0] != answers[1]
    assert "no user 'user-X'" in invoke(*ask, "--user", "user-X").exception.message  # type: ignore[union-attr]
    ask[3] = "first"
    assert "prompt.history" in invoke(*ask, "--user", "user-1").exception.hint  # type: ignore[union-attr,operator]


def test_more_letters_than_the_embedded_base_was_made_with_are_warned_of(capsys: pytest.CaptureFixture[str]):
    from bundlecache.console.reporter import Reporter
    from bundlecache.train.run import describe
    from bundlecache.train.shipped_recipes import load_recipe

    describe(load_recipe("demo", ["data.options=10"]), Reporter())
    assert "was made with" not in capsys.readouterr().err
    describe(load_recipe("demo", ["data.options=20"]), Reporter())
    assert "data.options=10 or fewer" in capsys.readouterr().err


def test_the_demo_trains_the_recipe_evidence_in_half_its_steps():
    from bundlecache.cli import DEMO_STEPS
    from bundlecache.train.shipped_recipes import load_recipe

    whole, asked = load_recipe("evidence", []), load_recipe("evidence", [DEMO_STEPS])
    assert (asked.answer.form, asked.fusion.evidence) == ("pointer", "residual")
    assert asked.joint_stage.steps == whole.joint_stage.steps // 2


def test_the_questions_are_the_same_whatever_has_been_encoded(workspace: WorkspaceFolder, trained: WorkspaceFolder):
    succeed("encode", "--modality", "image", "--data", workspace.root)
    rows = [
        json.loads(succeed("questions", "--json", "--data", root).stdout) for root in (workspace.root, trained.root)
    ]
    assert [row["sha256"] for row in rows[0]] == [row["sha256"] for row in rows[1]]


def test_encoding_again_does_nothing_and_the_receipt_balances(trained: WorkspaceFolder):
    for row in json.loads(succeed("encode", "--data", trained.root, "--json").stdout):
        assert row["encoded"] == row["forwards"] == 0
        assert row["items"] == row["cached"] + row["failed"] + row["absent"] == 24


def test_a_damaged_picture_fails_alone_with_its_reason_and_an_exit_code_of_its_own(workspace: WorkspaceFolder):
    (workspace.root / "images" / "3.png").write_bytes(b"")
    done = run_process("encode", "--modality", "image", "--data", workspace.root)
    assert done.returncode == 3
    errors = json.loads(succeed("status", "--errors", "--json", "--data", workspace.root).stdout)
    assert [(row["item_id"], row["stage"]) for row in errors] == [("item-03", "decode")]
    [image] = [
        row
        for row in json.loads(succeed("status", "--json", "--data", workspace.root).stdout)["store"]
        if row["modality"] == "image"
    ]
    assert (image["rows"], image["failed"], image["absent"]) == (21, 1, 2)


def test_exported_vectors_are_read_by_pyarrow_in_three_lines(trained: WorkspaceFolder, tmp_path: Path):
    import pyarrow.parquet as pq

    succeed("export", "--data", trained.root, "--out", tmp_path / "vectors")
    tables = [pq.read_table(path) for path in (tmp_path / "vectors").glob("image*.parquet")]
    assert [table.num_rows for table in tables] == [22]
    assert "vector" in tables[0].column_names


def test_what_a_model_was_trained_on_is_kept_and_evaluating_says_what_changed(trained: WorkspaceFolder, tmp_path: Path):
    from bundlecache.store import maintenance
    from bundlecache.store.store import Store

    root = shutil.copytree(trained.root, tmp_path / "shop")
    store = Store(root / "store")
    info = store.current("image")
    trained_on = store.matrix(["item-00"], "image").vectors.copy()
    assert maintenance.tags(store, info)["run-first"] == info.version
    shutil.copy(root / "images" / "1.png", root / "images" / "0.png")  # another picture of item-00
    succeed("encode", "--modality", "image", "--data", root)
    succeed("compact", "--data", root)
    (held,) = store.dataset(info, "run-first").to_table(columns=["vector"], filter="item_id = 'item-00'")["vector"]
    assert held.as_py() == trained_on[0].tolist(), "compacting keeps what the run was trained on"
    noted = succeed("evaluate", "--data", root, "--questions", "test-random10", "--no-baselines", "--no-ablation")
    assert "1 image vectors are others than when first was trained" in noted.output
    assert "bundlecache drift --modality image --from first" in " ".join(noted.output.split())
    (row,) = json.loads(succeed("drift", "--modality", "image", "--from", "first", "--data", root, "--json").output)
    assert (row["changed"], row["kept"]) == (1, 21)


def test_training_calls_no_encoder(trained: WorkspaceFolder, monkeypatch: pytest.MonkeyPatch):
    from bundlecache.features import registry as features

    def called(*_: object, **__: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(features, "load", called)
    succeed("train", "--data", trained.root, "--name", "again", *QUICK)
    manifest = json.loads((trained.runs / "again" / "manifest.json").read_text("utf-8"))
    assert manifest["encoder_calls"] == 0


def test_a_folder_of_pictures_is_a_catalogue(workspace: WorkspaceFolder, tmp_path: Path):
    target = tmp_path / "photos"
    succeed("import", "folder", workspace.root / "images", "--data", target)
    [row] = json.loads(succeed("encode", "--modality", "image", "--data", target, "--json").stdout)
    assert (row["encoded"], row["failed"], row["absent"]) == (22, 0, 0)


def test_the_demo_never_writes_over_a_catalogue_unasked(workspace: WorkspaceFolder):
    before = (workspace.root / "items.parquet").read_bytes()
    assert "--overwrite" in invoke("demo", "--make-data", workspace.root).exception.hint  # type: ignore[union-attr,operator]
    assert (workspace.root / "items.parquet").read_bytes() == before


def test_a_catalogue_without_interactions_goes_the_whole_way_without_a_graph(workspace: WorkspaceFolder):
    (workspace.root / "interactions.parquet").unlink()
    encoded = json.loads(succeed("encode", "--data", workspace.root, "--json").stdout)
    assert [row["modality"] for row in encoded] == ["text", "image", "audio"]
    shutil.rmtree(workspace.store)
    succeed("train", "--data", workspace.root, *QUICK)


def test_a_small_catalogue_is_trained_and_evaluated_on_questions_of_fewer_options(workspace: WorkspaceFolder):
    succeed("encode", "--modality", "text", "--data", workspace.root)
    succeed("questions", "--options", "3", "--data", workspace.root)
    succeed("train", "--data", workspace.root, *QUICK)
    results = json.loads(succeed("evaluate", "--no-baselines", "--data", workspace.root, "--json").stdout)
    assert [row["questions"]["name"] for row in results] == ["test-random3", "test-hard3"]


def test_questions_of_another_catalogue_are_never_advised_to_be_deleted(trained: WorkspaceFolder, tmp_path: Path):
    import pyarrow.parquet as pq

    copy = tmp_path / "shop"
    shutil.copytree(trained.root, copy)
    pq.write_table(pq.read_table(copy / "items.parquet").slice(4), copy / "items.parquet")
    hint = invoke("questions", "--data", copy).exception.hint  # type: ignore[union-attr]
    assert "--seed" in hint
    assert "delete" not in hint
    succeed("questions", "--seed", "1", "--data", copy)


def test_a_model_finds_its_vectors_when_the_graph_was_learnt_again_since(trained: WorkspaceFolder, tmp_path: Path):
    import pyarrow.parquet as pq

    copy = tmp_path / "shop"
    shutil.copytree(trained.root, copy)
    pq.write_table(pq.read_table(copy / "interactions.parquet").slice(9), copy / "interactions.parquet")
    succeed("encode", "--modality", "graph", "--data", copy)
    succeed("complete", "item-02", "--data", copy)


@pytest.mark.parametrize("name", ["", "latest", "../outside", ".hidden", "first"])
def test_a_run_gets_a_plain_name_of_its_own(trained: WorkspaceFolder, name: str):
    assert "--name" in invoke("train", "--name", name, "--data", trained.root, *QUICK).exception.hint  # type: ignore[union-attr,operator]


def test_an_item_given_twice_counts_once(trained: WorkspaceFolder):
    once, twice = (succeed("complete", *["item-02"] * n, "--data", trained.root, "--json").stdout for n in (1, 2))
    assert once == twice


def test_status_names_the_modality_that_is_not_stored_yet(workspace: WorkspaceFolder):
    assert "(audio: none yet)" in succeed("status", "--data", workspace.root).stdout


def test_hints_name_the_workspace_that_was_typed(workspace: WorkspaceFolder):
    assert f"bundlecache train --data {workspace.root}" in run_process("evaluate", "--data", workspace.root).stderr


def test_the_report_can_be_asked_for_as_json(trained: WorkspaceFolder):
    assert Path(json.loads(succeed("report", "--json", "--data", trained.root).stdout)["path"]).is_file()


def test_a_report_against_the_same_or_a_missing_run_is_one_sentence(trained: WorkspaceFolder):
    for other, said in (("first", "cannot be compared with itself"), ("nobody", "no finished run")):
        result = invoke("report", "--run", "first", "--against", other, "--data", trained.root)
        assert said in str(result.exception)


def test_training_that_was_interrupted_says_so_and_stops_what_comes_after_it(
    trained: WorkspaceFolder, monkeypatch: pytest.MonkeyPatch
):
    from bundlecache.training_log import Stop

    monkeypatch.setattr(Stop, "reason", "SIGINT")
    result = invoke("train", "--name", "stopped", "--data", trained.root, *QUICK)
    assert result.return_value == 130
    assert "Stopped early by SIGINT" in result.output


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"encoders": 3}', '{"encoders": [{}]}', '{"stages": 5}', '{"base": 1}']
)
def test_a_manifest_that_was_changed_by_hand_is_refused_without_a_traceback(
    trained: WorkspaceFolder, tmp_path: Path, content: str
):
    from bundlecache import BundlecacheError

    copy = tmp_path / "shop"
    shutil.copytree(trained.root, copy)
    path = copy / "runs" / "first" / "manifest.json"
    whole = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(whole | json.loads(content)) if content not in ("[]", "{}") else content, "utf-8")
    for verb in (["complete", "item-02"], ["report"]):
        result = invoke(*verb, "--run", "first", "--data", copy)
        assert result.exception is None or isinstance(result.exception, BundlecacheError), result.exception


def test_a_model_of_titles_alone_completes_too(trained: WorkspaceFolder):
    succeed("train", "--stage", "text", "--name", "titles", "--data", trained.root, *QUICK)
    assert json.loads(succeed("complete", "item-02", "--run", "titles", "--data", trained.root, "--json").stdout)


def test_a_broken_note_of_the_newest_run_leads_to_the_newest_that_is_there(trained: WorkspaceFolder, tmp_path: Path):
    copy = tmp_path / "shop"
    shutil.copytree(trained.root, copy)
    (copy / "runs" / "latest").write_bytes(b"\xff\xfe")
    succeed("complete", "item-02", "--data", copy)


def test_the_demo_in_the_place_of_a_file_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = run_process("demo", "--make-data", tmp_path / "file" / "demo")
    assert done.returncode == 1
    assert "leads through a file" in done.stderr


def test_titles_cannot_steer_the_terminal_nor_fill_it():
    from bundlecache.console.output import plain

    assert plain("a\x1b[2Jb\u202ec\r\nd") == "a [2Jb c d"
    assert len(plain("x" * 10_000)) == 300
    assert plain("🎁 שלום 👩‍👧") == "🎁 שלום 👩‍👧"


@pytest.mark.parametrize("device", ["meta", "xpu", "nonsense"])
def test_a_device_that_is_none_is_refused_and_never_replaced_silently(trained: WorkspaceFolder, device: str):
    from bundlecache import BundlecacheError

    for verb in (["encode", "--modality", "graph"], ["train", *QUICK], ["complete", "item-02"]):
        assert isinstance(invoke(*verb, "--device", device, "--data", trained.root).exception, BundlecacheError)


def test_weights_are_never_chosen_on_test_questions(trained: WorkspaceFolder):
    refused = invoke("train", "--validation", "test-random10", "--data", trained.root, *QUICK).exception
    assert "validation questions only" in str(refused)


@pytest.mark.parametrize("seed", ["-1", str(2**70)])
def test_a_seed_out_of_range_is_a_usage_error(trained: WorkspaceFolder, seed: str):
    assert run_process("train", "--seed", seed, "--data", trained.root).returncode == 2


def test_json_holds_null_where_there_is_no_number(capsys: pytest.CaptureFixture[str]):
    from bundlecache.console import output as terminal

    terminal.show({"loss": float("nan"), "rows": [{"p": float("inf")}, {"p": 0.5}]}, True, [])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "loss": None,
        "rows": [{"p": None}, {"p": 0.5}],
    }


@pytest.mark.parametrize("name", ["results/test-random10.json", "history.jsonl", "recipe.toml"])
def test_a_run_with_a_damaged_file_gives_a_report_or_a_sentence(trained: WorkspaceFolder, tmp_path: Path, name: str):
    from bundlecache import BundlecacheError

    copy = tmp_path / "shop"
    shutil.copytree(trained.root, copy)
    succeed("evaluate", "--run", "first", "--data", copy)
    for content in (b"\xff\xfe", b'{"format_version": 1}'):
        (copy / "runs" / "first" / name).write_bytes(content)
        result = invoke("report", "--run", "first", "--data", copy)
        assert result.exception is None or isinstance(result.exception, BundlecacheError), result.exception


@pytest.mark.parametrize("words", [["status", "--data", ""], ["demo", "--make-data="], ["complete", " "]], ids=str)
def test_an_empty_argument_is_refused_and_nothing_is_written(words: list[str], tmp_path: Path):
    done = run_process(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "is empty" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_completions_fulfil_conditions_and_leave_out_what_is_excluded(trained: WorkspaceFolder):
    ask = ["complete", "item-02", "--data", trained.root, "--json", "--k", "20", "--options", "20"]
    category = dict(zip(*_items(trained, "category"), strict=True))
    wanted = next(cell for cell in category.values() if cell)
    rows = json.loads(succeed(*ask, "--where", f"category={wanted}").stdout)
    assert rows
    assert {category[row["item_id"]] for row in rows} == {wanted}
    banned = rows[0]["item_id"]
    rows = json.loads(succeed(*ask, "--where", f"category={wanted}", "--exclude", banned).stdout)
    assert banned not in {row["item_id"] for row in rows}


def _items(folder: WorkspaceFolder, column: str) -> tuple[list[str], list[str | None]]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder.root / "items.parquet")
    return table["item_id"].to_pylist(), table[column].to_pylist()


def test_questions_that_a_run_was_trained_on_are_left_out_and_counted(trained: WorkspaceFolder, tmp_path: Path):
    root = tmp_path / "imported-again"
    shutil.copytree(trained.root, root, symlinks=True)
    shutil.rmtree(root / "questions")
    path = root / "bundles.parquet"
    bundles = pq.read_table(path)
    ids = bundles.column("bundle_id").to_pylist()
    split = ["test" if k % 2 else "valid" if k % 4 else "train" for k in range(len(ids))]
    pq.write_table(bundles.append_column("split", [split]), path)
    succeed("questions", "--data", root, "--negatives", "random")
    ask = ["evaluate", "--run", "first", "--data", root, "--no-ablation", "--questions", "test-random10"]
    assert "are left out" in succeed(*ask, "--no-baselines").stderr
    (result,) = json.loads(succeed(*ask, "--json").stdout)
    asked = result["questions"]
    assert asked["trained_on"] > 0
    assert asked["trained_on"] + asked["n_questions"] == split.count("test")
    assert any(f"{asked['trained_on']} of {split.count('test')} questions are left out" in s for s in result["verdict"])
    succeed("report", "--run", "first", "--data", root)
    assert "questions are left out" in (root / "runs" / "first" / "report.html").read_text("utf-8")


def test_status_says_that_new_items_wait_and_what_to_type(trained: WorkspaceFolder, tmp_path: Path):
    root = shutil.copytree(trained.root, tmp_path / "shop", symlinks=True)
    assert "wait" not in succeed("status", "--data", root).stdout
    rows = pq.read_table(root / "items.parquet").to_pylist()
    rows.append({**rows[0], "item_id": "item-new", "title": "warm gong"})
    pq.write_table(pa.Table.from_pylist(rows), root / "items.parquet")
    assert f"wait for their vectors: bundlecache encode --data {root}" in succeed("status", "--data", root).stdout


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        (("complete", "x", "--k", "0"), "--k 5"),
        (("train", "--seed", "-1"), "--seed 0"),
        (("questions", "--options", "1"), "--options 10"),
        (("encode", "--batch-size", "0"), "--batch-size 1"),  # has no default
        (("encode", "--workers", "many"), "--workers 4"),
        (("serve", "--timeout", "0"), "--timeout 30"),
    ],
)
def test_a_number_out_of_bounds_is_answered_by_one_to_type(typed: tuple[str, ...], number: str):
    refused = invoke(*typed, standalone_mode=True)
    assert refused.exit_code == 2
    assert f"try: {number}" in refused.output
