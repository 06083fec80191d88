"""Modules rebuilt from inert records: attributes from the file, behaviour from installed code only.

A module comes to life by `object.__new__` and `torch.nn.Module.__setstate__`, never by a subclass's own
`__setstate__`: those of PyG render code from text in the file. An attribute may not stand in front of
anything its class defines, hooks must be empty, and what PyG generates (inspectors, `propagate`, the
`forward` of a `Sequential`) is generated again from the installed classes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch_geometric.nn import MessagePassing, Sequential

from gnnexport.frontends import generated, vocabulary
from gnnexport.frontends.records import Call, Global, New, Pairs, Value
from gnnexport.frontends.recurrent import restore_recurrent
from gnnexport.frontends.refusal import quoted, unsafe
from gnnexport.frontends.tensors import TensorRebuilder

PLAIN = (bool, int, float, str)
LARGEST_INTEGER = 2**63
CACHES = ("_cached_edge_index", "_cached_adj_t", "_cached_x", "_cached_h")
"""What PyG's layers with `cached=True` remember of the training graph; forgotten on load."""

ENTRY_NAME = re.compile(r"\w{1,200}", re.ASCII)
"""Names of attributes, parameters, buffers and child modules. torch.fx writes them into code it generates
and runs, some of them unescaped."""

REGISTRIES = ("_parameters", "_buffers", "_modules")


