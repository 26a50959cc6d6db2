"""The commands of bundlecache, in the order of the pipeline. Each calls one method of the library and prints the result.

The library is imported inside the functions, so that ``--help`` and mistakes answer at once. Tables and JSON go to
standard output, notes and progress to standard error. Exit codes: 0 done, 1 one sentence about what to change, 2 wrong
usage, 3 done but some items failed, 130 and 143 interrupted.
"""

from __future__ import annotations

import gc
import signal
import sys

if __name__ == "__main__" or sys.argv[0].endswith(("bundlecache", "bundlecache.exe")):
    gc.set_threshold(50_000, 20, 20)  # at 700, a fifth of the imports of torch and transformers is looking for garbage
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell keeps Ctrl-C away
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports just ends the process; see main

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

import bundlecache
from bundlecache import __version__, lean_imports
from bundlecache.console import adapt_options as ao
from bundlecache.console import carts_options as co
from bundlecache.console import options as o
from bundlecache.console import recommend_options as r
from bundlecache.console import serve_options as sv
from bundlecache.console import similar_options as so
from bundlecache.console import task_options as t
from bundlecache.console.exits import command_line, exit_partial, exit_signalled, run_app, show_completed, show_files
from bundlecache.console.output import log, out, plain, say, show
from bundlecache.console.parsing import Verb, check_completed, check_question_options, pairs, tables_request, weights
from bundlecache.errors import Command, counted
from bundlecache.pandas_absent import leave_pandas_out

if TYPE_CHECKING:
    from bundlecache import Workspace

_own_process = False  # whether `main` runs, in a process that ends with it
MODELS, STORE = "Models", "Store"  # panels of --help
DEMO_STEPS = "joint_stage.steps=150"  # half of the recipe's, so that the demo ends within 3 minutes of two cores

