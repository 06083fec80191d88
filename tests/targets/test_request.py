"""Models for graphs of any size: one file, and whatever graph a request brings."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import GAT

from gnnexport.program.program import Program
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.request import Form, lower_graphs
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from tests.graph_strategies import MOST_NODES, edge_indices
from tests.small_models import CLASSES, HIDDEN, INPUTS, WIDTH, split
from tests.targets.requests import (
    READOUTS,
    Request,
    agrees,
    feeds,
    graph_program,
    hub_edges,
    pair_program,
    prepared,
    random_edges,
    request_of,
)
from tests.targets.sketch import Array

FORMS: dict[str, tuple[Form, dict[str, bool]]] = {
    "ell": ("ell", {}),
    "without branches": ("ell", {"branches": False}),
    "tables only": ("ell", {"fallback": False}),
    "scatter": ("scatter", {}),
}
FAMILIES = ("GCN", "GIN", "GraphSAGE", "GraphSAGE max", "GAT", "GAT edge features", "PNA", "masked",
            "multiplied", "stacked", "attended", "two_structures")  # fmt: skip
READ_OUT = tuple(f"readout {name}" for name in READOUTS)


def attention() -> torch.nn.Module:
    """Return GATv2, which sums over channels of edges, and without self-loops a graph may have none."""
    return GAT(WIDTH, HIDDEN, 2, CLASSES, heads=2, v2=True, add_self_loops=False)


@cache
def program(name: str) -> Program:
    """Return a Program by name."""
    if name == "pairs":
        return pair_program()
    if name == "loopless attention":
        return prepared(attention(), (INPUTS["x"], INPUTS["edge_index"]))
    return graph_program(name.removeprefix("readout ")) if name in READ_OUT else split(name)


@cache
def translated(name: str) -> ir.Model:
    """Translate a Program that was captured on graphs of 11 nodes."""
    value = program(name)
    return translate_graphs(value, value.example()).model


@cache
def lowered(name: str, form: str) -> ir.Model:
    """Lower a Program."""
    aggregate, options = FORMS[form]
    return lower_graphs(translated(name), aggregate, **options)


@cache
def session(name: str, form: str) -> onnxruntime.InferenceSession:
    """Check a lowered model and open it."""
    proto = ir.to_proto(lowered(name, form))
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answer(name: str, form: str, request: Request) -> Array:
    """Run a lowered model on a request."""
    result: Array = session(name, form).run(None, feeds(program(name), request))[0]
    return result


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*FAMILIES, *READ_OUT, "pairs", "loopless attention"])
def test_graphs_of_other_sizes(name: str, form: str) -> None:
    """One file answers for a graph of any size: larger, one node, no edges, one edge, a hub."""
    graphs = {
        "larger": (random_edges(90, 400), 90),
        "one node": (torch.zeros(2, 0, dtype=torch.int64), 1),
        "one node and its loop": (torch.zeros(2, 1, dtype=torch.int64), 1),
        "no edges": (torch.zeros(2, 0, dtype=torch.int64), 7),
        "one edge": (torch.tensor([[4], [2]]), 7),
        "hub": (hub_edges(300), 300),
    }
    for kind, (edges, num_nodes) in graphs.items():
        request = request_of(edges, num_nodes, num_graphs=min(num_nodes, 5))
        assert agrees(program(name), request, answer(name, form, request)), kind


@st.composite
def requests(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Draw a request of one to four graphs, any of which may be empty; the ids come in any order."""
    num_nodes = draw(st.integers(1, MOST_NODES))
    num_graphs = draw(st.integers(1, 4))
    request = request_of(draw(edge_indices(num_nodes)), num_nodes, num_graphs, draw(st.integers(0, 99)))
    ids = draw(st.lists(st.integers(0, num_graphs - 1), min_size=num_nodes, max_size=num_nodes))
    return {**request, "batch": torch.tensor(ids)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["GCN", "GraphSAGE max", "GAT", *READ_OUT])
@settings(max_examples=10, deadline=None)
@given(request=requests())
def test_any_graph(name: str, form: str, request: dict[str, torch.Tensor]) -> None:
    """Isolated nodes, duplicates, loops, hubs and empty graphs are exact, and so are maxima of negative features."""
    assert agrees(program(name), request, answer(name, form, request))


@pytest.mark.parametrize("readout", READ_OUT)
@pytest.mark.parametrize("form", FORMS)
def test_graphs_without_nodes(readout: str, form: str) -> None:
    """A count larger than any graph id gives a row for each graph: what follows the readout, applied to zeros."""
    request = {**request_of(random_edges(20, 50), 20, 3), "num_graphs": torch.tensor(9)}
    out = answer(readout, form, request)
    bias = dict(graph_program(readout.removeprefix("readout ")).named_parameters())["body.last.bias"]
    assert out.shape == (9, len(bias))
    assert (out[3:] == bias.detach().numpy()).all()
    assert agrees(program(readout), request, out)


