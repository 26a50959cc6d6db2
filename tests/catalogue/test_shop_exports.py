"""A shop's own exports go in as they are: files and columns by name, mapping or guess; prices, dates, pictures."""

from __future__ import annotations

import datetime
import http.server
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.runner import succeed

from bundlecache.catalogue.catalogue import Catalogue
from bundlecache.catalogue.readers import cell_values, fetch_media
from bundlecache.catalogue.readers import registry as readers
from bundlecache.catalogue.readers.tables import TablesRequest
from bundlecache.errors import BundlecacheError, CatalogueError, hint_text
from bundlecache.workspace import WorkspaceFolder

PRODUCTS = "product_id,name,img,price,colour\n{}".format(
    "".join(f'P{i},"Mug, no. {i}",pics/{i}.jpg,"€{i},50",red\n' for i in range(6))
)
CARTS = "order_no,sku,customer,qty\n" + "".join(
    f"O{o},P{(o + k) % 6},c{o // 2},1\n" for o in range(4) for k in range(3)
)
CLICKS = "visitor_id,sku,time\nv1,P0,2025-12-31T18:30:00Z\nv1,P1,2025-12-31T18:31:00Z\nv2,P0,2026-01-01\n"


@pytest.fixture
def shop(tmp_path):
    return WorkspaceFolder(tmp_path / "workspace")


@pytest.fixture
def exports(tmp_path):
    src = tmp_path / "exports"
    (src / "pics").mkdir(parents=True)
    (src / "pics" / "1.jpg").write_bytes(b"picture")
    (src / "products.csv").write_text(PRODUCTS, "utf-8")
    (src / "carts.csv").write_text(CARTS)
    (src / "clicks.csv").write_text(CLICKS)
    (src / "returns.csv").write_text("order_no,reason\nO1,broken\n")
    return src


def cells(shop: WorkspaceFolder, table: str, column: str) -> dict:
    read = pq.read_table(shop.root / f"{table}.parquet").to_pydict()
    return dict(zip(read["item_id" if table == "items" else "bundle_id"], read[column], strict=True))


def test_an_export_goes_in_without_a_word_and_says_what_it_guessed(exports, shop):
    made = readers.read("tables", exports, shop)
    assert (made.items, made.bundles, made.interactions, made.media) == (6, 4, 3, 1)
    catalogue = Catalogue.read(shop)
    assert catalogue.titles[catalogue.index["P1"]] == "Mug, no. 1"
    assert catalogue.column("image")[catalogue.index["P1"]] == "images/pics/1.jpg"
    bundles = {
        b: [catalogue.item_ids[i] for i in items]
        for b, items in zip(catalogue.bundles.ids, catalogue.bundles.items, strict=True)
    }
    assert bundles["O1"] == ["P1", "P2", "P3"], "rows of one order are one bundle, in their order"
    group = dict(zip(catalogue.bundles.ids, catalogue.bundles.group, strict=True))
    assert group["O0"] == group["O1"] == "c0" != group["O2"]
    assert cells(shop, "items", "price")["P1"] == 1.5
    said = " ".join(made.notes)
    for words in (
        "products.csv is taken for the items",
        "item_id = 'product_id', title = 'name', image = 'img'",
        "bundle_id = 'order_no', item_id = 'sku', group = 'customer'",
        "not used: returns.csv",
        "columns that are not used: qty",
        "12 rows of one item each make 4 bundles",
    ):
        assert words in said, words


def test_the_command_line_of_the_issue_needs_no_order_of_options(exports, shop):
    request = TablesRequest(
        items=Path("products.csv"),
        orders=Path("carts.csv"),
        events=Path("clicks.csv"),
        maps=(
            "item_id=product_id,title=name,image=img",
            "order_id=order_no,item_id=sku,user_id=customer",
            "user_id=visitor_id",
        ),
    )
    made = readers.read("tables", exports, shop, request=request)
    assert (made.items, made.bundles, made.interactions) == (6, 4, 3)
    assert not any("guessed" in note and "item_id" in note for note in made.notes)
    assert len(set(cells(shop, "bundles", "group").values())) == 2


def test_all_missing_columns_stand_in_one_message_with_a_proposal(exports, shop):
    (exports / "products.csv").write_text("prodct,nme\nP1,x\n")
    (exports / "carts.csv").write_text("a,b\n1,P1\n")
    with pytest.raises(CatalogueError) as refused:
        readers.read("tables", exports, shop)
    for words in (
        "products.csv has no column 'item_id', 'title'; its columns are: prodct, nme",
        "carts.csv has no column 'bundle_id', 'item_id'; its columns are: a, b",
    ):
        assert words in refused.value.message
    assert "items.item_id=prodct,items.title=nme,orders.bundle_id=COLUMN,orders.item_id=COLUMN" in hint_text(
        refused.value.hint
    )
    assert not shop.root.exists()


