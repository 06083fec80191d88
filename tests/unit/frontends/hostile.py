"""Files that try to run code when they are loaded or used. Each leaves a marker where it succeeds."""

from __future__ import annotations

import builtins
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.inspector import Parameter
from torch_geometric.nn import GAT, GCN, GIN, GCNConv, GraphSAGE, Sequential


class Calls:
    """Pickle as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._reduced = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reduced


def by_system(marker: Path) -> Calls:
    """Ask for `os.system`."""
    return Calls(os.system, f"touch {marker}")


def by_eval(marker: Path) -> Calls:
    """Ask for `eval`."""
    return Calls(builtins.eval, f"open({str(marker)!r}, 'w').close()")


def code(marker: Path) -> str:
    """Write an expression that leaves the marker."""
    return f"__import__('os').system('touch {marker}')"


def gcn_with_code_in_a_type(marker: Path) -> nn.Module:
    """Hide code in the text of a type, which PyG renders into `propagate` and runs."""
    model = GCN(4, 8, 2, 3)
    for conv in model.convs:
        arguments = conv.inspector._signature_dict["message"].param_dict
        arguments["x_j"] = arguments["x_j"]._replace(type_repr=code(marker))
    return model


def gat_with_code_in_a_default_name(marker: Path) -> nn.Module:
    """Hide code in the name of an argument."""
    model = GAT(4, 8, 2, 3)
    for conv in model.convs:
        arguments = conv.inspector._signature_dict["update"].param_dict
        name = f"a=({code(marker)})"
        arguments[name] = Parameter(name, torch.Tensor, "Tensor", None)
    return model


def sage_with_code_in_a_return_type(marker: Path) -> nn.Module:
    """Hide code in the text of a return type."""
    model = GraphSAGE(4, 8, 2, 3)
    for conv in model.convs:
        signatures = conv.inspector._signature_dict
        signatures["update"] = signatures["update"]._replace(return_type_repr=code(marker))
    return model


def sequential() -> Sequential:
    """Make an honest `Sequential`."""
    steps = [(GCNConv(4, 8), "x, edge_index -> x"), nn.ReLU(), (GCNConv(8, 3), "x, edge_index -> x")]
    return Sequential("x, edge_index", steps)


def sequential_with_code_in_its_caller(marker: Path) -> nn.Module:
    """Hide code in the name of the script that made the model."""
    model = sequential()
    model._caller_module = f"os import *\n{code(marker)}\nfrom os"
    return model


def sequential_from_a_sibling(module: str) -> nn.Module:
    """Name a module beside the file as the script that made the model; nothing tells it from an honest one."""
    model = sequential()
    model._caller_module = module
    return model


def sequential_with_code_in_a_step(marker: Path) -> nn.Module:
    """Hide code among the variables a step reads."""
    model = sequential()
    model._children[1] = model._children[1]._replace(param_names=[f"x if {code(marker)} else x"])
    return model


def sequential_with_code_in_an_argument_type(marker: Path) -> nn.Module:
    """Hide code in the type of an argument."""
    model = sequential()
    arguments = model.signature.param_dict
    arguments["x"] = arguments["x"]._replace(type_repr=code(marker))
    return model


def sequential_made_by_call(marker: Path) -> Calls:
    """Ask for `Sequential(...)` with code in the signature that it evaluates."""
    return Calls(Sequential, f"x: {code(marker)}, edge_index", [(nn.ReLU(), "x -> x")])


def with_hook(kind: str) -> nn.Module:
    """Put a module on the safe list where a hook would be called."""
    model = GIN(4, 8, 2, 3)
    owner = model.convs[0] if kind.startswith("_message") else model
    vars(owner)[kind][7] = nn.Identity()
    return model


def with_attribute(name: str, value: object) -> nn.Module:
    """Put something in front of what the class of a layer defines."""
    model = GraphSAGE(4, 8, 2, 3)
    vars(model.convs[0])[name] = value
    return model


def with_entry(registry: str, name: str, value: object) -> nn.Module:
    """Put something into a registry of a layer under a name of one's own."""
    model = GraphSAGE(4, 8, 2, 3)
    vars(model.convs[0])[registry][name] = value
    return model


def data(**attributes: object) -> Data:
    """Make a small honest graph, with more attributes."""
    edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
    return Data(x=torch.ones(3, 4), edge_index=edges, y=torch.tensor([0, 1, 0]), **attributes)


def data_with_state(**state: object) -> Data:
    """Make a graph whose object has attributes in front of its methods."""
    graph = data()
    vars(graph).update(state)
    return graph


def torchscript(path: Path) -> None:
    """Write a TorchScript archive, for which `torch.load` calls another loader."""
    program = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(program, str(path))


def write_pickle(path: Path, pickled: bytes) -> None:
    """Write an archive as `torch.save` does around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/byteorder", b"little")


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], compress: bool = False) -> None:
    """Copy an archive, changing or dropping records by name."""
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", kind) as new:
        for info in old.infolist():
            content = change(info.filename, old.read(info))
            if content is not None:
                new.writestr(info.filename, content)


def rename_in_pickle(source: Path, target: Path, old: bytes, new: bytes) -> None:
    """Copy an archive with text of the same length exchanged in its pickle."""
    assert len(old) == len(new)
    rewrite(source, target, lambda name, content: content.replace(old, new) if name.endswith(".pkl") else content)


def saved(model: object) -> bytes:
    """Return what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    return buffer.getvalue()
