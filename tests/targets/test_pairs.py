"""Link prediction on one fixed graph: the pairs come with the request, any number of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from gnnexport.program.program import Program
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.openvino import OpenVinoBackend
from gnnexport.runtime.ort import OrtBackend
from gnnexport.runtime.trt import open_onnx
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx.choice import Lowering
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from gnnexport.targets.trt.target import TrtTarget
from tests.small_models import INPUTS, WIDTH, run
from tests.targets.requests import PAIRS, agrees, pair_program, prepared, random_edges, request_of

NUM_NODES = 120
GRAPH = request_of(random_edges(NUM_NODES, 700), NUM_NODES)
COUNTS = (1, 2, 40, 0, 300)


def dialect() -> DialectModel:
    """Translate the model for the one graph."""
    return translate(pair_program(), GRAPH)


def asked(count: int) -> dict[str, Tensor]:
    """Return the graph with so many pairs."""
    pairs = torch.randint(0, NUM_NODES, (2, count), generator=torch.Generator().manual_seed(count))
    return {**GRAPH, "edge_label_index": pairs}


def opened(target: str, lowering: Lowering, folder: Path) -> Backend:
    """Write the model for a target and open it; an engine's place is taken by the model that it was built from."""
    if target == "trt":
        pytest.importorskip("tensorrt_rtx")
        made = TrtTarget(aggregate=lowering, library="tensorrt_rtx").emit(dialect(), folder, EmitContext())  # type: ignore[arg-type]
        assert made.prepare == "baked"
        return open_onnx(folder, 2, prepared=False)
    if target == "openvino":
        pytest.importorskip("openvino")
    cls = OrtTarget if target == "ort" else OpenVinoTarget
    artefact = cls(aggregate=lowering).emit(dialect(), folder, EmitContext(time_budget_s=2))
    assert artefact.prepare == "baked"
    if target == "ort":
        return OrtBackend(folder / artefact.model_file, 2)
    return OpenVinoBackend(folder / artefact.model_file, 2, native=artefact.native)


@pytest.mark.parametrize(
    ("target", "lowering"),
    [
        *((target, lowering) for target in ("ort", "openvino") for lowering in ("auto", "ell", "dense", "scatter")),
        ("trt", "ell"),
        ("trt", "dense"),
    ],
)
def test_any_number_of_pairs(target: str, lowering: Lowering, tmp_path: Path) -> None:
    """The graph is baked in, the pairs are not; an answer has a row for each pair, also for none."""
    backend = opened(target, lowering, tmp_path)
    assert [item.name for item in backend.inputs] == ["x", "edge_label_index"]
    for count in COUNTS:
        request = asked(count)
        given = {name: np.asarray(request[name]) for name in ("x", "edge_label_index")}
        assert agrees(pair_program(), request, backend.run(given)["logits"]), count


def test_nodes_are_renumbered_all_the_same() -> None:
    """Pairs name nodes by their old numbers; the model translates them instead of giving up its order."""
    notes: list[str] = []
    model, _ = OrtTarget(aggregate="ell").lowered(dialect(), EmitContext(note=notes.append))
    assert not [note for note in notes if "permuted around every aggregation" in note]
    wide = [node for node in model.graph if node.op_type == "Gather" and _rows(node) == NUM_NODES]
    assert len(wide) <= 1


def _rows(node: object) -> int | None:
    out = node.outputs[0]  # type: ignore[attr-defined]
    return out.shape[0] if out.shape is not None and len(out.shape) == 2 else None


class Compared(nn.Module):
    """Compare the first node of each pair with every node, or join the first node's code to all codes."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = GCNConv(WIDTH, 5), GCNConv(5, 5), how

    def forward(self, x: Tensor, edge_index: Tensor, edge_label_index: Tensor) -> Tensor:
        """Return one number for each pair."""
        code = self.last(self.first(x, edge_index).relu(), edge_index)
        first = code[edge_label_index[0]]
        if self.how == "join":
            return (torch.cat([first, code]) * 2)[: edge_label_index.shape[1]].sum(-1)
        return (code @ first.T).sum(0)


def compared(how: str) -> Program:
    """Capture it."""
    return prepared(Compared(how), (INPUTS["x"], INPUTS["edge_index"], PAIRS))


@pytest.mark.parametrize("how", ["join", "product"])
def test_values_of_nodes_and_of_pairs_meet(how: str, tmp_path: Path) -> None:
    """Where the number of pairs gets into values with a row for each node, the order of nodes is left alone."""
    notes: list[str] = []
    ctx = EmitContext(note=notes.append)
    artefact = OrtTarget(aggregate="ell").emit(translate(compared(how), GRAPH), tmp_path, ctx)
    assert any("permuted around every aggregation" in note and "is open" in note for note in notes)
    request = asked(40)
    given = {name: np.asarray(request[name]) for name in ("x", "edge_label_index")}
    assert agrees(compared(how), request, OrtBackend(tmp_path / artefact.model_file, 2).run(given)["logits"])


def test_an_engine_is_built_for_as_many_pairs_as_are_told(tmp_path: Path) -> None:
    """By default four times those of the sample."""
    pytest.importorskip("tensorrt_rtx")
    for told, expected in ((None, 4 * GRAPH["edge_label_index"].shape[1]), (1000, 1000)):
        made = TrtTarget(library="tensorrt_rtx", max_pairs=told).emit(dialect(), tmp_path, EmitContext())
        assert {key: value for key, value in made.requirements.items() if key.startswith("max_")} == {
            "max_pairs": expected
        }


def test_only_the_number_of_pairs_is_open() -> None:
    """Every other size is that of the graph."""
    graph = dialect().model.graph
    shapes = {str(value.name): [str(size) for size in value.shape or ()] for value in (*graph.inputs, *graph.outputs)}
    assert shapes["x"] == [str(NUM_NODES), "6"]
    assert shapes["edge_label_index"] == ["2", "num_pairs"]
    assert shapes["logits"] == ["num_pairs"]


def test_the_sample_is_a_request() -> None:
    """It holds what a request brings, and no structure."""
    sample = dialect().sample
    assert set(sample) == {"x", "edge_label_index"}
    assert run(pair_program(), {**GRAPH, **{name: torch.from_numpy(value) for name, value in sample.items()}}).ndim == 1
