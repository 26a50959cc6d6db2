"""``python -m bundlecache.features.adapt.pretrain_clip``: pretrains the small towers behind ``embedded:clip``.

Pictures of coloured shapes and captions that name them are drawn from a seed; none shows a thing of the demo shop. Two
minutes on two cores; the weights ship with the project, because arithmetic differs between machines.
"""

from __future__ import annotations

import argparse
import colorsys
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.catalogue.demo import world

from .embedded import FOLDER

log = logging.getLogger(__name__)

SIDE, DRAWN = 64, 192  # pixels; drawn large, then reduced
COLOURS = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "lime": 0.25, "green": 0.36, "teal": 0.48, "blue": 0.6, "indigo": 0.69, "purple": 0.78, "pink": 0.89}  # fmt: skip
SHAPES = ("disc", "square", "triangle", "ring", "star", "cross", "bar", "diamond", "arch", "hexagon", "crescent", "stairs")  # fmt: skip
VOCABULARY = 700
PICTURES, EPOCHS, BATCH, RATE = 6000, 6, 96, 1.5e-3


def caption_and_picture(rng: np.random.RandomState) -> tuple[str, Any]:
    """One or two shapes on a pale ground with clutter, and what they are: ("large red star", picture)."""
    from PIL import Image, ImageDraw

    def tint(hue: float, saturation: float, value: float) -> tuple[int, ...]:
        return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))

    image = Image.new("RGB", (DRAWN, DRAWN), tint(rng.random_sample(), 0.15 * rng.random_sample(), 0.9))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 7)):
        x, y, size = rng.randint(DRAWN), rng.randint(DRAWN), rng.randint(8, 22)
        pen.ellipse((x, y, x + size, y + size), fill=tint(rng.random_sample(), 0.5, 0.85))
    words = []
    for part in range(count := 1 + (rng.random_sample() < 0.4)):
        colour, shape = list(COLOURS)[rng.randint(len(COLOURS))], SHAPES[rng.randint(len(SHAPES))]
        large = rng.random_sample() < 0.5
        side = DRAWN * (0.62 if large else 0.38) / (1 if count == 1 else 1.4) * rng.uniform(0.9, 1.1)
        room = DRAWN / count - side if count == 2 else DRAWN - side
        left = part * DRAWN / 2 + max(0.0, room) * rng.random_sample()
        top = (DRAWN - side) * rng.random_sample()
        hue, light = COLOURS[colour] + 0.015 * rng.standard_normal(), rng.uniform(0.6, 0.95)
        draw(pen, shape, left, top, side, tint(hue, rng.uniform(0.6, 0.95), light), image.getpixel((0, 0)))
        words.append(f"{'large' if large else 'small'} {colour} {shape}")
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float32)
    noisy = np.clip(pixels + 5 * rng.standard_normal((SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
    return " and ".join(words), Image.fromarray(noisy)


def draw(pen: Any, shape: str, left: float, top: float, side: float, fill: Any, ground: Any) -> None:
    """Draw a shape into a square."""

    def at(*numbers: float) -> list[tuple[float, float]]:
        return [(left + x * side, top + y * side) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]

    turns = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2, 0.2, 0.5)
    star = np.stack([0.5 + reach * np.cos(turns), 0.5 + reach * np.sin(turns)], 1).ravel().tolist()
    polygons = {
        "square": (0.05, 0.05, 0.95, 0.05, 0.95, 0.95, 0.05, 0.95),
        "triangle": (0.5, 0, 1, 1, 0, 1),
        "diamond": (0.5, 0, 0.9, 0.5, 0.5, 1, 0.1, 0.5),
        "hexagon": (0.25, 0.05, 0.75, 0.05, 1, 0.5, 0.75, 0.95, 0.25, 0.95, 0, 0.5),
        "star": star,
        "bar": (0, 0.35, 1, 0.35, 1, 0.65, 0, 0.65),
        "cross": (0.35, 0, 0.65, 0, 0.65, 0.35, 1, 0.35, 1, 0.65, 0.65, 0.65, 0.65, 1, 0.35, 1, 0.35, 0.65, 0, 0.65, 0, 0.35, 0.35, 0.35),
        "stairs": (0, 1, 0, 0.7, 0.33, 0.7, 0.33, 0.4, 0.66, 0.4, 0.66, 0.1, 1, 0.1, 1, 1),
    }  # fmt: skip
    if shape in polygons:
        pen.polygon(at(*polygons[shape]), fill=fill)
    elif shape == "disc":
        pen.ellipse(at(0, 0, 1, 1), fill=fill)
    elif shape == "ring":
        pen.ellipse(at(0, 0, 1, 1), fill=fill)
        pen.ellipse(at(0.25, 0.25, 0.75, 0.75), fill=ground)
    elif shape == "crescent":
        pen.ellipse(at(0, 0, 1, 1), fill=fill)
        pen.ellipse(at(0.3, -0.05, 1.2, 0.85), fill=ground)
    else:  # arch
        pen.pieslice(at(0, 0, 1, 1.6), 180, 360, fill=fill)
        pen.pieslice(at(0.25, 0.25, 0.75, 1.35), 180, 360, fill=ground)


def tokenizer_of(captions: list[str]) -> Any:
    """A byte-level BPE whose tokens spell the captions and the words of the demo shop."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, *(f" {word}" for word in world.words())] * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in special[1:]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=32,
        **dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True)),
    )


def build(tokenizer: Any) -> Any:
    """CLIP of transformers: a vision transformer of 3 layers, a text transformer of 2."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    picture = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=picture.to_dict(), projection_dim=64)
    return CLIPModel(config)


def pretrain(out: Path, seed: int = 0, pictures: int = PICTURES, epochs: int = EPOCHS) -> None:
    """Draw, train with CLIP's loss, and write the folder ``out``."""
    import torch
    from transformers import CLIPImageProcessor

    began = time.perf_counter()
    rng = np.random.RandomState(seed)
    drawn = [caption_and_picture(rng) for _ in range(pictures)]
    tokenizer = tokenizer_of([caption for caption, _ in drawn[:2000]])
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    torch.manual_seed(seed)
    model = build(tokenizer)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for _, p in drawn])
    tokens = tokenizer([caption for caption, _ in drawn], padding=True, return_tensors="pt")
    log.info("%d pictures after %.0f s", pictures, time.perf_counter() - began)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps, per_epoch = epochs * (pictures // BATCH), pictures // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(pictures))
        rows = order[step % per_epoch * BATCH :][:BATCH]
        batch = (pixels[rows].float() / 255 - mean) / std
        out_ = model(
            input_ids=tokens["input_ids"][rows],
            attention_mask=tokens["attention_mask"][rows],
            pixel_values=batch,
            return_loss=True,
        )
        optimizer.zero_grad()
        out_.loss.backward()
        optimizer.step()
        schedule.step()
        if step % per_epoch == 0:
            log.info("step %d of %d, loss %.3f, %.0f s", step, steps, out_.loss.item(), time.perf_counter() - began)
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    processor.save_pretrained(out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pretrain(given.out, given.seed)
