"""The safe list: every name a file may mention, and what stands for it here.

Classes are taken from installed torch and torch_geometric modules that were read for this purpose: none
of them turns text from its own attributes into code, a module name or a path. A class must be defined in
the module named, so nothing that a module merely imported can be reached.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch_geometric.nn
from torch.nn import functional

TORCH_MODULES = (
    "torch.nn.modules.activation",
    "torch.nn.modules.batchnorm",
    "torch.nn.modules.container",
    "torch.nn.modules.dropout",
    "torch.nn.modules.flatten",
    "torch.nn.modules.instancenorm",
    "torch.nn.modules.linear",
    "torch.nn.modules.normalization",
    "torch.nn.modules.sparse",
)
PYG_MODULES = (
    "torch_geometric.nn.aggr.",
    "torch_geometric.nn.conv.",
    "torch_geometric.nn.norm.",
    "torch_geometric.nn.dense.linear",
    "torch_geometric.nn.models.basic_gnn",
    "torch_geometric.nn.models.deepgcn",
    "torch_geometric.nn.models.jumping_knowledge",
    "torch_geometric.nn.models.linkx",
    "torch_geometric.nn.models.mlp",
    "torch_geometric.nn.models.pmlp",
    "torch_geometric.nn.module_dict",
    "torch_geometric.nn.sequential",
    "torch_geometric.utils._trim_to_layer",
)
EXCLUDED_MODULES = (
    "torch_geometric.nn.aggr.patch_transformer",
    "torch_geometric.nn.conv.cugraph",
    "torch_geometric.nn.conv.fused_gat_conv",
    "torch_geometric.nn.conv.hetero_conv",
    "torch_geometric.nn.conv.utils",
)
"""Modules that look up functions by an attribute's text, or need compiled packages."""

RECURRENT = tuple(f"torch.nn.modules.rnn.{name}" for name in ("GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"))
EXCLUDED_CLASSES = ("LazyBatchNorm", "LazyInstanceNorm", "LazyLinear", "MessagePassing", "_")
"""Beginnings of the names of classes that are unfinished, or made to be derived from."""

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        f"torch.nn.functional.{name}": getattr(functional, name)
        for name in (
            "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax", "logsigmoid",
            "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh",
        )
    },
    **{
        f"torch_geometric.nn.pool.glob.{name}": getattr(torch_geometric.nn, name)
        for name in ("global_add_pool", "global_max_pool", "global_mean_pool")
    },
}  # fmt: skip
"""Pure functions of tensors that a model may hold as an attribute."""

TORCH = "torch._C._VariableFunctionsClass"
TORCH_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    name: getattr(torch, name)
    for name in ("logsumexp", "max", "mean", "min", "relu", "selu", "sigmoid", "std", "sum", "tanh", "var")
}
"""Pure functions of tensors that Python pickles as attributes of `TORCH`."""

DTYPES: Mapping[str, torch.dtype] = {
    f"torch.{name}": getattr(torch, name)
    for name in ("bfloat16", "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8")
}

STORAGES: Mapping[str, torch.dtype] = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}

TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
GETATTR = "builtins.getattr"
DEVICE = "torch.device"
DATA = "torch_geometric.data.data.Data"
HETERO_DATA = "torch_geometric.data.hetero_data.HeteroData"
KIND_STORES = tuple(f"torch_geometric.data.storage.{name}" for name in ("NodeStorage", "EdgeStorage"))
GRAPH_STORE = "torch_geometric.data.storage.BaseStorage"
BATCH = "torch_geometric.data.batch.Batch"
DATA_STORE = "torch_geometric.data.storage.GlobalStorage"
INSPECTOR = "torch_geometric.inspector.Inspector"
SIGNATURE = "torch_geometric.inspector.Signature"
ARGUMENT = "torch_geometric.inspector.Parameter"
CHILD = "torch_geometric.nn.sequential.Child"

TYPE_NAMES = frozenset(
    f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "long", "set", "str", "tuple", "type")
) | frozenset(("_operator.getitem", "inspect._empty", "torch.Tensor", "torch_geometric.typing.SparseTensor"))
"""Names in the type annotations that PyG keeps in its layers: read past, never used."""

STRUCTURE = frozenset(
    (
        "collections.OrderedDict",
        "builtins.set",
        "torch.Size",
        DEVICE,
        TENSOR,
        PARAMETER,
        GETATTR,
        TORCH,
        DATA,
        DATA_STORE,
        HETERO_DATA,
        *KIND_STORES,
        GRAPH_STORE,
        "torch_geometric.data.graph_store.EdgeAttr",
        "torch_geometric.data.feature_store.TensorAttr",
        "torch_geometric.data.data.DataEdgeAttr",
        "torch_geometric.data.data.DataTensorAttr",
        INSPECTOR,
        SIGNATURE,
        ARGUMENT,
        CHILD,
    )
)
"""Names with a rule of their own in the rebuilders."""


def is_type_name(name: str) -> bool:
    """Tell whether a name may stand in a type annotation."""
    return name in TYPE_NAMES or (name.startswith("typing.") and name.count(".") == 1)


def is_known(name: str) -> bool:
    """Tell whether a file may mention a name at all."""
    plain = name in STRUCTURE or name in STORAGES or name in FUNCTIONS or name in DTYPES
    return plain or is_type_name(name) or module_class(name) is not None


@functools.cache
def module_class(name: str) -> type[torch.nn.Module] | None:
    """Return the installed `torch.nn.Module` class of a name on the safe list, else `None`."""
    module_name, _, class_name = name.rpartition(".")
    if not (_is_listed(module_name) or name in RECURRENT) or class_name.startswith(EXCLUDED_CLASSES):
        return None
    module = sys.modules.get(module_name)
    found = None if module is None else vars(module).get(class_name)
    if not inspect.isclass(found) or found.__module__ != module_name or not issubclass(found, torch.nn.Module):
        return None
    return found


def _is_listed(module_name: str) -> bool:
    if not all(part.isidentifier() for part in module_name.split(".")) or not module_name.isascii():
        return False
    if module_name.startswith(EXCLUDED_MODULES):
        return False
    return module_name in TORCH_MODULES or any(
        module_name == listed or (listed.endswith(".") and module_name.startswith(listed)) for listed in PYG_MODULES
    )
