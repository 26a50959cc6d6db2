from __future__ import annotations

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from bundlecache import bench, questions, report
from bundlecache.baselines import all_baselines
from bundlecache.catalogue import Catalogue
from bundlecache.encode import run as encode
from bundlecache.errors import BundlecacheError, CheckpointError, MediaError
from bundlecache.report import charts, thumbnails
from bundlecache.store import Store

NASTY = '<script>alert("x")</script></title>&"quoted"'
VOID = {"meta", "link", "img", "br"}


class Colour:
    """A tiny real encoder: the mean colour of a picture."""

    modality, spec, dim, dtype, batch_size = "image", "descriptor:colour", 3, "float32", 8
    fingerprint, preprocess = "f" * 64, "RGB, mean"
    reading, tokens = "RGB", 0

    def read(self, source):
        from PIL import Image

        try:
            return Image.open(source).convert("RGB")
        except OSError as error:
            raise MediaError("no picture") from error

    def prepare(self, raw):
        return np.asarray(raw, np.float32).mean((0, 1))

    def encode(self, samples):
        return np.stack(samples)


def answers(asked, right=0.6, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, asked.options.shape)
    knows = rng.random(len(asked)) < right
    logits[np.flatnonzero(knows), asked.truth[knows]] += 4
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    valid = np.arange(len(asked)) > 0  # the first answer was no letter
    return SimpleNamespace(logits=logits, valid=valid, probabilities=lambda: shares)


def finish(workspace, *, evaluated=True, encoded=True):
    """A run as train and evaluate leave it, over the real store and real frozen questions."""
    catalogue = Catalogue.read(workspace)
    matrices = {}
    if encoded:
        store = Store(workspace.store)
        encode(Colour(), catalogue, workspace, store)
        matrices = {"image": store.matrix(catalogue.item_ids, "image")}
    folder = workspace.runs / "first"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format_version": 1,
        "recipe_name": "demo",
        "recipe": {},
        "base": {"spec": "embedded", "fingerprint": "ab" * 32, "parameters": 282_112},
        "encoders": [
            {k: getattr(m, k) for k in ("modality", "spec", "fingerprint", "table", "version")}
            | {"name": "image", "dim": 3}
            for m in matrices.values()
        ],
        "questions": {"valid": {"name": "valid-random5", "sha256": "cd" * 32}},
        "stages": [
            {"name": name, "steps": 60, "seconds": 1.5, "best_valid_hit@1": 0.4, "trainable_parameters": 6144}
            for name in ("text", "fusion")
        ],
        "seed": 7,
        "versions": {"torch": "2.13.0"},
        "encoder_calls": 0,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = []
    for stage in ("text", "contrastive", "fusion"):
        for step in range(10, 61, 10):
            lines.append({"stage": stage, "step": step, "loss": 2.0 / step, "lr": 1e-3})
        if stage != "contrastive":
            lines.append({"stage": stage, "step": 60, "valid_hit@1": 0.4})
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "fusion", "st')
    if evaluated:
        asked = questions.freeze(catalogue, split="test", n_options=5)
        model = answers(asked)
        results = bench.compare(
            all_baselines(catalogue, matrices), asked, {"Bundle-MLLM": model}, ablation={"image": answers(asked, 0.1)}
        )
        bench.save(folder, results, asked, model, catalogue.item_ids)
    return folder


def written(workspace, folder):
    return report.write(workspace, folder, Catalogue.read(workspace)).read_text("utf-8")


def rewrite_items(workspace, change):
    path = workspace.root / "items.parquet"
    pq.write_table(change(pq.read_table(path)), path)


class Page(HTMLParser):
    """Addresses, text and the nesting of a page."""

    def __init__(self, html):
        super().__init__()
        self.addresses, self.open, self.crooked, self.said = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "srcset", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.crooked.append(tag)

    def handle_data(self, data):
        if "style" not in self.open[-1:] and "script" not in self.open[-1:]:
            self.said.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.said).split())


def test_the_page_is_one_well_formed_file_that_asks_the_network_for_nothing(workspace):
    html = written(workspace, finish(workspace))
    page = Page(html)
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
    html = written(workspace, finish(workspace))
    assert NASTY not in html
    assert "<script>alert" not in html
    assert 'alert("x")' in Page(html).text
    assert html.count("<script>") == 1  # the page's own player