app = typer.Typer(
    help="Complete bundles (outfits, playlists, kits) with a multimodal language model: encode every item once, "
    "then train on the cached vectors.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.command(cls=Verb)
def demo(
    data: o.Data = Path("data"),
    make_data: o.MakeData = None,
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    device: o.Device = "auto",
) -> None:
    """Show the whole way on the demo catalogue: encode, candidates, train, evaluate, report."""
    began = time.perf_counter()
    if make_data is not None or not data.exists():
        made = bundlecache.make_demo(data if make_data is None else make_data, seed, overwrite=overwrite)
        say(
            f"Demo catalogue in {data if make_data is None else make_data}: {made.items:,} items, {made.bundles:,} bundles, {made.users:,} users."
        )
    if make_data is not None:
        return
    encode(data=data, device=device)
    questions(data=data)
    candidates(data=data)
    train(data=data, recipe="evidence", settings=[DEMO_STEPS], seed=seed, device=device)
    evaluate(data=data, device=device)
    report(data=data)
    say(f"The whole way took {time.perf_counter() - began:.0f} s on {os.cpu_count()} cores.")


@app.command(cls=Verb, name="import")
def import_(
    layout: o.Layout,
    source: o.Source,
    data: o.Data = Path("data"),
    items: o.ItemsFile = None,
    orders: o.OrdersFile = None,
    events: o.EventsFile = None,
    maps: o.Maps = None,
    dates: o.Dates = "auto",
    fetch: o.Fetch = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    as_json: o.AsJson = False,
) -> None:
    """Import a public data layout, a folder of pictures and sounds, or a shop's own tables as a workspace."""
    from bundlecache.console.tables import show_import

    request = tables_request(items, orders, events, maps, dates, fetch)
    made = bundlecache.import_data(layout, source, data, overwrite=overwrite, dry_run=dry_run, tables=request)[1]
    show_import(made, as_json, title=f"{layout} -> {data}")


@app.command(cls=Verb)
def update(
    source: o.UpdateSource,
    data: o.Data = Path("data"),
    layout: o.UpdateLayout = "tables",
    items: o.ItemsFile = None,
    orders: o.OrdersFile = None,
    events: o.EventsFile = None,
    maps: o.Maps = None,
    dates: o.Dates = "auto",
    fetch: o.Fetch = False,
    remove_missing: o.RemoveMissing = False,
    encode_too: o.EncodeToo = True,
    dry_run: o.DryRun = False,
    as_json: o.AsJson = False,
) -> None:
    """Change the catalogue by new rows: add, edit and, when asked, remove; then encode what is new. For cron."""
    from bundlecache.console.tables import show_update

    request = tables_request(items, orders, events, maps, dates, fetch)
    summary, receipts = bundlecache.update_data(
        source,
        data,
        layout=layout,
        remove_missing=remove_missing,
        dry_run=dry_run,
        encode=encode_too,
        tables=request,
    )
    show_update(summary, receipts, as_json, title=f"{source} -> {data}")
    exit_partial(sum(receipt.failed for receipt in receipts), "item failed", "items failed")


@app.command(cls=Verb)
def encode(
    modality: o.Modality = "all",
    data: o.Data = Path("data"),
    encoder: o.Encoders = None,
    columns: o.Fields = None,
    device: o.Devices = "auto",
    engine: o.Engine = "local",
    ray_address: o.RayAddress = None,
    dtype: o.Dtype = None,
    batch_size: o.EncodeBatch = None,
    precision: o.Precision = "auto",
    draft: o.Draft = None,
    workers: o.Workers = 4,
    retry_failed: o.RetryFailed = False,
    max_errors: o.MaxErrors = None,
    limit: o.EncodeLimit = None,
    dry_run: o.EncodeDryRun = False,
    allow_outside: o.AllowOutside = False,
    store_at: o.StoreAt = None,
    store_option: o.StoreOptions = None,
    as_json: o.AsJson = False,
) -> None:
    """Run frozen encoders once over every new or changed item, into the store."""
    from bundlecache.console.tables import show_encoding

    receipts = _open(data, allow_outside=allow_outside, engine=engine).encode(
        modality,
        encoder=encoder,
        fields=columns,
        device=device,
        engine=engine,
        ray_address=ray_address,
        dtype=dtype,
        batch_size=batch_size,
        precision=precision,
        draft=draft,
        workers=workers,
        retry_failed=retry_failed,
        max_errors=max_errors,
        limit=limit,
        dry_run=dry_run,
        store=store_at,
        store_options=pairs(store_option, "--store-option", "region=eu-west-1"),
    )
    exit_partial(show_encoding(receipts, as_json), "item failed", "items failed")


@app.command(cls=Verb)
def status(
    data: o.Data = Path("data"),
    errors: o.Errors = False,
    store_at: o.StoreAt = None,
    store_option: o.StoreOptions = None,
    as_json: o.AsJson = False,
) -> None:
    """Say what is stored: coverage per modality and encoder, failed and absent items, and what is out of date.

    Question sets, candidates and runs that do not fit the vectors and bundles of today are named with the command to type. Edited
    texts are counted; of pictures and sounds, only encode and its --dry-run see that files were edited.
    """
    from bundlecache.console.tables import show_failed_items, show_status

    shop = _open(data)
    shop.use_store(store_at, pairs(store_option, "--store-option", "region=eu-west-1"))
    if errors:
        show_failed_items(list(shop.errors()), data, as_json)
    else:
        show_status(shop.status().to_dict(), data, as_json)


@app.command(cls=Verb)
def questions(
    files: o.QuestionFiles = None,
    data: o.Data = Path("data"),
    options: o.NumberOfOptions = 10,
    negatives: o.Negatives = None,
    difficulty: o.Difficulty = 1.0,
    seed: o.Seed = 0,
    skip_broken: o.SkipBroken = False,
    export_to: o.ExportTo = None,
    task: t.TaskOption = None,
    split: t.SplitOption = None,
    k_core: t.KCore = None,
    min_rating: t.MinRating = None,
    as_json: o.AsJson = False,
) -> None:
    """Freeze the multiple-choice questions: validation and test, with random and hard wrong options; or take FILEs over."""
    how = t.task_options(task, split, k_core, min_rating)
    if task is not None:
        frozen = [row.to_dict() for row in _open(data).task_questions(task, seed=seed, **how)]
        show(frozen, as_json, frozen, title=f"Tasks in {data / 'questions' / 'tasks'}")
        return
    check_question_options(
        files, export_to, skip_broken, drawn=bool(negatives) or (options, difficulty, seed) != (10, 1, 0)
    )
    shop = _open(data)
    for sentence in shop.leaks():
        log.print(f"[yellow]leak:[/] {escape(plain(sentence, 1000))}", soft_wrap=True, highlight=False)
    made: Any
    if export_to is not None:
        made = shop.export_questions(export_to)
    elif files:
        made = shop.take_questions(files, skip_broken=skip_broken)
    else:
        made = shop.questions(options=options, negatives=negatives, difficulty=difficulty, seed=seed)
    rows = [row.to_dict() for row in made]
    show(rows, as_json, rows, title=f"Questions in {export_to or data / 'questions'}")


@app.command(cls=Verb)
def candidates(
    k: o.K = 20,
    data: o.Data = Path("data"),
    modality: o.Modalities = None,
    encoder: o.SearchedEncoders = None,
    run: o.SearchedRun = None,
    weight: o.Weights = None,
    split: o.Split = "test",
    where: o.Where = None,
    index: o.IndexKind = "auto",
    metric: o.Metric = "cosine",
    recall: o.Recall = 0.99,
    max_memory: o.MaxMemory = None,
    rebuild: o.Rebuild = False,
    device: o.Device = "auto",
    engine: o.SearchEngine = "faiss",
    as_json: o.AsJson = False,
) -> None:
    """Search the whole catalogue for the k items nearest to each partial bundle."""
    from bundlecache.console.tables import show_candidates

    made = _open(data).candidates(
        k,
        modalities=modality or (),
        encoders=encoder or (),
        run=run,
        weights=weights(weight),
        split=split,
        where=where or (),
        index=index,
        metric=metric,
        recall=recall,
        max_memory=max_memory,
        rebuild=rebuild,
        device=device,
        engine=engine,
    )
    show_candidates(made.to_dict(), made.candidates.summary(), made.index, as_json)


@app.command(cls=Verb)
def similar(
    item: so.SimilarTo,
    k: so.SimilarItems = 10,
    data: o.Data = Path("data"),
    modality: o.Modalities = None,
    encoder: o.SearchedEncoders = None,
    run: o.SearchedRun = None,
    where: o.Where = None,
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Find the k items of the catalogue that are nearest to one of them."""
    shop = _open(data)
    how: dict[str, Any] = {"modality": modality or (), "encoder": encoder or (), "run": run, "where": where or ()}
    rows = shop.similar(item, k, device=device, **how).to_dicts()
    show(rows, as_json, rows, title=f"Similar to {shop.title(item)}")


@app.command(cls=Verb)
def train(
    data: o.Data = Path("data"),
    recipe: o.RecipeName = None,
    settings: o.Settings = None,
    stage: o.Stage = "all",
    start: o.StartRun = None,
    name: o.NewName = None,
    validation: o.Validation = None,
    seed: o.TrainSeed = None,
    device: o.Device = "auto",
    max_minutes: o.MaxMinutes = None,
    resume: o.Resume = None,
    as_json: o.AsJson = False,
) -> None:
    """Train a model on the cached vectors: one that completes bundles, or (--recipe unimp) predicts what users do."""
    run = _open(data).train(
        recipe,
        settings=settings or (),
        stage=stage,
        start=start,
        name=name,
        validation=validation,
        seed=seed,
        device=device,
        max_minutes=max_minutes,
        resume=resume,
    )
    assert run.result is not None  # noqa: S101 - it was just trained
    show(run.result.to_dict(), as_json, run.result.rows, title=f"Trained {run.name}, figures on validation questions")
    exit_signalled(run.result.stopped)


@app.command(cls=Verb, rich_help_panel=MODELS)
def adapt(
    data: o.Data = Path("data"),
    encoder: ao.Encoder = None,
    name: ao.NewName = "tuned",
    text_encoder: ao.TextEncoder = None,
    recipe: ao.Recipe = None,
    image: ao.ImageMode = None,
    text: ao.TextMode = None,
    settings: ao.Settings = None,
    seed: ao.Seed = None,
    device: o.Device = "auto",
    max_minutes: o.MaxMinutes = None,
    resume: ao.Resume = None,
    overwrite: ao.Overwrite = False,
    others: ao.Others = None,
    as_json: o.AsJson = False,
) -> None:
    """Adapt an encoder to the catalogue's own pictures and titles; zero-shot is measured first and may win."""
    from bundlecache.console.adapt_tables import show_adaptation

    made = _open(data).adapt(
        encoder,
        name=name,
        recipe=recipe,
        text_encoder=text_encoder,
        image=image,
        text=text,
        settings=settings or (),
        seed=seed,
        device=device,
        max_minutes=max_minutes,
        resume=resume,
        overwrite=overwrite,
        others=others or (),
    )
    show_adaptation(made, as_json)
    exit_signalled(made.stopped)


@app.command(cls=Verb)
def evaluate(
    run: o.RunName = None,
    data: o.Data = Path("data"),
    question_sets: o.QuestionSets = None,
    options: o.EvaluatedOptions = None,
    permutations: o.Permutations = 1,
    at_once: o.AtOnce = None,
    batch_size: o.BatchSize = 32,
    sample: o.Sample = 5000,
    baselines: o.Baselines = True,
    ablation: o.Ablation = True,
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Answer the frozen test questions, in one forward each up to as many options as trained on, beside the baselines."""
    from bundlecache.console.tables import show_results
    from bundlecache.console.task_tables import show_tasks

    model = _open(data).run(run or "latest")
    if model.kind == "unimp":
        tasks = question_sets or ()
        show_tasks(model.evaluate_tasks(tasks, sample=sample, baselines=baselines, device=device), as_json)
        return
    made = model.evaluate(
        question_sets or (),
        options=options,
        permutations=permutations,
        at_once=at_once,
        batch_size=batch_size,
        sample=sample,
        baselines=baselines,
        ablation=ablation,
        device=device,
    )
    if as_json:
        show(made.without_seconds(), as_json, [])
    else:
        show_results(made.sets)


@app.command(cls=Verb, name="bench")
def bench_(
    data: o.Data = Path("data"),
    question_sets: o.QuestionSets = None,
    runs: o.Runs = None,
    models: o.Models = True,
    full: o.Full = False,
    similar_items: so.Similar = False,
    window: so.Window = None,
    history: o.History = 0,
    by: o.By = None,
    permutations: o.Permutations = 1,
    at_once: o.AtOnce = None,
    batch_size: o.BatchSize = 32,
    sample: o.Sample = 5000,
    device: o.Device = "auto",
    output: o.OutFolder = None,
    task: t.TaskOption = None,
    split: t.SplitOption = None,
    k_core: t.KCore = None,
    min_rating: t.MinRating = None,
    seed: t.TrainingSeeds = None,
    keep_history: t.KeepHistory = False,
    as_json: o.AsJson = False,
) -> None:
    """Score all methods on all question sets: one table, leak probes, and a verdict in words."""
    from bundlecache.bench.slices import chosen
    from bundlecache.console.tables import show_bench, show_full_bench
    from bundlecache.console.task_tables import show_task

    ways, how = chosen(by or ()), t.task_options(task, split, k_core, min_rating)
    shop = _open(data)
    if task is not None:
        how |= {
            "runs": (runs or ()) if models else (),
            "device": device,
            "training_seeds": seed or (),
            "sample": sample,
        }
        show_task(*shop.bench_task(task, keep_history=keep_history, out=output, **how), as_json)
        return
    if similar_items:
        from bundlecache.console.similar_tables import show_similar_bench

        scored: dict[str, Any] = {"runs": runs or (), "models": models, "sample": sample}
        made_similar = shop.bench_similar(visit_minutes=window, device=device, out=output, **scored)
        show_similar_bench(made_similar.path, made_similar.result, as_json)
        return
    asked: dict[str, Any] = {
        "questions": question_sets or (),
        "runs": runs or (),
        "models": models,
        "history": history,
        "permutations": permutations,
        "at_once": at_once,
        "batch_size": batch_size,
        "sample": sample,
        "device": device,
        "out": output,
    }
    if full:
        among_all = shop.bench_full(**asked)
        show_full_bench(among_all.path, among_all.result, ways, as_json)
    else:
        made = shop.bench(**asked)
        show_bench(made.path, made.results, ways, as_json)


@app.command(cls=Verb)
def complete(
    items: o.Items = None,
    k: o.Completions = 5,
    carts: co.CartFile = None,
    file: co.BundleFile = None,
    columns: co.CartColumns = None,
    output: co.AnswerFile = None,
    options: o.AskedOptions = None,
    user: o.User = None,
    method: o.Method = None,
    where: o.Where = None,
    exclude: o.Exclude = None,
    permutations: o.Permutations = 1,
    at_once: o.AtOnce = None,
    run: o.RunName = None,
    data: o.Data = Path("data"),
    device: o.Device = "auto",
    engine: co.CompleteEngine = "local",
    ray_address: o.RayAddress = None,
    as_json: o.AsJson = False,
) -> None:
    """Complete a partial bundle, or a file of carts: FAISS proposes candidates, the method best on validation ranks them."""
    how: dict[str, Any] = {
        "options": options,
        "user": user,
        "method": method,
        "where": where or (),
        "exclude": exclude or (),
        "permutations": permutations,
        "at_once": at_once,
        "device": device,
    }
    target = check_completed(items, carts or file, output, engine, columns)
    shop = _open(data, engine=engine, answers=target is None)
    if target is not None:
        how |= {"maps": columns or (), "run": run, "engine": engine, "ray_address": ray_address}
        answers = shop.complete_file(*target, k, **how)
        show_completed(answers.to_dict(), as_json)
        return
    made = shop.run(run or "latest", "bundle").complete(items or (), k, **how)
    given = ", ".join(shop.title(item) for item in dict.fromkeys(items or ()))
    show(made.to_dicts(), as_json, made.to_dicts(), title=f"Completes: {given}")


@app.command(cls=Verb)
@r.offering
def recommend(user: r.ForUser, *, data: Path, as_json: bool, **offer: Any) -> None:
    """Recommend what a user takes next, among the whole catalogue: by a UniMP run, else by the best baseline."""
    made = _open(data, answers=True).recommend(user, **offer).to_dicts()
    show(made, as_json, made, title=f"For {user}")


@app.command(cls=Verb)
@r.offering
def search(user: r.ForUser, query: r.Query, *, data: Path, as_json: bool, **offer: Any) -> None:
    """Search the catalogue for what a user types, in the order that fits the user: by a UniMP run, else by a baseline."""
    made = _open(data, answers=True).search(user, query, **offer).to_dicts()
    show(made, as_json, made, title=f"{query} for {user}")


@app.command(cls=Verb)
def explain(
    user: r.ForUser,
    item: r.ExplainedItem,
    run: r.ExplainRun = None,
    data: o.Data = Path("data"),
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Say how many stars a user would give an item, and why: by a UniMP run."""
    made = vars(_open(data, answers=True).explain(user, item, run=run, device=device))
    show(
        made, as_json, [{name: made[name] for name in ("rating", "stars", "text")}], title=f"{made['title']} for {user}"
    )


@app.command(cls=Verb)
def draw(
    user: r.ForUser,
    query: r.Query,
    output: r.PictureFile = Path("drawing.png"),
    run: r.ExplainRun = None,
    data: o.Data = Path("data"),
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Draw the picture of what a user searches for, by a UniMP run that was trained to. Experimental."""
    made = _open(data).draw(user, query, output, run=run, device=device)
    rows = [{"shown": item, "title": title} for item, title in zip(made.item_ids, made.titles, strict=True)]
    show({**vars(made), "path": str(made.path)}, as_json, rows, title=f"{query} for {user}, drawn after")
    if not as_json:
        say(f"Picture: {made.path}")


@app.command(cls=Verb)
def serve(
    run: o.RunName = None,
    host: sv.Host = "127.0.0.1",
    port: sv.Port = 8000,
    workers: sv.Workers = 1,
    token_file: sv.TokenFile = None,
    allowed_host: sv.AllowedHosts = None,
    queue: sv.Queue = 256,
    batch: sv.Batch = 32,
    timeout: sv.Timeout = 30.0,
    max_body_mb: sv.MaxBody = 16,
    data: o.Data = Path("data"),
    device: o.Device = "auto",
) -> None:
    """Serve completions by HTTP, with a page to build bundles by hand; a newer run takes over without a pause."""
    from bundlecache.serve.server import serve as serve_
    from bundlecache.serve.settings import ServeSettings, read_token

    limits: dict[str, Any] = {
        "queue": queue,
        "batch": batch,
        "timeout_seconds": timeout,
        "body_bytes": max_body_mb << 20,
    }
    where: dict[str, Any] = {"host": host, "port": port, "hosts": tuple(allowed_host or ()), "workers": workers}
    serve_(ServeSettings(str(data), run, token=read_token(token_file), device=device, **where, **limits))


@app.command(cls=Verb)
def report(
    run: o.RunName = None,
    against: o.Against = None,
    data: o.Data = Path("data"),
    output: o.HtmlFile = None,
    as_json: o.AsJson = False,
) -> None:
    """Write one self-contained HTML page about a run, or about two: figures, how far to trust them, examples."""
    page = _open(data).run(run or "latest").report(against, output)
    if as_json:
        show({"path": str(page.path), **({"verdict": page.findings} if against else {})}, as_json, [])
    else:
        say("\n".join([*(f"- {sentence}" for sentence in page.findings), f"Report: {page.path}"]))


@app.command(cls=Verb, name="import-checkpoint", rich_help_panel=MODELS)
def import_checkpoint(
    source: o.CheckpointFolder,
    encoder: o.CheckpointEncoders,
    base: o.CheckpointBase,
    settings: o.Settings = None,
    name: o.CheckpointName = "imported",
    validation: o.Validation = None,
    data: o.Data = Path("data"),
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Make a run of a checkpoint of Bundle-MLLM's public code."""
    how: dict[str, Any] = {"settings": settings or (), "name": name, "validation": validation, "device": device}
    made = _open(data).import_checkpoint(source, encoders=encoder, base=base, **how).to_dict()
    row = {key: value for key, value in made.items() if key != "ignored"}
    show(made, as_json, [row], title=f"{source} -> {data / 'runs' / name}")


@app.command(cls=Verb, rich_help_panel=MODELS)
def merge(
    run: o.MergedRun = None,
    output: o.MergedFolder = Path("merged"),
    data: o.Data = Path("data"),
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Write a run as a plain language model: LoRA merged, tokenizer, and one embedding row per item."""
    model = _open(data).run(run or "latest", "bundle")
    show_files(model.merge(output, device), as_json, f"{model.name} -> {output}")


@app.command(cls=Verb, rich_help_panel=MODELS)
def ablate(
    grid: o.Grid,
    data: o.Data = Path("data"),
    seeds: o.Seeds = None,
    output: o.OutFolder = None,
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Train a grid of settings, several seeds each, and write one table; stopped, it goes on when typed again."""
    from bundlecache.bench.ablation import shown

    made = _open(data).ablate(grid, seeds=seeds, out=output, device=device)
    if as_json:
        rows = [row.to_dict() for row in made.rows]
        show({"path": str(made.path), "rows": rows, "stopped": made.stopped}, as_json, [])
    elif made.rows:
        show(None, as_json, shown(made.rows), title=f"{made.name}: {made.figure} [95 %], seeds {made.seeds}")
        say(f"Tables: {made.path}/table.md, table.csv, results.json")
    exit_signalled(made.stopped)


@app.command(cls=Verb, rich_help_panel=STORE)
def verify(
    data: o.Data = Path("data"),
    sample: o.VerifySample = 32,
    repair: o.Repair = False,
    device: o.Device = "auto",
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Read every stored row against its checksum, and encode a random sample again."""
    made = _open(data).verify(sample=sample, repair=repair, device=device, seed=seed)
    rows = made.tables.to_dicts()
    shown = ["encoder", "rows", "damaged", "compared", "differing", "least_cosine", "remark"]
    show(rows, as_json, rows, title=f"Stored vectors of {data}", columns=shown)
    for encoder, damage in made.damage.items():
        log.print(f"[yellow]{escape(plain(encoder))}:[/] {escape(damage)}", highlight=False, soft_wrap=True)
    made.require_sound()
    if made.damage:
        again = command_line(Command("encode"))
        log.print(f"What was damaged is out; type again: {again}", markup=False, soft_wrap=True)


@app.command(cls=Verb, rich_help_panel=STORE)
def compact(
    data: o.Data = Path("data"),
    drop: o.Drop = None,
    old_encoders: o.OldEncoders = False,
    as_json: o.AsJson = False,
) -> None:
    """Make the store small: pieces written together, old versions and unused matrices deleted."""
    rows = _open(data).compact(drop=drop or (), old_encoders=old_encoders).to_dicts()
    total = {name: sum(row[name] for row in rows) for name in ("before_bytes", "after_bytes")}
    summed = [{"table": "all", **total, "kept_for": None}] if len(rows) > 1 else []
    show(rows, as_json, [*rows, *summed], title=f"Store of {data}")


@app.command(cls=Verb, rich_help_panel=STORE)
def drift(
    data: o.Data = Path("data"),
    modality: o.Modalities = None,
    start: o.DriftFrom = None,
    sample: o.DriftSample = 1000,
    seed: o.Seed = 0,
    as_json: o.AsJson = False,
) -> None:
    """Say how far vectors moved between two versions of a table, or from one encoder to another."""
    from bundlecache.console.tables import show_drift

    show_drift(_open(data).drift(modality or (), start=start, sample=sample, seed=seed).to_dicts(), as_json)


@app.command(cls=Verb, rich_help_panel=STORE)
def shrink(
    encoder: so.ShrunkEncoder, k: so.Nearest = 10, data: o.Data = Path("data"), as_json: o.AsJson = False
) -> None:
    """Say what smaller forms of stored vectors cost and lose: dimensions by PCA or truncation, one byte a number."""
    from bundlecache.console.similar_tables import show_shrunk

    show_shrunk(_open(data).shrink(encoder, k=k), encoder, k, as_json)


@app.command(cls=Verb, name="import-vectors", rich_help_panel=STORE)
def import_vectors(
    source: o.VectorsFile,
    modality: o.OneModality,
    name: o.VectorsName,
    ids: o.VectorsIds = None,
    data: o.Data = Path("data"),
    as_json: o.AsJson = False,
) -> None:
    """Put vectors that other programs made into the store."""
    made = _open(data).import_vectors(source, modality=modality, name=name, ids=ids)
    show(vars(made), as_json, [vars(made)], title=f"{source} -> {data}")
    if made.unknown:
        log.print(f"[yellow]{counted(made.unknown, 'row')} of no item of the catalogue[/] left out.")
    exit_partial(made.failed, "row is no vector", "rows are no vectors")


@app.command(cls=Verb, rich_help_panel=STORE)
def export(
    output: o.ExportFolder = Path("export"),
    layout: o.ExportFormat = "parquet",
    data: o.Data = Path("data"),
    as_json: o.AsJson = False,
) -> None:
    """Write the stored vectors as files that pandas, pyarrow and NumPy read in three lines."""
    show_files(_open(data).export(output, layout), as_json, "Exported")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    from bundlecache.project.session import IS_FOLLOWER

    out.quiet = log.quiet = IS_FOLLOWER
    if version:
        out.print(f"bundlecache {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    global _own_process
    _own_process = True
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_app(app)
    finally:
        gc.freeze()  # else Python looks for garbage in all that was imported before it ends: a second, after `complete`


def _open(data: Path, *, allow_outside: bool = False, engine: str = "local", answers: bool = False) -> Workspace:
    """The workspace of a command; ``answers`` says that it answers one question by a language model, and ends."""
    if _own_process and engine != "ray":  # which makes data frames
        leave_pandas_out()
        if answers:
            lean_imports.enable()
    return bundlecache.open(data, allow_outside=allow_outside)


if __name__ == "__main__":
    main()
