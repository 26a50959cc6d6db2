from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.bench_setup import compare
from helpers.evaluated_run import (
    add_attention,
    compare_runs,
    report_html,
    rewrite_items,
    write_run,
    write_second_run,
)
from helpers.html_page import HtmlPage

from bundlecache.baselines.registry import all_baselines
from bundlecache.bench import metrics, result_files
from bundlecache.bench.result_rows import Group, GroupMethod, MethodResult
from bundlecache.bench.results import QuestionSetInfo, QuestionSetResult
from bundlecache.catalogue import splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.errors import BundlecacheError, CheckpointError, MediaError
from bundlecache.questions import freeze as questions
from bundlecache.report import charts, comparison, question_cards, reliability, thumbnails
from bundlecache.report import model_answers as answers_of
from bundlecache.report import run_page as report
from bundlecache.report.model_answers import Answered
from bundlecache.report.render import percent

NASTY = '<script>alert("x")</script></title>&"quoted"'


def test_the_page_is_one_well_formed_file_that_asks_the_network_for_nothing(workspace):
    html = report_html(workspace, write_run(workspace))
    page = HtmlPage(html)
    assert page.crooked == page.open == []
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert "http://" not in html
    assert "https://" not in html
    assert "default-src 'none'" in html
    assert len(html) < 3_000_000


def test_what_a_user_typed_is_text_and_never_markup(workspace):
    def nasty(table):
        titles = [f"{NASTY} {i}" for i in range(len(table))]
        return table.set_column(table.schema.get_field_index("title"), "title", [titles])

    rewrite_items(workspace, nasty)
    html = report_html(workspace, write_run(workspace))
    assert NASTY not in html
    assert "<script>alert" not in html
    assert 'alert("x")' in HtmlPage(html).text
    assert html.count("<script>") == 1  # the page's own player


def test_figures_verdict_and_questions_stand_on_the_page(workspace):
    folder = write_run(workspace)
    results = next(iter(result_files.load(folder).values()))
    text = HtmlPage(report_html(workspace, folder)).text
    for row in results.methods:
        assert row.name in text
        assert percent(row.hit1) in text
    for sentence in results.findings[:-1]:
        assert sentence in text
    assert "picture vectors" in text
    assert results.questions.sha256 in text
    assert "no letter" in text
    assert "descriptor:colour" in text
    assert "cheap descriptors, not a pretrained network" in text
    assert "embedded base" in text


def test_receipts_stand_with_their_failed_and_absent_items(workspace):
    (workspace.root / "images" / "3.png").write_bytes(b"no picture")
    context = report.context(workspace, write_run(workspace), Catalogue.read(workspace))
    row = next(row for row in context["encoded"] if row["modality"] == "pictures")
    assert (row["items"], row["encoded"], row["failed"], row["absent"], row["balances"]) == (24, 21, 1, 2, True)


def test_a_modality_that_is_not_there_is_said_to_be_absent(workspace):
    folder = write_run(workspace, encoded=False)
    assert "there, but not encoded" in HtmlPage(report_html(workspace, folder)).text
    rewrite_items(workspace, lambda table: table.drop_columns(["image", "audio"]))
    html = report_html(workspace, folder)
    text = HtmlPage(html).text
    assert "absent: this catalogue has no pictures" in text
    assert "absent: this catalogue has no sounds" in text
    assert "This catalogue has no pictures." in text
    assert "<img" not in html
    assert "<audio" not in html


def test_pictures_that_cannot_be_read_are_said_so(workspace):
    folder = write_run(workspace)
    for path in (workspace.root / "images").iterdir():
        path.write_bytes(b"")
    html = report_html(workspace, folder)
    assert "<img" not in html
    assert "unreadable" in html
    assert "no picture" in html


def test_every_play_button_has_its_sound(workspace):
    html = report_html(workspace, write_run(workspace))
    buttons = {part.split('"')[0] for part in html.split('data-sound="')[1:]}
    sounds = {part.split('"')[0] for part in html.split('<audio id="')[1:]}
    assert buttons
    assert buttons == sounds


