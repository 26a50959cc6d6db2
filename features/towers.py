"""Image and text towers: a frozen network behind a fixed preparation, whatever library it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundlecache.errors import BundlecacheError, EncoderError, first_line

from .devices import forward, forward_precision, resolve_device, to_numpy
from .fingerprints import package_versions
from .item_text import TEXT_READING, clean_text
from .picture_files import read_picture, reading

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from PIL.Image import Image

    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options


class ImageTower:
    """Pictures -> one vector each, or one for every patch (token features), not normalised.

    Parameters
    ----------
    module, call
        The weights, and what they make of pictures [n, 3, s, s]: [n, d], or [n, t, d] for token features.
    transform, steps
        From an RGB image to one such picture, float32 [3, s, s], and the same in short words.
    packages
        Their versions may change a pixel.

    Raises
    ------
    EncoderError
        When the network cannot take what the transform makes, when pictures of different shapes stay so,
        or when a draft would be smaller than what the network reads.
    """

    modality = "image"

    def __init__(
        self,
        spec: EncoderSpec,
        options: Options,
        module: Any,
        call: Callable[[Any], Any],
        transform: Callable[[Image], Any],
        steps: str,
        fingerprint: str,
        packages: tuple[str, ...],
    ) -> None:
        self.device = resolve_device(options.device)
        self.spec, self.dtype, self.fingerprint = spec.text, options.dtype, fingerprint
        self.batch_size = options.batch_size or (256 if self.device.startswith("cuda") else 16)
        self.compute = forward_precision(self.device, options.dtype, options.precision)
        self.draft, self.reading = options.draft, reading(options.draft)
        self.preprocess = f"{self.reading}; {steps}; forward {self.compute}; {package_versions(*packages)}"
        self.transform, self.call, self.module = transform, call, module
        module.eval().requires_grad_(False).to(self.device)
        self.tokens, self.dim = self._shape()

    def read(self, source: Path | str) -> Image:
        """The picture, RGB."""
        return read_picture(Path(source), self.draft)

    def prepare(self, raw: Image) -> Any:
        """The picture as the network reads it: a float32 tensor [3, s, s]."""
        return self.transform(raw)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, d], or [n, t, d]."""
        import torch

        return to_numpy(forward(self.call, torch.stack(samples), self.device, self.compute))

    def _shape(self) -> tuple[int, int]:
        """Tokens (0 for one vector) and width of what one blank picture gives: asked, not read in a configuration."""
        from PIL import Image

        wide, tall = (self.prepare(Image.new("RGB", size, "white")) for size in ((64, 48), (48, 64)))
        if wide.shape != tall.shape:
            raise EncoderError(
                f"{self.spec!r} keeps the shape of every picture; only encoders that read one size are supported.",
                hint="the folder's preprocessor_config.json needs a crop, or a size with height and width",
            )
        if self.draft is not None and self.draft < min(wide.shape[1:]):
            raise EncoderError(
                f"{self.spec!r} reads pictures of {min(wide.shape[1:])} px, and a draft of {self.draft} px is smaller.",
                hint=f"type --draft {2 * max(wide.shape[1:])}",
            )
        try:
            shape = self.encode([wide]).shape
        except BundlecacheError:
            raise
        except Exception as error:  # whatever the library says of a picture it does not expect
            raise EncoderError(f"{self.spec!r} cannot encode a blank picture: {first_line(error)}.") from error
        return (shape[1] if len(shape) == 3 else 0), shape[-1]


class TextTower:
    """Titles -> the projected vectors of a text tower trained beside an image tower, not normalised.

    Parameters
    ----------
    module, call
        The weights, and what they make of tokens: [n, d].
    tokenize, steps
        From titles to those tokens, a tensor or a dict of tensors, and the same in short words.
    packages
        Their versions may change a token.
    """

    modality = "text"
    tokens = 0
    reading = TEXT_READING

    def __init__(
        self,
        spec: EncoderSpec,
        options: Options,
        module: Any,
        call: Callable[..., Any],
        tokenize: Callable[[list[str]], Any],
        steps: str,
        fingerprint: str,
        packages: tuple[str, ...],
    ) -> None:
        self.device = resolve_device(options.device)
        self.spec, self.dtype, self.fingerprint = spec.text, options.dtype, fingerprint
        self.batch_size = options.batch_size or (256 if self.device.startswith("cuda") else 32)
        self.compute = forward_precision(self.device, options.dtype, options.precision)
        self.preprocess = f"{self.reading}, {steps}; forward {self.compute}; {package_versions(*packages)}"
        self.tokenize, self.call, self.module = tokenize, call, module
        module.eval().requires_grad_(False).to(self.device)
        self.dim = self.encode(["a"]).shape[-1]

    def read(self, source: Path | str) -> str:
        """The title without surrounding space."""
        return clean_text(source)

    def prepare(self, raw: str) -> str:
        """The title as it is; a tokenizer is not shared by threads, so tokens are made per batch."""
        return raw

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, d]."""
        return to_numpy(forward(self.call, self.tokenize(samples), self.device, self.compute))
