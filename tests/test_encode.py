"""Stage A's promises: every item accounted for, nothing encoded twice, nothing lost when the process dies."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from bundlecache.catalogue import Bundles, Catalogue, Interactions
from bundlecache.encode import Progress, Receipt, run, sources
from bundlecache.errors import EncoderError, MediaError, StoreError
from bundlecache.store import Store
from bundlecache.store.tables import COMPACT_FRAGMENTS
from bundlecache.store.vectors import Identity
from bundlecache.workspace import Workspace


class Toy:
    """A vector from the hash of a file's bytes. Files that start with BAD, POISON, NAN, ZERO, HUGE misbehave."""

    modality = "image"
    spec = "toy:bytes"
    dim = 12
    dtype = "float16"
    batch_size = 4
    tokens = 0
    fingerprint = "f" * 64
    reading = preprocess = "raw bytes"

    def __init__(self, **changes: Any) -> None:
        self.__dict__.update(changes)
        self.batches: list[int] = []

    def read(self, source: Path | str) -> bytes:
        content = Path(source).read_bytes()
        if content.startswith(b"BAD"):
            raise MediaError("the picture is cut off")
        return content

    def prepare(self, raw: bytes) -> bytes:
        return raw

    def encode(self, samples: list[bytes]) -> np.ndarray:
        self.batches.append(len(samples))
        if any(sample.startswith(b"POISON") for sample in samples):
            raise ValueError("the kernel\ndoes not like this")
        return np.stack([self.vector(sample) for sample in samples])

    def vector(self, content: bytes) -> np.ndarray:
        for start, value in ((b"NAN", np.nan), (b"ZERO", 0.0), (b"HUGE", 1e6)):
            if content.startswith(start):
                return np.full(self.dim, value, np.float32)
        digest = hashlib.sha512(content).digest()
        return np.frombuffer(digest[: self.dim], np.uint8).astype(np.float32) - 127.5


class Titles(Toy):
    modality = "text"
    spec = "toy:titles"

    def read(self, source: Path | str) -> bytes:
        return str(source).encode()


class Nodes(Titles):
    modality = "graph"
    spec = "toy:nodes"

    def has(self, item_id: str) -> bool:
        return item_id != "item-3"


class Shop:
    """A workspace whose items can be changed between runs."""

    def __init__(self, root: Path, count: int) -> None:
        self.workspace = Workspace(root)
        (root / "images").mkdir(parents=True, exist_ok=True)
        self.images: dict[str, str | None] = {}
        for i in range(count):
            self.put(f"item-{i}", f"content {i}")

    def put(self, item_id: str, content: str) -> None:
        name = f"images/{hashlib.md5(item_id.encode()).hexdigest()}.bin"
        (self.workspace.root / name).write_text(content)
        self.images[item_id] = name

    @property
    def catalogue(self) -> Catalogue:
        titles = [f"title {item_id}" if item_id != "item-1" else "" for item_id in self.images]
        return Catalogue(list(self.images), titles, {"image": list(self.images.values())}, Bundles(), Interactions())

    @property
    def store(self) -> Store:
        return Store(self.workspace.store)

    def run(self, encoder: Toy | None = None, **options: Any) -> Receipt:
        receipt = run(encoder or Toy(), self.catalogue, self.workspace, self.store, **options)
        assert receipt.balances
        return receipt

    def vector(self, item_id: str) -> np.ndarray | None:
        matrix = self.store.matrix([item_id], "image")
        return matrix.vectors[0] if matrix.mask[0] else None

    def errors(self) -> dict[str, tuple[str, str]]:
        rows = self.store.errors(Identity.of(Toy()).table).to_pylist()
        return {row["item_id"]: (row["stage"], row["reason"]) for row in rows}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop", 11)


def stored(content: str) -> np.ndarray:
    return Toy().vector(content.encode()).astype(np.float16)


def test_every_item_gets_its_own_vector_and_a_second_run_asks_the_encoder_nothing(shop: Shop) -> None:
    shop.images["bare"] = None
    first = shop.run()
    assert (first.items, first.encoded, first.absent, first.forwards) == (12, 11, 1, 3)
    matrix = shop.store.matrix(shop.catalogue.item_ids, "image")
    assert matrix.mask.tolist() == [True] * 11 + [False]
    assert (matrix.vectors[:11] == [stored(f"content {i}") for i in range(11)]).all()
    assert not matrix.vectors[11].any()

    encoder = Toy()
    version = shop.store.current("image").version
    again = shop.run(encoder)
    assert (again.cached, again.absent, again.forwards, encoder.batches) == (11, 1, 0, [])
    assert shop.store.current("image").version == version, "a run with nothing to do must leave the table alone"


