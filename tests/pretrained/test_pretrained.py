"""The one loading function: no code of a model runs, nobody is asked, and what is wrong is one sentence."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
import subprocess
import sys

import pytest
import sentencepiece
import torch
from helpers import train_shop as world
from helpers.paths import TOP

from bundlecache import pretrained
from bundlecache.errors import RecipeError
from bundlecache.recipes.recipe import Base
from bundlecache.tokenizer_check import gives_ids_of, tokenizer_fingerprint
from bundlecache.train.model import llm as llms

CPU = torch.device("cpu")
SHARED = [folder / "shared/data/llama2_tokenizer/tokenizer.model" for folder in (TOP.parent, TOP.parents[1])]
LLAMA2 = next((path for path in SHARED if path.is_file()), None)
CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "hostile"
class Model(LlamaForCausalLM):
    config_class = Config
class Words(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return world.save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def base(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "base")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes))


def reason(folder):
    with pytest.raises(RecipeError) as caught:
        llms.load(Base(model=str(folder)), CPU)
    message = caught.value.message
    assert "\n" not in message
    assert message.startswith(f"No causal language model could be loaded from {str(folder)!r}: ")
    assert caught.value.hint
    return message


def calls_of_transformers(source):
    """What ``source`` does that only bundlecache/pretrained.py may do."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
            yield node.attr
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "transformers":
            yield from (alias.name for alias in node.names if alias.name.startswith("Auto"))
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            yield node.arg


def test_only_one_module_loads_with_transformers():
    found = {}
    for folder in ("bundlecache", "features", "train"):
        for path in (TOP / folder).rglob("*.py"):
            if names := set(calls_of_transformers(path.read_text("utf-8"))):
                found[path.relative_to(TOP).as_posix()] = names
    assert set(found) == {"bundlecache/pretrained.py"}
    assert set(calls_of_transformers("from transformers import AutoModel\nAutoModel.from_pretrained(x)")) == {
        "AutoModel",
        "from_pretrained",
    }


ATTACK = """
import torch
from bundlecache.pretrained import no_remote_code
from bundlecache.recipes.recipe import Base
from bundlecache.train.model import llm
for name in ("model", "tokenizer"):
    try:
        llm.load(Base(model=f"{FOLDER}/{name}"), torch.device("cpu"))
        print(name, "loaded without it")
    except Exception as error:
        print(name, type(error).__name__, error)
with no_remote_code():
    from transformers import AutoConfig
    try:
        AutoConfig.from_pretrained(f"{FOLDER}/model")
    except ValueError as error:
        print("library", type(error).__name__)
"""


def test_code_of_a_base_folder_never_runs_even_with_y_on_stdin(saved, tmp_path):
    for name in ("model", "tokenizer"):
        folder = shutil.copytree(saved, tmp_path / name)
        (folder / "hostile.py").write_text(CODE.format(mark=str(tmp_path / "executed")))
    auto_map = {"AutoConfig": "hostile.Config", "AutoModelForCausalLM": "hostile.Model"}
    edit(tmp_path / "model" / "config.json", model_type="hostile", auto_map=auto_map)
    auto_map = {"AutoTokenizer": ["hostile.Words", "hostile.Words"]}
    edit(tmp_path / "tokenizer" / "tokenizer_config.json", tokenizer_class="Words", auto_map=auto_map)
    code = ATTACK.replace("{FOLDER}", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, input="y\n" * 9, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Do you wish" not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("executed")) + list(tmp_path.rglob("ran"))
    model, tokenizer, library = done.stdout.splitlines()
    assert model.startswith("model RecipeError")
    assert "code that comes with a model is never run" in model
    assert "loaded without it" in tokenizer or "never run" in tokenizer
    assert library == "library ValueError"


def test_layers_that_the_weights_lack_are_refused(base):
    edit(base / "config.json", num_hidden_layers=3)
    assert "3 layers, but its weights hold 2" in reason(base)


@pytest.mark.parametrize("layers", [1, 2])
def test_weights_that_are_missing_or_left_over_are_refused(base, layers):
    from safetensors.torch import load_file, save_file

    edit(base / "config.json", num_hidden_layers=layers)
    weights = load_file(base / "model.safetensors")
    if layers == 2:
        del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert {1: "no place for", 2: "lack 1 weight"}[layers] in reason(base)


def test_tied_weights_are_not_missing_nor_constants_left_over(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import LlamaForCausalLM

    world.save_base(tmp_path)
    config = pretrained.load_config(tmp_path)
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # as Llama-2 was published: a constant
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert llms.load(Base(model=str(tmp_path)), CPU).parameters > 0


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))


def pickled_by_torch(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload()}, folder / "pytorch_model.bin")


def cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def mismatched(folder):
    edit(folder / "config.json", intermediate_size=48)