class ModuleRebuilder:
    """Turn the records of one file into modules, tensors and plain values."""

    def __init__(self, path: Path, tensors: TensorRebuilder) -> None:
        self._path = path
        self._tensors = tensors
        self._done: dict[int, tuple[Value, Any]] = {}
        self._open: set[int] = set()

    def value(self, record: Value, where: str) -> Any:
        """Rebuild any value; the same record gives the same object.

        Raises:
            UnsafeFileError: the record asks for anything without a rule here, or contains itself.
        """
        if record is None or type(record) in PLAIN:
            if type(record) is int and abs(record) >= LARGEST_INTEGER:
                raise unsafe(self._path, f"{where} is an integer of more than 64 bits")
            return record
        key = id(record)
        if key in self._done:
            return self._done[key][1]
        if key in self._open:
            raise unsafe(self._path, f"{where} contains itself")
        self._open.add(key)
        result = self._rebuild(record, where)
        self._open.discard(key)
        self._done[key] = (record, result)
        return result

    def _rebuild(self, record: Value, where: str) -> Any:
        match record:
            case list():
                return [self.value(item, where) for item in record]
            case tuple():
                return tuple(self.value(item, where) for item in record)
            case Pairs(items=items):
                return self._dictionary(items, where)
            case Global(name=name) if name in vocabulary.FUNCTIONS:
                return vocabulary.FUNCTIONS[name]
            case Global(name=name) if name in vocabulary.DTYPES:
                return vocabulary.DTYPES[name]
            case Global(name=name):
                raise unsafe(self._path, f"{where} is {quoted(name)}")
            case Call():
                return self._call(record, where)
            case New(cls=Global(name=name), args=()):
                cls = vocabulary.module_class(name)
                if cls is not None:
                    return self._module(cls, record, where)
        raise unsafe(self._path, f"{where} makes {_name_of(record)}")

    def _call(self, record: Call, where: str) -> Any:
        match record:
            case Call(function=Global(name=vocabulary.TENSOR), state=None):
                return self._tensors.tensor(record)
            case Call(function=Global(name=vocabulary.PARAMETER), state=None):
                return self._tensors.parameter(record)
            case Call(
                function=Global(name=vocabulary.GETATTR), args=(Global(name=vocabulary.TORCH), str(name)), state=None
            ):
                if name in vocabulary.TORCH_FUNCTIONS:
                    return vocabulary.TORCH_FUNCTIONS[name]
            case Call(function=Global(name="torch.Size"), args=(tuple() as sizes,), state=None):
                return tuple(self.value(size, where) for size in sizes)
            case Call(function=Global(name=vocabulary.DEVICE), args=(str(), *rest), state=None) if len(rest) < 2:
                # Where the model was trained; here it is on the CPU.
                return torch.device("cpu")
            case Call(function=Global(name="builtins.set"), args=(list() as members,), state=None):
                if not all(type(member) in PLAIN for member in members):
                    raise unsafe(self._path, f"{where} is a set of other than plain values")
                return set(members)
            case Call(function=Global(name="collections.OrderedDict"), args=(), state=state):
                if state is not None and not _is_metadata(state):
                    raise unsafe(self._path, f"{where} is a dictionary with attributes of its own")
                return OrderedDict(self._dictionary(record.items, where))
        raise unsafe(self._path, f"{where} calls {_name_of(record)}")

    def _dictionary(self, items: list[tuple[Value, Value]], where: str) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, item in items:
            words = key if type(key) is tuple else (key,)
            if not all(type(word) in PLAIN for word in words):
                raise unsafe(self._path, f"{where} has a key that is not text or a number")
            result[key] = self.value(item, f"{where}[{quoted(str(key))}]")
        return result

    def _module(self, cls: type[torch.nn.Module], record: New, where: str) -> torch.nn.Module:
        if not isinstance(record.state, Pairs):
            raise unsafe(self._path, f"{where} ({cls.__name__}) has no state that torch.save writes")
        fields = self._fields(cls, record, where)
        state: dict[str, Any] = {}
        for name, item in fields.items():
            place = f"{where}.{name}"
            if name in REGISTRIES:
                state[name] = self._registry(cls, name, item, place)
            elif "hook" in name:
                state[name] = self._no_hooks(item, place)
            elif name in CACHES:
                state[name] = None
            else:
                state[name] = self._attribute(cls, name, item, place)
        missing = [name for name in REGISTRIES if name not in state]
        if missing:
            raise unsafe(self._path, f"{where} ({cls.__name__}) lacks {missing[0]}")
        if cls.__new__ is not object.__new__:
            raise unsafe(self._path, f"{where}: class {cls.__name__} has a constructor of its own")
        module = cls.__new__(cls)
        restore: Any = torch.nn.Module.__setstate__
        restore(module, state)
        if isinstance(module, MessagePassing):
            generated.restore_message_passing(module, self._path, where)
        elif isinstance(module, Sequential):
            generated.restore_sequential(module, self._path, where)
        elif isinstance(module, torch.nn.RNNBase):
            restore_recurrent(module, self._path, where)
        return module

    def _fields(self, cls: type[torch.nn.Module], record: New, where: str) -> dict[str, Value]:
        """Return a module's state by name, without what is generated again; all names are checked."""
        fields: dict[str, Value] = {}
        for name, item in record.state.items:
            plain = type(name) is str and ENTRY_NAME.fullmatch(name) is not None
            if not plain or name.startswith("__") or name in fields:
                raise unsafe(self._path, f"{where} has the attribute {quoted(name)}")
            fields[name] = item
        if issubclass(cls, MessagePassing):
            generated.drop_generated_propagate(fields, record)
            generated.check_inspector(fields.pop("inspector", None), self._path, where)
        if issubclass(cls, Sequential):
            generated.drop_generated_forward(fields, record)
            generated.read_sequential(fields, self._path, where)
        for name in fields:
            if hasattr(cls, name) or name in generated.GENERATED_METHODS:
                raise unsafe(self._path, f"{where}.{name} stands in front of {cls.__name__}.{name}")
        return fields

    def _registry(self, cls: type[torch.nn.Module], registry: str, record: Value, where: str) -> dict[str, Any]:
        kinds: dict[str, type] = {
            "_parameters": torch.nn.Parameter,
            "_buffers": torch.Tensor,
            "_modules": torch.nn.Module,
        }
        entries = self.value(record, where)
        if not isinstance(entries, dict):
            raise unsafe(self._path, f"{where} is not a dictionary")
        for name, entry in entries.items():
            plain = type(name) is str and ENTRY_NAME.fullmatch(name) is not None
            if not plain or name.startswith("__") or hasattr(cls, name):
                raise unsafe(self._path, f"{where} has an entry {quoted(name)}")
            if entry is not None and not isinstance(entry, kinds[registry]):
                raise unsafe(self._path, f"{where}[{quoted(name)}] is not a {kinds[registry].__name__}")
        return dict(entries)

    def _no_hooks(self, record: Value, where: str) -> Any:
        if record is None or type(record) is bool:
            return record
        empty = isinstance(record, Pairs) or (isinstance(record, Call) and record.function.name.endswith("OrderedDict"))
        if not empty or record.items:
            raise unsafe(self._path, f"{where} holds a hook")
        return OrderedDict()

    def _attribute(self, cls: type[torch.nn.Module], name: str, record: Value, where: str) -> Any:
        value = self.value(record, where)
        if isinstance(value, torch.nn.Module) or (name == "training" and not isinstance(value, bool)):
            raise unsafe(self._path, f"{where} ({cls.__name__}) is not what torch.save writes there")
        return value


def _is_metadata(state: Value) -> bool:
    """Tell whether the state of an ordered dictionary is only what `Module.state_dict` leaves there."""
    return isinstance(state, Pairs) and [key for key, _ in state.items] == ["_metadata"]


def _name_of(record: Value) -> str:
    match record:
        case Call(function=Global(name=name)) | New(cls=Global(name=name)):
            return quoted(name)
    return "something that torch.save does not write"
