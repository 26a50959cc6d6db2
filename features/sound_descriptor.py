"""``descriptor:sound``: spectrum, pitch, harmony and envelope of a sound, an encoder without weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .fingerprints import fingerprint
from .sound_files import describe_decoding, read_sound

if TYPE_CHECKING:
    from bundlecache.encoder_spec import EncoderSpec

    from .encoder_options import Options


def load(spec: EncoderSpec, options: Options) -> SoundDescriptor:
    """The registry's entry for ``descriptor:sound``."""
    return SoundDescriptor(spec.text, options.dtype, options.batch_size or 32)


class SoundDescriptor:
    """Spectrum, pitch, harmony and envelope of a sound: 103 numbers, no weights, milliseconds per item.

    In this order, each on a scale of about one: log-mel level (28 bands: mean, and spread over time), pitch
    classes (12, loud frames), the same turned so that the strongest comes first (12: major or minor in any
    key), pitch (mean, spread, how periodic), timbre (centroid, width, roll-off, flatness: mean and spread),
    envelope (attack, decay, onset rate, loudness spread, crest, length, active share), beating (how much the
    bands' levels swing at 0.7, 1.4, 2.8, 5.6 and 11 Hz). A silent sound lies
    at the scale's floor; one shorter than a frame is padded with silence.
    """

    modality = "audio"
    tokens = 0
    rate, window, hop = 22_050, 2048, 512  # Hz, samples, samples
    bands = 28
    floor_db = -80.0  # below the loudest frame: quieter than that is silence
    dim = 28 + 28 + 12 + 12 + 3 + 8 + 7 + 5

    def __init__(self, spec: str, dtype: str, batch_size: int) -> None:
        self.spec, self.dtype, self.batch_size = spec, dtype, batch_size
        self.fingerprint = fingerprint(
            "sound descriptor", 1, self.rate, self.window, self.hop, self.bands, self.floor_db, self.dim
        )
        self.reading = self.preprocess = describe_decoding(self.rate)
        self.frequencies = np.fft.rfftfreq(self.window, 1 / self.rate)  # [f]
        self.mel = _mel_filters(self.frequencies, self.bands, 40.0, 10_000.0)  # [f, bands]
        self.chroma = _chroma_filters(self.frequencies)  # [f, 12]

    def read(self, source: Path | str) -> np.ndarray:
        """The sound as mono float32 [samples]."""
        return read_sound(Path(source), self.rate)

    def prepare(self, raw: np.ndarray) -> np.ndarray:
        """The numbers of one sound, float64 [103]: they are worked out here, off the main thread."""
        return self._describe(np.pad(raw, (0, max(0, self.window - len(raw)))))

    def encode(self, samples: list[Any]) -> np.ndarray:
        """-> float32 [n, 103]."""
        return np.stack(samples).astype(np.float32)

    def _describe(self, samples: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.window)[:: self.hop]
        spectrum = np.abs(np.fft.rfft(frames * np.hanning(self.window), axis=1))  # [t, f]
        power = spectrum**2 + 1e-12
        energy = power.sum(axis=1)  # [t]
        loud = energy / energy.sum()
        level = np.maximum(10 * np.log10(power @ self.mel + 1e-12) - 10 * np.log10(power.max() + 1e-6), self.floor_db)
        quiet = level / -self.floor_db  # [t, bands] in [-1, 0] below the loudest
        classes = loud @ _rows_to_one(spectrum @ self.chroma)  # [12]
        pitch_class = np.sqrt(classes / max(classes.sum(), 1e-12))
        return np.concatenate(
            [
                2 * quiet.mean(axis=0) + 1,
                4 * quiet.std(axis=0) - 0.5,
                2 * pitch_class - 0.5,
                2 * np.roll(pitch_class, -int(pitch_class.argmax())) - 0.5,
                self._pitch(frames, loud),
                self._timbre(spectrum, loud),
                self._envelope(energy),
                self._beating(quiet),
            ]
        )

    def _pitch(self, frames: np.ndarray, loud: np.ndarray) -> np.ndarray:
        """Octaves from 261 Hz (mean, spread) and periodicity in [0, 1], of the loudest frames: [3]."""
        best = np.argsort(-loud, kind="stable")[:32]
        chosen = frames[best] * np.hanning(self.window)
        size = 2 * self.window
        own = np.fft.irfft(np.abs(np.fft.rfft(chosen, size, axis=1)) ** 2, size, axis=1)
        window = np.hanning(self.window)
        taper = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2, size)
        low, high = self.rate // 1500, self.rate // 60  # lags of 1500 Hz and 60 Hz
        own = own[:, low:high] / np.maximum(own[:, :1], 1e-9) * (taper[0] / taper[low:high])
        # The first lag near the best: multiples of a period are as periodic as the period itself.
        period = low + np.argmax(own > 0.9 * own.max(axis=1, keepdims=True), axis=1)
        period = np.array([_climb(row, int(start) - low) + low for row, start in zip(own, period, strict=True)])
        octave = np.log2(self.rate / period / 261.63)
        weight = loud[best] * np.clip(own.max(axis=1), 0, 1) + 1e-12
        weight /= weight.sum()
        mean = weight @ octave
        return np.array([mean, np.sqrt(weight @ (octave - mean) ** 2), weight @ np.clip(own.max(axis=1), 0, 1)])

    def _timbre(self, spectrum: np.ndarray, loud: np.ndarray) -> np.ndarray:
        """Centroid, width, roll-off (octaves from 1 kHz) and flatness (bels): means and spreads, [8]."""
        share = _rows_to_one(spectrum + 1e-9)
        centroid = share @ self.frequencies
        width = np.sqrt(np.maximum(share @ self.frequencies**2 - centroid**2, 1.0))
        rolloff = self.frequencies[np.argmax(share.cumsum(axis=1) >= 0.85, axis=1)]
        flatness = np.log10(share).mean(axis=1) - np.log10(share.mean(axis=1))
        octaves = [np.log2(np.maximum(value, 20.0) / 1000) for value in (centroid, width, rolloff)]
        rows = np.stack([*octaves, flatness])  # [4, t]
        mean = rows @ loud
        spread = np.sqrt(((rows - mean[:, None]) ** 2) @ loud)
        return np.concatenate([mean, spread])

    def _envelope(self, energy: np.ndarray) -> np.ndarray:
        """Attack, decay, onset rate, loudness spread, crest, length, active share: [7]."""
        loudness = np.sqrt(energy)
        peak = int(loudness.argmax())
        seconds = self.hop / self.rate
        relative = np.maximum(20 * np.log10(loudness / max(loudness[peak], 1e-6) + 1e-6), self.floor_db)  # dB
        before, after = relative[: peak + 1], relative[peak:]
        attack = (len(before) - int(np.argmax(before > -20.0)) - 1) * seconds
        fallen = np.flatnonzero(after < -20.0)
        decay = (int(fallen[0]) if len(fallen) else len(after)) * seconds
        rises = np.maximum(np.diff(relative, prepend=relative[:1]), 0.0)
        length = len(energy) * seconds
        crest = np.log10(loudness.max() / max(loudness.mean(), 1e-9) + 1e-3)
        values = [np.log2(attack + 0.02) + 2, np.log2(decay + 0.02), np.log2((rises > 6.0).sum() / length + 0.1)]
        return np.array([*values, relative.std() / 20, crest * 2, np.log2(length + 0.1), (relative > -40.0).mean()])

    def _beating(self, quiet: np.ndarray) -> np.ndarray:
        """Strength of level changes around 0.7, 1.4, 2.8, 5.6 and 11 Hz, mean over bands: [5]."""
        swing = quiet - quiet.mean(axis=0)  # [t, bands]
        size = max(256, len(swing))  # short sounds are padded, so that every octave has bins
        rates = np.fft.rfftfreq(size, self.hop / self.rate)
        power = (np.abs(np.fft.rfft(swing, size, axis=0)) ** 2).mean(axis=1) / (size * len(swing))  # [rates]
        octaves = [power[(rates >= low) & (rates < 2 * low)].sum() for low in (0.5, 1.0, 2.0, 4.0, 8.0)]
        return (np.log10(np.array(octaves) + 1e-6) + 4) / 2