def test_an_edited_picture_is_encoded_alone_and_replaces_its_row(shop: Shop) -> None:
    shop.run()
    shop.put("item-4", "another picture")
    receipt = shop.run()
    assert (receipt.encoded, receipt.cached, receipt.forwards) == (1, 10, 1)
    assert (shop.vector("item-4") == stored("another picture")).all()
    assert shop.store.current("image").rows == 11


def test_equal_content_is_encoded_once_within_a_run_and_across_runs(shop: Shop) -> None:
    shop.put("twin", "content 3")
    first = shop.run()
    assert (first.encoded, first.reused, first.forwards) == (12, 1, 3)
    shop.put("triplet", "content 3")
    second = shop.run()
    assert (second.encoded, second.reused, second.forwards) == (1, 1, 0)
    assert (shop.vector("twin") == stored("content 3")).all()
    assert (shop.vector("triplet") == stored("content 3")).all()


def test_a_renamed_item_costs_no_forward(shop: Shop) -> None:
    shop.run()
    shop.images["new name"] = shop.images.pop("item-2")
    receipt = shop.run()
    assert (receipt.encoded, receipt.forwards) == (1, 0)
    assert (shop.vector("new name") == stored("content 2")).all()


def test_swapped_pictures_swap_their_vectors(shop: Shop) -> None:
    shop.run()
    shop.put("item-0", "content 1")
    shop.put("item-1", "content 0")
    assert shop.run().forwards == 0
    assert (shop.vector("item-0") == stored("content 1")).all()
    assert (shop.vector("item-1") == stored("content 0")).all()


def test_a_failed_item_is_tried_again_only_when_it_changed_or_on_request(shop: Shop) -> None:
    shop.put("item-5", "BAD")
    assert shop.run().failed == 1
    assert shop.errors() == {"item-5": ("decode", "the picture is cut off")}
    encoder = Toy()
    encoder.read = pytest.fail  # type: ignore[method-assign, assignment]
    assert shop.run(encoder).failed == 1
    decoded: list[str] = []

    class Watched(Toy):
        def read(self, source: Path | str) -> bytes:
            decoded.append(str(source))
            return super().read(source)

    assert shop.run(Watched(), retry_failed=True).failed == 1
    assert len(decoded) == 1
    shop.put("item-5", "mended")
    receipt = shop.run()
    assert (receipt.failed, receipt.encoded) == (0, 1)
    assert shop.errors() == {}


def test_a_poison_item_is_isolated_and_its_batch_survives(shop: Shop) -> None:
    shop.put("item-5", "POISON")
    receipt = shop.run(Toy(batch_size=8))
    assert (receipt.encoded, receipt.failed) == (10, 1)
    assert shop.errors() == {"item-5": ("encode", "ValueError: the kernel does not like this")}
    assert shop.vector("item-5") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [("NAN", "not finite in float16"), ("HUGE", "not finite in float16"), ("ZERO", "all zero")],
)
def test_what_is_no_direction_is_never_stored(shop: Shop, content: str, reason: str) -> None:
    shop.put("item-5", content)
    assert shop.run().failed == 1
    assert shop.errors() == {"item-5": ("check", f"the vector is {reason}")}
    assert shop.vector("item-5") is None


def test_any_exception_of_a_decoder_is_a_failed_item_not_a_stopped_run(shop: Shop) -> None:
    class Fragile(Toy):
        def read(self, source: Path | str) -> bytes:
            if Path(source).read_bytes() == b"content 7":
                raise ZeroDivisionError("oops")
            return super().read(source)

    assert shop.run(Fragile()).failed == 1
    assert shop.errors() == {"item-7": ("decode", "ZeroDivisionError: oops")}


def test_a_file_that_is_missing_is_told_and_its_earlier_vector_stays(shop: Shop) -> None:
    shop.run()
    path = shop.workspace.root / str(shop.images["item-6"])
    path.unlink()
    shop.images["never there"] = "images/nowhere.png"
    shop.images["outside"] = "../../secret.png"
    receipt = shop.run()
    assert (receipt.cached, receipt.failed) == (10, 3)
    assert {item: stage for item, (stage, _) in shop.errors().items()} == {
        "item-6": "read",
        "never there": "read",
        "outside": "read",
    }
    assert "No such file" in shop.errors()["never there"][1]
    row = next(row for row in shop.store.status(shop.catalogue) if row["modality"] == "image")
    assert [row[name] for name in ("rows", "missing", "failed", "absent")] == [11, 0, 2, 0]
    assert (shop.vector("item-6") == stored("content 6")).all()
    path.write_text("content 6")
    assert (shop.run().forwards, "item-6" in shop.errors()) == (0, False)


