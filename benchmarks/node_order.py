"""Time one aggregation by our kernel on a graph as it comes and on the same graph renumbered, in one process.

    python -m benchmarks.node_order

Two graphs: a power law of 2.3 million edges, and a grid whose nodes are numbered at random. Orders take turns in
blocks. The rows are not permuted here, there or back: a model does
that once, however many layers it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.figures import busy, markdown, options, save
from benchmarks.power_law import PowerLaw
from gnnexport.measure.timing import compare, ratio
from gnnexport.native.library import library
from gnnexport.program.dialect import native, orders

GIVEN = "as given"
ORDERS = ("rcm", "degree")


@dataclass(frozen=True)
class Grid:
    """A square grid of four neighbours each, whose nodes are numbered at random."""

    side: int = 300
    seed: int = 0

    @property
    def num_nodes(self) -> int:
        """Nodes."""
        return self.side**2

    def edge_index(self) -> NDArray[np.int64]:
        """Return source and destination [2, num_edges], sorted by destination."""
        places = np.random.default_rng(self.seed).permutation(self.num_nodes).reshape(self.side, self.side)
        across, down = [places[:, :-1], places[:, 1:]], [places[:-1], places[1:]]
        ends = [np.stack([part.ravel() for part in pair]) for pair in (across, across[::-1], down, down[::-1])]
        edges = np.concatenate(ends, axis=1)
        found: NDArray[np.int64] = edges[:, np.lexsort(edges)]
        return found


GRAPHS: Mapping[str, PowerLaw | Grid] = {"power law": PowerLaw(), "shuffled grid": Grid()}
QUICK: Mapping[str, PowerLaw | Grid] = {"power law": PowerLaw(2000, 6000), "shuffled grid": Grid(20)}


@dataclass(frozen=True)
class Timed:
    """What one order takes, and how many times faster than the graph as given."""

    graph: str
    order: str
    p50_ms: float
    faster: float
    low: float | None
    high: float | None


def measure(graph: PowerLaw | Grid, name: str, width: int, budget_s: float) -> list[Timed]:
    """Time a sum over the neighbours in every order, on all threads that PyTorch may use."""
    edge_index, num_nodes = torch.from_numpy(graph.edge_index()), graph.num_nodes
    x = torch.randn(num_nodes, width, generator=torch.Generator().manual_seed(0))
    forms = {GIVEN: (x, edge_index)}
    expected = _sum(x, edge_index)
    for kind in ORDERS:
        nodes, places = orders.order(edge_index, num_nodes, None, kind)
        forms[kind] = x[nodes], places[edge_index]
        assert torch.equal(_sum(*forms[kind])[places], expected), f"{kind} changes the sums"
    runs = {kind: partial(native.aggregate, *_csr(*form), None, "sum") for kind, form in forms.items()}
    timings = compare(runs, budget_s=budget_s)
    rows = []
    for kind, timing in timings.items():
        found = ratio(timings[GIVEN], timing)
        low, high = (None if end is None else round(end, 2) for end in (found.low, found.high))
        rows.append(Timed(name, kind, timing.p50_ms, found.value, low, high))
    return rows


def _csr(x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rowptr, perm = native.csr(edge_index[1], len(x))
    return x, rowptr, edge_index[0][perm]


def _sum(x: Tensor, edge_index: Tensor) -> Tensor:
    return native.aggregate(*_csr(x, edge_index), None, "sum")


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = options((__doc__ or "").partition("\n")[0], budget_s=20.0, quick=True)
    parser.add_argument("--width", type=int, default=128)
    given = parser.parse_args()
    library()  # says what to do where the kernels are not installed
    torch.set_num_threads(given.threads)
    rows = []
    for name, graph in (QUICK if given.quick else GRAPHS).items():
        rows += measure(graph, name, given.width, 0.0 if given.quick else given.budget)
    cells = [(row.graph, row.order, f"{row.p50_ms:.2f}", f"{row.faster:.2f} ({row.low}-{row.high})") for row in rows]
    print(markdown(("graph", "order", "ms", "times faster"), cells))
    found = {"width": given.width, "notes": busy(given.threads), "rows": [asdict(row) for row in rows]}
    save(found, "node_order", given)


if __name__ == "__main__":
    main()
