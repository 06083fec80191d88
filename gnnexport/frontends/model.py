"""Model files: a pickled module, or a builder's module with the weights of a state dict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.frontends.code import form_mend, import_function
from gnnexport.frontends.modules import CACHES
from gnnexport.frontends.refusal import one_line, quoted
from gnnexport.frontends.unpickle import load_object

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
BUILDER_MEND = f"{form_mend('builder')} that returns the module"


def load_model(path: Path, *, trust: bool = False, builder: str | None = None) -> torch.nn.Module:
    """Load a trained model in eval mode, on the CPU, with PyG's caches of the training graph forgotten.

    Args:
        path: a module written by `torch.save`, or with `builder` its state dict.
        trust: unpickle the file as Python does, running whatever it holds.
        builder: `package.module:function` or `file.py:function`; it is imported and called, so pass only
            what the user gave.

    Raises:
        UnsafeFileError: the file names something not on the safe list.
        UsageError: the file is not a model, or its weights do not fit the builder's module.
        UnsupportedError: a compiled or exported program instead of a module.
    """
    path = Path(path)
    if path.suffix == ".pt2":
        raise UnsupportedError.at(str(path), "is an exported program, not a module", "Save the module with torch.save")
    if builder is not None:
        model = _build(builder, path.parent)
        _load_weights(model, path, trust)
    else:
        model = _require_module(_load_trusted(path) if trust else load_object(path), path)
    return settle(model)


def settle(model: torch.nn.Module) -> torch.nn.Module:
    """Bring a module into the state that capture expects: CPU, eval mode, empty caches."""
    for module in model.modules():
        for cache in CACHES:
            if vars(module).get(cache) is not None:
                setattr(module, cache, None)
    return model.cpu().eval()


def model_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_module(loaded: object, path: Path) -> torch.nn.Module:
    if isinstance(loaded, torch.jit.ScriptModule | torch.fx.GraphModule):
        mend = "Save the torch.nn.Module it was made from"
        raise UnsupportedError.at(str(path), f"holds a {type(loaded).__name__}, not an ordinary module", mend)
    if isinstance(loaded, torch.nn.Module):
        return loaded
    if _state_dict(loaded) is not None:
        raise UsageError.at(str(path), "holds a state dict: weights without their module", BUILDER_MEND)
    mend = "Write the trained module itself: torch.save(model, path)"
    raise UsageError.at(str(path), f"holds a {type(loaded).__name__}, not a model", mend)


def _load_trusted(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except FileNotFoundError as error:
        raise UsageError.at(str(path), "no such file", "Give the path of a file written by torch.save") from error
    except (AttributeError, ImportError) as error:
        what = f"its classes cannot be found ({quoted(str(error))})"
        mend = f"A class defined in the training script is not in the file. Save a state dict. {BUILDER_MEND}"
        raise UsageError.at(str(path), what, mend) from error
    except Exception as error:
        what = f"cannot be loaded ({quoted(str(error))})"
        raise UsageError.at(str(path), what, "Copy it again, or write it again with torch.save") from error


def _load_weights(model: torch.nn.Module, path: Path, trust: bool) -> None:
    loaded = _load_trusted(path) if trust else load_object(path)
    state = loaded.state_dict() if isinstance(loaded, torch.nn.Module) else _state_dict(loaded)
    if state is None:
        mend = "Write the weights: torch.save(model.state_dict(), path)"
        raise UsageError.at(str(path), "holds no state dict for the builder's module", mend)
    _check_fit(model, state, path)
    model.load_state_dict(dict(state))


def _check_fit(model: torch.nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    faults = [f"lacks {_listed(own.keys() - state.keys())}"] if own.keys() - state.keys() else []
    if state.keys() - own.keys():
        faults.append(f"has {_listed(state.keys() - own.keys())}, which the module does not know")
    for name in sorted(own.keys() & state.keys()):
        if not is_lazy(own[name]) and own[name].shape != state[name].shape:
            faults.append(f"{quoted(name)} is {list(state[name].shape)}, the module wants {list(own[name].shape)}")
    if faults:
        what = f"its weights do not fit the builder's module: {'; '.join(faults)}"
        raise UsageError.at(str(path), what, "Let the builder make the module with the sizes it was trained with")


def _listed(names: Any) -> str:
    shown = sorted(names)
    return ", ".join(quoted(name) for name in shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _state_dict(loaded: object) -> Mapping[str, Tensor] | None:
    if not isinstance(loaded, Mapping) or not loaded:
        return None
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
        return loaded
    nested = [loaded[key] for key in STATE_DICT_KEYS if isinstance(loaded.get(key), Mapping)]
    return _state_dict(nested[0]) if nested else None


def _build(builder: str, folder: Path) -> torch.nn.Module:
    function = import_function(builder, folder, "builder")
    try:
        model = function()
    except Exception as error:
        mend = "The function is called without arguments and must return the untrained module"
        raise UsageError.at(
            f"builder '{builder}'", f"raised {type(error).__name__}: {one_line(error)}", mend
        ) from error
    if not isinstance(model, torch.nn.Module):
        what = f"returned a {type(model).__name__}, not a torch.nn.Module"
        raise UsageError.at(f"builder '{builder}'", what, BUILDER_MEND)
    return model
