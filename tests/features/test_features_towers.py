"""Image and text towers, on tiny checkpoints of the true architectures, against a direct, naive use of the libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers as hf
from helpers import checkpoints as tiny
from helpers.runner import succeed
from PIL import Image

from bundlecache.errors import EncoderError
from bundlecache.features import registry as features
from bundlecache.features import vqgan
from bundlecache.features.open_clip_image import trained_with_quick_gelu
from bundlecache.features.picture_files import read_picture
from bundlecache.store.store import Store

if TYPE_CHECKING:
    from bundlecache.encode.encoder import Encoder
    from bundlecache.workspace import WorkspaceFolder

TITLES = ["Warm RED mug, with a bell!", "lamp", "cold blue wool coat " * 9, "Ünïcode 杯子"]


def load(spec: str, modality: str, **options: Any) -> Encoder:
    return features.load(spec, modality=modality, catalogue=None, device="cpu", **options)


def encoded(encoder: Encoder, sources: list[Any]) -> np.ndarray:
    return encoder.encode([encoder.prepare(encoder.read(source)) for source in sources])


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Smooth pictures with shapes and grain as cameras make them: wide, tall, square, grey, larger than any input."""
    made = []
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate([(120, 80), (60, 90), (64, 64), (33, 31)]):
        y, x = np.mgrid[:height, :width] / max(width, height)
        shape = np.hypot(x - 0.4, y - 0.3) < 0.2 + 0.03 * i
        rgb = np.stack([200 * x + 40, 180 * y + 30 * i, 255 * shape], axis=-1) + rng.normal(0, 8, (height, width, 3))
        picture = Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))
        made.append(tmp_path / f"photo-{i}.jpg")
        (picture.convert("L") if i == 3 else picture).save(made[-1], quality=90)
    return made


def pixels_of(folder: Path, files: list[Path]) -> torch.Tensor:
    """As the documentation of transformers says: the folder's own processor on the opened files."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")["pixel_values"]


def naive(folder: Path, model_class: str, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(vectors, last hidden state) by the library's own classes and methods."""
    import transformers

    model = getattr(transformers, model_class).from_pretrained(folder).eval()
    with torch.inference_mode():
        if hasattr(model, "get_image_features"):
            out = model.get_image_features(pixel_values=pixels)
        else:
            out = model(pixel_values=pixels)
    vectors = out.image_embeds if "image_embeds" in out else out.pooler_output
    return vectors, out.last_hidden_state


TOWERS = {  # what is saved -> how to save it, the tokens of a picture that are no patches
    "CLIPModel": (tiny.clip_folder, {}, 1),
    "CLIPVisionModelWithProjection": (tiny.clip_folder, {"part": "CLIPVisionModelWithProjection"}, 1),
    "CLIPVisionModel": (tiny.clip_folder, {"part": "CLIPVisionModel"}, 1),
    "SiglipModel": (tiny.siglip_folder, {}, 0),
    "SiglipVisionModel": (tiny.siglip_folder, {"part": "SiglipVisionModel"}, 0),
    "Dinov2Model": (tiny.dinov2_folder, {}, 1),
    "Dinov2WithRegistersModel": (tiny.dinov2_folder, {"registers": 3}, 4),
}


@pytest.mark.parametrize("saved", TOWERS)
def test_a_vision_tower_equals_the_library_used_directly(
    tmp_path: Path, photos: list[Path], no_calls: None, saved: str
):
    make, how, first = TOWERS[saved]
    folder = make(tmp_path / "model", **how)
    vectors, states = naive(folder, saved, pixels_of(folder, photos))
    got = encoded(load(f"hf:{folder}", "image"), photos)
    np.testing.assert_allclose(got, vectors.numpy(), atol=1e-5)

    patches = load(f"hf-tokens:{folder}", "image")
    np.testing.assert_allclose(encoded(patches, photos), states[:, first:].numpy(), atol=1e-5)
    assert (patches.tokens, patches.dim) == (16, 32)


