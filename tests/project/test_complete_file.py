"""`complete --from`: a row per cart, in the order of the file, whatever was killed, and however many processes answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.forked import CODE, start
from helpers.paths import TOP
from helpers.runner import invoke
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.errors import BundlecacheError, LongPromptError
from bundlecache.project import run
from bundlecache.project.completion import complete_file, complete_many
from bundlecache.project.completion.answer_parts import AnswerParts

QUICK = {"text_stage.steps": 2, "fusion_stage.steps": 2, "fusion_stage.contrastive_steps": 1}
KILLED = """
import os, signal, sys
from pathlib import Path
import bundlecache as bc
from bundlecache.project import run
from bundlecache.project.completion import complete_file, complete_many
from bundlecache.project.completion.answer_parts import AnswerParts
for module in (complete_file, complete_many, run):
    module.BLOCK_BUNDLES = 5
write = AnswerParts.write
def killed(self, number, table):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, number, table)
AnswerParts.write = killed
bc.open(sys.argv[1], quiet=True).complete_file(Path(sys.argv[2]), Path(sys.argv[3]), 3)
"""
"""Completes a file and is killed before it writes its third part."""
BUNDLES = [[f"item-{i:02}", f"item-{(i * 7 + 1) % 24:02}"][: 1 + i % 2] for i in range(24)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_shop(tmp_path_factory.mktemp("shop"))
    bc.open(root, quiet=True).train("demo", settings=QUICK, name="first")
    return root


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (complete_file, complete_many, run):
        monkeypatch.setattr(module, "BLOCK_BUNDLES", 5)


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def carts(path: Path) -> Path:
    return written(path, *(json.dumps({"order_id": f"b{i}", "items": items}) for i, items in enumerate(BUNDLES)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("method", ["model", "both"])
def test_a_file_is_completed_as_its_carts_are_one_by_one(shop: Path, tmp_path: Path, method: str):
    workspace = bc.open(shop, quiet=True)
    first = workspace.run()
    made = workspace.complete_file(
        carts(tmp_path / "in.jsonl"), tmp_path / "out.parquet", 4, method=method, exclude=["item-03"]
    )
    assert (made.bundles, made.failed, made.errors) == (24, 0, None)
    rows = pq.read_table(made.path).to_pylist()
    many = first.complete_many(BUNDLES, 4, method=method, exclude=["item-03"])
    assert [row["bundle_id"] for row in rows] == [f"b{i}" for i in range(24)]
    for row, items, other in zip(rows, BUNDLES, many, strict=True):
        alone = first.complete(items, 4, method=method, exclude=["item-03"])
        assert row["completions"] == [each.item_id for each in alone] == [each.item_id for each in other]
        assert row["probabilities"] == pytest.approx([each.probability for each in alone], abs=1.01e-4)
        assert row["error"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]


def test_what_is_wrong_with_a_cart_is_in_two_files_and_the_exit_code(shop: Path, tmp_path: Path):
    wrong = ['{"item_ids": ["no-such"]}', "{", "[]", '{"item_ids": []}', "[" * 50_000]
    source = written(tmp_path / "in.jsonl", '{"item_ids": ["item-01"]}', "", *wrong)
    out, errors = tmp_path / "out.parquet", tmp_path / "out.errors.jsonl"
    done = invoke("complete", "--from", source, "--out", out, "--data", shop, "--json")
    assert done.exit_code == 3 or done.return_value == 3
    assert json.loads(done.stdout) == {"path": str(out), "bundles": 6, "failed": 5, "errors": str(errors)}
    rows = pq.read_table(out).to_pylist()
    assert [row["bundle_id"] for row in rows] == ["1", "3", "4", "5", "6", "7"]
    assert rows[0]["error"] is None
    assert "no-such" in rows[1]["error"]
    assert all(row["error"] and not row["completions"] for row in rows[1:])
    failed = [json.loads(line) for line in errors.read_text().splitlines()]
    assert failed == [{name: row[name] for name in ("bundle_id", "item_ids", "error")} for row in rows[1:]]
    mended = written(tmp_path / "mended.jsonl", errors.read_text().replace("no-such", "item-02").splitlines()[0])
    assert invoke("complete", "--file", mended, "--out", out, "--data", shop).exit_code == 0
    assert pq.read_table(out)["bundle_id"].to_pylist() == ["3"]
    assert not errors.exists(), "of the file that was there before"


def test_a_prompt_too_long_for_the_model_is_the_matter_of_its_own_cart(shop: Path):
    many = bc.open(shop, quiet=True).run().many(method="model")
    short, long = [["item-01"], ["item-05"], ["item-08"]], [f"item-{i:02}" for i in range(12)]
    want = many(short)
    lengths = [
        many.model.prompts.lengths([many.catalogue.indices(items)], [each.items], "mm")[0]
        for items, each in zip(short, want, strict=True)
    ]
    many.model.llm.config.max_position_embeddings = int(max(lengths)) + 4
    found = many([short[0], long, *short[1:]])
    assert isinstance(found.pop(1), LongPromptError)
    assert [each.items.tolist() for each in found] == [each.items.tolist() for each in want]


@pytest.mark.usefixtures("small_blocks")
def test_a_killed_file_goes_on_and_ends_the_same_byte_for_byte(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    workspace = bc.open(shop, quiet=True)
    source, whole, out = carts(tmp_path / "in.jsonl"), tmp_path / "whole.parquet", tmp_path / "out.parquet"
    workspace.complete_file(source, whole, 3)
    write, count = AnswerParts.write, []

    def counted(self: AnswerParts, number: int, table: object) -> None:
        count.append(number)
        write(self, number, table)

    assert start(CODE, KILLED, shop, source, out).wait(60) == -signal.SIGKILL
    monkeypatch.setattr(AnswerParts, "write", counted)
    assert not out.exists()
    workspace.complete_file(source, out, 3)
    assert count == [2, 3, 4], "what was answered before the kill is not asked again"
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("small_blocks")
def test_parts_of_another_request_are_never_mixed_in(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workspace = bc.open(shop, quiet=True)
    source, out = carts(tmp_path / "in.jsonl"), tmp_path / "out.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(AnswerParts, "join", lambda _self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workspace.complete_file(source, out, 3)
    assert len(list((tmp_path / ".out.parquet.parts").glob("*.parquet"))) == 5
    items = next(shop.glob("items.*"))
    os.utime(items, ns=(items.stat().st_atime_ns, items.stat().st_mtime_ns + 1))  # prices may have changed
    again: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(AnswerParts, "write", lambda _self, number, _table: again.append(number))
        with pytest.raises(BundlecacheError, match="is gone"):
            workspace.complete_file(source, out, 3)
    assert again == [0, 1, 2, 3, 4]
    workspace.complete_file(str(source), str(out), 2)
    assert {len(row) for row in pq.read_table(out)["completions"].to_pylist()} == {2}


@pytest.mark.slow
def test_two_processes_of_torchrun_share_the_carts_and_write_the_same_file(shop: Path, tmp_path: Path):
    source, out, alone = carts(tmp_path / "in.jsonl"), tmp_path / "out.parquet", tmp_path / "alone.parquet"
    start = f"""
