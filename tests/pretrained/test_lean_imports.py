"""A language model is loaded, adapted and trained without libraries that it never runs, and is the same model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.paths import TOP

HEAVY = [
    "torch._dynamo.eval_frame",  # of the compiler itself, for which torch._dynamo may stand in
    "torch._inductor",
    "torch.onnx",
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torchvision",
    "scipy.optimize",
    "sympy",
    "boto3",
    "pandas",
    "transformers.image_utils",
    "transformers.processing_utils",
]
IDS = "torch.tensor([[5, 9, 2, 40, 7]])"
LEAN = f"""
import gc, json, sys, torch
from bundlecache import lean_imports
lean_imports.enable()
from bundlecache.recipes.settings import Base, Lora
from bundlecache.train.model import llm

model = llm.add_lora(llm.load(Base(), torch.device("cpu")).model, Lora())
logits = model(input_ids={IDS}).logits[0, -1, :50]
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
logits.sum().backward()
optimizer.step()
heavy = [name for name in {HEAVY} if name in sys.modules]

deferred = [each for each in gc.get_objects() if type(each) is lean_imports._StandIn]
for each in deferred:
    each._real  # raises where this version of a library has no such name
compiled = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item()
print(json.dumps([heavy, len(deferred), compiled, logits.tolist(), torch._dynamo.__file__]))
"""
PLAIN = f"""
import bundlecache, json, torch
from transformers import LlamaForCausalLM
model = LlamaForCausalLM.from_pretrained("train/embedded", dtype=torch.float32)
print(json.dumps(model(input_ids={IDS}).logits[0, -1, :50].tolist()))
"""


def said(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_language_model_is_trained_without_libraries_that_it_never_runs_and_is_the_same_model():
    heavy, deferred, compiled, logits, compiler = said(LEAN)
    assert heavy == []
    assert deferred > 20
    assert compiled == 2  # with the real compiler, which is loaded when something is compiled
    assert compiler.endswith("_dynamo/__init__.py")
    assert logits == pytest.approx(said(PLAIN), abs=1e-6)


def test_marks_for_the_compiler_reach_it_when_it_is_loaded():
    code = """
import json, sys
import torch
from bundlecache import lean_imports
lean_imports.enable()
def seen(x):
    return x + 1
torch.compiler.allow_in_graph(seen)
quiet = torch.compiler.disable(seen)
before = ["torch._dynamo.eval_frame" in sys.modules, quiet(1), quiet.__name__]
from torch._dynamo import trace_rules
print(json.dumps([before, trace_rules.is_callable_allowed(seen), quiet(1)]))
"""
    assert said(code) == [[False, 2, "seen"], True, 2]


def test_what_is_said_of_plain_sizes_without_sympy_is_what_torch_says():
    from torch.fx.experimental import symbolic_shapes as real

    from bundlecache import lean_imports

    asked = {
        "guarding_hint_or_throw": [(3,), (0,)],
        "has_guarding_hint": [(3,)],
        "is_nested_int": [(3,), (1.5,)],
        "sym_and": [(True, True), (True, False), (False,)],
        "sym_eq": [(3, 3), (3, 4), ((1, 2), (1, 2)), ((1, 2), (1, 3)), ((1,), (1, 1)), ([2], [2])],
        "sym_or": [(True, False), (False, False)],
    }
    for name, answer in lean_imports.OF_PLAIN.items():
        for given in asked.get(name, [(True,), (False,)]):
            said = getattr(real, name)(*given)
            assert (type(answer(*given)), answer(*given)) == (type(said), said), (name, given)


def test_only_libraries_of_models_are_given_stand_ins_only_inside_the_block_and_only_where_a_command_enables_it():
    code = """
import builtins, json, sys
import torch
from bundlecache import lean_imports
python = builtins.__import__
def asks(who):
    space = {"__name__": who, "__package__": who}
    exec("from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss as found", space)
    return isinstance(space["found"], lean_imports._StandIn)
with lean_imports.deferred():
    before = asks("transformers.loss.loss_utils")
sys.modules.pop("transformers.loss.loss_d_fine")
lean_imports.enable()
with lean_imports.deferred():
    with lean_imports.deferred():
        pass
    inside = [asks("transformers.loss.loss_utils"), asks("someone")]
print(json.dumps([before, inside, asks("transformers.loss.loss_utils"), builtins.__import__ is python]))
"""
    assert said(code) == [False, [True, False], False, True]


@pytest.mark.parametrize(
    ("words", "lean"),
    [
        (["complete", "x"], True),
        (["recommend", "u"], True),
        (["search", "u", "mug"], True),
        (["explain", "u", "x"], True),
        (["complete", "--from", "a.jsonl", "--out", "b.jsonl"], False),
        (["train"], False),
        (["evaluate"], False),
    ],
)
def test_only_commands_that_answer_one_question_and_end_enable_it(words, lean, tmp_path):
    code = f"""
import json, sys
from bundlecache import cli, lean_imports
sys.argv = ["bundlecache", *{words!r}, "--data", {str(tmp_path / "none")!r}]
try:
    cli.main()
except SystemExit as ended:
    code = ended.code
print(json.dumps([code, lean_imports._enabled]))
"""
    assert said(code) == [1, lean]
