"""Downloading the pictures that a catalogue names by web address, with limits, on request only.

A catalogue is data from elsewhere. So only http and https are fetched, only from public addresses (the address that is
connected to is the one that was checked, after every redirect), only pictures, and only so much.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...files import replacing

if TYPE_CHECKING:
    from pathlib import Path

SIGNATURES = (  # first bytes of a file -> its suffix
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\x00", ".tiff"),
    (b"MM\x00*", ".tiff"),
)
FOLDER = "images/fetched"
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class FetchLimits:
    """What a download may take: bytes of a picture and of all, seconds of a request and of all, threads."""

    max_file_bytes: int = 20 << 20
    max_total_bytes: int = 20 << 30
    request_seconds: float = 20.0
    total_seconds: float = 4 * 3600.0
    threads: int = 8
    allow_loopback: bool = False  # for tests, which serve pictures on this machine


@dataclass
class FetchReceipt:
    """addresses = fetched + present + failed; ``reasons`` counts the failures by reason."""

    addresses: int = 0
    fetched: int = 0
    present: int = 0
    failed: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


class _Refused(Exception):  # noqa: N818 - a reason, not an error of ours
    """Why an address is not fetched."""


def fetch_images(items: list[dict[str, Any]], root: Path, limits: FetchLimits | None = None) -> FetchReceipt:
    """Download the pictures whose ``image`` cell is a web address, and name the downloaded file in the cell instead.

    An address that fails stays in the cell, and encoding reports it. A picture that was downloaded before is not
    downloaded again.
    """
    limits = limits or FetchLimits()
    started = time.monotonic()
    wanted = {cell: "" for row in items if isinstance(cell := row.get("image"), str) and "://" in cell}
    receipt = FetchReceipt(addresses=len(wanted))
    reasons: Counter[str] = Counter()
    opener = _opener(limits)

    def one(url: str) -> tuple[str, int, str]:
        """Workspace path, bytes (0: was there), reason."""
        if time.monotonic() - started > limits.total_seconds or receipt.size_bytes > limits.max_total_bytes:
            return "", 0, "the limit of all downloads was reached"
        try:
            return *_fetch(url, root, opener, limits), ""
        except _Refused as error:
            return "", 0, str(error)
        except urllib.error.HTTPError as error:
            return "", 0, f"the server answered {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            return "", 0, str(reason) if isinstance(reason, _Refused) else "no connection or a broken answer"

    with ThreadPoolExecutor(limits.threads) as pool:
        for url, (path, size, reason) in zip(wanted, pool.map(one, wanted), strict=True):
            wanted[url] = path
            receipt.size_bytes += size
            if reason:
                receipt.failed += 1
                reasons[reason] += 1
            elif size:
                receipt.fetched += 1
            else:
                receipt.present += 1
    for row in items:
        row["image"] = wanted.get(row.get("image") or "") or row.get("image")
    receipt.reasons = dict(reasons.most_common())
    receipt.seconds = round(time.monotonic() - started, 3)
    return receipt


def _fetch(url: str, root: Path, opener: urllib.request.OpenerDirector, limits: FetchLimits) -> tuple[str, int]:
    scheme = url.split("://", 1)[0].casefold()
    if scheme not in ("http", "https"):
        raise _Refused(f"only http and https are fetched, not {scheme[:20]}")
    stem = hashlib.blake2b(url.encode("utf-8", "replace"), digest_size=12).hexdigest()
    for present in (root / FOLDER).glob(f"{stem}.*"):
        return f"{FOLDER}/{present.name}", 0
    request = urllib.request.Request(url, headers={"User-Agent": "bundlecache", "Accept": "image/*"})  # noqa: S310
    started, data = time.monotonic(), bytearray()
    with opener.open(request, timeout=limits.request_seconds) as answer:
        while chunk := answer.read(CHUNK_BYTES):
            data += chunk
            if len(data) > limits.max_file_bytes:
                raise _Refused(f"larger than {limits.max_file_bytes:,} bytes")
            if time.monotonic() - started > limits.request_seconds:
                raise _Refused(f"slower than {limits.request_seconds:g} seconds")
    suffix = next((suffix for start, suffix in SIGNATURES if data.startswith(start)), "")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        suffix = ".webp"
    elif data[4:12] in (b"ftypavif", b"ftypavis"):
        suffix = ".avif"
    if not suffix:
        raise _Refused("the answer is no picture")
    with replacing(root / FOLDER / f"{stem}{suffix}") as temporary:
        temporary.write_bytes(data)
    return f"{FOLDER}/{stem}{suffix}", len(data)


def _opener(limits: FetchLimits) -> urllib.request.OpenerDirector:
    """An opener that connects to public addresses only, uses no proxy, and knows no file:// and no ftp://."""

    def connect(address: tuple[str, int], timeout: Any = None, *_: Any) -> socket.socket:
        host, port = address
        error: OSError | None = None
        for family, kind, protocol, _name, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            ip = ipaddress.ip_address(str(found[0]).split("%")[0])
            if not (ip.is_global and not ip.is_multicast) and not (limits.allow_loopback and ip.is_loopback):
                raise _Refused("the address is none of the public network")
            plug = socket.socket(family, kind, protocol)
            plug.settimeout(timeout if isinstance(timeout, int | float) else limits.request_seconds)
            try:
                plug.connect(found)
            except OSError as failed:
                plug.close()
                error = failed
                continue
            return plug
        raise error or OSError("no address")

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(_connection(http.client.HTTPConnection, connect), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(_connection(http.client.HTTPSConnection, connect), req)

    opener = urllib.request.OpenerDirector()
    for handler in (
        Http(),
        Https(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _connection(kind: Any, connect: Any) -> Any:
    def make(host: str, **options: Any) -> Any:
        made = kind(host, **options)
        made._create_connection = connect
        return made

    return make
