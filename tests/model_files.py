"""Honest model files of every kind, and how a fuzzer reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GAT, GCN, GIN, BatchNorm, GCNConv, GraphSAGE, Sequential, global_add_pool

from gnnexport.errors import GnnExportError
from gnnexport.frontends.model import load_model

BUILDER = "from torch_geometric.nn import GCN\n\ndef build():\n    return GCN(4, 4, 2, 3, norm='batch')\n"
EDGES = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 2]])


def model_seeds(folder: Path) -> list[Path]:
    """Write small modules, state dicts and checkpoints, and a builder in the folder above."""
    torch.manual_seed(0)
    gcn = GCN(4, 4, 2, 3, norm="batch")
    steps: list[Any] = [(GCNConv(4, 4), "x, edge_index -> x"), (BatchNorm(4), "x -> x"), nn.ReLU()]
    things: dict[str, Any] = {
        "gcn": gcn,
        "sage": GraphSAGE(4, 4, 2, 3, norm="layer"),
        "gin": GIN(4, 4, 2, 3),
        "gat": GAT(4, 4, 2, 3, heads=2),
        "recurrent": GCN(4, 4, 2, 3, jk="lstm"),
        "sequential": Sequential("x, edge_index", [*steps, (nn.Linear(4, 3), "x -> x")]),
        "pooled": Sequential("x, edge_index, batch", [*steps, (global_add_pool, "x, batch -> x")]),
        "parallel": nn.DataParallel(gcn),
    }
    adam = {"state": {0: {"step": torch.tensor(4.0), "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.01}]}
    state = {f"model.{name}": value for name, value in gcn.state_dict().items()}
    weights: dict[str, Any] = {
        "weights": gcn.state_dict(),
        "plain": {"epoch": 3, "model_state_dict": gcn.state_dict(), "optimizer_state_dict": adam},
        "lightning": {
            "pytorch-lightning_version": "2.6.6", "state_dict": state, "optimizer_states": [adam],
            "hyper_parameters": {"hidden": 4, "root": Path("data"), "extra": [{1, 2}, (1.5, None), frozenset("a")]},
        },
    }  # fmt: skip
    for name, thing in things.items():
        torch.save(thing, folder / f"{name}.pt")
    torch.save(gcn, folder / "newer.pt", pickle_protocol=5)
    for name, thing in weights.items():
        torch.save(thing, folder / f"{name}.pth")
    (folder / "weights.safetensors").write_bytes(as_safetensors(gcn.state_dict()))
    (folder.parent / "builder.py").write_text(BUILDER)
    return sorted(folder.iterdir())


def as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Write the format by its description."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    numbers = b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        kind = "I64" if tensor.dtype is torch.int64 else "F32"
        offsets = [len(numbers), len(numbers) + len(raw)]
        table[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
        numbers += raw
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def read_any_model(path: Path) -> object:
    """Load a module and run it, or put weights into the builder's module; `.pth` and `.safetensors` are weights."""
    if path.suffix in (".pth", ".safetensors"):
        return load_model(path, builder=f"{path.parent.parent / 'builder.py'}:build")
    model = load_model(path)
    arguments = [torch.ones(3, 4), EDGES]
    if isinstance(model, Sequential) and len(model.signature.param_dict) == 3:
        arguments.append(torch.tensor([0, 0, 1]))
    try:
        with torch.inference_mode():
            model(*arguments)
    except GnnExportError:
        raise
    except Exception:
        # Sizes, numbers and arguments of a damaged model need not fit together any more; nothing may crash.
        return None
    return model
