"""A UniMP run through the commands: it recommends, explains, is measured beside baselines, ablated and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.html_page import HtmlPage
from helpers.runner import invoke, printed_json, succeed
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.errors import BundlecacheError

FEW = ("multitask_stage.steps=2", "multitask_stage.evaluate_every=2", "run.validation_questions=4", "data.batch=4")
SETTINGS = (
    *FEW,
    "run.strategy=multitask",
    "vision.encoder=",
    "data.tasks=recommend,search,preference,select",
    "data.k_core=2",
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a run of two steps, of recommend and preference."""
    root = make_shop(tmp_path_factory.mktemp("unimp"))
    rows = [(f"u{u}", f"item-{(u + 2 * k) % 24:02}", u + 30 * k, 1 + (u + k) % 5) for u in range(16) for k in range(6)]
    names = ("user_id", "item_id", "timestamp", "rating")
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), root / "interactions.parquet"
    )
    bc.open(root, quiet=True).train("unimp", settings=SETTINGS, name="first")
    return root


def test_the_newest_run_recommends_and_says_so(shop: Path):
    shown = succeed("recommend", "u3", "--k", 24, "--data", shop)
    assert "ranked by first" in shown.stderr
    rows = bc.open(shop, quiet=True).run("first").recommend("u3", 24, keep_history=True)
    assert len(rows) == 24
    assert sum(row.score for row in rows) == pytest.approx(1, abs=2e-3)  # probabilities among all items
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)


def test_it_rates_an_item_and_selects_among_a_few(shop: Path):
    run = bc.open(shop, quiet=True).run("first")
    rating, stars = run.rate("u3", "item-00")
    assert 1 <= rating <= 5
    assert stars in range(1, 6)
    rows = run.select("u3", ["item-02", "item-00", "item-07", "item-01"])
    assert {row.item_id for row in rows} == {"item-00", "item-01", "item-02", "item-07"}
    assert sum(row.probability for row in rows) == pytest.approx(1, abs=1e-3)
    assert rows[0].chosen
    with pytest.raises(BundlecacheError, match="1 different items were given, but one selects among 2 to 10"):
        run.select("u3", ["item-02", "item-02"])


def test_a_run_is_asked_about_what_it_was_trained_for_and_has_not_seen(shop: Path):
    explained = invoke("explain", "u3", "item-00", "--data", shop)
    assert "first was trained for recommend, search, preference, select, not for explain" in str(explained.exception)
    other = invoke("bench", "--task", "recommend", "--k-core", 3, "--run", "first", "--data", shop)
    assert "it may have seen what recommend-leave_last_out-core3 asks about" in str(other.exception)


def test_it_stands_beside_baselines_in_tables_files_and_the_report(shop: Path, monkeypatch: pytest.MonkeyPatch):
    from bundlecache.train import sasrec

    monkeypatch.setattr(sasrec, "MAX_EPOCHS", 1)
    fits, train = [], sasrec.train
    monkeypatch.setattr(sasrec, "train", lambda training: fits.append(training) or train(training))
    shown = succeed("bench", "--task", "recommend", "--k-core", 2, "--run", "first", "--data", shop).stdout
    assert "question by question: HR@10" in shown
    fits.clear()
    made = printed_json("evaluate", "--run", "first", "--data", shop)
    assert len(fits) == 2, "recommend and search share a fit; select has fewer validation questions"
    assert [each["result"]["task"] for each in made] == ["recommend", "search", "preference", "select"]
    names = {row["name"]: row.get("kind") for row in made[2]["result"]["methods"]}
    assert names["first"] == names["first, likeliest"] == "model"
    assert names["user mean"] is None
    saved = json.loads((shop / "runs" / "first" / "tasks" / "preference-leave_last_out-core2.json").read_text())
    assert saved["n"] == 16
    few = printed_json(
        "evaluate", "--run", "first", "--questions", "select", "--sample", 5, "--no-baselines", "--data", shop
    )
    assert few[0]["result"]["n"] == 5 < made[3]["result"]["n"]
    shown = succeed("bench", "--task", "preference", "--k-core", 2, "--sample", 7, "--data", shop).stdout
    assert "7 of 16 test questions" in " ".join(shown.split())
    succeed("report", "--run", "first", "--data", shop)
    page = (shop / "runs" / "first" / "report.html").read_text()
    assert "What does the user take next?" in page
    assert "user mean" in page
    assert "multitask" in page
    compared = invoke("report", "--run", "first", "--against", "first", "--data", shop)
    assert "first cannot be compared with itself" in str(compared.exception)


def test_two_runs_are_compared_question_by_question_on_a_page(shop: Path):
    session = bc.open(shop, quiet=True)
    session.train("unimp", settings=[*SETTINGS, "data.tasks=recommend,preference", "loss.gamma=1"], name="second")
    early = invoke("report", "--run", "second", "--against", "first", "--data", shop)
    assert "evaluate --run second" in str(early.exception)
    figures = {}
    for name in ("first", "second"):
        made = session.run(name).evaluate_tasks(["recommend", "preference"], baselines=False)
        figures[name] = {r.task: next(m.values for m in r.methods if m.name == name) for _, r in made}
    page = session.run("second").report("first")
    (recommend, preference) = page.findings
    assert recommend.startswith("recommend: HR@10 ")
    assert preference.startswith("preference: MAE ")
    ours, theirs = (figures[name]["preference"]["MAE"] for name in ("second", "first"))
    assert f"{ours.mean():.3f} of second, {theirs.mean():.3f} of first" in preference
    assert f"({(ours - theirs).mean():+.3f} [".replace("-", "\u2212") in preference
    text = HtmlPage(page.path.read_text("utf-8"))
    assert page.path.name == "against-first.html"
    assert text.crooked == text.open == []
    assert "loss.gamma" in text.text
    assert "A token weighs (1 - p) to this power" in text.text
    assert recommend in text.text
    session.run("first").evaluate_tasks(["recommend"], sample=3, baselines=False)
    (only,) = session.run("second").report("first").findings
    assert only == preference
    assert (
        "answered different questions under the name recommend" in (shop / "runs/second/against-first.html").read_text()
    )


def test_an_ablation_has_a_column_per_task_and_trains_each_point_once(shop: Path, tmp_path: Path):
    settings = "\n".join(f'"{key}" = {value}' for key, value in (each.split("=") for each in FEW))
    (tmp_path / "mine.toml").write_text(
        f'recipe = "unimp"\nseeds = [0]\n[set]\n{settings}\n"run.strategy" = ["multitask"]\n"vision.encoder" = ""\n'
        '"data.tasks" = ["recommend", "preference"]\n"data.k_core" = 2\n[vary]\n"data.context" = ["none"]\n'
    )
    session = bc.open(shop, quiet=True)
    made = session.ablate(tmp_path / "mine.toml")
    assert [row.title for row in made.rows] == ["the recipe", "data.context=none"]
    assert set(made.rows[1].figures) == {"recommend HR@10", "preference MAE"}
    assert made.rows[1].figures["preference MAE"].change_interval is not None
    assert session.ablate(tmp_path / "mine.toml").rows == made.rows
