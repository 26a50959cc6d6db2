"""Result files of a run: ``runs/RUN/results/NAME.json`` and, with the model's answers, ``NAME.parquet``.

The JSON is that of `results.QuestionSetResult`::

    {"format_version": 1,
     "questions": {"name", "sha256", "n_questions", "n_options", "split", "negatives",
                   "trained_on": questions left out, where there were any,
                   "samples": [{"n_questions", "of", "seed", "rule", "sha256" of the whole set}] where not all were asked},
     "model":     the method that others are compared with, or null
     "methods":   [{"name", "kind", "n", "hit@1", "hit@3", "hit@5", "mrr", "hit@1_interval", "valid_ratio",
                    "hit@1_valid_only", "seconds", "training_seconds", "versus_model": {"delta", "interval", "p"},
                    "on_top_of": {"name", "delta", "interval", "p"}}],
     "ablation":  [{"without", "hit@1", "hit@1_interval", "delta", "delta_interval"}],
     "attention": {"names", "items", "present", "weight", "even", "matrix", "residual"},
     "how":       {"permutations": orders of its options in which models were asked a question,
                   "at_once": options per forward},
     "model_answers": {"positions": [{"position", "n", "hit@1"}], "calibration": {"ece", "confidence", ...}},
                  positions are those of the file, which say nothing of letters where several orders were asked
     "probes":    [{"name", "words", "hit@1", "hit@1_interval", "succeeds"}],
     "leaks":     ["..."],
     "slices":    the methods by category, length, popularity and cold or seen; see `slices`
     "verdict":   the findings in words
     "worth":     ["..."]}             what the model's seconds buy; apart, because it differs from run to run

The table beside it has a row per question: question, bundle_id, partial, options, truth, probabilities, valid, predicted,
and prompt, the text that the model read (not in files of earlier versions).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CheckpointError, Command
from ..files import replacing, write_text
from .results import FORMAT_VERSION, QuestionSetResult

if TYPE_CHECKING:
    import pyarrow as pa

    from ..baselines.rankers import Answers
    from ..questions.question_file import Questions


def save(
    run: Path,
    results: QuestionSetResult,
    questions: Questions,
    answers: Answers | None = None,
    item_ids: Sequence[str] = (),
    prompts: Sequence[str] = (),
) -> Path:
    """Write ``results/NAME.json`` of a run and, with the model's ``answers``, ``NAME.parquet``; the JSON last.

    ``item_ids`` [I] are the catalogue's: files name items by id. ``prompts`` [q] are the texts that the model read, where
    they are known.
    """
    path = run / "results" / f"{questions.name}.json"
    if answers is not None:
        import pyarrow.parquet as pq

        with replacing(path.with_suffix(".parquet")) as temporary:
            pq.write_table(_answer_table(questions, answers, item_ids, prompts), temporary, compression="zstd")
    write_text(path, json.dumps(results.to_dict(), indent=1) + "\n")
    return path


def load(run: Path) -> dict[str, QuestionSetResult]:
    """Question set -> results of a run, test questions first; empty when nothing was evaluated yet.

    Raises
    ------
    CheckpointError
        When a results file is damaged or of a later version.
    """
    hint = Command("evaluate", "--run", run.name)
    found = {}
    for path in sorted(
        (run / "results").glob("*.json"), key=lambda p: (not p.name.startswith("test"), "random" not in p.name, p.name)
    ):
        try:
            read = json.loads(path.read_text("utf-8"))
            version = read["format_version"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged or no results file.", hint=hint) from error
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has the format {version}; this bundlecache reads {FORMAT_VERSION}.", hint=hint
            )
        try:
            found[path.stem] = QuestionSetResult.from_dict(read)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise CheckpointError(f"{path} was changed by hand or is damaged.", hint=hint) from error
    return found


def load_answers(run: Path, name: str) -> pa.Table | None:
    """The model's answers to the questions ``name``, or None when only baselines were scored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / "results" / f"{name}.parquet"
    if not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{path} is damaged.", hint=Command("evaluate", "--run", run.name)) from error


def _answer_table(questions: Questions, answers: Answers, item_ids: Sequence[str], prompts: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    def named(rows: Sequence[np.ndarray] | np.ndarray) -> list[list[str]]:
        return [[item_ids[i] for i in row] for row in rows]

    return pa.table(
        {
            "question": pa.array(np.arange(len(questions)), pa.int32()),
            "bundle_id": pa.array(questions.bundle_ids, pa.string()),
            "partial": pa.array(named(questions.partial), pa.list_(pa.string())),
            "options": pa.array(named(questions.options), pa.list_(pa.string())),
            "truth": pa.array(questions.truth, pa.int32()),
            "probabilities": pa.array(answers.probabilities().astype(np.float32).tolist(), pa.list_(pa.float32())),
            "valid": pa.array(np.asarray(answers.valid, bool), pa.bool_()),
            "predicted": pa.array(answers.logits.argmax(axis=1), pa.int32()),
            **({"prompt": pa.array(prompts, pa.string())} if prompts else {}),
        },
        metadata={"questions": questions.name, "sha256": questions.sha256},
    )
