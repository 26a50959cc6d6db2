"""UniMP (https://arxiv.org/abs/2403.10667): a frozen language model that reads items' texts, sees their pictures and names items.

Pictures come as stored token features: a resampler makes few latents of them, and gated blocks in front of the base's
layers attend to these. Marks, ratings and items have token rows of their own. Trained are resampler, blocks, rows and,
where the recipe asks for one, a LoRA adapter; the base's weights stay what they are, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..model import llm as llms
from .batch import Batch
from .gated_attention import GatedBlocks
from .generate import Allowed, Beam, generate
from .losses import Labels, base_part, cross_entropy, in_parts, total_loss
from .open_flamingo import start_from
from .pictures import Pictures, Sight, TokenTable
from .resampler import Resampler
from .rows import ExtraRows
from .similar_ratings import SimilarRatings
from .vocabulary import AtomicIds, Vocabulary

if TYPE_CHECKING:
    from bundlecache.recipes.unimp_recipe import StageName, UnimpRecipe

TOKENS_LOOKED_AT = 16_384  # of stored pictures, for the scale that narrow tokens are brought to
PICTURES_LOOKED_AT = 4_096  # for the axes along which pictures differ
OWN = ("sight.", "blocks.", "ratings.", "rows.")
"""How the names of the model's own tensors begin."""