def test_a_hub_is_scattered() -> None:
    """A table of every node times the largest degree is never made: both branches of the model answer the same."""
    request = request_of(hub_edges(4000), 4000)
    assert agrees(program("GCN"), request, answer("GCN", "ell", request))
    model = ir.to_proto(lowered("GCN", "ell"))
    branches = [node for node in model.graph.node if node.op_type == "If"]
    largest = max(array.shape[1] for array in _values(model, [node.output[0] for node in branches], request))
    assert largest <= 400


def _values(model: onnx.ModelProto, names: list[str], request: Request) -> list[Array]:
    """Run a model and return values in between that have two sizes."""
    del model.graph.output[1:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    runner = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = runner.run(names, feeds(program("GCN"), request))
    return [array for array in found if array.ndim == 2]


@pytest.mark.parametrize("name", ["GIN", "GraphSAGE max", "GAT", *READ_OUT])
def test_tables_alone_neither_branch_nor_scatter_sums(name: str) -> None:
    """What TensorRT refuses is not there: scatters write every cell once, and no operator holds another graph."""
    nodes = list(lowered(name, "tables only").graph)
    assert not [node for node in nodes if node.op_type in ("If", "Loop", "Scan")]
    scatters = [node for node in nodes if node.op_type.startswith("Scatter")]
    assert scatters
    assert not [node for node in scatters if "reduction" in node.attributes]


def test_layers_share_the_tables() -> None:
    """Two layers over one structure sort its edges once."""
    nodes = list(lowered("GAT", "tables only").graph)
    assert [node.op_type for node in nodes].count("TopK") == 1


def test_inputs_and_output_are_named_by_what_they_count() -> None:
    """Open sizes carry the names of the Program's inputs."""
    graph = lowered("readout sum", "ell").graph
    shapes = {str(value.name): [str(size) for size in value.shape or ()] for value in (*graph.inputs, *graph.outputs)}
    assert shapes == {
        "x": ["num_nodes", "6"],
        "edge_index": ["2", "num_edges"],
        "batch": ["num_nodes"],
        "num_graphs": [],
        "logits": ["num_graphs", "3"],
    }


def test_the_translated_model_is_left_as_it_was() -> None:
    """Lowering twice from one model gives the same."""
    model = translated("GIN")
    first = ir.to_proto(lower_graphs(model)).SerializeToString()
    assert ir.to_proto(lower_graphs(model)).SerializeToString() == first


def weighted_by_channel() -> ir.Model:
    """Sum neighbours, each channel of each edge with a weight of its own; edges come sorted."""

    def value(name: str, dtype: ir.DataType, *shape: int | str) -> ir.Value:
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))

    x = value("x", ir.DataType.FLOAT, "num_nodes", 2)
    dst, col = (value(name, ir.DataType.INT64, "num_edges") for name in ("dst", "col"))
    weight, count = value("weight", ir.DataType.FLOAT, "num_edges", 2), value("count", ir.DataType.INT64)
    rowptr, perm = value("rowptr", ir.DataType.INT64, "rows"), value("perm", ir.DataType.INT64, "num_edges")
    out = value("out", ir.DataType.FLOAT, "num_nodes", 2)
    csr = ir.node(schemas.CSR, [dst, count], domain=schemas.DOMAIN, outputs=[rowptr, perm], name="csr")
    inputs = [x, rowptr, col, weight]
    total = ir.node(
        schemas.AGGREGATE, inputs, {"reduce": "sum"}, domain=schemas.DOMAIN, outputs=[out], name="aggregate"
    )
    opsets = {"": 20, schemas.DOMAIN: schemas.VERSION}
    graph = ir.Graph([x, dst, col, weight, count], [out], nodes=[csr, total], name="g", opset_imports=opsets)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_with_as_many_dimensions_as_features(form: str) -> None:
    """It multiplies channel by channel; nothing is unsqueezed along no axis."""
    kind, options = FORMS[form]
    model = lower_graphs(weighted_by_channel(), kind, **options)
    axes = [node.inputs[1].const_value for node in model.graph if node.op_type == "Unsqueeze"]  # type: ignore[union-attr]
    assert all(item is not None and item.size for item in axes)
    random = np.random.default_rng(0)
    x, weight = (random.standard_normal((rows, 2)).astype(np.float32) for rows in (3, 4))
    given = {"x": x, "weight": weight, "dst": np.array([0, 0, 2, 2]), "col": np.array([1, 2, 0, 0])}
    expected = np.zeros((3, 2), np.float32)
    np.add.at(expected, given["dst"], x[given["col"]] * weight)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {**given, "count": np.array(3)})
    np.testing.assert_allclose(answer, expected, atol=1e-6)
