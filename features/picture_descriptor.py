"""``descriptor:picture``: colour, light, outline and edges of a picture without weights; ``descriptor-tokens:``, by patch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .fingerprints import fingerprint, package_versions
from .picture_files import read_picture, reading

if TYPE_CHECKING:
    from PIL import Image as PIL_Image

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options


def load(spec: EncoderSpec, options: Options) -> PictureDescriptor:
    """The registry's entry for ``descriptor:picture`` and ``descriptor-tokens:picture``."""
    made = PictureTokens if spec.kind == "descriptor-tokens" else PictureDescriptor
    return made(spec.text, options.dtype, options.batch_size or 64, options.draft)


class PictureDescriptor:
    """Colour, light, outline and edges of a picture: 132 numbers, no weights, a millisecond per item.

    The blocks, each of length one before its weight: hue of the whole picture and of its foreground (24
    soft bins each, weighted by squared chroma, so that noise on grey counts nothing), tones of the foreground
    (black to white, and how colourful), a 4 x 4 grid of light, a 5 x 5 grid of foreground, and edge
    directions (8 in each of 2 x 2 quarters). Foreground is what differs from the border's median colour,
    weighted towards the middle: catalogue pictures have a plain ground and their subject in the centre.
    """

    modality = "image"
    tokens = 0
    size = 64  # pixels, square
    hues = 24
    weights = (0.8, 1.2, 0.6, 0.6, 1.0, 1.2)  # of the blocks, in the order above
    dim = 24 + 24 + 11 + 16 + 25 + 32

    def __init__(self, spec: str, dtype: str, batch_size: int, draft: int | None = None) -> None:
        self.spec, self.dtype, self.batch_size = spec, dtype, batch_size
        self.draft, self.reading = draft, reading(draft)
        self.fingerprint = self._cause()
        self.preprocess = f"{self.reading}; squashed to {self.size} px, bilinear; {package_versions('Pillow')}"

    def _cause(self) -> str:
        return fingerprint("picture descriptor", 1, self.size, self.hues, self.weights, self.dim)

    def read(self, source: Path | str) -> PIL_Image.Image:
        """The picture, RGB."""
        return read_picture(Path(source), self.draft)

    def prepare(self, raw: PIL_Image.Image) -> np.ndarray:
        """The picture squashed to uint8 [64, 64, 3]."""
        from PIL import Image

        return np.asarray(raw.resize((self.size, self.size), Image.Resampling.BILINEAR))

    def encode(self, samples: list[Any]) -> np.ndarray:
        """uint8 pictures -> float32 [n, 132], each of length one."""
        rgb = np.stack(samples).astype(np.float64) / 255  # [n, 64, 64, 3]
        n = len(rgb)
        light = rgb @ (0.299, 0.587, 0.114)  # [n, 64, 64]
        hue, chroma = _hue_and_chroma(rgb)
        front = _foreground(rgb)
        blocks = (
            _soft_histogram(hue * self.hues, chroma**2, self.hues, circular=True) ** 0.5,
            _soft_histogram(hue * self.hues, chroma**2 * front, self.hues, circular=True) ** 0.5,
            np.concatenate(
                [
                    _soft_histogram(light * 6, front * np.exp(-((chroma / 0.15) ** 2)), 7),
                    _soft_histogram(chroma * 3, front, 4),
                ],
                axis=1,
            )
            ** 0.5,
            _centred(_cells(light, 4)).reshape(n, -1),
            _centred(_cells(front, 5)).reshape(n, -1),
            _edge_directions(light, 8),
        )
        joined = np.concatenate([w * _unit(block) for w, block in zip(self.weights, blocks, strict=True)], axis=1)
        return _unit(joined).astype(np.float32)  # [n, 132]


