"""``python -m bundlecache.features.adapt.pretrain_clip``: pretrains the small towers behind ``embedded:clip``.

Things that exist nowhere are put together of a few plain forms and get names that mean nothing ("large red bovel"); their pictures
and captions follow from a seed. None is a thing of the demo shop, and no word is one of its words. A few minutes on two cores; the
weights ship with the project, because arithmetic differs between machines.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import logging
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bundlecache.catalogue.demo import world

from .embedded import FOLDER

log = logging.getLogger(__name__)

SIDE, DRAWN = 64, 192  # pixels; drawn large, then reduced
COLOURS = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "lime": 0.25, "green": 0.36, "teal": 0.48, "blue": 0.6, "indigo": 0.69, "purple": 0.78, "pink": 0.89}  # fmt: skip
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
THINGS, VOCABULARY = 400, 700
PICTURES, EPOCHS, BATCH, RATE = 9000, 8, 96, 2e-3
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP
SPECIAL = ("<pad>", "<s>", "</s>")
TOWERS: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": VOCABULARY,
        "hf_tokenizer_name": FOLDER.name,
        "width": 64,
        "heads": 4,
        "layers": 2,
        "pool_type": "eos",
        "eos_id": SPECIAL.index("</s>"),
    },
}
"""A residual network for pictures and a transformer of two layers for texts, as open_clip builds them."""

Form = tuple[str, tuple[float, ...], str]
"""What is drawn (ellipse, box, poly, line), where in hundredths of the side, in which tone (body, dark, light)."""


def things(rng: np.random.RandomState, count: int) -> dict[str, list[Form]]:
    """Names that mean nothing, and the two to five forms that each thing is made of."""
    made: dict[str, list[Form]] = {}
    while len(made) < count:
        name = (
            "".join(CONSONANTS[rng.randint(14)] + VOWELS[rng.randint(5)] for _ in range(2))
            + CONSONANTS[rng.randint(14)]
        )
        made[name] = [form(rng, large=True), *(form(rng, large=False) for _ in range(rng.randint(1, 5)))]
    return made


def form(rng: np.random.RandomState, *, large: bool) -> Form:
    """A form somewhere in the picture; the large one is in its middle."""
    size = rng.uniform(35, 75, 2) if large else rng.uniform(8, 45, 2)
    middle = 50 + rng.uniform(-10, 10, 2) if large else rng.uniform(18, 82, 2)
    left, top = np.maximum(6, middle - size / 2)
    right, bottom = np.minimum(94, middle + size / 2)
    tone = "body" if large else ("body", "dark", "light")[rng.randint(3)]
    kind = ("ellipse", "box", "poly", "line")[rng.choice(4, p=(0.3, 0.3, 0.25, 0.15))]
    if kind == "poly":
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.randint(3, 7)))
        reach = rng.uniform(0.6, 1, len(angle)) / 2
        x = (left + right) / 2 + (right - left) * reach * np.cos(angle)
        y = (top + bottom) / 2 + (bottom - top) * reach * np.sin(angle)
        return kind, tuple(np.stack([x, y], 1).ravel().tolist()), tone
    rises = kind == "line" and rng.random_sample() < 0.5
    return kind, (left, bottom, right, top) if rises else (left, top, right, bottom), tone


def draw(forms: list[Form], hue: float, rng: np.random.RandomState, *, large: bool) -> np.ndarray:
    """A picture of a thing on a pale ground with clutter, uint8 [SIDE, SIDE, 3]."""
    from PIL import Image, ImageDraw

    def tint(hue: float, saturation: float, value: float) -> tuple[int, ...]:
        return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))

    def random(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    image = Image.new("RGB", (DRAWN, DRAWN), tint(random(0, 1), random(0.05, 0.15), random(0.85, 0.98)))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 7)):
        x, y, size = rng.randint(DRAWN), rng.randint(DRAWN), rng.randint(8, 22)
        pen.ellipse((x, y, x + size, y + size), fill=tint(random(0, 1), random(0.3, 0.7), 0.85))
    hue, saturation, value = hue + 0.015 * rng.standard_normal(), random(0.5, 0.9), random(0.6, 0.95)
    tones = {
        "body": tint(hue, saturation, value),
        "dark": tint(hue, min(1.0, saturation + 0.1), 0.55 * value),
        "light": tint(hue, 0.5 * saturation, min(1.0, value + 0.2)),
    }
    scale = DRAWN / 100 * (random(0.75, 0.95) if large else random(0.5, 0.7))
    shift = (DRAWN - 100 * scale) * rng.random_sample(2)
    for kind, where, tone in forms:
        points = [(x * scale + shift[0], y * scale + shift[1]) for x, y in list(pairwise(where))[::2]]
        if kind == "ellipse":
            pen.ellipse(points, fill=tones[tone])
        elif kind == "box":
            pen.rectangle(points, fill=tones[tone])
        elif kind == "poly":
            pen.polygon(points, fill=tones[tone])
        else:
            pen.line(points, fill=tones[tone], width=DRAWN // 32)
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    return np.clip(np.rint(small + 6 * rng.standard_normal((SIDE, SIDE, 1))), 0, 255).astype(np.uint8)


def captions_and_pictures(rng: np.random.RandomState, count: int) -> tuple[list[str], np.ndarray]:
    """Captions, and uint8 [count, SIDE, SIDE, 3]."""
    known = things(rng, THINGS)
    names, colours = list(known), list(COLOURS)
    captions, pictures = [], []
    for _ in range(count):
        name, colour, large = names[rng.randint(THINGS)], colours[rng.randint(len(colours))], bool(rng.randint(2))
        captions.append(f"{'large' if large else 'small'} {colour} {name}")
        pictures.append(draw(known[name], COLOURS[colour], rng, large=large))
    return captions, np.stack(pictures)


def tokenizer_of(captions: list[str]) -> Any:
    """A byte-level BPE whose tokens spell the captions and the words of the demo shop."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    shop = [f" {word}" for word in world.words()]
    tokenizer.train_from_iterator([*captions, *shop * 100], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in SPECIAL[1:]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=TOWERS["text_cfg"]["context_length"],
        **dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True)),
    )