def _climb(row: np.ndarray, start: int) -> int:
    """From ``start`` up to the next local maximum."""
    while start + 1 < len(row) and row[start + 1] > row[start]:
        start += 1
    return start


def _rows_to_one(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-12)


def _mel_filters(frequencies: np.ndarray, bands: int, low: float, high: float) -> np.ndarray:
    """Triangles of equal width on the mel scale: [f, bands]."""
    edges = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700), bands + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    rise = (frequencies[:, None] - hertz[None, :-2]) / (hertz[1:-1] - hertz[:-2])
    fall = (hertz[None, 2:] - frequencies[:, None]) / (hertz[2:] - hertz[1:-1])
    filters = np.maximum(np.minimum(rise, fall), 0.0)
    return filters / np.maximum(filters.sum(axis=0), 1e-9)


def _chroma_filters(frequencies: np.ndarray) -> np.ndarray:
    """How much each frequency belongs to each of 12 pitch classes, A first, from 65 Hz to 2.1 kHz: [f, 12]."""
    semitone = 12 * np.log2(np.maximum(frequencies, 1.0) / 440.0)  # [f]
    apart = (semitone[:, None] - np.arange(12)[None] + 6) % 12 - 6
    heard = ((frequencies > 65) & (frequencies < 2100))[:, None]
    return np.exp(-((apart / 0.4) ** 2) / 2) * heard
