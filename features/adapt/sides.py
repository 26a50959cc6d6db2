"""The two sides of an adaptation: a tower that learns, or stored vectors, with a projection where one is learned.

Notation: n pairs of a forward, d width of a tower's vectors, k width of joined vectors.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bundlecache.errors import EncoderError, MediaError

from ..devices import forward_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bundlecache.recipes.adapt_recipe import AdaptRecipe

KEPT_PICTURE_BYTES = 2 << 30  # of decoded or prepared pictures that stay in memory
READERS = 4  # threads that read and cut pictures
LAYER = re.compile(r"\b(?:blocks|layers|layer|resblocks|stages)\.(\d+)\.")


class StoredSide(nn.Module):
    """Vectors of the store, ``frozen`` as they are or with a linear projection (``head``): no encoder is called.

    ``vectors`` [I, d] may be memory-mapped and of half precision.
    """

    def __init__(self, modality: str, vectors: np.ndarray, projection: nn.Linear | None) -> None:
        super().__init__()
        self.modality, self.vectors = modality, vectors
        self.projection: nn.Linear | None = projection

    def inputs(self, items: np.ndarray, epoch: int | None = None) -> Tensor:  # noqa: ARG002 - towers cut by epoch
        """float32 [n, d]."""
        return torch.from_numpy(np.asarray(self.vectors[items], np.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, d] -> [n, k], not normalised."""
        return inputs if self.projection is None else self.projection(inputs)


class TowerSide(nn.Module):
    """A tower that learns: all of its weights (``full``) or a LoRA update (``lora``).

    Parameters
    ----------
    encoder
        A tower of the registry, which knows how to read, prepare and encode.
    source
        What item ``i`` is for the encoder: the path of its picture, or its text.
    """

    def __init__(
        self,
        encoder: Any,
        source: Callable[[int], Any],
        *,
        lora: tuple[int, float] | None = None,
        cut: Callable[[Any, int, int], Any] | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.modality = encoder.modality
        self.encoder, self.source, self.cut = encoder, source, cut
        self.projection: nn.Linear | None = None
        self.compute = forward_precision(encoder.device, "float16" if precision == "auto" else "float32", precision)
        if self.compute == "float16":
            self.compute = "bfloat16"  # gradients of half precision would need a scaled loss
        self.module, self.lora = encoder.module, None
        if lora is None:
            for name, parameter in self.module.named_parameters():
                parameter.requires_grad_("logit_" not in name and parameter.is_floating_point())
        else:
            self.lora = with_lora(self.module, *lora)
        self._pictures: dict[int, Any] = {}  # as they are read, where each epoch cuts them anew
        self._prepared: dict[int, Tensor] = {}  # as the tower reads them, where they stay the same
        self._kept_bytes = 0
        self._threads = ThreadPoolExecutor(READERS)

    def inputs(self, items: np.ndarray, epoch: int | None = None) -> Any:
        """What the tower reads of these items: pictures [n, 3, s, s], or tokens. With an ``epoch``, cut at random."""
        if self.modality == "text":
            return self.encoder.tokenize([self.encoder.prepare(self._read(int(item))) for item in items])
        return torch.stack(list(self._threads.map(lambda item: self._picture(int(item), epoch), items)))

    def _picture(self, item: int, epoch: int | None) -> Tensor:
        if epoch is not None and self.cut is not None:
            cut: Tensor = self.encoder.prepare(self.cut(self._read(item), item, epoch))
            return cut
        found = self._prepared.get(item)
        if found is None:
            found = self.encoder.prepare(self._read(item))
            if self._has_room(found.nbytes):
                self._prepared[item] = found
        return found

    def _read(self, item: int) -> Any:
        if item in self._pictures:
            return self._pictures[item]
        content = self.encoder.read(self.source(item))
        if self.modality == "image" and self.cut is not None and self._has_room(3 * content.width * content.height):
            self._pictures[item] = content
        return content

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes more may be kept; they count from now on."""
        if self._kept_bytes + size > KEPT_PICTURE_BYTES:
            return False
        self._kept_bytes += size
        return True

    def forward(self, inputs: Any) -> Tensor:
        """-> float32 [n, k], not normalised."""
        device = self.encoder.device
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=self.compute != "float32"):
            if isinstance(inputs, dict):
                out = self.encoder.call(**{name: value.to(device) for name, value in inputs.items()})
            else:
                out = self.encoder.call(inputs.to(device))
        out = out.float()
        return out if self.projection is None else self.projection(out)

    def train(self, mode: bool = True) -> TowerSide:
        """Dropout learns with; statistics of batch normalisation stay those of the checkpoint."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forget_pictures(self) -> None:
        """Read every picture again when it is next asked for."""
        self._pictures.clear()
        self._prepared.clear()
        self._kept_bytes = 0

    def readable(self, items: np.ndarray, seen: Callable[[int, int], None]) -> np.ndarray:
        """Bool [n], the items that can be read and prepared at all; ``seen`` is told how many were tried."""

        def sound(item: Any) -> bool:
            try:
                self._picture(int(item), None) if self.cut is None else self._read(int(item))
            except MediaError:
                return False
            return True

        found = np.ones(len(items), bool)
        for k, good in enumerate(self._threads.map(sound, items)):
            found[k] = good
            seen(k + 1, len(items))
        return found


def with_lora(module: nn.Module, rank: int, alpha: float) -> Any:
    """Add LoRA updates to the linear layers inside the blocks of a tower, and freeze all else.

    Raises
    ------
    EncoderError
        When it has no such layers.
    """
    from peft import LoraConfig, get_peft_model

    layers = [
        name
        for name, part in module.named_modules()
        if type(part) is nn.Linear and (LAYER.search(f"{name}.") or "encoder" in name)
    ]
    if not layers:
        raise EncoderError(
            "This tower has no linear layers in blocks, so LoRA cannot adapt it.", hint="--set towers.image=full"
        )
    return get_peft_model(module, LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, bias="none"))


