from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch_geometric.nn import GAT, GCN

from gnnexport.errors import UnsafeFileError, UnsupportedError, UsageError
from gnnexport.frontends.model import load_model, read_model
from gnnexport.frontends.signature import match_inputs
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs

NODES, EDGES = Dim("nodes", min=2), Dim("edges", min=2)


def graph(nodes: int, edges: int) -> dict[str, torch.Tensor]:
    """Make a small graph."""
    generator = torch.Generator().manual_seed(nodes)
    x = torch.randn(nodes, 4, generator=generator)
    return {"x": x, "edge_index": torch.randint(0, nodes, (2, edges), generator=generator)}


def save(path: Path, model: nn.Module, dynamic: bool = True, by_name: bool = False) -> nn.Module:
    """Export a model as its users do."""
    example = graph(6, 9)
    shapes = {"x": {0: NODES}, "edge_index": {1: EDGES}} if dynamic else None
    args, kwargs = ((), example) if by_name else (tuple(example.values()), {})
    torch.export.save(torch.export.export(model.eval(), args, kwargs=kwargs, dynamic_shapes=shapes), path)
    return model


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("kind", [GCN, GAT])
def test_an_exported_program_is_captured(kind: type[nn.Module], by_name: bool, tmp_path: Path) -> None:
    """Its arguments have their names, and it answers on graphs of other sizes as the model did."""
    torch.manual_seed(0)
    model = save(tmp_path / "model.pt2", kind(4, 8, 2, 3, dropout=0.5), by_name=by_name)
    loaded = read_model(tmp_path / "model.pt2", trust=True)
    assert any("stays in evaluation mode" in note for note in loaded.notes)
    assert list(inspect.signature(loaded.model.forward).parameters) == ["x", "edge_index"]
    inputs = match_inputs(loaded.model, GraphData(name="small", inputs=graph(6, 9)))
    program = capture(loaded.model, inputs, example_inputs(inputs))
    assert program.training_blocker is not None
    other = graph(40, 70)
    with torch.no_grad():
        torch.testing.assert_close(program(other), model(**other), rtol=1e-4, atol=1e-5)


def test_a_program_of_one_size_is_refused(tmp_path: Path) -> None:
    """What was exported without dynamic shapes is good for one graph only, and says so."""
    save(tmp_path / "model.pt2", GCN(4, 8, 2, 3), dynamic=False)
    with pytest.raises(UnsupportedError, match=r"exported for 6 nodes only, by the size of 'x'.*dynamic_shapes"):
        load_model(tmp_path / "model.pt2", trust=True)


def test_loading_a_program_needs_trust(tmp_path: Path) -> None:
    """Torch runs code from such a file, so it is not opened."""
    (tmp_path / "model.pt2").write_bytes(b"never read")
    with pytest.raises(UnsafeFileError, match=r"loading one runs code from it.*torch\.save.*--trust") as caught:
        load_model(tmp_path / "model.pt2")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="cannot be loaded as an exported program"):
        load_model(tmp_path / "model.pt2", trust=True)
    with pytest.raises(UsageError, match="no such file"):
        load_model(tmp_path / "absent.pt2")
