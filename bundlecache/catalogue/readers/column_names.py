"""Which column of a foreign table is the item id, the title, the order number, ...: as mapped, as named, or as guessed.

A mapping reads ``item_id=product_id,title=name``. It holds for every table that has such a column; a table's name
before it, ``orders.item_id=sku``, restricts it to that table.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TABLE_NAMES = {  # what a user may call a table -> the table of the workspace
    "items": "items",
    "products": "items",
    "orders": "bundles",
    "bundles": "bundles",
    "carts": "bundles",
    "events": "interactions",
    "interactions": "interactions",
    "clicks": "interactions",
}
OPTION_NAMES = {"items": "items", "bundles": "orders", "interactions": "events"}  # as options and messages name them
ALIASES = {  # other names of a target, by table
    "bundles": {"order_id": "bundle_id", "cart_id": "bundle_id", "user_id": "group", "customer": "group"},
    "interactions": {"customer": "user_id"},
}

ITEM_IDS = (  # likely names, the strong ones before the weak ones
    "product_id sku item_no article_id article_no article_number artikelnummer asin stock_code product_code item_code "
    "variant_id track_id song_id movie_id recipe_id product_no product_sku item_sku variant_sku id_produit ref_produit",
    "item product article code ean gtin upc handle reference produit artikel",
)
USERS = (
    "user customer customer_id client_id visitor_id buyer_id account_id member_id customer_no kunde kundennummer"
    " client id_client utilisateur"
)
TIMES = (
    "time date datetime created_at order_date event_time ts date_time created invoice_date purchased_at datum"
    " when event_date event_timestamp clicked_at viewed_at occurred_at unix_time epoch zeit zeitpunkt zeitstempel horodatage"
)
LIKELY: dict[str, dict[str, tuple[str, ...]]] = {
    "items": {
        "item_id": (*ITEM_IDS, "id"),
        "title": (
            "name product_name product_title item_name item_title track_name title_en bezeichnung produktname titel titre libelle"
            " designation",
            "description label short_description",
        ),
        "image": (
            "img image_path image_url img_url image_link picture photo picture_url photo_url image_src bild",
            "thumbnail",
        ),
        "audio": ("sound audio_path audio_url preview_url sound_path", ""),
        "category": (
            "categories product_category product_type kategorie categorie category_name",
            "department type genre",
        ),
        "brand": ("vendor manufacturer marke marque brand_name", ""),
        "price": ("unit_price list_price preis prix price_eur price_usd price_gbp", "sale_price amount cost"),
    },
    "bundles": {
        "bundle_id": (
            "order_id order_no order_number order cart_id cart basket_id basket invoice_no invoice_id invoice "
            "transaction_id receipt_id outfit_id playlist_id kit_id set_id bestellnummer numero_commande commande",
            "bundle session_id id",
        ),
        "item_id": ITEM_IDS,
        "item_ids": ("items products product_ids skus articles", ""),
        "group": (f"user_id {USERS}", "session_id session"),
        "name": ("bundle_name intent", ""),
        "timestamp": (TIMES, ""),
    },
    "interactions": {
        "user_id": (USERS, "session_id session"),
        "item_id": ITEM_IDS,
        "timestamp": (TIMES, ""),
        "rating": ("stars score", ""),
        "text": ("review review_text comment", ""),
    },
}
EXACT = {"items": (), "bundles": ("split",), "interactions": ("group",)}  # targets that are never guessed
MIN_CLOSENESS = 0.7  # of a column's name to a likely one, to be proposed


def normalised(name: str) -> str:
    """A column's name without case, spaces, accents and marks.

    >>> normalised("Product ID"), normalised("productId"), normalised("Numéro_commande")
    ('productid', 'productid', 'numerocommande')
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", name)).casefold()


@dataclass(frozen=True)
class ColumnMap:
    """One ``target=column`` of a mapping; ``table`` is None where it holds for every table with such a column."""

    table: str | None
    target: str
    column: str

    @property
    def text(self) -> str:
        """As it is typed."""
        prefix = f"{OPTION_NAMES[self.table]}." if self.table else ""
        return f"{prefix}{self.target}={self.column}"


