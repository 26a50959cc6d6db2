"""Adapting an encoder: losses as the libraries have them, exact gradients, honest measures, and a result that is an encoder."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import checkpoints as tiny
from helpers.adapt_shop import make_adapt_shop
from safetensors.torch import load_file

import bundlecache as bc
from bundlecache.errors import BundlecacheError
from bundlecache.features import registry
from bundlecache.features.adapt import losses, retrieval
from bundlecache.features.adapt.folder import SideOfAdapted, base_spec, write_manifest
from bundlecache.features.adapt.loop import Adaptation
from bundlecache.features.adapt.pair import Pair
from bundlecache.features.adapt.pairs import make_pairs, same_titles
from bundlecache.features.adapt.sides import StoredSide, projection_of
from bundlecache.features.stored_vectors import StoredVectorsEncoder
from bundlecache.recipes import adapt_recipe
from bundlecache.vector_math import unit_rows

FAST = ["training.epochs=2", "training.batch=32", "training.head_lr=0.01", "training.save_minutes=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapt_shop(tmp_path_factory.mktemp("adapt") / "shop")


@pytest.fixture(scope="module")
def shop(folder: Path) -> bc.Workspace:
    return bc.open(folder, quiet=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"open_clip:local-dir:{tiny.open_clip_text_folder(tmp_path_factory.mktemp('towers') / 'clip')}"


def unit_pairs(n: int = 24, d: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.nn.functional.normalize(torch.randn(n, d), dim=-1).requires_grad_() for _ in range(2)]


def values(loss: torch.Tensor, *inputs: torch.Tensor) -> list[np.ndarray]:
    gradients = torch.autograd.grad(loss, inputs)
    return [loss.detach().numpy(), *(gradient.numpy() for gradient in gradients)]


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_losses_and_gradients_are_those_of_open_clip(kind: str):
    from open_clip.loss import ClipLoss, SigLipLoss

    image, text = unit_pairs()
    scale, bias = torch.tensor(12.0, requires_grad=True), torch.tensor(-9.0, requires_grad=True)
    inputs = (image, text, scale, bias) if kind == "sigmoid" else (image, text, scale)
    ours = values(losses.contrastive(kind, image, text, scale, bias, torch.arange(24)), *inputs)
    theirs = values((SigLipLoss() if kind == "sigmoid" else ClipLoss())(*inputs), *inputs)
    for mine, his in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, his, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), [("clip", "softmax"), ("siglip", "sigmoid")])
def test_losses_and_gradients_are_those_of_transformers(tmp_path: Path, family: str, kind: str):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(getattr(tiny, f"{family}_folder")(tmp_path / family)).eval()
    torch.manual_seed(0)
    inputs = {"pixel_values": torch.randn(6, 3, 32, 32), "input_ids": torch.randint(3, 30, (6, 8))}
    out = model(**inputs, return_loss=True)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    bias = getattr(model, "logit_bias", torch.zeros(()))
    embedded = (out.image_embeds, out.text_embeds)
    ours = losses.contrastive(kind, *embedded, model.logit_scale.exp(), bias, torch.arange(6))
    mine = torch.autograd.grad(ours, weights, retain_graph=True, allow_unused=True)
    his = torch.autograd.grad(out.loss, weights, allow_unused=True)
    assert ours.item() == pytest.approx(out.loss.item(), abs=1e-5)
    for one, other in zip(mine, his, strict=True):
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_titles_that_say_the_same_are_no_negatives(kind: str):
    image, text = unit_pairs(4)
    group = torch.tensor([0, 0, 1, 2])
    loss = losses.contrastive(kind, image, text, torch.tensor(5.0), torch.tensor(-1.0), group)
    logits = (5 * image @ text.T - 1).detach().requires_grad_()
    same = group[:, None] == group[None]
    same.fill_diagonal_(False)
    kept = getattr(losses, kind)(logits, same)
    assert loss.item() == pytest.approx(kept.item())
    (gradient,) = torch.autograd.grad(kept, logits)
    assert gradient[0, 1] == gradient[1, 0] == 0
    assert (gradient[~same] != 0).all()


def test_same_titles_differ_in_numbers_order_and_one_word_of_many_only():
    titles = ["Oak chair 30 cm", "chair OAK, cm", "oak chair", "a b c d e", "e d c b a f", "a b c d x", "", "12", "12 "]
    assert same_titles(titles).tolist() == [0, 0, 1, 2, 2, 3, 4, 5, 5]


def test_held_out_pairs_are_frozen_and_share_no_title_with_training(shop: bc.Workspace, tmp_path: Path):
    has = np.ones(len(shop.catalogue), bool)
    pairs = make_pairs(shop.catalogue, has, tmp_path)
    sides = [set(pairs.group[side].tolist()) for side in (pairs.train, pairs.valid, pairs.test)]
    assert [len(side) for side in sides] == [76, 10, 10]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    again = make_pairs(shop.catalogue, has, tmp_path, seed=5)  # what is frozen stays, whatever the seed
    np.testing.assert_array_equal(pairs.test, again.test)
    file = tmp_path / "held_out.json"
    file.write_text(file.read_text().replace(json.loads(file.read_text())["test"][0], "other"))
    with pytest.raises(BundlecacheError, match="changed by hand"):
        make_pairs(shop.catalogue, has, tmp_path)


ALONE = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))


def adaptation(pairs: object, *, seed: int = 0, accelerator: object = ALONE, **training: object) -> Adaptation:
    """Random stored vectors with a projection on each side."""
    rng = np.random.default_rng(seed)
    sides = []
    for modality in ("image", "text"):
        vectors = rng.normal(size=(96, 12)).astype(np.float32)
        sides.append(StoredSide(modality, vectors, projection_of(vectors, 8, identity=False)))
    recipe = adapt_recipe.from_dict(
        {"training": {"batch": 24, "epochs": 2, "head_lr": 0.01, "loss": "sigmoid", **training}}
    )
    log = SimpleNamespace(add=lambda *_, **__: None, lines=0)
    return Adaptation(Pair(*sides, 10.0, -10.0), pairs, recipe, accelerator, log, SimpleNamespace(reason=None))


def test_small_pieces_give_the_gradients_of_the_whole_batch(shop: bc.Workspace, tmp_path: Path):
    pairs = make_pairs(shop.catalogue, np.ones(96, bool), tmp_path)
    whole, pieces = adaptation(pairs), adaptation(pairs, micro_batch=5)
    items = whole.batches.of_step(0)
    assert whole.gradients(items) == pytest.approx(pieces.gradients(items), abs=1e-6)
    for (name, one), two in zip(whole.pair.named_parameters(), pieces.pair.parameters(), strict=True):
        np.testing.assert_allclose(one.grad, two.grad, atol=1e-6, err_msg=name)


def test_hard_negatives_are_the_nearest_pictures_of_other_titles(shop: bc.Workspace, tmp_path: Path):
    from bundlecache.features.adapt.sampling import Batches, nearest_pictures

    pairs = make_pairs(shop.catalogue, np.ones(96, bool), tmp_path)
    angle = np.arange(len(pairs.train)) * 0.01
    near = nearest_pictures(np.stack([np.cos(angle), np.sin(angle)], 1), np.arange(len(angle)) // 2)
    assert set(near[10][:4].tolist()) == {8, 9, 12, 13}  # 11 says the same
    batch = Batches(pairs, 8, hard=1, neighbours=near).of_step(0)
    assert len(set(batch.tolist())) == 8
    places = [int(np.flatnonzero(pairs.train == item)[0]) for item in batch]
    assert all(place in near[first] for first, place in zip(places[:4], places[4:], strict=True))


def test_ranks_count_ties_and_missing_numbers_against_a_pair():
    assert retrieval.ranks_of_own(np.eye(3), np.eye(3)).tolist() == [1, 1, 1]
    assert retrieval.ranks_of_own(np.ones((3, 2)), np.ones((3, 2))).tolist() == [3, 3, 3]
    assert retrieval.ranks_of_own(np.full((3, 2), np.nan), np.ones((3, 2))).tolist() == [3, 3, 3]
    assert retrieval.measure(np.ones((3, 2)), np.ones((3, 2)))[0].collapsed


def test_a_head_is_learned_without_an_encoder_call(shop: bc.Workspace, monkeypatch: pytest.MonkeyPatch):
    """Titles name colours and shapes, so a projection of picture vectors finds them; numbers by construction."""
    for modality, spec in (("image", "descriptor:picture"), ("text", "descriptor:text")):
        shop.encode(modality, encoder=spec)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "load", lambda *_, **__: pytest.fail("an encoder was loaded"))
        how = {"text_encoder": "descriptor:text", "recipe": "adapt-head", "overwrite": True}
        made = shop.adapt("descriptor:picture", name="head", settings=[*FAST, "training.epochs=20"], **how)
    assert made.encoder == "adapted:head"
    assert made.epochs[0].epoch == 0
    assert made.epochs[made.kept].valid.mrr > made.epochs[0].valid.mrr + 0.1
    assert made.gain[0] > 0
    assert "better than the untrained pair" in made.verdict[0]
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert manifest["sides"]["image"]["parent"] == "descriptor:picture"
    with monkeypatch.context() as patch:
        patch.setattr(StoredVectorsEncoder, "parent_encoder", lambda _: pytest.fail("the parent was loaded"))
        receipts = shop.encode(encoder="adapted:head")  # the manifest knows its modalities
    assert {receipt.modality: (receipt.encoded, receipt.forwards) for receipt in receipts} == {
        "image": (96, 0),
        "text": (96, 0),
    }
    stored = shop.store.matrix(shop.catalogue.item_ids, "image", "descriptor:picture").vectors
    weight = load_file(made.path / "projections.safetensors")["image"].numpy()
    vectors = shop.store.matrix(shop.catalogue.item_ids, "image", "adapted:head")
    np.testing.assert_array_equal(vectors.vectors, (stored.astype(np.float32) @ weight.T).astype(np.float16))
    encoder = registry.load("adapted:head", modality="image", catalogue=shop.catalogue, workspace=shop.folder.root)
    item = int(np.flatnonzero(np.array(list(shop.catalogue.column("image"))) == "images/red-plate.png")[0])
    new = encoder.encode([encoder.prepare(encoder.read(shop.folder.root / "images/red-plate.png"))])
    np.testing.assert_allclose(new[0], vectors.vectors[item], atol=2e-3)  # a picture that is not stored
    assert vectors.fingerprint != shop.store.current("image", "descriptor:picture").fingerprint


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_learned_tower_is_an_encoder_and_a_frozen_one_stays_as_it_was(shop: bc.Workspace, clip: str, mode: str):
    settings = [*FAST, "training.lr=3e-3"]
    made = shop.adapt(
        clip, name=mode, image=mode, text="frozen", settings=settings, recipe="adapt-head", others=[shop.folder.root]
    )
    assert [list(epoch.probes) for epoch in made.epochs] == [["MRR in shop"]] * 3
    before = load_file(Path(clip.partition("local-dir:")[2]) / "open_clip_model.safetensors")
    after = load_file(made.path / "model/open_clip_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("visual.") for name in changed)
    assert before.keys() == after.keys()
    parent = registry.load(clip, modality="image", catalogue=shop.catalogue)
    tuned = registry.load(f"adapted:{mode}", modality="image", catalogue=shop.catalogue, workspace=shop.folder.root)
    sample = [parent.prepare(parent.read(shop.folder.root / "images/red-plate.png"))]
    assert tuned.fingerprint != parent.fingerprint
    assert np.abs(tuned.encode(sample) - parent.encode(sample)).max() > 1e-3
    again = registry.load(str(f"open_clip:local-dir:{made.path}/model"), modality="image", catalogue=shop.catalogue)
    np.testing.assert_array_equal(again.encode(sample), tuned.encode(sample))
    shop.encode("image", encoder=[clip, f"adapted:{mode}"])
    (moved,) = shop.drift(["image"], start=clip)
    both = [shop.store.matrix(shop.catalogue.item_ids, "image", spec).vectors for spec in (clip, f"adapted:{mode}")]
    old, new = (unit_rows(vectors.astype(np.float64)) for vectors in both)
    assert (moved.kept, moved.changed) == (0, 96)
    assert moved.cosine_mean == pytest.approx((old * new).sum(axis=1).mean(), abs=1e-3)


def test_a_text_tower_learns_beside_stored_pictures_in_bfloat16(shop: bc.Workspace, tmp_path: Path):
    """LiT the other way round: BERT learns by LoRA in bfloat16, and the pictures are read from the store as they are."""
    from transformers import AutoModel

    shop.encode("image", encoder="descriptor:picture")
    source = tiny.bert_folder(tmp_path / "bert")
    settings = [*FAST, "training.epochs=6", "training.lr=1e-2", "training.precision=bfloat16"]
    how = {"image": "frozen", "text": "lora", "settings": settings}
    made = shop.adapt("descriptor:picture", text_encoder=f"hf:{source}", name="lit", **how)
    assert made.encoder, made.verdict
    manifest = json.loads((made.path / "manifest.json").read_text())
    assert [manifest["sides"][name]["folder"] for name in ("image", "text")] == ["", "text"]
    before, after = (AutoModel.from_pretrained(place).state_dict() for place in (source, made.path / "text"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("encoder.layer" in name and name.endswith("weight") for name in changed)
    assert {receipt.modality for receipt in shop.encode(encoder="adapted:lit")} == {"image", "text"}
    parent, picture = (
        shop.store.matrix(shop.catalogue.item_ids, "image", spec).vectors
        for spec in ("descriptor:picture", "adapted:lit")
    )
    np.testing.assert_array_equal(parent, picture)
    assert shop.store.matrix(shop.catalogue.item_ids, "text", "adapted:lit").vectors.shape[1] == parent.shape[1]


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_towers_of_transformers_are_saved_as_transformers_reads_them(shop: bc.Workspace, tmp_path: Path, family: str):
    from transformers import AutoModel

    source = getattr(tiny, f"{family}_folder")(tmp_path / family)
    settings = [*FAST, "training.lr=1e-3", f"training.loss={'sigmoid' if family == 'siglip' else 'softmax'}"]
    made = shop.adapt(f"hf:{source}", name=family, image="full", text="full", settings=settings, recipe="adapt-head")
    assert made.encoder is not None, "an epoch is better than the random towers, so that something is saved"
    whole = AutoModel.from_pretrained(made.path / "model").eval()
    old = AutoModel.from_pretrained(source)
    assert whole.state_dict().keys() == old.state_dict().keys()
    for modality, mark in (("image", "vision"), ("text", "text")):
        same = [torch.equal(v, old.state_dict()[k]) for k, v in whole.state_dict().items() if mark in k]
        assert not all(same), modality
        registry.load(f"adapted:{family}", modality=modality, catalogue=shop.catalogue, workspace=shop.folder.root)


def test_a_collapse_is_noticed_said_and_not_saved(shop: bc.Workspace, clip: str):
    made = shop.adapt(
        clip, name="broken", image="full", text="full", settings=[*FAST, "training.lr=1.0"], recipe="adapt-head"
    )
    assert made.kept == 0
    assert made.encoder is None
    assert "nothing was saved" in made.verdict[0]
    assert any("collapsed" in sentence for sentence in made.verdict)
    assert not (made.path / "manifest.json").exists()
    with pytest.raises(BundlecacheError, match="not better than its parent"):
        shop.encode("image", encoder="adapted:broken")


def test_a_stopped_adaptation_goes_on_to_the_same_bits(shop: bc.Workspace, clip: str):
    how = {"image": "full", "text": "head", "recipe": "adapt-head", "settings": [*FAST, "training.lr=1e-3"]}
    whole = shop.adapt(clip, name="whole", **how)
    shop.adapt(clip, name="parts", max_minutes=1e-9, **how)
    assert not (shop.folder.adapted / "parts/manifest.json").exists()
    parts = shop.adapt(resume="parts")
    assert [epoch.to_dict() for epoch in parts.epochs] == [epoch.to_dict() for epoch in whole.epochs]
    for name in ("model/open_clip_model.safetensors", "projections.safetensors"):
        mine, other = (load_file(made.path / name) for made in (whole, parts))
        assert all(torch.equal(mine[key], other[key]) for key in mine | other)


def one_process(rank: int, processes: int, folder: Path, pairs: object, port: int) -> None:
    """Write the gradients that one of several processes has after a step."""
    from accelerate import Accelerator

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ.update(place, WORLD_SIZE=str(processes), RANK=str(rank))
    torch.set_num_threads(1)
    made = adaptation(pairs, micro_batch=5, accelerator=Accelerator(cpu=True))
    loss = made.gradients(made.batches.of_step(0))
    found = {name: parameter.grad for name, parameter in made.pair.named_parameters()}
    torch.save({"loss": loss, **found}, folder / f"{rank}.pt")


def test_two_processes_give_the_gradients_of_one(shop: bc.Workspace, tmp_path: Path):
    """Negatives reach across processes: with those of its own share alone, each would learn something else."""
    pairs = make_pairs(shop.catalogue, np.ones(96, bool), tmp_path)
    one = adaptation(pairs)
    loss = one.gradients(one.batches.of_step(0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(one_process, (2, tmp_path, pairs, port), nprocs=2, start_method="fork")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.pop("loss") == pytest.approx(loss, abs=1e-6)
        for name, parameter in one.pair.named_parameters():
            np.testing.assert_allclose(parameter.grad, found[name], atol=1e-6, err_msg=name)


def test_each_side_of_an_adapted_encoder_goes_back_to_its_own_tower(tmp_path: Path):
    sides = {name: SideOfAdapted("hf:parent", "0", "full", "hf", name, projected=False) for name in ("image", "text")}
    write_manifest(tmp_path, sides, {})
    for name in sides:
        assert base_spec(f"adapted:{tmp_path}", name, None).text == f"hf:{tmp_path.resolve() / name}"


def test_bad_requests_are_one_sentence(shop: bc.Workspace, tmp_path: Path):
    def refused(words: str, *args: object, of: bc.Workspace = shop, **how: object) -> None:
        with pytest.raises(BundlecacheError, match=words):
            of.adapt(*args, name="bad", **how)

    refused("no text tower", "descriptor:picture")
    refused("no encoder 'vgg:16'", "vgg:16")
    refused("Both towers are frozen", "embedded:clip", image="frozen", text="frozen")
    refused("no weights that can be trained", "descriptor:picture", text_encoder="descriptor:text", image="full")
    refused("towers.image is 'half'", "embedded:clip", image="half")
    refused("no adaptation called", resume="nothing")
    few = make_adapt_shop(tmp_path / "few")
    table = pq.read_table(few / "items.parquet")
    pq.write_table(table.slice(0, 3), few / "items.parquet")
    refused("3 pairs of a picture and a title", of=bc.open(few, quiet=True))
    pq.write_table(table.set_column(1, "title", [["thing"] * len(table)]), few / "items.parquet")
    refused("1 title that differs", of=bc.open(few, quiet=True))
    pq.write_table(table.drop_columns(["image"]), few / "items.parquet")
    refused("0 pairs", of=bc.open(few, quiet=True))
