"""Each file of a workspace, damaged in every way: the same answer as before, or one sentence with a hint."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.paths import TOP

from hostile.judge import judge_command

if TYPE_CHECKING:
    from collections.abc import Callable

COMPLETE = ("complete", "item-00", "item-02", "--with", "model", "--json")  # by the latest run, `unfinished`
BY_FIRST = (*COMPLETE, "--run", "first")
CANDIDATES = ("candidates", "--k", "5", "--modality", "image", "--json")
FILES = {  # a file -> the commands that read it
    "runs/first/manifest.json": [BY_FIRST],
    "runs/first/recipe.toml": [BY_FIRST],
    "runs/first/adapter/adapter_config.json": [BY_FIRST],
    "runs/first/adapter/adapter_model.safetensors": [BY_FIRST],
    "runs/first/fusion.safetensors": [BY_FIRST],
    "runs/first/history.jsonl": [("report",)],
    "runs/first/results/test-random10.json": [("report",)],
    "runs/first/results/test-random10.parquet": [("report",)],
    "runs/latest": [COMPLETE],
    "runs/unfinished/resume.safetensors": [("train", "--resume", "unfinished", "--max-minutes", "0.001")],
    "questions/test-random10.json": [("questions", "--json")],
    "questions/test-random10.parquet": [("questions", "--json")],
    "candidates/image-k5.parquet": [CANDIDATES],
    "store/hashes/image.parquet": [("encode", "--modality", "image", "--json")],
    "items.parquet": [COMPLETE],
    "bundles.parquet": [CANDIDATES],
    "interactions.parquet": [CANDIDATES],
}

UNEQUAL = {
    "seconds",
    "bytes",
    "path",
    "started",
    "finished",
    "share",
    "median",
    "decode",
    "forward",
    "write",
    "version",
}


def _flipped(seed: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        rng, changed = random.Random(seed), bytearray(content)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return flip


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "list": lambda _: b"[1]",
    "twice": lambda content: content * 2,
    "a bit": _flipped(0),
    "another bit": _flipped(1),
}
OF_TEXTS: dict[str, Callable[[bytes], bytes | None]] = {
    "number": lambda _: b"3",
    "null": lambda _: b"null",
    "object": lambda _: b"{}",
    "deep": lambda _: b"[" * 20_000,
    "long number": lambda _: b"9" * 6000,
    "no text": lambda content: b"\xff" * len(content),
}
TEXTS = {".json", ".jsonl", ".toml", ""}
CASES = [(name, damage) for name in FILES for damage in (DAMAGES, DAMAGES | OF_TEXTS)[Path(name).suffix in TEXTS]]
MAY_BE_ABSENT = {
    "interactions.parquet",
    "runs/latest",
    "questions/test-random10.json",
    "questions/test-random10.parquet",
}
WITHOUT_CHECKSUM = {  # tables of the user, and weights of an earlier version: nobody knows what stood there
    "items.parquet",
    "bundles.parquet",
    "interactions.parquet",
    "runs/first/fusion.safetensors",
    "runs/first/adapter/adapter_model.safetensors",
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """The workspace that an earlier version left, with what each command answers before any damage."""
    folder = tmp_path_factory.mktemp("damaged")
    with tarfile.open(TOP / "tests" / "data" / "old_workspaces.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    root = folder / "old_workspace"
    commands = {command for commands in FILES.values() for command in commands}
    answers = {}
    for k, command in enumerate(sorted(commands)):  # each on a copy: a training that goes on changes the run
        answers[command] = answer(shutil.copytree(root, folder / str(k)), command)
    return root, answers


def answer(root: Path, command: tuple[str, ...]) -> object:
    """What a command prints as JSON, without its times; None where it ended in a sentence."""
    result = judge_command(*command, "--data", root)
    if "--json" not in command or result.exception is not None:
        return None
    return _timeless(json.loads(result.stdout))


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(v) for key, v in value.items() if not UNEQUAL & set(key.split("_"))}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


ADAPTERS = {  # a key of adapter_config.json -> values that are none
    "r": ["eight", -1, 0, 10**9, 1.5, None],
    "lora_alpha": ["x", [], -1e308],
    "target_modules": [7, [], ["no-such-layer"], "(" * 99, {"q_proj": 1}],
    "peft_type": ["NONE", 3],
    "base_model_name_or_path": ["/dev/zero", 5],
    "auto_mapping": [{"base_model_class": "os", "parent_library": "subprocess"}],
}


@pytest.mark.parametrize("key", ADAPTERS)
def test_an_adapter_with_settings_of_the_wrong_kind(damaged, key, tmp_path):
    original, answers = damaged
    root = shutil.copytree(original, tmp_path / "shop")
    path = root / "runs" / "first" / "adapter" / "adapter_config.json"
    whole = json.loads(path.read_text("utf-8"))
    for value in ADAPTERS[key]:
        path.write_text(json.dumps(whole | {key: value}), "utf-8")
        assert answer(root, BY_FIRST) in (None, answers[BY_FIRST]), f"another answer with {key} {value!r}"


@pytest.fixture(scope="module")
def completing(damaged):
    """A copy that stays for `complete`, which changes no file but caches."""
    return shutil.copytree(damaged[0], damaged[0].with_name("completing"))


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_damaged_file_changes_no_answer(damaged, completing, name, damage, tmp_path):
    original, answers = damaged
    root = completing if FILES[name] in ([COMPLETE], [BY_FIRST]) else shutil.copytree(original, tmp_path / "shop")
    content = (DAMAGES | OF_TEXTS)[damage]((root / name).read_bytes())
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content)
    other = (damage == "gone" and name in MAY_BE_ABSENT) or (damage.endswith("bit") and name in WITHOUT_CHECKSUM)
    try:
        for command in FILES[name]:
            found = answer(root, command)
            assert other or found is None or found == answers[command], f"another answer of {command}"
    finally:
        shutil.copy2(original / name, root / name)  # with its time: of several runs the newest may be asked