def test_columns_of_any_name_are_proposed_by_their_contents_in_a_command_that_works(exports, shop):
    (exports / "log.csv").write_text("who,what,when\nc0,P0,1767225600\nc1,P1,1767225700\nv3,P0,1767225800\n")
    (exports / "clicks.csv").unlink()
    request = TablesRequest(events=Path("log.csv"), maps=("title=name",), dates="day-first")
    with pytest.raises(CatalogueError, match=r"log\.csv has no column 'user_id', 'item_id'") as refused:
        readers.read("tables", exports, shop, request=request)
    line = hint_text(refused.value.hint)
    assert line.endswith("--events log.csv --dates day-first --map title=name,events.user_id=who,events.item_id=what")
    maps = line.rpartition(" ")[2]
    made = readers.read("tables", exports, shop, request=TablesRequest(events=Path("log.csv"), maps=(maps,)))
    assert made.interactions == 3
    times = pq.read_table(shop.root / "interactions.parquet")["timestamp"].to_pylist()
    assert min(times).isoformat() == "2026-01-01T00:00:00", "a column `when` holds the time"


def test_a_mapping_of_no_use_is_not_proposed_again(exports, shop):
    (exports / "carts.csv").write_text("a,b\n1,P1\n1,P2\n")
    request = TablesRequest(maps=("title=nothing,bundles.item_id=none", "items.brand=colour"))
    with pytest.raises(CatalogueError) as refused:
        readers.read("tables", exports, shop, request=request)
    maps = hint_text(refused.value.hint).rpartition(" ")[2]
    assert "nothing" not in maps
    assert "none" not in maps
    assert "items.brand=colour" in maps


def test_the_last_column_left_is_proposed_as_the_order(exports, shop):
    (exports / "carts.csv").write_text("a,b\n1,P1\n1,P2\n")
    with pytest.raises(CatalogueError) as refused:
        readers.read("tables", exports, shop)
    assert "orders.bundle_id=a,orders.item_id=b" in hint_text(refused.value.hint)


def test_german_and_french_exports_are_understood(tmp_path, shop):
    """Semicolons, decimal commas, a byte order mark and Excel's first line, accents in the names of columns."""
    src = tmp_path / "export"
    src.mkdir()
    table = "sep=;\nArtikelnummer;Titre;Prix;Catégorie\nA1;Lampe, rouge;3,50 €;Déco\nA2;Tasse;1.234,50 €;\nA3;Bol;-2,00 €;\n"
    (src / "products.csv").write_text(table, "utf-8-sig")
    (src / "carts.csv").write_text("Numéro_commande\tArtikelnummer\tClient\n1\tA1\tk\n1\tA2\tk\n", "utf-8")
    made = readers.read("tables", src, shop)
    assert (made.items, made.bundles) == (3, 1)
    catalogue = Catalogue.read(shop)
    assert catalogue.titles[catalogue.index["A1"]] == "Lampe, rouge"
    assert catalogue.column("category")[catalogue.index["A1"]] == "Déco"
    assert cells(shop, "items", "price") == {"A1": 3.5, "A2": 1234.5, "A3": -2.0}


def test_a_dry_run_shows_prices_as_they_were_read(exports):
    shown = succeed("import", "tables", exports, "--dry-run", "--data", exports.parent / "new").stdout
    row = next(line for line in shown.splitlines() if line.split()[:1] == ["P1"])
    assert " 1.5 " in row
    assert "1.500" not in row


def test_two_columns_that_may_be_the_title_are_asked_about(exports, shop):
    (exports / "products.csv").write_text("sku,product_name,item_name\nP0,x,y\nP1,x,z\n")
    with pytest.raises(CatalogueError, match=r"title may be 'product_name' or 'item_name'") as refused:
        readers.read("tables", exports, shop)
    assert "items.title=product_name" in refused.value.hint


def test_the_id_column_is_the_one_whose_ids_the_orders_name(exports, shop):
    rows = "".join(f"{i},P{i},mug {i}\n" for i in range(6))
    (exports / "products.csv").write_text("product_id,sku,name\n" + rows)
    readers.read("tables", exports, shop)
    assert set(Catalogue.read(shop).index) == {f"P{i}" for i in range(6)}


def test_orders_that_name_no_item_of_the_catalogue_are_refused(exports, shop):
    (exports / "carts.csv").write_text("order_no,sku\n1,X1\n1,X2\n")
    with pytest.raises(CatalogueError, match=r"No item of carts.csv \(such as 'X1'\) is an item of products.csv"):
        readers.read("tables", exports, shop)


