"""Dataset readers: five-row samples of every layout, imported, read back as a catalogue, and broken on purpose."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.reader_samples import SAMPLES, bundlerec_sample, clhe_sample, folder_sample, tables_sample

from bundlecache.catalogue import split_leaks, splits
from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import bundlerec
from bundlecache.catalogue.readers import registry as readers
from bundlecache.catalogue.readers.dataset import Dataset
from bundlecache.errors import BundlecacheError, CatalogueError
from bundlecache.questions import importing as question_import
from bundlecache.workspace import WorkspaceFolder


@pytest.fixture
def shop(tmp_path):
    return WorkspaceFolder(tmp_path / "workspace")


# ---- what every reader keeps


def test_every_format_has_a_sample_here():
    assert list(SAMPLES) == readers.names()


@pytest.mark.parametrize("name", SAMPLES)
def test_an_import_reads_back_as_the_catalogue_that_the_summary_counts(name, tmp_path, shop):
    summary = readers.read(name, SAMPLES[name](tmp_path / "src"), shop)
    catalogue = Catalogue.read(shop)
    assert summary.items == len(catalogue) >= 5
    assert summary.bundles == len(catalogue.bundles)
    assert summary.interactions == len(catalogue.interactions)
    assert summary.to_dict()["items"] == summary.items
    json.dumps(summary.to_dict())
    for column in ("image", "audio"):
        for uri in catalogue.column(column):
            assert uri is None or "://" in uri or ".." in uri or "none" in uri or (shop.root / uri).is_file()
    assert not list(shop.root.rglob(".*.tmp"))
    assert not any(path.is_symlink() for path in shop.root.rglob("*"))


@pytest.mark.parametrize("name", SAMPLES)
def test_importing_again_gives_the_same_bytes(name, tmp_path, shop):
    src = SAMPLES[name](tmp_path / "src")
    readers.read(name, src, shop)
    before = {path: path.read_bytes() for path in shop.root.glob("*.parquet")}
    assert readers.read(name, src, shop).media == 0, "files that are there are not copied again"
    assert {path: path.read_bytes() for path in shop.root.glob("*.parquet")} == before
    orders = set()
    for seed in range(6):
        readers.read(name, src, shop, seed=seed)
        orders.add(tuple(pq.read_table(shop.root / "items.parquet").column("item_id").to_pylist()))
    assert len(orders) > 2


@pytest.mark.parametrize("name", SAMPLES)
def test_another_catalogue_is_left_alone_without_overwrite(name, tmp_path, workspace):
    src = SAMPLES[name](tmp_path / "src")
    before = (workspace.root / "items.parquet").read_bytes()
    with pytest.raises(CatalogueError, match="holds another catalogue"):
        readers.read(name, src, workspace)
    assert (workspace.root / "items.parquet").read_bytes() == before
    readers.read(name, src, workspace, overwrite=True)
    catalogue = Catalogue.read(workspace)
    assert "item-00" not in catalogue.index, "nothing of the old tables is left"
    assert not any(note for note in catalogue.notes if "unknown" in note)


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_or_garbled_files_give_one_sentence(name, tmp_path):
    src = SAMPLES[name](tmp_path / "src")
    rng = random.Random(0)
    files = (p for p in sorted(src.rglob("*")) if p.is_file() and p.suffix.lower() not in (".jpg", ".png", ".wav"))
    for number, path in enumerate(files):  # pictures and sounds are copied unread
        whole = path.read_bytes()
        for trial, broken in enumerate((b"", whole[: len(whole) // 2], rng.randbytes(60), b"\xff\xfe" + whole, None)):
            if broken is None:
                path.unlink()
            else:
                path.write_bytes(broken)
            ws = WorkspaceFolder(tmp_path / f"ws{number}-{trial}")
            said = _refusal(name, src, ws)
            assert said is None or "\n" not in str(said), said
            assert said is None or said.hint, f"{said} does not say what to type next"
        path.write_bytes(whole)


def _refusal(name, src, ws) -> BundlecacheError | None:
    try:
        readers.read(name, src, ws)
        Catalogue.read(ws)
    except BundlecacheError as error:
        return error
    return None


def test_unknown_formats_and_sources_are_one_sentence(tmp_path, shop):
    with pytest.raises(CatalogueError, match="no format 'csv'; there are amazon, bundlerec, clhe, folder, tables"):
        readers.read("csv", tmp_path, shop)
    with pytest.raises(CatalogueError, match="There is no"):
        readers.read("folder", tmp_path / "nowhere", shop)
    src = folder_sample(tmp_path / "src")
    with pytest.raises(CatalogueError, match="lies inside the source"):
        readers.read("folder", src, WorkspaceFolder(src / "out"))


def test_ids_that_stand_twice_are_refused(tmp_path, shop):
    src = tables_sample(tmp_path / "src")
    (src / "items.csv").write_text("item_id,title\na,x\na,y\n")
    with pytest.raises(CatalogueError, match="item_id twice, for instance 'a' in the rows 1 and 2"):
        readers.read("tables", src, shop)


def test_a_space_behind_an_id_is_found_in_the_source(tmp_path, shop):
    src = tables_sample(tmp_path / "src")
    (src / "items.csv").write_text("item_id,title\na,x\nb,y\n a ,z\n")
    with pytest.raises(CatalogueError, match=r"mine/items.csv names 1 item_id twice, .* rows 1 and 3"):
        readers.read("tables", src, shop)
    assert not shop.root.exists(), "nothing is written before all is checked"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("items.csv", "item_id,title\na,x\n ,y\n", r"items.csv has an empty item_id in row 2"),
        ("bundles.csv", "bundle_id,item_ids\n,a b\n", r"bundles.csv has an empty bundle_id in row 1"),
        ("bundles.csv", "bundle_id,item_ids,split\nq,a b,dev\n", r"bundle 'q' \(row 1\) in the split 'dev'; allowed"),
        ("bundles.csv", "bundle_id,item_ids\nq,a b\nq,a c\n", r"bundle_id twice, for instance 'q' in the rows 1 and 2"),
    ],
)
def test_refusals_name_file_and_row_and_write_nothing(name, text, message, tmp_path, shop):
    src = tmp_path / "src"
    src.mkdir()
    (src / "items.csv").write_text("item_id,title\na,x\nb,y\nc,z\n")
    (src / name).write_text(text)
    with pytest.raises(CatalogueError, match=message) as refused:
        readers.read("tables", src, shop)
    assert refused.value.hint
    assert not shop.root.exists()


def test_a_source_path_that_is_too_long_is_one_sentence(shop):
    with pytest.raises(BundlecacheError, match="too long"):
        readers.read("folder", Path("x" * 5000), shop)


def test_a_reader_of_another_package_needs_no_fork(tmp_path, shop, monkeypatch):
    """As an installed package would: a distribution with an entry point, found on the path."""
    (tmp_path / "kits.py").write_text(
        "from bundlecache.catalogue.readers.dataset import Dataset\n"
        "def read(src):\n"
        '    """One kit a line: name, then items."""\n'
        "    rows = [line.split() for line in src.read_text().splitlines()]\n"
        "    items = sorted({item for _, *items in rows for item in items})\n"
        "    return Dataset(items=[{'item_id': i, 'title': i} for i in items],\n"
        "                   bundles=[{'bundle_id': name, 'item_ids': items} for name, *items in rows])\n"
    )
    info = tmp_path / "kits-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kits\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[bundlecache.readers]\nkits = kits:read\nbroken = nowhere:read\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    readers.forget_plugins()
    try:
        assert readers.names()[-2:] == ["broken", "kits"]
        described = readers.describe()
        assert described["kits"] == "One kit a line: name, then items"
        assert "cannot be loaded" in described["broken"]
        assert set(described) == set(readers.names())
        (tmp_path / "kits.txt").write_text("a x y\nb y z\n")
        made = readers.read("kits", tmp_path / "kits.txt", shop)
        assert (made.items, made.bundles) == (3, 2)
        with pytest.raises(CatalogueError, match="'broken' of nowhere:read cannot be loaded"):
            readers.read("broken", tmp_path / "kits.txt", shop, overwrite=True)
    finally:
        monkeypatch.undo()
        readers.forget_plugins()


# ---- bundlerec


def test_bundlerec_titles_categories_and_intents(tmp_path, shop):
    readers.read("bundlerec", bundlerec_sample(tmp_path), shop)
    catalogue = Catalogue.read(shop)
    at = catalogue.index
    assert catalogue.titles[at["10"]] == "AT&T Headset"
    assert catalogue.titles[at["41"]] == "Cable 2m"
    category = catalogue.column("category")
    assert category[at["10"]] == "Electronics > Batteries, Chargers & Accessories > Headsets"
    assert category[at["300"]] is None
    assert category[at["5"]] is None
    bundles = catalogue.bundles
    assert dict(zip(bundles.ids, bundles.name, strict=True)) == {
        "0": "phone calls",
        "1": None,
        "2": None,
        "3": "travel",
    }
    first = bundles.items[bundles.ids.index("0")]
    assert [catalogue.item_ids[i] for i in first] == ["10", "7"], "the order of the bundle is kept"
    text = " ".join(catalogue.titles) + " ".join(str(v) for column in catalogue.columns.values() for v in column)
    assert "travel" not in text, "no column of the items tells the intent"


def test_bundlerec_groups_connect_users_sessions_and_bundles(tmp_path, shop):
    readers.read("bundlerec", bundlerec_sample(tmp_path), shop)
    catalogue = Catalogue.read(shop)
    group = dict(zip(catalogue.bundles.ids, catalogue.bundles.group, strict=True))
    of_user = dict(zip(catalogue.interactions.users, catalogue.interactions.group, strict=True))
    assert group["0"] == group["1"] == group["2"] == of_user["7"]
    assert group["3"] == of_user["8"] != group["0"]
    assert of_user["6"] not in group.values()
    split = splits.assign(catalogue)
    held = {catalogue.bundles.group[b] for b in np.flatnonzero(split != "train")}
    edges = splits.training_graph(catalogue, "user-item")
    assert not {catalogue.interactions.group[u] for u in edges[:, 0]} & held


def test_bundlerec_takes_the_split_of_frozen_questions(tmp_path, shop):
    src = bundlerec_sample(tmp_path)
    (tmp_path / "questions").mkdir()
    line = {"bundle": 0, "query": [10], "gt": 7, "cand": {"random2": [5, 7]}}
    file = tmp_path / "questions" / "electronic_test_seed0.jsonl"
    file.write_text(json.dumps(line) + "\n")
    summary = readers.read("bundlerec", src, shop)
    catalogue = Catalogue.read(shop)
    split = dict(zip(catalogue.bundles.ids, splits.assign(catalogue).tolist(), strict=True))
    assert split == {"0": "test", "1": "test", "2": "test", "3": "train"}
    assert any("frozen questions" in note for note in summary.notes)
    assert question_import.read(file, catalogue)[0].truth.tolist() == [1]
    (tmp_path / "questions" / "electronic_valid_seed0.jsonl").write_text(json.dumps({**line, "bundle": 2}))
    with pytest.raises(CatalogueError, match="of a group whose other bundles are valid"):
        readers.read("bundlerec", src, shop)


def test_bundlerec_reads_latin_1_and_names_the_domains_above(tmp_path, shop):
    src = bundlerec_sample(tmp_path)
    (src / "item_titles.csv").write_bytes(
        "item ID,titles\n10,Café\n7,Lens\n300,Bag\n41,Cable\n5,Case\n".encode("latin-1")
    )
    summary = readers.read("bundlerec", src, shop)
    catalogue = Catalogue.read(shop)
    assert catalogue.titles[catalogue.index["10"]] == "Café"
    assert any("Latin-1" in note for note in summary.notes)
    with pytest.raises(CatalogueError, match=r"its folders electronic do"):
        bundlerec.read(tmp_path)


def test_category_cells_of_every_kind():
    assert bundlerec.categories("[[A,B],[C]]") == [["A", "B"], ["C"]]
    assert bundlerec.categories("[[A, b & c,D]]") == [["A, b & c", "D"]]
    assert bundlerec.categories("") == bundlerec.categories("[[]]") == bundlerec.categories("[[,]]") == []


# ---- clhe


def test_clhe_splits_graph_titles_and_features(tmp_path, shop):
    summary = readers.read("clhe", clhe_sample(tmp_path), shop)
    catalogue = Catalogue.read(shop)
    split = dict(zip(catalogue.bundles.ids, splits.assign(catalogue).tolist(), strict=True))
    assert split == {"0": "train", "1": "train", "2": "valid", "3": "test"}
    assert split_leaks.crossing_groups(catalogue, splits.assign(catalogue)) == []
    last = catalogue.bundles.items[catalogue.bundles.ids.index("3")]
    assert [catalogue.item_ids[i] for i in last] == ["4", "0", "2"]
    assert catalogue.titles[catalogue.index["4"]] == "Song - Band"
    assert catalogue.column("category")[catalogue.index["3"]] == "1"
    assert catalogue.column("image")[catalogue.index["2"]] == "images/2.PNG"
    assert len(catalogue.interactions) == 4
    assert len(splits.training_graph(catalogue, "user-item")) == 4, "user 3 is not bundle 3"
    notes = " ".join(summary.notes)
    assert "repeats 2 of its 6 pairs" in notes
    assert "item_cf_feature.pt has the shape [4, 4]" in notes
    assert "1 bundles stand in more than one split" in notes
    shapes = {(v.modality, v.spec): v.vectors.shape for v in summary.vectors}
    assert shapes == {
        ("image", "clhe:content_feature.pt"): (5, 8),
        ("text", "clhe:description_feature.pt"): (5, 6),
        ("graph", "clhe:pog_LightGCN_bi_feature.pt"): (5, 4),
    }
    for v in summary.vectors:
        assert v.vectors.dtype == np.float32
        assert v.item_ids == ["0", "1", "2", "3", "4"]
        assert len(v.fingerprint) == 64


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_clhe_runs_nothing_that_a_feature_file_holds(tmp_path, shop):
    import pickle

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    src = clhe_sample(tmp_path)
    (src / "content_feature.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CatalogueError, match="cannot be loaded as plain tensors"):
        readers.read("clhe", src, shop)
    assert not (tmp_path / "sprung").exists()


def test_clhe_names_the_line_that_is_no_list_of_numbers(tmp_path, shop):
    src = clhe_sample(tmp_path)
    (src / "bi_train.txt").write_text("0, 1\n1, x\n")
    with pytest.raises(CatalogueError, match=r"bi_train.txt, line 2, is no list of numbers: '1, x'"):
        readers.read("clhe", src, shop)


@pytest.mark.parametrize(
    ("entry", "title", "note"),
    [
        ({"title_en": "red dress"}, "red dress", r"'title_en' \(5 items\)"),
        ({"title_en": "red dress", "title": "红色连衣裙"}, "red dress", "kept as the column title_original"),
        ({"title": "红色连衣裙"}, "红色连衣裙", r"'title' \(5 items\)"),
    ],
)
def test_clhe_takes_the_titles_that_the_public_code_takes(entry, title, note, tmp_path, shop):
    src = clhe_sample(tmp_path)
    (src / "item_info.json").write_text(json.dumps({str(i): entry for i in range(5)}))
    summary = readers.read("clhe", src, shop)
    assert set(Catalogue.read(shop).titles) == {title}
    assert re.search(note, " ".join(summary.notes))
    assert summary.untitled == 0


def test_clhe_says_loudly_that_no_item_has_a_title(tmp_path, shop):
    src = clhe_sample(tmp_path)
    (src / "item_info.json").write_text(json.dumps({str(i): {"cate": "x"} for i in range(5)}))
    summary = readers.read("clhe", src, shop)
    assert summary.untitled == summary.items == 5
    assert summary.notes[0].startswith("WARNING: no item has a title")
    assert "item_info.json one of the fields title_en, title, name, track_name" in summary.notes[0]
    assert "--set prompt.without_titles=true" in summary.notes[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_what_gives_titles_is_said_for_every_format_and_map_only_where_it_works(name, tmp_path, shop, monkeypatch):
    dataset = Dataset(items=[{"item_id": str(i), "title": ""} for i in range(5)])
    monkeypatch.setattr(readers, "_read", lambda *_: dataset)
    (tmp_path / "src").mkdir()
    said = readers.read(name, tmp_path / "src", shop).notes[0]
    assert readers.TITLED_BY[name] in said
    assert ("--map" in said) == (name == "tables")


def test_clhe_believes_no_absurd_count_and_no_deep_json(tmp_path, shop):
    src = clhe_sample(tmp_path)
    for text, message in (
        ('{"#I": 2000000000}', "gives 2000000000 items, .* has 5"),
        ("[" * 10_000, "nested too deeply"),
        ('{"#I": ' + "9" * 6000 + "}", "no JSON"),
    ):
        (src / "count.json").write_text(text)
        with pytest.raises(CatalogueError, match=message):
            readers.read("clhe", src, shop)


@pytest.mark.parametrize("kind", ["sparse", "meta", "nested"])
def test_clhe_refuses_tensors_without_plain_numbers(kind, tmp_path, shop):
    import torch

    made = {
        "sparse": lambda: torch.eye(5).to_sparse(),
        "meta": lambda: torch.empty(5, 4, device="meta"),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
    }[kind]()
    src = clhe_sample(tmp_path)
    torch.save(made, src / "content_feature.pt")
    with pytest.raises(CatalogueError, match=r"content_feature\.pt") as refused:
        readers.read("clhe", src, shop)
    assert "move it away" in refused.value.hint
    assert not shop.root.exists()


# ---- folder


def test_folder_ids_titles_categories_and_media(tmp_path, shop):
    summary = readers.read("folder", folder_sample(tmp_path), shop)
    catalogue = Catalogue.read(shop)
    rows = {
        item_id: (
            catalogue.titles[i],
            catalogue.column("category")[i],
            catalogue.column("image")[i],
            catalogue.column("audio")[i],
        )
        for item_id, i in catalogue.index.items()
    }
    assert rows == {
        "shoes/red_running-shoe": ("red running shoe", "shoes", "images/shoes/red_running-shoe.jpg", None),
        "shoes/153a69c6-4c18-49c0-a3d5-8af2ce547fa7": (
            "shoes", "shoes", "images/shoes/153a69c6-4c18-49c0-a3d5-8af2ce547fa7.jpg", None,
        ),
        "001 - bells/big bell": ("big bell", "bells", "images/001 - bells/big bell.PNG", "audio/001 - bells/big bell.wav"),
        "twice.jpg": ("twice", None, "images/twice.jpg", None),
        "twice.png": ("twice", None, "images/twice.png", None),
    }  # fmt: skip
    assert summary.media == 6
    assert (shop.root / "images/twice.png").read_bytes() == b"twice.png"
    assert any("1 files" in note for note in summary.notes)


def test_folder_copies_a_changed_picture_again(tmp_path, shop):
    src = folder_sample(tmp_path)
    readers.read("folder", src, shop)
    (src / "twice.png").write_bytes(b"another one")
    assert readers.read("folder", src, shop).media == 1
    assert (shop.root / "images/twice.png").read_bytes() == b"another one"


def test_a_folder_without_media_says_what_is_allowed(tmp_path, shop):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogueError, match=r"no picture and no sound.*\.jpg"):
        readers.read("folder", tmp_path / "empty", shop)


# ---- tables


def test_tables_keep_values_and_copy_only_media_from_inside(tmp_path, shop):
    summary = readers.read("tables", tables_sample(tmp_path), shop)
    catalogue = Catalogue.read(shop)
    image = {item_id: catalogue.column("image")[i] for item_id, i in catalogue.index.items()}
    assert image == {
        "a": "images/pics/a.jpg",
        "b": "pics/none.jpg",
        "c": "../secret.jpg",
        "d": None,
        "e": "https://x/y.jpg",
    }
    assert not list(shop.root.rglob("secret.jpg"))
    assert summary.media == 1
    assert catalogue.titles[catalogue.index["a"]] == "Ä cup"
    assert any("2 pictures or sounds" in note for note in summary.notes)
    assert catalogue.interactions.users == sorted(catalogue.interactions.users, key=catalogue.interactions.users.index)
    assert {len(items) for items in catalogue.bundles.items} == {2, 3}


def test_an_items_table_alone_is_a_catalogue(tmp_path, shop):
    src = tables_sample(tmp_path)
    summary = readers.read("tables", src / "items.csv", shop)
    assert (summary.items, summary.bundles, summary.interactions) == (5, 0, 0)
    assert len(Catalogue.read(shop).bundles) == 0


def test_tables_read_latin_1_and_name_missing_columns(tmp_path, shop):
    src = tables_sample(tmp_path)
    (src / "items.csv").write_bytes(b"item_id,title\na,caf\xe9\n")
    for name in ("bundles.jsonl", "interactions.parquet"):
        (src / name).unlink()
    assert any("Latin-1" in note for note in readers.read("tables", src, shop).notes)
    assert Catalogue.read(shop).titles == ["café"]
    (src / "items.csv").write_text("nr,title\na,x\n")
    with pytest.raises(CatalogueError, match="no column 'item_id'; its columns are: nr, title"):
        readers.read("tables", src, shop)


def test_a_folder_gives_no_pipe_and_no_file_from_elsewhere(tmp_path, shop):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "own.png").write_bytes(b"own")
    (tmp_path / "private.png").write_bytes(b"private")
    (photos / "inside.png").symlink_to(photos / "own.png")
    (photos / "outside.png").symlink_to(tmp_path / "private.png")
    (photos / "dangling.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(photos / "pipe.png")
    made = readers.read("folder", photos, shop)
    assert (made.items, made.media) == (2, 2)
    assert "3 links and pipes" in made.notes[0]
    assert not (shop.root / "images" / "outside.png").exists()
