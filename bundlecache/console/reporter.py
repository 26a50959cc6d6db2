"""Say what the library does: notes, warnings and progress bars on standard error, or nothing on request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from . import output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import RenderableType

    from ..errors import Command

DEFAULT_DATA = Path("data")
"""The workspace of a command without --data."""
LINE_SECONDS = 30.0
"""Between two lines about progress where no terminal shows a bar."""


class Reporter:
    """Notes, warnings and progress of one workspace; ``quiet`` shows none of them.

    Commands in a note name the workspace ``data`` where it is not the default one, so that they can be copied.
    """

    def __init__(self, data: Path | str = DEFAULT_DATA, *, quiet: bool = False) -> None:
        self.data = None if Path(data) == DEFAULT_DATA else Path(data)
        self.quiet = quiet

    def note(self, text: str, command: Command | None = None) -> None:
        """One dim line; the command that belongs to it stands in parentheses."""
        self._print(f"[dim]{self._line(text, command)}[/]")

    def warn(self, lead: str, text: str, command: Command | None = None) -> None:
        """One line whose first words are yellow."""
        self._print(f"[yellow]{escape(output.plain(lead, 1000))}[/] {self._line(text, command)}")

    def bar(self, name: str) -> ProgressBar:
        """A progress bar, to be used in a ``with`` block."""
        return ProgressBar(name, quiet=self.quiet)

    def each(self, name: str, things: list[Any]) -> Iterator[Any]:
        """The things one by one, with a progress bar over them."""
        with self.bar(name) as bar:
            for done, thing in enumerate(things, 1):
                yield thing
                bar.step(done, len(things))

    def _line(self, text: str, command: Command | None) -> str:
        return escape(output.plain(text + (f" ({command.line(self.data)})" if command else ""), 10_000))

    def _print(self, markup: str) -> None:
        if not self.quiet:
            output.log.print(markup, soft_wrap=True, highlight=False)


class _TwoLines(Progress):
    """A row of columns, and below it a line of text (the field ``below``), so that 80 columns are enough."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, then what stands below it."""
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields["below"]:
                yield Text(f"  {task.fields['below']}", style="dim", no_wrap=True, overflow="ellipsis")


class ProgressBar:
    """A progress bar on standard error with the remaining time, averaged since the bar began.

    Where standard error is no terminal (a file, a log), a line every 30 seconds stands for it.
    """

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        columns = (
            TextColumn("{task.description:<8}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        live = output.log.is_terminal or output.log.is_jupyter
        self.quiet, self.lines = quiet, not live and not quiet
        self.bar = _TwoLines(*columns, console=output.log, transient=True, disable=quiet or not live)
        self.task = self.bar.add_task(output.plain(name), total=None, note="", below="", left="")
        self.name, self.spent = name, ""  # where the time of an encode run goes, once that is known
        self._said = ""
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, done: int, total: int, note: str = "") -> None:
        """Show ``done`` of ``total``, and what is being done."""
        self._update(done, total, note=note)

    def counted(self, done: int, total: int, before: int = 0) -> None:
        """Show ``done`` of ``total`` and how many a second; ``before`` of them were done before the bar began."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = (done - before) / seconds
        left = (total - done) / rate if rate else None
        self._update(done, total, note=f"{rate:,.0f}/s", seconds_left=left)

    def named(self, name: str) -> Callable[[int, int], None]:
        """``step`` of a part of the work that has a name of its own."""
        return lambda done, total: self._update(done, total, name=name)

    def stage(self, name: str, done: int, total: int) -> None:
        """Show ``done`` of ``total`` (0: unknown) of a stage that has a name of its own."""
        self._update(done, total or None, name=name)

    def encoding(self, progress: Any) -> None:
        """Show how far an encode run is (`bundlecache.encode.progress.Progress`), and where its time goes."""
        if progress.stage == "learn":
            learning = progress.learning
            counts = f"epoch {learning.done} of at most {learning.total}"
            self._update(
                learning.done,
                learning.total,
                note=learning.figures,
                name=f"learning {progress.modality}",
                seconds_left=learning.seconds_left,
                counts=counts,
            )
            return
        note = "looking"
        if progress.stage == "encode":
            note = f"{progress.items_per_second:,.0f}/s"
            self.spent = f"{note}: {progress.spent}"
        below = progress.spent if self.spent else ""
        self._update(progress.done, progress.total, note=note, below=below, name=progress.modality)
        if progress.note != self._said:
            self._said = progress.note
            if not self.quiet:
                output.log.print(f"[yellow]{escape(progress.note)}[/]", highlight=False, soft_wrap=True)

    def training(self, progress: Any) -> None:
        """Show how far a training is (`bundlecache.train.training.progress.Progress`)."""
        parts = [] if progress.phase == "train" else [progress.phase]
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        self._update(
            progress.step,
            progress.steps,
            note="  ".join(parts),
            below=progress.words,
            name=progress.stage,
            seconds_left=progress.seconds_left,
        )

    def _update(
        self,
        done: int,
        total: int | None,
        *,
        note: str = "",
        below: str = "",
        name: str | None = None,
        seconds_left: float | None = None,
        counts: str | None = None,
    ) -> None:
        if name is not None and name != self.name:
            self.name, self._began = name, time.monotonic()
        now = time.monotonic()
        if seconds_left is None and total and done:
            seconds_left = (now - self._began) * (total - done) / done
        left = "" if seconds_left is None else f"{duration(seconds_left)} left"
        self.bar.update(
            self.task,
            description=output.plain(self.name),
            completed=done,
            total=total,
            note=note,
            below=below,
            left=left,
        )
        if self.lines and now - self._printed >= LINE_SECONDS:
            self._printed = now
            counts = counts or (f"{done:,} of {total:,}" if total else f"{done:,}")
            parts = [f"{self.name}: {counts}", left, note, below]
            output.log.print(", ".join(part for part in parts if part), highlight=False, soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """A duration as people say it.

    >>> duration(4.2), duration(75), duration(3800)
    ('4 s', '1 min 15 s', '1 h 3 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
