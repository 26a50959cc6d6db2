"""The bench's results as one table: methods down, question sets across; in the terminal, as CSV, as a page.

``bench/`` of a workspace holds ``results.json`` (as `bench` describes, one entry per family of sets),
``table.csv`` (one row per method and family) and ``index.html``.
"""

from __future__ import annotations

import csv
import html
import io
import json
from typing import TYPE_CHECKING, Any

from .atomic import replacing

if TYPE_CHECKING:
    from pathlib import Path

Results = list[dict[str, Any]]
FIGURES = ("hit@1", "hit@3", "hit@5", "mrr", "valid_ratio")
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --bar: #4a90d966 }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse } caption { text-align: left; font-weight: 600; padding: .5rem 0 }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  font-variant-numeric: tabular-nums } th:first-child, td:first-child { text-align: left }
td[style] { background: linear-gradient(90deg, var(--bar) var(--share), transparent var(--share)) no-repeat }
small, .chance td:first-child { color: var(--soft) } .model { font-weight: 600 } li { max-width: 48em; margin: .3rem 0 }
"""


def headings(results: Results) -> list[str]:
    """A short name per family: ``random10`` where only one family is made that way, else its whole name."""
    short = [f"{r['questions']['negatives']}{r['questions']['n_options']}" for r in results]
    return [s if short.count(s) == 1 else r["questions"]["name"] for s, r in zip(short, results, strict=True)]


def rows(results: Results) -> list[dict[str, Any]]:
    """One row per method, best first by its mean: HitRate@1 and half its interval by family, and seconds in all.

    ``seconds`` is the time to answer all sets, fitting included; a model's training stands beside it.
    """
    names = headings(results)
    out: dict[str, dict[str, Any]] = {}
    for name, result in zip(names, results, strict=True):
        for method in result["methods"]:
            row = out.setdefault(method["name"], {"method": method["name"], "kind": method["kind"], "seconds": 0.0})
            low, high = method["hit@1_interval"]
            row[name], row[f"{name} ±"] = method["hit@1"], (high - low) / 2
            row["seconds"] += method["seconds"] or 0.0
            row["training_seconds"] = method.get("training_seconds")
    return sorted(out.values(), key=lambda row: -sum(row.get(name, 0.0) for name in names))


def cells(results: Results) -> list[dict[str, Any]]:
    """One row per method and family, for spreadsheets."""
    return [
        {
            "questions": result["questions"]["name"],
            "sha256": result["questions"]["sha256"],
            "n": result["questions"]["n_questions"],
            "options": result["questions"]["n_options"],
            "method": method["name"],
            "kind": method["kind"],
            **{name: round(method[name], 4) if name in method else None for name in FIGURES},
            "low": round(method["hit@1_interval"][0], 4),
            "high": round(method["hit@1_interval"][1], 4),
            "seconds": method.get("seconds"),
            "training_seconds": method.get("training_seconds"),
        }
        for result in results
        for method in [*result["methods"], *({**probe, "kind": "probe"} for probe in result["probes"])]
    ]


def save(folder: Path, results: Results) -> Path:
    """Write the three files; gives the page's path."""
    table = cells(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table)
    for name, content in (
        ("results.json", json.dumps(results, indent=1) + "\n"),
        ("table.csv", text.getvalue()),
        ("index.html", page(results)),
    ):
        with replacing(folder / name) as temporary:
            temporary.write_text(content, "utf-8")
    return folder / "index.html"


def page(results: Results) -> str:
    """One self-contained HTML page: the table, and per family the verdict and the leak probes."""
    names = headings(results)
    body = [
        f'<tr class="{row["kind"]}"><td>{html.escape(row["method"])}</td>'
        + "".join(_bar(row, name) for name in names)
        + f"<td>{row['seconds']:.1f} s</td><td>{_trained(row)}</td></tr>"
        for row in rows(results)
    ]
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    parts = [_family(name, result) for name, result in zip(names, results, strict=True)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>bundlecache bench</title><style>{STYLE}</style><h1>All methods on the same questions</h1>"
        f'<div class="wide"><table><caption>HitRate@1 and half its 95% interval</caption><tr><th>method</th>{heads}'
        f"<th>answering</th><th>training</th></tr>{''.join(body)}</table></div>{''.join(parts)}</html>\n"
    )


def _bar(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return "<td></td>"
    share = f"--share: {row[name] * 100:.1f}%"
    return f'<td style="{share}">{row[name]:.3f} <small>±{row[f"{name} ±"]:.3f}</small></td>'


def _trained(row: dict[str, Any]) -> str:
    return f"{row['training_seconds']:,.0f} s" if row.get("training_seconds") else ""


def _family(name: str, result: dict[str, Any]) -> str:
    asked = result["questions"]
    said = "".join(f"<li>{html.escape(s)}</li>" for s in [*result["verdict"], *result["worth"]])
    shas = ", ".join(sha[:12] for sha in asked.get("sha256s", [asked["sha256"]]))
    probed = "".join(
        f"<tr><td>{html.escape(p['name'])}</td><td>{p['hit@1']:.3f}</td>"
        f"<td>{p['hit@1_interval'][0]:.3f}-{p['hit@1_interval'][1]:.3f}</td><td>{'succeeds' if p['succeeds'] else ''}</td></tr>"
        for p in result["probes"]
    )
    return (
        f"<h2>{html.escape(name)}</h2><p>{asked['n_questions']:,} {asked['split']} questions of {asked['n_options']} options, "
        f"sha256 {shas}.</p><ul>{said}</ul>"
        f'<div class="wide"><table><caption>Leak probes</caption>{probed}</table></div>'
    )
