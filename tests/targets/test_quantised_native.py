"""What our kernels get to compute with few bits: what is joined, and that numbers stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from gnnexport.native import library
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx.bake import bake
from gnnexport.targets.onnx.quantised_forms import Form, Formed, take_form
from gnnexport.targets.ort import OrtTarget
from tests.targets.graphs import from_degrees
from tests.targets.narrow_twin import run_twin
from tests.targets.quantised_networks import (
    NETWORKS,
    Quantised,
    Sage,
    case_of,
    expected,
    features,
    of_any_block,
    of_one_graph,
)
from tests.targets.sketch import run
from tests.targets.test_quantised_standard import GRAPHS, HUB, blocks, close

gnn = torch.ops.gnn
needs_kernels = pytest.mark.skipif(library.why_missing() is not None, reason=f"the kernels: {library.why_missing()}")
ASSIGNS = ["tensor", "node", "nearest"]


def formed(dialect: DialectModel, form: Form = "narrow") -> tuple[onnx.ModelProto, Formed]:
    """Bring a model into a form, as a target for our kernels does before anything else."""
    model = bake(dialect) if dialect.mode == "full" else dialect.model.clone()
    found = take_form(model.graph, form, native=True)
    return ir.to_proto(model), found


def counted(model: onnx.ModelProto) -> Counter[str]:
    """Count the operators of a model by name."""
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("assign", ASSIGNS)
@pytest.mark.parametrize("name", NETWORKS)
def test_one_graph(name: str, assign: str, bits: int) -> None:
    """The numbers are PyTorch's, on graphs with hubs, without edges and with little else."""
    for graph in GRAPHS.values():
        case = case_of(name, assign, graph, bits)
        for form in ("narrow", "narrow-sums"):
            model, _ = formed(case.dialect, form)  # type: ignore[arg-type]
            assert close(run_twin(model, {"x": case.x}), case.expected)


@pytest.mark.parametrize("assign", ["tensor", "nearest"])
@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_of_any_size(name: str, assign: str) -> None:
    """One model answers on every block."""
    given = NETWORKS[name](0, 50 if assign == "nearest" else 0)
    model, _ = formed(of_any_block(given, HUB))
    for graph in GRAPHS.values():
        x = features(graph)
        assert close(run_twin(model, {"x": x.numpy(), **blocks(graph)}), expected(given, graph, x))


def test_gcn_is_joined() -> None:
    """Between the layers rows are packed only: sums, scale, bias, activation, product and packing are one operator."""
    model, found = formed(case_of("gcn", "node", HUB, 4).dialect)
    counts = counted(model)
    assert counts == {"NarrowLinear": 1, "NarrowAggregateLinear": 1, "NarrowAggregate": 1}
    first, second, last = model.graph.node
    assert (first.op_type, second.op_type, last.op_type) == tuple(counts)
    told = {item.name: item for item in second.attribute}
    assert (told["next_bits"].i, told["next_zero"].i, told["sum_activation"].s, told["bits"].i) == (4, 8, b"relu", 4)
    assert found.arithmetic["first_sum"] == "u4 sums"
    assert found.arithmetic["second_input"] == "u8xs8"
    assert (found.packed["first_sum"], found.packed["second_input"]) == (4, 0)


def test_sage_is_joined() -> None:
    """The rows' own layer joins the one behind the sums, and reads levels that are given beside what is packed."""
    model, found = formed(case_of("sage-mean", "tensor", HUB).dialect)
    assert counted(model) == {"Narrow": 1, "NarrowAggregateLinear": 2}
    packing, first, second = model.graph.node
    assert [len(node.output) for node in (packing, first, second)] == [2, 2, 1]
    own_place = 13
    assert (first.input[own_place], second.input[own_place]) == (packing.output[1], first.output[1])
    assert (first.input[0], second.input[0]) == (packing.output[0], first.output[0])
    assert {found.packed[name] for name in ("first_own_input", "second_own_input")} == {8}


def test_groups_are_not_given() -> None:
    """What takes the nearest of some groups is rounded by its reader, who knows whole rows."""
    model, _ = formed(case_of("sage-mean", "nearest", HUB).dialect)
    assert counted(model) == {"Narrow": 2, "NarrowAggregateLinear": 2}


def test_sums_alone() -> None:
    """Products may stay with the floats that levels stand for, where that is faster."""
    model, found = formed(case_of("gcn", "tensor", HUB).dialect, "narrow-sums")
    counts = counted(model)
    assert (counts["NarrowAggregate"], counts["Narrow"], counts["Gemm"] + counts["MatMul"]) == (2, 2, 2)
    assert set(found.arithmetic) == {"first_sum", "second_sum"}
    assert not counts["DequantizeLinear"]


