"""Write the JSON Schemas of every file a person or a pipeline reads or writes.

    python docs/make_schemas.py

Editors complete and check `gnnexport.toml` and recipes with them; pipelines validate reports.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from gnnexport.bundle.manifest import Manifest
from gnnexport.bundle.report_schema import Report
from gnnexport.frontends.sidecar import Recipe, Sidecar

FOLDER = Path(__file__).resolve().parent / "schemas"
SCHEMAS: dict[str, type[BaseModel]] = {
    "gnnexport.toml": Sidecar,
    "recipe.toml": Recipe,
    "report.json": Report,
    "manifest.json": Manifest,
}


def schema_text(model: type[BaseModel]) -> str:
    """Return the JSON Schema of a file, as it is written."""
    return json.dumps(model.model_json_schema(by_alias=True), indent=2, sort_keys=True) + "\n"


def path_of(name: str) -> Path:
    """Return where the schema of a file lies."""
    return FOLDER / f"{name}.schema.json"


def main() -> None:
    """Write all of them."""
    for name, model in SCHEMAS.items():
        path_of(name).write_text(schema_text(model))


if __name__ == "__main__":
    main()
