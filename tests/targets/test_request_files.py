"""What the targets write for graphs of any size, and how they choose its lowering."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from gnnexport.errors import UnsupportedError
from gnnexport.native.library import why_missing
from gnnexport.passes.contract import PassContext
from gnnexport.passes.split_structure import SplitStructure
from gnnexport.program.capture import capture
from gnnexport.program.program import Program, example_inputs
from gnnexport.runtime.openvino import OpenVinoBackend
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import Artefact, DialectModel, EmitContext, Target
from gnnexport.targets.onnx.choice import Lowering
from gnnexport.targets.onnx.target import OnnxTarget
from gnnexport.targets.onnx.translate_graphs import translate_graphs
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from tests.small_models import INPUTS, PLAIN, run, split
from tests.targets.requests import agrees, feeds, graph_program, hub_edges, random_edges, request_of

SAMPLE = request_of(random_edges(90, 400), 90, 5)
REQUESTS = {
    "sample": SAMPLE,
    "larger": request_of(random_edges(500, 3000), 500, 40),
    "small": request_of(random_edges(9, 20), 9, 2),
    "one node": request_of(torch.zeros(2, 0, dtype=torch.int64), 1),
    "no edges": request_of(torch.zeros(2, 0, dtype=torch.int64), 7, 3),
    "hub": request_of(hub_edges(600), 600, 2),
}
KERNELS = ["native"] if why_missing() is None else []
TARGETS = {"onnx": OnnxTarget, "ort": OrtTarget, "openvino": OpenVinoTarget}


@cache
def dialect(program: Program) -> DialectModel:
    """Translate a Program with the usual sample."""
    return translate_graphs(program, SAMPLE)


def emit(target: Target, program: Program, folder: Path, ctx: EmitContext | None = None) -> Artefact:
    """Write a model into a folder that need not exist."""
    folder.mkdir(exist_ok=True)
    return target.emit(dialect(program), folder, ctx or EmitContext(time_budget_s=2))


@pytest.mark.parametrize(
    ("target", "lowering"),
    [*(("ort", name) for name in (*KERNELS, "ell", "scatter")), ("openvino", "ell"), ("openvino", "scatter")],
)
@pytest.mark.parametrize("name", ["GCN", "GAT", "GATv2", "PNA", "sum", "max", "softmax"])
def test_one_file_answers_every_request(name: str, target: str, lowering: Lowering, tmp_path: Path) -> None:
    """A request after another of other sizes, forwards and backwards, is answered as PyTorch answers it."""
    if target == "openvino":
        pytest.importorskip("openvino")
    program = graph_program(name) if name.islower() else split(name)
    artefact = emit(TARGETS[target](aggregate=lowering), program, tmp_path)
    assert artefact.native == (lowering == "native")
    backend = (OrtBackend if target == "ort" else OpenVinoBackend)(tmp_path / artefact.model_file, 2)
    for kind, request in [*REQUESTS.items(), *reversed(REQUESTS.items())]:
        assert agrees(program, request, backend.run(feeds(program, request))["logits"]), kind


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_a_hub_of_any_degree(target: str, tmp_path: Path) -> None:
    """Nodes times the largest degree exceeds 32 bits here; neither memory nor the answer suffers."""
    if target == "openvino":
        pytest.importorskip("openvino")
    program, request = split("GIN"), request_of(hub_edges(50_000), 50_000)
    artefact = emit(TARGETS[target](aggregate="ell"), program, tmp_path)
    backend = (OrtBackend if target == "ort" else OpenVinoBackend)(tmp_path / artefact.model_file, 2)
    # A sum of 50,000 numbers in float32 depends on the order of adding.
    expected = run(program, request).numpy()
    assert np.allclose(backend.run(feeds(program, request))["logits"], expected, rtol=1e-3, atol=1e-3)


def test_the_artefact_says_who_prepares(tmp_path: Path) -> None:
    """The model computes what depends on the graph; nothing of a graph lies in its file."""
    artefact = emit(OrtTarget(), graph_program("sum"), tmp_path)
    assert artefact.prepare == "model"
    assert artefact.sizes["graph_bytes"] == 0
    assert sum(artefact.sizes.values()) == sum((tmp_path / name).stat().st_size for name in artefact.files)


def test_the_file_is_standard(tmp_path: Path) -> None:
    """One opset of standard operators, and the IR version that older releases read."""
    emit(OnnxTarget(), split("GAT"), tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]
    assert model.ir_version == 10


def test_both_lowerings_are_timed(tmp_path: Path) -> None:
    """The report names what was tried on the sample, with its time."""
    (row,) = emit(OrtTarget(), split("GAT"), tmp_path).lowering
    assert row["op"] == "4 reductions over 1 structures of each request"
    assert {item["name"] for item in row["candidates"]} == {*KERNELS, "ell", "scatter"}
    assert all(item["latency_ms"] > 0 for item in row["candidates"])
    assert row["chosen"] == row["candidates"][0]["name"]


def test_large_requests_never_time_scatter(tmp_path: Path) -> None:
    """One run of it would take longer than all the rest."""
    value = dialect(split("GIN"))
    edges = np.zeros((2, 1_000_000), np.int64)
    large = DialectModel(value.model, {}, "graphs", {**value.sample, "edge_index": edges})
    (row,) = OrtTarget().emit(large, tmp_path, EmitContext(time_budget_s=2)).lowering
    assert [item["name"] for item in row["candidates"]] == [*KERNELS, "ell"]


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_replaying_decisions_gives_the_same_bytes(target: str, tmp_path: Path) -> None:
    """What timing decided is all that is left to chance, and a replay times nothing."""
    if target == "openvino":
        pytest.importorskip("openvino")
    first = emit(TARGETS[target](), split("GAT"), tmp_path / "a")
    again = emit(TARGETS[target](), split("GAT"), tmp_path / "b", EmitContext(decisions=first.decisions))
    assert again.decisions == first.decisions
    assert {item["latency_ms"] for row in again.lowering for item in row["candidates"]} == {None}
    for file in first.files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_dense_adjacency_is_refused(tmp_path: Path) -> None:
    """It would have to be stored, and every request brings its own."""
    target = OrtTarget(aggregate="dense")
    (problem,) = target.check(split("GIN"), "graphs")
    assert "every request brings its own" in problem.what
    assert "ell, scatter or native" in problem.mend
    assert target.check(split("GIN"), "full") == []
    with pytest.raises(UnsupportedError, match="adjacency of one graph"):
        emit(target, split("GIN"), tmp_path)


class Odd(torch.nn.Module):
    """Weighs edges by an op on degrees that ONNX does not know."""

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """Sum neighbours."""
        degree = torch.zeros(x.size(0)).scatter_add(0, edge_index[1], torch.ones(edge_index.size(1)))
        messages = x[edge_index[0]] * torch.special.i0e(degree)[edge_index[1]][:, None]
        index = edge_index[1][:, None].expand(-1, 6)
        return torch.zeros(x.size(0), 6).scatter_add(0, index, messages)


def test_ops_on_the_graph_count_where_the_model_computes_them() -> None:
    """For one graph PyTorch computes them once; for graphs of any size ONNX has to."""
    inputs = tuple(INPUTS[key] for key in PLAIN)
    program = SplitStructure().run(capture(Odd(), inputs, example_inputs(inputs)), PassContext())
    assert OrtTarget().check(program, "full") == []
    (problem,) = OrtTarget().check(program, "graphs")
    assert "special_i0e" in problem.what
