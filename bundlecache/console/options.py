"""The options and arguments of the command line, each with its help, bounds and type.

An option that several verbs share stands here once; one that a single verb has stands here too, so that
``cli.py`` shows the verbs alone.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..limits import MAX_K, MAX_OPTIONS, MAX_PERMUTATIONS, MAX_SEED
from .parsing import sample_size
from .reporter import DEFAULT_DATA

MAX_BATCH = 1_000_000


class Typed:
    """What was typed for ``--data``, known before any verb runs, so that hints can name it."""

    data: Path = DEFAULT_DATA


def _remember(data: Path) -> Path:
    Typed.data = data
    return data


def _text(help: str, *names: str) -> Any:  # noqa: A002
    return Option(*names, help=help, show_default=False)


# Shared by several verbs.
Data = Annotated[
    Path,
    Option("--data", help="The workspace: the folder with items, bundles, interactions.", callback=_remember),
]
AsJson = Annotated[bool, Option("--json", help="Print JSON instead of tables.")]
Device = Annotated[str, Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
RunName = Annotated[str | None, _text("Name of a run; the newest one if left out.", "--run")]
Seed = Annotated[int, Option("--seed", help="Seed of everything that is drawn.", min=0, max=MAX_SEED)]
Settings = Annotated[list[str] | None, _text("Override a setting: --set lora.rank=16", "--set")]
Permutations = Annotated[
    int,
    Option(
        "--permutations",
        help="Ask every question in so many orders of its options, and average.",
        min=1,
        max=MAX_PERMUTATIONS,
    ),
]
AtOnce = Annotated[
    int | None,
    Option(
        "--at-once",
        help="Options per forward; more play a tournament. As many as trained on if left out.",
        min=2,
        max=MAX_OPTIONS,
        show_default=False,
    ),
]
Sample = Annotated[
    int,
    Option(
        "--sample",
        help="Questions of a set that are asked at most, always the same ones; all, or 0, asks all.",
        parser=sample_size,
        metavar="N|all",
    ),
]
BatchSize = Annotated[int, Option("--batch-size", help="Questions per forward of a model.", min=1, max=MAX_BATCH)]
StoreAt = Annotated[
    str | None, _text("Keep the vectors on an object store, s3://BUCKET/PREFIX; the workspace remembers it.", "--store")
]
StoreOptions = Annotated[
    list[str] | None,
    _text("How to reach it, remembered too: endpoint=URL, region=NAME, allow_http=true.", "--store-option"),
]
Modality = Annotated[str, Option("--modality", help="text, image, audio, graph or all.")]
OneModality = Annotated[str, Option("--modality", help="text, image, audio or graph.")]
QuestionSets = Annotated[
    list[str] | None, _text("Question sets to answer; all usual test sets if left out.", "--questions")
]
Where = Annotated[list[str] | None, _text('Offer only items that fulfil this: category=coat, "price<50".', "--where")]
OutFolder = Annotated[Path | None, _text("Folder of the results; one inside the workspace if left out.", "--out")]

# demo
MakeData = Annotated[Path | None, _text("Only write the demo catalogue into this folder.", "--make-data")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace a catalogue that stands there.")]

# import
_PLUGINS = sorted({point.name for point in entry_points(group="bundlecache.readers")})
_FORMATS = ", ".join(["amazon", "bundlerec", "clhe", "folder", "tables", *_PLUGINS])
Layout = Annotated[str, Argument(metavar="FORMAT", help=f"One of {_FORMATS}.")]
Source = Annotated[Path, Argument(metavar="SRC", help="The folder to read.")]

DryRun = Annotated[bool, Option("--dry-run", help="Show what would be understood, with three rows; write nothing.")]
ItemsFile = Annotated[Path | None, _text("tables: the file of the items, in SRC or anywhere.", "--items")]
OrdersFile = Annotated[
    Path | None, _text("tables: carts, orders or bundles; a row per order, or a row per item of one.", "--orders")
]
EventsFile = Annotated[Path | None, _text("tables: clicks or purchases, a row each.", "--events")]
Maps = Annotated[
    list[str] | None,
    _text("tables: columns by their names, item_id=product_id,title=name; or orders.item_id=sku.", "--map"),
]
Dates = Annotated[str, Option("--dates", help="tables: how 01/02/2025 is read: auto, day-first or month-first.")]
Fetch = Annotated[
    bool, Option("--fetch/--no-fetch", help="tables: download pictures that are web addresses, within limits.")
]

# update
UpdateSource = Annotated[Path, Argument(metavar="SRC", help="A folder or file with the new rows, as for import.")]
UpdateLayout = Annotated[str, Option("--format", help=f"The layout of SRC: one of {_FORMATS}.")]
RemoveMissing = Annotated[
    bool, Option("--remove-missing", help="Remove rows that SRC does not have, of the tables that it has.")
]
EncodeToo = Annotated[
    bool, Option("--encode/--no-encode", help="Encode new and edited items by the encoders that the store has.")
]

# encode
Encoders = Annotated[
    list[str] | None,
    _text(
        "Encoder as kind:name, e.g. open_clip:ViT-B-16-SigLIP/webli. Several share one pass over the files; training "
        "uses the last one. The encoders that the store has already, if left out.",
        "--encoder",
    ),
]
Fields = Annotated[
    str | None,
    _text(
        "Columns that are the text of an item, e.g. title,category; the title alone if left out. Each choice has "
        "vectors of its own, called SPEC#title+category.",
        "--fields",
    ),
]
Devices = Annotated[
    str,
    Option("--device", help="Where to compute: auto, cpu, cuda, cuda:1, mps; cuda:0,cuda:1 is a process on each."),
]
Engine = Annotated[
    str, Option("--engine", help="local, or ray: the encoders are actors of Ray Data, on one machine or many.")
]
RayAddress = Annotated[
    str | None, _text("Head of a Ray cluster, HOST:PORT; one on this machine if left out.", "--ray-address")
]
Dtype = Annotated[
    str | None, _text("How vectors are stored: float16 or float32; as before if left out, else float16.", "--dtype")
]
EncodeBatch = Annotated[
    int | None,
    Option(
        "--batch-size",
        help="Items per forward; the encoder's own if left out.",
        min=1,
        max=MAX_BATCH,
        show_default=False,
    ),
]
Precision = Annotated[
    str,
    Option("--precision", help="Of the forward pass: float32, float16, bfloat16; auto: half on CUDA if stored so."),
]
Draft = Annotated[
    int | None,
    Option(
        "--draft",
        help="Read JPEGs at 1/2, 1/4 or 1/8 of their size while both sides keep this many pixels: faster, other "
        "vectors.",
        min=1,
        max=100_000,
        show_default=False,
    ),
]
Workers = Annotated[int, Option("--workers", help="Threads that decode ahead of the encoder.", min=1, max=1024)]
RetryFailed = Annotated[bool, Option("--retry-failed/--no-retry-failed", help="Try items again that failed before.")]
MaxErrors = Annotated[
    int | None, Option("--max-errors", help="Stop when more items than this fail.", min=0, show_default=False)
]
EncodeLimit = Annotated[
    int | None,
    Option("--limit", help="Look at the first so many items of the catalogue only.", min=1, show_default=False),
]
EncodeDryRun = Annotated[
    bool,
    Option(
        "--dry-run/--no-dry-run",
        help="Store nothing; say what would be encoded, how long by a measured sample, and how many bytes.",
    ),
]
AllowOutside = Annotated[
    bool,
    Option("--allow-outside/--no-allow-outside", help="Let item tables name files outside the workspace."),
]

# status
Errors = Annotated[bool, Option("--errors/--no-errors", help="List the items that failed, with stage and reason.")]

# questions
QuestionFiles = Annotated[
    list[Path] | None,
    Argument(
        metavar="[FILE]...",
        help="Questions that others froze, to take over: JSON Lines, or bi_test_cans10.txt.",
        show_default=False,
    ),
]
NumberOfOptions = Annotated[
    int,
    Option("--options", help="Options of each question, the truth among them.", min=2, max=MAX_OPTIONS),
]
Negatives = Annotated[
    list[str] | None,
    _text(
        "Wrong options: random, hard, nearest:MODALITY, same-category, popularity-matched, co-occurring, the last four "
        "also joined by +. Random and hard ones if left out.",
        "--negatives",
    ),
]
Difficulty = Annotated[
    float,
    Option(
        "--difficulty",
        help="Of nearest:MODALITY and those after it: 0 (random) to 1 (hardest).",
        min=0,
        max=1,
    ),
]
SkipBroken = Annotated[
    bool, Option("--skip-broken/--no-skip-broken", help="Leave out questions of FILE that are none, and count them.")
]
ExportTo = Annotated[Path | None, _text("Write all sets as JSON Lines into this folder.", "--export")]

# candidates
K = Annotated[int, Option("--k", help="Candidates per bundle.", min=1, max=MAX_K)]
Modalities = Annotated[
    list[str] | None,
    _text("Modalities whose vectors are used; all stored ones if left out.", "--modality"),
]
SearchedEncoders = Annotated[list[str] | None, _text("Search the stored vectors of these encoders.", "--encoder")]
SearchedRun = Annotated[str | None, _text("Search the fused tokens of this run.", "--run")]
Weights = Annotated[list[str] | None, _text("Weight of a modality: --weight image=2; 1 if left out.", "--weight")]
Split = Annotated[str, Option("--split", help="Bundles to complete: train, valid or test.")]
IndexKind = Annotated[str, Option("--index", help="auto, flat (exact), ivf, hnsw, pq or disk (ivf in a file).")]
SearchEngine = Annotated[
    str,
    Option("--engine", help="faiss, or lance: LanceDB's IVF_PQ index over the tables, for more vectors than memory."),
]
Metric = Annotated[str, Option("--metric", help="cosine, or inner-product (of graph vectors alone).")]
Recall = Annotated[float, Option("--recall", help="Recall@20 against exact that an index must reach.", min=0.01, max=1)]
MaxMemory = Annotated[
    str | None,
    _text("For the index, e.g. 8GB; half of this machine's, or what a GPU has free, if left out.", "--max-memory"),
]
Rebuild = Annotated[bool, Option("--rebuild", help="Build the index again that is kept.")]

# train
RecipeName = Annotated[
    str | None,
    Option(
        "--recipe",
        help="Name of a shipped recipe (evidence, demo, paper, unimp, ...) or a TOML file; evidence if left out.",
    ),
]
Stage = Annotated[
    str, Option("--stage", help="text, fusion, joint; of unimp multitask, head; or all: those of the recipe.")
]
StartRun = Annotated[str | None, _text("Run whose weights to go on from.", "--from")]
NewName = Annotated[str | None, _text("Name of the new run.", "--name")]
Validation = Annotated[
    str | None,
    _text("Questions on which the best weights are chosen; random ones if left out.", "--validation"),
]
TrainSeed = Annotated[
    int | None,
    Option(
        "--seed",
        help="Seed of everything that is drawn; the recipe's run.seed if left out.",
        min=0,
        max=MAX_SEED,
        show_default=False,
    ),
]
MaxMinutes = Annotated[
    float | None,
    Option(
        "--max-minutes", help="Stop and save after this long; --resume goes on.", min=0, max=1e6, show_default=False
    ),
]
Resume = Annotated[str | None, _text("Go on with the training NAME, which was stopped or killed.", "--resume")]

# evaluate
EvaluatedOptions = Annotated[
    int | None,
    Option(
        "--options",
        help="Answer the test questions of so many options; frozen if need be.",
        min=2,
        max=MAX_OPTIONS,
        show_default=False,
    ),
]
Baselines = Annotated[bool, Option("--baselines/--no-baselines", help="Score the baselines on the same questions.")]
Ablation = Annotated[bool, Option("--ablation/--no-ablation", help="Score the model without each modality in turn.")]

# bench
Runs = Annotated[
    list[str] | None, _text("Trained runs to score; all of them if left out (with --task: none).", "--run")
]
Models = Annotated[bool, Option("--models/--no-models", help="Score trained models beside the baselines.")]
Full = Annotated[bool, Option("--full", help="Rank the held-out items among the whole catalogue, not a few options.")]
History = Annotated[
    int,
    Option(
        "--history", help="Ask again with this many latest items of the bundle's user in the query.", min=0, max=10_000
    ),
]
By = Annotated[list[str] | None, _text("Show groups of questions too: category, length, popularity, cold.", "--by")]

# complete
Items = Annotated[
    list[str] | None,
    Argument(metavar="[ITEM]...", help="Ids of the items in the partial bundle.", show_default=False),
]
Completions = Annotated[int, Option("--k", help="Completions to print.", min=1, max=MAX_K)]
AskedOptions = Annotated[
    int | None,
    Option(
        "--options",
        help="Candidates that the model chooses among; as many as it was trained on if left out.",
        min=2,
        max=MAX_OPTIONS,
        show_default=False,
    ),
]
Exclude = Annotated[list[str] | None, _text("Never offer this item, e.g. one that is sold out.", "--exclude")]
User = Annotated[str | None, _text("Whose history the prompt tells, for a run trained with prompt.history.", "--user")]
Method = Annotated[
    str | None,
    _text(
        "What ranks the candidates: model, learned-ranker or both; the winner on validation questions if left out.",
        "--with",
    ),
]

# report
Against = Annotated[str | None, _text("Another run: compare both on the same questions.", "--against")]
HtmlFile = Annotated[
    Path | None, _text("The HTML file; report.html or against-OTHER.html of the run if left out.", "--out")
]

# import-checkpoint, merge, ablate
CheckpointFolder = Annotated[Path, Argument(metavar="DIR", help="The folder with adapter_model.*, fusion.bin, ...")]
CheckpointEncoders = Annotated[
    list[str],
    Option("--encoder", help="Stored vectors it was trained on, in order: content, bundle graph, user graph."),
]
CheckpointBase = Annotated[str, Option("--base", help="The language model it was trained on: a folder or a hub id.")]
CheckpointName = Annotated[str, Option("--name", help="Name of the run.")]
MergedRun = Annotated[str | None, Argument(metavar="[RUN]", help="Name of a run; the newest one if left out.")]
MergedFolder = Annotated[Path, Option("--out", help="A new folder.")]
Grid = Annotated[str, Argument(metavar="GRID", help="A TOML file, or a shipped grid: small, demo, catalogue, paper.")]
Seeds = Annotated[
    int | None, Option("--seeds", help="Only so many of the grid's seeds.", min=1, max=1000, show_default=False)
]

# verify, compact, drift, import-vectors, export
VerifySample = Annotated[
    int, Option("--sample", help="Vectors per table that are encoded again and compared.", min=0, max=10_000_000)
]
Repair = Annotated[bool, Option("--repair", help="Take damaged rows out, for encode to make again.")]
Drop = Annotated[list[str] | None, _text("Delete this table, or all of this encoder.", "--drop")]
OldEncoders = Annotated[bool, Option("--old-encoders", help="Delete the tables that newer encoders have replaced.")]
DriftFrom = Annotated[
    str | None,
    _text(
        "A run, version, table or encoder to compare the present vectors with; what was trained on last, if left out.",
        "--from",
    ),
]
DriftSample = Annotated[int, Option("--sample", help="Items whose neighbours are compared.", min=1, max=10_000_000)]
VectorsFile = Annotated[
    Path, Argument(metavar="SRC", help="A .parquet, .npy or .pt file, an export or clip-retrieval folder.")
]
VectorsName = Annotated[str, Option("--name", help="What to call them; the encoder is then import:NAME.")]
VectorsIds = Annotated[Path | None, _text("The item ids of the rows, one a line.", "--ids")]
ExportFolder = Annotated[Path, Option("--out", help="Folder for the files.")]
ExportFormat = Annotated[str, Option("--format", help="parquet; or npy: a matrix, its mask and ids.txt.")]
