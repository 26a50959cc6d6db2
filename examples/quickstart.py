"""The whole way in Python, cell by cell: open a workspace, encode, search, train, evaluate, complete.

Run it as a script, or open it as a notebook (VS Code, Spyder and Jupytext read the ``# %%`` cells)::

    python examples/quickstart.py [WORKSPACE]

Without a workspace it makes the demo catalogue, a gift shop of 832 items, in a temporary folder. It trains a few steps
only, so that it ends in about a minute; leave ``settings`` out for a model that is worth its name.
"""

# ruff: noqa: T201

# %% Open a workspace: a folder with items, and optionally bundles and interactions.
import sys
import tempfile
from pathlib import Path

import bundlecache as bc

if len(sys.argv) > 1:
    folder = Path(sys.argv[1])
else:
    folder = Path(tempfile.mkdtemp()) / "shop"
    bc.make_demo(folder)

shop = bc.open(folder)
print(shop)
print(shop.catalogue.item_ids[:3], shop.catalogue.titles[:3])

# %% Encode every picture once. The second run finds nothing to do.
receipt = shop.encode(modality="image")[0]
print(f"{receipt.encoded} encoded, {receipt.cached} cached, {receipt.failed} failed, {receipt.absent} absent")
again = shop.encode(modality="image")[0]
print(f"again: {again.encoded} encoded, {again.cached} cached")

# %% The other modalities too: texts, sounds, and the graph of who took what.
shop.encode()

# %% Stored vectors are one memory-mapped array per encoder.
images = shop.vectors("image")
print(images.encoder, images.vectors.shape, f"{images.mask.sum()} items have a picture")

# %% FAISS: the 20 items nearest to each partial test bundle.
found = shop.candidates(k=20)
print(found.candidates.summary())

# %% Train: titles first, then fusion of the cached vectors. No encoder is called any more.
run = shop.train(
    recipe="demo",
    seed=0,
    settings={"text_stage.steps": 20, "fusion_stage.steps": 20, "fusion_stage.contrastive_steps": 20},
)
print(run)

# %% Evaluate on frozen questions, beside simple methods; a row per method, with 95 % intervals.
scores = run.evaluate(["test-random10"], ablation=False)
for row in scores[:5]:
    print(f"{row.method:40} HitRate@1 {row.hit_1:.3f} ({row.hit_1_low:.3f}-{row.hit_1_high:.3f})")

# %% Which items complete this bundle?
partial = [shop.catalogue.item_ids[i] for i in shop.catalogue.bundles.items[0][:2]]
for completion in run.complete(partial, k=3):
    print(completion.rank, completion.item_id, completion.title, completion.probability)
