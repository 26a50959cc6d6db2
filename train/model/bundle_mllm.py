"""Bundle-MLLM: a LoRA language model that reads titles and fused item tokens, and answers in one of several forms.

`bundlecache.train.answers` holds the forms: the letter of an option, as in the paper, or a score of each option by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bundlecache.errors import LongPromptError, RecipeError
from bundlecache.questions.user_history import UserHistories

from ..answers.form import AnswerForm, Evidence
from ..answers.registry import make_form, make_prompts
from ..prompts.builder import NO_ITEMS, Batch, PromptBuilder
from ..prompts.tokens import separator_ids
from . import llm as llms
from .embeddings import EmbeddingTable, to_device
from .fusion import ItemTokens

if TYPE_CHECKING:
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue
    from bundlecache.questions.question_file import Questions
    from bundlecache.recipes.recipe import Recipe
    from bundlecache.store.store import Matrix

MODES = ("mm", "text")
EVIDENCE = "evidence"
"""What `fusion.evidence` adds, among the names of what an answer may be given without."""
MIN_SHARED_SHARE = 1 / 8
"""A common prefix of at least this share of the prompt is computed once for the batch."""


class BundleMLLM(nn.Module):
    """Prompts in, scores of options out. Made by :func:`build`.

    ``answer`` is the form in which it is asked and trained. ``evidence`` is None, or what adds to the options' scores.
    ``mode`` is what the model was trained for last: ``"mm"`` reads titles and fused tokens, ``"text"``
    titles only. The language model's own weights are never trained: ``llm`` is ``base.model`` inside a LoRA adapter.
    """

    def __init__(
        self,
        base: llms.LoadedLlm,
        llm: Any,
        tokens: ItemTokens | None,
        embeddings: EmbeddingTable | None,
        prompts: PromptBuilder,
        recipe: Recipe,
        histories: UserHistories | None,
        answer: AnswerForm,
    ) -> None:
        super().__init__()
        self.base = base
        self.llm = llm
        self.tokens = tokens
        self.embeddings = embeddings
        self.prompts = prompts
        self.recipe = recipe
        self.histories = histories  # where the prompt contains users' histories
        self.answer = answer
        self.evidence: Evidence | None = None
        self.mode = "text"
        self.kept_tokens: Tensor | None = None  # of all items, see `bundlecache.train.inference.item_tokens.keep`
        self.register_buffer("letters", torch.from_numpy(prompts.letters), persistent=False)

    @property
    def max_options(self) -> int:
        """How many options the model was trained to choose from."""
        return self.recipe.data.options

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.get_buffer("letters").device

    def history_of(self, questions: Questions) -> list[np.ndarray]:
        """The user's history of each question, as far as the prompt contains it; mostly empty."""
        return [NO_ITEMS] * len(questions) if self.histories is None else self.histories.of(questions)

    def with_new_items(self, titles: Sequence[str], matrices: Mapping[str, Matrix]) -> BundleMLLM:
        """The same model, weights and all, over a catalogue with items behind its own; for answering only.

        ``titles`` are theirs; ``matrices`` have their vectors behind those of the catalogue (`bundlecache.store.extended`).
        """
        made = copy.copy(self)
        made.prompts = self.prompts.with_titles(titles)
        made.embeddings = None if self.embeddings is None else self.embeddings.extended(matrices)
        return made

    def train_only(self, stage: str) -> list[nn.Parameter]:
        """Make exactly the parameters of ``stage`` trainable and return them.

        ``text`` trains the adapter, ``fusion`` the item tokens, ``joint`` both; nothing ever trains the base. All train
        what the answer form and the evidence have of their own.
        """
        for name, parameter in self.named_parameters():
            lora, item = "lora_" in name, name.startswith("tokens.")
            trained = (lora and stage != "fusion") or (item and stage != "text") or name.startswith("evidence.")
            if name.startswith("answer."):
                trained = self.answer.trained_in(stage, name.removeprefix("answer."))
            parameter.requires_grad_(trained)
        return [p for p in self.parameters() if p.requires_grad]

    def own_state(self) -> dict[str, Tensor]:
        """The tensors of answer form and evidence, by name; they are the model's own, not copies."""
        return {n: v for n, v in self.state_dict(keep_vars=True).items() if n.startswith(("answer.", "evidence."))}

    def item_tokens(self, items: np.ndarray, masked: Sequence[str] = ()) -> Tensor:
        """Fused tokens, float32 [u, h], of the items [u]; ``masked`` names matrices that count as missing."""
        if self.tokens is None or self.embeddings is None:
            raise RuntimeError("this model was built without vectors")
        # Normalisation and softmax of half-precision rows would cost digits and save nothing.
        with torch.autocast(self.device.type, enabled=False):
            vectors, mask = self.embeddings.rows(items, masked)
            return self.tokens(vectors, mask)

    def ask(
        self,
        partial: Sequence[np.ndarray],
        options: Sequence[np.ndarray],
        mode: str,
        history: Sequence[np.ndarray] | None = None,
        bundles: np.ndarray | None = None,
        *,
        with_evidence: bool = True,
    ) -> Any:
        """The prompts of b questions as the answer form builds them, with the features of their options, if there are any.

        ``bundles`` [b] are the training bundles that the questions were drawn from; see `Evidence.features`.
        """
        shown = mode if self.recipe.prompt.fused_tokens else "text"
        batch = self.answer.build(self.prompts, partial, options, shown, history)
        if shown != mode and self.answer.compares_tokens:
            batch = replace(batch, items=np.unique(batch.options))
        if self.evidence is None or not with_evidence:
            return batch
        return replace(batch, features=self.evidence.features(partial, options, bundles))

    def added(self, features: np.ndarray | None) -> Tensor | float:
        """What the features [b, n, f] of options add to their scores, [b, n]; 0 without any."""
        if features is None or self.evidence is None:
            return 0.0
        return self.evidence(to_device(features, self.device))

    def embed(self, ids: np.ndarray, tokens: Tensor | None, longest: int | None = None) -> Tensor:
        """Input embeddings [b, L, h] of ``ids`` [b, L]: words, with separator and item tokens [u, h] in the soft places.

        ``longest`` is how many positions they take, where that is not L.

        Raises
        ------
        LongPromptError
            When a prompt is longer than the language model can read.
        """
        asked, most = longest or ids.shape[1], getattr(self.llm.config, "max_position_embeddings", None)
        if most is not None and asked > most:
            raise LongPromptError(
                f"A prompt has {asked:,} tokens, but this base model reads at most {most:,}.",
                hint="--set prompt.max_title_tokens=16, fewer options, or --set prompt.max_given=4",
            )
        words = self.llm.get_input_embeddings()(to_device(ids, self.device).clamp_min(0))
        row, column = np.nonzero(ids < 0)
        if tokens is None or not len(row):
            return words
        separator = self.tokens.separator if self.tokens is not None else None
        first = torch.zeros_like(tokens[:1]) if separator is None else separator[None]
        soft = torch.cat([first, tokens]).to(words.dtype)  # [1 + u, h]
        where = to_device(np.stack([row, column, -1 - ids[row, column]]), self.device)
        return words.index_put((where[0], where[1]), soft[where[2]])

    def answer_state(self, batch: Batch, tokens: Tensor | None, ahead: int = 0) -> Tensor:
        """Last hidden states [b, h] at the place where the answer stands; with ``ahead`` also before it, [1 + ahead, b, h].

        No attention mask: prompts are padded on the right, where causal attention does not look.
        """
        core = self.llm.get_base_model()
        decoder = getattr(core, core.base_model_prefix)
        embeds = self.embed(batch.ids, tokens)
        shared = self._shared(batch, ahead)
        cache = _prefix(decoder, embeds[:1, :shared], len(embeds)) if shared else None
        if cache is None:
            shared, how = 0, {"use_cache": False}
        else:
            how = {"use_cache": True, "past_key_values": cache}
        states = decoder(inputs_embeds=embeds[:, shared:], **how).last_hidden_state
        last = to_device(batch.last - shared, states.device)
        row = torch.arange(len(last), device=states.device)
        places = [states[row, last - k] for k in range(ahead, -1, -1)]
        return torch.stack(places) if ahead else places[0]

    def _shared(self, batch: Batch, ahead: int) -> int:
        """Length of the prompts' common prefix when computing it once is worthwhile and trains nothing; else 0."""
        learning = torch.is_grad_enabled()
        if len(batch.ids) < 2 or (learning and any(p.requires_grad for p in self.llm.parameters())):
            return 0
        if learning and self.recipe.base.gradient_checkpointing:  # keeps no keys and values
            return 0
        alike = (batch.ids == batch.ids[:1]).all(axis=0)  # [L]
        if learning:
            alike &= batch.ids[0] >= 0  # soft tokens are being trained
        count = len(alike) if alike.all() else int(alike.argmin())
        count = min(count, int(batch.last.min()) - ahead)
        return count if count >= MIN_SHARED_SHARE * batch.ids.shape[1] else 0

    def logits(self, batch: Batch, tokens: Tensor | None) -> Tensor:
        """Logits of the answer over the whole vocabulary, float32 [b, V]."""
        return llms.head(self.llm.get_base_model(), self.answer_state(batch, tokens)).float()

    def forward(self, batch: Any, truth: np.ndarray, n: int, mode: str) -> Tensor:
        """Mean loss of the true options ``truth`` [b] of questions with ``n`` options; ``batch`` is that of :meth:`ask`."""
        tokens = self.item_tokens(batch.items) if mode == "mm" and len(batch.items) else None
        return self.answer.loss(self, batch, tokens, truth, n)


