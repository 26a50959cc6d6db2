"""The options of ``bundlecache serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

Host = Annotated[str, Option("--host", help="Address to listen at; others than loopback reach other machines.")]
Port = Annotated[int, Option("--port", help="Port to listen at.", min=1, max=65535)]
Workers = Annotated[int, Option("--workers", help="Processes; they share the vectors by mapped files.", min=1, max=256)]
TokenFile = Annotated[
    Path | None,
    Option("--token-file", help="File with the bearer token that requests must bring.", show_default=False),
]
AllowedHosts = Annotated[
    list[str] | None,
    Option(
        "--allowed-host",
        help="Name in the Host header that is answered, beside localhost; behind a proxy, the public name.",
        show_default=False,
    ),
]
Queue = Annotated[int, Option("--queue", help="Bundles that may wait; more get 429.", min=1, max=100_000)]
Batch = Annotated[int, Option("--batch", help="Bundles that one forward answers at most.", min=1, max=1024)]
Timeout = Annotated[float, Option("--timeout", help="Seconds after which a waiting request gets 503.", min=0.1)]
MaxBody = Annotated[int, Option("--max-body-mb", help="Largest request, in MB.", min=1, max=1024)]