def shown(context):
    return [card for kind in context["gallery"]["kinds"] for card in kind["cards"]]


def test_the_gallery_shows_hits_and_misses_and_marks_truth_and_choice(workspace):
    folder = write_run(workspace)
    catalogue = Catalogue.read(workspace)
    cards = shown(report.context(workspace, folder, catalogue))
    assert {card["hit"] for card in cards} == {True, False}
    assert len({(card["bundle_id"], card["options"][0]["title"]) for card in cards}) == len(cards)
    for card in cards:
        truth = [option for option in card["options"] if option["truth"]]
        chosen = [option for option in card["options"] if option["chosen"]]
        assert len(truth) == len(chosen) == 1
        assert chosen[0]["probability"] == max(option["probability"] for option in card["options"])
        assert card["hit"] == (card["valid"] and truth[0]["chosen"])
    again = shown(report.context(workspace, folder, catalogue))
    assert [card["bundle_id"] for card in cards] == [card["bundle_id"] for card in again]


def answered(right, sure, n=4):
    """Answers whose first option is the truth; the choice is it or the second, with this probability."""
    right, sure = np.asarray(right, bool), np.asarray(sure, float)
    q = len(right)
    probabilities = np.repeat(((1 - sure) / (n - 1))[:, None], n, axis=1)
    predicted = np.where(right, 0, 1)
    probabilities[np.arange(q), predicted] = sure
    return Answered(
        [f"b{k}" for k in range(q)],
        [["item-00"]] * q,
        [[f"item-{k:02d}" for k in range(1, n + 1)]] * q,
        probabilities,
        np.zeros(q, np.int64),
        np.ones(q, bool),
        predicted,
    )


def test_the_surest_hits_and_misses_and_the_unsure_are_what_they_are_called():
    rng = np.random.default_rng(0)
    given = answered(rng.random(200) < 0.5, rng.uniform(0.3, 1.0, 200))
    kinds = {key: rows for key, _, _, rows in question_cards._chosen(given, "ab" * 32)}
    left = np.setdiff1d(np.arange(200), kinds["lot"])
    assert given.right[kinds["hits"]].all()
    assert given.sure[kinds["hits"]].min() >= np.sort(given.sure[left][given.right[left]])[-question_cards.EACH]
    assert not given.right[kinds["misses"]].any()
    assert given.sure[kinds["misses"]].min() >= np.sort(given.sure[left][~given.right[left]])[-question_cards.EACH]
    assert given.lead[kinds["unsure"]].max() <= np.sort(given.lead[left])[question_cards.EACH - 1]


def test_a_model_that_loves_a_letter_is_told_from_one_that_does_not():
    letters = np.repeat(np.arange(4), 50)
    assert reliability.judged(letters == 0, letters)["differs"]
    assert not reliability.judged(np.tile([True, False], 100), letters)["differs"]
    rng = np.random.default_rng(1)  # by lot, one in a hundred is called different
    told = [reliability.judged(rng.random(200) < 0.5, letters)["differs"] for _ in range(100)]
    assert sum(told) <= 5


def test_after_several_orders_no_preference_for_a_letter_is_claimed(workspace):
    folder = write_run(workspace)
    assert "A model that prefers a letter" in HtmlPage(report_html(workspace, folder)).text
    path = folder / "results" / "test-random5.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"how": {"permutations": 3, "at_once": None}}))
    text = HtmlPage(report_html(workspace, folder)).text
    assert "A model that prefers a letter" not in text
    assert "By where the right option stands in the file" in text
    assert "Options stood in 3 orders before the model" in text