class UniMP(nn.Module):
    """Prompts in, losses, logits and answers out. Made by :func:`build`."""

    def __init__(
        self,
        base: llms.LoadedLlm,
        llm: Any,
        vocabulary: Vocabulary,
        pictures: TokenTable | None,
        recipe: UnimpRecipe,
    ) -> None:
        """``llm`` is ``base.model``, maybe inside a LoRA adapter; ``pictures`` None means that nothing is seen."""
        super().__init__()
        self.base, self.llm, self.vocabulary, self.recipe = base, llm, vocabulary, recipe
        self.rows = ExtraRows(base.model, vocabulary, recipe.items.dropout)
        self.sight: Sight | None = None
        self.blocks: GatedBlocks | None = None
        self.ratings: SimilarRatings | None = None
        if pictures is not None:
            v = recipe.vision
            resampler = Resampler(pictures.width, v.latents, v.depth, v.heads, v.head_width, v.width)
            if v.width:
                resampler.begin_at(pictures.some(TOKENS_LOOKED_AT))
            self.sight = Sight(pictures, resampler, exclusive=v.exclusive)
            self.blocks = GatedBlocks(base.model, v.every_n, resampler.width, v.heads, v.head_width)
            if v.similar_ratings:
                rates = slice(
                    *(each - vocabulary.base_size for each in (vocabulary.rates.start, vocabulary.rates.stop))
                )
                means = pictures.rows(pictures.spread(PICTURES_LOOKED_AT)).mean(1)
                self.ratings = SimilarRatings(means, self.rows.out[rates])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.rows.input.device

    @property
    def pictures(self) -> TokenTable | None:
        """The stored features that the model reads; None without vision."""
        return None if self.sight is None else self.sight.table

    @property
    def core(self) -> Any:
        """The causal language model of transformers, without an adapter around it."""
        return self.base.model

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return getattr(self.core, self.core.base_model_prefix)

    def train_only(self, stage: StageName) -> list[nn.Parameter]:
        """Make exactly the parameters of ``stage`` trainable and return them.

        ``multitask`` trains all that is ours, ``head`` the output rows of our tokens alone, for which shared rows
        are separated (`ExtraRows.untie`). Nothing ever trains the base.
        """
        if stage == "head":
            self.rows.untie()
        for name, parameter in self.named_parameters():
            ours = name.startswith(OWN) or "lora_" in name
            parameter.requires_grad_(name == "rows.output" if stage == "head" else ours)
        return [p for p in self.parameters() if p.requires_grad]

    def own_state(self) -> dict[str, Tensor]:
        """The tensors of resampler, blocks and rows by name, not copies; never a weight of the base or the adapter."""
        return {n: v for n, v in self.state_dict(keep_vars=True).items() if n.startswith(OWN)}

    def load_own_state(self, state: Mapping[str, Tensor], rows: np.ndarray | None = None) -> None:
        """Take over what :meth:`own_state` gave, also of a smaller catalogue.

        ``rows`` int [E] says which of the older rows each of ours is, -1 for new ones, which stay as they are
        (`Vocabulary.rows_of`).

        Raises
        ------
        RuntimeError
            When names or shapes differ.
        """
        if "rows.output" in state:
            self.rows.untie()
        own = self.own_state()
        if odd := sorted(state.keys() ^ own.keys()):
            raise RuntimeError(f"the weights and the model do not both have {odd[0]}")
        with torch.no_grad():
            for name, value in own.items():
                given = state[name]
                if name.startswith("rows.") and rows is not None:
                    known = torch.from_numpy(np.flatnonzero(rows >= 0)).to(value.device)
                    value[known] = given[torch.from_numpy(rows[rows >= 0]).to(given.device)].to(value)
                elif given.shape != value.shape:
                    raise RuntimeError(f"{name} has another shape")
                else:
                    value.copy_(given)

    def keep_latents(self) -> None:
        """Compute the latents of all pictures once, for answers of a model that is not trained meanwhile."""
        if self.sight is not None:
            self.sight.keep()

    def see(self, batch: Batch) -> Pictures | None:
        """The pictures of a batch; None for a model without vision."""
        return None if self.sight is None else self.sight.see(batch.ids, batch.images, self.vocabulary.image)

    def states(self, ids: Tensor, pictures: Pictures | None, **how: Any) -> Tensor:
        """Last hidden states [b, L, h] of token ids [b, L], with ``pictures`` in the sight of the language model.

        No attention mask: rows are padded on the right, where causal attention does not look.
        """
        embeds = self.rows.embed(self.core, ids)
        sight = nullcontext() if pictures is None or self.blocks is None else self.blocks.reading(pictures)
        with sight:
            hidden: Tensor = self.decoder(inputs_embeds=embeds, **{"use_cache": False, **how}).last_hidden_state
        if pictures is None or self.ratings is None:
            return hidden
        return self.ratings(hidden, ids, pictures, self.vocabulary)

    def hidden(self, batch: Batch, at: Tensor) -> Tensor:
        """Last hidden states [n, h] at the positions where ``at`` [b, L] is True, row by row; the head is not computed."""
        columns = at.any(0).nonzero()
        long = int(columns[-1]) + 1 if len(columns) else 1
        batch = Batch(batch.ids[:, :long], batch.there[:, :long], batch.labels[:, :long], batch.weight, batch.images)
        batch = batch.to(self.device)
        return self.states(batch.ids, self.see(batch))[at[:, :long].to(self.device)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states [n, h] over the whole vocabulary, float32 [n, V + E]."""
        return torch.cat(self.rows.logits(self.core, hidden), dim=1)

    def item_logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states [n, h] over the items, float32 [n, I]; for atomic ids."""
        if not isinstance(self.vocabulary.item_ids, AtomicIds):
            raise TypeError("items of several tokens have no logit of their own")
        items, start = self.vocabulary.items, self.vocabulary.base_size
        return self.rows.own_logits(self.core, hidden, self.rows.out[items.start - start : items.stop - start])

    def forward(self, batch: Batch, denominator: float | None = None) -> Tensor:
        """The loss of a batch (`bundlecache.train.unimp.losses`).

        ``denominator`` is the number of labels of the whole step; this batch's own when None. Where several processes
        average their gradients it is that number divided by the number of processes.
        """
        entropy, _, weight = self.entropies(batch)
        loss = total_loss(entropy, weight, self.recipe.loss.gamma, denominator or max(1, len(entropy)))
        if torch.is_grad_enabled() and self.training:
            loss = loss + self._unseen(batch)
        return loss

    def entropies(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """-log p [n] of the labels of a batch, their ids [n], and the weights [n] of their rows."""
        hidden, truth, weight = self._label_positions(batch)

        def some(states: Tensor, right: Tensor) -> Tensor:
            base, own = self.rows.logits(self.core, states)
            return cross_entropy(*base_part(base, right), own, right, self.vocabulary.base_size)

        return in_parts(some, hidden, truth, self.vocabulary.size), truth, weight

    @torch.no_grad()
    def labels(self, batch: Batch) -> Labels:
        """All that training the output rows alone has to know of a batch; constant while only they are trained."""
        hidden, truth, weight = self._label_positions(batch)
        base = llms.head(self.core, hidden)[:, : self.vocabulary.base_size].float()
        return Labels(hidden, truth, weight, *base_part(base, truth))

    def head_loss(self, labels: Labels, denominator: float | None = None) -> Tensor:
        """The same loss as that of the batch which ``labels`` were computed from, without the language model."""
        own = self.rows.own_logits(self.core, labels.hidden, self.rows.out)
        entropy = cross_entropy(labels.total, labels.gold, own, labels.truth, self.vocabulary.base_size)
        return total_loss(entropy, labels.weight, self.recipe.loss.gamma, denominator or max(1, len(entropy)))

    def generate(
        self,
        batch: Batch,
        max_tokens: int,
        allowed: Allowed | Sequence[Allowed] | None = None,
        beams: int = 1,
    ) -> list[list[Beam]]:
        """What follows each row of a batch, best first; see `bundlecache.train.unimp.generate`."""
        return generate(self, batch, max_tokens, allowed, beams)

    def _label_positions(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [n, h] before the labels of a batch, the labels' ids [n], and the weights [n] of their rows."""
        batch = batch.to(self.device)
        before = torch.zeros_like(batch.labels)
        before[:, :-1] = batch.labels[:, 1:]
        weight = batch.weight[:, None].expand(before.shape)[before]
        return self.hidden(batch, before), batch.ids[:, 1:][batch.labels[:, 1:]], weight

    def _unseen(self, batch: Batch) -> Tensor | float:
        """Zero, with a zero gradient for what a batch without pictures does not use: processes exchange all gradients."""
        if self.sight is None:
            return 0.0
        unused = [p for p in self.ratings.parameters() if p.requires_grad] if self.ratings is not None else []
        if not self.sight.known(batch.images).any():
            unused += [p for n, p in self.named_parameters() if p.requires_grad and n.startswith(("sight.", "blocks."))]
        return sum((0.0 * p.sum() for p in unused), torch.zeros((), device=self.device))


def build(base: llms.LoadedLlm, vocabulary: Vocabulary, pictures: TokenTable | None, recipe: UnimpRecipe) -> UniMP:
    """A new model of ``recipe``; weights are drawn from torch's global seed. Without ``pictures`` nothing is seen.

    Raises
    ------
    RecipeError
        When the base has no layers that the recipe could change, or ``vision.start`` does not fit.
    """
    llm = llms.add_lora(base.model, recipe.lora) if recipe.lora.rank else base.model
    device = base.model.get_input_embeddings().weight.device
    model = UniMP(base, llm, vocabulary, pictures, recipe).to(device)
    if model.sight is not None and recipe.vision.start:
        start_from(Path(recipe.vision.start), model.own_state())
    return model
