"""The location of a store's tables: its folder, or an object store that several machines share.

A store whose folder holds ``place.json`` (the address, and options without secrets) has its Lance tables
there; keys come from the environment (``AWS_ACCESS_KEY_ID`` and kin). Failures, receipts, locks, hashes and
matrices stay in the folder: each machine has its own.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..errors import Command, StoreError
from ..files import read_json, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LOCATION_FILE = "place.json"
ADDRESS = re.compile(r"(s3|gs|az)://[^/\s]+(/[^\s]*)?")
SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)


class StoreLocation:
    """The tables of the store in folder ``root``, by name.

    Attributes
    ----------
    address
        ``s3://bucket/prefix``, or None where the tables are in the folder.
    options
        What Lance needs to get there, by its names: ``endpoint``, ``region``, ``allow_http``, ...
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address: str | None = None
        self.options: dict[str, str] = {}
        note = root / LOCATION_FILE
        try:
            held = read_json(note)
            address, options = held["address"], dict(held["options"])
            texts = all(isinstance(text, str) for text in (address, *options, *options.values()))
            if not texts or not ADDRESS.fullmatch(address):
                raise TypeError("a value of another kind")
            self.address, self.options = address, options
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{note} does not say where the tables are.",
                hint=["delete it, then", Command("encode", "--store", "ADDRESS")],
            ) from error

    def __str__(self) -> str:
        return self.address or str(self.root)

    def uri(self, name: str) -> str:
        """The address of a table."""
        return f"{self}/{name}.lance"

    def dataset(self, name: str, version: int | str | None = None) -> Any:
        """A table as Lance opens it, now or at a version (number or tag)."""
        import lance

        return lance.dataset(self.uri(name), version=version, storage_options=self.options or None)

    def database(self) -> Any:
        """All tables as LanceDB opens them; imported only when it is needed, because that takes long."""
        import lancedb

        return lancedb.connect(str(self), storage_options=self.options or None)

    def names(self) -> list[str]:
        """The tables that were created, completely or not."""
        if self.address is None:
            return sorted(path.stem for path in self.root.glob("*.lance"))
        names: list[str] = []
        page: str | None = None
        with reaching(self):
            database = self.database()
            while True:
                found = database.list_tables(page_token=page)
                names += found.tables
                page = found.page_token
                if not page:
                    return sorted(names)

    def has(self, name: str) -> bool:
        """Whether there is a table that was completely created."""
        if self.address is None:
            return any((self.root / f"{name}.lance" / "_versions").glob("*.manifest"))
        with reaching(self):
            try:
                self.dataset(name)
            except ValueError as error:
                if "was not found" not in str(error):
                    raise
                return False
        return True

    def size(self, name: str) -> int:
        """Bytes of a table: of all its files in a folder, of the newest version's data elsewhere."""
        if self.address is None:
            return folder_bytes(self.root / f"{name}.lance")
        files = (file for fragment in self.dataset(name).get_fragments() for file in fragment.metadata.files)
        return sum(file.file_size_bytes or 0 for file in files)

    def written(self, name: str) -> datetime:
        """When a table was last written to."""
        if self.address is None:
            seconds = (self.root / f"{name}.lance" / "_versions").stat().st_mtime
            return datetime.fromtimestamp(seconds, timezone.utc)
        return self.dataset(name).versions()[-1]["timestamp"].astimezone(timezone.utc)

    def has_room(self, name: str) -> bool:
        """Whether a table fits in twice, as it must while its pieces are written together."""
        return self.address is not None or shutil.disk_usage(self.root).free > 2 * self.size(name)

    def remove(self, name: str) -> None:
        """Delete a table."""
        if self.address is None:
            with suppress(FileNotFoundError):
                shutil.rmtree(self.root / f"{name}.lance")
        else:
            self.database().drop_table(name)


def set_location(root: Path, address: str, options: Mapping[str, str]) -> None:
    """Record that the tables of the store in ``root`` are at ``address`` from now on.

    Raises
    ------
    StoreError
        When that is no address, an option is a secret, nothing answers there, or the store has tables elsewhere.
    """
    address = address.rstrip("/")
    if not ADDRESS.fullmatch(address):
        raise StoreError(
            f"{address!r} is no address of an object store; needed is s3://BUCKET/PREFIX, gs:// or az://.",
            hint="a folder needs no --store: choose the workspace with --data",
        )
    if secrets := [name for name in options if SECRET.search(name)]:
        raise StoreError(
            f"The option {secrets[0]} is a secret, and options are written to a file.",
            hint="set it in the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        )
    location = StoreLocation(root)
    if location.address not in (None, address):
        raise StoreError(
            f"The tables of {root} are at {location.address} already.",
            hint=f"choose another workspace with --data, or delete {root / LOCATION_FILE}, which deletes no vector",
        )
    if location.address is None and location.names():
        raise StoreError(
            f"{root} holds tables of its own, which --store {address} would hide.",
            hint=f"copy {root}/*.lance to {address}/ and delete them here, or choose another workspace with --data",
        )
    location.address, location.options = address, {**location.options, **options}
    location.names()  # raises when nothing answers
    write_text(root / LOCATION_FILE, json.dumps({"address": location.address, "options": location.options}, indent=1))


@contextmanager
def reaching(location: StoreLocation) -> Iterator[None]:
    """Turn an object store's refusal into one sentence; other errors pass."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if reason := refusal(error):
            raise unreachable(location, reason) from error
        raise


def unreachable(location: StoreLocation | Path | str, reason: str) -> StoreError:
    """The one sentence about an object store that refuses."""
    return StoreError(
        f"The store {location} cannot be used: {reason}. What it held before is unharmed.",
        hint="check the address, --store-option endpoint=... and the AWS_ variables, then type the same command",
    )


def refusal(error: BaseException) -> str | None:
    """Why an object store did not do what it was asked, in a few words; None for errors of another kind."""
    text = str(error)
    if code := re.search(r"<Code>(\w+)</Code>(?:.*?<Message>([^<]*))?", text, re.DOTALL):
        return f"{code[1]}, {code[2]}".rstrip(" .,") if code[2] else code[1]
    if "get AWS credentials" in text:
        return "no credentials were found"
    if "error sending request" in text or "HttpError" in text:
        return "nothing answers there"
    if status := re.search(r"status code: (\d{3} [\w ]+)|StatusCode\((\d+)\)|status: (\d{3})", text):
        return f"it answers {next(filter(None, status.groups()))}"
    if re.search(r"Generic (S3|GCS|MicrosoftAzure) error|ObjectStore|object_store", text):
        return text.splitlines()[0][:200].rstrip(".")
    return None


def folder_bytes(path: Path) -> int:
    """Size of all files below ``path``; those that vanish meanwhile count nothing."""
    total = 0
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total
