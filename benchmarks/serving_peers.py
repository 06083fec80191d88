"""Answer the same requests with our bundles, with PyTorch on PyG's `NeighborLoader`, and with DGL, in one process.

    python -m benchmarks.serving_peers --data amazon_computers

The model of the channel pruning paper is trained once; what we lower is that model, and the same pruned and retrained.
Requests of 1, 32 and 512 distinct nodes are answered from all neighbours, and from some that each contender draws in
its own way. To find and draw neighbours, to gather rows and to run all layers counts. PyG's loader is made once for the
requests of a size. The contenders take turns in blocks. Before that the answers from all neighbours are held against
those of the model on the whole graph.

A contender whose library is missing is left out and says so: torch_sparse and torch_scatter (or pyg_lib) for the
loader, dgl 2.1 for DGL, in folders of their own on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import figures, peer_ways
from benchmarks.paper_sage import PaperSage
from benchmarks.peer_ways import Asked, Rows, Way
from benchmarks.room import LeftOut
from benchmarks.serving import Case, requests, training_options
from gnnexport.measure.timing import compare
from gnnexport.program.program import Program
from gnnexport.runtime.runner import Runner, load

UNPRUNED = "gnnexport, unpruned"
PRUNED = "gnnexport, pruned"
WARM = "gnnexport, pruned, store warm"
SIZES = (1, 32, 512)
QUICK_SIZES = (1, 8)
FANOUTS: tuple[tuple[int, ...] | None, ...] = (None, (25, 10))
CHECKED = 4
"""Requests whose answers are compared, the first ones."""

TOLERANCE = 1e-4
"""How far answers may lie apart, as a share of the largest."""


@dataclass(frozen=True)
class Row(figures.Row):
    """One contender, with its slowest answers and what one caller gets out of it."""

    p99_ms: float
    nodes_per_s: float

    def cells(self) -> list[str]:
        """Return what `COLUMNS` heads."""
        return [*super().cells(), f"{self.p99_ms:.3g}", f"{self.nodes_per_s:,.0f}"]


COLUMNS = (*figures.TIMED, "p99 ms", "nodes a second")


@dataclass(frozen=True)
class Table:
    """Everything that was timed side by side.

    Args:
        size: nodes of a request.
        fanout: most neighbours read in each hop; `None` for all.
        rows: a contender each.
        left_out: why others are not there, by name.
    """

    size: int
    fanout: tuple[int, ...] | None
    rows: list[Row]
    left_out: dict[str, str]


class Contest:
    """All contenders on one data set.

    Args:
        case: data and trained model.
        pruned: the Program that competes beside the unpruned one.
        runners: ours, by name.
        threads: that each contender may use.
    """

    def __init__(self, case: Case, pruned: Program, runners: Mapping[str, Runner], threads: int) -> None:
        assert isinstance(case.model, PaperSage)
        self.case, self.model, self.runners, self.threads = case, case.model.eval(), runners, threads
        self.inputs = case.source("batched").inputs
        with torch.inference_mode():
            whole = self.model(**case.data.inputs).numpy()
            whole_pruned = pruned.clone().train(False)(case.data.inputs).numpy()
        self.expected: dict[str, Rows] = dict.fromkeys((PRUNED, WARM), whole_pruned)
        self.whole: Rows = whole

    def ways(self, asked: Asked) -> dict[str, Callable[[], Way]]:
        """Return what prepares each contender, by name."""
        model, data = self.model, self.case.data
        own = partial(peer_ways.own_search, model, data, self.inputs, asked)
        loader = partial(peer_ways.pyg, model, data, asked)
        return {
            **{name: partial(peer_ways.ours, runner, asked) for name, runner in self.runners.items()},
            "PyG NeighborLoader + PyTorch": partial(loader, trimmed=False),
            "PyG NeighborLoader + PyTorch, layers trimmed": partial(loader, trimmed=True),
            "our search + PyTorch": partial(own, trimmed=False),
            "our search + PyTorch, layers trimmed": partial(own, trimmed=True),
            "DGL": partial(peer_ways.dgl, model, data, asked, self.threads),
        }

    def table(self, asked: Asked, budget_s: float) -> Table:
        """Prepare, check and time what can run.

        Raises:
            SystemExit: a contender answers something else.
        """
        ready: dict[str, Way] = {}
        errors: dict[str, float] = {}
        left_out: dict[str, str] = {}
        for name, prepare in self.ways(asked).items():
            try:
                ready[name] = prepare()
            except LeftOut as reason:
                left_out[name] = str(reason)
                continue
            if asked.fanout is None:
                errors[name] = self._error(name, ready[name], asked.nodes)
        timings = compare(ready, budget_s=budget_s)
        rows = [
            Row.of(name, timing, timings[UNPRUNED], errors.get(name), p99_ms=timing.p99_ms,
                   nodes_per_s=1000 * asked.size / timing.p50_ms)
            for name, timing in timings.items()
        ]  # fmt: skip
        return Table(asked.size, asked.fanout, rows, left_out)

    def _error(self, name: str, way: Way, nodes: NDArray[np.int64]) -> float:
        expected = self.expected.get(name, self.whole)
        scale = float(np.abs(expected).max())
        error = max(float(np.abs(way() - expected[asked]).max()) for asked in nodes[:CHECKED]) / scale
        if not error <= TOLERANCE:
            raise SystemExit(f"{name}: answers differ from those on the whole graph by {error:.1e} of the largest")
        return error


def text(table: Table) -> str:
    """Render a table as Markdown."""
    read = "all neighbours" if table.fanout is None else f"at most {list(table.fanout)} neighbours"
    return "\n".join(
        [
            f"\nrequests of {table.size} nodes, {read}\n",
            figures.markdown(COLUMNS, (row.cells() for row in sorted(table.rows, key=lambda row: row.p50_ms))),
            *(f"{name}: left out, {reason}" for name, reason in table.left_out.items()),
        ]
    )


def run(given: argparse.Namespace, folder: Path) -> tuple[list[Table], dict[str, float]]:
    """Train, prune, lower and time; returns the tables, and F1-micro of both models on test nodes."""
    case = Case(given.data, 0, given, folder)
    programs = {UNPRUNED: case.simplified("batched"), PRUNED: case.pruned("batched", given.keep)}
    f1 = {name: case.f1(program) for name, program in programs.items()}
    print(*(f"{name}: F1-micro {value:.4f}" for name, value in f1.items()), sep="\n", flush=True)
    bundles = {name: case.bundle(program, "batched", folder / name) for name, program in programs.items()}
    with (
        load(bundles[UNPRUNED], threads=given.threads, store_bytes=0) as unpruned,
        load(bundles[PRUNED], threads=given.threads, store_bytes=0) as pruned,
        load(bundles[PRUNED], threads=given.threads) as warm,
    ):
        warm.warm()
        runners = {UNPRUNED: unpruned, PRUNED: pruned, WARM: warm}
        contest = Contest(case, programs[PRUNED], runners, given.threads)
        tables = []
        for fanout in FANOUTS:
            for size in given.sizes:
                asked = Asked(np.stack(requests(case.data.num_nodes, size)), fanout)
                tables.append(contest.table(asked, given.budget))
                print(text(tables[-1]), flush=True)
    return tables, f1


def main() -> None:
    """Run the benchmark, print its tables, and write them as JSON."""
    parser = figures.options((__doc__ or "").splitlines()[0], budget_s=60.0, quick=True)
    parser.add_argument("--data", default="amazon_computers")
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="nodes of a request")
    parser.add_argument("--keep", type=float, default=0.25, help="share of the channels that stays")
    training_options(parser, retrain=40)
    given = parser.parse_args()
    if given.quick:
        given.sizes, given.budget, given.hidden, given.epochs, given.retrain = QUICK_SIZES, 0.0, 16, 2, 1
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        given.folder = given.folder or Path(scratch)
        given.folder.mkdir(parents=True, exist_ok=True)
        tables, f1 = run(given, Path(scratch))
    found = {
        "data": given.data, "hidden": given.hidden, "keep": given.keep, "f1_micro": f1,
        "notes": figures.busy(given.threads), "tables": [asdict(table) for table in tables],
    }  # fmt: skip
    figures.save(found, f"serving_peers_{given.data}", given)


if __name__ == "__main__":
    main()
