"""Time the propagation of a decoupled model on fewer edges: what is saved against what is not computed.

    python -m benchmarks.decoupled

Features of a power-law graph are propagated by the normalised adjacency, as for SGC, with the copies of all hops side
by side, as for SIGN, or as by APPNP, by our kernels, with all edges and with those that `sparsify-edges` leaves: one
CSR a hop. All take turns in one process, which keeps freed memory as an engine does: pages fresh from the system cost
more than what is summed into them. Rows of the result are written whatever is summed, and what SIGN and APPNP write
besides has its time, too: the speed-up over the reduction of multiply-accumulates tells how much of what is saved
arrives.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import APPNP
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import scatter

from benchmarks.figures import busy, markdown, options, save
from benchmarks.power_law import PowerLaw
from benchmarks.room import keep_freed
from gnnexport.frontends.signature import match_inputs
from gnnexport.measure.timing import compare, ratio
from gnnexport.passes.contract import PassContext
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData
from gnnexport.program.edge_sets import kept
from gnnexport.program.program import Program, example_inputs
from gnnexport.training.edges.choosing import Method, Schedule

GRAPHS = {"2.3 million": PowerLaw(), "20 million": PowerLaw(1_000_000, 10_000_000, 1)}
SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)
"""Of the edges that go; with the last one every row is read and written once a hop, and no edge is left to save on."""

WHOLE = "all edges"


class Simple(nn.Module):
    """The propagation of SGC: features times powers of the normalised adjacency."""

    def __init__(self, hops: int) -> None:
        super().__init__()
        self.hops = hops

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Sum over neighbours hop by hop."""
        edges, weight = gcn_norm(edge_index, num_nodes=x.size(0))
        assert isinstance(edges, Tensor)
        for _ in range(self.hops):
            x = scatter(x[edges[0]] * weight[:, None], edges[1], 0, x.size(0), "sum")
        return x


class Sign(Simple):
    """The propagation of SIGN: features beside their propagated copies of one hop, of two and so on."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Sum over neighbours hop by hop, and keep what each hop made."""
        edges, weight = gcn_norm(edge_index, num_nodes=x.size(0))
        assert isinstance(edges, Tensor)
        made = [x]
        for _ in range(self.hops):
            made.append(scatter(made[-1][edges[0]] * weight[:, None], edges[1], 0, x.size(0), "sum"))
        return torch.cat(made, 1)


KINDS: dict[str, Callable[[int], nn.Module]] = {"SGC": Simple, "SIGN": Sign, "APPNP": lambda hops: APPNP(hops, 0.1)}


@dataclass(frozen=True)
class Row:
    """Propagation over what one share leaves.

    Args:
        edges: that all hops sum over together, loops included.
        macs: multiply-accumulates of these sums.
        fewer_macs: how many times fewer they are than with all edges.
        faster: how many times faster it is.
        arrived: `faster` over `fewer_macs`.
        choosing_s: seconds that it took to choose the edges.
        change: largest change of a result over the largest result.
    """

    graph: str
    kind: str
    way: str
    edges: int
    macs: int
    p50_ms: float
    fewer_macs: float
    faster: float
    faster_ci95: tuple[float | None, float | None]
    arrived: float
    choosing_s: float
    change: float

    def cells(self) -> list[str]:
        """Return what `HEADS` heads."""
        interval = "–".join("?" if bound is None else f"{bound:.2f}" for bound in self.faster_ci95)
        return [
            self.graph, self.kind, self.way, f"{self.edges:,}", f"{self.macs / 1e9:.3g}", f"{self.p50_ms:,.1f}",
            f"{self.fewer_macs:.2f}", f"{self.faster:.2f}", interval, f"{self.arrived:.2f}", f"{self.choosing_s:.1f}",
            f"{self.change:.1e}",
        ]  # fmt: skip


HEADS = ("edges", "model", "edges gone", "summed over", "GMACs", "p50 ms", "fewer MACs", "times as fast",
         "95 % interval", "arrived", "choosing, s", "largest change")  # fmt: skip


def program_of(kind: str, hops: int, data: GraphData) -> Program:
    """Capture a propagation."""
    model = KINDS[kind](hops).eval()
    inputs = match_inputs(model, data)
    return run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext(data=data)).program


def measure(
    name: str, graph: PowerLaw, kind: str, *, hops: int, width: int, shares: Sequence[float], schedule: Schedule,
    budget_s: float, method: Method = "norm",
) -> list[Row]:  # fmt: skip
    """Time one propagation with all edges and with fewer."""
    torch.manual_seed(graph.seed)
    x = torch.randn(graph.num_nodes, width)
    data = GraphData("power-law", {"x": x, "edge_index": torch.from_numpy(graph.edge_index())})
    whole = program_of(kind, hops, data)
    programs, seconds = {WHOLE: whole}, {WHOLE: 0.0}
    for share in shares:
        start = time.perf_counter()
        item = SparsifyEdges(share, method=method, schedule=schedule, retrain=False)
        programs[f"{share:.0%}"] = item.run(whole, PassContext(data=data))
        seconds[f"{share:.0%}"] = time.perf_counter() - start
    runs = {way: _run(program, data) for way, program in programs.items()}
    results = {way: run() for way, run in runs.items()}
    timings = compare(runs, budget_s=budget_s)
    macs = {way: measure_cost(program, data.inputs).macs("aggregation") for way, program in programs.items()}
    rows = []
    for way, program in programs.items():
        fewer = macs[WHOLE] / max(macs[way], 1)
        faster = ratio(timings[WHOLE], timings[way])
        edges = sum(layer.kept + layer.loops for layer in kept(program)) or macs[WHOLE] // width
        change = float((results[way] - results[WHOLE]).abs().max() / results[WHOLE].abs().max())
        rows.append(Row(
            name, kind, way, edges, macs[way], timings[way].p50_ms, fewer, faster.value, (faster.low, faster.high),
            faster.value / fewer, seconds[way], change,
        ))  # fmt: skip
    return rows


def _run(program: Program, data: GraphData) -> Callable[[], Tensor]:
    """Return what propagates, over a structure that is made already."""
    structure = program.structure(data.inputs)

    def run() -> Tensor:
        with torch.inference_mode():
            return program.run_body(data.inputs, structure)

    return run


def main() -> None:
    """Run the benchmark."""
    parser = options((__doc__ or "").splitlines()[0], budget_s=60.0, quick=True)
    parser.add_argument("--graphs", nargs="+", default=list(GRAPHS), choices=list(GRAPHS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--hops", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--schedule", default="rising", choices=["rising", "equal"])
    parser.add_argument("--method", default="norm", choices=["norm", "random", "top-k", "effective-resistance"])
    given: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(given.threads)
    kept_memory = keep_freed()
    if given.quick:
        given.graphs, given.width, given.budget = ["quick"], 8, 0.5
    rows: list[Row] = []
    for name in given.graphs:
        graph = PowerLaw(2000, 6000) if given.quick else GRAPHS[name]
        for kind in given.kinds:
            rows += measure(
                name, graph, kind, hops=given.hops, width=given.width, shares=SHARES, schedule=given.schedule,
                budget_s=given.budget, method=given.method,
            )  # fmt: skip
    print(markdown(HEADS, (row.cells() for row in rows)))
    found = {"width": given.width, "hops": given.hops, "method": given.method, "rows": [asdict(row) for row in rows]}
    save({**found, "freed_memory_kept": kept_memory, "busy": busy(given.threads)}, "decoupled", given)


if __name__ == "__main__":
    main()