class PictureTokens(PictureDescriptor):
    """The same of each of 4 x 4 patches: 16 tokens of 46 numbers, for models that attend to parts of a picture.

    A token holds, of its patch: hues of all pixels and of the foreground (12 soft bins each, weighted by squared chroma, the
    root of the patch's share of the whole picture), the mean colour, the spread of light, the mean chroma and foreground, edge
    directions (8 bins), and in one of 4 + 4 numbers each its row and column, since whoever reads tokens may not know their order.
    """

    side = 4  # patches
    tokens = side * side
    hues = 12
    directions = 8
    dim = 2 * hues + 3 + 3 + directions + 2 * side

    def _cause(self) -> str:
        return fingerprint("picture tokens", 1, self.size, self.side, self.hues, self.directions, self.dim)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """uint8 pictures -> float32 [n, 16, 46]; patches row by row."""
        rgb = np.stack(samples).astype(np.float64) / 255  # [n, 64, 64, 3]
        n = len(rgb)
        hue, chroma = _hue_and_chroma(rgb)
        front, light = _foreground(rgb), rgb @ (0.299, 0.587, 0.114)
        down, right = np.gradient(light, axis=(1, 2))
        angle = (np.arctan2(down, right) / np.pi) % 1.0
        hue, chroma, front, light, angle, strength = (
            self._patches(field) for field in (hue, chroma, front, light, angle, np.hypot(down, right) ** 1.5)
        )  # [n * 16, p, p]
        colours = [
            _soft_histogram(hue * self.hues, w, self.hues, circular=True) for w in (chroma**2, chroma**2 * front)
        ]
        edges = _soft_histogram(angle * self.directions, strength, self.directions, circular=True)
        means = [field.mean(axis=(1, 2)) for field in (*map(self._patches, np.moveaxis(rgb, -1, 0)), chroma, front)]
        place = np.eye(self.side)
        return np.concatenate(
            [
                *(self._shares(block, n) for block in (*colours, edges)),
                np.stack([*means, 4 * light.std(axis=(1, 2))], axis=1).reshape(n, self.tokens, 6),
                np.tile(np.repeat(place, self.side, axis=0), (n, 1, 1)),
                np.tile(place, (n, self.side, 1)),
            ],
            axis=2,
        ).astype(np.float32)  # [n, 16, 46]

    def _patches(self, field: np.ndarray) -> np.ndarray:
        """A field [n, s, s] cut into patches [n * 16, p, p]."""
        p = self.size // self.side
        return field.reshape(-1, self.side, p, self.side, p).swapaxes(2, 3).reshape(-1, p, p)

    def _shares(self, block: np.ndarray, n: int) -> np.ndarray:
        """[n, 16, bins] roots of the shares that each patch and bin has of its picture, 1 on average of the patches."""
        block = block.reshape(n, self.tokens, -1)
        total = block.sum(axis=(1, 2), keepdims=True)
        return np.sqrt(np.where(total > 1e-9, self.tokens * block / np.maximum(total, 1e-9), 0.0))


def _hue_and_chroma(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hue in [0, 1) round the colour circle, and chroma in [0, 1], both [n, s, s]."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    alpha, beta = red - (green + blue) / 2, np.sqrt(0.75) * (green - blue)
    return (np.arctan2(beta, alpha) / (2 * np.pi)) % 1.0, np.hypot(alpha, beta)


def _foreground(rgb: np.ndarray) -> np.ndarray:
    """How much each pixel is of the subject: colour distance from the border times nearness to the middle."""
    n, size = rgb.shape[:2]
    edge = np.ones((size, size), bool)
    edge[3:-3, 3:-3] = False
    ground = np.median(rgb[:, edge], axis=1)  # [n, 3]
    distance = np.linalg.norm(rgb - ground[:, None, None], axis=-1)
    axis = np.linspace(-1, 1, size)
    middle = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / 0.8)
    return np.minimum(distance / 0.4, 1.0) ** 2 * middle + 1e-3 * middle.reshape(1, size, size).repeat(n, 0)


def _soft_histogram(position: np.ndarray, weight: np.ndarray, bins: int, *, circular: bool = False) -> np.ndarray:
    """[n, bins] weighted counts; a position between two bins gives each its share. ``position`` is [n, s, s]."""
    n = len(position)
    position, weight = position.reshape(n, -1), weight.reshape(n, -1)
    low = np.floor(position).astype(np.int64)
    share = position - low
    out = np.zeros(n * bins)
    for step, part in ((0, 1 - share), (1, share)):
        index = (low + step) % bins if circular else np.clip(low + step, 0, bins - 1)
        index += bins * np.arange(n)[:, None]
        out += np.bincount(index.ravel(), (weight * part).ravel(), minlength=n * bins)
    return out.reshape(n, bins)


def _cells(field: np.ndarray, cells: int) -> np.ndarray:
    """The mean of a field [n, s, s] in each of cells x cells parts: [n, cells, cells]."""
    cuts = np.linspace(0, field.shape[1], cells + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(field, cuts, axis=1), cuts, axis=2)
    sizes = np.diff(np.append(cuts, field.shape[1]))
    return sums / (sizes[:, None] * sizes[None])


def _edge_directions(light: np.ndarray, directions: int) -> np.ndarray:
    """Edge strength by direction in each quarter of the picture: [n, directions * 4]."""
    n, size = light.shape[:2]
    down, right = np.gradient(light, axis=(1, 2))
    angle = (np.arctan2(down, right) / np.pi) % 1.0  # an edge and its reverse are one direction
    strength = np.hypot(down, right) ** 1.5  # noise makes many weak edges, outlines few strong ones
    half = size // 2
    quarters = [
        (slice(None), rows, cols)
        for rows in (slice(half), slice(half, None))
        for cols in (slice(half), slice(half, None))
    ]
    parts = [_soft_histogram(angle[q] * directions, strength[q], directions, circular=True) for q in quarters]
    return np.concatenate(parts, axis=1).reshape(n, -1) ** 0.5


def _centred(block: np.ndarray) -> np.ndarray:
    return block - block.mean(axis=(1, 2), keepdims=True)


def _unit(block: np.ndarray) -> np.ndarray:
    """Rows of length one; a row of (nearly) zeros stays zero instead of blowing rounding errors up."""
    norm = np.linalg.norm(block, axis=1, keepdims=True)
    return np.where(norm > 1e-9, block / np.maximum(norm, 1e-9), 0.0)
