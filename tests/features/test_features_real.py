"""The real encoder families, on tiny random checkpoints of the true architectures, against the bare libraries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import checkpoints as tiny

from bundlecache.errors import EncoderError
from bundlecache.features import registry as features
from bundlecache.features.clap_audio import window_starts
from bundlecache.features.devices import as_tensor
from bundlecache.features.fingerprints import fingerprint
from bundlecache.features.hf_text import pool


def load(spec: str, modality: str, **options: object) -> features.Encoder:
    return features.load(spec, modality=modality, catalogue=None, device="cpu", **options)


def test_open_clip_equals_the_library_used_directly(tmp_path: Path, no_calls: None):
    folder = tiny.open_clip_folder(tmp_path / "clip")
    encoder = load(f"open_clip:local-dir:{folder}", "image")
    import open_clip
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    files = tiny.pictures(tmp_path)
    with torch.inference_mode():
        want = model.eval().encode_image(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    got = encoder.encode([encoder.prepare(encoder.read(file)) for file in files])
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    assert "mean (0.5, 0.4, 0.3)" in encoder.preprocess.replace("[", "(").replace("]", ")")


def test_open_clip_folders_are_found_with_and_without_the_prefix(tmp_path: Path):
    folder = tiny.open_clip_folder(tmp_path / "clip")
    assert (
        load(f"open_clip:{folder}", "image").fingerprint == load(f"open_clip:local-dir:{folder}", "image").fingerprint
    )


def test_the_activation_is_part_of_the_fingerprint_though_no_weight_tells_it(tmp_path: Path):
    plain = load(f"open_clip:{tiny.open_clip_folder(tmp_path / 'a')}", "image")
    quick = load(f"open_clip:{tiny.open_clip_folder(tmp_path / 'b', quick_gelu=True)}", "image")
    assert plain.fingerprint != quick.fingerprint
    blank = plain.prepare(plain.read(tiny.pictures(tmp_path)[0]))
    assert np.abs(plain.encode([blank]) - quick.encode([blank])).max() > 1e-4


def test_preprocessing_is_part_of_the_identity(tmp_path: Path):
    folder = tiny.open_clip_folder(tmp_path / "clip")
    before = load(f"open_clip:{folder}", "image")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    after = load(f"open_clip:{folder}", "image")
    assert before.fingerprint == after.fingerprint
    assert before.preprocess != after.preprocess


def test_clap_equals_the_library_used_directly(tmp_path: Path, no_calls: None):
    folder = tiny.clap_folder(tmp_path / "clap")
    encoder = load(f"clap:{folder}", "audio")
    import soundfile
    import soxr
    from transformers import ClapFeatureExtractor, ClapModel

    file = tiny.sounds(tmp_path)[0]
    wave, rate = soundfile.read(file, dtype="float32")
    wave = soxr.resample(wave, rate, 48_000)
    inputs = ClapFeatureExtractor.from_pretrained(folder)(wave, sampling_rate=48_000, return_tensors="pt")
    model = ClapModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        want = as_tensor(model.get_audio_features(**inputs.to(torch.float32)))
    got = encoder.encode([encoder.prepare(encoder.read(file))])
    assert got.shape == (1, 24)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


@pytest.mark.parametrize("fusion", [False, True])
def test_a_long_sound_is_the_mean_of_its_windows_every_time(tmp_path: Path, fusion: bool):
    import soundfile

    encoder = load(f"clap:{tiny.clap_folder(tmp_path / 'clap', fusion=fusion)}", "audio")
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * 48_000).astype(np.float32)
    for name, piece in (("all", noise), ("head", noise[: 10 * 48_000]), ("tail", noise[2 * 48_000 :])):
        soundfile.write(tmp_path / f"{name}.wav", piece, 48_000, subtype="FLOAT")
    samples = {name: encoder.prepare(encoder.read(tmp_path / f"{name}.wav")) for name in ("all", "head", "tail")}
    assert len(samples["all"]) == 2
    whole, head, tail = encoder.encode([samples["all"], samples["head"], samples["tail"]])
    np.testing.assert_allclose(whole, (head + tail) / 2, atol=1e-5)
    np.testing.assert_array_equal(encoder.prepare(encoder.read(tmp_path / "all.wav")), samples["all"])


@pytest.mark.parametrize("length", [1, 99, 100, 101, 250, 1000, 12_345])
def test_windows_cover_every_sample_and_none_reaches_beyond_the_end(length: int):
    starts = window_starts(length, 100)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + 100] = True
    assert covered.all()
    assert starts == sorted(set(starts))
    assert starts[-1] + 100 <= max(length, 100)


def test_a_bert_folder_is_pooled_by_the_mean_over_its_own_tokens(tmp_path: Path, no_calls: None):
    folder = tiny.bert_folder(tmp_path / "bert")
    encoder = load(f"hf:{folder}", "text")
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    titles = ["warm red wool coats", "mug"]
    want = []
    for title in titles:
        with torch.inference_mode():
            want.append(model(**tokenizer(title, return_tensors="pt")).last_hidden_state[0].mean(dim=0))
    np.testing.assert_allclose(
        encoder.encode([encoder.prepare(encoder.read(t)) for t in titles]), torch.stack(want), atol=1e-5
    )


def test_a_sentence_transformers_folder_keeps_its_pooling_head_and_normalisation(tmp_path: Path):
    folder = tiny.sentence_transformer_folder(tmp_path / "st")
    encoder = load(f"hf:{folder}", "text")
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertModel

    tokens = AutoTokenizer.from_pretrained(folder)("a warm mug", return_tensors="pt")
    dense = load_file(folder / "2_Dense/model.safetensors")
    with torch.inference_mode():
        first = BertModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[:, 0]
        want = torch.tanh(first @ dense["linear.weight"].T + dense["linear.bias"])
    got = encoder.encode([encoder.prepare(encoder.read("A Warm MUG"))])
    np.testing.assert_allclose(got, torch.nn.functional.normalize(want).numpy(), atol=1e-5)
    assert encoder.dim == 12
    for word in ("cls", "1 dense", "normalised", "lower-cased", "16 tokens"):
        assert word in encoder.preprocess


def test_every_pooling_counts_a_title_s_own_tokens_only():
    states = torch.arange(12.0).reshape(1, 4, 3)
    mask = torch.tensor([[1.0, 1, 0, 0]]).unsqueeze(-1)
    want = {"cls": states[0, 0], "max": states[0, 1], "lasttoken": states[0, 1], "mean": states[0, :2].mean(dim=0)}
    want["mean_sqrt_len"] = states[0, :2].sum(dim=0) / 2**0.5
    want["weightedmean"] = (states[0, 0] + 2 * states[0, 1]) / 3
    for mode, vector in want.items():
        torch.testing.assert_close(pool(states, mask, mode)[0], vector)


def test_a_checkpoint_that_lacks_weights_is_refused_instead_of_filled_with_noise(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    for folder, spec, modality, prefix in (
        (tiny.clap_folder(tmp_path / "clap"), "clap", "audio", "audio_projection"),
        (tiny.bert_folder(tmp_path / "bert"), "hf", "text", "encoder.layer.1"),
    ):
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if not name.startswith(prefix)}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EncoderError, match="lacks"):
            load(f"{spec}:{folder}", modality)


def test_a_bert_without_pooler_has_one_fingerprint_though_the_library_makes_one_up(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = tiny.bert_folder(tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(f"hf:{folder}", "text").fingerprint == load(f"hf:{folder}", "text").fingerprint


@pytest.mark.parametrize(
    ("spec", "modality"),
    [
        ("hf:some-org/some-model", "text"),
        ("clap:some-org/some-model@abc", "audio"),
        ("open_clip:hf-hub:some-org/some-model", "image"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "image"),
        ("hf:/no/such/folder", "text"),
        ("clap:./nowhere", "audio"),
        ("open_clip:local-dir:/no/such/folder", "image"),
        ("hf:", "text"),
    ],
)
def test_what_cannot_be_had_is_one_sentence_with_what_to_type(spec: str, modality: str, tmp_path: Path):
    with pytest.raises(EncoderError) as caught:
        load(spec, modality)
    assert f"type --encoder {spec.partition(':')[0]}:" in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("open_clip:ViT-Z-99/openai", "no model 'ViT-Z-99'"),
        ("open_clip:ViT-B-32/nothing", "none of them named 'nothing'"),
        ("open_clip:ViT-B-32", "none of them named ''"),
    ],
)
def test_a_wrong_open_clip_name_lists_what_there_is(spec: str, words: str):
    with pytest.raises(EncoderError, match=words):
        load(spec, "image")


def test_a_folder_that_is_no_checkpoint_is_one_sentence(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    for spec, modality in (("hf", "text"), ("clap", "audio"), ("open_clip", "image")):
        with pytest.raises(EncoderError, match="cannot be loaded") as caught:
            load(f"{spec}:{tmp_path}", modality)
        assert "\n" not in str(caught.value)


def test_a_folder_has_no_revision_and_an_at_sign_in_its_path_is_no_revision(tmp_path: Path):
    folder = tiny.bert_folder(tmp_path / "bert@home")
    assert load(f"hf:{folder}", "text").dim == 32
    with pytest.raises(EncoderError, match="no revision"):
        load(f"hf:{folder}@main", "text")


def test_a_model_of_several_modalities_is_no_text_encoder(tmp_path: Path):
    folder = tiny.clap_folder(tmp_path / "clap")
    tiny.bert_folder(tmp_path / "bert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tmp_path / "bert" / name).read_bytes())
    with pytest.raises(EncoderError, match="several modalities"):
        load(f"hf:{folder}", "text")


def test_a_device_that_is_not_there_is_an_error_and_not_a_silent_fallback(tmp_path: Path):
    spec = f"hf:{tiny.bert_folder(tmp_path / 'bert')}"
    for device in ("cuda:99", "toaster"):
        with pytest.raises(EncoderError, match=device):
            features.load(spec, modality="text", catalogue=None, device=device)


def test_as_tensor_takes_both_kinds_of_output_and_guesses_nothing():
    from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

    vectors = torch.ones(2, 3)
    assert as_tensor(vectors) is vectors
    assert (
        as_tensor(BaseModelOutputWithPooling(last_hidden_state=torch.zeros(2, 5, 3), pooler_output=vectors)) is vectors
    )
    with pytest.raises(TypeError, match="BaseModelOutput"):
        as_tensor(BaseModelOutput(last_hidden_state=torch.zeros(2, 5, 3)))


def test_a_fingerprint_tells_names_shapes_types_and_bytes_apart():
    one = {"a": torch.zeros(4)}
    others = [{"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4).double()}, {"a": torch.ones(4)}]
    prints = {fingerprint("x", tensors=t) for t in [one, *others]} | {fingerprint("y", tensors=one)}
    assert len(prints) == 6
    assert fingerprint("x", tensors={"a": torch.zeros(2, 4, dtype=torch.bfloat16).T}) == fingerprint(
        "x", tensors={"a": torch.zeros(4, 2, dtype=torch.bfloat16)}
    )
