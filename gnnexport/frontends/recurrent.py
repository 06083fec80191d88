"""Recurrent layers, whose weights torch hands to compiled code as one flat list.

The list is made again from the parameters, after their shapes were compared with those of a layer that
torch itself makes from the same sizes: compiled code need not trust a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gnnexport.frontends.refusal import unsafe

SIZES = ("input_size", "hidden_size", "num_layers")
SWITCHES = ("bias", "batch_first", "bidirectional")
MOST_LAYERS = 64


def restore_recurrent(module: nn.RNNBase, path: Path, where: str) -> None:
    """Check the parameters of an LSTM, GRU or RNN against its sizes and rebuild its flat list of weights.

    Raises:
        UnsafeFileError: sizes and parameters do not belong together.
    """
    fields: dict[str, Any] = vars(module)
    sizes = [fields.get(name) for name in SIZES]
    switches = [fields.get(name) for name in SWITCHES]
    plain = all(type(size) is int and size > 0 for size in sizes) and all(type(flag) is bool for flag in switches)
    if not plain or fields["num_layers"] > MOST_LAYERS or fields.get("proj_size") != 0:
        raise unsafe(path, f"{where} is a recurrent layer of impossible sizes")
    options = {name: fields[name] for name in (*SIZES, *SWITCHES)}
    model = type(module)(**options, device="meta")
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = {name: parameter.shape for name, parameter in module._parameters.items() if parameter is not None}
    if found != expected or (fields.get("mode") != model.mode and type(module) is not nn.RNN):
        raise unsafe(path, f"{where} has parameters that do not fit its sizes")
    if type(module) is nn.RNN and fields.get("mode") not in ("RNN_TANH", "RNN_RELU"):
        raise unsafe(path, f"{where} is a recurrent layer of an unknown kind")
    fields["_flat_weights_names"] = model._flat_weights_names
    fields["_all_weights"] = model._all_weights
    fields["_flat_weights"] = [module._parameters[name] for name in model._flat_weights_names]
    fields["_flat_weight_refs"] = []
    torch.nn.RNNBase._init_flat_weights(module)
