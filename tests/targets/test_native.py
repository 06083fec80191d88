"""Models that call our kernels: what is fused, what they need, and what forbids them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import APPNP, AGNNConv, GATConv, GATv2Conv, TransformerConv
from torch_geometric.utils import scatter, softmax

from gnnexport.errors import MissingExtraError
from gnnexport.native import library
from gnnexport.passes.contract import PassContext
from gnnexport.passes.order_propagation import OrderPropagation
from gnnexport.program.inputs import Input
from gnnexport.program.program import Program
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import Artefact, EmitContext
from gnnexport.targets.onnx import choice, native_target, schemas
from gnnexport.targets.onnx.scales import fold_scales
from gnnexport.targets.onnx.tape import FOLDED, OF_GRAPH
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.ort import OrtTarget
from tests.small_models import EDGE_WIDTH, INPUTS, WIDTH, run, split
from tests.targets.requests import prepared, random_edges, request_of
from tests.targets.sketch import Sketch

pytestmark = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")

REQUEST = {**request_of(random_edges(60, 400), 60), "edge_attr": torch.rand(400, EDGE_WIDTH)}
READS = ("x", "edge_index", "edge_attr")
READS_OF_NODES = (INPUTS["x"], INPUTS["edge_index"])


class Written(nn.Module):
    """A layer written by hand."""

    def __init__(self, forward: Callable[[Written, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.h, self.scores = nn.Linear(WIDTH, 12), nn.Linear(WIDTH, 2)
        self.table = nn.Parameter(torch.randn(1, 12))
        self.att = nn.Parameter(torch.randn(1, 3, 4))
        self._forward = forward

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return a row for each node."""
        return self._forward(self, x, edge_index)


def more_rows_than_scores(model: Written, x: Tensor, edge_index: Tensor) -> Tensor:
    """Weigh rows of which there are more than nodes that have scores."""
    src, dst = edge_index
    rows, (left, right) = torch.cat([model.h(x), model.table]), model.scores(x).unbind(-1)
    weight = softmax(F.leaky_relu(left[src] + right[dst]), dst, num_nodes=x.size(0))
    return scatter(rows[src] * weight[:, None], dst, 0, x.size(0), "sum")


def scores_shared_by_heads(model: Written, x: Tensor, edge_index: Tensor) -> Tensor:
    """Multiply one vector for all heads with the attention of each."""
    src, dst = edge_index
    rows = model.h(x).view(-1, 3, 4)
    shared = F.leaky_relu(rows[:, :1][src] + rows[:, :1][dst]) * model.att
    weight = softmax(shared.sum(-1), dst, num_nodes=x.size(0))
    return scatter(rows[src] * weight[..., None], dst, 0, x.size(0), "sum").flatten(1)


def plus_a_number(model: Written, x: Tensor, edge_index: Tensor) -> Tensor:
    """Add a number to a sum, and give the sum out as well."""
    src, dst = edge_index
    total = scatter(model.h(x)[src], dst, 0, x.size(0), "sum")
    return torch.cat([total + 1.5, total.relu()], 1)


class Layer(nn.Module):
    """One convolution that reads edge features."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Return a row for each node."""
        out: Tensor = self.conv(x, edge_index, edge_attr)
        return out


LAYERS = {
    "gat": lambda: GATConv(WIDTH, 16, heads=4, edge_dim=EDGE_WIDTH),
    "gatv2": lambda: GATv2Conv(WIDTH, 5, heads=3, edge_dim=EDGE_WIDTH),
    "dot": lambda: TransformerConv(WIDTH, 8, heads=2, edge_dim=EDGE_WIDTH),
}


def emit(program: Program, folder: Path, target: OrtTarget | None = None) -> Artefact:
    """Write a model for the graph of the request."""
    target = target or OrtTarget(aggregate="native")
    return target.emit(translate(program, REQUEST), folder, EmitContext(time_budget_s=1))


def operators(folder: Path) -> Counter[str]:
    """Count the operators of a model by name."""
    return Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)


def error(program: Program, folder: Path) -> float:
    """Return the largest difference from the Program, over its largest output."""
    backend = OrtBackend(folder / "model.onnx", 2)
    feeds = {tensor.name: REQUEST[tensor.name].numpy() for tensor in backend.inputs}
    (answer,) = backend.run(feeds).values()
    expected = run(program, REQUEST).numpy()
    return float(np.abs(answer - expected).max() / np.abs(expected).max())


def test_a_factor_of_sums_is_one_of_edges(tmp_path: Path) -> None:
    """APPNP multiplies no row by what its edges can be multiplied by, and adds its start within the sum."""
    program = prepared(Written(lambda model, x, edges: APPNP(3, 0.1)(x, edges)).eval(), READS_OF_NODES)
    emit(program, tmp_path)
    assert operators(tmp_path) == {"Aggregate": 3, "Mul": 1}
    assert error(program, tmp_path) < 1e-5


