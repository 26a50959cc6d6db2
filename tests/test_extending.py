"""docs/extending.md: each example works as a package that is installed beside bundlecache."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers.installed_package import install
from helpers.paths import TOP
from helpers.runner import printed_json, succeed

from bundlecache.baselines import registry as baselines
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import registry as readers
from bundlecache.features import registry as encoders
from bundlecache.train.shipped_recipes import read_grid
from bundlecache.workspace import WorkspaceFolder

PAGE = (TOP / "docs" / "extending.md").read_text("utf-8")


@pytest.fixture
def forget_plugins():
    """Entry points are looked up once per process; a test that adds one asks for a new look before and after."""
    caches = [
        found
        for module in (baselines, readers, encoders)
        for found in vars(module).values()
        if hasattr(found, "cache_clear") and getattr(found, "__module__", "") == module.__name__
    ]
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def install_example(monkeypatch: pytest.MonkeyPatch, folder: Path, group: str) -> None:
    """The example of the page that is registered under this group."""
    name, module, attribute = re.search(rf'entry-points."{group}"\]\n(\S+) = "(\w+):(\w+)"', PAGE).groups()
    code = re.search(rf"```python\n# {module}.py\n(.*?)```", PAGE, re.DOTALL)[1]
    install(monkeypatch, folder, module, code, group, name, f"{module}:{attribute}")


def test_the_encoder_of_the_page_encodes(forget_plugins, monkeypatch, workspace: WorkspaceFolder, tmp_path: Path):
    install_example(monkeypatch, tmp_path / "site", "bundlecache.encoders")
    encode = ["encode", "--modality", "image", "--encoder", "mean-colour:rgb", "--data", workspace.root]
    [receipt] = printed_json(*encode)
    assert (receipt["encoded"], receipt["failed"], receipt["absent"]) == (22, 0, 2)
    [again] = printed_json(*encode)
    assert again["cached"] == 22


def test_the_baseline_of_the_page_is_ranked(forget_plugins, monkeypatch, workspace: WorkspaceFolder, tmp_path: Path):
    install_example(monkeypatch, tmp_path / "site", "bundlecache.baselines")
    names = [ranker.name for ranker in baselines.all_baselines(Catalogue.read(workspace), {})]
    assert "shortest title" in names


def test_the_reader_of_the_page_imports(forget_plugins, monkeypatch, tmp_path: Path):
    install_example(monkeypatch, tmp_path / "site", "bundlecache.readers")
    products = [{"sku": f"s{i}", "name": f"mug {i}"} for i in range(6)]
    orders = [{"no": f"o{i}", "skus": [f"s{i}", f"s{i + 1}"], "customer": f"c{i}"} for i in range(5)]
    (tmp_path / "export.json").write_text(json.dumps({"products": products, "orders": orders}))
    succeed("import", "shop-export", tmp_path / "export.json", "--data", tmp_path / "shop")
    catalogue = Catalogue.read(WorkspaceFolder(tmp_path / "shop"))
    assert (len(catalogue.item_ids), len(catalogue.bundles.ids)) == (6, 5)


def test_the_grid_of_the_page_sets_what_it_says(tmp_path: Path):
    text = re.search(r"```toml\n# mine.toml\n(.*?)```", PAGE, re.DOTALL)[1]
    (tmp_path / "mine.toml").write_text(text)
    points = read_grid(tmp_path / "mine.toml").points
    assert [point.words for point in points] == ["", "prompt.separator=none", "lora.rank=2"]
    assert {point.recipe.text_stage.steps for point in points} == {400}
