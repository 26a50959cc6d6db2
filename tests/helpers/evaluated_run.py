"""A run as train and evaluate leave it, made without a model, and the report pages about it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq

from bundlecache.baselines.registry import all_baselines
from bundlecache.bench import result_files
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.encode.run import run as encode
from bundlecache.errors import MediaError
from bundlecache.questions import freeze as questions
from bundlecache.report import run_page as report
from bundlecache.store.store import Store

from .bench_setup import compare


class ColourEncoder:
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


def random_answers(asked, right=0.6, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, asked.options.shape)
    knows = rng.random(len(asked)) < right
    logits[np.flatnonzero(knows), asked.truth[knows]] += 4
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    valid = np.arange(len(asked)) > 0  # the first answer was no letter
    return SimpleNamespace(logits=logits, valid=valid, probabilities=lambda: shares)


def write_run(workspace, *, evaluated=True, encoded=True, right=0.6):
    """A run as train and evaluate leave it, over the real store and real frozen questions."""
    catalogue = Catalogue.read(workspace)
    matrices = {}
    if encoded:
        store = Store(workspace.store)
        encode(ColourEncoder(), catalogue, workspace, store)
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
        model = random_answers(asked, right)
        results = compare(
            all_baselines(catalogue, matrices),
            asked,
            {"Bundle-MLLM": model},
            ablation={"image": random_answers(asked, 0.1)},
        )
        result_files.save(folder, results, asked, model, catalogue.item_ids)
    return folder


def report_html(workspace, folder):
    return report.write(workspace, folder, Catalogue.read(workspace)).read_text("utf-8")


def rewrite_items(workspace, change):
    path = workspace.root / "items.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def add_attention(folder):
    """The mean attention, as evaluate saves it."""
    path = folder / "results" / "test-random5.json"
    found = {"names": ["image", "text"], "items": 24, "present": [0.9, 1.0], "weight": [0.625, 0.375]}
    found |= {"even": [0.45, 0.55], "matrix": [[0.7, 0.3], [0.55, 0.45]], "residual": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention": found}))


def write_second_run(workspace, name, *, right=0.2, seed=7, recipe=None, version=None):
    """Another run on the same questions, with other answers."""
    first, folder = workspace.runs / "first", workspace.runs / name
    folder.mkdir()
    manifest = json.loads((first / "manifest.json").read_text()) | {"seed": seed}
    manifest["recipe"] = recipe or manifest["recipe"]
    for encoder in manifest["encoders"]:
        encoder["version"] = version or encoder["version"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    catalogue = Catalogue.read(workspace)
    asked = questions.freeze(catalogue, split="test", n_options=5)
    model = random_answers(asked, right, seed=1)
    result_files.save(folder, compare([], asked, {"Bundle-MLLM": model}), asked, model, catalogue.item_ids)
    return folder


def compare_runs(workspace, a="first", b="second"):
    catalogue = Catalogue.read(workspace)
    return report.write_comparison(workspace, workspace.runs / a, workspace.runs / b, catalogue)
