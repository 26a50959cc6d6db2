"""What ``bundlecache adapt`` prints: the epochs with zero-shot first, the figures on test pairs, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import Command
from .exits import command_line
from .output import say, show

if TYPE_CHECKING:
    from collections.abc import Sequence


def show_adaptation(made: Any, as_json: bool) -> None:
    """Print an `AdaptResult`."""
    if as_json:
        show(made.to_dict(), as_json, [])
        return
    show(
        None,
        as_json,
        made.rows,
        title=f"{made.name}: pairs that choose the epoch (0: zero-shot, *: kept; t: titles, i: images)",
    )
    show(None, as_json, test_rows(made.to_dict()["test"]), title="Other pairs, which measure it")
    lines = [f"- {sentence}" for sentence in made.verdict]
    if made.encoder:
        command = command_line(Command("encode", "--modality", "image", "--encoder", made.encoder))
        lines.append(f"Encoder: {made.encoder} (type {command})")
    say("\n".join([*lines, f"Report: {made.path / 'report.html'} ({made.seconds:.0f} s)"]))


def test_rows(test: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Zero-shot and the kept epoch as two rows."""
    return [
        {
            "weights": label,
            "t->i R@1": row["text_to_image_r1"],
            "t->i R@10": row["text_to_image_r10"],
            "i->t R@1": row["image_to_text_r1"],
            "i->t R@10": row["image_to_text_r10"],
            "MRR": row["mrr"],
        }
        for label, row in (("zero-shot", test["zero_shot"]), ("kept", test["kept"]))
    ]