WRONG = {
    "pickled weights": (pickled, "pickle"),
    "pickled by torch": (pickled_by_torch, "pickle"),
    "weights cut off": (cut_off, "cut off"),
    "weights of zero bytes": (lambda d: (d / "model.safetensors").write_bytes(b""), "cut off"),
    "weights of other shapes": (mismatched, "do not have the shapes"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors"),
    "config is a list": (lambda d: (d / "config.json").write_text("[1]"), "not a JSON object"),
    "config is half a file": (lambda d: (d / "config.json").write_text('{"hidden'), "not valid JSON"),
    "config is deep": (lambda d: (d / "config.json").write_text("[" * 99_999), "not valid JSON"),
    "no heads": (lambda d: edit(d / "config.json", num_attention_heads=0), "num_attention_heads = 0"),
    "negative width": (lambda d: edit(d / "config.json", hidden_size=-8), "hidden_size = -8"),
    "huge vocabulary": (lambda d: edit(d / "config.json", vocab_size=10**12), "vocab_size"),
    "layers without end": (lambda d: edit(d / "config.json", num_hidden_layers=10**9), "num_hidden_layers"),
    "width of words": (lambda d: edit(d / "config.json", hidden_size="x"), "hidden_size"),
    "unknown model": (lambda d: edit(d / "config.json", model_type="nothing"), "nothing"),
    "tokenizer is a list": (lambda d: (d / "tokenizer.json").write_text("[1]"), "not a JSON object"),
    "tokenizer is half a file": (lambda d: (d / "tokenizer.json").write_text('{"version"'), ""),
    "tokenizer settings are a list": (lambda d: (d / "tokenizer_config.json").write_text("[]"), "not a JSON object"),
    "generation settings are a list": (lambda d: (d / "generation_config.json").write_text("[]"), "not a JSON object"),
    "an adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), "adapter"),
    "attention from a hub": (lambda d: edit(d / "config.json", attn_implementation="some/kernel"), "never run"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_base_folder_is_one_sentence(base, case, capfd):
    damage, words = WRONG[case]
    damage(base)
    assert words in reason(base)
    assert "executed" not in capfd.readouterr().out


def without_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


def test_a_base_folder_without_tokenizer_files_says_which_are_missing(base):
    without_tokenizer(base)
    missing = reason(base)
    assert missing.endswith(
        ": it holds no file of a tokenizer, such as tokenizer.json, tokenizer.model, or vocab.json with merges.txt."
    )
    edit(base / "config.json", auto_map={"AutoModelForCausalLM": "hostile.Model"})
    assert reason(base).endswith("; its auto_map names code of its own, which is never run.")


def test_a_tokenizer_of_bytes_needs_no_files(base):
    without_tokenizer(base)
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert pretrained.load_tokenizer(base)("a")["input_ids"]


def sentencepiece_base(folder, saved, model):
    """A base folder as Meta published Llama-2's tokenizer: a ``tokenizer.model`` and nothing that explains it."""
    shutil.copytree(saved, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(model, folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="module")
def trained_model(tmp_path_factory):
    """A small SentencePiece model with the settings of Llama-2's."""
    prefix = tmp_path_factory.mktemp("spm") / "small"
    words = [
        "You",
        "should",
        "directly",
        "answer",
        "the",
        "question",
        "choose",
        "letter",
        "of",
        "correct",
        "option",
        "red",
        "dress",
        "pack",
        "Laptop",
        "off",
    ]
    sentences = [f"{a} {b} {a}; {b}." for a in words for b in words]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.mark.parametrize("which", ["trained here", "Llama-2"])
def test_a_bare_sentencepiece_model_gives_its_own_ids(which, saved, trained_model, tmp_path):
    model = trained_model if which == "trained here" else LLAMA2
    if model is None:
        pytest.skip("tokenizer.model of Llama-2 is not at hand")
    folder = sentencepiece_base(tmp_path / "base", saved, model)
    loaded = llms.load(Base(model=str(folder)), CPU).tokenizer
    own = sentencepiece.SentencePieceProcessor(str(model))
    for text in ("You; B.", "You should answer; A. red dress, ☕", "Ünïcode; 杯子"):
        assert loaded(text, add_special_tokens=False)["input_ids"] == own.encode(text)
    if model == LLAMA2:
        assert loaded("You;", add_special_tokens=False)["input_ids"] == [887, 29936]
        assert loaded(";", add_special_tokens=False)["input_ids"] == [2056]


def test_a_sentencepiece_model_that_no_class_reproduces_is_refused(saved, tmp_path):
    words = [f"answer{k} question{k % 7} lamp" for k in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(tmp_path / "unigram"),
        model_type="unigram",
        vocab_size=40,
        user_defined_symbols=["▁You▁should"],
        normalization_rule_name="nmt_nfkc_cf",
        minloglevel=2,
    )
    folder = sentencepiece_base(tmp_path / "base", saved, tmp_path / "unigram.model")
    assert "does not give the ids" in reason(folder)


def test_a_file_that_is_no_sentencepiece_model_contradicts_nothing(base):
    (base / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    assert gives_ids_of(pretrained.load_tokenizer(base), base / "tokenizer.model")


def test_a_tokenizer_s_fingerprint_follows_what_decides_its_ids(base, tmp_path):
    first = pretrained.load_tokenizer(base)
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(pretrained.load_tokenizer(base))
    first.save_pretrained(tmp_path / "again")
    assert tokenizer_fingerprint(pretrained.load_tokenizer(tmp_path / "again")) == tokenizer_fingerprint(first)
    changes = {
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "normalizer": {"type": "Lowercase"},
    }
    rules = json.loads((base / "tokenizer.json").read_text())
    seen = {tokenizer_fingerprint(first)}
    for name, value in changes.items():
        (base / "tokenizer.json").write_text(json.dumps(rules | {name: value}))
        seen.add(tokenizer_fingerprint(pretrained.load_tokenizer(base)))
    words = dict(rules["model"]["vocab"])
    words["lamp"], words["bell"] = words["bell"], words["lamp"]
    (base / "tokenizer.json").write_text(json.dumps(rules | {"model": rules["model"] | {"vocab": words}}))
    seen.add(tokenizer_fingerprint(pretrained.load_tokenizer(base)))
    (base / "tokenizer.json").write_text(json.dumps(rules))
    more = pretrained.load_tokenizer(base)
    more.add_special_tokens({"pad_token": "<pad>"})
    seen.add(tokenizer_fingerprint(more))
    assert len(seen) == 5