class Normed(Quantised):
    """A layer between normalisations: of sums, of the layer, and of it with a layer of the rows' own added."""

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        self.own = own
        self.columns("layer", 9)
        for name in ("layer", "other"):
            self.rows(name)
            self.linear(name, 9, 7)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm1d(9), torch.nn.BatchNorm1d(7)])
        for norm in self.norms:
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert isinstance(tensor, torch.Tensor)
                tensor.data = torch.rand(tensor.shape, generator=self.draw) + 0.2
            norm.weight.data[0] *= -1

    def forward(self, x: torch.Tensor, rowptr: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        """Answer for all nodes."""
        near = gnn.aggregate(self.quantised_columns(x, "layer", signed=True), rowptr, col, None, "mean")
        near = self.norms[0](near).relu()
        out = torch.nn.functional.linear(self.quantised_rows(near, "layer", signed=False), self.weights("layer"))
        out = out + self.layer_bias
        if self.own:
            rows = self.quantised_rows(x, "other", signed=True)
            out = out + torch.nn.functional.linear(rows, self.weights("other"), self.other_bias)
        result: torch.Tensor = self.norms[1](out).relu()
        return result


@pytest.mark.parametrize("own", [False, True])
def test_normalisations_are_joined(own: bool) -> None:
    """A normalisation multiplies steps, and what it adds becomes the bias: of both layers where two are added."""
    given = Normed(own=own).eval()
    for graph in GRAPHS.values():
        x = features(graph)
        model, _ = formed(of_one_graph(given, graph, x))
        counts = counted(model)
        assert counts["NarrowAggregateLinear"] == 1
        assert not counts["BatchNormalization"]
        assert not counts["Relu"]
        assert close(run_twin(model, {"x": x.numpy()}), expected(given, graph, x))


@needs_kernels
@pytest.mark.parametrize("own", [False, True])
def test_kernels_of_normalisations(own: bool, tmp_path: Path) -> None:
    """The kernels take steps below zero, as a normalisation may make them."""
    given, x = Normed(own=own).eval(), features(HUB)
    target = OrtTarget(quantised="narrow", aggregate="native")
    artefact = target.emit(of_one_graph(given, HUB, x), tmp_path, EmitContext(threads=1))
    assert close(run(str(tmp_path / artefact.model_file), {"x": x.numpy()}), expected(given, HUB, x))


class Softened(Sage):
    """GraphSAGE that ends in shares of classes."""

    def forward(self, x: torch.Tensor, rowptr: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        """Answer for all nodes."""
        return super().forward(x, rowptr, col).log_softmax(1)


@needs_kernels
def test_standard_operators_behind_a_layer(tmp_path: Path) -> None:
    """A file says the type of what a layer of ours gives, which the checker cannot find out."""
    given, x = Softened(), features(HUB)
    target = OrtTarget(quantised="narrow", aggregate="native")
    artefact = target.emit(of_one_graph(given, HUB, x), tmp_path, EmitContext(threads=1))
    assert close(run(str(tmp_path / artefact.model_file), {"x": x.numpy()}), expected(given, HUB, x))


class Odd(Quantised):
    """What does not fit: sums of three bits, of rows with heads, a product of float rows, weights of rows by column."""

    def __init__(self) -> None:
        super().__init__(bits=3)
        self.columns("odd", 9)
        self.linear("odd", 9, 7)
        self.rows("odd")

    def forward(self, x: torch.Tensor, rowptr: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        """Answer for all nodes."""
        heads = gnn.quantize_columns(x, self.odd_sum_step, self.odd_sum_bits, True, False).view(-1, 3, 3)
        near = gnn.aggregate(heads, rowptr, col, None, "sum").reshape(-1, 9)
        plain = gnn.quantize_columns(x, self.odd_sum_step, self.odd_sum_bits, True, False)
        near = near + gnn.aggregate(plain, rowptr, col, None, "sum")
        by_column = gnn.quantize_columns(self.odd_weight, self.odd_sum_step, self.odd_weight_bits, True, False)
        rows = self.quantised_rows(near, "odd", signed=True)
        return torch.nn.functional.linear(x, self.weights("odd")) + torch.nn.functional.linear(rows, by_column)


def test_what_stays_as_it_is() -> None:
    """What does not pack, or has no one step for each row, is computed in floats."""
    graph = from_degrees([2, 0, 5, 1])
    given, x = Odd(), features(graph)
    copy = of_one_graph(given, graph, x)
    model, found = formed(copy)
    counts = counted(model)
    assert not [name for name in counts if name.startswith("Narrow")]
    assert counts["Aggregate"] == 2
    assert found.arithmetic == {}


class Tail(Quantised):
    """Something else reads what is summed, and what a layer gives."""

    def __init__(self, extra: str) -> None:
        super().__init__()
        self.extra = extra
        self.rows("tail")
        self.linear("tail", 9, 7, bias=False)
        self.columns("tail", 7)

    def forward(self, x: torch.Tensor, rowptr: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        """Answer for all nodes."""
        rows = self.quantised_rows(x, "tail", signed=True)
        value = torch.nn.functional.linear(rows, self.weights("tail"))
        levels = self.quantised_columns(value, "tail", signed=True)
        out = gnn.aggregate(levels, rowptr, col, None, "sum")
        return out + {"levels": levels, "layer": value, "rows": rows[:, :7]}[self.extra]


@pytest.mark.parametrize("extra", ["levels", "layer", "rows"])
def test_what_others_read(extra: str) -> None:
    """What is read elsewhere too stays, and the numbers with it."""
    given, x = Tail(extra), features(HUB)
    model, _ = formed(of_one_graph(given, HUB, x))
    counts = counted(model)
    assert (counts["NarrowLinear"], counts["NarrowAggregate"]) == (1, 1)
    assert close(run_twin(model, {"x": x.numpy()}), expected(given, HUB, x))
    assert counts["Narrow"] == (extra != "rows")


def test_twin_packs_and_unpacks() -> None:
    """An odd number of columns fills half a byte with nothing."""
    from tests.targets.narrow_twin import narrow, unpacked

    x = np.array([[-9.0, 0.4, 3.0]], np.float32)
    rows: Any = narrow(x, np.ones(3, np.float32), 4, 8)
    assert rows.shape == (1, 2)
    assert unpacked(rows, 3, 4, 8).tolist() == [[-7, 0, 3]]


@needs_kernels
@pytest.mark.parametrize("form", ["narrow", "narrow-sums"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("assign", ASSIGNS)
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_one_graph(name: str, assign: str, bits: int, form: Any, tmp_path: Path) -> None:
    """The kernels give the numbers of PyTorch, and the report says how."""
    for graph in (GRAPHS["hub"], GRAPHS["two nodes"]):
        case = case_of(name, assign, graph, bits)
        artefact = OrtTarget(quantised=form, aggregate="native").emit(case.dialect, tmp_path, EmitContext(threads=1))
        assert artefact.native
        assert close(run(str(tmp_path / artefact.model_file), {"x": case.x}), case.expected)
    told = {operand.name: operand.arithmetic for operand in artefact.operands}
    assert {how for operand, how in told.items() if operand.endswith("sum")} == {f"u{bits} sums"}
    assert {how for operand, how in told.items() if operand.endswith("input")} == {
        "u8xs8" if form == "narrow" else "float"
    }


@needs_kernels
@pytest.mark.parametrize("assign", ["tensor", "nearest"])
@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_any_block(name: str, assign: str, tmp_path: Path) -> None:
    """So they do on every block."""
    given = NETWORKS[name](0, 50 if assign == "nearest" else 0)
    target = OrtTarget(quantised="narrow", aggregate="native")
    artefact = target.emit(of_any_block(given, HUB), tmp_path, EmitContext(threads=1))
    backend = OrtBackend(tmp_path / artefact.model_file)
    for graph in GRAPHS.values():
        x = features(graph)
        request = {"x": x.numpy(), **blocks(graph)}
        (answer,) = backend.run({tensor.name: request[tensor.name] for tensor in backend.inputs}).values()
        assert close(answer, expected(given, graph, x))


@needs_kernels
def test_forms_are_timed(tmp_path: Path) -> None:
    """All forms are tried, and the fastest is taken."""
    dialect = case_of("gcn", "tensor", HUB).dialect
    target = OrtTarget(aggregate="native")
    artefact = target.emit(dialect, tmp_path, EmitContext(threads=1, time_budget_s=1))
    (row,) = [row for row in artefact.lowering if row["op"] == "quantised operands"]
    assert {item["name"] for item in row["candidates"]} == {"narrow", "narrow-sums", "float", "integer"}
    assert artefact.decisions["lowerings"]["quantised operands"] == row["chosen"]


@needs_kernels
def test_packed_forms_ask_for_the_kernels(tmp_path: Path) -> None:
    """Whoever asks for packed rows gets the kernels, whatever is faster for floats."""
    dialect = case_of("gcn", "tensor", GRAPHS["two nodes"]).dialect
    artefact = OrtTarget(quantised="narrow").emit(dialect, tmp_path, EmitContext(threads=1, time_budget_s=1))
    assert artefact.native
    assert {item.arithmetic for item in artefact.operands if item.kind == "columns"} == {"u8 sums"}


@needs_kernels
def test_forms_that_cannot_be_had(tmp_path: Path) -> None:
    """Where the kernels do not run the sums, a form of theirs is not taken, and that is told."""
    notes: list[str] = []
    target = OrtTarget(aggregate="ell", quantised="narrow")
    artefact = target.emit(case_of("gcn", "tensor", HUB).dialect, tmp_path, EmitContext(note=notes.append))
    assert not artefact.native
    assert "quantised=narrow cannot be had here; one of float, integer is taken" in notes