def build(
    titles: Sequence[str],
    matrices: Mapping[str, Matrix],
    recipe: Recipe,
    device: torch.device,
    token_cache: Path | None = None,
    histories: UserHistories | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BundleMLLM:
    """A new model of ``recipe`` over a catalogue's titles [I] and its stored vectors.

    Without matrices the model reads text only. Weights are drawn from torch's global seed. ``token_cache`` is
    the folder that keeps the titles' token ids (`bundlecache.train.prompts.titles`); what was in a GGUF file is kept
    in ``bases`` beside it. ``histories`` are those of
    :func:`histories_for`; ``progress(done, of)`` is called while titles are tokenised.

    Raises
    ------
    RecipeError, StoreError
        When the base model, one of its option letters, or a modality of the recipe is missing.
    """
    base = llms.load(recipe.base, device, None if token_cache is None else token_cache.with_name("bases"))
    prompts = make_prompts(recipe, base.tokenizer, titles, token_cache, progress)
    embeddings = EmbeddingTable.of(matrices, recipe.fusion.modalities, device) if matrices else None
    adapted = llms.add_lora(
        base.model, recipe.lora
    )  # before the item tokens, so that its random weights do not depend on them
    tokens = None if embeddings is None else _item_tokens(base, embeddings, recipe)
    width, evidence = base.model.get_input_embeddings().weight.shape[1], recipe.fusion.evidence != "none"
    answer = make_form(recipe.answer.form, width, fused=tokens is not None, evidence=evidence)
    return BundleMLLM(base, adapted, tokens, embeddings, prompts, recipe, histories, answer).to(device)


def histories_for(recipe: Recipe, catalogue: Catalogue) -> UserHistories | None:
    """The users' histories, cut to the length in the recipe's prompt; None when the prompt contains none."""
    return UserHistories(catalogue, recipe.prompt.history) if recipe.prompt.history else None


def _prefix(decoder: Any, embeds: Tensor, copies: int) -> Any:
    """The cache of keys and values of a prefix [1, k, h], repeated for ``copies`` prompts; None for sliding-window layers."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=decoder.config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    with torch.no_grad():
        decoder(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(copies)
    return cache


def _item_tokens(base: llms.LoadedLlm, embeddings: EmbeddingTable, recipe: Recipe) -> ItemTokens:
    table = base.model.get_input_embeddings().weight
    hidden, rms = table.shape[1], float(table.float().pow(2).mean().sqrt())
    separator = None
    if recipe.fusion.pooling != "mean" and recipe.prompt.separator != "soft":
        raise RecipeError(
            f"Pooling by the soft separator needs one, but prompt.separator is {recipe.prompt.separator!r}.",
            hint="--set prompt.separator=soft, or --set fusion.pooling=mean",
        )
    if recipe.prompt.separator == "soft":
        ids = separator_ids(base.tokenizer, recipe.prompt)
        drawn = nn.init.xavier_uniform_(torch.empty(1, hidden))[0]
        separator = table[ids].float().mean(0).detach() if ids else drawn
    tokens = ItemTokens(embeddings.widths, embeddings.modalities, recipe.fusion, hidden, rms, separator)
    for k in range(len(embeddings.names)):
        if tokens.fusion.input_of[k] == "standardise" and (moments := embeddings.moments(k)):
            tokens.fusion.standardise(k, *moments)
    return tokens
