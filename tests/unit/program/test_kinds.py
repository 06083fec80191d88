"""Programs over several kinds of nodes and edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATConv, SAGEConv

from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, finalise, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.generated import generate
from gnnexport.program.inputs import Input, Role, ends_of, role_of, suffix_of
from gnnexport.program.program import Program, example_inputs
from gnnexport.program.text import to_text
from gnnexport.program.verify import relative_error
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import EmitContext
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.ort import OrtTarget
from gnnexport.targets.trt.target import TrtTarget

WRITES, BY = "__author__writes__paper", "__paper__by__author"
INPUTS = (
    Input("x__paper", Role.NODE_FEATURES, "float32", ("num_nodes__paper", 3)),
    Input("x__author", Role.NODE_FEATURES, "float32", ("num_nodes__author", 2)),
    Input("x__town", Role.NODE_FEATURES, "float32", ("num_nodes__town", 2)),
    Input(f"edge_index{WRITES}", Role.EDGE_INDEX, "int64", (2, f"num_edges{WRITES}")),
    Input(f"edge_index{BY}", Role.EDGE_INDEX, "int64", (2, f"num_edges{BY}")),
    Input("edge_index__author__in__town", Role.EDGE_INDEX, "int64", (2, "num_edges__author__in__town")),
)


class Kinds(nn.Module):
    """Papers tell authors, and authors papers; towns tell nobody."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = SAGEConv((3, 2), 4)
        self.last = GATConv((4, 3), 2, heads=2, add_self_loops=False)

    def forward(
        self,
        x__paper: Tensor,
        x__author: Tensor,
        x__town: Tensor,
        edge_index__author__writes__paper: Tensor,
        edge_index__paper__by__author: Tensor,
        edge_index__author__in__town: Tensor,
    ) -> Tensor:
        """Answer for papers."""
        del x__town, edge_index__author__in__town
        author = self.first((x__paper, x__author), edge_index__paper__by__author).relu()
        return self.last((author, x__paper), edge_index__author__writes__paper)


@pytest.fixture(scope="module")
def program() -> Program:
    """Return the simplified Program."""
    captured = capture(Kinds().eval(), INPUTS, example_inputs(INPUTS))
    return run_passes(captured, CANONICAL, PassContext()).program


def request(papers: int, authors: int, edges: int) -> dict[str, Tensor]:
    """Make a graph of so many nodes; without any of a kind there are no edges."""
    generator = torch.Generator().manual_seed(papers)
    counts = {"paper": papers, "author": authors, "town": 1}
    made: dict[str, Tensor] = {}
    for item in INPUTS:
        if item.role is Role.NODE_FEATURES:
            made[item.name] = torch.randn(counts[item.name[3:]], int(item.shape[1]), generator=generator)
        else:
            ends = [counts[end.rpartition("__")[2]] for end in ends_of(item.name)]
            shape = (edges if min(ends) else 0,)
            made[item.name] = torch.stack([torch.randint(0, max(end, 1), shape, generator=generator) for end in ends])
    return made


REQUESTS = [(7, 4, 9), (2, 30, 50), (1, 1, 1), (5, 0, 3), (4, 3, 0)]


def test_names_say_what_inputs_are() -> None:
    """The kind stands behind the name, and edges count the nodes of their two ends."""
    assert role_of("x__paper") is Role.NODE_FEATURES
    assert role_of("pos__paper") is None
    assert (suffix_of(f"edge_index{BY}"), suffix_of("x")) == (BY, "")
    assert ends_of(f"edge_index{BY}") == ("num_nodes__paper", "num_nodes__author")
    assert ends_of("edge_index") == ("num_nodes", "num_nodes")


def test_a_program_tells_its_kind_and_drops_the_others(program: Program) -> None:
    """Rows are papers; what has no part in the answer is no input."""
    assert (program.rows, program.level, program.target) == ("num_nodes__paper", "node", "__paper")
    assert [item.name for item in program.inputs] == [
        "x__paper", "x__author", f"edge_index{WRITES}", f"edge_index{BY}"
    ]  # fmt: skip
    assert program.prepare is not None


@pytest.mark.parametrize("sizes", REQUESTS)
def test_a_program_answers_as_the_model(sizes: tuple[int, int, int], program: Program) -> None:
    """Also with a kind of which there is no node, and without edges."""
    given = request(*sizes)
    with torch.no_grad():
        assert relative_error(Kinds().eval()(**given), program(given)) < 1e-5


def test_onnx_for_graphs_of_any_size(program: Program, tmp_path: Path) -> None:
    """The model sorts the edges of each kind by itself."""
    data = GraphData("acm", request(*REQUESTS[0]))
    target = OrtTarget(aggregate="ell", threads=1)
    dialect = translate_graphs(finalise(program, data).program, data.inputs)
    artefact = target.emit(dialect, tmp_path, EmitContext(threads=1))
    backend: Any = OrtBackend(tmp_path / artefact.model_file, 1)
    try:
        for sizes in REQUESTS:
            given = request(*sizes)
            feeds = {tensor.name: np.ascontiguousarray(given[tensor.name].numpy()) for tensor in backend.inputs}
            (answer,) = backend.run(feeds).values()
            with torch.no_grad():
                assert relative_error(Kinds().eval()(**given), torch.from_numpy(np.array(answer))) < 1e-5
    finally:
        backend.close()


def test_engines_for_graphs_of_any_size_are_refused(program: Program) -> None:
    """Limits of requests have no kinds; the graph may be baked in."""
    (problem,) = TrtTarget().check(program, "graphs")
    assert "this model reads several" in problem.what
    assert TrtTarget().check(program, "full") == []


def test_text_names_the_kind_of_each_size(program: Program) -> None:
    """Rows of papers and authors are told apart, and so are pointers of edges to either."""
    text = to_text(program)
    assert "%x__author: float32 [num_nodes__author, 2] = input" in text
    assert "int64 [num_nodes__paper+1]" in text


def test_generated_graphs_have_all_kinds() -> None:
    """No two kinds have equally many nodes, edges count within their kinds, and an empty graph is empty of all."""
    made = generate(INPUTS, [5, 0, 3], seed=1)
    assert [len(made[name]) for name in ("x__paper", "x__author", "x__town")] == [8, 10, 12]
    for item in INPUTS:
        if item.role is Role.EDGE_INDEX:
            for row, end in zip(made[item.name], ends_of(item.name), strict=True):
                assert 0 <= int(row.min()) <= int(row.max()) < len(made[f"x__{end.rpartition('__')[2]}"])
