"""Train PyG models on real graphs, quickly: through their captured Program, whose weights are then read back."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GIN, GraphSAGE

from gnnexport.frontends.signature import match_inputs
from gnnexport.passes.contract import PassContext
from gnnexport.pipeline.steps import CANONICAL, run_passes
from gnnexport.program.capture import capture
from gnnexport.program.data import GraphData
from gnnexport.program.program import example_inputs
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

MODELS: dict[str, Any] = {"GCN": GCN, "GraphSAGE": GraphSAGE, "GIN": GIN, "GAT": GAT}


def build_model(name: str, data: GraphData, *, layers: int, hidden: int, seed: int, **options: Any) -> nn.Module:
    """Make an untrained PyG model for a data set; GAT gets four heads."""
    assert data.y is not None
    torch.manual_seed(seed)
    if name == "GAT":
        options = {"heads": 4, **options}
    classes = int(data.y.max()) + 1
    options = {"dropout": 0.5, **options}
    model: nn.Module = MODELS[name](
        data.inputs["x"].shape[1], hidden, num_layers=layers, out_channels=classes, **options
    )
    return model.eval()


def train_model(model: nn.Module, data: GraphData, *, epochs: int, seed: int) -> Task:
    """Train in place with Adam, selecting the best epoch on validation nodes; returns the task used."""
    task = Task(epochs=epochs, patience=epochs)
    inputs = match_inputs(model, data)
    program = run_passes(capture(model, inputs, example_inputs(inputs)), CANONICAL, PassContext()).program
    trained, _ = Trainer(data, task).fit(program, seed=seed)
    weights = {**model.state_dict(), **trained.body.state_dict()}
    model.load_state_dict(weights, strict=True)
    model.eval()
    return task