def rates(side: nn.Module, lr: float, head_lr: float, decay: float) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Every learning parameter of a side with its peak rate, lower by ``decay`` for each layer further down."""
    found = [(name, parameter) for name, parameter in side.named_parameters() if parameter.requires_grad]
    depth = {name: int(match[1]) for name, _ in found if (match := LAYER.search(name))}
    top = max(depth.values(), default=-1) + 1
    for name, parameter in found:
        if name.startswith("projection."):
            yield name, parameter, head_lr
        else:
            layer = depth.get(name, -1 if re.search(r"embed|conv1|stem|class_token|cls_token", name) else top)
            yield name, parameter, lr * decay ** (top - layer)


def random_cut(recipe: AdaptRecipe) -> Callable[[Any, int, int], Any]:
    """Cuts a part out of a picture and mirrors half of them; the same for the same seed, epoch and item."""
    least, seed = recipe.training.crop, recipe.training.seed

    def cut(picture: Any, item: int, epoch: int) -> Any:
        from PIL import ImageOps

        rng = np.random.default_rng([seed, epoch, item])
        area = rng.uniform(least, 1.0)
        shape = np.exp(rng.uniform(-0.15, 0.15))
        width = max(1, round(picture.width * min(1.0, np.sqrt(area * shape))))
        height = max(1, round(picture.height * min(1.0, np.sqrt(area / shape))))
        left = int(rng.integers(picture.width - width + 1))
        top = int(rng.integers(picture.height - height + 1))
        part = picture.crop((left, top, left + width, top + height))
        return ImageOps.mirror(part) if rng.random() < 0.5 else part

    return cut


def projection_of(vectors: np.ndarray, width: int, *, identity: bool) -> nn.Linear:
    """A linear map d -> ``width`` that keeps as much of the training vectors [n, d] as it can.

    ``identity`` asks for the map that changes nothing, where widths allow it: a pair of towers begins as it was.
    """
    d = vectors.shape[1]
    if identity and d == width:
        weight = np.eye(d, dtype=np.float32)
    else:
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        _, _, axes = np.linalg.svd(unit.astype(np.float64), full_matrices=False)
        axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
        weight = np.zeros((width, d), np.float32)
        weight[: min(width, len(axes))] = axes[:width]
    layer = nn.Linear(d, width, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    return layer
