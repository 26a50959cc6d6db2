"""Writes a run as a plain language model: LoRA merged into its weights, and one embedding per item.

========================  ===========================================================================
``config.json`` ...       what ``AutoModelForCausalLM`` and ``AutoTokenizer`` load
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

from bundlecache.errors import CheckpointError, Command
from bundlecache.files import share, user_path
from bundlecache.pretrained import quiet

from .model.llm import add_lora, load
from .prompts.builder import SHOWN_ITEM, SHOWN_SEPARATOR

if TYPE_CHECKING:
    from .model.bundle_mllm import BundleMLLM

ITEMS_PER_CHUNK = 8192  # fused at once
_ANSWERS = {
    "letters": "the answer is the most likely option letter",
    "yes-no": "the score of an option is the logit of yes less that of no behind its prompt",
    "likelihood": "the score of an option is the log-likelihood of its title behind the bundle less that behind none",
}


def merge(model: BundleMLLM, item_ids: Sequence[str], out: Path) -> list[Path]:
    """Write ``model`` into the new folder ``out`` and return its files; ``model`` itself is spent by merging.

    ``item_ids`` [I] are those of the catalogue that ``model`` was built over.

    Raises
    ------
    CheckpointError
        When the folder is not empty or cannot be written, or when a head that no plain model has scores the options.
    """
    from safetensors.torch import save_file

    if model.answer.name == "pointer" or model.evidence is not None:
        raise CheckpointError(
            f"This run answers in the form {model.answer.name}, with weights of its own beside the language model's, so a"
            " plain language model cannot answer as it does.",
            hint=["use it by", Command("serve"), "or merge a run of another answer form"],
        )

    out = user_path(out, "The folder of --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} holds something already.", hint=Command("merge", "--out", "NEW_FOLDER"))
    items = {}
    if model.tokens is not None and model.mode == "mm":
        with torch.inference_mode():
            chunks = np.array_split(np.arange(len(item_ids)), -(-len(item_ids) // ITEMS_PER_CHUNK))
            items["tokens"] = torch.cat([model.item_tokens(chunk).float().cpu() for chunk in chunks])
        if model.tokens.separator is not None:
            items["separator"] = model.tokens.separator.detach().float().cpu().contiguous().clone()
    try:
        out.mkdir(parents=True, exist_ok=True)
        plain = _unquantised(model).merge_and_unload()
        plain.config.use_cache = True
        with quiet():
            plain.save_pretrained(out)
            model.prompts.tokenizer.save_pretrained(out)
        if items:
            save_file(items, out / "items.safetensors", metadata={"format": "pt"})
            (out / "item_ids.txt").write_text("\n".join(item_ids) + "\n", "utf-8")
        share(out)
        (out / "README.md").write_text(_card(model, bool(items)), "utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{out} cannot be written: {error.strerror or error}.",
            hint=["free some space, or", Command("merge", "--out", "NEW_FOLDER")],
        ) from error
    return sorted(out.iterdir())


def _unquantised(model: BundleMLLM) -> Any:
    """The language model with its adapter; a quantised base is loaded again in full precision, since 8 or 4 bits would
    round LoRA away.
    """
    if model.recipe.base.quantise == "none":
        return model.llm
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    base = load(replace(model.recipe.base, quantise="none"), model.device)
    adapted = add_lora(base.model, model.recipe.lora)
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(model.llm))
    return adapted


def _card(model: BundleMLLM, fused: bool) -> str:
    prompt, builder = model.recipe.prompt, model.prompts
    between = "the row `separator`, then " if prompt.separator == "soft" else ""
    count = min(2, len(builder.letters) or 1)
    example = builder.text_of(np.arange(min(1, builder.items)), np.arange(count) % builder.items, model.mode)
    items = f"""
Behind every title stands {between}the item's row of `tokens` (`items.safetensors`; the rows are in the order
of `item_ids.txt`), where a word's embedding would stand:

```python
words = model.get_input_embeddings()
embeddings = torch.cat([words(ids_before), items["separator"][None], items["tokens"][row][None], words(ids_behind)])
logits = model(inputs_embeds=embeddings[None]).logits[0, -1]  # {_ANSWERS[model.answer.name]}
```
"""
    return f"""# A language model that completes bundles

`{model.recipe.base.model}` with the LoRA adapter of a bundlecache run merged into its weights; it loads as any other:

```python
model = AutoModelForCausalLM.from_pretrained(".")
```

It was trained on the wording `{builder.template}` of bundlecache; {_ANSWERS[model.answer.name]}. A prompt about the first
items of the catalogue, with {SHOWN_SEPARATOR} and {SHOWN_ITEM} in the places of the rows below, if there are any:

````text
{example}
````
{items if fused else ""}"""
