"""Messages so small or so large that squares of their norms are no float32 numbers."""

from __future__ import annotations

import pytest
import torch

from gnnexport.errors import UnsupportedError
from gnnexport.passes.sparsify_edges import SparsifyEdges
from gnnexport.pipeline.steps import Stepped, run_pass
from gnnexport.program.program import Program
from tests.passes.edge_models import NODES, context, graph, program_of
from tests.small_models import run


def stays(name: str, x: torch.Tensor, **options: object) -> list[torch.Tensor]:
    """Return which edges each layer keeps of the graph with other features."""
    inputs = {**graph(), "x": x}
    item = SparsifyEdges(sparsity=0.5, retrain=False, **options)  # type: ignore[arg-type]
    program = run_pass(Stepped(program_of(name)), item, context(inputs)).program
    assert program.prepare is not None
    return [value for key, value in program.prepare.named_buffers() if key.startswith("kept_edges")]


@pytest.mark.parametrize(("name", "method"), [("GraphSAGE", "norm"), ("GIN", "top-k"), ("GCN weighted", "norm")])
def test_the_scale_of_features_does_not_matter(name: str, method: str) -> None:
    """The same edges of the first layer stay for features around 1, 1e-30 and 1e30: no two messages tie."""
    x = graph()["x"]
    expected = stays(name, x, method=method, schedule="equal")
    for power in (-100, 100):
        found = stays(name, torch.ldexp(x, torch.tensor(power)), method=method, schedule="equal")
        assert torch.equal(found[0], expected[0])


def test_small_rows_beside_large_ones_are_told_apart() -> None:
    """Of rows of all sizes those stay whose messages are larger in float64."""
    inputs = graph()
    x = inputs["x"] * torch.logspace(-30, 30, NODES)[torch.randperm(NODES)][:, None]
    source, destination = inputs["edge_index"]
    degree = torch.bincount(destination, minlength=NODES)
    norms = x.double().norm(dim=1)[source] / degree[destination]
    norms[source == destination] = torch.inf
    loops = int((source == destination).sum())
    (left,) = {tuple(norms[mask].sort().values.tolist()) for mask in stays("SIGN", x, schedule="equal")}
    assert left == tuple(norms.sort().values[(len(source) - loops) - (len(source) - loops) // 2 :].tolist())


def test_a_rule_that_float32_cannot_follow_is_refused() -> None:
    """Requests compute squares in float32: thresholds whose squares it does not hold are refused, with the mend."""
    item = SparsifyEdges(sparsity=0.5, retrain=False, rule="runtime")
    for power in (-100, 100):
        inputs = {**graph(), "x": torch.ldexp(graph()["x"], torch.tensor(power))}
        with pytest.raises(UnsupportedError, match="Scale the features"):
            run_pass(Stepped(program_of("GCN weighted")), item, context(inputs))
    inputs = {**graph(), "x": graph()["x"] * 1e-12}
    ruled: Program = run_pass(Stepped(program_of("GraphSAGE")), item, context(inputs)).program
    assert bool(run(ruled, inputs).isfinite().all())