def test_breakdowns_cover_every_question_once_and_know_cold_from_seen(workspace):
    folder = write_run(workspace)
    catalogue = Catalogue.read(workspace)
    results = next(iter(result_files.load(folder).values()))
    given = answers_of.read(folder, results)
    ways = {way["title"]: way for way in reliability.breakdowns(given, catalogue)}
    for way in ways.values():
        assert sum(row["n"] for row in way["rows"]) == len(given)
        assert sum(row["n"] * row["hit@1"] for row in way["rows"]) == pytest.approx(given.right.sum())
    bundled = set(splits.training_graph(catalogue, "bundle-item")[:, 1])
    cold = sum(catalogue.index[item] not in bundled for item in given.truth_ids())
    seen = ways.get("By whether the right item was seen in a bundle")
    assert (next(row["n"] for row in seen["rows"] if "cold" in row["name"]) if seen else 0) == cold


def test_the_best_other_method_of_a_group_stands_beside_the_model(workspace):
    def of(rate, name):
        return GroupMethod(name, {"hit@1": rate}, "hit@1", (0.0, 1.0))

    ways = [{"way": "cold", "rows": [{"name": "cold"}, {"name": "seen"}]}]
    kinds = (("a", "model"), ("b", "content"), ("c", "chance"), ("d", "content"))
    results = QuestionSetResult(
        QuestionSetInfo("q", "0" * 64, 9, 5, "test", "random"),
        [MethodResult(n, k, 9, 0.1, 0.1, 0.1, 0.1, (0.0, 1.0)) for n, k in kinds],
        slices={"cold": [Group("cold", 9, True, [of(0.9, "a"), of(0.8, "c"), of(0.3, "b"), of(0.2, "d")])]},
    )
    reliability.rivals(ways, results)
    assert [row["rival"] and row["rival"].name for row in ways[0]["rows"]] == ["b", None]
    assert ways[0]["rivals"] == ["b"]


def test_how_sure_a_model_is_and_how_often_right_are_said_and_drawn(workspace):
    folder = write_run(workspace)
    context = report.context(workspace, folder, Catalogue.read(workspace))
    bins = next(iter(result_files.load(folder).values())).model_answers["calibration"]
    assert len(context["trust"]["chart"].dots) == len(bins["count"])
    assert context["trust"]["ece"] == pytest.approx(bins["ece"], abs=1e-3)
    sure = reliability.trust({"ece": 0.3, "confidence": [0.9], "accuracy": [0.6], "count": [10]})
    modest = reliability.trust({"ece": 0.3, "confidence": [0.6], "accuracy": [0.9], "count": [10]})
    assert (sure["told"], modest["told"]) == ("too sure of itself", "too modest")


def test_attention_stands_on_the_page_with_what_it_does_not_mean(workspace):
    folder = write_run(workspace)
    assert "What the fusion looks at" not in report_html(workspace, folder)
    add_attention(folder)
    text = HtmlPage(report_html(workspace, folder)).text
    assert "What the fusion looks at" in text
    assert "62.5%" in text
    assert "What it does not mean" in text


def test_another_seed_of_the_same_recipe_is_named_beside_the_figure(workspace):
    folder = write_run(workspace)
    write_second_run(workspace, "other", seed=8)
    write_second_run(workspace, "elsewhere", seed=9, recipe={"lora": {"rank": 2}})
    text = HtmlPage(report_html(workspace, folder)).text
    assert "other (seed 8)" in text
    assert "elsewhere" not in text


def test_two_runs_are_compared_in_pairs_by_the_same_arithmetic_as_the_bench(workspace):
    folder, other = write_run(workspace), write_second_run(workspace, "second")
    catalogue = Catalogue.read(workspace)
    figures = comparison.compare(workspace, folder, other, catalogue)["sets"][0]["figures"]
    given = [answers_of.read(run, next(iter(result_files.load(run).values()))) for run in (folder, other)]
    hits = [each.right.astype(float) for each in given]
    assert (figures["rows"][0]["delta"], *figures["rows"][0]["interval"]) == metrics.paired_difference(*hits)
    assert figures["p"] == metrics.mcnemar(*hits)
    assert sum(figures["counts"].values()) == figures["n"] == len(given[0])
    for run, key in ((folder, "a"), (other, "b")):
        row = next(iter(result_files.load(run).values())).model_row.to_dict()
        for name, of in (("HitRate@1", "hit@1"), ("HitRate@3", "hit@3"), ("HitRate@5", "hit@5"), ("MRR", "mrr")):
            assert next(r for r in figures["rows"] if r["name"] == name)[key] == pytest.approx(row[of], abs=1e-6)


