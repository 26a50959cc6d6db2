"""Pretrain the embedded base: ``python -m bundlecache.train.pretrain --out train/embedded``.

A LLaMA of 410 thousand parameters that learns one thing: to find, among lettered options, the
one that goes with the bundle, by words and by soft vectors (``episodes``). It sees no
bundle, picture or sound of any catalogue; only its tokenizer knows the demo catalogue's words.
What made it learn within minutes, and what did not, is logged in docs/embedded_base.md.

Notation: b questions, n options, s positions, h hidden width.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bundlecache.catalogue.demo.world import words

from . import episodes
from .tokenizer import BOS, LETTERS, SEPARATOR, build

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Sizes and schedule."""

    hidden: int = 64
    layers: int = 4
    heads: int = 4
    head_width: int = 32  # twice hidden / heads: soft vectors are compared in more dimensions
    ffn: int = 192
    vocabulary: int = 2048
    rope_theta: float = 100_000.0  # words must be found wherever they stand
    batch: int = 48
    options: int = 10
    steps: int = 6500
    warmup: int = 60  # steps
    rate: float = 2e-3  # AdamW: embeddings, norms, read-outs
    matrix_rate: float = 4e-3  # Muon: the matrices of the layers
    seed: int = 0


class Flags(nn.Module):
    """Throw-away linear read-outs for the dense losses; without them nothing emerges in minutes."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.word = nn.Linear(hidden, 1)
        self.soft = nn.Linear(hidden, 1)
        self.option = nn.Linear(hidden, 1)


def vocabulary_of(tokenizer: Any) -> episodes.Vocabulary:
    """Ask the tokenizer for the ids of the brief prompt's pieces."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    opening = [tokenizer.convert_tokens_to_ids(BOS), *ids("Bundle:")]
    letters = [ids(f" {letter}")[0] for letter in LETTERS]
    separator = tokenizer.convert_tokens_to_ids(SEPARATOR)
    fixed = {*range(4), *opening, *ids("\nOptions:"), *ids("\nAnswer:"), *letters, *ids(";")}
    return episodes.Vocabulary(
        opening=opening,
        options=ids("\nOptions:"),
        answer=ids("\nAnswer:"),
        letters=letters,
        separator=separator,
        end=ids(";")[0],
        words=torch.tensor([i for i in range(len(tokenizer)) if i not in fixed]),
    )


