"""After a change of the split, a run is weighed and calibrated on the validation questions that it was not trained on."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.runner import succeed
from helpers.server import WAIT_SECONDS, serving

import bundlecache as bc
from bundlecache.baselines.sources import Sources
from bundlecache.bench import method_selection
from bundlecache.catalogue import splits
from bundlecache.project.serving.confidence import FILE

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = ["item-02", "item-04"]


class ChangedShop(NamedTuple):
    root: Path
    every: int  # validation questions of today
    trained_on: int  # of them, about bundles that the run was trained on


@pytest.fixture(scope="module")
def changed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> ChangedShop:
    """Bundles of every second group that the run was trained on are validation bundles now; model and ranker rank together."""
    root = shutil.copytree(trained, tmp_path_factory.mktemp("changed") / "shop")
    before = bc.open(root, quiet=True).catalogue
    part_of = dict(zip(before.bundles.ids, splits.assign(before), strict=True))
    table = pq.read_table(root / "bundles.parquet")
    rows = list(zip(table["bundle_id"].to_pylist(), table["group"].to_pylist(), strict=True))
    groups = sorted({group for bundle, group in rows if part_of[bundle] == "train"})
    moved = {bundle for bundle, group in rows if group in groups[::2]}
    split = ["valid" if bundle in moved else str(part_of[bundle]) for bundle, _ in rows]
    pq.write_table(table.append_column("split", pa.array(split)), root / "bundles.parquet")
    shutil.rmtree(root / "questions")
    (root / "splits.parquet").unlink(missing_ok=True)
    sources = Sources(bc.open(root, quiet=True).catalogue, {})
    method_selection.save(root / "runs" / "first", method_selection.Choice("both", []), sources)
    asked = [bundle for each in sources.validation for bundle in each.bundle_ids]
    assert {part_of[bundle] for bundle in asked} == {"train", "valid"}
    return ChangedShop(root, len(asked), sum(bundle in moved for bundle in asked))


def test_complete_with_both_says_how_many_validation_questions_are_left_out(changed: ChangedShop):
    said = succeed("complete", *GIVEN, "--with", "both", "--data", changed.root).stderr
    expected = f"{changed.trained_on} of {changed.every} validation questions are left out: first was trained on"
    assert expected in " ".join(said.split())


def test_the_server_calibrates_on_the_validation_questions_that_the_run_was_not_trained_on(changed: ChangedShop):
    until = time.monotonic() + WAIT_SECONDS
    with serving(changed.root) as client:
        while (answer := client.complete(GIVEN, k=4).json)["confidence"] is None and time.monotonic() < until:
            time.sleep(0.05)
    unseen = changed.every - changed.trained_on
    assert (answer["run"], answer["method"]) == ("first", "both")
    assert answer["confidence"]["questions"] == unseen
    margins = json.loads((changed.root / "runs" / "first" / FILE).read_text())["margins"]
    assert len(margins) == unseen
    assert (answer["confidence"]["margin_low"], answer["confidence"]["margin_high"]) == pytest.approx(
        (margins[0], margins[-1]), abs=1e-4
    )
    expected = bc.open(changed.root, quiet=True).run("first").complete(GIVEN, k=4, method="both")
    assert [row["item"]["id"] for row in answer["completions"]] == [row.item_id for row in expected]
    assert [row["probability"] for row in answer["completions"]] == pytest.approx(
        [row.probability for row in expected], abs=2e-4
    )
