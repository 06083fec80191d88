"""What LASSO and distillation buy: channel pruning with other ways to choose channels, and other ways to retrain.

    python -m benchmarks.pruning_ablation --data amazon_computers --seeds 3

The models and splits are those of `benchmarks.serving`. Of every way F1-micro on test nodes is told as fitted, without
any training, and after retraining; selection is on validation nodes.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import markdown, options, save
from benchmarks.serving import SCHEMES, Case, training_options

KEEP = 0.25
DISTIL = 0.5
WAYS: dict[str, dict[str, Any]] = {
    "lasso": {"select": "lasso"},
    "magnitude": {"select": "magnitude"},
    "random": {"select": "random"},
    "lasso, distilled": {"select": "lasso", "distil": DISTIL},
    "random, distilled": {"select": "random", "distil": DISTIL},
    "lasso, not refitted": {"select": "lasso", "refit": False},
}


@dataclass(frozen=True)
class Row:
    """One way of one seed: how far F1-micro falls as fitted, and after retraining."""

    data: str
    seed: int
    scheme: str
    way: str
    unpruned: float
    fitted_drop: float
    drop: float


def run_seed(case: Case) -> list[Row]:
    """Prune one model in every way."""
    before = case.f1(case.pruned("full", 1))
    rows = []
    for scheme in SCHEMES:
        for way, given in WAYS.items():
            fitted = case.f1(case.pruned(scheme, KEEP, **{**given, "retrain": False}))
            trained = case.f1(case.pruned(scheme, KEEP, **given))
            rows.append(Row(case.name, case.seed, scheme, way, before, before - fitted, before - trained))
            print(
                f"  {scheme:<8} {way:<20} fitted {before - fitted:+.4f}, retrained {before - trained:+.4f}", flush=True
            )
    return rows


def table(rows: list[Row]) -> str:
    """Give mean and spread over the seeds."""
    cells = []
    for key in dict.fromkeys((row.data, row.scheme, row.way) for row in rows):
        of = [row for row in rows if (row.data, row.scheme, row.way) == key]
        cells.append([*key, _spread([row.fitted_drop for row in of]), _spread([row.drop for row in of]), str(len(of))])
    return markdown(("data", "scheme", "way", "drop as fitted", "drop after retraining", "seeds"), cells)


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.4f}{spread}"


def main() -> None:
    """Run all data sets and seeds asked for, print a table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["amazon_computers"])
    parser.add_argument("--seeds", type=int, default=3)
    training_options(parser, retrain=20)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        given.folder = given.folder or Path(scratch)
        given.folder.mkdir(parents=True, exist_ok=True)
        for name in given.data:
            for seed in range(given.seeds):
                rows += run_seed(Case(name, seed, given, Path(scratch)))
    print(table(rows))
    save({"keep": KEEP, "distil": DISTIL, "rows": [asdict(row) for row in rows]}, "pruning_ablation", given)


if __name__ == "__main__":
    main()