def test_the_comparison_names_what_differs_and_shows_who_gained(workspace):
    write_run(workspace)
    write_second_run(workspace, "second", seed=8, recipe={"lora": {"rank": 2}}, version=99)
    path, said = compare_runs(workspace)
    assert path.name == "against-second.html"
    html = path.read_text("utf-8")
    page = HtmlPage(html)
    assert page.crooked == page.open == []
    assert all(address.startswith("data:") for address in page.addresses)
    assert "lora.rank" in page.text
    assert "Rank of the update." in page.text
    assert "the table was written to in between" in page.text
    assert said[0] in page.text
    assert "Right in first, not in second" in page.text
    cards = comparison.compare(
        workspace, workspace.runs / "first", workspace.runs / "second", Catalogue.read(workspace)
    )["sets"][0]["kinds"]
    for kind in cards:
        for card in kind["cards"]:
            assert card["hit"] == (kind["key"] == "gained")


def test_a_users_history_is_no_kind_of_vectors_on_either_page(workspace):
    folder, _ = write_run(workspace), write_second_run(workspace, "second")
    assert "picture vectors" in HtmlPage(compare_runs(workspace)[0].read_text("utf-8")).text
    path = folder / "results" / "test-random5.json"
    results = json.loads(path.read_text())
    results["ablation"][0]["without"] = "history"
    path.write_text(json.dumps(results))
    for text in (
        HtmlPage(report_html(workspace, folder)).text,
        HtmlPage(compare_runs(workspace)[0].read_text("utf-8")).text,
    ):
        assert "user's history" in text
        assert "history vectors" not in text


def test_runs_are_told_apart_only_when_the_interval_says_so():
    def figures(delta, low, high):
        row = {"name": "HitRate@1", "a": 0.5 + delta, "b": 0.5, "delta": delta, "interval": [low, high]}
        return {"rows": [row], "p": 0.2, "n": 100}

    assert "cannot be told apart" in comparison.sentence("a", "b", figures(0.02, -0.03, 0.07))
    assert "5.0 points more (2.0 to 8.0" in comparison.sentence("a", "b", figures(0.05, 0.02, 0.08))
    assert "5.0 points less (2.0 to 8.0" in comparison.sentence("a", "b", figures(-0.05, -0.08, -0.02))


def test_runs_that_answered_other_questions_are_one_sentence(workspace):
    write_run(workspace)
    other = write_second_run(workspace, "second")
    with pytest.raises(BundlecacheError, match="cannot be compared with itself"):
        compare_runs(workspace, b="first")
    path = other / "results" / "test-random5.json"
    results = json.loads(path.read_text())
    results["questions"]["sha256"] = "0" * 64
    path.write_text(json.dumps(results))
    with pytest.raises(BundlecacheError, match="different questions under the name test-random5"):
        compare_runs(workspace)
    path.unlink()
    with pytest.raises(BundlecacheError, match="answered by first only"):
        compare_runs(workspace)


def test_damaged_answers_are_one_sentence(workspace):
    folder = write_run(workspace)
    path = folder / "results" / "test-random5.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["truth"]), path)
    with pytest.raises(CheckpointError, match="damaged"):
        report_html(workspace, folder)


def test_an_item_that_left_the_catalogue_does_not_stop_the_report(workspace):
    folder = write_run(workspace)
    table = result_files.load_answers(folder, "test-random5")
    gone = table.column("options")[0].as_py()[0]
    rewrite_items(workspace, lambda items: items.filter([i != gone for i in items.column("item_id").to_pylist()]))
    assert "bundlecache report" in report_html(workspace, folder)


