"""Link prediction on one fixed graph: the pairs come with the request, any number of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gnnexport.runtime.openvino import OpenVinoBackend
from gnnexport.runtime.ort import OrtBackend
from gnnexport.targets.contract import DialectModel, EmitContext
from gnnexport.targets.onnx.choice import Lowering
from gnnexport.targets.onnx.translate import translate
from gnnexport.targets.openvino import OpenVinoTarget
from gnnexport.targets.ort import OrtTarget
from tests.small_models import run
from tests.targets.requests import agrees, pair_program, random_edges, request_of

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


@pytest.mark.parametrize("lowering", ["auto", "ell", "dense", "scatter"])
@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_any_number_of_pairs(target: str, lowering: Lowering, tmp_path: Path) -> None:
    """The graph is baked in, the pairs are not; an answer has a row for each pair, also for none."""
    if target == "openvino":
        pytest.importorskip("openvino")
    cls = OrtTarget if target == "ort" else OpenVinoTarget
    artefact = cls(aggregate=lowering).emit(dialect(), tmp_path, EmitContext(time_budget_s=2))
    assert artefact.prepare == "baked"
    backend = (OrtBackend if target == "ort" else OpenVinoBackend)(tmp_path / artefact.model_file, 2)
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
