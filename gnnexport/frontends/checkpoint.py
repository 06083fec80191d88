"""The weights in a training checkpoint, found among whatever else it holds, and the module inside a wrapper.

A checkpoint carries the optimiser, the progress of training and settings of any class beside the weights.
All of it is read into inert records; only the part that is asked for is ever rebuilt, under the same rules
as a whole file, and the rest is thrown away unmade.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnnexport.frontends import vocabulary
from gnnexport.frontends.names import names_in, records_in, refuse_unknown_names
from gnnexport.frontends.records import Call, Global, Machine, New, Pairs, Value, run_machine
from gnnexport.frontends.refusal import quoted, unsafe

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
"""Where training scripts and Lightning keep the state dict of the model in a checkpoint."""

LIGHTNING_KEY = "pytorch-lightning_version"
ORDERED_DICT = "collections.OrderedDict"
TENSORS = (vocabulary.TENSOR, vocabulary.PARAMETER)

WRAPPERS: Mapping[str, str] = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
"""Modules that only hold another: the name of their one child."""

DEEPEST_WRAPPING = 4

HARMFUL_MODULES = frozenset(
    ("os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "pty", "runpy", "importlib", "ctypes", "webbrowser")
)
HARMFUL = frozenset(
    f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "__import__", "breakpoint", "input", "execfile")
)
"""What no checkpoint needs: a file that names it was made to harm, so not even its weights are taken."""


@dataclass(frozen=True)
class Part:
    """Hold the part of a file that is to be rebuilt.

    Args:
        record: a state dict, or a module.
        where: its place in the file, for messages.
        is_lightning: the file is a checkpoint of PyTorch Lightning.
        left_out: unlisted names in the rest of the file, which is not made.
    """

    record: Value
    where: str
    is_lightning: bool
    left_out: tuple[str, ...]


def find_part(data: bytes, path: Path) -> Part | None:
    """Find the state dict in a checkpoint, or the module in a wrapper; `None` where the file is to be read whole.

    Args:
        data: the pickle.
        path: of the file, for messages.

    Raises:
        UnsafeFileError: the file names what no checkpoint needs, or the part holds what a state dict or a
            module cannot hold.
        UsageError: the pickle is truncated or malformed.
    """
    reader = _Reader(path)
    root = run_machine(reader, data)
    found, where = _find(root)
    if found is root:
        return None
    # What the records hold is less than what the file asks for: the items of an unknown class are not kept.
    everything, inside = reader.names, set(names_in(found))
    harmful = sorted(name for name in everything if name in HARMFUL or name.partition(".")[0] in HARMFUL_MODULES)
    if harmful:
        raise unsafe(path, f"asks for {quoted(harmful[0])}, which no checkpoint needs")
    refuse_unknown_names(found, path)
    foreign = [reader.foreign[id(record)][1] for record in records_in(found) if id(record) in reader.foreign]
    if foreign:
        raise unsafe(path, f"{where} {foreign[0]}")
    left_out = sorted(name for name in everything - inside if not (vocabulary.is_known(name) or _is_storage(name)))
    is_lightning = any(key == LIGHTNING_KEY for key, _ in _items(root))
    return Part(found, where, is_lightning, tuple(left_out))


def _is_storage(name: str) -> bool:
    return name.startswith("torch.") and name.endswith("Storage")


def _find(root: Value) -> tuple[Value, str]:
    found, where = root, "the file"
    for _ in range(DEEPEST_WRAPPING):
        inner = _wrapped(found)
        if inner is not None:
            found, where = inner, "the wrapped module"
    items = _items(found)
    if not _is_state_dict(items):
        for wanted in STATE_DICT_KEYS:
            for key, value in items:
                if key == wanted and _is_state_dict(_items(value)):
                    return value, f"'{wanted}'"
    return found, where


def _wrapped(record: Value) -> Value | None:
    match record:
        case New(cls=Global(name=name), args=(), state=Pairs(items=fields)) if name in WRAPPERS:
            children = [child for key, registry in fields if key == "_modules" for child in _items(registry)]
            if [key for key, _ in children] == [WRAPPERS[name]] and isinstance(children[0][1], New):
                return children[0][1]
        case Call(function=Global(name=name), args=(New() as child, *_)) if name in WRAPPERS:
            return child
    return None


def _items(record: Value) -> list[tuple[Value, Value]]:
    """Return the pairs of a dictionary of either kind; none of anything else."""
    match record:
        case Pairs(items=items):
            return items
        case Call(function=Global(name="collections.OrderedDict"), args=(), items=items):
            return items
    return []


def _is_state_dict(items: list[tuple[Value, Value]]) -> bool:
    return bool(items) and all(
        type(key) is str and isinstance(value, Call) and value.function.name in TENSORS for key, value in items
    )


class _Reader(Machine):
    """Read past what a module file cannot hold, and remember which records it touched."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.foreign: dict[int, tuple[Value, str]] = {}
        self.names: set[str] = set()

    def action(self, opcode: str) -> Callable[[Any, Any], None] | None:
        return _MORE_ACTIONS.get(opcode) or super().action(opcode)

    def find(self, module: Value, name: Value) -> None:
        super().find(module, name)
        self.names.update(names_in(self.stack[-1]))

    def append(self, values: list[Value]) -> None:
        if isinstance(self.stack[-1], list):
            super().append(values)
        else:
            self._mark(self.stack[-1], "appends to something that is not a list")

    def set_items(self, values: list[Value]) -> None:
        target = self.stack[-1]
        if isinstance(target, Pairs) or (isinstance(target, Call) and target.function.name == ORDERED_DICT):
            super().set_items(values)
        else:
            self._mark(target, "sets items of something that is not a dictionary")

    def add_items(self, values: list[Value]) -> None:
        match self.stack[-1]:
            case Call(function=Global(name="builtins.set"), args=(list(),)):
                super().add_items(values)
            case target:
                self._mark(target, "adds to something that is not a set")

    def call(self) -> None:
        args, function = self.pop(), self.pop()
        if isinstance(function, Global) and type(args) is tuple:
            self.push(Call(function, args))
        else:
            self.push(Call(Global(COMPUTED), (function, args)))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, New | Call) and target.state is None:
            target.state = state
        else:
            self._mark(target, "sets the state of something that has none")

    def _mark(self, record: Value, what: str) -> None:
        if not isinstance(record, New | Call):
            raise unsafe(self.path, what)
        self.foreign.setdefault(id(record), (record, what))


COMPUTED = "a computed function"
"""Stands for the name where the file calls what it computed itself; on no list, so never made."""

_MORE_ACTIONS: Mapping[str, Callable[[Any, Any], None]] = {
    **{name: lambda m, arg: m.push(arg) for name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")},
    "NEWOBJ_EX": lambda m, arg: m.push(Call(Global(COMPUTED), (m.pop(), m.pop(), m.pop()))),
    "FROZENSET": lambda m, arg: m.push(Call(Global("builtins.frozenset"), (m.pop_to_mark(),))),
}
