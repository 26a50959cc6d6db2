"""Writes the model card of a run: what it is, what it was trained on and how it was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bundlecache.recipes.recipe import Recipe


_OPTIONS = {
    "letters": "lettered options",
    "pointer": "any number of options, each scored at its own end by a small head (the answer form `pointer`)",
    "likelihood": "any number of options by how much likelier the bundle makes their titles (the answer form `likelihood`)",
    "yes-no": "any number of options, each judged alone by the logits of yes and no (the answer form `yes-no`)",
}


def text(recipe: Recipe, manifest: Mapping[str, Any]) -> str:
    """The card in Markdown, from the run's manifest."""
    encoders = "\n".join(
        f"| {e['name']} | {e['spec']} | {e['dim']} | {e['fingerprint'][:12]} |" for e in manifest["encoders"]
    )
    stages = "\n".join(
        f"| {s['name']} | {s['steps']} | {s['trainable_parameters']:,} | {s['best_valid_hit@1']:.3f} |"
        for s in manifest["stages"]
    )
    valid = manifest["questions"]["valid"]
    drawn = valid.get("sample")
    amount = "" if drawn is None else f" ({drawn['n_questions']:,} of {drawn['of']:,}, a fixed sample)"
    stopped = ""
    if manifest["stopped"]:
        stopped = (
            f"\nTraining was stopped early by {manifest['stopped']}: `bundlecache train --resume` goes on with it."
        )
    return f"""# A bundlecache model

Completes bundles: given some items, it chooses the missing one among {_OPTIONS[recipe.answer.form]}. It consists of a LoRA
adapter for the language model `{recipe.base.model}` and, in `fusion.safetensors`, the module that turns an
item's cached vectors into one soft token{_head(manifest)}. The encoders were not trained and were not called in training.

Recipe: `{recipe.name}` (resolved in `recipe.toml`), seed {manifest["seed"]}. The best weights were chosen on the validation
questions `{valid["name"]}`{amount}, sha256 `{valid["sha256"][:16]}`; figures on test questions, beside baselines, stand in
`results/` and `report.html`.{stopped}

| stage | steps | trained parameters | HitRate@1 on validation |
|---|---|---|---|
{stages}

| vectors | encoder | width | weights fingerprint |
|---|---|---|---|
{encoders or "| none | text only | | |"}

Use: `bundlecache evaluate`, `bundlecache complete ITEM...`; in Python `bundlecache.train.checkpoint.load(run, catalogue, matrices)`.
It ranks what it was trained on: another catalogue, other encoders or another base model need training again.
"""


def _head(manifest: Mapping[str, Any]) -> str:
    return (
        "; what scores the options beside it is in `answer.safetensors`"
        if "answer.safetensors" in manifest["weights"]
        else ""
    )
