"""The condition a loaded model must be in: whole, finite, in float32, on the CPU, with nothing remembered."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.frontends.modules import CACHES
from gnnexport.frontends.names import LAZY_MEND, META_MEND, QUANTISED, QUANTISED_MEND
from gnnexport.frontends.refusal import quoted

CPU = torch.device("cpu")


def settle(model: nn.Module) -> nn.Module:
    """Bring a module into the state that capture expects: CPU, eval mode, no caches and none to be filled.

    A device that a module remembers in an attribute becomes the CPU too.
    """
    for module in model.modules():
        fields = vars(module)
        for cache in CACHES:
            if fields.get(cache) is not None:
                setattr(module, cache, None)
        if fields.get("cached") is True and any(cache in fields for cache in CACHES):
            fields["cached"] = False
        for name, value in list(fields.items()):
            named = name == "device" and isinstance(value, str | int)
            if isinstance(value, torch.device) or (named and not isinstance(value, bool)):
                fields[name] = CPU
    return model.cpu().eval()


def check_condition(model: nn.Module, path: Path) -> None:
    """Refuse weights that are absent, not numbers, or quantised.

    Args:
        model: as it was loaded.
        path: of its file, for messages.

    Raises:
        UsageError: weights that were never initialised, have no values, or hold NaN or infinity.
        UnsupportedError: a quantised module.
    """
    for name, module in model.named_modules():
        if f"{type(module).__module__}.".startswith(QUANTISED):
            what = f"module {quoted(name)} is quantised already"
            raise UnsupportedError.at(str(path), what, QUANTISED_MEND)
    for name, tensor in _tensors(model):
        if is_lazy(tensor):
            what = f"the weights {quoted(name)} were never initialised"
            raise UsageError.at(str(path), what, LAZY_MEND)
        if tensor.device.type == "meta":
            raise UsageError.at(str(path), f"{quoted(name)} has no values: it is on the device 'meta'", META_MEND)
        if tensor.is_quantized:
            raise UnsupportedError.at(str(path), f"{quoted(name)} is quantised already", QUANTISED_MEND)
        # Infinity has its uses in a mask; as a weight it has none.
        wrong = tensor.isnan() if not isinstance(tensor, nn.Parameter) else ~tensor.isfinite()
        if wrong.any():
            what = f"{quoted(name)} holds values that are no numbers: {int(wrong.sum())} of {tensor.numel()}"
            raise UsageError.at(str(path), what, "The training diverged; give an earlier checkpoint")


def to_float32(model: nn.Module) -> list[str]:
    """Convert weights of other precisions in place, and return a note if there were any."""
    found = sorted({str(tensor.dtype).removeprefix("torch.") for _, tensor in _tensors(model) if _is_converted(tensor)})
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and _is_converted(value):
                vars(module)[name] = value.float()
    if not found:
        return []
    model.float()
    return [f"model: weights of {', '.join(found)} were converted to float32; every figure is of the converted model"]


def _is_converted(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype is not torch.float32


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
