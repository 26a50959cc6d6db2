"""The endpoints that complete bundles."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from ..errors import BundlecacheError
from .answers import (
    ERRORS,
    BatchAnswer,
    BatchRequest,
    CompleteAnswer,
    CompleteRequest,
    NewItem,
)
from .errors import RequestError, without_folders
from .state import OTHER_RUNS

if TYPE_CHECKING:
    from ..project.serving.resident import Answer, Cart, Resident
    from ..project.serving.why import Why
    from .state import Serving

router = APIRouter(responses=ERRORS)


@router.post("/complete", tags=["complete"], response_model=CompleteAnswer)
async def complete(body: CompleteRequest, request: Request) -> Any:
    """The items that complete a partial bundle best: the index proposes candidates, the model ranks them."""
    serving: Serving = request.app.state.serving
    resident = await serving.chosen(body.run)
    cart = await _cart_of(resident, body, serving.settings.max_items)
    (answer,) = await serving.batcher.ask(resident, [cart], serving.settings.timeout_seconds)
    if isinstance(answer, BundlecacheError):
        raise answer
    return JSONResponse(await _shown(serving, resident, cart, answer, why=body.why))  # made as the model says


@router.post("/complete/batch", tags=["complete"], response_model=BatchAnswer)
async def complete_batch(body: BatchRequest, request: Request) -> Any:
    """Complete many bundles; what is wrong with one of them stands in its place, and the others are answered."""
    serving: Serving = request.app.state.serving
    named = {bundle.run for bundle in body.bundles}
    if len(named) > 1 + OTHER_RUNS:  # all of them would be in memory at once
        raise RequestError(422, f"The bundles name {len(named)} runs; {1 + OTHER_RUNS} are allowed at once.")
    found: list[Any] = [None] * len(body.bundles)
    asked: dict[int, list[tuple[int, Cart]]] = {}
    residents: dict[int, Resident] = {}
    for at, bundle in enumerate(body.bundles):
        made = await _made(serving, bundle)
        if isinstance(made, dict):
            found[at] = made
        else:
            resident, cart = made
            residents[id(resident)] = resident
            asked.setdefault(id(resident), []).append((at, cart))
    for key, carts in asked.items():
        answers = await serving.batcher.ask(
            residents[key], [cart for _, cart in carts], serving.settings.timeout_seconds
        )
        for (at, cart), answer in zip(carts, answers, strict=True):
            if isinstance(answer, BundlecacheError):
                found[at] = _error(serving, answer)
            else:
                found[at] = await _shown(serving, residents[key], cart, answer, why=body.bundles[at].why)
    return await asyncio.to_thread(JSONResponse, {"answers": found})  # megabytes of text


async def _made(serving: Serving, body: CompleteRequest) -> tuple[Resident, Cart] | dict[str, Any]:
    """The resident that answers and the cart of a bundle; the error as JSON where it is none."""
    try:
        resident = await serving.chosen(body.run)
        return resident, await _cart_of(resident, body, serving.settings.max_items)
    except BundlecacheError as error:
        return _error(serving, error)
    except RequestError as error:
        return {"error": error.error, "hint": error.hint}


def _error(serving: Serving, error: BundlecacheError) -> dict[str, Any]:
    """An error as JSON."""
    root = serving.folder.root
    return {"error": without_folders(error.message, root), "hint": error.hint and without_folders(error.hint, root)}


async def _cart_of(resident: Resident, body: CompleteRequest, most: int) -> Cart:
    """`_cart`, in a thread where it takes long: pictures are unpacked, and conditions look at the whole catalogue."""
    if body.filter or body.exclude or not all(isinstance(item, str) for item in body.items):
        return await asyncio.to_thread(_cart, resident, body, most)
    return _cart(resident, body, most)


def _cart(resident: Resident, body: CompleteRequest, most: int) -> Cart:
    """The cart of a request."""
    if len(body.items) > most:
        raise RequestError(
            422, f"The bundle holds {len(body.items):,} items; {most:,} are allowed.", "send fewer items"
        )
    return resident.cart(
        [item if isinstance(item, str) else _read(resident, item) for item in body.items],
        k=body.k,
        exclude=body.exclude,
        where=body.filter,
        user=body.user,
        options=body.options,
    )


def _read(resident: Resident, item: NewItem) -> Any:
    """A new item, its picture unpacked."""
    picture = None
    if item.image is not None:
        try:
            picture = base64.b64decode(
                item.image.partition(",")[2] if item.image[:5] == "data:" else item.image, validate=True
            )
        except ValueError as error:
            raise RequestError(422, "The image of a new item is no base64.", '"image": "iVBORw0..."') from error
    return resident.new_items.read(item.title, picture)


async def _shown(serving: Serving, resident: Resident, cart: Cart, answer: Answer, *, why: bool) -> dict[str, Any]:
    """An answer as JSON."""
    reasons: list[Any] = [None] * len(answer.items)
    if why:
        began = time.perf_counter()
        found = await asyncio.to_thread(resident.explain, cart, answer)
        serving.metrics.steps.labels("why").observe(time.perf_counter() - began)
        reasons = [_reason(resident, cart, each) for each in found]
    completions = [
        {"item": resident.shown.of(item), "rank": rank, "probability": probability, "why": reason}
        for rank, (item, probability, reason) in enumerate(
            zip(answer.items, answer.probabilities, reasons, strict=True), 1
        )
    ]
    return {
        "completions": completions,
        "margin": answer.margin,
        "confidence": None if answer.confidence is None else asdict(answer.confidence),
        "method": answer.method,
        "run": resident.run,
        "store_version": resident.store_version,
        "notes": [without_folders(note, serving.folder.root) for note in answer.notes],
    }


def _reason(resident: Resident, cart: Cart, why: Why) -> dict[str, Any]:
    """Why an item was offered, as JSON."""

    def of(item: int) -> dict[str, Any]:
        count = len(resident.catalogue)
        if item < count:
            return resident.shown.of(item)
        return {"id": "", "title": cart.new[item - count].title or "new item"}

    return {
        "modalities": [{"name": name, "weight": weight} for name, weight in why.modalities],
        "nearest": [{"item": of(near.item), "similarity": near.similarity, "by": near.by} for near in why.nearest],
        "together": [{"item": of(each.item), "bundles": each.bundles, "users": each.users} for each in why.together],
    }
