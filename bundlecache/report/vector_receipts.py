"""The stored vectors on a run's page: the newest receipts by modality, or why a modality has no vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..catalogue.catalogue import Catalogue
    from ..workspace import WorkspaceFolder

MODALITIES = {"text": "texts", "image": "pictures", "audio": "sounds", "graph": "graphs"}
COLUMNS = {"text": "title", "image": "image", "audio": "audio"}
ENCODERS = {
    "descriptor": "cheap descriptors, not a pretrained network",
    "lightgcn": "a graph network trained on this catalogue's training edges only",
    "open_clip": "pretrained OpenCLIP image encoder, frozen",
    "hf": "pretrained transformers text encoder, frozen",
    "clap": "pretrained CLAP sound encoder, frozen",
    "blip2": "pretrained BLIP-2 image encoder, frozen",
}


def encoded(workspace: WorkspaceFolder, catalogue: Catalogue, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Per modality the newest receipts of the store, or why there is none."""
    from ..store.store import Store

    receipts = Store(workspace.store).receipts() if workspace.store.is_dir() else []
    used = {encoder["table"] for encoder in manifest["encoders"]}
    rows: list[dict[str, Any]] = []
    for modality, name in MODALITIES.items():
        found = [receipt for receipt in receipts if receipt["modality"] == modality]
        for receipt in found:
            parts = {key: receipt[key] for key in ("encoded", "cached", "failed", "absent")}
            rows.append(
                {
                    "modality": name,
                    "spec": receipt["spec"],
                    "what": ENCODERS.get(receipt["spec"].partition(":")[0], ""),
                    "items": receipt["items"],
                    **parts,
                    "share": (parts["encoded"] + parts["cached"]) / max(receipt["items"], 1),
                    "balances": receipt["items"] == sum(parts.values()),
                    "used": receipt["table"] in used,
                    "missing": None,
                }
            )
        if not found:
            rows.append({"modality": name, "missing": _why_missing(modality, catalogue)})
    return rows


def _why_missing(modality: str, catalogue: Catalogue) -> str:
    if modality == "graph":
        has = len(catalogue.interactions) or len(catalogue.bundles)
    elif modality == "text":
        has = catalogue.titles.any()
    else:
        has = catalogue.column(COLUMNS[modality]).any()
    return "there, but not encoded" if has else f"absent: this catalogue has no {MODALITIES[modality]}"