def test_two_files_that_may_be_the_orders_are_asked_about(exports, shop):
    (exports / "orders.csv").write_text(CARTS)
    with pytest.raises(CatalogueError, match=r"holds carts.csv and orders.csv, and each may be the orders") as refused:
        readers.read("tables", exports, shop)
    assert refused.value.hint == "--orders carts.csv"
    assert readers.read("tables", exports, shop, request=TablesRequest(orders=Path("carts.csv"))).bundles == 4


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ("item_id", "a mapping reads TARGET=COLUMN"),
        ("titel=name", "'titel' is no column of the workspace; there are"),
        ("basket.item_id=sku", "a mapping reads"),
        ("items.title=nope", r"products.csv has no column 'nope' \(items.title=nope\)"),
        ("title=nope", "no table has the column of 'title=nope'"),
    ],
)
def test_a_mapping_that_fits_nothing_is_refused(maps, message, exports, shop):
    with pytest.raises(CatalogueError, match=message) as refused:
        readers.read("tables", exports, shop, request=TablesRequest(maps=(maps,)))
    assert refused.value.hint


def test_a_dry_run_shows_three_rows_and_writes_nothing(exports, shop):
    made = readers.read("tables", exports, shop, dry_run=True)
    assert not shop.root.exists()
    items, bundles, events = made.preview
    assert (items.file, items.rows, len(items.first)) == ("products.csv", 6, 3)
    assert items.columns["item_id"] == "product_id"
    assert items.first[1] == {
        "item_id": "P1", "title": "Mug, no. 1", "image": "images/pics/1.jpg", "price": 1.5, "colour": "red",
    }  # fmt: skip
    assert bundles.first[0] == {"bundle_id": "O0", "group": "c0", "item_ids": ["P0", "P1", "P2"]}
    assert events.first[0]["timestamp"] == datetime.datetime(2025, 12, 31, 18, 30)
    assert made.to_dict()["preview"][0]["table"] == "items"


ITEMS = [["item_id", "title", "price"], ["a", "Ä; cup, big", "1.299,00 €"], ["b", "pot|lid", "3,50 €"]]


def _separated(mark: str) -> str:
    return "".join(mark.join(f'"{cell}"' for cell in row) + "\r\n" for row in ITEMS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("items.csv", _separated(",").encode()),
        ("items.csv", _separated(";").encode("utf-8-sig")),
        ("items.csv", ("sep=;\r\n" + _separated(";")).encode("utf-8-sig")),
        ("items.csv", ("sep=|\n" + _separated("|")).encode()),
        ("items.tsv", _separated("\t").encode()),
        ("items.txt", _separated("|").encode()),
        ("items.csv", _separated("\t").encode("utf-16")),
        ("items.csv", _separated(";").encode("utf-16-le")),
        ("items.csv", _separated(";").encode("cp1252")),
        ("items.json", b'[{"item_id": "a", "title": "\xc3\x84; cup, big", "price": "1.299,00"}, {"item_id": "b", "title": "pot|lid", "price": "3,50"}]'),
    ],
)  # fmt: skip
def test_every_dialect_reads_the_same(name, data, tmp_path, shop):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / name).write_bytes(data)
    readers.read("tables", tmp_path / "src", shop)
    assert cells(shop, "items", "title") == {"a": "Ä; cup, big", "b": "pot|lid"}
    assert cells(shop, "items", "price") == {"a": 1299.0, "b": 3.5}


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["€3.50", "$1,299.00"], [3.5, 1299]),
        (["3,50 EUR", "1.299,00 EUR", ""], [3.5, 1299, None]),
        (["1,299", "12,000"], [1299, 12000]),
        (["1,299", "3,5"], [1.299, 3.5]),
        (["CHF 1'299.-", "CHF 5.50"], [1299, 5.5]),
        (["1 299,00 kr", "-5,00 kr"], [1299, -5]),
        (["1.5e3", "n/a"], [1500, None]),
        ([1, 2.5, None], [1, 2.5, None]),
        (["on request", "call us"], None),
    ],
)
def test_prices_are_read_as_people_write_them(texts, numbers):
    read = cell_values.read_numbers("price", texts)
    assert (read and read.values) == numbers


