"""``clap:``: CLAP of transformers, the audio tower with its projection (laion/clap-htsat-unfused and kin)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bundlecache.pretrained import load_model, load_processor, quiet

from .checkpoints import check_complete, checkpoint_folder, load_failure
from .devices import as_tensor, forward, forward_precision, measured_dim, resolve_device, to_numpy
from .fingerprints import config_cause, fingerprint, package_versions
from .sound_files import describe_decoding, read_sound

if TYPE_CHECKING:
    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options


def load(spec: EncoderSpec, options: Options) -> ClapAudio:
    """A CLAP folder as ``save_pretrained`` writes it, with its ``preprocessor_config.json``, or a hub id."""
    folder = checkpoint_folder(spec)
    with quiet():
        import torch

        try:
            extractor = load_processor("ClapFeatureExtractor", folder)
            loaded = load_model("ClapModel", folder, dtype=torch.float32)
        except Exception as error:  # many libraries deep; each has its own way to say what is missing
            raise load_failure(spec, folder, error) from error
    check_complete(spec, loaded.missing, unused=("text_", "logit_scale"))
    return ClapAudio(spec, options, loaded.model, extractor)


class ClapAudio:
    """Sounds -> projected audio vectors of length one; of a long sound, the mean over fixed windows.

    CLAP hears exactly ten seconds. Its own feature extractor takes a random ten seconds of a longer file,
    so that two runs disagree; here the whole file is covered by evenly spaced windows, each heard alone
    (a fused checkpoint too: ``is_longer`` is always false), and their vectors are averaged.
    """

    modality = "audio"
    tokens = 0

    def __init__(self, spec: EncoderSpec, options: Options, model: Any, extractor: Any) -> None:
        self.device = resolve_device(options.device)
        self.spec, self.dtype = spec.text, options.dtype
        self.batch_size = options.batch_size or (64 if self.device.startswith("cuda") else 8)
        self.compute = forward_precision(self.device, self.dtype, options.precision)
        heard = {name: value for name, value in model.state_dict().items() if name.startswith("audio_")}
        self.fingerprint = fingerprint("clap", config_cause(model.config.audio_config), tensors=heard)
        self.extractor, self.rate, self.window = extractor, extractor.sampling_rate, extractor.nb_max_samples
        self.reading = describe_decoding(self.rate)
        self.preprocess = (
            f"{self.reading}; mean over evenly spaced windows of {self.window / self.rate:g} s, is_longer false, "
            f"shorter ones {extractor.padding}; log-mel {config_text(extractor)}; forward {self.compute}; "
            f"{package_versions('transformers')}"
        )
        del model.text_model, model.text_projection
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.dim = measured_dim(self, [self.prepare(np.zeros(self.window, np.float32))])

    def read(self, source: Path | str) -> np.ndarray:
        """The sound as mono float32 [samples]."""
        return read_sound(Path(source), self.rate)

    def prepare(self, raw: np.ndarray) -> np.ndarray:
        """The log-mel pictures of a sound's windows: float32 [w, 1, t, mel]."""
        pieces = [raw[start : start + self.window] for start in window_starts(len(raw), self.window)]
        out = self.extractor(pieces, sampling_rate=self.rate, return_tensors="np")
        # A fused checkpoint's extractor adds three crops, which only windows with is_longer would look at.
        return out["input_features"][:, :1].astype(np.float32)

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, d]; all windows of the batch go through the tower in batches of their own."""
        import torch

        windows = torch.from_numpy(np.concatenate(samples))  # [W, 1, t, mel]
        parts = []
        for start in range(0, len(windows), self.batch_size):
            part = windows[start : start + self.batch_size]
            inputs = {"input_features": part, "is_longer": torch.zeros(len(part), 1, dtype=torch.bool)}
            parts.append(to_numpy(as_tensor(forward(self.model.get_audio_features, inputs, self.device, self.compute))))
        vectors = np.concatenate(parts)  # [W, d]
        counts = np.array([len(sample) for sample in samples])
        starts = np.concatenate([[0], counts.cumsum()[:-1]])
        return np.add.reduceat(vectors, starts, axis=0) / counts[:, None].astype(np.float32)


def window_starts(length: int, window: int) -> list[int]:
    """Starts of the fewest windows that cover ``length`` samples, evenly spaced from the first to the last one.

    >>> window_starts(7, 10), window_starts(10, 10), window_starts(25, 10)
    ([0], [0], [0, 8, 15])
    """
    count = max(1, -(-length // window))
    return [round(start) for start in np.linspace(0, max(0, length - window), count)]


def config_text(extractor: Any) -> str:
    """The choices of the folder's feature extractor that change a spectrogram."""
    names = ("feature_size", "fft_window_size", "hop_length", "frequency_min", "frequency_max", "truncation")
    return ", ".join(f"{name} {getattr(extractor, name)}" for name in names)
