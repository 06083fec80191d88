"""Model files of every kind, as a module in the condition that capture expects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch_geometric.data import Data

from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.frontends.checkpoint import LIGHTNING_KEY, STATE_DICT_KEYS, WRAPPERS, Part
from gnnexport.frontends.condition import check_condition, settle, to_float32
from gnnexport.frontends.exported import load_exported
from gnnexport.frontends.refusal import quoted
from gnnexport.frontends.safetensors import load_safetensors
from gnnexport.frontends.trusted import load_trusted
from gnnexport.frontends.unpickle import load_part
from gnnexport.frontends.weights import BUILDER_MEND, build_model, put_weights, state_dict_of

__all__ = ["LoadedModel", "load_model", "model_digest", "read_model", "settle"]

MODULE_MEND = "Write the trained module itself: torch.save(model, path)"
MOST_LISTED = 5


@dataclass(frozen=True)
class LoadedModel:
    """Hold a module in eval mode on the CPU, and what loading it found worth telling."""

    model: torch.nn.Module
    notes: tuple[str, ...] = ()


def load_model(
    path: Path, *, trust: bool = False, builder: str | None = None, code: Path | str | None = None
) -> torch.nn.Module:
    """Load the module that `read_model` finds, without its notes."""
    return read_model(path, trust=trust, builder=builder, code=code).model


def read_model(
    path: Path, *, trust: bool = False, builder: str | None = None, code: Path | str | None = None
) -> LoadedModel:
    """Load a trained model in eval mode, float32, on the CPU, with PyG's caches of the training graph forgotten.

    Args:
        path: a module written by `torch.save`; with `builder` its state dict, alone or in a training checkpoint
            of any kind (`.pt`, `.pth`, `.ckpt`, `.bin`, `.safetensors`); with `trust` also a `.pt2`.
        trust: unpickle the file as Python does, running whatever it holds.
        builder: `package.module:function` or `file.py:function`; it is imported and called, so pass only
            what the user gave.
        code: the training script, imported for the classes that the file names; only with `trust`.

    Raises:
        UnsafeFileError: the file names something not on the safe list, or loading it would run code.
        UsageError: the file is not a model, its weights do not fit the builder's module, or are no numbers.
        UnsupportedError: a compiled, exported or quantised program instead of an ordinary module.
    """
    path, script = Path(path), None if code is None else Path(code)
    if script is not None and not trust:
        mend = "Add --trust if you know who wrote the model and the script; without it, give a state dict and a builder"
        raise UsageError.at(f"--code {script}", "is given without --trust, and would run", mend)
    if path.suffix == ".pt2" and builder is None:
        model, notes = load_exported(path, trust=trust), ["model: an exported program stays in evaluation mode"]
    elif builder is not None:
        model, notes = _from_builder(path, builder, trust, script)
    elif path.suffix == ".safetensors":
        raise UsageError.at(str(path), "holds weights without their module", BUILDER_MEND)
    else:
        model, notes = _pickled(path, trust, script), []
    check_condition(model, path)
    notes += to_float32(model)
    return LoadedModel(settle(model), tuple(notes))


def model_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_builder(path: Path, builder: str, trust: bool, code: Path | None) -> tuple[torch.nn.Module, list[str]]:
    """Build a module and fill it; the weights are read without running the file's code wherever that works."""
    model = build_model(builder, path.parent)
    loaded, part = _weights(path, trust, code)
    loaded = _unwrapped(loaded)
    state = loaded.state_dict() if isinstance(loaded, torch.nn.Module) else state_dict_of(loaded)
    if state is None and loaded == {} and not model.state_dict():
        state = {}
    if state is None:
        mend = "Write the weights: torch.save(model.state_dict(), path)"
        raise UsageError.at(str(path), "holds no state dict for the builder's module", mend)
    notes = put_weights(model, state, path)
    if part is not None and part.left_out:
        listed = ", ".join(quoted(name) for name in part.left_out[:MOST_LISTED])
        more = " and more" if len(part.left_out) > MOST_LISTED else ""
        notes.append(f"model: only the weights were read; the checkpoint also holds {listed}{more}")
    return model, notes


def _weights(path: Path, trust: bool, code: Path | None) -> tuple[object, Part | None]:
    if path.suffix == ".safetensors":
        return load_safetensors(path), None
    if not trust:
        return load_part(path)
    try:
        return load_part(path)
    except (UsageError, UnsupportedError):
        return load_trusted(path, code), None


def _pickled(path: Path, trust: bool, code: Path | None) -> torch.nn.Module:
    if trust:
        return _require_module(_unwrapped(load_trusted(path, code)), path, lightning=False)
    loaded, part = load_part(path)
    return _require_module(loaded, path, lightning=part is not None and part.is_lightning)


def _unwrapped(loaded: object) -> object:
    """Take a module out of its wrapper, or out of a dictionary that holds just one."""
    if isinstance(loaded, dict):
        modules = [loaded[key] for key in STATE_DICT_KEYS if isinstance(loaded.get(key), torch.nn.Module)]
        loaded = modules[0] if len(modules) == 1 else loaded
    while isinstance(loaded, torch.nn.Module):
        inner = WRAPPERS.get(f"{type(loaded).__module__}.{type(loaded).__name__}")
        if inner is None:
            break
        loaded = getattr(loaded, inner)
    return loaded


def _require_module(loaded: object, path: Path, *, lightning: bool) -> torch.nn.Module:
    if isinstance(loaded, torch.jit.ScriptModule | torch.fx.GraphModule):
        mend = "Save the torch.nn.Module it was made from; of what to_hetero made save the state_dict(), for --builder"
        raise UnsupportedError.at(str(path), f"holds a {type(loaded).__name__}, not an ordinary module", mend)
    if isinstance(loaded, torch.nn.Module):
        return loaded
    if lightning or (isinstance(loaded, dict) and LIGHTNING_KEY in loaded):
        what = "is a checkpoint of PyTorch Lightning: weights without their module"
        raise UsageError.at(str(path), what, BUILDER_MEND)
    if isinstance(loaded, Data) or (isinstance(loaded, dict) and "edge_index" in loaded):
        raise UsageError.at(str(path), "holds a graph, not a model", f"Give it with --data. {MODULE_MEND}")
    if state_dict_of(loaded) is not None:
        raise UsageError.at(str(path), "holds a state dict: weights without their module", BUILDER_MEND)
    raise UsageError.at(str(path), f"holds a {type(loaded).__name__}, not a model", MODULE_MEND)
