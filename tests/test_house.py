"""The house keeps its order: floors, light imports, files that the README and the wheel promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
FLOORS = {"bundlecache": 0, "features": 1, "train": 1, "cli": 2}


def modules() -> list[Path]:
    return [
        TOP / "cli.py",
        *(path for room in ("bundlecache", "features", "train") for path in (TOP / room).rglob("*.py")),
    ]


def imported(path: Path) -> set[str]:
    """Top-level names of all absolute imports of a file, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(TOP)))
def test_a_lower_floor_never_imports_an_upper_one_and_neighbours_never_each_other(path: Path):
    room = path.relative_to(TOP).parts[0].removesuffix(".py")
    for other in imported(path) & FLOORS.keys():
        assert other == room or FLOORS[other] < FLOORS[room], f"{path.relative_to(TOP)} imports {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(TOP)))
def test_imports_inside_a_package_are_relative(path: Path):
    room = path.relative_to(TOP).parts[0]
    assert room == "cli.py" or room not in imported(path)


def test_importing_the_ground_floor_imports_no_heavy_library():
    heavy = ["torch", "transformers", "lancedb", "lance", "faiss", "PIL", "implicit", "features", "train"]
    found = (path.relative_to(TOP).with_suffix("").parts for path in (TOP / "bundlecache").rglob("*.py"))
    names = [".".join(parts).removesuffix(".__init__") for parts in found]
    code = "import sys, bundlecache\n"
    code += "".join(f"import {name}\n" for name in names)
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_file_in_the_readme_tree_exists_and_every_module_stands_in_it():
    tree = re.search(r"```text\n(.*?)```", (TOP / "README.md").read_text("utf-8"), re.DOTALL)
    assert tree, "README.md has no file tree"
    named = {line.split()[0] for line in tree.group(1).splitlines() if line.strip()}
    missing = [name for name in named if not (TOP / name).exists()]
    assert missing == []
    rooms = {name for name in named if name.endswith("/")} - {"bundlecache/", "features/", "train/"}
    modules_told = [p.relative_to(TOP).as_posix() for p in modules() if p.stem != "__init__"]
    assert [name for name in modules_told if name not in named and not name.startswith(tuple(rooms))] == []


def test_every_package_on_disk_is_packaged():
    listed = set(
        re.findall(
            r'"([\w.]+)"',
            re.search(r"^packages = \[(.*?)\]", (TOP / "pyproject.toml").read_text("utf-8"), re.M | re.S).group(1),
        )
    )
    on_disk = {
        ".".join(path.parent.relative_to(TOP).parts)
        for room in ("bundlecache", "features", "train")
        for path in (TOP / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert listed == on_disk


def test_only_the_command_line_prints():
    for path in modules():
        if path.name != "cli.py" and path.name != "pretrain.py":
            calls = [
                n
                for n in ast.walk(ast.parse(path.read_text("utf-8")))
                if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
            ]
            assert not calls, path
