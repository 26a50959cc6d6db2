"""`--engine ray`: the rows of one process out of a local cluster of two nodes, in a folder and on an object store."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from helpers import object_store
from helpers import pool_encoders as pool_world
from helpers.encode_shop import Shop
from helpers.shop import make_shop

import bundlecache as bc
from bundlecache.encode.ray_pool import RayPool
from bundlecache.errors import EncoderError
from bundlecache.project.completion import complete_file
from bundlecache.store import location

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE_BYTES = 100 << 20  # shared memory of a node


def data_files(shop: Shop) -> list[Any]:
    """The files of the first table's newest version."""
    dataset = shop.store.location.dataset(shop.store.location.names()[0])
    return [file for fragment in dataset.get_fragments() for file in fragment.data_files()]


def test_without_ray_or_its_cluster_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    with pytest.raises(EncoderError, match=r"cannot be reached at 127.0.0.1:1: .*refused"):
        RayPool(pool_world.toys, 1, "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EncoderError, match=r"needs the package ray.*\[ray\]"):
        RayPool(pool_world.toys, 1)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store.serving() as url:
        yield url


@pytest.fixture(scope="module")
def cluster(endpoint: str) -> Iterator[None]:
    """Two nodes of one core; a pool uses the cluster that its process is in."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Workers are nice by default: beside other tests they would get next to nothing of a busy machine.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", **object_store.KEYS})
    here = {"PYTHONPATH": os.pathsep.join(sys.path), **object_store.KEYS}  # the workers find the toys
    size = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    nodes = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **size})
    nodes.add_node(**size)
    ray.init(nodes.address, log_to_driver=False, runtime_env={"env_vars": here})
    yield
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_two_nodes_write_to_s3_the_rows_and_receipts_of_one_process(tmp_path: Path, cluster: None, endpoint: str):
    shop = pool_world.make(tmp_path / "ray")
    location.set_location(shop.workspace.store, f"s3://shop/{tmp_path.name}", object_store.options_of(endpoint))
    with RayPool(pool_world.toys, workers=1) as pool:
        assert pool.size == 2
        pool_world.check_equal(pool_world.make(tmp_path / "alone"), shop, pool)
    assert not list(shop.workspace.store.glob("*.lance"))
    assert len({file.path for file in data_files(shop)}) > 2  # of either table, one a worker at least


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_the_sentence_that_one_process_says(tmp_path: Path, cluster: None):
    shop = Shop(tmp_path, 32)  # one block: of several any may come first
    with (
        RayPool(pool_world.broken, workers=1) as pool,
        pytest.raises(EncoderError, match=r"32 items in a row: ValueError: no kernel image"),
    ):
        shop.run_all(*pool.encoders, pool=pool)
    assert shop.errors() == {}
    with pytest.raises(EncoderError, match="names no folder") as caught:
        RayPool(pool_world.missing, workers=1)
    assert caught.value.hint == "type another"


@pytest.mark.slow
def test_a_file_of_bundles_is_completed_by_ray_as_by_one_process(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
):
    shop = bc.open(make_shop(tmp_path / "shop"), quiet=True)
    quick = {"text_stage.steps": 2, "fusion_stage.steps": 2, "fusion_stage.contrastive_steps": 1}
    shop.train("demo", settings=quick, name="first")
    lines = [json.dumps({"bundle_id": f"b{i}", "item_ids": [f"item-{i:02}"]}) for i in range(24)]
    source = tmp_path / "bundles.jsonl"
    source.write_text("\n".join([*lines[:5], "no json", *lines[5:]]))
    monkeypatch.setattr(complete_file, "BLOCK_BUNDLES", 4)
    rows = []
    for engine in complete_file.ENGINES:
        made = shop.complete_file(source, tmp_path / f"{engine}.parquet", 3, engine=engine)
        assert (made.bundles, made.failed) == (25, 1)
        rows.append(pq.read_table(made.path).to_pylist())
    for here, there in zip(*rows, strict=True):  # another number of threads adds up in another order
        assert there.pop("probabilities") == pytest.approx(here.pop("probabilities"), abs=2e-4)
        assert there == here