def test_factors_that_others_read_stay(tmp_path: Path) -> None:
    """A sum that is given out besides, and one whose factor is a row of numbers, are not rescaled."""

    def forward(model: Written, x: Tensor, edges: Tensor) -> Tensor:
        total = scatter(x[edges[0]] * 0.5, edges[1], 0, x.size(0), "sum")
        return torch.cat([total, total * 0.25, scatter(x[edges[0]], edges[1], 0, x.size(0), "sum") * x[:1]], 1)

    program = prepared(Written(forward).eval(), READS_OF_NODES)
    emit(program, tmp_path)
    assert operators(tmp_path)["Mul"] >= 2
    assert error(program, tmp_path) < 1e-5


def test_a_factor_of_the_answer_is_one_of_edges(tmp_path: Path) -> None:
    """The product may be what the model gives; factors of more dimensions than the sum has stay."""

    def forward(model: Written, x: Tensor, edges: Tensor, factor: Tensor) -> Tensor:
        weight = torch.full_like(x[edges[0], :1], 0.5)
        out = scatter(x[edges[0]] * weight, edges[1], 0, x.size(0), "sum") * factor
        return out if out.dim() == 2 else out.squeeze(0)

    for factor, count in ((torch.tensor(0.25), 0), (torch.full((1, 1, 1), 0.25), 1)):
        program = prepared(Written(partial(forward, factor=factor)).eval(), READS_OF_NODES)
        folder = tmp_path / str(count)
        folder.mkdir()
        emit(program, folder)
        assert operators(folder)["Mul"] == count
        assert error(program, folder) < 1e-5


@pytest.mark.parametrize("mark", [OF_GRAPH, FOLDED])
def test_scaled_weights_stem_from_what_they_stemmed_from(mark: str) -> None:
    """What is of the graph, or folded of it, is so with a factor as well; a model of no edges is no exception."""
    for edges in (0, 3):
        sketch = Sketch()
        x = sketch.features("x", [4, 2])
        rowptr = sketch.weight("rowptr", np.array([0, edges, edges, edges, edges]))
        col = sketch.weight("col", np.arange(edges))
        weight = sketch.weight("weight", np.arange(1, edges + 1, dtype=np.float32))
        total = sketch.op(schemas.AGGREGATE, [x, rowptr, col, weight], [4, 2], reduce="sum")
        factor = sketch.weight("factor", np.array([0.5], np.float32))
        graph = sketch.finish(sketch.op("Mul", [factor, total], [4, 2])).model.graph
        weight.meta[mark] = True
        assert fold_scales(graph) == 1
        (node,) = graph
        scaled = node.inputs[3]
        assert scaled is not None
        assert scaled.const_value is not None
        assert scaled.const_value.numpy().tolist() == [0.5 * number for number in range(1, edges + 1)]
        assert scaled.meta.get(mark)
        assert "weight" not in graph.initializers
        assert graph.outputs[0].name == "logits"


