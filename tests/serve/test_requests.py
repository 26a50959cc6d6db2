"""Every endpoint answers what it promises, and every bad request gets one sentence and harms nothing."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import zlib
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from helpers.server import serving

from bundlecache.serve.errors import install
from bundlecache.serve.guards import Guards
from bundlecache.serve.metrics import Metrics
from bundlecache.serve.settings import ServeSettings

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.server import Client


def bomb() -> str:
    """A PNG of a few kilobytes that claims 30,000 x 30,000 pixels."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "PNG")
    raw = bytearray(out.getvalue())
    raw[16:24] = (30_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return base64.b64encode(bytes(raw)).decode()


def test_items_are_browsed_searched_by_words_and_by_meaning(server: Client):
    page = server.get("/items?size=10").json
    assert (page["total"], page["pages"], page["searched"], len(page["items"])) == (24, 3, "all", 10)
    seen = [item["id"] for n in (1, 2, 3) for item in server.get(f"/items?size=10&page={n}").json["items"]]
    assert len(set(seen)) == 24
    words = server.get("/items?q=WARM%20mug").json
    assert words["searched"] == "words"
    assert all("warm mug" in item["title"] for item in words["items"])
    meaning = server.get("/items?q=warmest").json
    assert meaning["searched"] == "meaning"
    assert "warm" in meaning["items"][0]["title"]
    mugs = server.get("/items?category=mug&size=50").json
    assert {item["category"] for item in mugs["items"]} == {"mug"}


def test_an_item_its_picture_and_its_sound(server: Client):
    item = server.get("/items/item-04").json
    assert (item["title"], item["category"], item["price"]) == ("warm lamp 4", "lamp", None)
    picture = server.get(item["image"] + "?size=64")
    assert (picture.status, picture.headers["content-type"], picture.body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    again = server.get(item["image"] + "?size=64", if_none_match=picture.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    sound = server.get(item["sound"])
    assert (sound.headers["content-type"], sound.body[:4]) == ("audio/wav", b"RIFF")
    assert server.get(item["sound"], range="bytes=0-3").body == b"RIFF", "players ask for parts"
    assert server.get("/items/item-05").json["image"] is None


def test_similar_items_runs_catalogue_and_health(server: Client, trained: Path):
    similar = server.get("/similar/item-04?modality=image&k=3").json["items"]
    assert len(similar) == 3
    assert all(int(row["item"]["id"][-2:]) % 2 == 0 for row in similar), "even items are red, odd ones blue"
    (run,) = server.get("/runs").json
    assert (run["name"], run["latest"]) == ("first", True)
    assert server.get("/runs/first/report").status == 404
    (trained / "runs" / "first" / "report.html").write_text("<h1>figures</h1>", "utf-8")
    assert server.get("/runs/first/report").body == b"<h1>figures</h1>"
    about = server.get("/catalogue").json
    assert (about["items"], about["modalities"]) == (24, ["text", "image"])
    assert {row["name"]: row["items"] for row in about["categories"]} == dict.fromkeys(
        ("lamp", "bell", "mug", "chime"), 6
    )
    assert server.get("/health/live").json["status"] == "live"
    assert all(path.stat().st_mode & 0o044 for path in (trained / "runs").rglob("*")), "a server may be another user"
    assert server.get("/health/ready").json["run"] == "first"
    assert "bundlecache_request_seconds_bucket" in server.get("/metrics").body.decode()
    assert "ranked by" in server.get("/metrics-summary").body.decode()


def test_openapi_describes_every_request_with_examples(server: Client):
    described = server.get("/openapi.json").json
    assert {"/complete", "/complete/batch", "/items", "/similar/{item_id}", "/runs", "/reload"} <= {
        path.replace(":path", "") for path in described["paths"]
    }
    assert "examples" in json.dumps(described["components"]["schemas"]["CompleteRequest"])
    assert b"POST /complete" in server.get("/docs").body


BAD = {
    "malformed JSON": ("POST", "/complete", b"{", 422, "JSON"),
    "no JSON at all": ("POST", "/complete", b"\x00\xff", 422, "JSON"),
    "deep JSON": ("POST", "/complete", b"[" * 100_000, 400, "cannot be parsed"),
    "wrong type": ("POST", "/complete", {"items": 3}, 422, "items"),
    "no items": ("POST", "/complete", {"items": []}, 422, "items"),
    "a number among ids": ("POST", "/complete", {"items": [7]}, 422, "items.0"),
    "k of nought": ("POST", "/complete", {"items": ["item-01"], "k": 0}, 422, "k:"),
    "a huge k": ("POST", "/complete", {"items": ["item-01"], "k": 10**9}, 422, "k:"),
    "a misspelt field": ("POST", "/complete", {"items": ["item-01"], "exlude": []}, 422, "exlude"),
    "unknown id": ("POST", "/complete", {"items": ["item-99"]}, 400, "item-99"),
    "HTML and control characters": (
        "POST",
        "/complete",
        {"items": ["<script>\x1b[31m\n"]},
        400,
        "none of the 24 items",
    ),
    "10,000 items": ("POST", "/complete", {"items": ["item-01"] * 10_000}, 422, "10,000 items"),
    "a bad condition": ("POST", "/complete", {"items": ["item-01"], "filter": ["cheap"]}, 400, "no condition"),
    "a filter that nothing fulfils": (
        "POST",
        "/complete",
        {"items": ["item-01"], "filter": ["category=x"]},
        400,
        "None",
    ),
    "unknown run": ("POST", "/complete", {"items": ["item-01"], "run": "../first"}, 404, "run"),
    "a user nobody reads of": ("POST", "/complete", {"items": ["item-01"], "user": "user-1"}, 400, "history"),
    "an empty new item": ("POST", "/complete", {"items": [{}]}, 400, "neither a title nor an image"),
    "no base64": ("POST", "/complete", {"items": [{"image": "@@@"}]}, 422, "base64"),
    "no picture": ("POST", "/complete", {"items": [{"image": "aGVsbG8="}]}, 400, "no picture"),
    "half a character": ("POST", "/complete", b'{"items": [{"title": "\\ud800"}], "\\ud800": 1}', 422, ""),
    "a picture bomb": ("POST", "/complete", {"items": [{"image": bomb()}]}, 400, "more than 40,000,000 pixels"),
    "too large a body": ("POST", "/complete", b" " * (17 << 20), 413, "16 MiB"),
    "path traversal": ("GET", "/items/" + quote("../../../etc/passwd", safe="") + "/image", None, 404, "no item"),
    "traversal of the page": ("GET", "/page/..%2f..%2fapp.py", None, 404, "nothing"),
    "traversal of a report": ("GET", "/runs/..%2f..%2f/report", None, 404, ""),
    "unknown item": ("GET", "/items/nothing", None, 404, "nothing"),
    "unknown modality": ("GET", "/similar/item-01?modality=smell", None, 400, "smell"),
    "unknown address": ("GET", "/nowhere", None, 404, "nothing at this address"),
    "wrong method": ("GET", "/complete", None, 405, "GET"),
    "a page of nought": ("GET", "/items?page=0", None, 422, "page"),
    "a price that is none": ("GET", "/items?min_price=nan", None, 422, "min_price"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_one_sentence(server: Client, name: str):
    method, path, body, status, said = BAD[name]
    answer = server.ask(method, path, body)
    assert answer.status == status, answer.body[:300]
    assert set(answer.json) == {"error", "hint"}
    assert said in answer.json["error"]
    assert "Traceback" not in answer.body.decode()
    assert "\x1b" not in answer.json["error"]
    assert answer.headers["content-type"].startswith("application/json")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_without_a_length_is_cut_off_where_it_is_too_large(server: Client):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    chunks = (b"x" * (1 << 20) for _ in range(100))
    try:
        connection.request("POST", "/complete", chunks, {"content-type": "application/json"}, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # cut off before all was sent
    finally:
        connection.close()
    assert server.get("/health/ready").status == 200


def test_a_name_that_is_not_of_this_machine_is_not_answered(server: Client):
    """A web page elsewhere could otherwise reach a server on loopback by a name of its own (DNS rebinding)."""
    assert server.get("/items", host="evil.example").status == 400
    assert server.get("/items", host="localhost:99").status == 200
    assert server.ask("POST", "/reload", sec_fetch_site="cross-site").status == 403
    for probe in ("/health/live", "/health/ready"):  # an orchestrator names the address of the container
        assert server.get(probe, host="10.0.0.7:8000").status == 200


def test_a_body_that_comes_byte_by_byte_has_one_time_limit_for_all_of_it():
    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    async def dripping():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    sent = []

    async def send(message):
        sent.append(message)

    guards = Guards(app, ServeSettings("shop", timeout_seconds=0.3), Metrics())
    scope = {"type": "http", "method": "POST", "path": "/complete", "headers": [(b"host", b"localhost")]}
    asyncio.run(asyncio.wait_for(guards(scope, dripping, send), 20))
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]) == (
        408,
        "The body of the request comes too slowly.",
    )


def test_a_bug_is_one_sentence_too(tmp_path: Path):
    app, sent = FastAPI(), []
    install(app, tmp_path)
    app.add_api_route("/", lambda: 1 / 0)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}

    async def send(message):
        sent.append(message)

    with pytest.raises(ZeroDivisionError):  # on to the log
        asyncio.run(app(scope, None, send))
    assert (sent[0]["status"], set(json.loads(sent[1]["body"]))) == (500, {"error", "hint"})


def test_a_token_opens_everything_but_the_page_and_health(trained: Path):
    with serving(trained, token="secret") as client:
        assert client.get("/items").status == 200
        stranger = type(client)(client.port)
        refused = stranger.get("/items")
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert stranger.get("/items", authorization="Bearer secreT").status == 401
        assert stranger.get("/metrics").status == 401
        assert [stranger.get(path).status for path in ("/", "/health/live", "/health/ready")] == [200, 200, 200]
