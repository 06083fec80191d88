"""What channel pruning costs in accuracy and saves in work, over several seeds.

    python -m benchmarks.channel_pruning --data cora --layers 2 --seeds 5

Each seed trains a model, prunes half of its hidden channels and retrains; selection is on validation
nodes, the accuracy reported is on test nodes. A data set with several splits uses split `seed`.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import options, save
from benchmarks.real_data import require
from benchmarks.training import build_model, train_model
from gnnexport import api
from gnnexport.frontends.data import load_data

HIDDEN = 128
EPOCHS = 150
SPLITS = 10


@dataclass(frozen=True)
class Row:
    """One seed: test accuracy before and after, and the work of both."""

    data: str
    model: str
    layers: int
    seed: int
    before: float
    after: float
    drop_pp: float
    macs_linear_before: int
    macs_linear_after: int
    macs_aggregation_before: int
    macs_aggregation_after: int
    speedup_against_exported: float | None
    speedup_against_baseline: float | None
    weights_bytes: int | None


def run_seed(name: str, model_name: str, layers: int, seed: int, keep: float = 0.5) -> Row:
    """Train, save, compress through the public API, and read the report."""
    path = require(name)
    split = seed % SPLITS if np.load(path)["train_mask"].ndim == 2 else 0
    data, _ = load_data(path, split=split)
    model = build_model(model_name, data, layers=layers, hidden=HIDDEN, seed=seed)
    train_model(model, data, epochs=EPOCHS, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model, Path(folder) / "model.pt")
        (Path(folder) / "gnnexport.toml").write_text(f'[data]\npath = "{path}"\nsplit = {split}\n')
        passes = f"prune-channels{{keep={keep}}}"
        outcome = api.compress(
            Path(folder) / "model.pt", passes=passes, seed=seed, max_drop="100pp", embed_data="0MB", time_budget="20s"
        )
    return _row(name, model_name, layers, seed, outcome.report.to_dict())


def _row(name: str, model_name: str, layers: int, seed: int, report: dict[str, Any]) -> Row:
    exported, result, speedup = report["exported"], report["result"], report["speedup"]
    before, after = report["baseline"]["metric"]["value"], result["metric"]["value"]
    return Row(
        data=name,
        model=model_name,
        layers=layers,
        seed=seed,
        before=before,
        after=after,
        drop_pp=100 * (before - after),
        macs_linear_before=exported["macs_linear"],
        macs_linear_after=result["macs_linear"],
        macs_aggregation_before=exported["macs_aggregation"],
        macs_aggregation_after=result["macs_aggregation"],
        speedup_against_exported=(speedup["against_exported"] or {}).get("value"),
        speedup_against_baseline=(speedup["against_baseline"] or {}).get("value"),
        weights_bytes=result["sizes"]["weights_bytes"],
    )


def summary(rows: list[Row]) -> str:
    """Write one line for the rows of one model on one data set."""
    first = rows[0]
    drops = [row.drop_pp for row in rows]
    spread = statistics.stdev(drops) if len(drops) > 1 else 0.0
    before, after = (statistics.mean(100 * getattr(row, key) for row in rows) for key in ("before", "after"))
    macs = {
        (row.macs_linear_before, row.macs_linear_after, row.macs_aggregation_before, row.macs_aggregation_after)
        for row in rows
    }
    assert len(macs) == 1, f"seeds differ in work: {macs}"
    linear = first.macs_linear_after / first.macs_linear_before
    aggregation = first.macs_aggregation_after / first.macs_aggregation_before
    speedups = [row.speedup_against_exported for row in rows if row.speedup_against_exported is not None]
    faster = f"{statistics.median(speedups):.2f} times faster than unpruned" if speedups else "latency not measured"
    return (
        f"{first.data:<18}{first.model:<10} {first.layers} layers  {before:6.2f} -> {after:6.2f} %  "
        f"drop {statistics.mean(drops):+.2f} ± {spread:.2f} pp  MACs linear ×{linear:.3f}, aggregation "
        f"×{aggregation:.3f}  {faster}"
    )


def main() -> None:
    """Run all combinations asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0], threads=False)
    parser.add_argument("--data", nargs="+", default=["cora", "amazon_computers"])
    parser.add_argument("--models", nargs="+", default=["GCN", "GraphSAGE"])
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    found: list[Row] = []
    for name in given.data:
        for model_name in given.models:
            for layers in given.layers:
                rows = [run_seed(name, model_name, layers, seed) for seed in range(given.seeds)]
                print(summary(rows), flush=True)
                found += rows
    save({"rows": [asdict(row) for row in found]}, "channel_pruning", given)


if __name__ == "__main__":
    main()
