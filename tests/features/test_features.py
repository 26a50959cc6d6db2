"""Every registered encoder keeps one contract; any media file decodes or fails with a plain reason."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import checkpoints as tiny
from helpers.paths import TOP

import bundlecache as bc
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.errors import BundlecacheError, EncoderError, MediaError
from bundlecache.features import registry as features
from bundlecache.features.picture_files import read_picture
from bundlecache.features.sound_files import read_sound
from bundlecache.modalities import MODALITIES

if TYPE_CHECKING:
    from bundlecache.workspace import WorkspaceFolder

TITLES = [
    "warm red wool coat",
    "cold blue lamp",
    "mug",
    "a bell of bells with a very long title " * 5,
    "Ünïcode ☕ 杯子",
]


@dataclass
class Case:
    """One encoder of a kind: its spec, what it reads, and a spec whose weights differ, where there are weights."""

    spec: str
    catalogue: Catalogue
    good: list
    bad: list
    other: str | None = None
    folder: Path | None = None

    @property
    def in_bytes(self) -> bool:
        """Whether its vectors are whole numbers of one byte, whatever type is asked for."""
        return self.spec.startswith("int8:")


@pytest.fixture
def case(request: pytest.FixtureRequest, workspace: WorkspaceFolder, tmp_path: Path) -> Case:
    kind: features.EncoderKind = request.param
    catalogue = Catalogue.read(workspace)
    junk = tmp_path / "junk.bin"
    junk.write_bytes(b"neither a picture nor a sound")
    empty = tmp_path / "empty.wav"
    empty.touch()
    good, bad = {
        "text": lambda: (TITLES, ["", "  \n"]),
        "image": lambda: (tiny.pictures(tmp_path / "pictures"), [junk, empty, tmp_path / "none.png", tmp_path]),
        "audio": lambda: (tiny.sounds(tmp_path / "sounds"), [junk, empty, tmp_path / "none.wav", tmp_path]),
        "graph": lambda: ([i for i in catalogue.item_ids if i != "item-03"][:5], ["no such item"]),
    }[kind.modality]()
    if kind.fixed:
        return Case(kind.form, catalogue, good, bad)
    if kind.load == f"derived:load_{kind.modality}":
        parent = "als:user-item" if kind.modality == "graph" else features.DEFAULTS[kind.modality]
        bc.open(workspace.root, quiet=True).encode(kind.modality, encoder=[parent])
        return Case(
            kind.form.replace("pcaN", "pca4")
            .replace("firstN", "first20" if kind.modality == "graph" else "first60")
            .replace("SPEC", parent),
            catalogue,
            good,
            bad,
            folder=workspace.root,
        )
    head = kind.form.partition(":")[0]
    make = tiny.FOLDERS[kind.modality, head.removesuffix("-tokens").removesuffix("-vision")]
    prefix = f"{head}:local-dir:" if "open_clip" in head else f"{head}:"
    first, second = make(tmp_path / "first", seed=0), make(tmp_path / "second", seed=1)
    return Case(f"{prefix}{first}", catalogue, good, bad, f"{prefix}{second}")


def load(case: Case, kind: features.EncoderKind, **options: object) -> features.Encoder:
    known = {"modality": kind.modality, "catalogue": case.catalogue, "device": "cpu", "workspace": case.folder}
    return features.load(case.spec, **known, **options)


@pytest.mark.parametrize(
    ("case", "kind"), [(k, k) for k in features.REGISTRY], indirect=["case"], ids=lambda k: f"{k.modality}-{k.form}"
)
def test_every_registered_encoder_keeps_the_contract(case: Case, kind: features.EncoderKind):
    encoder = load(case, kind)
    assert (encoder.modality, encoder.spec) == (kind.modality, case.spec)
    assert encoder.dtype == ("int8" if case.in_bytes else "float16")
    assert encoder.batch_size >= 1
    assert len(encoder.fingerprint) == 64
    assert 10 < len(encoder.preprocess) < 1000
    assert encoder.reading
    assert encoder.reading in encoder.preprocess
    assert load(case, kind, dtype="float32", batch_size=3).dtype == ("int8" if case.in_bytes else "float32")

    raws = [encoder.read(source) for source in case.good]
    kept = [np.array(raw) for raw in raws]
    samples = [encoder.prepare(raw) for raw in raws]
    for raw, before in zip(raws, kept, strict=True):
        np.testing.assert_array_equal(np.array(raw), before, err_msg="prepare changed what others read too")
    vectors = encoder.encode(samples)  # [n, d] or [n, t, d]
    assert vectors.dtype == np.float32
    shape = (encoder.tokens, encoder.dim) if encoder.tokens else (encoder.dim,)
    assert vectors.shape == (len(case.good), *shape)
    assert (encoder.tokens > 0) == ("-tokens:" in kind.form or kind.form.startswith("vqgan:"))
    assert np.isfinite(vectors).all()
    assert (np.linalg.norm(vectors, axis=-1) > 1e-3).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3, "two items, one vector: the encoder is blind"

    one_by_one = np.concatenate([encoder.encode([sample]) for sample in samples])
    tolerance = (
        1 if case.in_bytes else 1e-3 if case.folder else 1e-4
    )  # derived ones start from vectors in half precision
    np.testing.assert_allclose(one_by_one, vectors, atol=tolerance, err_msg="a vector depends on its batch")

    again = load(case, kind)
    assert again.fingerprint == encoder.fingerprint
    assert again.preprocess == encoder.preprocess
    np.testing.assert_array_equal(again.encode([again.prepare(again.read(s)) for s in case.good]), vectors)

    for source in case.bad:
        with pytest.raises(MediaError) as caught:
            encoder.prepare(encoder.read(source))
        assert "\n" not in str(caught.value)
    if case.other is not None:
        other = load(replace(case, spec=case.other), kind)
        assert other.fingerprint != encoder.fingerprint, "other weights under the same fingerprint"
        assert np.abs(other.encode(samples) - vectors).max() > 1e-3


def test_importing_the_registry_imports_no_encoder():
    heavy = ["torch", "PIL", "soundfile", "transformers", "open_clip"]
    code = f"import sys, bundlecache.features.registry; print([name for name in {heavy} if name in sys.modules])"
    top = TOP
    done = subprocess.run([sys.executable, "-c", code], cwd=top, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults_need_no_weights_and_every_modality_has_one():
    assert tuple(features.DEFAULTS) == MODALITIES
    for modality, spec in features.DEFAULTS.items():
        assert features.modality_of(spec) == modality
        assert spec in [kind.form for kind in features.kinds(modality)]


@pytest.mark.parametrize(
    ("spec", "modality", "options", "words"),
    [
        ("vgg:16", "image", {}, ["vgg:16", "open_clip:", "descriptor:picture"]),
        ("descriptor:picture", "text", {}, ["image vectors, not text", "hf:"]),
        ("descriptor:painting", "image", {}, ["descriptor:painting", "descriptor:picture"]),
        ("descriptor:text", "smell", {}, ["smell", "text, image, audio, graph"]),
        ("descriptor:text", "text", {"dtype": "int8"}, ["int8", "float16"]),
        ("descriptor:text", "text", {"batch_size": 0}, ["at least 1"]),
    ],
)
def test_a_wrong_request_says_what_is_allowed(
    workspace: WorkspaceFolder, spec: str, modality: str, options: dict, words: list
):
    with pytest.raises(BundlecacheError) as caught:
        features.load(spec, modality=modality, catalogue=Catalogue.read(workspace), **options)
    for word in words:
        assert word in str(caught.value)


def test_the_page_on_encoders_names_every_one():
    page = (TOP / "docs/encoders.md").read_text().replace("\\|", "|")
    assert [kind.form for kind in features.REGISTRY if f"`{kind.form}`" not in page] == []


def test_an_unknown_spec_has_no_modality():
    with pytest.raises(EncoderError, match="clap:"):
        features.modality_of("vgg:16")


# Pictures: what Pillow merely warns of is checked, so its warnings are off (pytest turns them on again)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_unpacks(tmp_path: Path):
    for width, height in ((20_000, 20_000), (10_500, 10_000)):  # above Pillow's own limit, and below it
        (tmp_path / "bomb.png").write_bytes(png_header(width, height))
        with pytest.raises(MediaError, match="pixels"):
            read_picture(tmp_path / "bomb.png")


def test_a_needle_is_refused_because_resizing_it_would_fill_the_memory(tmp_path: Path):
    (tmp_path / "needle.png").write_bytes(png_header(1, 60_000))
    with pytest.raises(MediaError, match="64 times"):
        read_picture(tmp_path / "needle.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tiff"])
def test_a_truncated_picture_never_raises_anything_but_media_error(tmp_path: Path, suffix: str):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    failed = 0
    for cut in range(0, len(whole), 64):
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:cut])
        try:
            assert read_picture(tmp_path / f"cut.{suffix}").mode == "RGB"
        except MediaError:
            failed += 1
    assert failed > 0.9 * (len(whole) // 64), "half a picture passed for a whole one"


def test_random_bytes_behind_a_picture_header_never_raise_anything_but_media_error(tmp_path: Path):
    rng = np.random.default_rng(0)
    for head in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x10\0\0\0WEBP", b"BM", b"II*\0", b""):
        for _ in range(20):
            (tmp_path / "noise.jpg").write_bytes(head + rng.bytes(200))
            with pytest.raises(MediaError):
                read_picture(tmp_path / "noise.jpg")


def test_the_content_decides_and_not_the_name(tmp_path: Path):
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "named.jpg")
    assert read_picture(tmp_path / "named.jpg").getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path):
    from PIL import Image

    picture = Image.new("RGB", (64, 32), "blue")
    picture.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = read_picture(tmp_path / "turned.jpg")
    assert upright.size == (32, 64)
    red, _, blue = upright.getpixel((16, 8))
    assert red > 200
    assert blue < 60


def test_unusual_modes_look_as_they_would_on_a_white_page(tmp_path: Path):
    from PIL import Image

    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    red, green, blue = read_picture(tmp_path / "cmyk.jpg").getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 60

    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    seen = read_picture(tmp_path / "palette.png")
    assert (seen.getpixel((0, 0)), seen.getpixel((5, 5))) == ((200, 0, 0), (255, 255, 255))

    ramp = np.linspace(0, 65_535, 64).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (8, 1))).save(tmp_path / "deep.png")
    row = np.asarray(read_picture(tmp_path / "deep.png"))[0, :, 0]
    np.testing.assert_allclose(row, ramp // 257, atol=1)

    floats = np.tile(np.linspace(-3, 5, 64, dtype=np.float32), (8, 1))
    Image.fromarray(floats).save(tmp_path / "float.tiff")
    row = np.asarray(read_picture(tmp_path / "float.tiff"))[0, :, 0]
    assert (row[0], row[-1]) == (0, 255)

    frames = [Image.new("RGB", (8, 8), colour) for colour in ("lime", "red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "moving.gif").getpixel((3, 3)) == (0, 255, 0)


def test_the_picture_descriptor_tells_hues_and_shapes_through_clutter_and_noise():
    import colorsys

    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    encoder = features.load("descriptor:picture", modality="image", catalogue=None)

    def drawn(hue: int, shape: int) -> np.ndarray:
        colour = lambda h, s, v: tuple(int(255 * x) for x in colorsys.hsv_to_rgb(h % 1, s, v))  # noqa: E731
        picture = Image.new("RGB", (56, 56), tuple(int(x) for x in rng.integers(190, 250, 3)))
        draw = ImageDraw.Draw(picture)
        for x, y, r in zip(*rng.integers(0, 56, (2, 5)), rng.integers(2, 6, 5), strict=True):
            draw.ellipse([x - r, y - r, x + r, y + r], fill=colour(rng.random(), 0.6, 0.7))
        r, fill = (
            rng.integers(12, 19),
            colour(hue / 6 + rng.normal(0, 0.02), rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.9)),
        )
        box = [28 - r, 28 - r, 28 + r, 28 + r]
        (draw.ellipse if shape == 0 else draw.rectangle)(
            box if shape < 2 else [28 - r / 3, 28 - r, 28 + r / 3, 28 + r], fill=fill
        )
        noisy = np.asarray(picture) + rng.normal(0, 12, (56, 56, 3))
        return np.asarray(Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).resize((64, 64)))

    hue, shape = rng.integers(0, 6, 180), rng.integers(0, 3, 180)
    vectors = encoder.encode([drawn(h, s) for h, s in zip(hue, shape, strict=True)])
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    nearest = likeness.argmax(axis=1)
    assert (hue[nearest] == hue).mean() > 0.95
    assert (shape[nearest] == shape).mean() > 0.5


# Sounds


def test_no_samples_and_no_numbers_are_media_errors(tmp_path: Path):
    import soundfile

    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8000)
    with pytest.raises(MediaError, match="no samples"):
        read_sound(tmp_path / "none.wav", 22_050)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.1]), 8000, subtype="FLOAT")
    with pytest.raises(MediaError, match="no numbers"):
        read_sound(tmp_path / "nan.wav", 22_050)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_every_format_gives_the_same_sound_and_a_cut_one_never_a_traceback(tmp_path: Path, suffix: str):
    import soundfile

    t = np.arange(44_100) / 44_100
    wave = 0.5 * np.sin(2 * np.pi * 440 * t)
    soundfile.write(tmp_path / f"a.{suffix}", np.stack([wave, np.zeros_like(wave)], axis=1), 44_100)
    heard = read_sound(tmp_path / f"a.{suffix}", 16_000)
    assert abs(len(heard) - 16_000) < 2500  # mp3 pads
    assert heard.dtype == np.float32
    assert 0.22 < np.abs(heard[4000:12_000]).max() < 0.28, "the channels' mean"
    spectrum = np.abs(np.fft.rfft(heard[4000:12_000]))
    assert abs(spectrum.argmax() * 2 - 440) <= 4  # bins are 2 Hz wide
    whole = (tmp_path / f"a.{suffix}").read_bytes()
    for cut in range(0, len(whole), max(64, len(whole) // 20)):
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:cut])
        with suppress(MediaError):
            assert len(read_sound(tmp_path / f"cut.{suffix}", 16_000))


def test_the_sound_descriptor_hears_pitch_and_mode_and_timbre(tmp_path: Path):
    import soundfile

    encoder = features.load("descriptor:sound", modality="audio", catalogue=None)
    rng = np.random.default_rng(0)
    t = np.arange(16_000) / 16_000

    def chord(semitones: tuple[int, ...], root: float, overtones: int) -> np.ndarray:
        wave = sum(
            np.sin(2 * np.pi * root * 2 ** (s / 12) * h * t) / h for s in semitones for h in range(1, overtones + 1)
        )
        wave = wave * np.exp(-rng.uniform(1, 4) * t) * np.minimum(t / rng.uniform(0.005, 0.1), 1)
        soundfile.write(tmp_path / "a.wav", 0.4 * wave / np.abs(wave).max(), 16_000)
        return encoder.prepare(encoder.read(tmp_path / "a.wav"))

    for hertz in (110.0, 261.63, 700.0):
        assert abs(chord((0,), hertz, 4)[80] - np.log2(hertz / 261.63)) < 0.05

    mode, timbre = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    rows = np.stack(
        [
            chord((0, 3 if m else 4, 7), 220 * 2 ** (rng.integers(0, 12) / 12), 7 if s else 1)
            for m, s in zip(mode, timbre, strict=True)
        ]
    )
    for truth, block in ((mode, rows[:, 68:80]), (timbre, rows[:, 83:91])):
        apart = ((block[:, None] - block[None]) ** 2).sum(axis=2)
        np.fill_diagonal(apart, np.inf)
        assert (truth[apart.argmin(axis=1)] == truth).mean() > 0.9


# Titles


def test_the_text_descriptor_puts_like_titles_together():
    encoder = features.load("descriptor:text", modality="text", catalogue=None)
    titles = ["Red wool coat", "red  WOOL coat", "red woollen coats", "steel bicycle chain", "!!!", "杯子"]
    vectors = encoder.encode([encoder.prepare(encoder.read(title)) for title in titles])
    likeness = vectors @ vectors.T
    assert likeness[0, 1] == pytest.approx(1)
    assert likeness[0, 2] > likeness[0, 3] + 0.3
    with pytest.raises(MediaError):
        encoder.prepare(encoder.read("\ud800 "))


def test_the_reason_of_a_sound_that_is_none_names_neither_a_path_nor_a_missing_file(tmp_path: Path):
    (tmp_path / "text.mp3").write_text("not a sound")
    with pytest.raises(MediaError) as refused:
        read_sound(tmp_path / "text.mp3", 22_050)
    assert refused.value.message.endswith("its content is none of these")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"dtype": "int8"}, "--dtype float16"),
        ({"batch_size": 0}, "--batch-size 32"),
        ({"precision": "int4"}, "--precision auto"),
        ({"draft": 0}, "--draft 512"),
    ],
)
def test_an_option_out_of_range_names_the_command_to_type(options: dict, hint: str):
    with pytest.raises(EncoderError) as caught:
        features.load("descriptor:picture", modality="image", catalogue=None, **options)
    assert caught.value.hint == f"bundlecache encode --modality image --encoder descriptor:picture {hint}"


@pytest.mark.parametrize("kind", ["hf:", "clap:", "blip2:", "laion_clap:", "open_clip:", "open_clip:local-dir:"])
@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "~nobody/" + "b" * 300])
def test_an_encoder_name_too_long_for_a_path_is_one_sentence(kind: str, name: str):
    modality = features.modality_of(kind + "x") if kind != "blip2:" else "image"
    with pytest.raises(BundlecacheError) as caught:
        features.load(kind + name, modality=modality, catalogue=None)
    assert len(str(caught.value)) < 600
