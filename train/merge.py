"""A run as a plain language model: LoRA merged into its weights, and one row per item to put among its word embeddings.

========================  ===========================================================================
``config.json`` and so on what ``AutoModelForCausalLM`` and ``AutoTokenizer`` load
``items.safetensors``     ``tokens`` [I, h], one fused token per item, and ``separator`` [h] if it is soft
``item_ids.txt``          the items of these rows, one a line
``README.md``             how to use them
========================  ===========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundlecache.errors import CheckpointError

from .model import llm as llms

if TYPE_CHECKING:
    from .model.bundle_mllm import BundleMLLM

CHUNK = 8192  # items fused at once


def merge(model: BundleMLLM, item_ids: Sequence[str], out: Path) -> list[Path]:
    """Write ``model``, which is of no use afterwards, into the new folder ``out``; returns its files.

    Raises
    ------
    CheckpointError
        When the folder holds something already or cannot be written.
    """
    from safetensors.torch import save_file

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} holds something already.", hint="--out a new folder")
    items = {}
    if model.tokens is not None and model.mode == "mm":
        with torch.inference_mode():
            chunks = np.array_split(np.arange(len(item_ids)), -(-len(item_ids) // CHUNK))
            items["tokens"] = torch.cat([model.item_tokens(chunk).float().cpu() for chunk in chunks])
        if model.tokens.separator is not None:
            items["separator"] = model.tokens.separator.detach().float().cpu().contiguous().clone()
    try:
        out.mkdir(parents=True, exist_ok=True)
        plain = _unquantised(model).merge_and_unload()
        plain.config.use_cache = True
        plain.save_pretrained(out)
        model.prompts.tokenizer.save_pretrained(out)
        if items:
            save_file(items, out / "items.safetensors", metadata={"format": "pt"})
            (out / "item_ids.txt").write_text("\n".join(item_ids) + "\n", "utf-8")
        (out / "README.md").write_text(_card(model, bool(items)), "utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written: {error.strerror or error}.", hint="free some space or choose another --out"
        ) from error
    return sorted(out.iterdir())


def _unquantised(model: BundleMLLM) -> Any:
    """The language model with its adapter; a quantised base is read anew, for in few bits LoRA would be rounded away."""
    if model.recipe.base.quantise == "none":
        return model.llm
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    base = llms.load(replace(model.recipe.base, quantise="none"), model.device)
    adapted = llms.add_lora(base.model, model.recipe.lora)
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(model.llm))
    return adapted


def _card(model: BundleMLLM, fused: bool) -> str:
    prompt = model.recipe.prompt
    between = "the row `separator`, then " if prompt.separator == "soft" else ""
    items = f"""
Behind every title stands {between}the item's row of `tokens` (`items.safetensors`; the rows are in the order
of `item_ids.txt`), where a word's embedding would stand:

```python
words = model.get_input_embeddings()
embeddings = torch.cat([words(ids_before), items["separator"][None], items["tokens"][row][None], words(ids_behind)])
logits = model(inputs_embeds=embeddings[None]).logits[0, -1]  # the answer is the most likely option letter
```
"""
    return f"""# A language model that completes bundles

`{model.recipe.base.model}` with the LoRA adapter of a bundlecache run merged into its weights; it loads as any other:

```python
model = AutoModelForCausalLM.from_pretrained(".")
```

It was trained on the wording `{prompt.template}` of bundlecache and answers with one letter.
{items if fused else ""}"""
