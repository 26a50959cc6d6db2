"""Five-row samples of every layout that can be imported."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq

AMAZON_REVIEWS = [
    ("A1", "0001", 5.0, "Works &amp; shines. ", 1393545600),
    ("A1", "0002", 2.0, "", 1393459200),
    ("A1", "0001", 1.0, "Changed my mind.", 1400000000),
    ("A2", "0002", 4.0, "Fine.", 1393545600),
    ("A2", "0003", 3.0, "So so.", 1393632000),
    ("A3", "0004", 4.0, "Good.", 1393632000),
    ("A3", "0005", 4.0, "Good too.", 1393632000),
]
AMAZON_ITEMS = [
    {
        "asin": "0001",
        "title": "Lip balm",
        "price": 12.5,
        "brand": "Bee",
        "categories": [["Beauty", "Lips"], ["Gifts"]],
        "imUrl": "http://x/1.jpg",
    },
    {"asin": "0002", "title": "It's soap", "categories": [["Beauty"]], "description": "A 'bar'"},
    {"asin": "9999", "title": "Never reviewed", "categories": [["Beauty"]]},
]


def amazon_sample(root):
    """The layout of 2014: reviews are JSON, metadata are Python literals, here compressed; 0003 to 0005 have none."""
    src = root / "beauty"
    (src / "images").mkdir(parents=True)
    names = ("reviewerID", "asin", "overall", "reviewText", "unixReviewTime")
    reviews = [json.dumps(dict(zip(names, row, strict=True))) for row in AMAZON_REVIEWS]
    (src / "reviews_Beauty_5.json").write_text("\n".join(reviews) + "\n", "utf-8")
    with gzip.open(src / "meta_Beauty.json.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{item!r}\n" for item in AMAZON_ITEMS)
    (src / "images" / "0002.jpg").write_bytes(b"a picture")
    return src


def bundlerec_sample(root):
    """Bundles 0 and 1 of session 0, bundle 2 of session 1, both of user 7; bundle 3 alone."""
    src = root / "electronic"
    src.mkdir(parents=True)
    files = {
        "item_titles.csv": 'item ID,titles\n10,"AT&amp;amp;T Headset"\n7,"Lens, 50mm"\n300,Bag\n41,"Cable\n  2m"\n5,Case\n',
        "item_categories.csv": (
            "item ID,categories\n"
            '10,"[[Phones,Accessories],[Electronics,Batteries, Chargers & Accessories,Headsets]]"\n'
            '7,"[[Electronics,Lenses]]"\n300,"[[]]"\n41,"[[Electronics,Cables]]"\n'
        ),
        "bundle_item.csv": "bundle ID,item ID\n0,10\n0,7\n1,7\n1,300\n2,41\n2,5\n3,5\n3,10\n3,41\n",
        "bundle_intent.csv": "bundle ID,intent\n0,phone calls\n3,travel\n",
        "user_bundle.csv": "user ID,bundle ID,timestamp\n7,0,1\n8,3,1\n",
        "session_bundle.csv": "session ID,bundle ID\n0,0\n0,1\n1,2\n9,3\n",
        "user_session.csv": "user ID,session ID,timestamp\n7,0,1\n7,1,1\n8,9,1\n",
        "user_item.csv": "user ID,item ID,timestamp\n7,10,1\n7,41,2\n8,5,3\n6,300,4\n",
    }
    for name, text in files.items():
        (src / name).write_text(text, "utf-8")
    return src


def clhe_sample(root):
    import torch

    src = root / "pog"
    (src / "images").mkdir(parents=True)
    (src / "count.json").write_text('{"#U": 3, "#B": 4, "#I": 5}')
    info = {str(i): {"title": f"dress {i}", "cate": str(i % 2)} for i in range(4)}
    info["4"] = {"track_name": "Song", "artist_name": "Band", "album_name": "LP"}
    (src / "item_info.json").write_text(json.dumps(info))
    (src / "ui_full.txt").write_text("0, 1, 2, 1\n1, 3\n2, 4, 4\n")
    (src / "bi_train.txt").write_text("0, 1, 2, 3\n1, 0, 4\n")
    (src / "bi_valid_input.txt").write_text("2, 3\n")
    (src / "bi_valid_gt.txt").write_text("2, 1\n")
    (src / "bi_test_input.txt").write_text("3, 4, 0\n")
    (src / "bi_test_gt.txt").write_text("3, 2\n1, 2\n")
    (src / "images" / "2.PNG").write_bytes(b"not looked at here")
    torch.manual_seed(0)
    torch.save(torch.randn(5, 1, 8), src / "content_feature.pt")
    torch.save(torch.randn(5, 6).half(), src / "description_feature.pt")
    torch.save(torch.randn(5, 4), src / "pog_LightGCN_bi_feature.pt")
    torch.save(torch.randn(4, 4), src / "item_cf_feature.pt")  # one row short
    torch.save(torch.arange(5), src / "other.pt")
    return src


def folder_sample(root):
    src = root / "photos"
    for name in (
        "shoes/red_running-shoe.jpg",
        "shoes/153a69c6-4c18-49c0-a3d5-8af2ce547fa7.jpg",
        "001 - bells/big bell.PNG",
        "001 - bells/big bell.wav",
        "twice.jpg",
        "twice.png",
        "notes.txt",
        ".hidden/a.jpg",
    ):
        (src / name).parent.mkdir(parents=True, exist_ok=True)
        (src / name).write_bytes(name.encode())
    return src


def tables_sample(root):
    src = root / "mine"
    (src / "pics").mkdir(parents=True)
    (src / "pics" / "a.jpg").write_bytes(b"a")
    (root / "secret.jpg").write_bytes(b"not yours")
    (src / "items.csv").write_text(
        "item_id,title,image,price\na,Ä cup,pics/a.jpg,3.5\nb,pot,pics/none.jpg,4\nc,lid,../secret.jpg,\nd,pan,,\ne,hob,https://x/y.jpg,2\n",
        "utf-8",
    )
    rows = [{"bundle_id": "x", "item_ids": ["a", "b"]}, {"bundle_id": "y", "item_ids": ["c", "d", "e"], "split": None}]
    (src / "bundles.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.table({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"]}), src / "interactions.parquet")
    return src


SAMPLES = {
    "amazon": amazon_sample,
    "bundlerec": bundlerec_sample,
    "clhe": clhe_sample,
    "folder": folder_sample,
    "tables": tables_sample,
}
