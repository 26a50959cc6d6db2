"""One import name: in the wheel, beside foreign modules of the same names, and in a checkout without symbolic links."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers.paths import TOP

LINKS = ("features", "train", "cli.py")
CODE_FOLDERS = ("bundlecache", "features", "train")
IMPORTS = "import bundlecache.features.registry, bundlecache.train.shipped_recipes, bundlecache.cli"


def copy_checkout(folder: Path, *, links: bool = True) -> Path:
    """The code without data and tests; ``links=False`` writes links as git does on Windows: text files."""
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", *(() if links else LINKS))
    for name in CODE_FOLDERS:
        ignored = skip if name == "bundlecache" else shutil.ignore_patterns("__pycache__")
        shutil.copytree(TOP / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, folder / name)
    if not links:
        for name in LINKS:
            (folder / "bundlecache" / name).write_text(f"../{name}", "utf-8")
    return folder


def python(code: str, cwd: Path, *path: Path) -> str:
    """What a program prints that is typed in this folder, with these folders on the path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, path))} if path else {}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once; without setuptools it is skipped here, and .ci/run builds it."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed; .ci/run builds the wheel")
    source, out = copy_checkout(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", out, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_one_top_level_module(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"bundlecache"}
    for needed in (
        "cli.py",
        "features/registry.py",
        "train/embedded/model.safetensors",
        "train/recipes/demo.toml",
        "serve/page/index.html",
    ):
        assert f"bundlecache/{needed}" in names


def test_foreign_modules_of_the_same_names_do_not_disturb(wheel: Path, tmp_path: Path):
    """In a script's folder and in a notebook's: both come first on the path."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("train", "cli", "project"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a module of somebody else')\n", "utf-8")
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").write_text("raise RuntimeError('a package of somebody else')\n", "utf-8")
    assert python(f"{IMPORTS}; print(bundlecache.cli.__file__)", tmp_path, site).startswith(str(site))
    script = tmp_path / "script.py"
    script.write_text(f"{IMPORTS}, bundlecache.train.training.loop\nprint('fine')\n", "utf-8")
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, script], env=env, cwd=TOP.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fine"


def test_the_source_archive_holds_what_the_wheel_is_built_from(wheel: Path, tmp_path: Path):
    """By setuptools' own hook, as pip calls it; the wheel that is built from it has the same files."""
    source = copy_checkout(tmp_path / "source")
    hook = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    archive = tmp_path / python(hook, source).splitlines()[-1]
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (top,) = (tmp_path / "unpacked").iterdir()
    held = {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()}
    needed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert needed <= held
    assert {"pyproject.toml", "README.md", "LICENSE"} <= held


def test_a_checkout_works_without_installation(tmp_path: Path):
    top = copy_checkout(tmp_path / "checkout")
    shown = f"{IMPORTS}; print(bundlecache.features.registry.__file__)"
    assert python(shown, top).startswith(str(top))
    assert python(shown, tmp_path, top).startswith(str(top))


def test_a_checkout_without_links_works(tmp_path: Path):
    top = copy_checkout(tmp_path / "checkout", links=False)
    assert not (top / "bundlecache" / "features").is_dir()
    assert python(f"{IMPORTS}; print('fine')", top) == "fine"
