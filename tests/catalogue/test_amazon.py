"""`import amazon`: reviews and metadata of 2014 and 2023, and files that are none."""

from __future__ import annotations

import gzip
import json

import pyarrow.parquet as pq
import pytest
from helpers.reader_samples import amazon_sample

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.histories import Histories
from bundlecache.catalogue.readers import amazon
from bundlecache.catalogue.readers import registry as readers
from bundlecache.errors import CatalogueError
from bundlecache.workspace import WorkspaceFolder


def test_reviews_become_histories_and_metadata_attributes(tmp_path):
    shop = WorkspaceFolder(tmp_path / "workspace")
    summary = readers.read("amazon", amazon_sample(tmp_path), shop)
    assert (summary.items, summary.interactions, summary.media, summary.untitled) == (5, 6, 1, 3)
    catalogue = Catalogue.read(shop)
    items = {row["item_id"]: row for row in pq.read_table(shop.root / "items.parquet").to_pylist()}
    assert "9999" not in items
    assert (items["0001"]["category"], items["0001"]["brand"], items["0001"]["price"]) == ("Beauty > Lips", "Bee", 12.5)
    assert (items["0002"]["title"], items["0002"]["image"]) == ("It's soap", "images/0002.jpg")
    histories = Histories.read(shop, catalogue)
    first = histories.take(histories.user == list(histories.users).index("A1"))
    assert [catalogue.item_ids[i] for i in first.item] == ["0002", "0001"]  # in order of time
    assert first.rating.tolist() == [2, 5]  # of two reviews of an item, the earlier
    assert list(first.explanation) == [None, "Works & shines."]


def test_the_layout_of_2023_and_several_domains(tmp_path):
    for domain in ("Baby", "Toys"):
        review = {
            "user_id": "U",
            "parent_asin": f"B-{domain}",
            "rating": 4.0,
            "text": "ok",
            "timestamp": 1_600_000_000_123,
        }
        with gzip.open(tmp_path / f"{domain}.jsonl.gz", "wt") as file:
            file.write(json.dumps(review) + "\n")
        item = {
            "parent_asin": f"B-{domain}",
            "title": domain,
            "store": "S",
            "categories": [domain, "All"],
            "price": "$1,012.30",
        }
        (tmp_path / f"meta_{domain}.jsonl").write_text(json.dumps(item) + "\n")
    made = amazon.read(tmp_path)
    assert [row["user_id"] for row in made.interactions] == ["U_Baby", "U_Toys"]  # a person is a user of each domain
    assert made.interactions[0]["timestamp"] == 1_600_000_000
    assert (made.items[0]["category"], made.items[0]["brand"], made.items[0]["price"]) == ("Baby > All", "S", 1012.3)


def test_what_is_no_amazon_folder_is_one_sentence(tmp_path):
    with pytest.raises(CatalogueError, match="holds no reviews"):
        amazon.read(tmp_path)
    path = tmp_path / "Baby_5.json"
    path.write_text('{"asin": "1"}\n')
    with pytest.raises(CatalogueError, match="without reviewerID"):
        amazon.read(tmp_path)
    path.write_text("__import__('os').getcwd()\n")  # is never run
    with pytest.raises(CatalogueError, match="1 line of 1 that are no JSON object"):
        amazon.read(tmp_path)
    path.unlink()
    (tmp_path / "Baby_5.json.gz").write_bytes(gzip.compress(b'{"reviewerID": "A", "asin": "1"}\n' * 99)[:-9])
    with pytest.raises(CatalogueError, match="cannot be read"):
        amazon.read(tmp_path)