def pretrain(out: Path, seed: int = 0, pictures: int = PICTURES, epochs: int = EPOCHS) -> None:
    """Draw, train with CLIP's loss, and write the folder ``out`` as open_clip reads it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from .losses import contrastive

    began = time.perf_counter()
    rng = np.random.RandomState(seed)
    captions, pixels = captions_and_pictures(rng, pictures)
    log.info("%d pictures after %.0f s", pictures, time.perf_counter() - began)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer_of(captions[:4000]).save_pretrained(out)
    preprocess = {"size": SIDE, "mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    config = {"model_cfg": TOWERS, "preprocess_cfg": {**preprocess, "resize_mode": "shortest"}}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(captions)
    group = torch.from_numpy(np.unique(captions, return_inverse=True)[1].reshape(-1))
    torch.manual_seed(seed)
    model = open_clip.CLIP(**TOWERS)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    per_epoch = pictures // BATCH
    steps = epochs * per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.permutation(pictures)
        rows = torch.from_numpy(order[step % per_epoch * BATCH :][:BATCH])
        given = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float() / 255
        given = torch.roll((given - mean) / std, tuple(rng.randint(-5, 6, 2).tolist()), (2, 3))
        image, text = model.encode_image(given, normalize=True), model.encode_text(tokens[rows], normalize=True)
        loss = contrastive("softmax", image, text, model.logit_scale.exp(), torch.zeros(()), group[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        if step % per_epoch == 0 or step == steps - 1:
            log.info("step %d of %d, loss %.3f, %.0f s", step, steps, loss.item(), time.perf_counter() - began)
    weights = model.state_dict().items()
    halves = {name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in weights}
    save_file(halves, out / "open_clip_model.safetensors")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pretrain(given.out, given.seed)
