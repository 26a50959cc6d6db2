"""Hermetic tests: no network, one small workspace made from nothing, one CPU thread."""

from __future__ import annotations

import gc
import os
import socket
from typing import TYPE_CHECKING

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

import pytest
from helpers.paths import TOP
from helpers.shop import make_shop

from bundlecache.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from pathlib import Path


LONGEST = (  # files that take longest begin first, so that no worker waits for another at the end
    "serve/test_page.py",
    "encode/test_ray_pool.py",
    "serve/test_under_load.py",
    "serve/test_requests.py",
    "hostile/test_damaged_files.py",
    "train/test_train_loop.py",
    "train/test_train_resume.py",
    "train/test_train_reference.py",
    "hostile/test_hostile.py",
    "test_cli.py",
    "benchmarks/test_gpu_benchmark.py",
    "hostile/test_surroundings.py",
    "train/test_train_together.py",
    "test_old_workspace.py",
    "bench/test_ablation.py",
    "pretrained/test_import_order.py",
    "hostile/test_kill_everything.py",
    "train/test_answers.py",
    "encode/test_encode_kill.py",
    "hostile/test_small_catalogues.py",
    "store/test_object_store.py",
    "candidates/test_indexes_on_disk.py",
    "encode/test_process_pool.py",
    "train/test_train_records.py",
    "train/test_merge.py",
    "project/test_complete_file.py",
    "catalogue/test_demo.py",
    "project/test_library.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of `LONGEST` first, in its order."""
    place = {str(TOP / "tests" / name): at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look at it again, nor after every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only addresses of this machine may be called: a test that reaches out would break elsewhere."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in ("local", "127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {host}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def workspace(tmp_path: Path) -> WorkspaceFolder:
    """A fresh small shop; see `make_shop`."""
    return WorkspaceFolder(make_shop(tmp_path))


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder must not call home even where the hub is allowed: any look-up of a name fails the test."""
    import huggingface_hub.constants

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"called home: {args[:2]}")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