@pytest.mark.parametrize("part", ["Blip2ForConditionalGeneration", "Blip2Model", "Blip2ForImageTextRetrieval"])
def test_blip2_equals_the_library_used_directly(tmp_path: Path, photos: list[Path], no_calls: None, part: str):
    import transformers

    folder = tiny.blip2_folder(tmp_path / "blip2", part=part)
    pixels = pixels_of(folder, photos)
    with torch.inference_mode():
        vision = getattr(transformers, part).from_pretrained(folder).eval().vision_model(pixels).pooler_output
        queries = transformers.Blip2Model.from_pretrained(folder).eval().get_qformer_features(pixels)
    np.testing.assert_allclose(encoded(load(f"blip2-vision:{folder}", "image"), photos), vision, atol=1e-5)
    each = load(f"blip2-tokens:{folder}", "image")
    np.testing.assert_allclose(encoded(each, photos), queries, atol=1e-5)
    assert (each.tokens, each.dim) == (5, 24)
    mean = load(f"blip2:{folder}", "image")
    np.testing.assert_allclose(encoded(mean, photos), queries.mean(dim=1), atol=1e-5)
    assert (mean.tokens, mean.dim) == (0, 24)


def test_the_language_model_of_blip2_is_not_read(tmp_path: Path):
    folder = tiny.blip2_folder(tmp_path / "blip2")
    before = load(f"blip2:{folder}", "image").fingerprint
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in index.items() if name.startswith(("vision_model", "qformer", "query_tokens"))}
    unneeded = set(index.values()) - needed
    assert unneeded, "the tiny model is too small for a file of language weights alone"
    for file in unneeded:
        (folder / file).unlink()
    assert load(f"blip2:{folder}", "image").fingerprint == before


def test_a_hub_id_of_blip2_needs_no_file_of_language_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    cache = tmp_path / "hub/models--org--blip2"
    folder = tiny.blip2_folder(cache / "snapshots" / ("0" * 40))
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for file in set(index.values()) - {index[name] for name in index if name.startswith("vision_model")}:
        (folder / file).unlink()
    assert load("blip2-vision:org/blip2", "image").dim == 32
    with pytest.raises(EncoderError, match=r"holds no model-.*safetensors alone"):
        load("blip2:org/blip2", "image")


def test_open_clip_patches_are_the_last_block_before_the_final_norm_without_cls(tmp_path: Path, photos: list[Path]):
    import open_clip

    folder = tiny.open_clip_folder(tmp_path / "clip")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    seen: list[torch.Tensor] = []
    model.eval().visual.transformer.resblocks[-1].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        model.encode_image(torch.stack([transform(Image.open(file).convert("RGB")) for file in photos]))
    encoder = load(f"open_clip-tokens:local-dir:{folder}", "image")
    np.testing.assert_allclose(encoded(encoder, photos), seen[0][:, 1:].numpy(), atol=1e-5)
    assert (encoder.tokens, encoder.dim) == (16, 64)


def test_patches_of_a_timm_tower_are_those_behind_its_norm(tmp_path: Path, photos: list[Path]):
    import open_clip

    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    folder = tiny.open_clip_folder(tmp_path / "timm", vision_cfg=vision, custom=True)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in photos])
    with torch.inference_mode():
        vectors, states = model.eval().encode_image(pixels), model.visual.trunk.forward_features(pixels)
    np.testing.assert_allclose(encoded(load(f"open_clip:{folder}", "image"), photos), vectors, atol=1e-5)
    encoder = load(f"open_clip-tokens:{folder}", "image")
    np.testing.assert_allclose(encoded(encoder, photos), states[:, 1:], atol=1e-5)


# Titles


