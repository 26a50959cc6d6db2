"""Stage A's promises: every item accounted for, nothing encoded twice, nothing lost when the process dies."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from helpers.encode_shop import Nodes, Shop, Titles, Toy, stored

from bundlecache.encode import scan as sources
from bundlecache.encode.progress import Progress
from bundlecache.errors import EncoderError, StoreError
from bundlecache.store.coverage import coverage
from bundlecache.store.table_schema import Identity
from bundlecache.store.tables import COMPACT_FRAGMENTS


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop", 11)


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
    row = next(row for row in coverage(shop.store, shop.catalogue) if row["modality"] == "image")
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
    assert shop.store.current("image").table == Identity.of(other).table_name
    shop.run()
    assert shop.store.current("image").table == Identity.of(Toy()).table_name, "the last run says which table counts"


def test_limit_looks_at_the_first_items_only(shop: Shop) -> None:
    assert shop.run(limit=5).items == 5
    receipt = shop.run()
    assert (receipt.cached, receipt.encoded) == (5, 6)


def test_too_many_errors_stop_the_run_but_lose_nothing(shop: Shop) -> None:
    for i in (3, 5, 7):
        shop.put(f"item-{i}", f"BAD {i}")
    with pytest.raises(EncoderError, match="2 items failed and 1 was allowed"):
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


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA: tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        MemoryError(),
    ],
    ids=repr,
)
def test_memory_that_runs_out_halves_the_batch_and_is_said_once(shop: Shop, error: Exception) -> None:
    class Small(Toy):
        def encode(self, samples: list[bytes]) -> np.ndarray:
            vectors = super().encode(samples)
            if len(samples) > 2 or b"content 7" in samples:
                raise error
            return vectors

    encoder, seen = Small(batch_size=4), list[Progress]()
    receipt = shop.run(encoder, progress=seen.append)
    # 4 is tried once; item 7 does not fit alone, which says nothing about the batches of others
    assert encoder.batches == [4, 2, 2, 2, 2, 1, 1, 2, 1]
    assert (receipt.encoded, receipt.failed, receipt.batch_size) == (10, 1, 2)
    assert shop.errors().keys() == {"item-7"}
    assert shop.errors()["item-7"][0] == "encode"
    assert {progress.note for progress in seen if progress.note} == {
        "memory ran out: toy:bytes goes on with --batch-size 2"
    }


def test_a_file_that_changes_while_it_is_read_gets_no_old_hash(shop: Shop) -> None:
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
    monkeypatch.setattr(sources, "STABLE_AFTER_NS", 0)  # else files of this second are not trusted, and read again
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


@pytest.mark.parametrize(
    ("changes", "flag"),
    [({"device": "cpu"}, "--device cuda, or --batch-size"), ({"device": "cuda:1"}, "--batch-size"), ({}, "cpu,cpu")],
)
def test_the_flag_that_would_help_is_one_that_does_something_for_this_encoder(
    shop: Shop, changes: dict[str, str], flag: str
) -> None:
    class Slow(Toy):
        def encode(self, samples: list[bytes]) -> np.ndarray:
            time.sleep(0.02)
            return super().encode(samples)

    seen: list[Progress] = []
    shop.run(Slow(**changes), progress=seen.append)
    assert seen[-1].bound_by == "forward"
    assert flag in seen[-1].advice
    assert ("cuda," in seen[-1].spent) == (changes == {"device": "cpu"})


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
    child = shop.start(__file__)
    out, error = child.communicate(timeout=120)
    assert child.returncode == 3, error
    assert re.fullmatch(r"StoreError: The store \S+ cannot be written: .*File too large.*\n", out), out
    assert shop.store.current("image").rows >= 11
    before = shop.store.current("image").rows
    receipt = shop.run()
    assert (receipt.cached, receipt.encoded) == (before, 2011 - before)


def _run_on_a_small_disk(root: Path) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    try:
        Shop.reopen(root).run(commit_rows=1500)
    except StoreError as error:
        sys.stdout.write(f"StoreError: {error}\n")
        sys.exit(3)


if __name__ == "__main__":
    _run_on_a_small_disk(Path(sys.argv[1]))