def parse_maps(texts: Iterable[str]) -> list[ColumnMap]:
    """Mappings as they are typed: ``[TABLE.]TARGET=COLUMN``, several parted by commas.

    Raises
    ------
    CatalogueError
        For anything else, for an unknown table, and for an unknown target.

    >>> [map.text for map in parse_maps(["item_id=sku,title=Name", "orders.item_id=article"])]
    ['item_id=sku', 'title=Name', 'orders.item_id=article']
    """
    maps = []
    for part in (part for text in texts for part in text.split(",")):
        target, equals, column = (piece.strip() for piece in part.partition("="))
        prefix, dot, rest = target.rpartition(".")
        table = TABLE_NAMES.get(prefix) if dot else None
        if not equals or not rest or (dot and table is None):
            raise CatalogueError(
                f"--map has {part!r}, but a mapping reads TARGET=COLUMN or TABLE.TARGET=COLUMN, with the tables "
                f"{', '.join(OPTION_NAMES.values())}.",
                hint="--map items.item_id=product_id,items.title=name",
            )
        known = {name for kind in ([table] if table else LIKELY) for name in targets(kind)}
        if rest not in known and table != "items":
            raise CatalogueError(
                f"--map has {part.strip()!r}, but {rest!r} is no column of the workspace; there are: "
                f"{', '.join(sorted(known))}.",
                hint=f"--map items.{rest}={column} keeps another column of the items under this name",
            )
        maps.append(ColumnMap(table, rest, column))
    return maps


def targets(table: str) -> list[str]:
    """The names that a mapping may give to columns of a table, aliases among them."""
    return [*LIKELY[table], *EXACT[table], *ALIASES.get(table, {})]


@dataclass
class Resolved:
    """What the columns of one table mean: ``columns`` by target, the targets that were ``guessed``, what is wrong.

    ``open`` holds the targets for which several columns are equally likely, ``emptied`` those that a mapping such as
    ``title=`` leaves without a column.
    """

    table: str
    columns: dict[str, str] = field(default_factory=dict)
    guessed: list[str] = field(default_factory=list)
    open: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    emptied: set[str] = field(default_factory=set)

    def note(self, file: str) -> str:
        """One sentence on what was guessed; empty if nothing was."""
        if not self.guessed:
            return ""
        pairs = ", ".join(f"{target} = {self.columns[target]!r}" for target in self.guessed)
        return f"{file}: guessed from the names of the columns: {pairs} (--map says it otherwise)."


def resolve(table: str, file: str, header: Sequence[str], maps: Sequence[ColumnMap]) -> Resolved:
    """What the columns of a table mean: by the mapping, by their exact names, or by a likely name.

    A column has one meaning. A guess is made only where one column is the likeliest.
    """
    found = Resolved(table)
    closed: set[str] = set()
    for map_ in maps:
        target = ALIASES.get(table, {}).get(map_.target, map_.target)
        column = _column(map_.column, header)
        if map_.table is None and (target not in targets(table) or (column is None and map_.column)):
            continue  # it speaks of another table
        if map_.table not in (None, table):
            continue
        if column is None and map_.column:
            found.problems.append(f"{file} has no column {map_.column!r} ({map_.text})")
        elif found.columns.get(target, column) != column:
            found.problems.append(
                f"{file} has both {found.columns[target]!r} and {column!r} for {target} "
                f"(write {OPTION_NAMES[table]}.{target}={column})"
            )
        elif column is not None:
            found.columns[target] = column
        else:
            found.emptied.add(target)
        closed.add(target)
    for target in (*LIKELY[table], *EXACT[table]):
        if target in header and target not in closed and target not in found.columns.values():
            found.columns[target] = target
            closed.add(target)
    for target in LIKELY[table]:
        if target not in closed:
            _guess(found, target, header)
    return found


def likely_columns(table: str, target: str, header: Sequence[str]) -> list[list[str]]:
    """The columns whose names are likely for a target: the strong ones, then weaker ones, empty levels left out."""
    levels = [{normalised(name) for name in (target, *words.split())} for words in LIKELY[table][target]]
    found = [[name for name in header if normalised(name) in level] for level in levels]
    return [level for level in found if level]


def closest_column(table: str, target: str, header: Sequence[str]) -> str | None:
    """The column to propose for a target that nothing was found for."""
    names = {normalised(name): name for name in header}
    for word in (target, *" ".join(LIKELY[table].get(target, ())).split()):
        if near := difflib.get_close_matches(normalised(word), names, n=1, cutoff=MIN_CLOSENESS):
            return names[near[0]]
    return None


def _guess(found: Resolved, target: str, header: Sequence[str]) -> None:
    free = [name for name in header if name not in found.columns.values()]
    levels = likely_columns(found.table, target, free)
    if not levels:
        return
    if len(levels[0]) > 1:
        found.open[target] = levels[0]
        return
    found.columns[target] = levels[0][0]
    found.guessed.append(target)


def _column(name: str, header: Sequence[str]) -> str | None:
    if name in header:
        return name
    near = [other for other in header if normalised(other) == normalised(name)]
    return near[0] if name and len(near) == 1 else None