@pytest.mark.parametrize(
    ("texts", "first", "noted"),
    [
        (["2025-12-31"], (2025, 12, 31), False),
        (["31.12.2025"], (2025, 12, 31), False),
        (["03.04.2025"], (2025, 4, 3), False),
        (["12/31/2025"], (2025, 12, 31), False),
        (["03/04/2025", "31/12/2025"], (2025, 4, 3), False),
        (["03/04/2025"], (2025, 3, 4), True),
        (["12/31/25 6:30 PM"], (2025, 12, 31, 18, 30), False),
        (["2025-12-31T18:30:00+02:00"], (2025, 12, 31, 16, 30), False),
        (["1735689600"], (2025, 1, 1), False),
        ([1735689600000], (2025, 1, 1), False),
    ],
)
def test_dates_are_read_as_people_write_them(texts, first, noted):
    read = cell_values.read_dates("date", texts)
    assert read is not None
    assert read.values[0] == datetime.datetime(*first)
    assert bool(read.note) == noted


@pytest.mark.parametrize("cell", ["tomorrow", 7, "31/31/2025", ["2025"], True, 1e300, "9" * 4000])
def test_what_is_no_date_stays_as_it_is(cell):
    assert cell_values.read_dates("date", [cell]) is None


def test_several_currencies_in_a_column_are_named():
    read = cell_values.read_numbers("price", ["€3", "$4", "$5"])
    assert read is not None
    assert "USD in 2 rows, EUR in 1 rows" in read.note


def test_one_file_may_hold_items_and_orders(tmp_path, shop):
    src = tmp_path / "retail.csv"
    rows = "".join(f"{o},S{(o + k) % 4},THING {(o + k) % 4},1,2.5,{o}\n" for o in range(5) for k in range(2))
    src.write_text("InvoiceNo,StockCode,Description,Quantity,UnitPrice,CustomerID\n" + rows)
    made = readers.read("tables", src, shop, request=TablesRequest(orders=src))
    assert (made.items, made.bundles) == (4, 5)
    assert "Quantity" not in pq.read_table(shop.root / "items.parquet").column_names


# ---- pictures by web address


ANSWERS = {
    "/ok.jpg": b"\xff\xd8\xff" + b"x" * 50,
    "/page": b"<html>not a picture</html>",
    "/huge.jpg": b"\xff\xd8\xff" + b"x" * 5000,
}


class _Pictures(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
            self.end_headers()
            return
        data = ANSWERS.get(self.path)
        self.send_response(200 if data else 404)
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pictures)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_pictures_are_fetched_with_limits_and_a_receipt(server, tmp_path):
    paths = ["/ok.jpg", "/page", "/huge.jpg", "/gone.jpg", "/moved"]
    items = [{"item_id": path, "image": server + path} for path in paths]
    items += [
        {"item_id": "f", "image": "ftp://host/x.jpg"},
        {"item_id": "n", "image": None},
        {"item_id": "t", "image": server + "/ok.jpg"},
    ]
    limits = fetch_media.FetchLimits(max_file_bytes=1000, request_seconds=5, allow_loopback=True)
    receipt = fetch_media.fetch_images(items, tmp_path, limits)
    assert receipt.addresses == receipt.fetched + receipt.present + receipt.failed == 6
    assert receipt.reasons == {
        "the answer is no picture": 1,
        "larger than 1,000 bytes": 1,
        "the server answered 404": 1,
        "the address is none of the public network": 1,
        "only http and https are fetched, not ftp": 1,
    }
    assert (tmp_path / items[0]["image"]).read_bytes() == ANSWERS["/ok.jpg"]
    assert items[0]["image"] == items[-1]["image"], "one address is fetched once"
    assert items[1]["image"] == server + "/page", "what failed stays, for encoding to report"
    again = [{"item_id": "a", "image": server + "/ok.jpg"}]
    assert fetch_media.fetch_images(again, tmp_path, limits).present == 1


def test_private_addresses_are_not_fetched(server, tmp_path):
    items = [{"image": url} for url in (server + "/ok.jpg", "http://10.0.0.1/a.jpg", "http://[::1]/a.jpg", "http:///x")]
    receipt = fetch_media.fetch_images(items, tmp_path)
    assert (receipt.fetched, receipt.failed) == (0, 4)


def test_nothing_is_fetched_unless_it_is_asked_for(server, exports, shop):
    (exports / "products.csv").write_text(
        "product_id,name,image_url\n" + "".join(f"P{i},m,{server}/ok.jpg\n" for i in range(6))
    )
    assert readers.read("tables", exports, shop).fetched is None
    assert set(cells(shop, "items", "image").values()) == {f"{server}/ok.jpg"}
    made = readers.read("tables", exports, shop, request=TablesRequest(fetch=True))
    assert made.fetched is not None
    assert made.fetched.failed == 1, "this machine's own address is none of the public network"


def test_formats_other_than_tables_take_no_mapping(exports, shop):
    with pytest.raises(BundlecacheError, match="for the format tables only"):
        readers.read("folder", exports, shop, request=TablesRequest())