def test_a_picture_that_turned_bad_or_was_taken_away_is_masked_and_returns_for_free(shop: Shop) -> None:
    shop.run()
    shop.put("item-2", "BAD")
    address = shop.images["item-3"]
    shop.images["item-3"] = None
    receipt = shop.run()
    assert (receipt.failed, receipt.absent) == (1, 1)
    assert shop.vector("item-2") is None
    assert shop.vector("item-3") is None
    assert shop.store.current("image").rows == 9
    shop.put("item-2", "content 2")
    shop.images["item-3"] = address
    assert shop.run().forwards == 0
    assert (shop.vector("item-2") == stored("content 2")).all()
    assert (shop.vector("item-3") == stored("content 3")).all()


def test_items_that_left_the_catalogue_keep_their_rows(shop: Shop) -> None:
    shop.run()
    gone = {name: shop.images.pop(name) for name in ("item-0", "item-9")}
    receipt = shop.run()
    assert (receipt.items, receipt.cached) == (9, 9)
    shop.images.update(gone)
    assert shop.run().forwards == 0


def test_text_and_graph_take_titles_and_ids_and_say_what_is_absent(shop: Shop) -> None:
    assert shop.run(Titles()).absent == 1  # item-1 has no title
    assert shop.run(Nodes()).absent == 1  # item-3 has no edge
    titles = shop.store.matrix(shop.catalogue.item_ids, "text")
    assert titles.mask.sum() == 10
    assert not titles.mask[1]
    assert (titles.vectors[2] == stored("title item-2")).all()
    assert shop.store.modalities() == ["text", "graph"]


@pytest.mark.parametrize("cause", ["spec", "fingerprint", "preprocess", "dtype"])
def test_every_cause_of_a_vector_is_part_of_its_identity(shop: Shop, cause: str) -> None:
    shop.run()
    other = Toy(**{cause: "float32" if cause == "dtype" else "other"})
    assert shop.run(other).encoded == 11
    assert len(shop.store.tables()) == 2
    assert shop.store.current("image").table == Identity.of(other).table
    shop.run()
    assert shop.store.current("image").table == Identity.of(Toy()).table, "the last run says which table counts"


def test_limit_looks_at_the_first_items_only(shop: Shop) -> None:
    assert shop.run(limit=5).items == 5
    receipt = shop.run()
    assert (receipt.cached, receipt.encoded) == (5, 6)


def test_too_many_errors_stop_the_run_but_lose_nothing(shop: Shop) -> None:
    for i in (3, 5, 7):
        shop.put(f"item-{i}", f"BAD {i}")
    with pytest.raises(EncoderError, match="2 items failed and 1 were allowed"):
        shop.run(max_errors=1, workers=1)
    assert set(shop.errors()) == {"item-3", "item-5"}
    assert shop.store.current("image").rows == 4
    assert shop.run(max_errors=3).encoded == 11 - 3 - 4


def test_a_broken_encoder_stops_the_run_and_blames_no_item(shop: Shop) -> None:
    for i in range(40):
        shop.put(f"late-{i}", f"POISON {i}")
    with pytest.raises(EncoderError, match="failed on 32 items in a row"):
        shop.run()
    assert shop.store.current("image").rows == 11
    assert shop.errors() == {}


def test_a_wrong_shape_is_the_encoders_fault_and_said_so(shop: Shop) -> None:
    class Wide(Toy):
        def encode(self, samples: list[bytes]) -> np.ndarray:
            return np.ones((len(samples), 13), np.float32)

    with pytest.raises(EncoderError, match=r"shape \(4, 13\) for 4 samples; needed is \(4, 12\)"):
        shop.run(Wide())


def test_memory_that_runs_out_halves_the_batch_for_the_rest_of_the_run(shop: Shop) -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    class Small(Toy):
        def encode(self, samples: list[bytes]) -> np.ndarray:
            vectors = super().encode(samples)
            if len(samples) > 3:
                raise OutOfMemoryError("CUDA out of memory")
            return vectors

    encoder = Small(batch_size=4)
    assert shop.run(encoder).encoded == 11
    assert encoder.batches == [4, 2, 2, 2, 2, 2, 1]