def test_a_clip_text_tower_equals_the_library_used_directly(tmp_path: Path, no_calls: None):
    from transformers import AutoTokenizer, CLIPModel

    folder = tiny.clip_folder(tmp_path / "clip")
    tokens = AutoTokenizer.from_pretrained(folder)(TITLES, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        want = CLIPModel.from_pretrained(folder).eval().get_text_features(**tokens).pooler_output
    got = encoded(load(f"hf:{folder}", "text"), TITLES)
    assert got.shape == (4, 24)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("part", "width"), [("CLIPTextModelWithProjection", 24), ("CLIPTextModel", 32)])
def test_a_clip_text_tower_alone_is_projected_if_it_was_saved_so(tmp_path: Path, part: str, width: int):
    assert load(f"hf:{tiny.clip_folder(tmp_path / 'clip', part=part)}", "text").dim == width


@pytest.mark.parametrize("two", [False, True])
def test_a_siglip_text_tower_sees_every_title_padded_to_the_whole_length(tmp_path: Path, no_calls: None, two: bool):
    from transformers import AutoTokenizer, SiglipModel

    folder = tiny.siglip_folder(tmp_path / "siglip", two=two)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), SiglipModel.from_pretrained(folder).eval()
    lower = [title.lower() for title in TITLES]
    how = {"padding": "max_length", "max_length": 12, "padding_side": "right", "truncation": True}
    ids = tokenizer(lower, return_tensors="pt", **how)["input_ids"]
    with torch.inference_mode():
        want = model.get_text_features(input_ids=ids).pooler_output
        short = model.get_text_features(**tokenizer(lower[1:2], return_tensors="pt")).pooler_output
    encoder = load(f"hf:{folder}", "text")
    got = encoded(encoder, TITLES)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(encoded(encoder, TITLES[1:2]), got[1:2], atol=1e-5)
    assert np.abs(got[1] - short[0].numpy()).max() > 1e-3, "unpadded gives the same, so the rule is not tested"
    np.testing.assert_array_equal(encoded(encoder, lower), got)


def test_an_open_clip_text_tower_equals_the_library_used_directly(tmp_path: Path, no_calls: None):
    import open_clip

    folder = tiny.open_clip_text_folder(tmp_path / "clip")
    model, tokenizer = (make(f"local-dir:{folder}") for make in (open_clip.create_model, open_clip.get_tokenizer))
    with torch.inference_mode():
        want = model.eval().encode_text(tokenizer(TITLES))
    np.testing.assert_allclose(encoded(load(f"open_clip:local-dir:{folder}", "text"), TITLES), want, atol=1e-5)


def test_pictures_and_titles_of_one_folder_lie_in_one_space(tmp_path: Path):
    for spec in (f"hf:{tiny.clip_folder(tmp_path / 'a')}", f"open_clip:{tiny.open_clip_text_folder(tmp_path / 'b')}"):
        assert load(spec, "image").dim == load(spec, "text").dim


# What is refused


@pytest.mark.parametrize(
    ("make", "spec", "modality", "dropped"),
    [
        (tiny.clip_folder, "hf", "image", "visual_projection"),
        (tiny.clip_folder, "hf", "text", "text_projection"),
        (tiny.siglip_folder, "hf", "image", "vision_model.head.probe"),
        (tiny.siglip_folder, "hf", "text", "text_model.head"),
        (tiny.dinov2_folder, "hf", "image", "encoder.layer.1"),
    ],
)
def test_a_tower_that_lacks_weights_is_refused(tmp_path: Path, make: Any, spec: str, modality: str, dropped: str):
    folder = make(tmp_path / "model")
    drop(folder / "model.safetensors", dropped)
    with pytest.raises(EncoderError, match="lacks"):
        load(f"{spec}:{folder}", modality)


def drop(file: Path, prefix: str) -> None:
    """Leave the tensors whose names begin so out of a weights file."""
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    kept = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    assert len(kept) < len(weights)
    save_file(kept, file, metadata={"format": "pt"})


