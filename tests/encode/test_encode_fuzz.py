"""Whatever lies in a catalogue's folders, a run ends with a vector or a reason for each item, in bounded memory."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.paths import TOP

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP = 64  # bytes between one cut and the next
ROOM = 400 << 20  # bytes above what the process has before it reads; the bomb alone would take four times as much


def pictures() -> Iterator[tuple[str, bytes]]:
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    forms: dict[str, dict[str, Any]] = {
        "jpg": {"format": "JPEG", "quality": 90},
        "progressive.jpg": {"format": "JPEG", "progressive": True, "exif": image.getexif()},
        "png": {"format": "PNG"},
        "webp": {"format": "WEBP", "quality": 60},
        "gif": {"format": "GIF"},
        "tif": {"format": "TIFF", "compression": "tiff_lzw"},
    }
    for name, options in forms.items():
        made = io.BytesIO()
        image.save(made, **options)
        yield from cuts(name, made.getvalue())
    yield "bomb.png", bomb(20_000)
    yield (
        "bomb.gif",
        b"GIF89a" + struct.pack("<HHBBB", 20_000, 20_000, 0xF0, 0, 0) + b"\0" * 6 + b",\0\0\0\0 N N\0\2\0;",
    )
    yield "line.png", bomb(70_000, 1)


def sounds() -> Iterator[tuple[str, bytes]]:
    import soundfile

    wave = 0.3 * np.sin(np.arange(2400) / 9)
    for name, options in {
        "wav": {"format": "WAV"},
        "flac": {"format": "FLAC"},
        "ogg": {"format": "OGG"},
        "mp3": {"format": "MP3"},
    }.items():
        made = io.BytesIO()
        soundfile.write(made, wave, 16_000, **options)
        yield from cuts(name, made.getvalue())
    header = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, 48_000, 192_000, 4, 16)
    yield "four gigabytes.wav", header + b"data\xff\xff\xff\xf0" + bytes(64)
    yield "channels.wav", header.replace(b"\1\0\2\0", b"\1\0\xff\xff") + b"data\x40\0\0\0" + bytes(64)


def cuts(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The whole file, and its beginning up to every 64th byte, with nothing at all as the shortest."""
    yield f"whole.{name}", content
    for size in range(0, len(content), STEP):
        yield f"{size:05d}.{name}", content[:size]


def junk() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(1)
    starts = (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBPVP8 ", b"II*\0", b"fLaC", b"OggS", b"ID3\4")
    for i, start in enumerate(starts):
        for size in (1, 40, 3000):
            yield f"junk-{i}-{size}.dat", start + rng.bytes(size)


def bomb(width: int, height: int | None = None) -> bytes:
    """A PNG of a few kilobytes that unpacks to width x height pixels."""
    height = height or width

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row * 100) for _ in range(max(1, height // 100))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of damaged files: each name is an item, under its own and under a wrong modality's extension."""
    root = tmp_path_factory.mktemp("fuzz")
    own, foreign = {"image": dict(pictures()), "audio": dict(sounds())}, {"image": "audio", "audio": "image"}
    rows: list[dict[str, str | None]] = []
    for modality, files in own.items():
        wrong = {f"wrong {name}.{'jpg' if modality == 'image' else 'wav'}": content for name, content in junk()}
        wrong |= {f"not mine {name}": content for name, content in own[foreign[modality]].items() if "whole" in name}
        wrong |= {
            f"named.{'png' if modality == 'image' else 'mp3'}": files[
                "whole.jpg" if modality == "image" else "whole.wav"
            ]
        }
        (root / modality).mkdir()
        for name, content in (files | wrong).items():
            (root / modality / name).write_bytes(content)
            rows.append({"item_id": f"{modality} {name}", "title": name, modality: f"{modality}/{name}"})
    columns = ("item_id", "title", "image", "audio")
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), root / "items.parquet")
    return root


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_no_file_stops_a_run_and_each_ends_as_a_vector_or_a_reason(fuzzed: Path, modality: str) -> None:
    receipt, grown = encode(fuzzed, modality)
    assert grown < ROOM, f"{grown >> 20} MiB"
    ids = [i for i in pq.read_table(fuzzed / "items.parquet")["item_id"].to_pylist() if i.startswith(modality)]
    assert receipt["items"] - receipt["absent"] == receipt["encoded"] + receipt["failed"] == len(ids)

    [path] = (fuzzed / "store" / "errors").glob(f"{modality}--*.parquet")
    errors = {row["item_id"]: row for row in pq.read_table(path).to_pylist()}
    assert len(errors) == receipt["failed"]
    for item_id, row in errors.items():
        assert row["stage"] == "decode", row
        assert 10 < len(row["reason"]) <= 300, row
        assert not re.search(r"\n|^\w+Error|/tmp|Traceback", row["reason"]), f"{item_id}: {row['reason']}"
    well = set(ids) - set(errors)
    expected = [i for i in ids if "whole" in i and "not mine" not in i] + [i for i in ids if " named." in i]
    assert well >= set(expected), "what is whole is encoded, whatever its name"
    never = [i for i in ids if re.search(r" 00000\.|bomb|line|junk", i) or ("not mine" in i)]
    assert set(errors) >= set(never)
    assert "pixels" in errors.get("image bomb.png", {"reason": "pixels"})["reason"]


def encode(root: Path, modality: str) -> tuple[dict[str, Any], int]:
    """The receipt of the command, run as a process of its own, and by how many bytes its memory grew."""
    code = (
        "import resource, sys, cli, lancedb, PIL.Image, soundfile, soxr\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "try: cli.main()\n"
        "finally: print('grown', peak() - before, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "encode", "--modality", modality, "--data", str(root), "--json"],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    [receipt] = json.loads(done.stdout)
    found = re.search(r"grown (\d+)", done.stderr)
    assert found, done.stderr
    return receipt, int(found[1])


def test_a_sound_that_is_cut_short_is_what_was_read_and_not_what_lay_in_memory(tmp_path: Path) -> None:
    from bundlecache.features.sound_files import read_sound

    files = dict(sounds())
    for name in ("01024.mp3", "01344.mp3", "whole.mp3"):
        (tmp_path / name).write_bytes(files[name])
    whole = read_sound(tmp_path / "whole.mp3", 16_000)
    for name in ("01024.mp3", "01344.mp3"):
        cut = read_sound(tmp_path / name, 16_000)
        assert 500 < len(cut) < len(whole) - 500
        np.testing.assert_allclose(cut, whole[: len(cut)], atol=1e-3)
