"""Original CLAP checkpoints: the same vectors as in transformers' own format, and nothing but tensors is loaded."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import checkpoints as tiny

from bundlecache.errors import EncoderError
from bundlecache.features import registry as features


def load(spec: str) -> features.Encoder:
    return features.load(spec, modality="audio", catalogue=None, device="cpu", dtype="float32")


def vectors(encoder: features.Encoder, files: list[Path]) -> np.ndarray:
    return encoder.encode([encoder.prepare(encoder.read(file)) for file in files])


@pytest.mark.parametrize("fusion", [False, True])
def test_an_original_checkpoint_gives_the_vectors_of_its_converted_twin(tmp_path: Path, no_calls: None, fusion: bool):
    original = load(f"laion_clap:{tiny.laion_clap_file(tmp_path / 'clap', fusion=fusion)}")
    twin = load(f"clap:{tmp_path / 'clap'}")
    sounds = tiny.sounds(tmp_path / "sounds")
    samples = [twin.prepare(twin.read(file)) for file in sounds]
    np.testing.assert_allclose(original.encode(samples), twin.encode(samples), atol=1e-6)
    assert np.abs(np.linalg.norm(vectors(original, sounds[:1]), axis=1) - 1).max() < 1e-5
    for words in ("48000 Hz", "windows of 10 s", "frequency_min 50, frequency_max 14000", "repeatpad"):
        assert words in original.preprocess


def test_the_fingerprint_is_that_of_the_sound_tower_alone(tmp_path: Path):
    file = tiny.laion_clap_file(tmp_path / "clap")
    before = load(f"laion_clap:{file}").fingerprint
    saved = torch.load(file, weights_only=False)
    saved["state_dict"]["module.text_branch.embeddings.position_ids"] += 1
    torch.save(saved, file)
    assert load(f"laion_clap:{file}").fingerprint == before
    saved["state_dict"]["module.audio_projection.2.bias"] += 1
    torch.save(saved["state_dict"], file)  # a bare state dict is understood too
    assert load(f"laion_clap:{file}").fingerprint != before


class Harm:
    """What a malicious file would run when it is unpickled: here it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self.folder,))


def test_files_that_are_no_such_checkpoint_are_one_sentence(tmp_path: Path, no_calls: None):
    file = tiny.laion_clap_file(tmp_path / "clap")
    saved = torch.load(file, weights_only=False)
    state = saved["state_dict"]
    torch.save({**saved, "args": Harm(tmp_path / "harmed")}, tmp_path / "harm.pt")
    torch.save({"state_dict": {"audio_branch.conv_block1.conv1.weight": torch.ones(1)}}, tmp_path / "pann.pt")
    torch.save({k: v for k, v in state.items() if "layers.2.blocks.0.mlp.fc1" not in k}, tmp_path / "lacking.pt")
    torch.save({k: v[..., :3] if "fc2.weight" in k else v for k, v in state.items()}, tmp_path / "shapes.pt")
    (tmp_path / "cut.pt").write_bytes(file.read_bytes()[:2000])
    for name, words in (
        ("none.pt", "names no file"),
        ("harm.pt", "cannot be loaded"),
        ("pann.pt", "no HTSAT audio tower"),
        ("lacking.pt", "lacks 2 weights"),
        ("shapes.pt", "cannot be loaded"),
        ("cut.pt", "cannot be loaded"),
    ):
        with pytest.raises(EncoderError, match=words):
            load(f"laion_clap:{tmp_path / name}")
    assert not (tmp_path / "harmed").exists()


def test_it_equals_the_original_package_used_directly(tmp_path: Path):
    """Where laion-clap can be imported, which needs numpy below 2: its HTSAT-tiny with random weights."""
    pytest.importorskip("laion_clap")
    from clap_module.htsat import create_htsat_model

    torch.manual_seed(0)
    sound = SimpleNamespace(model_name="tiny", class_num=527, sample_rate=48_000, window_size=1024, hop_size=480)
    sound.mel_bins, sound.fmin, sound.fmax = 64, 50, 14_000
    tower = create_htsat_model(sound).eval()
    projection = torch.nn.Sequential(torch.nn.Linear(768, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)).eval()
    state = {f"module.audio_branch.{name}": tensor for name, tensor in tower.state_dict().items()}
    state |= {f"module.audio_projection.{name}": tensor for name, tensor in projection.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "tiny.pt")
    encoder = load(f"laion_clap:{tmp_path / 'tiny.pt'}")
    wave = np.random.default_rng(0).normal(0, 0.1, 480_000).astype(np.float32)
    with torch.inference_mode():
        want = projection(tower({"waveform": torch.from_numpy(wave)[None]}, device="cpu")["embedding"])
    want = torch.nn.functional.normalize(want, dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode([encoder.prepare(wave)]), want, atol=1e-5)
