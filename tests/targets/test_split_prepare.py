"""A model in two parts: one for the graph, one for the features."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GCNConv

from gnnexport.program.program import Program
from gnnexport.targets.onnx.request import lower_graphs
from gnnexport.targets.onnx.split_prepare import split_prepare
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from tests.small_models import INPUTS, WIDTH, split
from tests.targets.requests import PAIRS, Request, agrees, feeds, graph_program, prepared, random_edges, request_of
from tests.targets.sketch import Array

NAMES = ("GCN", "GIN", "GAT", "readout max", "looked up")
STRUCTURE = ("edge_index", "edge_weight", "edge_attr", "batch", "num_graphs", "edge_label_index")
REQUESTS = {
    "larger": request_of(random_edges(60, 300), 60, 4),
    "no edges": request_of(torch.zeros(2, 0, dtype=torch.int64), 5, 2),
    "one node": request_of(torch.zeros(2, 1, dtype=torch.int64), 1),
}


class LookedUp(nn.Module):
    """Pairs whose nodes are looked up by the input as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, 5)

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Return one number for each pair."""
        return F.embedding(edge_label_index, self.conv(x, edge_index)).prod(0).sum(-1)


@cache
def program(name: str) -> Program:
    """Return a Program by name."""
    if name == "looked up":
        return prepared(LookedUp(), (INPUTS["x"], INPUTS["edge_index"], PAIRS))
    return graph_program(name.removeprefix("readout ")) if name.startswith("readout") else split(name)


@cache
def lowered(name: str) -> ir.Model:
    """Lower a Program to tables only."""
    value = program(name)
    return lower_graphs(translate_graphs(value, value.example()).model, fallback=False)


@cache
def parts(name: str, *, int32: bool = False) -> tuple[ir.Model, ir.Model]:
    """Cut a lowered Program."""
    return split_prepare(lowered(name), STRUCTURE, int32=int32)


@cache
def session(model: ir.Model) -> onnxruntime.InferenceSession:
    """Check a part and open it."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(part: ir.Model, given: dict[str, Array]) -> dict[str, Array]:
    """Run a part on those arrays that it takes."""
    runner = session(part)
    names = [item.name for item in runner.get_outputs()]
    found = runner.run(names, {item.name: given[item.name] for item in runner.get_inputs()})
    return dict(zip(names, found, strict=True))


def answer(name: str, request: Request, *, int32: bool = False) -> Array:
    """Run one part after the other."""
    prepare, body = parts(name, int32=int32)
    given = feeds(program(name), request)
    features = {key: array for key, array in given.items() if key not in STRUCTURE}
    return run(body, {**features, **run(prepare, given)})["logits"]


@pytest.mark.parametrize("int32", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_both_parts_together_answer_as_the_whole(name: str, int32: bool) -> None:
    """The values handed over are all that the body needs of the graph."""
    for kind, request in REQUESTS.items():
        assert agrees(program(name), request, answer(name, request, int32=int32)), kind


@pytest.mark.parametrize("name", NAMES)
def test_the_body_only_reads_tables(name: str) -> None:
    """Sorting and scattering is over before the body begins; no input of the graph reaches it."""
    prepare, body = parts(name)
    kinds = {node.op_type for node in body.graph}
    assert not kinds & {"TopK", "ScatterElements", "NonZero", "Range", "Shape", "If"}
    assert {"TopK", "ScatterElements"} <= {node.op_type for node in prepare.graph}
    assert [value.name for value in body.graph.inputs][1:] == [value.name for value in prepare.graph.outputs]
    assert not {str(value.name) for value in body.graph.inputs} & set(STRUCTURE)


def test_narrow_indices() -> None:
    """Asked for, no int64 crosses the border, and gathers take the narrow indices as they are."""
    prepare, body = parts("GIN", int32=True)
    assert {value.dtype for value in prepare.graph.outputs} == {ir.DataType.INT32}
    assert "Cast" not in {node.op_type for node in body.graph}


def test_layers_over_one_structure_share_what_is_handed_over() -> None:
    """Two layers of GCN read one table of sources and one of weights."""
    prepare, _ = parts("GCN")
    assert len(prepare.graph.outputs) == 2