def test_figures_verdict_and_questions_stand_on_the_page(workspace):
    folder = finish(workspace)
    results = next(iter(bench.load(folder).values()))
    text = Page(written(workspace, folder)).text
    for row in results["methods"]:
        assert row["name"] in text
        assert report.percent(row["hit@1"]) in text
    for sentence in results["verdict"][:-1]:
        assert sentence in text
    assert "picture vectors" in text
    assert results["questions"]["sha256"] in text
    assert "no letter" in text
    assert "descriptor:colour" in text
    assert "cheap descriptors, not a pretrained network" in text
    assert "embedded base" in text


def test_receipts_stand_with_their_failed_and_absent_items(workspace):
    (workspace.root / "images" / "3.png").write_bytes(b"no picture")
    context = report.context(workspace, finish(workspace), Catalogue.read(workspace))
    row = next(row for row in context["encoded"] if row["modality"] == "pictures")
    assert (row["items"], row["encoded"], row["failed"], row["absent"], row["balances"]) == (24, 21, 1, 2, True)


def test_a_modality_that_is_not_there_is_said_to_be_absent(workspace):
    folder = finish(workspace, encoded=False)
    assert "there, but not encoded" in Page(written(workspace, folder)).text
    rewrite_items(workspace, lambda table: table.drop_columns(["image", "audio"]))
    html = written(workspace, folder)
    text = Page(html).text
    assert "absent: this catalogue has no pictures" in text
    assert "absent: this catalogue has no sounds" in text
    assert "This catalogue has no pictures." in text
    assert "<img" not in html
    assert "<audio" not in html


def test_pictures_that_cannot_be_read_are_said_so(workspace):
    folder = finish(workspace)
    for path in (workspace.root / "images").iterdir():
        path.write_bytes(b"")
    html = written(workspace, folder)
    assert "<img" not in html
    assert "unreadable" in html
    assert "no picture" in html


def test_every_play_button_has_its_sound(workspace):
    html = written(workspace, finish(workspace))
    buttons = {part.split('"')[0] for part in html.split('data-sound="')[1:]}
    sounds = {part.split('"')[0] for part in html.split('<audio id="')[1:]}
    assert buttons
    assert buttons == sounds


def test_the_gallery_shows_hits_and_misses_and_marks_truth_and_choice(workspace):
    folder = finish(workspace)
    catalogue = Catalogue.read(workspace)
    cards = report.context(workspace, folder, catalogue)["gallery"]["cards"]
    assert {card["hit"] for card in cards} == {True, False}
    for card in cards:
        truth = [option for option in card["options"] if option["truth"]]
        chosen = [option for option in card["options"] if option["chosen"]]
        assert len(truth) == len(chosen) == 1
        assert chosen[0]["probability"] == max(option["probability"] for option in card["options"])
        assert card["hit"] == (card["valid"] and truth[0]["chosen"])
    again = report.context(workspace, folder, catalogue)["gallery"]["cards"]
    assert [card["bundle_id"] for card in cards] == [card["bundle_id"] for card in again]


def test_an_item_that_left_the_catalogue_does_not_stop_the_report(workspace):
    folder = finish(workspace)
    table = bench.load_answers(folder, "test-random5")
    gone = table.column("options")[0].as_py()[0]
    rewrite_items(workspace, lambda items: items.filter([i != gone for i in items.column("item_id").to_pylist()]))
    assert "bundlecache report" in written(workspace, folder)


def test_a_run_that_was_not_evaluated_says_what_to_type(workspace):
    text = Page(written(workspace, finish(workspace, evaluated=False))).text
    assert "bundlecache evaluate" in text
    assert "How it was trained" in text


def test_a_run_with_baselines_only_claims_no_model(workspace):
    folder = finish(workspace, evaluated=False)
    catalogue = Catalogue.read(workspace)
    asked = questions.freeze(catalogue, split="test", n_options=5)
    bench.save(folder, bench.compare(all_baselines(catalogue, {}), asked), asked)
    text = Page(written(workspace, folder)).text
    assert "No trained model was evaluated" in text
    assert "Look at some questions" not in text


def test_answers_to_other_questions_are_refused(workspace):
    folder = finish(workspace)
    path = folder / "results" / "test-random5.json"
    results = json.loads(path.read_text())
    results["questions"]["sha256"] = "0" * 64
    path.write_text(json.dumps(results))
    with pytest.raises(BundlecacheError, match="other questions"):
        written(workspace, folder)


def test_a_damaged_run_is_one_sentence(workspace):
    folder = finish(workspace, evaluated=False)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        written(workspace, folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no finished run"):
        written(workspace, folder)


def test_charts_follow_the_steps_over_stages_and_skip_what_is_not_finite(workspace):
    context = report.context(workspace, finish(workspace), Catalogue.read(workspace))
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
