"""Encoders of other installed packages: found by their entry point, and a broken one is a sentence that names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.installed_package import install

from bundlecache.errors import EncoderError
from bundlecache.features import registry

if TYPE_CHECKING:
    from pathlib import Path

KIND = """
from bundlecache.features.registry import EncoderKind

def load(spec, options):
    return spec.name, options.batch_size

KIND = EncoderKind({form!r}, {modality!r}, load, "a test")
"""


@pytest.fixture(autouse=True)
def forget_installed():
    registry._installed_kinds.cache_clear()
    yield
    registry._installed_kinds.cache_clear()


def register(monkeypatch, folder: Path, module: str, form: str, modality: str = "image") -> None:
    code = KIND.format(form=form, modality=modality)
    install(monkeypatch, folder, module, code, registry.ENTRY_POINT_GROUP, "mine", f"{module}:KIND")


def test_an_installed_encoder_is_listed_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    register(monkeypatch, tmp_path, "plugin_good", "mine:NAME")
    assert "mine:NAME" in [kind.form for kind in registry.kinds("image")]
    assert registry.modality_of("mine:small") == "image"
    assert registry.load("mine:small", modality="image", catalogue=None, batch_size=7) == ("small", 7)
    with pytest.raises(EncoderError, match="makes image vectors, not text"):
        registry.load("mine:small", modality="text", catalogue=None)


def test_an_installed_encoder_cannot_replace_a_built_in_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    register(monkeypatch, tmp_path, "plugin_taken", "hf:MINE")
    with pytest.raises(EncoderError, match=r"plugin_taken:KIND has the form 'hf:MINE', which is taken"):
        registry.kinds("image")
    assert registry.modality_of("descriptor:text") == "text", "built-in encoders go on working"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('no licence')", "cannot be imported: no licence"),
        ("KIND = 5", "is a int, not an EncoderKind"),
    ],
)
def test_a_broken_installed_encoder_is_named(monkeypatch, tmp_path: Path, code: str, words: str):
    module = f"plugin_broken_{abs(hash(code))}"
    install(monkeypatch, tmp_path, module, code, registry.ENTRY_POINT_GROUP, "mine", f"{module}:KIND")
    with pytest.raises(EncoderError, match=words) as caught:
        registry.load("mine:small", modality="image", catalogue=None)
    assert module in str(caught.value)
    assert registry.modality_of("descriptor:picture") == "image", "built-in encoders go on working"
