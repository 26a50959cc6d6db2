"""What is prepared before heavy imports: torchvision beside a CPU-only torch, and threads that sleep while they wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers.paths import TOP

from bundlecache import torchvision_compat

LOAD = "import torchvision.transforms\n"
MODEL = "from transformers import LlamaModel\n"  # which imports torchvision; six seconds, so in one order only
ORDERS = {
    "torch and transformers first": "import torch, transformers\nimport bundlecache\n" + MODEL + LOAD,
    "a submodule alone": "from bundlecache.catalogue import catalogue\n" + LOAD,
    "after a failure": "try:\n    import torchvision\nexcept RuntimeError:\n    pass\nimport bundlecache\n" + LOAD,
}


def process(code, **variables):
    free = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, env=free | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("order", ORDERS)
def test_torchvision_imports_whatever_was_imported_first(order):
    process(ORDERS[order])


def test_in_the_environment_that_make_builds_torchvision_works_without_bundlecache(tmp_path):
    file = torchvision_compat.install_in(tmp_path)
    assert file.parent == tmp_path
    code = f"import site, sys; site.addsitedir({str(tmp_path)!r})\n{LOAD}print('bundlecache' in sys.modules)"
    assert process(code) == "False\n"
    assert "torchvision_compat.install_in()" in (TOP / "Makefile").read_text("utf-8")


def test_the_hook_leaves_a_working_torchvision_alone():
    code = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from bundlecache import torchvision_compat
torchvision_compat.install()
torchvision_compat.install()
import sys, torchvision
print(torchvision_compat._kept, sum(type(f).__name__ == "_DeclareOperators" for f in sys.meta_path))
"""
    assert process(code).strip() == "[] 1"


@pytest.mark.parametrize(
    ("before", "set_by_user", "expected"),
    [
        ("", {}, ["PASSIVE", "0"]),
        ("", {"OMP_NUM_THREADS": "3"}, ["PASSIVE", "0"]),
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", None]),
        ("", {"KMP_BLOCKTIME": "200"}, [None, "200"]),
        ("", {"GOMP_SPINCOUNT": "9"}, [None, None]),
        ("import torch", {}, [None, None]),  # too late: OpenMP has read its variables
    ],
)
def test_threads_sleep_unless_the_user_says_otherwise(before, set_by_user, expected):
    code = f"{before}\nimport os, json\nfrom bundlecache import threads\nthreads.prepare()\n"
    code += "print(json.dumps([os.environ.get('OMP_WAIT_POLICY'), os.environ.get('KMP_BLOCKTIME')]))"
    assert json.loads(process(code, **set_by_user)) == expected
