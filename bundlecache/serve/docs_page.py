"""The page /docs: every endpoint with its fields and a command to try it, made from the OpenAPI description.

FastAPI's own page loads its scripts from another host, which this server's pages never do.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

EXAMPLES = {
    "/complete": {"items": ["ID1", "ID2"], "k": 5, "filter": ["price<50"]},
    "/complete/batch": {"bundles": [{"items": ["ID1", "ID2"]}, {"items": ["ID3"], "k": 3}]},
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def docs_page(described: dict[str, Any], address: str) -> str:
    """The page as HTML, for the OpenAPI description of a server that answers at ``address``."""
    from jinja2 import Environment

    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            endpoint = _endpoint(described, method.upper(), path.replace(":path", ""), about, address)
            groups.setdefault((about.get("tags") or ["other"])[0], []).append(endpoint)
    template = files(__package__).joinpath("docs.html.j2").read_text("utf-8")
    return Environment(autoescape=True).from_string(template).render(groups=list(groups.items()))


def _endpoint(described: dict[str, Any], method: str, path: str, about: dict[str, Any], address: str) -> dict[str, Any]:
    """What the page shows of one endpoint."""
    fields = [_field(each["name"], each, required=each.get("required", False)) for each in about.get("parameters", ())]
    schema = about.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if reference := schema.get("$ref"):
        model = described["components"]["schemas"][reference.rpartition("/")[2]]
        needed = model.get("required", ())
        fields += [_field(name, each, required=name in needed) for name, each in model["properties"].items()]
    command = f"curl '{address}{path.replace('{item_id}', 'ID1').replace('{name}', 'RUN')}'"
    if method == "POST":
        command = f"curl -X POST '{address}{path}'"
    if path in EXAMPLES:
        command += f" -H 'content-type: application/json' \\\n  -d '{json.dumps(EXAMPLES[path])}'"
    return {"method": method, "path": path, "about": about.get("description", ""), "fields": fields, "command": command}


def _field(name: str, described: dict[str, Any], *, required: bool) -> dict[str, Any]:
    schema = described.get("schema", described)
    default = schema.get("default")
    said = described.get("description") or schema.get("description") or ""
    shown = f" Default: {json.dumps(default)}." if default not in (None, "", []) else ""
    return {"name": name, "required": required, "about": said + shown}