def test_a_file_that_changes_between_hashing_and_decoding_is_not_stored_under_the_old_hash(shop: Shop) -> None:
    class Late(Toy):
        def read(self, source: Path | str) -> bytes:
            if Path(source).read_bytes() == b"content 8":
                Path(source).write_text("content changed")
            return super().read(source)

    assert shop.run(Late()).failed == 1
    assert shop.vector("item-8") is None
    assert shop.run().encoded == 1
    assert (shop.vector("item-8") == stored("content changed")).all()


def test_an_interrupted_run_keeps_what_was_encoded(shop: Shop) -> None:
    class Impatient(Toy):
        def encode(self, samples: list[bytes]) -> np.ndarray:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().encode(samples)

    with pytest.raises(KeyboardInterrupt):
        shop.run(Impatient())
    assert shop.store.current("image").rows == 8
    assert shop.store.receipts() == [], "an unfinished run has no receipt"
    assert shop.run().encoded == 3
    (receipt,) = shop.store.receipts()
    assert (receipt["encoded"], receipt["cached"], receipt["spec"]) == (3, 8, "toy:bytes")


def test_known_files_are_not_read_again_but_a_replaced_one_of_equal_size_and_time_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [shop.workspace.root / str(uri) for uri in shop.images.values()]
    monkeypatch.setattr(sources, "SETTLED_NS", 0)  # else files of this second are not trusted, and read again
    shop.run()
    reads: list[Path] = []
    opened = Path.open

    def counted(self: Path, *args: Any, **options: Any) -> Any:
        if self in paths:
            reads.append(self)
        return opened(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", counted)
        assert shop.run().cached == 11
        assert reads == []
        status = paths[4].stat()
        paths[4].write_text("CONTENT 4")
        os.utime(paths[4], ns=(status.st_atime_ns, status.st_mtime_ns))
        assert shop.run().encoded == 1
    assert (shop.vector("item-4") == stored("CONTENT 4")).all()


def test_ids_with_quotes_and_foreign_letters_pass_through_every_path(shop: Shop) -> None:
    names = ["it's", 'say "hi"', "naïve\n子", "a;DROP TABLE x", "../up", "%"]
    for name in names:
        shop.put(name, f"content of {name}")
    shop.run()
    for name in names:
        shop.put(name, f"new content of {name}")
    assert shop.run().encoded == 6
    shop.put("it's", "BAD")
    shop.run()
    assert shop.vector("it's") is None
    assert all((shop.vector(name) == stored(f"new content of {name}")).all() for name in names[1:])


def test_decoding_overlaps_the_forward_and_progress_adds_up(shop: Shop) -> None:
    for i in range(60):
        shop.put(f"more-{i}", f"more {i}")

    class Slow(Toy):
        def read(self, source: Path | str) -> bytes:
            time.sleep(0.01)
            return super().read(source)

        def encode(self, samples: list[bytes]) -> np.ndarray:
            time.sleep(0.02)
            return super().encode(samples)

    seen: list[Progress] = []
    receipt = shop.run(Slow(), workers=4, progress=seen.append)
    serial = 71 * 0.01 + receipt.forwards * 0.02
    assert receipt.seconds < 0.85 * serial
    assert receipt.decode_share + receipt.forward_share + receipt.write_share <= 1
    assert {progress.stage for progress in seen} == {"look", "encode"}
    done = [progress.done for progress in seen if progress.stage == "encode"]
    assert done == sorted(done)
    assert (seen[-1].done, seen[-1].total, seen[-1].encoded) == (71, 71, 71)
    assert seen[-1].bound_by == "forward"
    assert "--batch-size" in seen[-1].advice


def test_many_commits_end_as_one_piece_with_the_same_rows(shop: Shop) -> None:
    for i in range(80):
        shop.put(f"more-{i}", f"more {i}")
    shop.run(commit_rows=2)
    info = shop.store.current("image")
    dataset = lance.dataset(str(shop.workspace.store / f"{info.table}.lance"))
    assert len(dataset.get_fragments()) <= COMPACT_FRAGMENTS
    assert dataset.count_rows() == 91
    assert all((shop.vector(f"more-{i}") == stored(f"more {i}")).all() for i in range(80))


def test_rows_are_committed_while_the_run_goes_on(shop: Shop) -> None:
    seen: list[int] = []

    class Watching(Toy):
        def encode(self, samples: list[bytes]) -> np.ndarray:
            seen.append(shop.store.tables()[0].rows)
            return super().encode(samples)

    shop.run(Watching(), commit_rows=4)
    assert seen[0] == 0
    assert 4 <= seen[2] <= 8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_a_failed_item_and_blocks_nothing(shop: Shop) -> None:
    os.mkfifo(shop.workspace.root / "images" / "pipe")
    shop.images |= {"pipe": "images/pipe", "folder": "images", "root": ".", "long": "x" * 5000, "null": "a\0b"}
    assert shop.run().failed == 5
    assert {stage for stage, _ in shop.errors().values()} == {"read"}


def test_a_second_writer_is_told_in_one_sentence_and_other_tables_stay_open(shop: Shop) -> None:
    with (
        shop.store.writer(Identity.of(Toy())),
        pytest.raises(StoreError, match="Another process is writing to image--toy-bytes"),
    ):
        shop.run()
    assert shop.run(Titles()).encoded == 10
    with shop.store.writer(Identity.of(Toy())):
        assert shop.run(Titles()).cached == 10
    assert shop.run().encoded == 11


def test_a_store_that_cannot_be_written_is_one_sentence(shop: Shop) -> None:
    shop.workspace.store.write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        shop.run()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_is_one_sentence_and_loses_nothing_that_was_stored(shop: Shop) -> None:
    shop.run()
    for i in range(2000):
        shop.put(f"more-{i}", f"more {i}")
    out = _child(shop, "full")
    assert out.returncode == 3, out.stderr
    assert re.fullmatch(r"StoreError: The store \S+ cannot be written: .*File too large.*\n", out.stdout), out.stdout
    assert shop.store.current("image").rows >= 11
    before = shop.store.current("image").rows
    receipt = shop.run()
    assert (receipt.cached, receipt.encoded) == (before, 2011 - before)


KILLS, KILL_ITEMS, KILL_COMMIT = 6, 160, 8


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_at_random_moments_the_store_ends_as_if_uninterrupted(tmp_path: Path) -> None:
    shops = [Shop(tmp_path / name, KILL_ITEMS) for name in ("killed", "whole")]
    for shop in shops:
        shop.put("item-30", "BAD")
        shop.put("item-60", "POISON")
        shop.put("item-90", "content 10")
    killed, whole = shops
    whole.run()
    rng = random.Random(0)
    for _ in range(KILLS):
        child = _start(killed, "slow")
        assert child.stdout is not None
        child.stdout.readline()  # it looks at the items
        time.sleep(rng.uniform(0.0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
    partly = killed.store.tables()[0].rows if killed.store.tables() else 0
    assert partly < KILL_ITEMS, "the kills came too late to prove anything"
    out = _child(killed, "slow")
    assert out.returncode == 0, out.stderr

    def rows(shop: Shop) -> list[dict[str, Any]]:
        table = lance.dataset(str(shop.workspace.store / f"{Identity.of(Toy()).table}.lance")).to_table()
        return sorted(table.to_pylist(), key=lambda row: row["item_id"])

    assert rows(killed) == rows(whole)
    assert killed.errors() == whole.errors()
    assert set(killed.errors()) == {"item-30", "item-60"}
    encoded = (killed.workspace.root / "encoded.log").read_text().split("\n")[:-1]
    again = len(encoded) - len(set(encoded))
    open_batches = KILLS * (2 * KILL_COMMIT + Toy.batch_size)
    assert again <= open_batches, f"{again} contents were encoded twice; {open_batches} can have been open"


class Logged(Toy):
    """Slow, and notes in a file what it has encoded; the poison in it does not count."""

    log: Path

    def encode(self, samples: list[bytes]) -> np.ndarray:
        time.sleep(0.004 * len(samples))
        vectors = super().encode(samples)
        with self.log.open("a") as file:
            file.write("".join(sample.decode() + "\n" for sample in samples))
        return vectors


def _start(shop: Shop, how: str) -> subprocess.Popen[str]:
    """This file as a process of its own, which encodes the shop's items (see the end)."""
    top = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": top}
    items = "\n".join(f"{item_id}\t{uri}" for item_id, uri in shop.images.items())
    (shop.workspace.root / "items.tsv").write_text(items)
    command = [sys.executable, __file__, str(shop.workspace.root), how]
    return subprocess.Popen(
        command, cwd=top, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _child(shop: Shop, how: str) -> subprocess.CompletedProcess[str]:
    process = _start(shop, how)
    out, error = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def _main(root: Path, how: str) -> None:
    shop = Shop(root, 0)
    shop.images = dict(line.split("\t") for line in (root / "items.tsv").read_text().splitlines())
    if how == "full":
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        try:
            shop.run(commit_rows=1500)
        except StoreError as error:
            sys.stdout.write(f"StoreError: {error}\n")
            sys.exit(3)
        return
    shop.run(
        Logged(log=root / "encoded.log"),
        commit_rows=KILL_COMMIT,
        progress=lambda progress: os.write(1, f"{progress.stage}\n".encode()) and None,
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