def new_model(plan: Plan, tokenizer: Any) -> Any:
    """Build the model so that, from the start, like attends to like in half of its heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.hidden,
        intermediate_size=plan.ffn,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        head_dim=plan.head_width,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": plan.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    half = plan.heads * plan.head_width // 2
    with torch.no_grad():
        nn.init.normal_(model.model.embed_tokens.weight, std=plan.hidden**-0.5)
        for layer in model.model.layers:
            attention = layer.self_attn
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
                nn.init.normal_(linear.weight, std=plan.hidden**-0.5)
            attention.k_proj.weight[:half] = attention.q_proj.weight[:half]
            for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
                nn.init.normal_(linear.weight, std=plan.hidden**-0.5)
            for linear in (attention.o_proj, layer.mlp.down_proj):
                nn.init.normal_(linear.weight, std=0.5 * linear.in_features**-0.5)
    return model


def losses(model: Any, flags: Flags, batch: episodes.Episodes, letters: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the sum of the letter's loss and the dense losses, and what to watch."""
    n = len(letters)
    embedding = model.model.embed_tokens
    inputs = embedding(batch.tokens)  # [b, s, h]
    if batch.vectors is not None:
        scale = embedding.weight.detach().square().mean().sqrt()
        soft_at = (batch.kind == episodes.SOFT) | (batch.kind == episodes.GIVEN_SOFT)
        inputs = inputs.clone()
        inputs[soft_at] = (batch.vectors * scale).flatten(0, 1)
    states = model.model(inputs_embeds=inputs, use_cache=False, output_hidden_states=True).hidden_states
    last = states[-1]
    rows = torch.arange(len(last))
    logits = last[rows, batch.answer_at] @ embedding.weight.T  # [b, vocabulary]
    letter = F.cross_entropy(logits, letters[batch.truth])

    middle = states[len(states) // 2]
    word_at = batch.kind == episodes.WORD
    word = F.binary_cross_entropy_with_logits(flags.word(middle)[word_at].squeeze(-1), batch.seen[word_at])
    ends = last[batch.kind == episodes.END].view(len(last), n, -1)  # [b, n, h]
    option = F.cross_entropy(flags.option(ends).squeeze(-1), batch.truth)
    soft = torch.zeros(())
    if batch.vectors is not None:
        at = batch.kind == episodes.SOFT
        target = batch.likeness[:, -n:].flatten()
        soft = F.binary_cross_entropy_with_logits(flags.soft(middle)[at].squeeze(-1), target)
    right = logits[:, letters].argmax(-1) == batch.truth
    hit = flags.option(ends).squeeze(-1).argmax(-1) == batch.truth
    watch = {"letter": float(right.float().mean()), "option": float(hit.float().mean()), "word": float(word.detach())}
    return letter + option + word + soft, watch


class Curriculum:
    """Three options at first, more as the letters come right; noise in the evidence last."""

    def __init__(self, most: int = 10) -> None:
        self.options, self.most, self.noise, self.right = 3, most, 0.0, 0.0

    def knobs(self, rng: torch.Generator) -> episodes.Knobs:
        """Draw the shape of the next batch."""

        def pick(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (1,), generator=rng))

        chance = torch.rand(4, generator=rng).tolist()
        options = self.options if chance[0] < 0.7 else pick(2, self.options)
        soft = chance[1] < 0.7
        return episodes.Knobs(
            options=options,
            given=pick(2, 4),
            words=pick(1, 4),
            soft=soft,
            titled=not soft or chance[2] < 0.7,
            noise=self.noise * float(torch.rand((), generator=rng)),
            ragged=chance[3] < 0.3,
        )

    def update(self, knobs: episodes.Knobs, right: float) -> None:
        """Take one more option when three of four letters come right, then raise the noise."""
        if knobs.options < self.options:
            return
        self.right += 0.04 * (right - self.right)
        if self.options == self.most:
            self.noise = min(1.0, self.noise + 1 / 400)
        elif self.right > 0.72:
            self.options = min(self.most, self.options + (1 if self.options < 6 else 2))
            self.right *= 0.9


def rate_at(step: int, plan: Plan) -> float:
    """Return the learning rate as a share of its peak: warm-up, then half a cosine down to a tenth."""
    if step < plan.warmup:
        return (step + 1) / plan.warmup
    share = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def optimizers(model: Any, flags: Flags, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for all else: twice as quick here as AdamW alone."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    others = [p for p in (*model.parameters(), *flags.parameters()) if id(p) not in taken]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    for group in (group for optimizer in made for group in optimizer.param_groups):
        group["peak"] = group["lr"]
    return made


def pretrain(plan: Plan) -> tuple[Any, Any]:
    """Train the tokenizer, then the model; return both."""
    torch.manual_seed(plan.seed)
    rng = torch.Generator().manual_seed(plan.seed)
    tokenizer = build(words(), plan.vocabulary)
    vocabulary = vocabulary_of(tokenizer)
    model, flags = new_model(plan, tokenizer), Flags(plan.hidden)
    parameters = [*model.parameters(), *flags.parameters()]
    steppers = optimizers(model, flags, plan)
    curriculum = Curriculum(plan.options)
    letters = torch.tensor(vocabulary.letters)
    started = time.process_time()
    average: dict[str, float] = {}
    for step in range(plan.steps):
        knobs = curriculum.knobs(rng)
        batch = episodes.draw(plan.batch, plan.hidden, vocabulary, knobs, rng)
        loss, watch = losses(model, flags, batch, letters[: knobs.options])
        model.zero_grad(set_to_none=True)
        flags.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = group["peak"] * rate_at(step, plan)
            stepper.step()
        curriculum.update(knobs, watch["letter"])
        for name, value in watch.items():
            average[name] = 0.97 * average.get(name, value) + 0.03 * value
        if step % 200 == 199:
            seen = " ".join(f"{name} {value:.3f}" for name, value in average.items())
            seconds = time.process_time() - started
            LOG.info("%d %.0fs options %d noise %.2f %s", step + 1, seconds, curriculum.options, curriculum.noise, seen)
    return model, tokenizer


def main() -> None:
    """Pretrain by the plan and write a model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "embedded")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # the same weights on every run of one machine
    model, tokenizer = pretrain(Plan(steps=arguments.steps, seed=arguments.seed))
    model.half().save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    (arguments.out / "generation_config.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