@pytest.mark.parametrize("kind", ["gat", "gatv2", "dot"])
def test_attention_is_one_operator(kind: str, tmp_path: Path) -> None:
    """Nothing with a row for each edge and a column for each channel is gathered; edge features are heard."""
    torch.manual_seed(0)
    inputs: tuple[Input, ...] = tuple(INPUTS[name] for name in READS)
    program = prepared(Layer(LAYERS[kind]()).eval(), inputs)
    emit(program, tmp_path)
    counts = operators(tmp_path)
    assert counts["Attention"] == 1
    assert counts["Gather"] == counts["GatherDestination"] == counts["EdgeSoftmax"] == 0
    (node,) = (node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Attention")
    assert onnx.helper.get_node_attr_value(node, "score").decode() == kind
    assert error(program, tmp_path) < 1e-5


@pytest.mark.parametrize("conv", [TransformerConv(WIDTH, 8, heads=2), TransformerConv(WIDTH, 8), AGNNConv()])
def test_attention_without_edge_features(conv: nn.Module, tmp_path: Path) -> None:
    """Axes of one that layers add to their weights and drop again hide nothing."""
    program = prepared(Written(lambda model, x, edges: conv(x, edges)).eval(), (INPUTS["x"], INPUTS["edge_index"]))
    emit(program, tmp_path)
    counts = operators(tmp_path)
    assert counts["Attention"] == 1
    assert counts["EdgeSoftmax"] == counts["Aggregate"] == 0
    assert error(program, tmp_path) < 1e-5


@pytest.mark.parametrize("written", [more_rows_than_scores, scores_shared_by_heads, plus_a_number])
def test_what_only_looks_alike(written: Callable[[Written, Tensor, Tensor], Tensor], tmp_path: Path) -> None:
    """Sizes that do not fit an operator are not pressed into it: the model still answers as PyTorch does."""
    program = prepared(Written(written).eval(), (INPUTS["x"], INPUTS["edge_index"]))
    assert emit(program, tmp_path).native
    assert error(program, tmp_path) < 1e-5


@pytest.mark.parametrize("name", ["GAT", "GAT edge features", "GATv2", "attended", "PNA", "GraphSAGE max"])
def test_models(name: str, tmp_path: Path) -> None:
    """Whole models answer what PyTorch answers."""
    program = split(name)
    assert emit(program, tmp_path).native
    assert error(program, tmp_path) < 1e-5


@pytest.mark.parametrize(
    ("name", "sums", "multiplied"),
    [("GCN", 2, 0), ("GCN that sums first", 1, 1), ("GraphSAGE", 0, 2), ("GIN", 2, 0)],
)
def test_what_follows_a_sum_is_part_of_it(
    name: str, sums: int, multiplied: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bias, root term and activation are added while a row is at hand.

    Where the product comes after the sum it is part of it too, and so is that of the root term. GIN adds the root term
    before its product, so that what is multiplied is no sum any more.
    """
    monkeypatch.setattr(choice, "path_name", lambda: "avx2")
    program = split(name.partition(" ")[0])
    if "sums first" in name:
        program = OrderPropagation().run(program, PassContext())
    emit(program, tmp_path)
    counts = operators(tmp_path)
    assert (counts["Aggregate"], counts["AggregateLinear"]) == (sums, multiplied)
    assert counts["Add"] == 0
    assert error(program, tmp_path) < 1e-5


def test_the_structure_takes_32_bits(tmp_path: Path) -> None:
    """A graph that is known is stored in half the bytes that PyTorch needs."""
    emit(split("GIN"), tmp_path)
    stored = {item.name: item.data_type for item in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert onnx.TensorProto.INT32 in stored.values()
    assert onnx.TensorProto.INT64 not in stored.values()


def test_portable_models_need_nothing(tmp_path: Path) -> None:
    """Standard operators only, and no library is asked for."""
    artefact = emit(split("GAT"), tmp_path, OrtTarget(portable=True))
    assert not artefact.native
    assert "kernels" not in artefact.decisions
    assert {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node} == {""}


@pytest.mark.parametrize("decided", ["amx", "avx512", "portable"])
def test_a_replay_is_for_the_processor_that_decided(
    decided: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which layers are fused is decided once: on any other processor a replay gives the same bytes."""
    with monkeypatch.context() as patch:
        patch.setattr(choice, "path_name", lambda: decided)
        first = emit(split("GraphSAGE"), tmp_path)
    assert first.decisions["kernels"] == decided
    content = (tmp_path / "model.onnx").read_bytes()
    monkeypatch.setattr(choice, "path_name", lambda: "avx2")
    ctx = EmitContext(decisions=first.decisions)
    again = OrtTarget().emit(translate(split("GraphSAGE"), REQUEST), tmp_path, ctx)
    assert again.decisions == first.decisions
    assert (tmp_path / "model.onnx").read_bytes() == content


def test_what_was_decided_is_told(tmp_path: Path) -> None:
    """The instruction set that timing ran on is among the decisions, and a replay gives the same bytes."""
    first = emit(split("GAT"), tmp_path)
    assert first.native
    assert first.decisions["kernels"] == library.path_name()
    content = (tmp_path / "model.onnx").read_bytes()
    ctx = EmitContext(decisions=first.decisions)
    again = OrtTarget().emit(translate(split("GAT"), REQUEST), tmp_path, ctx)
    assert again.native
    assert (tmp_path / "model.onnx").read_bytes() == content


def test_kernels_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other lowerings serve; only who asks for the kernels is told."""

    def refuse() -> None:
        raise MissingExtraError.at("native kernels", "they were not built with this installation", "Build them")

    monkeypatch.setattr(native_target, "library", refuse)
    assert not emit(split("GCN"), tmp_path, OrtTarget()).native
    with pytest.raises(MissingExtraError, match="aggregate=native asks for the kernels, and they were not built"):
        emit(split("GCN"), tmp_path)


def test_options_that_contradict() -> None:
    """Nobody can have the kernels and a model without them."""
    with pytest.raises(ValueError, match="portable forbids"):
        OrtTarget(portable=True, aggregate="native")


def test_an_option_beats_what_was_decided_before(tmp_path: Path) -> None:
    """Who names a lowering gets it, whatever a record of an earlier run says."""
    decisions = emit(split("GAT"), tmp_path).decisions
    target = OrtTarget(aggregate="ell")
    again = target.emit(translate(split("GAT"), REQUEST), tmp_path, EmitContext(decisions=decisions))
    assert not again.native
    assert set(again.decisions["lowerings"].values()) == {"ell"}
