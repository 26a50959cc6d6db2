"""Pairs of a picture and a title, in groups of titles that say the same, split into train, valid and test.

Titles say the same when they have the same words in any order; numbers, signs and capitals do not count. Long titles also
do when one has one word more. All pairs of a group go to the same side of the split, so that no held-out title was
trained on. What is held out is frozen in a file with its SHA-256 and stays held out when the catalogue grows.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bundlecache.encoder_spec import TITLE
from bundlecache.errors import BundlecacheError, Command, counted
from bundlecache.files import read_json, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bundlecache.catalogue.catalogue import Catalogue

LONG_TITLE_WORDS = 5  # from here on, a title with one word more says the same
HELD_OUT = 0.2  # of the groups; half of them choose the best epoch, the other half measure it
MAX_HELD_OUT = 4000  # groups
FEWEST = 20  # pairs that can be split and measured
FORMAT_VERSION = 1
FILE = "held_out.json"


@dataclass(frozen=True)
class Pairs:
    """Pairs by side of the split. ``valid`` and ``test`` hold one pair of each group, so that every title has one answer.

    Attributes
    ----------
    train, valid, test
        Item indices, int64.
    group
        int64 [I], equal for items whose titles say the same; -1 where there is no pair.
    sha256
        Of what is held out.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    group: np.ndarray
    sha256: str

    def without(self, items: np.ndarray) -> Pairs:
        """The same pairs but for those of ``items``.

        Raises
        ------
        BundlecacheError
            When too few are left.
        """
        if not len(items):
            return self
        train, valid, test = (side[~np.isin(side, items)] for side in (self.train, self.valid, self.test))
        check_enough(len(train), "pair to train on that can be read", "pairs to train on that can be read")
        group = self.group.copy()
        group[items] = -1
        return replace(self, train=train, valid=valid, test=test, group=group)

    @property
    def groups(self) -> int:
        """Titles that say something of their own, over all sides."""
        return int(self.group.max()) + 1


def make_pairs(
    catalogue: Catalogue, has_pair: np.ndarray, folder: Path, *, seed: int = 0, columns: Sequence[str] = TITLE
) -> Pairs:
    """The pairs of a catalogue; what is held out is read from ``folder`` or frozen there.

    Parameters
    ----------
    has_pair
        bool [I], the items with both a picture and a title.
    columns
        Of the items table, what a title is made of.

    Raises
    ------
    BundlecacheError
        When there are too few pairs or titles to train and measure on, or the frozen file is damaged.
    """
    items = np.flatnonzero(has_pair)
    check_enough(len(items), "pair of a picture and a title", "pairs of a picture and a title")
    titles = catalogue.texts(columns).take(items)
    group = np.full(len(catalogue), -1, np.int64)
    group[items] = same_titles([*titles])
    check_enough(int(group.max()) + 1, "title that differs from all others", "titles that differ from each other")
    path = folder / FILE
    frozen = _read(path) if path.is_file() else _freeze(path, catalogue, items, group, seed)
    chosen = {name: catalogue.positions(frozen[name]) for name in ("valid", "test")}
    chosen = {name: (found := places[places >= 0])[has_pair[found]] for name, places in chosen.items()}
    held_out = np.isin(group, group[np.concatenate(list(chosen.values()))])
    train = items[~held_out[items]]
    check_enough(len(train), "pair to train on", "pairs to train on")
    return Pairs(train, *one_of_each(group, chosen["valid"], chosen["test"]), group, frozen["sha256"])


def one_of_each(group: np.ndarray, valid: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The held-out items without those whose group has another one already: new titles may join two groups into one.

    >>> one_of_each(np.array([0, 1, 1, 2, 2, 0]), np.array([0, 1]), np.array([2, 3, 4]))
    (array([0, 1]), array([3]))
    """
    both = np.concatenate([valid, test])
    first = np.sort(np.unique(group[both], return_index=True)[1])
    return both[first[first < len(valid)]], both[first[first >= len(valid)]]


def check_enough(count: int, one: str, many: str) -> None:
    """Refuse to adapt to so few.

    Raises
    ------
    BundlecacheError
        Naming the number.
    """
    if count < FEWEST:
        raise BundlecacheError(
            f"The catalogue has {counted(count, one, many)}; adapting an encoder takes at least {FEWEST}.",
            hint=["use an encoder as it is:", Command("encode", "--modality", "image")],
        )


def same_titles(titles: Sequence[str | None]) -> np.ndarray:
    """int64 [n], equal numbers for titles that say the same.

    >>> same_titles(["Red mug", "mug, RED 2", "Blue mug"]).tolist()
    [0, 0, 1]
    """
    words = [title_words(title or "") for title in titles]
    keys: dict[tuple[str, ...], int] = {}
    number = np.array([keys.setdefault(key, len(keys)) for key in words], np.int64)  # [n]
    links = [
        (index, keys[shorter])
        for key, index in keys.items()
        if len(key) > LONG_TITLE_WORDS
        for k in range(len(key))
        if (shorter := key[:k] + key[k + 1 :]) in keys
    ]
    ends = np.array(links, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links), bool), (ends[0], ends[1])), shape=(len(keys), len(keys)))
    label = connected_components(graph, directed=False)[1][number]
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def title_words(title: str) -> tuple[str, ...]:
    """The words of a title that say what it is about: sorted, each once, without numbers, signs and capitals.

    A title without any such word is taken as it is.

    >>> title_words("Mug, RED (30 cm) red")
    ('cm', 'mug', 'red')
    """
    plain = unicodedata.normalize("NFKC", title).casefold()
    words = tuple(sorted(set(re.findall(r"[^\W\d_]+", plain))))
    return words or (plain.strip(),)


def _freeze(path: Path, catalogue: Catalogue, items: np.ndarray, group: np.ndarray, seed: int) -> dict[str, Any]:
    """Hold groups out: a seeded choice that depends on item ids alone, not on their order."""
    first = np.full(int(group.max()) + 1, -1, np.int64)
    first[group[items][::-1]] = items[::-1]  # one item stands for its group
    chosen = np.random.default_rng([seed, 7]).permutation(len(first))
    half = max(1, round(min(HELD_OUT * len(first), MAX_HELD_OUT) / 2))
    sides = {"valid": chosen[:half], "test": chosen[half : 2 * half]}
    frozen: dict[str, Any] = {
        name: [catalogue.item_ids[int(i)] for i in np.sort(first[side])] for name, side in sides.items()
    }
    frozen |= {"seed": seed, "format_version": FORMAT_VERSION}
    frozen["sha256"] = _digest(frozen)
    write_text(path, json.dumps(frozen, indent=1) + "\n")
    return frozen


def _read(path: Path) -> dict[str, Any]:
    advice: list[str | Command] = [
        f"delete {path.name} to hold other pairs out, and",
        Command("adapt"),
        "again under another name",
    ]
    try:
        frozen = read_json(path)
        sound = frozen["sha256"] == _digest(frozen)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundlecacheError(f"{path} is damaged.", hint=advice) from error
    if not sound:
        raise BundlecacheError(f"{path} was changed by hand: its SHA-256 is another one.", hint=advice)
    return dict(frozen)


def _digest(frozen: dict[str, Any]) -> str:
    kept = {name: frozen[name] for name in ("valid", "test", "seed", "format_version")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
