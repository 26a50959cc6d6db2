"""Every script of benchmarks/ imports with today's names and prints its help."""

from __future__ import annotations

import ast
import importlib

import pytest
from helpers.forked import start
from helpers.paths import TOP

SCRIPTS = sorted((TOP / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_prints_its_help(script):
    child = start(script, "--help")
    printed, said = child.communicate()
    assert child.wait() == 0, said
    if "argparse" in script.read_text("utf-8"):
        assert "--help" in printed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_names_imported_inside_functions_exist(script):
    missing = []
    tree = ast.parse(script.read_text("utf-8"))
    modules = {}  # local name -> module, for `from bundlecache.x import module`
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("bundlecache"):
            continue
        module = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name):
                try:
                    importlib.import_module(f"{node.module}.{alias.name}")
                except ImportError:
                    missing.append(f"{node.module}.{alias.name}")
                    continue
            found = getattr(module, alias.name)
            if hasattr(found, "__file__"):
                modules[alias.asname or alias.name] = found
    missing += [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and not hasattr(modules[node.value.id], node.attr)
    ]
    assert not missing