import sys
from bundlecache.project.completion import complete_file, complete_many
complete_file.BLOCK_BUNDLES = complete_many.BLOCK_BUNDLES = 5
from bundlecache.project.completion.answer_parts import AnswerParts
write = AnswerParts.write
def told(self, number, table):
    open({str(tmp_path)!r} + f"/process-{{__import__('os').environ['RANK']}}", "a").write(f"{{number}} ")
    write(self, number, table)
AnswerParts.write = told
from bundlecache.cli import app
sys.argv = ["bundlecache", "complete", "--from", {str(source)!r}, "--out", {str(out)!r}, "--data", {str(shop)!r}, "--json"]
app()
"""
    script = written(tmp_path / "start.py", start)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run([sys.executable, *launch], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundles"] == 24, "printed once"
    assert [(tmp_path / f"process-{rank}").read_text() for rank in (0, 1)] == ["0 2 4 ", "1 3 "]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(complete_file, "BLOCK_BUNDLES", 5)
        bc.open(shop, quiet=True).complete_file(source, alone)
    assert out.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--from", "missing.jsonl", "--out", "x.parquet"], "cannot be read"),
        (["--from", "empty.jsonl", "--out", "x.parquet"], "is empty"),
        (["--from", "carts.xlsx", "--out", "x.parquet"], "no file of carts"),
        (["--from", "empty.jsonl"], "needs the file of its answers"),
        (["--from", "one.jsonl", "--out", "x.csv"], "Parquet file"),
        (["--from", "one.errors.jsonl", "--out", "one.parquet"], "would replace it"),
        (["--from", "nobody.csv", "--out", "x.parquet"], "holds no carts"),
        (["item-01", "--from", "empty.jsonl", "--out", "x.parquet"], "were given; one of them"),
        (["item-01", "--out", "x.parquet"], "belong to a file of carts"),
        ([], "No item was given"),
        (["--from", "one.jsonl", "--out", "x.parquet", "--engine", "spark"], "there are local and ray"),
        (["--from", "one.jsonl", "--out", "x.parquet", "--ray-address", "h:1"], "without --engine ray"),
        (["--from", "one.jsonl", "--out", "x.parquet", "--run", "none"], "none"),
        (["--from", "one.jsonl", "--out", "x.parquet", "--map", "item_id=sku"], "no column 'sku'"),
        (["--from", "one.jsonl", "--out", "x.parquet", "--user", "u1"], "tells no user's history"),
        (["--from", "one.jsonl", "--out", "x.parquet", "--where", "price<0"], "no column 'price'"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    shop: Path, tmp_path: Path, given: list[str], words: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "empty.jsonl")
    written(tmp_path / "one.jsonl", '{"item_ids": ["item-01"]}')
    written(tmp_path / "nobody.csv", "order_id,item", ",item-01")
    done = invoke("complete", *given, "--data", shop)
    assert isinstance(done.exception, BundlecacheError), done.output
    assert words in done.exception.message
    assert not list(tmp_path.glob("*x.*"))
