"""Call a model with arguments given by name, however its `forward` takes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn


def call(model: nn.Module, arguments: Mapping[str, Any]) -> Any:
    """Return what the model answers; the arguments stand in the order of its `forward`."""
    return model(*arguments.values()) if takes_positional(model) else model(**arguments)


def takes_positional(model: nn.Module) -> bool:
    """Tell whether `forward` names its arguments otherwise than its signature says, as PyG's Sequential does."""
    return hasattr(model, "signature") or collected_arguments(model) is not None


def collected_arguments(model: nn.Module) -> str | None:
    """Return the name of `*args` where `forward` takes only that: PyG's Sequential, when it cannot write its code."""
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    return first.name if first is not None and first.kind is first.VAR_POSITIONAL else None