def test_blip2_without_its_queries_is_refused(tmp_path: Path):
    folder = tiny.blip2_folder(tmp_path / "blip2")
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    drop(folder / told["weight_map"].pop("query_tokens"), "query_tokens")
    index.write_text(json.dumps(told))
    with pytest.raises(EncoderError, match="lacks 1 weights of the encoder, query_tokens among them"):
        load(f"blip2:{folder}", "image")
    assert load(f"blip2-vision:{folder}", "image").dim == 32


def test_a_mask_token_that_no_vector_depends_on_may_be_missing(tmp_path: Path):
    folder = tiny.dinov2_folder(tmp_path / "dino")
    whole = load(f"hf:{folder}", "image").fingerprint
    drop(folder / "model.safetensors", "embeddings.mask_token")
    assert load(f"hf:{folder}", "image").fingerprint == whole


def changed(folder: Path, file: str, **changes: Any) -> Path:
    """The folder, with other values in one of its JSON files; None takes a key out."""
    told = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return folder


def test_what_cannot_be_encoded_is_refused_in_one_sentence(tmp_path: Path):
    prep = "preprocessor_config.json"
    shapeless = {"size": {"shortest_edge": 32}, "do_center_crop": False, "crop_size": None}
    cropped = {"crop_size": {"height": 24, "width": 24}}
    bare = tiny.clip_folder(tmp_path / "bare")
    (bare / prep).unlink()
    naflex = tiny.siglip_folder(tmp_path / "naflex")
    plain = tiny.open_clip_folder(tmp_path / "plain")
    headless = changed(tiny.siglip_folder(tmp_path / "headless"), "config.json")
    told = json.loads((headless / "config.json").read_text())
    told["vision_config"]["vision_use_head"] = False
    (headless / "config.json").write_text(json.dumps(told))
    for folder, spec, words in (
        (changed(naflex, "config.json", model_type="siglip2"), "hf", "NaFlex"),
        (tiny.bert_folder(tmp_path / "bert"), "hf", "bert model; .* CLIP, SigLIP, SigLIP 2 and DINOv2"),
        (tiny.blip2_folder(tmp_path / "blip2"), "hf", "blip-2 model"),
        (tmp_path / "bert", "blip2", "not BLIP-2"),
        (bare, "hf", "preprocessor_config.json does not say image_mean, image_std, size"),
        (changed(tiny.dinov2_folder(tmp_path / "size"), prep, size=None), "hf", "does not say size"),
        (changed(tiny.dinov2_folder(tmp_path / "any"), prep, **shapeless), "hf", "keeps the shape of every picture"),
        (changed(tiny.clip_folder(tmp_path / "crop"), prep, **cropped), "hf", "cannot encode a blank picture"),
        (headless, "hf", "no pooling head"),
        (changed(plain, "open_clip_config.json", preprocess_cfg=None), "open_clip", "no mean and std under preproc"),
    ):
        with pytest.raises(EncoderError, match=words) as caught:
            load(f"{spec}:{folder}", "image")
        assert "\n" not in str(caught.value)
    assert load(f"hf-tokens:{headless}", "image").tokens == 16


