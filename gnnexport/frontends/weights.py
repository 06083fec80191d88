"""A builder's module with the weights of a state dict, however the file names and wraps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gnnexport.errors import UsageError
from gnnexport.frontends.checkpoint import STATE_DICT_KEYS
from gnnexport.frontends.code import call_function, form_mend
from gnnexport.frontends.refusal import quoted

BUILDER_MEND = f"{form_mend('builder')} that returns the module"
FIT_MEND = "Let the builder make the module with the sizes it was trained with"
DEEPEST_PREFIX = 4
SHOWN = 6


def state_dict_of(loaded: object) -> Mapping[str, Tensor] | None:
    """Return the state dict in what a file holds: itself, or in a training checkpoint; `None` without one."""
    if not isinstance(loaded, Mapping) or not loaded:
        return None
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
        return loaded
    nested = (state_dict_of(loaded[key]) for key in STATE_DICT_KEYS if isinstance(loaded.get(key), Mapping))
    return next((state for state in nested if state is not None), None)


def build_model(builder: str, folder: Path) -> torch.nn.Module:
    """Import a builder and call it.

    Args:
        builder: `package.module:function` or `file.py:function`.
        folder: of the model's file, where a builder is looked for last.

    Raises:
        UsageError: there is no such function, it fails, or it returns something else than a module.
    """
    mend = "The function is called without arguments and must return the untrained module"
    model = call_function(builder, folder, "builder", mend)
    if not isinstance(model, torch.nn.Module):
        raise UsageError.at(
            f"builder '{builder}'", f"returned a {type(model).__name__}, not a torch.nn.Module", BUILDER_MEND
        )
    return model


def put_weights(model: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> list[str]:
    """Put a state dict into a module, and return what there is to tell.

    A prefix that all names share, as `DataParallel`, `torch.compile` and Lightning leave it, is taken off
    where the names then fit exactly.

    Raises:
        UsageError: names or shapes differ.
    """
    own = model.state_dict()
    fitting, prefix = _without_prefix(state, own.keys())
    _check_fit(own, fitting, path)
    notes = [f"model: the prefix {quoted(prefix)} of the weights' names was taken off"] if prefix else []
    foreign = {str(fitting[name].dtype) for name in own if not is_lazy(own[name])} - {
        str(value.dtype) for value in own.values() if not is_lazy(value)
    }
    if foreign:
        notes.append(f"model: weights of {', '.join(sorted(foreign))} were converted to those of the builder's module")
    try:
        model.load_state_dict(dict(fitting))
    except Exception as error:
        raise UsageError.at(str(path), f"its weights cannot be used ({quoted(str(error))})", FIT_MEND) from error
    return notes


def _without_prefix(state: Mapping[str, Tensor], wanted: Iterable[str]) -> tuple[Mapping[str, Tensor], str]:
    names, prefix = set(wanted), ""
    for _ in range(DEEPEST_PREFIX):
        if {name.removeprefix(prefix) for name in state} == names:
            return {name.removeprefix(prefix): value for name, value in state.items()}, prefix
        heads = {name.removeprefix(prefix).partition(".")[0] + "." for name in state}
        if len(heads) != 1:
            break
        prefix += heads.pop()
    return state, ""


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    faults = [f"lacks {_listed(own.keys() - state.keys())}"] if own.keys() - state.keys() else []
    if state.keys() - own.keys():
        faults.append(f"has {_listed(state.keys() - own.keys())}, which the module does not know")
    shared = sorted(own.keys() & state.keys())
    misshapen = [name for name in shared if not is_lazy(own[name]) and own[name].shape != state[name].shape]
    for name in misshapen[:SHOWN]:
        faults.append(f"{quoted(name)} is {list(state[name].shape)}, the module wants {list(own[name].shape)}")
    if faults:
        raise UsageError.at(str(path), f"its weights do not fit the builder's module: {'; '.join(faults)}", FIT_MEND)


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(quoted(name) for name in shown[:SHOWN]) + more
