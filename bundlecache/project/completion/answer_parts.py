"""Answers to the blocks of a long list, each in a file of its own until all are there: what a killed run goes on with.

The parts of ``answers.parquet`` lie in the folder ``.answers.parquet.parts`` next to it. They belong to one request,
which is told by a text (the carts, the run, its vectors, the options); parts of another request are thrown away.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import BundlecacheError
from ...files import make_folder, replacing, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP_ROWS = 1 << 16  # rows of a row group of the file that the parts become
DIGITS = 8


class AnswerParts:
    """The parts of the file ``out``, of which there will be ``count``."""

    def __init__(self, out: Path, count: int) -> None:
        self.out, self.count = out, count
        self.folder = out.with_name(f".{out.name}.parts")

    def begin(self, request: str) -> bool:
        """Keep the parts of the same request, throw away others; whether parts of another request were there.

        Raises
        ------
        BundlecacheError
            When the folder of ``out`` cannot be written.
        """
        make_folder(self.out.parent)
        told = self.folder / "request.json"
        try:
            if told.read_text("utf-8") == request:
                return False
        except (OSError, ValueError):
            pass
        stale = self.folder.exists()
        shutil.rmtree(self.folder, ignore_errors=True)
        write_text(told, request)
        return stale

    def missing(self) -> list[int]:
        """The numbers of the parts that are not there yet."""
        there = {path.stem for path in self.folder.glob("*.parquet")}
        return [number for number in range(self.count) if f"{number:0{DIGITS}}" not in there]

    def write(self, number: int, table: pa.Table) -> None:
        """Write one part, whole or not at all."""
        with replacing(self._path(number)) as temporary:
            pq.write_table(table, temporary)

    def join(self) -> Iterator[pa.Table]:
        """Write the parts, in their order, as the one file ``out``; each is handed on as it is written.

        Raises
        ------
        BundlecacheError
            When a part is missing: another process has written ``out`` meanwhile.
        """
        with replacing(self.out) as temporary:
            writer: pq.ParquetWriter | None = None
            waiting: list[pa.Table] = []
            for number in range(self.count):
                try:
                    part = pq.read_table(self._path(number))
                except OSError as error:
                    raise BundlecacheError(
                        f"A part of {self.out} is gone; another command has written that file meanwhile.",
                        hint="type the same command again, with another --out",
                    ) from error
                yield part
                waiting.append(part)
                writer = writer or pq.ParquetWriter(temporary, part.schema)
                if sum(map(len, waiting)) >= GROUP_ROWS or number == self.count - 1:
                    writer.write_table(pa.concat_tables(waiting).combine_chunks())
                    waiting = []
            if writer is not None:
                writer.close()

    def remove(self) -> None:
        """Throw the parts away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:0{DIGITS}}.parquet"
