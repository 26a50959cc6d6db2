"""The endpoints that show the catalogue: items, their pictures and sounds, similar items, categories and runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from ..errors import MediaError
from . import media
from .answers import ERRORS, CatalogueAnswer, Item, ItemPage, RunAnswer, SimilarAnswer
from .errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from ..project.serving.resident import Resident
    from .state import Serving

router = APIRouter(responses=ERRORS)
MAX_PAGE = 1_000_000
MODALITIES = {"image": "image", "sound": "audio"}
CACHED = "private, max-age=3600"


def _resident(request: Request) -> Resident:
    serving: Serving = request.app.state.serving
    return serving.ready()


@router.get("/catalogue", tags=["catalogue"], response_model=CatalogueAnswer)
async def catalogue(request: Request) -> Any:
    """What the catalogue holds: categories, prices, columns to filter by, and stored modalities."""
    resident = _resident(request)
    prices = resident.shown.prices[np.isfinite(resident.shown.prices)]
    serving: Serving = request.app.state.serving
    return {
        "name": serving.folder.root.resolve().name,
        "items": len(resident.catalogue),
        "categories": [{"name": name, "items": count} for name, count in resident.search.categories],
        "prices": {"min": float(prices.min()), "max": float(prices.max())} if len(prices) else None,
        "columns": list(resident.catalogue.columns),
        "modalities": list(dict.fromkeys(matrix.modality for matrix in resident.matrices.values())),
    }


@router.get("/items", tags=["catalogue"], response_model=ItemPage)
async def items(
    request: Request,
    q: Annotated[
        str, Query(max_length=200, description="Words of the title; what has none of them is searched by meaning.")
    ] = "",
    category: Annotated[str | None, Query(max_length=500)] = None,
    min_price: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    max_price: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    page: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1,
    size: Annotated[int, Query(ge=1, le=200)] = 24,
) -> Any:
    """A page of items, the popular ones first."""
    resident = _resident(request)
    found = await asyncio.to_thread(
        resident.search.find,
        q,
        category=category,
        min_price=min_price,
        max_price=max_price,
        page=page,
        size=size,
    )
    return {
        "items": [resident.shown.of(item) for item in found.items.tolist()],
        "page": page,
        "pages": max(1, -(-found.total // size)),
        "total": found.total,
        "searched": found.searched,
    }


@router.get("/items/{item_id:path}/image", tags=["catalogue"], response_class=Response)
async def image(request: Request, item_id: str, size: Annotated[int, Query(ge=16, le=1024)] = 256) -> Response:
    """The picture of an item as a small JPEG."""
    path = _media(request, item_id, "image")
    rounded = media.rounded(size)
    try:
        tag = media.etag(path, rounded)
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag, "cache-control": CACHED})
        serving: Serving = request.app.state.serving
        async with serving.decoding:
            body = await asyncio.to_thread(media.thumbnail, path, rounded, tag)
    except MediaError as error:
        raise RequestError(404, f"The picture of this item cannot be shown: {error.message}.", None) from error
    return Response(body, media_type="image/jpeg", headers={"etag": tag, "cache-control": CACHED})


@router.get("/items/{item_id:path}/sound", tags=["catalogue"], response_class=Response)
async def sound(request: Request, item_id: str) -> Response:
    """The sound of an item."""
    path = _media(request, item_id, "sound")
    try:
        tag = media.etag(path)
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag, "cache-control": CACHED})
        if await asyncio.to_thread(media.is_playable, path):  # in parts too, as players ask for it
            kind = media.SOUNDS[path.suffix.lower()]
            return FileResponse(path, media_type=kind, headers={"etag": tag, "cache-control": CACHED})
        body = await asyncio.to_thread(media.flac, path)
    except MediaError as error:
        raise RequestError(404, f"The sound of this item cannot be played: {error.message}.", None) from error
    return Response(body, media_type="audio/flac", headers={"etag": tag, "cache-control": CACHED})


@router.get("/items/{item_id:path}", tags=["catalogue"], response_model=Item)
async def item(request: Request, item_id: str) -> Any:
    """One item."""
    resident = _resident(request)
    return resident.shown.of(_index(resident, item_id))


@router.get("/similar/{item_id:path}", tags=["catalogue"], response_model=SimilarAnswer)
async def similar(
    request: Request,
    item_id: str,
    modality: Annotated[str | None, Query(max_length=200)] = None,
    k: Annotated[int, Query(ge=1, le=100)] = 10,
) -> Any:
    """The items nearest to one, by one modality or by all stored ones."""
    resident = _resident(request)
    index = _index(resident, item_id)
    found, scores = await asyncio.to_thread(resident.similar, index, k, modality)
    pairs = zip(found, scores, strict=True)
    return {"items": [{"item": resident.shown.of(i), "similarity": s} for i, s in pairs], "modality": modality}


@router.get("/runs", tags=["runs"], response_model=list[RunAnswer])
async def runs(request: Request) -> Any:
    """The finished runs of the workspace."""
    serving: Serving = request.app.state.serving
    return await asyncio.to_thread(serving.runs)


@router.get("/runs/{name}/report", tags=["runs"], response_class=HTMLResponse)
async def report(request: Request, name: str) -> Response:
    """The report of a run, as `bundlecache report` wrote it."""
    serving: Serving = request.app.state.serving
    serving.ready()
    if name not in set(serving.folder.run_names()):
        raise RequestError(404, f"There is no run {name[:80]!r}; GET /runs lists them.", None)
    path = serving.folder.run(name) / "report.html"
    if not path.is_file():
        raise RequestError(404, f"Run {name} has no report yet.", f"bundlecache report --run {name}")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; media-src data:"
    body = await asyncio.to_thread(path.read_bytes)
    return HTMLResponse(body, headers={"content-security-policy": f"sandbox allow-scripts; {policy}"})


def _index(resident: Resident, item_id: str) -> int:
    index = resident.catalogue.item_ids.position(item_id)
    if index < 0:
        raise RequestError(404, f"There is no item {item_id[:80]!r} in this catalogue.", "GET /items lists them")
    return index


def _media(request: Request, item_id: str, kind: str) -> Path:
    """The file of an item's picture or sound: what its row in the items table names, and nothing that a request says."""
    resident = _resident(request)
    serving: Serving = request.app.state.serving
    cell = resident.catalogue.column(MODALITIES[kind])[_index(resident, item_id)]
    if not cell:
        raise RequestError(404, f"This item has no {kind}.", None)
    try:
        return serving.folder.media(cell)
    except MediaError as error:
        raise RequestError(404, f"The {kind} of this item cannot be shown.", None) from error
