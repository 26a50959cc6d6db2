"""`--engine ray`: the rows of one process out of a local cluster of two cores."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import pool_encoders as pool_world
from helpers.encode_shop import Shop

from bundlecache.encode.ray_pool import RayPool
from bundlecache.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_without_ray_or_its_cluster_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    with pytest.raises(EncoderError, match=r"cannot be reached at 127.0.0.1:1: .*refused"):
        RayPool(pool_world.toys, 1, "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EncoderError, match=r"needs the package ray.*\[ray\]"):
        RayPool(pool_world.toys, 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two cores; a pool uses the cluster that its process is in."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    here = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}  # the workers find the toys
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1", runtime_env=here)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_ray_leaves_the_rows_failures_and_receipts_of_one_process(tmp_path: Path, cluster: None):
    with RayPool(pool_world.toys, workers=1) as pool:
        assert pool.size == 2
        pool_world.check_equal(pool_world.make(tmp_path / "alone"), pool_world.make(tmp_path / "ray"), pool)


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_the_sentence_that_one_process_says(tmp_path: Path, cluster: None):
    shop = Shop(tmp_path, 40)
    with (
        RayPool(pool_world.broken, workers=1) as pool,
        pytest.raises(EncoderError, match=r"32 items in a row: ValueError: no kernel image"),
    ):
        shop.run_all(*pool.encoders, pool=pool)
    assert shop.errors() == {}
    with pytest.raises(EncoderError, match="names no folder") as caught:
        RayPool(pool_world.missing, workers=1)
    assert caught.value.hint == "type another"