@pytest.mark.parametrize("make", [tiny.bert_folder, tiny.clip_folder])
def test_a_folder_without_its_vocabulary_is_refused_instead_of_blind(tmp_path: Path, make: Any):
    folder = make(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(EncoderError, match="holds no file of a tokenizer"):
        load(f"hf:{folder}", "text")
    if make is tiny.bert_folder:
        (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
        with pytest.raises(EncoderError, match="knows no words"):
            load(f"hf:{folder}", "text")


def test_a_misspelt_architecture_gets_its_neighbours(tmp_path: Path):
    with pytest.raises(EncoderError, match="for example ViT-B-16-SigLIP"):
        load("open_clip:ViT-B-16-Siglip/webli", "image")
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 8}
    folder = tiny.open_clip_folder(tmp_path / "resnet", vision_cfg=resnet)
    assert load(f"open_clip:{folder}", "image").tokens == 0
    with pytest.raises(EncoderError, match="no patches"):
        load(f"open_clip-tokens:{folder}", "image")


def test_weights_trained_with_quick_gelu_get_it_by_their_plain_name_too():
    assert trained_with_quick_gelu("ViT-L-14", "openai")
    assert trained_with_quick_gelu("ViT-L-14-quickgelu", "openai")
    assert not trained_with_quick_gelu("ViT-L-14", "laion2b_s32b_b82k")


# Drafts and precision


def test_a_draft_reads_a_jpeg_smaller_but_never_below_it(tmp_path: Path):
    y, x = np.mgrid[:600, :900]
    whole = Image.fromarray(np.stack([x / 4, y / 4, (x + y) / 8], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole.save(tmp_path / "a.jpg", quality=95, exif=exif)
    whole.save(tmp_path / "a.png")
    sizes = {None: (600, 900), 400: (600, 900), 200: (300, 450), 150: (150, 225), 100: (150, 225), 1: (75, 113)}
    for draft, size in sizes.items():
        seen = read_picture(tmp_path / "a.jpg", draft)
        assert seen.size == size
        assert min(seen.size) >= (draft or 1)
        small = np.asarray(read_picture(tmp_path / "a.jpg").resize((60, 90)), float)
        assert np.abs(np.asarray(seen.resize((60, 90)), float) - small).mean() < 3
    assert read_picture(tmp_path / "a.png", 100).size == (900, 600)


def test_a_draft_is_part_of_the_identity_and_shared_by_encoders(tmp_path: Path):
    specs = ("descriptor:picture", f"hf:{tiny.clip_folder(tmp_path / 'clip')}")
    specs += (f"open_clip:{tiny.open_clip_folder(tmp_path / 'open')}",)
    plain = [load(spec, "image") for spec in specs]
    drafted = [load(spec, "image", draft=64) for spec in specs]
    assert len({encoder.reading for encoder in plain}) == len({encoder.reading for encoder in drafted}) == 1
    for before, after in zip(plain, drafted, strict=True):
        assert before.reading != after.reading
        assert before.preprocess != after.preprocess
        assert after.reading in after.preprocess
        assert before.fingerprint == after.fingerprint


def test_a_draft_below_what_the_network_reads_is_refused(tmp_path: Path):
    spec = f"hf:{tiny.clip_folder(tmp_path / 'clip')}"
    assert load(spec, "image", draft=32).draft == 32
    with pytest.raises(EncoderError, match="reads pictures of 32 px") as caught:
        load(spec, "image", draft=31)
    assert caught.value.hint == "type --draft 64"
    with pytest.raises(EncoderError, match="at least 1 pixel"):
        load(spec, "image", draft=0)


def test_precision_is_the_user_s_choice_and_part_of_the_identity(tmp_path: Path, photos: list[Path]):
    for spec, modality, sources in (
        (f"hf:{tiny.clip_folder(tmp_path / 'clip')}", "image", photos),
        (f"blip2:{tiny.blip2_folder(tmp_path / 'blip2')}", "image", photos),
        (f"hf:{tiny.bert_folder(tmp_path / 'bert')}", "text", TITLES),
    ):
        exact, half = load(spec, modality), load(spec, modality, precision="bfloat16")
        assert "forward float32" in exact.preprocess
        assert "forward bfloat16" in half.preprocess
        want, got = encoded(exact, sources), encoded(half, sources)
        cosine = (want * got).sum(axis=1) / np.linalg.norm(want, axis=1) / np.linalg.norm(got, axis=1)
        assert cosine.min() > 0.999
        assert np.abs(want - got).max() > 1e-5, "nothing was computed in bfloat16"
    with pytest.raises(EncoderError, match="no precision 'int8'"):
        load("descriptor:picture", "image", precision="int8")


def test_what_was_stored_tells_how_to_load_its_encoder_again(tmp_path: Path):
    spec = f"hf:{tiny.clip_folder(tmp_path / 'clip')}"
    for options in ({}, {"draft": 64}, {"precision": "bfloat16"}, {"draft": 48, "precision": "float16"}):
        before = load(spec, "image", **options)
        again = load(spec, "image", **features.options_from_preprocess(before.preprocess))
        assert (again.preprocess, again.reading) == (before.preprocess, before.reading)
    assert features.options_from_preprocess(load("descriptor:text", "text").preprocess) == {
        "draft": None,
        "precision": "auto",
    }


def test_the_command_line_takes_a_draft_and_stores_it_apart(workspace: WorkspaceFolder):
    succeed("encode", "--modality", "image", "--data", workspace.root)
    succeed("encode", "--modality", "image", "--data", workspace.root, "--draft", "128")
    tables = Store(workspace.store).tables()
    assert [table.rows for table in tables] == [22, 22]
    assert sorted("keep 128 px" in table.preprocess for table in tables) == [False, True]


# Pictures beyond those of test_features.py


def test_more_modes_become_rgb(tmp_path: Path):
    ramp = np.linspace(0, 65_535, 64).astype(">u2")
    Image.frombytes("I;16B", (64, 8), np.tile(ramp, (8, 1)).tobytes()).save(tmp_path / "big-endian.tiff")
    np.testing.assert_allclose(np.asarray(read_picture(tmp_path / "big-endian.tiff"))[0, :, 0], ramp // 257, atol=1)

    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "grey-alpha.png")
    assert read_picture(tmp_path / "grey-alpha.png").getpixel((3, 3)) == (255, 255, 255)
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    assert read_picture(tmp_path / "bits.png").getpixel((3, 3)) == (255, 255, 255)

    frames = [Image.new("RGBA", (8, 8), (*colour, 255)) for colour in ((255, 0, 0), (0, 0, 255))]
    for suffix in ("webp", "png"):
        frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
        assert read_picture(tmp_path / f"moving.{suffix}").getpixel((3, 3)) == (255, 0, 0)


def test_codes_of_a_picture_name_the_entries_that_decoding_looks_up(tmp_path):
    folder = tiny.vqgan_folder(tmp_path / "vq")
    encoder = load(f"vqgan:{folder}", "image")
    samples = [encoder.prepare(encoder.read(path)) for path in tiny.pictures(tmp_path / "pictures")]
    codes = encoder.encode(samples)
    assert codes.shape == (5, 16, 1)
    assert ((codes >= 1) & (codes <= 16) & (codes == codes.round())).all()
    model = hf.JanusVQVAE.from_pretrained(folder)
    with torch.inference_mode():
        latents = model.quant_conv(model.encoder(torch.stack(samples)))  # [5, 4, 4, 4]
        looked_up = model.quantize.get_codebook_entry(torch.from_numpy(codes[..., 0]).long() - 1)
        every = torch.nn.functional.normalize(model.quantize.embedding.weight, dim=1)
    units = torch.nn.functional.normalize(latents, dim=1).permute(0, 2, 3, 1)  # [5, 4, 4, 4], entries last
    best = (units @ every.T).amax(-1)
    torch.testing.assert_close((units * looked_up.permute(0, 2, 3, 1)).sum(-1), best)
    drawn = vqgan.decode(f"vqgan:{folder}", codes[..., 0])
    assert (drawn.shape, drawn.dtype) == ((5, 32, 32, 3), np.uint8)
    with pytest.raises(EncoderError, match="16 codes"):
        vqgan.decode(f"vqgan:{folder}", codes[:, :3, 0])
    with pytest.raises(EncoderError, match="clip"):
        load(f"vqgan:{tiny.clip_folder(tmp_path / 'clip')}", "image")
