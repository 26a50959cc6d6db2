"""The commands of bundlecache, in the order of the pipeline: one short function per verb.

Heavy imports stand inside the functions, so that ``--help`` and mistakes answer at once. Tables go to
standard output, progress and remarks to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import signal
import sys

if (__name__ == "__main__" or sys.argv[0].endswith(("bundlecache", "bundlecache.exe"))) and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where a shell keeps Ctrl-C away
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while the rest is imported, Ctrl-C just ends it; see main

import os
import re
import shlex
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bundlecache import BundlecacheError, Catalogue, WorkspaceFolder, __version__
from bundlecache.console.output import Bar, log, out, show, show_full, show_leaderboard, show_results, show_slices
from bundlecache.errors import counted
from bundlecache.modalities import MODALITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bundlecache.baselines.personal import PersonalRanker
    from bundlecache.baselines.rankers import ModelRanker
    from bundlecache.baselines.registry import Sources
    from bundlecache.catalogue.readers.registry import Vectors
    from bundlecache.encode.recheck import Recheck
    from bundlecache.encode.run import Receipt
    from bundlecache.encode.worker_pool import Crew
    from bundlecache.questions.file import Questions
    from bundlecache.recipes.recipe import Recipe
    from bundlecache.store.store import Matrix, Store, TableInfo

PARTIAL = 3  # exit code: the work was done, but some items failed
INTERRUPTED = 130
SIGNALLED = {"SIGINT": INTERRUPTED, "SIGTERM": 143}  # the exit codes that shells expect
NEGATIVES = ("random", "hard")
OPTIONS = 10
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))  # under accelerate launch or torchrun
FOLLOWS = os.environ.get("RANK", "0") != "0"  # one of several processes, and not the one that speaks and writes

app = typer.Typer(
    help="Complete bundles (outfits, playlists, kits) with a multimodal language model: encode every item once, "
    "then train on the cached vectors.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
Data = Annotated[Path, typer.Option("--data", help="The workspace: the folder with items, bundles, interactions.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Run = Annotated[
    str | None, typer.Option("--run", help="Name of a run; the newest one if left out.", show_default=False)
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything that is drawn.", min=0, max=2**32 - 1)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: --set lora.rank=16", show_default=False)
]
Permutations = Annotated[
    int, typer.Option("--permutations", help="Ask every question in so many orders of its options, and average.", min=1)
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--at-once",
        help="Options per forward; more play a tournament. As many as trained on if left out.",
        min=2,
        show_default=False,
    ),
]
StoreAt = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Keep the vectors on an object store, s3://BUCKET/PREFIX; the workspace remembers it.",
        show_default=False,
    ),
]
StoreOption = Annotated[
    list[str] | None,
    typer.Option(
        help="How to reach it, remembered too: endpoint=URL, region=NAME, allow_http=true.", show_default=False
    ),
]


@app.command()
def demo(
    data: Data = Path("data"),
    make_data: Annotated[
        Path | None, typer.Option(help="Only write the demo catalogue into this folder.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --make-data replace a catalogue.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Show the whole way on the demo catalogue: encode, candidates, train, evaluate, report."""
    began = time.perf_counter()
    if make_data is not None or not data.exists():
        _make_demo(make_data or data, seed, overwrite=overwrite)
    if make_data is not None:
        return
    encode(data=data, device=device)
    questions(data=data)
    candidates(data=data)
    train(data=data, seed=seed, device=device)
    evaluate(data=data, device=device)
    report(data=data)
    out.print(f"The whole way took {time.perf_counter() - began:.0f} s on {os.cpu_count()} cores.")


