"""The layout of the code: floors, no import circles, light imports, one import name, files that the README names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.paths import TOP

if TYPE_CHECKING:
    from bundlecache.workspace import WorkspaceFolder

PACKAGE = TOP / "bundlecache"
STAGES = ("features", "train")  # floor 1; everything else of the package is floor 0
FACES = ("project", "serve")  # floor 2: the library and the server; cli is floor 3
ORDER = (
    "catalogue",
    "store",
    "encode",
    "candidates",
    "questions",
    "recipes",
    "baselines",
    "bench",
    "report",
    "console",
)


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name, as it is imported: bundlecache.train.model.fusion."""
    found = {}
    for path in sorted([*PACKAGE.rglob("*.py"), *(p for stage in STAGES for p in (PACKAGE / stage).rglob("*.py"))]):
        parts = path.relative_to(TOP).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text("utf-8"))


@cache
def imported(name: str) -> frozenset[str]:
    """The modules of this project that a module imports, also inside functions and for types alone."""
    package = name if modules()[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                found.add(whole if whole in modules() else source)
    return frozenset(found & modules().keys() - {name})


def floor(name: str) -> int:
    parts = name.split(".")
    room = parts[1] if len(parts) > 1 else ""
    if name in ("bundlecache", "bundlecache.cli", "bundlecache.__main__"):
        return 3  # the package itself exports from every floor
    return 2 if room in FACES else 1 if room in STAGES else 0


@pytest.mark.parametrize("name", modules())
def test_a_lower_floor_never_imports_an_upper_one(name: str):
    for other in imported(name):
        assert floor(other) <= floor(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in modules() if floor(name) == 1])
def test_the_two_stages_meet_only_in_the_store(name: str):
    mine = name.split(".")[1]
    assert not [other for other in imported(name) if floor(other) == 1 and other.split(".")[1] != mine]


def test_no_module_imports_in_a_circle():
    """Not for types either: what both sides need stands in a module of its own."""
    done: dict[str, int] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = [*above[above.index(name) :], name]
            raise AssertionError("circle: " + " -> ".join(circle))
        if name in done:
            return
        for other in sorted(imported(name)):
            visit(other, (*above, name))
        done[name] = 1

    for name in modules():
        if name != "bundlecache":
            visit(name, ())


def test_packages_import_in_the_order_of_the_data_only():
    rank = {room: k for k, room in enumerate(ORDER)}
    against = [
        f"{name} imports {other}"
        for name in modules()
        for other in imported(name)
        if floor(name) == 0
        and (a := rank.get(name.split(".")[1])) is not None
        and (b := rank.get(other.split(".")[1] if "." in other else "")) is not None
        and b > a
    ]
    assert not against


@pytest.mark.parametrize("name", [name for name in modules() if floor(name) == 0])
def test_the_ground_floor_trains_nothing_with_torch_and_reaches_no_upper_folder(name: str):
    text = modules()[name].read_text("utf-8")
    assert ".backward()" not in text
    assert not re.search(r"parents\[\d\].*\"(features|train)\"", text), "a path to an upper floor"


@pytest.mark.parametrize("name", modules())
def test_imports_inside_a_stage_or_the_ground_floor_are_relative(name: str):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            assert node.module.split(".")[0] not in (*STAGES, "cli", "tests"), f"{name}: a second copy of the module"
            if floor(name) == 0:
                assert node.module.split(".")[0] != "bundlecache"


def test_packages_export_and_hold_no_logic():
    for name, path in modules().items():
        if path.name == "__init__.py":
            held = [n for n in tree(name).body if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.For | ast.While)]
            if name == "bundlecache":  # its public names are imported when they are first used
                held = [n for n in held if getattr(n, "name", "") not in ("__getattr__", "__dir__")]
            assert not held, f"{name} defines {held[0]}"


def test_importing_the_package_imports_no_heavy_library():
    heavy = ["torch", "transformers", "lancedb", "lance", "faiss", "PIL", "implicit", "ray", "pandas"]
    names = [name for name in modules() if floor(name) in (0, 2) and "__main__" not in name]
    code = "import sys, bundlecache\n" + "".join(f"import {name}\n" for name in names)
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_status_imports_no_pandas_and_none_of_the_large_libraries(workspace: WorkspaceFolder):
    code = """
import sys
from bundlecache import cli
sys.argv[1:] = ["status", "--json", "--data", sys.argv[1]]
try:
    cli.main()
finally:
    print([name for name in ("pandas", "torch", "transformers", "faiss", "ray") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(workspace.root)]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_every_package_stands_in_the_readme_and_every_module_in_the_docs():
    readme = (TOP / "README.md").read_text("utf-8")
    house = re.search(r"```text\n(.*?)```", readme, re.DOTALL)
    assert house, "README.md has no file tree"
    named = {line.split()[0] for line in house.group(1).splitlines() if line.strip()}
    assert [name for name in named if not (TOP / name).exists()] == []
    packages = {
        p.parent.relative_to(TOP).as_posix() + "/" for p in PACKAGE.glob("*/__init__.py") if not p.parent.is_symlink()
    }
    assert packages - named == set()
    layout = (TOP / "docs" / "layout.md").read_text("utf-8")
    told = [
        p.relative_to(TOP).as_posix().removeprefix("bundlecache/") for p in modules().values() if p.stem != "__init__"
    ]
    assert [name for name in told if f"`{name}`" not in layout] == []


def test_only_the_console_prints():
    for name in modules():
        if name.endswith("__main__"):
            continue
        calls = [n for n in ast.walk(tree(name)) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not calls, name


def test_no_test_file_imports_another():
    """What several test files share stands in tests/helpers."""
    for path in (TOP / "tests").rglob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (test_\w+|tests)\b", path.read_text("utf-8"), re.MULTILINE)
        assert not imported, f"{path.relative_to(TOP)} imports {imported[0]}"


def test_a_hint_carries_commands_as_data():
    """So that a face can add the workspace; a command inside a sentence could not be copied."""
    for name in modules():
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                texts = [
                    n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                ]
                assert not [text for text in texts if re.match(r"bundlecache [a-z]", text)], (name, texts)


def test_test_files_have_names_of_their_own():
    """Folders of tests are no packages, so of two files of one name pytest collects one."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))
