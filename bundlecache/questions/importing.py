"""Imports questions that others froze, after checking them against the catalogue.

Three forms are known:

===========================  ======================================================================
JSON Lines, ours             ``{"bundle_id", "partial", "options", "truth"}``, as `Questions.export_jsonl` writes
JSON Lines, several lists    ``{"bundle", "query", "gt", "cand": {"random10": [...], "hard10": [...]}}``
``bi_{valid,test}_cansN.txt``  the public Bundle-MLLM code's: ``[bundle, [partial, padded], [truth], [options]]``
===========================  ======================================================================

A set in our form is called after its file, others after split, options and file, ``test-hard10-shop_test_seed0``; a seed
in the file's name is its seed. Bundles that are asked about must be of one split in this catalogue, and not of training: a
model that is trained here has then not seen them. What else is checked stands in `checks`.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..catalogue import splits
from ..errors import QuestionsError, counted, first_line
from ..files import is_regular, user_path
from ..names import check_name
from ..text import quoted
from .checks import counts, faults, in_words, most_options
from .question_file import Questions, build
from .question_rows import QuestionRows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..catalogue.catalogue import Catalogue
    from .question_rows import Located

OURS = ""  # the name of the only option list of a line in our format
CANS = re.compile(r"bi_(valid|test)_cans\d+")
SEED = re.compile(r"[-_]?seed(\d+)")
Row = dict[str, Any]


def read(file: Path, catalogue: Catalogue, *, skip_broken: bool = False) -> list[Questions]:
    """Every set of questions in a file: one, or one per option list.

    ``skip_broken`` leaves out questions that are wrong (`checks.faults`): their number stands in the header as
    ``left_out``, and by kind as ``left_out_by``; without it the first one is an error.

    Raises
    ------
    QuestionsError
        When a line cannot be read, a question is broken, or it asks about bundles of training or of several splits.
    """
    parse = _cans(catalogue) if CANS.fullmatch(file.stem) and file.suffix == ".txt" else _json_line
    lists: dict[str, list[Row]] = {}
    for number, line in _lines(file):
        for name, row in _parsed(file, number, line, parse).items():
            lists.setdefault(name, []).append(row)
    if not lists:
        raise QuestionsError(f"{file} holds no question.", hint="give a file with one question a line")
    sizes = {name: len(rows) for name, rows in lists.items()}
    if len(set(sizes.values())) > 1:
        raise QuestionsError(
            f"{file} has option lists that some lines lack: {sizes}.", hint="give every line all of them"
        )
    return [_set(file, name, rows, catalogue, skip_broken) for name, rows in lists.items()]


def family(name: str) -> str:
    """The name of a set without its seed: sets of one family differ only by their seed.

    >>> family("test-hard10-shop_test_seed2"), family("test-random10-seed1"), family("test-random10")
    ('test-hard10-shop_test', 'test-random10', 'test-random10')
    """
    return SEED.sub("", name)


def _set(file: Path, options: str, given: list[Row], catalogue: Catalogue, skip_broken: bool) -> Questions:
    try:
        rows = QuestionRows.of(given)
    except (pa.ArrowException, UnicodeError) as error:
        raise QuestionsError(
            f"{file} holds text that cannot be stored ({first_line(error)}).", hint="write the file as UTF-8"
        ) from error
    located = rows.locate(catalogue)
    split = _split(file, rows, located, catalogue)
    n = most_options(located)
    found = faults(rows, located, split, catalogue, imported=True)
    kept = np.flatnonzero([fault is None for fault in found])
    if len(kept) < len(rows):
        number, first = next((number, fault) for number, fault in enumerate(found, 1) if fault)
        if not len(kept):
            raise QuestionsError(
                f"None of the {len(rows):,} questions in {file} can be asked here ({in_words(counts(found))}); of the "
                f"first, {first.clause}.",
                hint="import the catalogue that the questions were made for",
            )
        if not skip_broken:
            more = (
                f"; {counted(len(rows) - len(kept), 'question is', 'questions are')} wrong: {in_words(counts(found))}"
            )
            raise QuestionsError(
                f"{file}, question {number}: {first.clause}{more if len(rows) - len(kept) > 1 else ''}.",
                hint="--skip-broken leaves such questions out and counts them",
            )
    kind = options or (f"random{n}" if CANS.fullmatch(file.stem) else "")
    seed = SEED.search(file.stem)
    parts = [part for part in (split, kind) if not file.stem.startswith(part + "-")]
    name = check_name(
        "-".join([*(parts if kind else []), file.stem]),
        "question set",
        hint="give the file another name: the set is called after it",
    )
    header: dict[str, Any] = {
        "name": name,
        "split": split,
        "negatives": re.sub(r"\d+$", "", kind) or _kind_in(file.stem),
        "seed": int(seed.group(1)) if seed else 0,
        "source": file.name,
        "left_out": len(rows) - len(kept),
        "left_out_by": counts(found),
    }
    hint = "--skip-broken leaves such questions out and counts them"
    return build(rows.take(kept), located.take(kept), header, catalogue, str(file), hint)


def _kind_in(stem: str) -> str:
    found = re.search(r"(?:^|-)([a-z]+)\d+(?:-|$)", stem)
    return found.group(1) if found else "unknown"


def _split(file: Path, rows: QuestionRows, located: Located, catalogue: Catalogue) -> str:
    """The split of all bundles of the questions in this catalogue."""
    asked = [b for b in dict.fromkeys(located.bundle.tolist()) if b >= 0]
    counts = Counter(splits.assign(catalogue)[asked].tolist())
    if not counts:
        raise QuestionsError(
            f"{file} asks about bundle {quoted(rows.row(0)['bundle_id'])}, and no bundle it asks about is in the catalogue.",
            hint="import the catalogue that the questions were made for",
        )
    named = CANS.fullmatch(file.stem)
    wanted = named.group(1) if named else counts.most_common(1)[0][0]
    if set(counts) != {wanted} or wanted == "train":
        parts = ", ".join(f"{count:,} are {part}" for part, count in counts.most_common())
        raise QuestionsError(
            f"{file} asks about {len(asked):,} bundles, of which {parts} bundles of this catalogue: a model trained here "
            "would have seen answers, so a score on it would leak.",
            hint="give the bundles table the split of these questions in a column split, whole groups at a time",
        )
    return wanted


def _lines(file: Path) -> list[tuple[int, str]]:
    hint = "give a JSON Lines file"
    if user_path(file, "The file of questions").exists() and not is_regular(file):
        raise QuestionsError(f"{quoted(file)} is a folder, device or pipe, and no file of questions.", hint=hint)
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise QuestionsError(f"{file} cannot be read ({reason}).", hint=hint) from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(file: Path, number: int, line: str, parse: Callable[[str], dict[str, Row]]) -> dict[str, Row]:
    try:
        return parse(line)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        SyntaxError,
        IndexError,
        RecursionError,
        MemoryError,
    ) as error:
        raise QuestionsError(
            f"{file}, line {number}, is no question ({type(error).__name__}: {first_line(error)}).",
            hint="a line holds bundle_id, partial, options, truth; or bundle, query, gt, cand",
        ) from error


def _json_line(text: str) -> dict[str, Row]:
    line = json.loads(text)
    if "cand" not in line:
        row = {"bundle_id": _id(line["bundle_id"]), "partial": _ids(line["partial"]), "options": _ids(line["options"])}
        return {OURS: {**row, "truth": line["truth"]}}
    if not line["cand"]:
        raise ValueError("it has no option list")
    shown = {name: _ids(options) for name, options in line["cand"].items()}
    asked = {"bundle_id": _id(line["bundle"]), "partial": _ids(line["query"])}
    truth = _id(line["gt"])
    return {name: {**asked, "options": options, "truth": options.index(truth)} for name, options in shown.items()}


def _cans(catalogue: Catalogue) -> Callable[[str], dict[str, Row]]:
    pad = str(len(catalogue))  # ids of that layout count from 0, and the first number beyond them fills up

    def parse(text: str) -> dict[str, Row]:
        bundle, partial, truth, options = ast.literal_eval(text.strip())  # literals only: code in the file is not run
        given = [item for item in _ids(partial) if item != pad or pad in catalogue.index]
        right = truth[0] if isinstance(truth, list | tuple) else truth
        return {OURS: {"bundle_id": _id(bundle), "partial": given, "options": _ids(options), "truth": right}}

    return parse


def _ids(values: Any) -> list[str]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{_shown(values)} is no list of ids")
    return [_id(value) for value in values]


def _id(value: Any) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise TypeError(f"{_shown(value)} is no id")
    return str(value)


def _shown(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else quoted(value)[1:-1]
