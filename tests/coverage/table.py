"""Write the table of coverage: every recipe on every target in every mode.

    python -m tests.coverage.table

takes some ten minutes on two cores and writes `docs/coverage.md`.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from gnnexport.native.library import why_missing
from tests.coverage.cells import BEST, MODES, TARGETS, Cell, Outcome, Row
from tests.coverage.convolutions import CONVOLUTIONS
from tests.coverage.models import MODELS
from tests.coverage.pieces import AGGREGATIONS, NORMS, READOUTS
from tests.coverage.recipe import Recipe

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
RECIPES: tuple[Recipe, ...] = (*CONVOLUTIONS, *MODELS, *AGGREGATIONS, *NORMS, *READOUTS)
QUICK = ("native full" if why_missing() is None else "ort full", "ort graphs")
"""What CI runs again at every change, each row in both modes; the others take minutes and wait for `make accuracy`."""

COLUMNS = tuple(f"{target} {mode}" for target in TARGETS for mode in MODES)
TITLES = {
    "convolution": "Convolutions",
    "model": "Models",
    "aggregation": "Aggregations, in GraphSAGE",
    "norm": "Norms",
    "readout": "Readouts and pooling",
}
WORKERS = 2

Cells = Mapping[str, Cell]
"""By column."""

HEAD = """\
# What is covered

Made by running every row (`make coverage`). CI runs the cells of `native` in mode `full` and of `ort` in mode
`graphs` again and fails when one gets worse; `make accuracy` does so with all others. `ort` stands for standard
operators in ONNX Runtime, `native` for our own kernels there. Each model is captured once, lowered, and run on graphs
of other sizes than it was captured on, with a hub and nodes without edges.

- **exact**: within 1e-4 of the largest output of PyTorch.
- **slow**: exact, but some message passing was not recognised and runs as a scatter or gather over edges.
- **refused**: an error says why, and what to do instead.

For `trt` an engine is built, and the numbers are those of the ONNX model that it was built from. Convolutions stand
between two linear layers. Of the 49 convolutions of PyG that take `(x, edge_index)` with edge weights or features, six
are out of scope: the two of cuGraph, SplineConv (needs a compiled package), WLConv, WLConvContinuous and SimpleConv
(nothing to train).

`export` asks harder questions than this table: [conformance](conformance.md).

Not in the table, as they take graphs of another form: models over several kinds of nodes, made by `to_hetero` or with
`HeteroConv`, and models of two sides, `(x_src, x_dst)`. They go to `ort` and `openvino` in both modes and to `trt` in
mode `full`; [ways in](models.md) has the details.
"""


def run(recipe: Recipe, columns: Sequence[str] = COLUMNS) -> dict[str, Cell]:
    """Fill the cells of one row."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    row, cells = Row(recipe), dict[str, Cell]()
    for column in columns:
        target, _, mode = column.partition(" ")
        with tempfile.TemporaryDirectory() as folder:
            cells[column] = row.cell(target, mode, Path(folder))  # type: ignore[arg-type]
    return cells


def _run_at(position: int) -> dict[str, Cell]:
    """Run the row at a position: recipes themselves hold functions, which do not travel between processes."""
    return run(RECIPES[position])


def render(rows: Mapping[str, Mapping[str, Cells]]) -> str:
    """Write the document.

    Args:
        rows: cells of each row, by group and name.
    """
    text = [HEAD, _counts(rows)]
    for group, found in rows.items():
        text.append(f"\n## {TITLES[group]}\n\n| | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}\n")
        notes: dict[str, list[str]] = {}
        for name, cells in found.items():
            text.append(f"| {name} | {' | '.join(cells[column].outcome for column in COLUMNS)} |\n")
            for column in COLUMNS:
                if cells[column].reason:
                    notes.setdefault(f"{name}: {_plain(cells[column].reason)}", []).append(column)
        if notes:
            text.append("\n" + "".join(f"- {note} ({', '.join(columns)})\n" for note, columns in notes.items()))
    return "".join(text)


def _plain(reason: str) -> str:
    return " ".join(reason.split()).replace("|", r"\|")


def _counts(rows: Mapping[str, Mapping[str, Cells]]) -> str:
    shown = [outcome for outcome in BEST if any(outcome in _outcomes(found.values()) for found in rows.values())]
    lines = ["\n| | rows | cells | " + " | ".join(shown) + " |\n", "|---|---|---|" + "---|" * len(shown) + "\n"]
    for group, found in rows.items():
        count = _outcomes(found.values())
        numbers = " | ".join(str(count[outcome]) for outcome in shown)
        lines.append(f"| {TITLES[group]} | {len(found)} | {count.total()} | {numbers} |\n")
    return "".join(lines)


def _outcomes(rows: Iterable[Cells]) -> Counter[Outcome]:
    return Counter(cell.outcome for cells in rows for cell in cells.values())


def read(text: str) -> dict[tuple[str, str], dict[str, Outcome]]:
    """Return the outcomes that a document holds, by group and name, then by column."""
    found: dict[tuple[str, str], dict[str, Outcome]] = {}
    groups = {title: group for group, title in TITLES.items()}
    for part in text.split("\n## ")[1:]:
        title, *lines = part.splitlines()
        for line in lines:
            parts = [item.strip() for item in line.strip("|").split("|")]
            if line.startswith("| ") and len(parts) == 1 + len(COLUMNS) and parts[0]:
                found[groups[title], parts[0]] = dict(zip(COLUMNS, parts[1:], strict=True))  # type: ignore[arg-type]
    return found


def worse(recipe: Recipe, columns: Sequence[str]) -> list[str]:
    """Run some cells of a row again and name those that came out worse than documented."""
    expected = read(DOCUMENT.read_text())[recipe.group, recipe.name]
    return [
        f"{column}: {cell.outcome}, was {expected[column]} ({cell.reason})"
        for column, cell in run(recipe, columns).items()
        if BEST.index(cell.outcome) > BEST.index(expected[column])
    ]


def main() -> None:
    """Run all rows and write the document."""
    rows: dict[str, dict[str, Cells]] = {}
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        for recipe, cells in zip(RECIPES, pool.map(_run_at, range(len(RECIPES))), strict=True):
            rows.setdefault(recipe.group, {})[recipe.name] = cells
            print(recipe.group, recipe.name, [cell.outcome for cell in cells.values()], flush=True)
    DOCUMENT.write_text(render(rows))


if __name__ == "__main__":
    main()