def test_a_run_that_was_not_evaluated_says_what_to_type(workspace):
    text = HtmlPage(report_html(workspace, write_run(workspace, evaluated=False))).text
    assert "bundlecache evaluate" in text
    assert "How it was trained" in text


def test_a_run_with_baselines_only_claims_no_model(workspace):
    folder = write_run(workspace, evaluated=False)
    catalogue = Catalogue.read(workspace)
    asked = questions.freeze(catalogue, split="test", n_options=5)
    result_files.save(folder, compare(all_baselines(catalogue, {}), asked), asked)
    text = HtmlPage(report_html(workspace, folder)).text
    assert "No trained model was evaluated" in text
    assert "Look at some questions" not in text


def test_answers_to_other_questions_are_refused(workspace):
    folder = write_run(workspace)
    path = folder / "results" / "test-random5.json"
    results = json.loads(path.read_text())
    results["questions"]["sha256"] = "0" * 64
    path.write_text(json.dumps(results))
    with pytest.raises(BundlecacheError, match="other questions"):
        report_html(workspace, folder)


def test_a_damaged_run_is_one_sentence(workspace):
    folder = write_run(workspace, evaluated=False)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        report_html(workspace, folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no finished run"):
        report_html(workspace, folder)


def test_charts_follow_the_steps_over_stages_and_skip_what_is_not_finite(workspace):
    context = report.context(workspace, write_run(workspace), Catalogue.read(workspace))
    loss, hits = context["charts"]
    assert [mark.label for mark in loss.marks] == ["stage text", "stage fusion"]
    assert loss.marks[1].at == pytest.approx((loss.frame[0] + loss.frame[2]) / 2, abs=1)
    assert len(hits.dots) == 2
    assert context["warm"] == {"contrastive": 60}
    line = charts.Line([0, 1, 2, 3], [1.0, float("nan"), float("inf"), 0.5], "main")
    assert len(charts.draw("x", [line]).paths[0][1].split()) == 2
    assert charts.draw("x", [charts.Line([], [], "main")]) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "L", "1", "CMYK", "I;16"])
def test_every_kind_of_picture_becomes_a_small_jpeg(tmp_path, mode):
    import base64
    import io

    from PIL import Image

    suffix = "tiff" if mode == "CMYK" else "png"
    path = tmp_path / f"x.{suffix}"
    Image.new(mode, (300, 200)).save(path)
    kind, content = thumbnails.picture(path).split(",")
    assert kind == "data:image/jpeg;base64"
    assert max(Image.open(io.BytesIO(base64.b64decode(content))).size) == thumbnails.SIDE


def test_long_sounds_are_cut_and_broken_ones_refused(tmp_path):
    import soundfile

    long, empty, broken = (tmp_path / name for name in ("long.wav", "empty.wav", "broken.mp3"))
    soundfile.write(long, np.random.default_rng(0).normal(0, 0.1, 48_000 * 30), 48_000)
    assert len(thumbnails.sound(long)) < 300_000
    soundfile.write(empty, np.zeros(0), 16_000)
    broken.write_bytes(b"\x00" * 100)
    for path in (empty, broken, tmp_path / "missing.flac"):
        with pytest.raises(MediaError):
            thumbnails.sound(path)


def test_the_page_of_a_run_that_scores_options_speaks_of_no_letter(workspace):
    folder = write_run(workspace)
    manifest = json.loads((folder / "manifest.json").read_text())
    settings = {"answer": {"form": "pointer"}, "fusion": {"evidence": "residual"}, "run": {"select": "loss"}}
    manifest["recipe"] = settings
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = HtmlPage(report_html(workspace, folder)).text
    assert "gives each option a score" in text
    assert "reads evidence" in " ".join(text.split())
    assert "By where the right option stood" not in text
    for words in ("lettered", "a letter", "one letter", "option letters"):
        assert words not in text