@app.command(name="import")
def import_(
    layout: Annotated[str, typer.Argument(metavar="FORMAT", help="bundlerec, clhe, folder or tables.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The folder to read.")],
    data: Data = Path("data"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the catalogue that stands there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import a public data layout, a folder of pictures and sounds, or plain tables as a workspace."""
    from bundlecache.catalogue.readers import registry as readers

    workspace = WorkspaceFolder(data)
    summary = readers.read(layout, source, workspace, overwrite=overwrite)
    for note in summary.notes:
        log.print(f"[dim]note: {escape(note)}[/]")
    _open(data)
    _store_imported(workspace, summary.vectors)
    made = summary.to_dict()
    show(made, as_json, [made], title=f"{layout} -> {data}", columns=["items", "bundles", "interactions", "media"])


@app.command()
def encode(
    modality: Annotated[str, typer.Option(help="text, image, audio, graph or all.")] = "all",
    data: Data = Path("data"),
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="Encoder as kind:name, e.g. open_clip:ViT-B-16-SigLIP/webli. Several share one pass over the files; "
            "training uses the last one.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--fields",
            help="Columns that are the text of an item, e.g. title,category; the title alone if left out. Each choice "
            "has vectors of its own, called SPEC#title+category.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps; cuda:0,cuda:1 is a process on each."),
    ] = "auto",
    engine: Annotated[
        str, typer.Option(help="local, or ray: the encoders are actors of Ray Data, on one machine or many.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="Head of a Ray cluster, HOST:PORT; one on this machine if left out.", show_default=False),
    ] = None,
    dtype: Annotated[str, typer.Option(help="How vectors are stored: float16 or float32.")] = "float16",
    batch_size: Annotated[
        int | None, typer.Option(help="Items per forward; the encoder's own if left out.", show_default=False)
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the forward pass: float32, float16, bfloat16; auto: half on CUDA if stored so.")
    ] = "auto",
    draft: Annotated[
        int | None,
        typer.Option(
            help="Read JPEGs at 1/2, 1/4 or 1/8 of their size while both sides keep this many pixels: faster, other "
            "vectors.",
            min=1,
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads that decode ahead of the encoder.", min=1)] = 4,
    retry_failed: Annotated[bool, typer.Option(help="Try items again that failed before.")] = False,
    max_errors: Annotated[
        int | None, typer.Option(help="Stop when more items than this fail.", min=0, show_default=False)
    ] = None,
    allow_outside: Annotated[bool, typer.Option(help="Let item tables name files outside the workspace.")] = False,
    store_at: StoreAt = None,
    store_option: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Run frozen encoders once over every new or changed item, into the store."""
    from bundlecache.features import registry as features

    wanted = _modalities(modality)
    if encoder and len(wanted) > 1:
        raise BundlecacheError(
            f"--encoder {encoder[0]} was given for all modalities, but an encoder reads one.",
            hint=f"bundlecache encode --modality {features.modality_of(encoder[0])} --encoder {encoder[0]}",
        )
    workspace, catalogue = _open(data, allow_outside=allow_outside)
    named = _named(catalogue, columns, wanted, encoder)
    given = {"precision": precision != "auto", "draft": draft is not None}
    _check_heeded([name for name in given if given[name]], wanted, encoder)
    _settle_store(workspace, store_at, store_option)
    load = {"dtype": dtype, "batch_size": batch_size, "precision": precision, "draft": draft}
    how = {"workers": workers, "retry_failed": retry_failed, "max_errors": max_errors}
    where = _where(device, engine, ray_address)
    if modality == "all":
        wanted = _encodable(catalogue)
    receipts = [
        row
        for name in wanted
        for row in _encode(workspace, catalogue, name, named if name == "text" else encoder, load, how, where)
    ]
    rows = [receipt.to_dict() for receipt in receipts]
    shown = ["spec", "items", "encoded", "cached", "failed", "absent", "seconds"]
    show(rows, as_json, rows, title="Receipt: items = encoded + cached + failed + absent", columns=shown)
    if failed := sum(receipt.failed for receipt in receipts):
        log.print(
            f"[yellow]{counted(failed, 'item')} failed[/] (bundlecache status --errors says why); all others are stored."
        )
        raise typer.Exit(PARTIAL)


@app.command()
def status(
    data: Data = Path("data"),
    errors: Annotated[bool, typer.Option(help="List the items that failed, with stage and reason.")] = False,
    store_at: StoreAt = None,
    store_option: StoreOption = None,
    as_json: AsJson = False,
) -> None:
    """Say what is stored: coverage per modality and encoder, rows, bytes, failed and absent items."""
    from bundlecache.catalogue import splits
    from bundlecache.store.store import Store

    workspace, catalogue = _open(data)
    _settle_store(workspace, store_at, store_option)
    store = Store(workspace.store)
    if errors:
        rows = [{"table": t.table} | row for t in store.tables() for row in store.errors(t.table).to_pylist()]
        for row in rows:
            row["modality"] = row["table"].partition("--")[0]
        show(rows, as_json, rows, title=f"Failed items in {data}", columns=["item_id", "modality", "stage", "reason"])
        return
    parts = splits.assign(catalogue)
    counts = {
        "items": len(catalogue),
        "bundles": len(catalogue.bundles),
        **{part: int((parts == part).sum()) for part in ("train", "valid", "test")},
        "interactions": len(catalogue.interactions),
        "users": len(catalogue.interactions.users),
    }
    rows = store.status(catalogue)
    runs = sorted(workspace.run_names())
    if as_json:
        show({"catalogue": counts, "store": rows, "runs": runs}, as_json, [])
        return
    out.print(f"[bold]{data}[/]: " + ", ".join(f"{value:,} {name}" for name, value in counts.items()))
    shown = [
        {
            **row,
            "encoder": row["spec"] + _older(row) if row["spec"] else f"({row['modality']}: none yet)",
            "dim": f"{row['tokens']}x{row['dim']}" if row["tokens"] else row["dim"],
        }
        for row in rows
    ]
    columns = ["encoder", "rows", "missing", "failed", "absent", "dim", "dtype", "size_bytes"]
    if shown:
        show(rows, as_json, shown, title="Store", columns=columns)
    else:
        out.print("Nothing to encode: no title, picture, sound, bundle or interaction.")
    out.print("Runs: " + (", ".join(runs) or "none yet (bundlecache train)"))


def _older(row: dict[str, Any]) -> str:
    """What tells a table that training does not take from the one of the same modality that it takes."""
    return "" if row["current"] or row["tokens"] or not row["rows"] else " (older)"


@app.command()
def questions(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Questions that others froze, to take over: JSON Lines, or bi_test_cans10.txt.",
            show_default=False,
        ),
    ] = None,
    data: Data = Path("data"),
    options: Annotated[
        int, typer.Option("--options", help="Options of each question, the truth among them.")
    ] = OPTIONS,
    negatives: Annotated[
        list[str] | None,
        typer.Option(
            help="Wrong options: random, hard, nearest:MODALITY, same-category, popularity-matched, co-occurring, the "
            "last four also joined by +. Random and hard ones if left out.",
            show_default=False,
        ),
    ] = None,
    difficulty: Annotated[
        float, typer.Option(help="Of nearest:MODALITY and those after it: 0 (random) to 1 (hardest).", min=0, max=1)
    ] = 1.0,
    seed: Seed = 0,
    skip_broken: Annotated[
        bool, typer.Option(help="Leave out questions of FILE that are none, and count them.")
    ] = False,
    export_to: Annotated[
        Path | None, typer.Option("--export", help="Write all sets as JSON Lines into this folder.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Freeze the multiple-choice questions: validation and test, with random and hard wrong options; or take FILEs over."""
    workspace, catalogue = _open(data)
    if files and export_to is not None:
        raise BundlecacheError(
            "FILEs are taken over, --export writes what is there: one of them at a time.",
            hint=f"bundlecache questions {shlex.join(map(str, files))}",
        )
    if difficulty != 1 and not set(negatives or NEGATIVES) - set(NEGATIVES):
        raise BundlecacheError(
            f"--difficulty {difficulty:g} turns none of the negatives {' and '.join(negatives or NEGATIVES)}.",
            hint="--negatives same-category, or another kind that has a dial",
        )
    if files and (negatives or (options, difficulty, seed) != (OPTIONS, 1, 0)):
        raise BundlecacheError(
            "FILEs are taken over as they are; --options, --negatives, --difficulty and --seed draw others.",
            hint=f"bundlecache questions {shlex.join(map(str, files))}",
        )
    if skip_broken and not files:
        raise BundlecacheError("--skip-broken is for questions of a FILE, and none was given.", hint="name the FILE")
    _say_leaks(catalogue)
    if export_to is not None:
        rows = _export_questions(workspace, catalogue, export_to)
    elif files:
        rows = [row for file in files for row in _take_over(workspace, catalogue, file, skip_broken)]
    else:
        rows = _freeze(workspace, catalogue, options, seed, negatives or NEGATIVES, difficulty)
    show(rows, as_json, rows, title=f"Questions in {export_to or workspace.questions}")


@app.command()
def candidates(
    k: Annotated[int, typer.Option("--k", help="Candidates per bundle.", min=1)] = 20,
    data: Data = Path("data"),
    modality: Annotated[
        list[str] | None, typer.Option(help="Modalities whose vectors are searched; all stored ones if left out.")
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="Search the stored vectors of these encoders.", show_default=False)
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Search the fused tokens of this run.", show_default=False)
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(help="Weight of a modality: --weight image=2; 1 if left out.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Bundles to complete: train, valid or test.")] = "test",
    where: Annotated[
        list[str] | None,
        typer.Option(help='Offer only items that fulfil this: category=coat, "price<50".', show_default=False),
    ] = None,
    index: Annotated[str, typer.Option("--index", help="auto, flat (exact), ivf, hnsw or pq.")] = "auto",
    metric: Annotated[str, typer.Option(help="cosine, or inner-product (of graph vectors alone).")] = "cosine",
    recall: Annotated[
        float, typer.Option(help="Recall@20 against exact that an index must reach.", min=0.01, max=1)
    ] = 0.99,
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="For the index, e.g. 8GB; half of this machine's, or what a GPU has free, if left out.",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the index again that is kept.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Search the whole catalogue with FAISS for the k items nearest to each partial bundle."""
    from bundlecache.candidates import ann, search

    workspace, catalogue = _open(data)
    if device != "auto":
        from bundlecache.features import registry as features

        features.resolve_device(device)  # also where no run is searched
    matrices = _searched(workspace, catalogue, modality, encoder, run, device)
    began = time.perf_counter()
    with Bar("index") as bar:
        built, kept = search.open_index(
            workspace,
            catalogue,
            matrices,
            # What a filter leaves is scanned exactly and on the CPU, whatever is kept.
            kind="flat" if where and index in ("auto", *ann.KINDS) else index,
            weights=_weights(weight),
            metric=metric.replace("-", " "),
            memory=0 if where else ann.parse_bytes(max_memory) if max_memory else None,
            target=recall,
            rebuild=rebuild,
            device="cpu" if where else device,
            progress=bar.step,
        )
    if built.report["remark"]:
        log.print(f"[dim]note: {escape(built.report['remark'])}[/]", soft_wrap=True)
    if not built.report["reached"]:
        log.print(
            f"[yellow]Recall@20 of {recall:g} is out of reach[/] for {built.kind}: "
            f"{built.report['recall@20']:.3f} is what it has (--index flat is exact)."
        )
    made = search.for_bundles(catalogue, built, k, split, where=where or ())
    if k > made.header["offered"]:
        log.print(f"[dim]note: {made.header['offered']:,} items can be offered, so no list is longer than that.[/]")
    path = made.save(workspace)
    summary = made.summary()
    row = {key: value for key, value in summary.items() if key not in ("modalities", "split", "k", "items")}
    row |= {"index": built.words + (", kept" if kept else ""), "seconds": round(time.perf_counter() - began, 3)}
    title = f"Held-out items of {split} bundles found by {' + '.join(summary['modalities'])} -> {path}"
    show({"path": str(path), **summary, **row, "index": made.header["index"]}, as_json, [row], title=title)


@app.command()
def train(
    data: Data = Path("data"),
    recipe: Annotated[
        str | None,
        typer.Option(help="Name of a shipped recipe (demo, paper, ...) or a TOML file; demo if left out."),
    ] = None,
    settings: Settings = None,
    stage: Annotated[str, typer.Option(help="text, fusion, joint, or all: text, then fusion.")] = "all",
    start: Annotated[
        str | None, typer.Option("--from", help="Run whose adapter and fusion to go on from.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new run.", show_default=False)] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="Questions on which the best weights are chosen; random ones if left out.", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop and save after this long; --resume goes on.", show_default=False)
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with the training NAME, which was stopped or killed.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the fusion module and a LoRA adapter of the language model on the cached vectors."""
    from bundlecache.recipes import recipe as recipes
    from bundlecache.store import maintenance as upkeep
    from bundlecache.store.store import Store
    from bundlecache.train.training import loop
    from bundlecache.train.training.resume import Snapshot

    workspace, catalogue = _open(data)
    snapshot = None
    if resume:
        if recipe or settings or start or name or validation or stage != "all":
            raise BundlecacheError(
                "A training goes on with its own recipe, stages and questions.",
                hint=f"bundlecache train --resume {resume}",
            )
        snapshot = Snapshot.read(workspace.runs / resume)
        validation = snapshot.job["validation questions"][0]
    _check_name(workspace, name)
    resolved = snapshot.recipe if snapshot else recipes.load(recipe or "demo", settings or [])
    matrices = _trained_on(workspace, catalogue, resolved)
    valid = _validation(workspace, catalogue, validation)
    _say_settings(resolved)
    _say_recomputing(resolved)
    _say_letters(resolved)
    run = workspace.runs / (resume or name or f"{time.strftime('%Y%m%d-%H%M%S')}-{resolved.name}-seed{seed}")
    if not FOLLOWS:
        upkeep.tag(Store(workspace.store), run.name, matrices.values())
    with Bar("train") as bar:
        result = loop.train(
            catalogue,
            matrices,
            valid,
            resolved,
            run,
            seed=snapshot.job["seed"] if snapshot else seed,
            device=device,
            stage=stage,
            init=workspace.run(start) if start else None,
            max_minutes=max_minutes,
            token_cache=workspace.tokens,
            progress=bar.training,
            snapshot=snapshot,
        )
    show(result.to_dict(), as_json, result.stages, title=f"Trained {run.name}")
    if result.stopped:
        log.print(
            f"[yellow]Stopped early by {result.stopped};[/] what was learned is saved in {escape(run.name)}"
            f" (bundlecache train --resume {escape(run.name)} goes on).",
            soft_wrap=True,
        )
    if result.stopped in SIGNALLED:
        raise typer.Exit(SIGNALLED[result.stopped])


@app.command()
def evaluate(
    run: Run = None,
    data: Data = Path("data"),
    question_sets: Annotated[
        list[str] | None,
        typer.Option("--questions", help="Question sets to answer; random and hard test questions if left out."),
    ] = None,
    options: Annotated[
        int | None,
        typer.Option(
            "--options",
            help="Answer the test questions of so many options; frozen if need be.",
            min=2,
            show_default=False,
        ),
    ] = None,
    permutations: Permutations = 1,
    at_once: AtOnce = None,
    batch_size: Annotated[int, typer.Option(help="Questions per forward.", min=1)] = 32,
    baselines: Annotated[bool, typer.Option(help="Score the baselines on the same questions.")] = True,
    ablation: Annotated[bool, typer.Option(help="Score the model without each modality in turn.")] = True,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer the frozen test questions, in one forward each up to as many options as trained on, beside the baselines."""
    from bundlecache.baselines import registry as simple
    from bundlecache.bench import benchmark as bench
    from bundlecache.bench import leakage_probes
    from bundlecache.bench.slices import Slicer
    from bundlecache.files import make_folder
    from bundlecache.questions import sets as question_files
    from bundlecache.train.inference import scoring

    workspace, catalogue = _open(data)
    folder = workspace.run(run)
    wanted = question_sets or (_sets_of(workspace, catalogue, options) if options else _default_sets(workspace, "test"))
    sets = [question_files.load(workspace, catalogue, name) for name in wanted]
    make_folder(folder / "results")
    model, matrices = _load_model(folder, workspace, catalogue, device)
    sources = simple.Sources(catalogue, matrices)
    how: dict[str, Any] = {"batch_size": batch_size, "permutations": permutations, "at_once": at_once}
    seat = _seat("Bundle-MLLM", model, how)
    rankers = [*sources.rankers(*simple.REGISTRY), *simple.reranked(seat, sources)] if baselines else []
    known: dict[str, Any] = {
        "probes": leakage_probes.all_probes(sources) if baselines else [],
        "leaks": bench.leaks_of(sources),
        "slicer": Slicer(catalogue),
        "how": _without(("batch_size",), how),
    }
    results = []
    for asked in sets:
        with Bar(asked.name) as bar:
            ladder = scoring.ladder(model, asked, ablation=ablation, progress=bar.step, **how)
        seat.given[asked.sha256] = ladder.answers[seat.name]
        trained = {seat.name: _training_seconds(folder)}
        result = bench.compare(
            rankers,
            asked,
            ladder.answers,
            ablation=ladder.ablation,
            seconds=ladder.seconds,
            training_seconds=trained,
            **known,
        )
        result["attention"] = scoring.attention(model, asked)
        bench.save(folder, result, asked, ladder.answers[seat.name], catalogue.item_ids)
        results.append(result)
    if as_json:  # without the seconds each method took: the same evaluation prints the same digits
        timed = ("seconds", "training_seconds", "worth")
        show(
            [_without(timed, {**r, "methods": [_without(timed, m) for m in r["methods"]]}) for r in results],
            as_json,
            [],
        )
        return
    for result in results:
        show_results(result)


@app.command(name="bench")
def bench_(
    data: Data = Path("data"),
    question_sets: Annotated[
        list[str] | None,
        typer.Option("--questions", help="Question sets to answer; all test sets if left out.", show_default=False),
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", help="Trained runs to score; all of them if left out.", show_default=False),
    ] = None,
    models: Annotated[bool, typer.Option(help="Score trained models beside the baselines.")] = True,
    full: Annotated[
        bool, typer.Option("--full", help="Rank the held-out items among the whole catalogue, not a few options.")
    ] = False,
    history: Annotated[
        int,
        typer.Option(help="Ask again with this many latest items of the bundle's user in the query.", min=0),
    ] = 0,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Show groups of questions too: category, length, popularity, cold.", show_default=False),
    ] = None,
    permutations: Permutations = 1,
    at_once: AtOnce = None,
    batch_size: Annotated[int, typer.Option(help="Questions per forward of a model.", min=1)] = 32,
    device: Device = "auto",
    output: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results; bench/ of the workspace.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score all methods on all question sets: one table, leak probes, and a verdict in words."""
    from bundlecache.baselines import registry as baselines
    from bundlecache.bench import benchmark as bench
    from bundlecache.bench import full_catalogue, leakage_probes
    from bundlecache.bench.slices import Slicer, chosen
    from bundlecache.files import make_folder
    from bundlecache.questions import sets as question_files
    from bundlecache.report import leaderboard

    ways = chosen(by or ())
    workspace, catalogue = _open(data)
    wanted = question_sets or [n for n in question_files.names(workspace) if n.startswith("test-")]
    if not wanted:
        log.print("No test questions yet: freezing them now (bundlecache questions).")
        _freeze(workspace, catalogue, options=OPTIONS, seed=0)
        wanted = _default_sets(workspace, "test")
    sets = [question_files.load(workspace, catalogue, name) for name in wanted]
    folders = [workspace.run(name) for name in runs or sorted(workspace.run_names())] if models else []
    folder = output or workspace.root / "bench"
    make_folder(folder)
    loaded = {folder: _load_model(folder, workspace, catalogue, device)[0] for folder in folders}
    sources = baselines.Sources(catalogue, _every_matrix(workspace, catalogue))
    how = {"batch_size": batch_size, "permutations": permutations, "at_once": at_once}
    seats = {folder: _seat(_model_name(folder, folders), model, how) for folder, model in loaded.items()}
    reranked = [ranker for seat in seats.values() for ranker in baselines.reranked(seat, sources)]
    rankers, slicer = sources.rankers(*baselines.REGISTRY), Slicer(catalogue)
    strangers = [seat for folder, seat in seats.items() if loaded[folder].histories is None]  # the others know the user
    personal = _personal(sources, sets, [] if full else strangers, history)
    if full:
        held = full_catalogue.HeldOut.of(sets, catalogue, personal[0].histories if personal else None)
        few = [
            full_catalogue.FirstFew(both.ranker, second, catalogue)
            for both in reranked
            for second in (both.model, both)
        ]
        if seats and not few:
            log.print("A language model answers by letters; without a learned ranker to rerank it is left out.")
        with Bar("bench") as bar:
            ranked = full_catalogue.run([*rankers, *personal], held, slicer, few, progress=bar.step)
        path = full_catalogue.save(folder, ranked)
        if as_json:
            show({"path": str(path), "results": ranked}, as_json, [])
            return
        show_full(ranked)
        show_slices(ranked, ways, full_catalogue.MAIN, "Full catalogue")
        out.print(f"Page: [bold]{escape(str(path))}[/]; full.csv and full.json beside it.", soft_wrap=True)
        return
    with Bar("bench") as bar:
        results = bench.run(
            sets,
            [*rankers, *reranked, *personal],
            lambda asked: _answers_of(loaded, seats, asked, how),
            model=_model_name(_newest(workspace, folders), folders) if folders else None,
            probes=leakage_probes.all_probes(sources),
            leaks=bench.leaks_of(sources),
            slicer=slicer,
            how=_without(("batch_size",), how),
            progress=bar.step,
        )
    path = leaderboard.save(folder, results)
    if as_json:
        show({"path": str(path), "results": results}, as_json, [])
        return
    show_leaderboard(results)
    for result in results:
        show_slices(result, ways, "hit@1", result["questions"]["name"])
    out.print(f"Page: [bold]{escape(str(path))}[/]; table.csv and results.json beside it.", soft_wrap=True)


@app.command()
def complete(
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids of the items in the partial bundle.")],
    k: Annotated[int, typer.Option("--k", help="Completions to print.", min=1)] = 5,
    options: Annotated[
        int | None,
        typer.Option(
            "--options",
            help="Candidates that the model chooses among; as many as it was trained on if left out.",
            min=2,
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(help="Whose history the prompt tells, for a run trained with prompt.history.", show_default=False),
    ] = None,
    permutations: Permutations = 1,
    at_once: AtOnce = None,
    run: Run = None,
    data: Data = Path("data"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Complete a partial bundle: FAISS proposes candidates, the model chooses among them."""
    from bundlecache.candidates import search
    from bundlecache.errors import RecipeError
    from bundlecache.train.inference import scoring

    workspace, catalogue = _open(data)
    folder = workspace.run(run)
    partial = catalogue.indices(list(dict.fromkeys(items)))  # a bundle holds an item once
    model, matrices = _load_model(folder, workspace, catalogue, device)
    searched = matrices or _matrices(workspace, catalogue)  # a model of titles alone fuses no vectors
    proposed = search.complete(catalogue, searched, partial, options or model.max_options)
    how: dict[str, Any] = {"permutations": permutations, "at_once": at_once}
    if user is not None:
        if model.histories is None:
            raise RecipeError(
                f"The prompt of {folder.name} tells no user's history.",
                hint="leave --user out, or bundlecache train --set prompt.history=10",
            )
        how["taken"] = model.histories.of_user(user, [*partial, *proposed])
    chosen = scoring.complete(model, partial, proposed.tolist(), **how)[:k]
    if len(chosen) < k:
        log.print(f"[dim]{len(chosen)} of {k} completions: the model chooses among {len(proposed)} candidates[/]")
    rows = [
        {"rank": r, "item_id": catalogue.item_ids[i], "title": catalogue.titles[i], "probability": round(p, 4)}
        for r, (i, p) in enumerate(chosen, start=1)
    ]
    given = ", ".join(catalogue.titles[i] or catalogue.item_ids[i] for i in partial)
    show(rows, as_json, rows, title=f"Completes: {given}")


@app.command()
def report(
    run: Run = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Another run: compare both on the same questions.", show_default=False),
    ] = None,
    data: Data = Path("data"),
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The HTML file; report.html or against-OTHER.html of the run if left out.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page about a run, or about two: figures, how far to trust them, examples."""
    from bundlecache.report import run_page as page

    workspace, catalogue = _open(data)
    folder = workspace.run(run)
    said: list[str] = []
    if against is None:
        path = page.write(workspace, folder, catalogue, out=output)
    else:
        path, said = page.write_comparison(workspace, folder, workspace.run(against), catalogue, out=output)
    if as_json:
        show({"path": str(path), "verdict": said} if against else {"path": str(path)}, as_json, [])
    else:
        for sentence in said:
            out.print(f"- {escape(sentence)}", highlight=False)
        out.print(f"Report: [bold]{escape(str(path))}[/]", soft_wrap=True)


@app.command(name="import-checkpoint", rich_help_panel="Models")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="The folder with adapter_model.*, fusion.bin, ...")],
    encoder: Annotated[
        list[str],
        typer.Option(help="Stored vectors it was trained on, in order: content, bundle graph, user graph."),
    ],
    base: Annotated[str, typer.Option(help="The language model it was trained on: a folder or a hub id.")],
    settings: Settings = None,
    name: Annotated[str, typer.Option(help="Name of the run.")] = "imported",
    validation: Annotated[
        str | None, typer.Option(help="Validation questions; random ones if left out.", show_default=False)
    ] = None,
    data: Data = Path("data"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make a run of a checkpoint of Bundle-MLLM's public code."""
    from bundlecache.candidates.item_vectors import by_name
    from bundlecache.recipes import recipe as recipes
    from bundlecache.train import bundle_mllm_import as public_code

    workspace, catalogue = _open(data)
    _check_name(workspace, name)
    matrices = by_name(_stored(workspace, catalogue, encoder))
    if len(matrices) != 3:
        raise BundlecacheError(
            f"That code fuses three vectors of an item, but {len(matrices)} were named.",
            hint="--encoder CONTENT --encoder BUNDLE-GRAPH --encoder USER-GRAPH",
        )
    valid = _validation(workspace, catalogue, validation)
    given = [*public_code.overrides(source), f"base.model={base}", *(settings or [])]
    resolved = recipes.load("public-code", given)
    with Bar("import"):
        ignored = public_code.make_run(
            source, catalogue, matrices, valid, resolved, workspace.runs / name, device, workspace.tokens
        )
    if ignored:
        log.print(f"[dim]of no use to this recipe: {escape(', '.join(ignored))}[/]", soft_wrap=True)
    row = {"run": name, "adapter": f"rank {resolved.lora.rank}", "fuses": list(matrices), "base": base}
    show({**row, "ignored": ignored}, as_json, [row], title=f"{source} -> {workspace.runs / name}")


@app.command(rich_help_panel="Models")
def merge(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Name of a run; the newest one if left out.")
    ] = None,
    output: Annotated[Path, typer.Option("--out", help="A new folder.")] = Path("merged"),
    data: Data = Path("data"),
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a run as a plain language model: LoRA merged, tokenizer, and one embedding row per item."""
    from bundlecache.train import merge as merging

    workspace, catalogue = _open(data)
    folder = workspace.run(run)
    model, _ = _load_model(folder, workspace, catalogue, device)
    with Bar("merge"):
        paths = merging.merge(model, catalogue.item_ids, output)
    _show_files(paths, as_json, f"{folder.name} -> {output}")


@app.command(rich_help_panel="Models")
def ablate(
    grid: Annotated[
        str, typer.Argument(metavar="GRID", help="A TOML file, or a shipped grid: small, demo, catalogue, paper.")
    ],
    data: Data = Path("data"),
    seeds: Annotated[
        int | None, typer.Option(help="Only so many of the grid's seeds.", min=1, show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", help="Its folder; ablations/GRID of the workspace.", show_default=False)
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a grid of settings, several seeds each, and write one table; stopped, it goes on when typed again."""
    from bundlecache.bench import ablation
    from bundlecache.train import ablation_run as cells

    workspace, catalogue = _open(data)
    wanted = ablation.read(grid)
    if PROCESSES > 1:
        raise BundlecacheError("Ablations run in one process.", hint=f"bundlecache ablate {grid}")
    folder = output or workspace.root / "ablations" / wanted.name
    done: list[list[dict[str, Any]]] = []
    chosen, rows, stopped = wanted.seeds[:seeds], [], None
    for number, cell in enumerate(wanted.cells, 1):
        matrices = _trained_on(workspace, catalogue, cell.recipe)
        valid, tests = _questions_of(workspace, catalogue, cell.recipe.data.options, wanted.negatives)
        about = {name: [matrix.fingerprint, matrix.version] for name, matrix in matrices.items()}
        about |= {name: [asked.sha256] for name, asked in {"valid": valid, **tests}.items()}
        done.append([])
        for seed in chosen:
            place = folder / "cells" / cell.key(seed, about)
            result: dict[str, Any] | str | None = cells.finished(place)
            if result is None:
                said = f"cell {number} of {len(wanted.cells)}, seed {seed}: {cell.words or 'the recipe'}"
                log.print(f"[dim]{escape(said)}[/]", highlight=False, soft_wrap=True)
                with Bar("train") as bar:
                    result = cells.run(
                        catalogue,
                        matrices,
                        valid,
                        tests,
                        cell.recipe,
                        seed,
                        place,
                        device=device,
                        token_cache=workspace.tokens,
                        progress=bar.training,
                    )
            if isinstance(result, str):
                stopped = result
                break
            done[-1].append(result)
        if done[-1]:
            rows.append(ablation.row(cell, done[-1], done[0]))
            ablation.save(folder, wanted, rows)
        if stopped:
            break
    if as_json:
        show({"path": str(folder), "rows": rows, "stopped": stopped}, as_json, [])
    elif rows:
        show(None, as_json, ablation.shown(rows), title=f"{wanted.name}: HitRate@1 [95 %], seeds {chosen}")
        out.print(f"Tables: [bold]{escape(str(folder))}[/]/table.md, table.csv, results.json", soft_wrap=True)
    if stopped:
        log.print(f"[yellow]Stopped by {stopped};[/] the same command goes on.")
    if stopped in SIGNALLED:
        raise typer.Exit(SIGNALLED[stopped])


@app.command(rich_help_panel="Store")
def verify(
    data: Data = Path("data"),
    sample: Annotated[int, typer.Option(help="Vectors per table that are encoded again and compared.", min=0)] = 32,
    repair: Annotated[bool, typer.Option("--repair", help="Take damaged rows out, for encode to make again.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Read every stored row against its checksum, and encode a random sample again."""
    from bundlecache.store import verify as check
    from bundlecache.store.store import Store

    workspace, catalogue = _open(data)
    store = Store(workspace.store)
    infos = store.tables(heads=True)
    rows: list[dict[str, Any]] = []
    broken = []
    for info in infos:
        with Bar(info.modality) as bar:
            damage = check.verify(store, info, catalogue.item_ids, bar.step)
        again, remark = None, "damaged"
        if damage:
            broken.append((info, damage))
        else:
            with Bar("again"):
                again, remark = _recheck(workspace, catalogue, store, info, sample, seed, device)
        rows.append(
            {
                "encoder": info.spec,
                "table": info.table,
                "rows": damage.rows,
                "damaged": len(damage.item_ids) + len(damage.doubled) + damage.lost,
                "matrices": len(damage.matrices),
                "compared": again.compared if again else 0,
                "differing": len(again.differing) if again else 0,
                "least_cosine": again.least_cosine if again else None,
                "difference": again.difference if again else None,
                "remark": remark,
                "items": [*damage.item_ids, *damage.doubled, *(again.differing if again else [])],
            }
        )
    shown = ["encoder", "rows", "damaged", "compared", "differing", "least_cosine", "remark"]
    show(rows, as_json, rows, title=f"Stored vectors of {data}", columns=shown)
    for info, damage in broken:
        log.print(f"[yellow]{escape(info.spec)}:[/] {escape(str(damage))}", highlight=False, soft_wrap=True)
        if repair:
            check.repair(store, info, damage)
    if broken and not repair:
        raise BundlecacheError(
            f"Damaged: {len(broken)} of {counted(len(rows), 'table')}.",
            hint="bundlecache verify --repair takes the damage out, and bundlecache encode makes it anew",
        )
    if broken:
        log.print("What was damaged is out; type again: bundlecache encode")
    if differ := [row for row in rows if row["differing"]]:
        named = ", ".join(differ[0]["items"][:5])
        raise BundlecacheError(
            f"{differ[0]['encoder']} gives other vectors now than those stored, for {differ[0]['differing']} of "
            f"{differ[0]['compared']} items ({named}): another device, library or file of weights?",
            hint=f"bundlecache compact --drop {differ[0]['table']}, then encode again",
        )


@app.command(rich_help_panel="Store")
def compact(
    data: Data = Path("data"),
    drop: Annotated[
        list[str] | None, typer.Option(help="Delete this table, or all of this encoder.", show_default=False)
    ] = None,
    old_encoders: Annotated[
        bool, typer.Option("--old-encoders", help="Delete the tables that newer encoders have replaced.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the store small: pieces written together, old versions and unused matrices deleted."""
    from bundlecache.store import maintenance as upkeep
    from bundlecache.store.store import Store

    workspace, catalogue = _open(data)
    store = Store(workspace.store)
    runs = [path.name for path in workspace.runs.iterdir() if path.is_dir()] if workspace.runs.is_dir() else []
    infos = store.tables()
    gone = upkeep.choose(infos, drop or [], old_encoders=old_encoders)
    rows: list[dict[str, Any]] = [
        {"table": info.table, "before_bytes": upkeep.drop(store, info, runs), "after_bytes": 0, "kept_for": "dropped"}
        for info in gone
    ]
    with Bar("compact") as bar:
        left = [info for info in infos if info not in gone]
        for done, info in enumerate(left, start=1):
            before, after = upkeep.compact(store, info, catalogue.item_ids, runs)
            kept = (
                ", ".join(upkeep.tags(store, store.current(info.modality, info.spec, info.table))) if info.rows else ""
            )
            rows.append({"table": info.table, "before_bytes": before, "after_bytes": after, "kept_for": kept or None})
            bar.step(done, len(left))
    if swept := upkeep.sweep(store):
        rows.append({"table": "matrices of no table", "before_bytes": swept, "after_bytes": 0, "kept_for": "dropped"})
    if not as_json and len(rows) > 1:
        total = {name: sum(row[name] for row in rows) for name in ("before_bytes", "after_bytes")}
        show(None, as_json, [*rows, {"table": "all", **total, "kept_for": None}], title=f"Store of {data}")
    else:
        show(rows, as_json, rows, title=f"Store of {data}")


@app.command(rich_help_panel="Store")
def drift(
    data: Data = Path("data"),
    modality: Annotated[
        list[str] | None, typer.Option(help="Modalities to look at; all stored ones if left out.", show_default=False)
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A run, version, table or encoder to compare the present vectors with; what was trained on last, "
            "if left out.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[int, typer.Option(help="Items whose neighbours are compared.", min=1)] = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say how far vectors moved between two versions of a table, or from one encoder to another."""
    from bundlecache.store import drift as moves
    from bundlecache.store.store import Store

    workspace, _ = _open(data)
    store = Store(workspace.store)
    wanted = modality or store.modalities()
    if not wanted:
        raise BundlecacheError(f"Nothing is stored in {data} yet.", hint="bundlecache encode --modality all")
    rows, why = [], None
    for name in wanted:
        info = store.current(name)
        try:
            old = moves.find(store, info, start)
        except BundlecacheError as error:  # of several modalities, one may have a past
            why = error
            continue
        with Bar(name):
            moved = moves.compare(name, old, moves.snapshot(store, info), sample=sample, seed=seed)
        rows.append(moved.to_dict())
    if why and (not rows or modality):
        raise why
    columns = ["modality", "kept", "added", "removed", "changed", "cosine_mean", "cosine_p1", "overlap_at_10"]
    show(
        rows,
        as_json,
        rows,
        title="Drift: the present vectors beside earlier ones",
        columns=[*columns, "centroid_shift"],
    )
    if not as_json:
        for row in rows:
            log.print(f"[dim]{escape(row['old'])} -> {escape(row['new'])}[/]", highlight=False, soft_wrap=True)


@app.command(name="import-vectors", rich_help_panel="Store")
def import_vectors(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A .parquet, .npy or .pt file, an export or clip-retrieval folder.")
    ],
    modality: Annotated[str, typer.Option(help="text, image, audio or graph.")],
    name: Annotated[str, typer.Option(help="What to call them; the encoder is then import:NAME.")],
    ids: Annotated[Path | None, typer.Option(help="The item ids of the rows, one a line.", show_default=False)] = None,
    data: Data = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Put vectors that other programs made into the store."""
    from bundlecache.store import import_vectors as imports
    from bundlecache.store.store import Store

    workspace, catalogue = _open(data)
    (wanted,) = _modalities(modality) if modality != "all" else ("",)
    if not wanted:
        raise BundlecacheError("Vectors are of one modality, not of all.", hint="--modality image")
    found = imports.read(source, catalogue, wanted, name, ids)
    store = Store(workspace.store)
    with Bar("import"):
        info = store.write(found.identity, found.item_ids, found.vectors)
    failed = len(set(found.item_ids) & set(store.errors(info.table)["item_id"].to_pylist()))
    row = {
        "encoder": info.spec,
        "rows": found.given,
        "stored": len(found.item_ids) - failed,
        "unknown": found.unknown,
        "failed": failed,
        "without": len(catalogue) - len(found.item_ids),
        "dim": f"{info.tokens}x{info.dim}" if info.tokens else info.dim,
        "dtype": info.dtype,
        "table": info.table,
    }
    show(row, as_json, [row], title=f"{source} -> {data}")
    if found.unknown:
        log.print(f"[yellow]{counted(found.unknown, 'row')} of no item of the catalogue[/] left out.")
    if failed:
        log.print(
            f"[yellow]{counted(failed, 'row is no vector', 'rows are no vectors')}[/] (bundlecache status --errors says why)."
        )
        raise typer.Exit(PARTIAL)


@app.command(rich_help_panel="Store")
def export(
    output: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("export"),
    layout: Annotated[
        str, typer.Option("--format", help="parquet; or npy: a matrix, its mask and ids.txt.")
    ] = "parquet",
    data: Data = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Write the stored vectors as files that pandas, pyarrow and NumPy read in three lines."""
    from bundlecache.store.store import Store

    workspace, catalogue = _open(data)
    paths = Store(workspace.store).export(output, layout, catalogue.item_ids)
    _show_files(paths, as_json, "Exported")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    out.quiet = log.quiet = FOLLOWS
    if version:
        out.print(f"bundlecache {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line: a BundlecacheError is one sentence and exit code 1, a bug keeps its traceback."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            log.print("[yellow]Interrupted;[/] what is stored stays stored.")
        raise
    except BundlecacheError as error:
        log.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True, highlight=False)
        if error.hint:
            log.print(f"  [dim]try:[/] {escape(_here(error.hint))}", soft_wrap=True, highlight=False)
        sys.exit(1)


def _here(hint: str) -> str:
    """A hint whose commands name the workspace that was typed, so that they can be copied."""
    typed = re.search(r"(?:^|\0)--data[\0=]([^\0]+)", "\0".join(sys.argv))
    if typed is None or "--data" in hint:
        return hint
    verbs = "|".join(
        str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands
    )
    return re.sub(
        rf"\bbundlecache (?!demo)({verbs})(?![\w-])", lambda verb: f"{verb[0]} --data {shlex.quote(typed[1])}", hint
    )


def _open(data: Path, *, allow_outside: bool = False) -> tuple[WorkspaceFolder, Catalogue]:
    workspace = WorkspaceFolder(data, allow_outside=allow_outside)
    catalogue = Catalogue.read(workspace)
    for note in catalogue.notes:
        log.print(f"[dim]note: {escape(note)}[/]")
    return workspace, catalogue


def _settle_store(workspace: WorkspaceFolder, address: str | None, options: Sequence[str] | None) -> None:
    """Where the vectors are from now on, if it was said."""
    from bundlecache.store import location as place

    pairs = {}
    for option in options or []:
        name, _, value = option.partition("=")
        if not (name and value):
            raise BundlecacheError(
                f"--store-option is NAME=VALUE, not {option!r}.", hint="--store-option region=eu-west-1"
            )
        pairs[name] = value
    if address is not None:
        place.settle(workspace.store, address, pairs)
    elif pairs:
        raise BundlecacheError("--store-option was given without --store.", hint="--store s3://BUCKET/PREFIX")


def _check_name(workspace: WorkspaceFolder, name: str | None) -> None:
    """A new run has a plain name of its own: results and reports belong to the weights they were made with."""
    if name is None:
        return
    if not name or name.startswith(".") or Path(name).name != name or name == "latest":
        raise BundlecacheError(f"A run cannot be called {name!r}; a plain folder name is needed.", hint="--name second")
    if (workspace.runs / name / "manifest.json").is_file():
        raise BundlecacheError(
            f"There is a finished run {name!r} already, and its results belong to its weights.",
            hint=f"--name another, or delete {workspace.runs / name}",
        )


def _default_sets(workspace: WorkspaceFolder, split: str) -> list[str]:
    """The question sets of a split that are used when none is named: ten options, else what there is."""
    from bundlecache.questions import freeze, sets

    usual = [freeze.name_of(split, negatives, OPTIONS) for negatives in NEGATIVES]
    made = [name for name in sets.names(workspace) if name.startswith(f"{split}-")]
    if not made or set(usual) & set(made):
        return usual
    return sorted(made, key=lambda name: "random" not in name)


def _sets_of(workspace: WorkspaceFolder, catalogue: Catalogue, options: int) -> list[str]:
    """The test questions of so many options; they are frozen where there are none yet."""
    from bundlecache.questions import freeze, sets

    usual = [freeze.name_of("test", negatives, options) for negatives in NEGATIVES]
    if not set(usual) & set(sets.names(workspace)):
        log.print(
            f"No questions of {options} options yet: freezing them now (bundlecache questions --options {options})."
        )
        _freeze(workspace, catalogue, options, seed=0)
    return usual


def _modalities(name: str) -> tuple[str, ...]:
    if name == "all":
        return MODALITIES
    if name not in MODALITIES:
        raise BundlecacheError(
            f"There is no modality {name!r}; there are {', '.join(MODALITIES)}, and all.",
            hint="bundlecache encode --modality all",
        )
    return (name,)


def _named(
    catalogue: Catalogue, columns: str | None, modalities: Sequence[str], specs: Sequence[str] | None
) -> list[str] | None:
    """The specs of the text encoders with the columns that are their text."""
    from bundlecache.encoder_spec import EncoderSpec
    from bundlecache.features import registry as features

    if columns is None:
        return (
            [(parsed := EncoderSpec.parse(spec)).with_columns(parsed.columns).text for spec in specs] if specs else None
        )
    if "text" not in modalities:
        raise BundlecacheError(
            f"--fields {columns} says what is the text of an item, but nothing of it is encoded here.",
            hint=f"bundlecache encode --modality text --fields {columns}",
        )
    wanted = [name.strip() for name in columns.split(",")]
    catalogue.check_text_columns(wanted)
    return [EncoderSpec.parse(spec).with_columns(wanted).text for spec in specs or [features.DEFAULTS["text"]]]


def _encodable(catalogue: Catalogue) -> tuple[str, ...]:
    """All modalities, but the graph only where training may see an edge of the default one."""
    from bundlecache.catalogue import splits

    if len(splits.training_graph(catalogue, "user-item")):
        return MODALITIES
    if len(splits.training_graph(catalogue, "bundle-item")):
        log.print(
            "[dim]no graph: there are no interactions that training may see"
            " (bundlecache encode --modality graph --encoder lightgcn:bundle-item learns from bundles)[/]"
        )
    return MODALITIES[:-1]


def _make_demo(root: Path, seed: int, *, overwrite: bool) -> None:
    from bundlecache.catalogue.demo import make as maker

    if WorkspaceFolder(root).table("items") is not None and not overwrite:
        raise BundlecacheError(
            f"{root} holds a catalogue already.", hint="choose an empty folder, or add --overwrite to replace it"
        )
    try:
        made = maker.make(root, seed)
    except OSError as error:
        raise BundlecacheError(
            f"{root} cannot be made or written: {error.strerror or error}.", hint="choose another folder"
        ) from error
    out.print(f"Demo catalogue in {root}: {made.items:,} items, {made.bundles:,} bundles, {made.users:,} users.")


def _where(device: str, engine: str, ray_address: str | None) -> tuple[list[str], str, str | None]:
    """The devices, the engine and its address, as far as they go together."""
    devices = [name.strip() for name in device.split(",")]
    if engine not in ("local", "ray"):
        raise BundlecacheError(f"There is no engine {engine!r}; there are local and ray.", hint="--engine ray")
    if engine == "ray" and devices not in (["auto"], ["cpu"]):
        raise BundlecacheError(
            f"--engine ray finds the GPUs of its cluster itself; --device {device} cannot be asked of it.",
            hint="leave --device out, or type --device cpu",
        )
    if engine == "local" and ray_address is not None:
        raise BundlecacheError(
            "--ray-address was given without --engine ray.", hint=f"--engine ray --ray-address {ray_address}"
        )
    return devices, engine, ray_address


def _check_heeded(options: Sequence[str], wanted: Sequence[str], specs: Sequence[str] | None) -> None:
    """Refuse ``--precision`` or ``--draft`` where it changes nothing for any of the encoders."""
    from bundlecache.features import registry as features

    named = [(spec, name) for name in wanted for spec in specs or [features.DEFAULTS[name]]]
    heeded = set().union(*(features.heeds(spec, name) for spec, name in named))
    about = {"precision": "the forward pass of a network", "draft": "pictures"}
    for option in options:
        if option not in heeded:
            raise BundlecacheError(
                f"--{option} changes nothing for {' and '.join(spec for spec, _ in named)}: it is about {about[option]}.",
                hint=f"leave --{option} out, or name an --encoder that it changes",
            )


def _encode(
    workspace: WorkspaceFolder,
    catalogue: Catalogue,
    modality: str,
    specs: Sequence[str] | None = None,
    load: dict[str, Any] | None = None,
    how: dict[str, Any] | None = None,
    where: tuple[list[str], str, str | None] = (["auto"], "local", None),
) -> list[Receipt]:
    from bundlecache.encode.run import run_all
    from bundlecache.features import registry as features
    from bundlecache.store.store import Store

    source = "--encoder" if specs else "default: embedded, no weights needed"
    specs = list(dict.fromkeys(specs or [features.DEFAULTS[modality]]))
    for spec in specs:
        log.print(f"[dim]{modality} encoder = {escape(spec)} ({source})[/]", highlight=False, soft_wrap=True)
    graph = modality == "graph"  # one small computation on the whole: nothing to hand out
    loader = features.Loader(tuple(specs), modality, load or {}, catalogue if graph else None)
    devices, engine, address = where
    how = {"workers": 4, **(how or {})}
    with Bar(modality) as bar, ExitStack() as leaving:
        crew: Crew | None = None
        if engine == "ray" and not graph:
            from bundlecache.encode.ray_pool import Ray

            crew = leaving.enter_context(Ray(loader, how["workers"], address, devices[0]))
        elif len(devices) > 1 and not graph:
            from bundlecache.encode.process_pool import Processes

            crew = leaving.enter_context(Processes(loader, devices, how["workers"]))
        encoders: Any = crew.encoders if crew else loader(devices[0])
        store = Store(workspace.store)
        receipts = run_all(encoders, catalogue, workspace, store, progress=bar.encoding, crew=crew, **how)
    if bar.spent:
        log.print(f"[dim]{modality}: {bar.spent}[/]", highlight=False, soft_wrap=True)
    return receipts


def _trained_on(workspace: WorkspaceFolder, catalogue: Catalogue, recipe: Recipe) -> dict[str, Matrix]:
    """The stored matrices by modality, other fields that its encoder has read, and the encoders that the recipe names."""
    from bundlecache.store.coverage import standing
    from bundlecache.store.store import Store

    matrices = _matrices(workspace, catalogue)
    others = [info.spec for chosen in standing(Store(workspace.store).tables()).values() for info in chosen[1:]]
    encoders = list(dict.fromkeys([*others, *(wanted for wanted in recipe.fusion.modalities if ":" in wanted)]))
    return {**matrices, **dict(zip(encoders, _stored(workspace, catalogue, encoders), strict=True))}


def _questions_of(
    workspace: WorkspaceFolder, catalogue: Catalogue, options: int, negatives: Sequence[str]
) -> tuple[Questions, dict[str, Questions]]:
    """The random validation questions of so many options, and test questions by kind; made where they are missing."""
    from bundlecache.questions import freeze, sets

    names = {f"test-{kind}": freeze.name_of("test", kind, options) for kind in negatives}
    chosen_on = freeze.name_of("valid", "random", options)
    if not {chosen_on, *names.values()} <= set(sets.names(workspace)):
        _freeze(workspace, catalogue, options, 0, list(dict.fromkeys(["random", *negatives])))
    tests = {column: sets.load(workspace, catalogue, name) for column, name in names.items()}
    return sets.load(workspace, catalogue, chosen_on), tests


def _validation(workspace: WorkspaceFolder, catalogue: Catalogue, name: str | None) -> Questions:
    """The questions that weights are chosen on; made when there are none at all."""
    from bundlecache.questions import sets as question_files

    if not any(workspace.questions.glob("*.parquet")):
        _alone("questions")
        log.print("No questions yet: freezing them now (bundlecache questions).")
        _freeze(workspace, catalogue, options=OPTIONS, seed=0)
    valid = question_files.load(workspace, catalogue, name or _default_sets(workspace, "valid")[0])
    if valid.split != "valid":
        raise BundlecacheError(
            f"{valid.name} holds {valid.split} questions; weights are chosen on validation questions only.",
            hint=f"--validation {_default_sets(workspace, 'valid')[0]}",
        )
    return valid


def _alone(verb: str) -> None:
    """Refuse to make what is missing where several processes would make it at once."""
    if PROCESSES > 1:
        raise BundlecacheError(
            f"{PROCESSES} processes were started, but what they share is not made yet.", hint=f"bundlecache {verb}"
        )


def _say_recomputing(recipe: Recipe) -> None:
    """What gradient checkpointing costs."""
    if recipe.base.gradient_checkpointing:
        log.print(
            "[dim]gradient checkpointing: the language model runs forward twice, so a step takes 1.3 to 1.5 times as"
            " long and activations a fraction of the memory (benchmarks/train_step.py)[/]",
            soft_wrap=True,
        )


def _say_letters(recipe: Recipe) -> None:
    """That the embedded base cannot learn more letters than it was made with."""
    from bundlecache.train.model.llm import EMBEDDED_LETTERS

    if recipe.base.model == "embedded" and recipe.data.options > EMBEDDED_LETTERS:
        log.print(
            f"[yellow]The embedded base was made with {EMBEDDED_LETTERS} letters[/] and does not learn {recipe.data.options}: train with"
            f" data.options={EMBEDDED_LETTERS} or fewer, and ask about more in turns (bundlecache evaluate --options N).",
            soft_wrap=True,
        )


def _say_settings(recipe: Recipe) -> None:
    """The settings that are no default, one line per section and source."""
    lines: dict[tuple[str, str], list[str]] = {}
    for setting in recipe.settings():
        section, _, key = setting.key.partition(".")
        if setting.source != "default":
            lines.setdefault((section, setting.source), []).append(f"{key}={setting.value}")
    for (section, source), settings in lines.items():
        log.print(
            f"[dim]{section}: {escape(' '.join(settings))} ({escape(source)})[/]", highlight=False, soft_wrap=True
        )


def _store_imported(workspace: WorkspaceFolder, vectors: Sequence[Vectors]) -> None:
    """Put vectors that came with a data set into the store."""
    from bundlecache.store.import_vectors import IMPORTED
    from bundlecache.store.store import Store
    from bundlecache.store.vectors import Identity

    for found in vectors:
        identity = Identity(found.modality, found.spec, found.fingerprint, IMPORTED, "float32", found.dim)
        info = Store(workspace.store).write(identity, found.item_ids, found.vectors)
        log.print(f"{found.modality}: {counted(info.rows, 'vector')} of {found.spec}", highlight=False)


def _matrices(
    workspace: WorkspaceFolder, catalogue: Catalogue, wanted: Sequence[str] | None = None
) -> dict[str, Matrix]:
    """The stored matrices by modality; an empty store is filled with the embedded encoders first."""
    from bundlecache.store.store import Store

    store = Store(workspace.store)
    if not store.modalities():
        _alone("encode")
        log.print("Nothing is encoded yet, so the default encoders run now (bundlecache encode --modality all).")
        for modality in _encodable(catalogue):
            _encode(workspace, catalogue, modality)
    stored = store.modalities()
    missing = [name for name in MODALITIES if name not in stored and catalogue.has_source(name).any()]
    if missing and not wanted:
        log.print(f"[yellow]Without {', '.join(missing)}:[/] nothing of it is encoded (bundlecache encode).")
    return {name: store.matrix(catalogue.item_ids, name) for name in wanted or stored}


def _every_matrix(workspace: WorkspaceFolder, catalogue: Catalogue) -> dict[str, Matrix]:
    """The stored matrices of all encoders, the newest table of each; token features are no vector of an item."""
    from bundlecache.store.store import Store

    _matrices(workspace, catalogue)
    store = Store(workspace.store)
    newest = {info.spec: info for info in reversed(store.tables()) if info.rows and not info.tokens}
    return {
        spec: store.matrix(catalogue.item_ids, info.modality, spec, info.table)
        for spec, info in reversed(newest.items())
    }


def _searched(
    workspace: WorkspaceFolder,
    catalogue: Catalogue,
    modalities: Sequence[str] | None,
    encoders: Sequence[str] | None,
    run: str | None,
    device: str,
) -> dict[str, Matrix]:
    """The matrices to search: of modalities, of encoders, or the fused tokens of a run."""
    from bundlecache.candidates.index import by_name

    if sum(map(bool, (modalities, encoders, run))) > 1:
        raise BundlecacheError(
            "Only one of --modality, --encoder and --run says what is searched.", hint="bundlecache candidates --help"
        )
    if run:
        from bundlecache.train.inference import scoring

        folder = workspace.run(run)
        model, _ = _load_model(folder, workspace, catalogue, device)
        return {f"fused-{folder.name}": scoring.fused(model, folder)}
    if not encoders:
        return _matrices(workspace, catalogue, modalities)
    return by_name(_stored(workspace, catalogue, encoders))


def _stored(workspace: WorkspaceFolder, catalogue: Catalogue, encoders: Sequence[str]) -> list[Matrix]:
    """The matrices of these encoders, in their order."""
    from bundlecache.store.store import Store

    store = Store(workspace.store)
    of = {info.spec: info.modality for info in store.tables() if info.rows}
    for spec in encoders:
        if spec not in of:
            raise BundlecacheError(
                f"The store holds no vectors of {spec}; it has those of {', '.join(of) or 'none'}.",
                hint=f"bundlecache encode --encoder {spec} --modality MODALITY",
            )
    return [store.matrix(catalogue.item_ids, of[spec], spec) for spec in dict.fromkeys(encoders)]


def _weights(given: Sequence[str] | None) -> dict[str, float]:
    """``image=2`` as a weight by modality."""
    weights = {}
    for text in given or ():
        name, _, number = text.rpartition("=")
        try:
            weights[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise BundlecacheError(f"{text!r} is no weight of a modality.", hint="--weight image=2")
    return weights


def _recheck(
    workspace: WorkspaceFolder, catalogue: Catalogue, store: Store, info: TableInfo, sample: int, seed: int, device: str
) -> tuple[Recheck | None, str]:
    """A sample of a table encoded again, and a remark; None where that cannot be done here."""
    from bundlecache.encode import recheck
    from bundlecache.features import registry as features
    from bundlecache.store.import_vectors import IMPORTED

    if not sample or not info.rows:
        return None, "sound"
    if info.preprocess == IMPORTED:
        return None, "sound; made elsewhere, so not encoded again"
    try:
        how = {"device": device, "dtype": info.dtype, **features.options_of(info.preprocess)}
        encoder = features.load(info.spec, modality=info.modality, catalogue=catalogue, **how)
        again = recheck.recheck(encoder, catalogue, workspace, store, info, sample=sample, seed=seed)
    except BundlecacheError as error:
        log.print(f"[dim]{escape(info.spec)} is not encoded again: {escape(error.message)}[/]", soft_wrap=True)
        return None, "sound; not encoded again"
    same = again.preprocess == info.preprocess
    return again, ("differs" if again.differing else "sound") + (
        "" if same else "; libraries or options are others now"
    )


def _load_model(
    folder: Path, workspace: WorkspaceFolder, catalogue: Catalogue, device: str
) -> tuple[Any, dict[str, Matrix]]:
    """A trained model, and the very matrices it was trained on."""
    from bundlecache.store import maintenance as upkeep
    from bundlecache.store.store import Store
    from bundlecache.train import checkpoint

    store = Store(workspace.store)
    encoders = checkpoint.read_manifest(folder)["encoders"]
    matrices = {e["name"]: store.matrix(catalogue.item_ids, e["modality"], e["spec"], e["table"]) for e in encoders}
    for e in encoders:
        info = store.current(e["modality"], e["spec"], e["table"])
        if others := upkeep.moved(store, info, e["version"]):
            log.print(
                f"[dim]note: {others:,} {e['name']} vectors are others than when {escape(folder.name)} was trained "
                f"(bundlecache drift --modality {e['modality']} --from {escape(folder.name)})[/]"
            )
    return checkpoint.load(folder, catalogue, matrices, device, workspace.tokens), matrices


def _freeze(
    workspace: WorkspaceFolder,
    catalogue: Catalogue,
    options: int,
    seed: int,
    kinds: Sequence[str] = NEGATIVES,
    difficulty: float = 1.0,
) -> list[dict[str, Any]]:
    """Make the question files that are missing; those that are there stay as they are."""
    from bundlecache.questions import freeze, sets
    from bundlecache.store.store import Store

    vectors = None
    if not any(catalogue.column("category")):  # hard options are near items then
        store = Store(workspace.store)
        content = [name for name in store.modalities() if name != "graph"] or store.modalities()
        vectors = store.matrix(catalogue.item_ids, content[0]).vectors if content else None
    matrices = _matrices(workspace, catalogue) if any("nearest:" in kind for kind in kinds) else {}
    rows = []
    for split in ("valid", "test"):
        for negatives in kinds:
            name = freeze.name_of(split, negatives, options, seed, difficulty)
            made = name not in sets.names(workspace)
            if made:
                frozen = freeze.freeze(
                    catalogue,
                    split=split,
                    n_options=options,
                    negatives=negatives,
                    seed=seed,
                    vectors=vectors,
                    difficulty=difficulty,
                    matrices=matrices,
                )
                frozen.save(sets.path(workspace, name), catalogue)
            else:
                frozen = sets.load(workspace, catalogue, name)
            rows.append(
                {
                    "name": name,
                    "questions": len(frozen),
                    "options": frozen.n_options,
                    "sha256": frozen.sha256[:16],
                    "made": "now" if made else "before",
                }
            )
    return rows


def _take_over(workspace: WorkspaceFolder, catalogue: Catalogue, file: Path, skip_broken: bool) -> list[dict[str, Any]]:
    """Store the sets of a file that others froze; the same again is fine, others under its name are refused."""
    from bundlecache.questions import importing as question_import
    from bundlecache.questions import sets

    rows = []
    for asked in question_import.read(file, catalogue, skip_broken=skip_broken):
        asked.save(sets.path(workspace, asked.name), catalogue)
        row = {"name": asked.name, "questions": len(asked), "options": asked.n_options, "sha256": asked.sha256[:16]}
        rows.append({**row, "left_out": asked.header["left_out"]})
    return rows


def _export_questions(workspace: WorkspaceFolder, catalogue: Catalogue, folder: Path) -> list[dict[str, Any]]:
    from bundlecache.questions import sets

    rows = []
    for name in sets.names(workspace):
        asked = sets.load(workspace, catalogue, name)
        asked.export_jsonl(folder / f"{name}.jsonl", catalogue)
        rows.append({"file": str(folder / f"{name}.jsonl"), "questions": len(asked), "sha256": asked.sha256})
    return rows


def _say_leaks(catalogue: Catalogue) -> None:
    from bundlecache.catalogue import splits

    for sentence in splits.leaks(catalogue):
        log.print(f"[yellow]leak:[/] {escape(sentence)}", soft_wrap=True, highlight=False)


def _training_seconds(folder: Path) -> float:
    from bundlecache.workspace import read_manifest

    return float(sum(stage["seconds"] for stage in read_manifest(folder)["stages"]))


def _newest(workspace: WorkspaceFolder, folders: Sequence[Path]) -> Path:
    """The run that others are compared with: the newest one where it is among them."""
    return workspace.run() if workspace.run() in folders else folders[-1]


def _model_name(folder: Path, folders: Sequence[Path]) -> str:
    return "Bundle-MLLM" if len(folders) == 1 else f"Bundle-MLLM ({folder.name})"


def _seat(name: str, model: Any, how: dict[str, Any]) -> ModelRanker:
    """A trained model as a ranker; ``how`` it is asked is that of `bundlecache.train.inference.scoring.score`."""
    from bundlecache.baselines.rankers import ModelRanker
    from bundlecache.train.inference import scoring

    return ModelRanker(name, lambda asked: scoring.score(model, asked, **how))


def _personal(sources: Sources, sets: list[Questions], models: list[ModelRanker], latest: int) -> list[PersonalRanker]:
    """Methods that look at the ``latest`` items of a bundle's user too; none where no question has such items."""
    from bundlecache.baselines.personal import PersonalRanker
    from bundlecache.baselines.registry import PERSONAL
    from bundlecache.questions.user_history import UserHistories

    if not latest:
        return []
    histories = UserHistories(sources.catalogue, latest)
    if not any(len(history) for asked in sets for history in histories.of(asked)):
        log.print("No bundle's user took anything outside held-out bundles: there is no history to look at.")
        return []
    return [
        PersonalRanker(ranker, histories, lambda: sources.validation)
        for ranker in (*sources.rankers(*PERSONAL), *models)
    ]


def _answers_of(
    loaded: dict[Path, Any], seats: dict[Path, ModelRanker], asked: Questions, how: dict[str, Any]
) -> list[Any]:
    """Every loaded model's answers, and those of its base as it was before training (zero-shot), as the bench takes them."""
    from bundlecache.bench.benchmark import score
    from bundlecache.train.inference import scoring
    from bundlecache.workspace import read_manifest

    answers, seconds, trained = {}, {}, {}
    bases: set[str] = set()
    for folder, model in loaded.items():
        ladder = scoring.ladder(model, asked, ablation=False, **how)
        first, name = next(iter(ladder.answers)), seats[folder].name
        seats[folder].given[asked.sha256] = ladder.answers[first]
        answers[name], seconds[name], trained[name] = (
            ladder.answers[first],
            ladder.seconds[first],
            _training_seconds(folder),
        )
        base = (read_manifest(folder)["base"] or {}).get("spec", "embedded")
        if base not in bases:
            bases.add(base)
            zero = "zero-shot LLM" if len(bases) == 1 else f"zero-shot LLM ({base})"
            answers[zero], seconds[zero] = (
                ladder.answers["base model, untrained"],
                ladder.seconds["base model, untrained"],
            )
    return score([], asked, answers, seconds=seconds, training_seconds=trained)


def _show_files(paths: Sequence[Path], as_json: bool, title: str) -> None:
    rows = [{"file": str(path), "size_bytes": path.stat().st_size} for path in paths]
    show(rows, as_json, rows, title=title)


def _without(names: Sequence[str], row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


if __name__ == "__main__":
    main()
