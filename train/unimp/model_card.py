"""Writes the model card of a run of UniMP: what it is, what it was trained on and how it was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bundlecache.recipes.unimp_recipe import UnimpRecipe


def text(recipe: UnimpRecipe, manifest: Mapping[str, Any]) -> str:
    """The card in Markdown, from the run's manifest."""
    seen = "reads no pictures"
    for encoder in manifest["encoders"]:
        seen = (
            f"sees pictures as {encoder['tokens']} stored tokens of `{encoder['spec']}` ({encoder['fingerprint'][:12]})"
        )
    if (codes := manifest.get("codes")) is not None:
        seen += f", draws pictures by {codes['count']:,} codes of `{codes['spec']}` ({codes['fingerprint'][:12]}, experimental)"
    adapter = f", with a LoRA adapter of rank {recipe.lora.rank}" if recipe.lora.rank else ""
    stages = "\n".join(
        f"| {s['name']} | {s['steps']} | {s['trainable_parameters']:,} | {s['selected_by']} |"
        f" {', '.join(f'{name} {value:.3f}' for name, value in s['best_valid'].items())} |"
        for s in manifest["stages"]
    )
    questions = "\n".join(f"| {task} | {q['name']} | {q['sha256'][:16]} |" for task, q in manifest["questions"].items())
    stopped = ""
    if manifest["stopped"]:
        stopped = (
            f"\nTraining was stopped early by {manifest['stopped']}: `bundlecache train --resume` goes on with it."
        )
    return f"""# A bundlecache model of what users do

A UniMP (https://arxiv.org/abs/2403.10667) on the frozen language model `{recipe.base.model}`{adapter}. It {seen}, and names
{manifest["items"]["count"]:,} items by {recipe.items.ids} ids. The encoder was not trained and was not called in training.

Recipe: `{recipe.name}` (resolved in `recipe.toml`), seed {manifest["seed"]}. Training saw what the frozen questions of `recommend`
leave ({recipe.data.split}, k-core {recipe.data.k_core}); the best weights were chosen on validation questions.{stopped}

| stage | steps | trained parameters | chosen by | figures on validation |
|---|---|---|---|---|
{stages}

| task | questions | SHA-256 |
|---|---|---|
{questions}

Use: `bundlecache recommend USER`, `bundlecache search USER "red mug"`, `bundlecache evaluate --run NAME`. Items that come later are
known by their texts and pictures, and begin with rows like those of similar items; another base model or encoder needs training again.
"""
