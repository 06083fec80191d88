"""A pickle read into inert records.

Python's unpickler calls whatever a file names. Here the opcodes are interpreted by a machine that can
build only plain values and records of what the file *asks* for; nothing is imported or called, and no
value from the file is hashed or compared. What the records may become is decided elsewhere.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnnexport.frontends.refusal import broken, quoted, unsafe

Value = Any
"""None, bool, int, float, str, tuple, list, or one of the records below."""


@dataclass(eq=False, repr=False)
class Global:
    """A name of a module and a name in it, joined by a dot."""

    name: str


@dataclass(eq=False, repr=False)
class Pairs:
    """A dictionary, as the pairs in the order they were set."""

    items: list[tuple[Value, Value]] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class Call:
    """A function or class that the file wants called (`REDUCE`)."""

    function: Global
    args: tuple[Value, ...]
    items: list[tuple[Value, Value]] = field(default_factory=list)
    state: Value = None


@dataclass(eq=False, repr=False)
class New:
    """An instance that the file wants made without its constructor (`NEWOBJ`), and its state."""

    cls: Global
    args: tuple[Value, ...]
    state: Value = None


@dataclass(eq=False, repr=False)
class StorageRef:
    """Raw numbers kept beside the pickle."""

    kind: str
    key: str
    numel: int


class _Mark:
    """Where the arguments of a later opcode begin on the stack."""


class Machine:
    """Interpret one pickle; `run` returns its value. Strict: what `torch.save` does not write is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Value] = []
        self.memo: dict[int, Value] = {}

    def run(self, data: bytes) -> Value:
        """Interpret a pickle and return its value."""
        for opcode, arg, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                if len(self.stack) != 1:
                    raise broken(self.path, "its pickle ends with values left over")
                return self.stack[0]
            action = self.action(opcode.name)
            if action is None:
                raise unsafe(self.path, f"uses the pickle instruction {opcode.name}, which torch.save does not write")
            action(self, arg)
        raise broken(self.path, "its pickle ends early")

    def action(self, opcode: str) -> Callable[[Any, Any], None] | None:
        """Return what an opcode does, `None` where it is not interpreted."""
        return ACTIONS.get(opcode)

    def push(self, value: Value) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Value:
        """Take the last value from the stack."""
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise broken(self.path, "its pickle is malformed")
        return value

    def pop_to_mark(self) -> list[Value]:
        """Take the values since the last mark."""
        for position in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[position], _Mark):
                values = self.stack[position + 1 :]
                del self.stack[position:]
                return values
        raise broken(self.path, "its pickle is malformed")

    def pop_tuple(self, count: int) -> None:
        """Make a tuple of the last values."""
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def remember(self, key: int) -> None:
        """Keep the last value for later."""
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise broken(self.path, "its pickle is malformed")
        self.memo[key] = self.stack[-1]

    def append(self, values: list[Value]) -> None:
        """Add to the list on the stack."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise unsafe(self.path, "appends to something that is not a list")
        target.extend(values)

    def set_items(self, values: list[Value]) -> None:
        """Add keys and values, in turn, to the dictionary on the stack."""
        target = self.stack[-1]
        plain = isinstance(target, Pairs)
        called = isinstance(target, Call) and target.function.name in DICTIONARIES
        if not (plain or called) or len(values) % 2:
            raise unsafe(self.path, "sets items of something that is not a dictionary")
        target.items.extend(zip(values[::2], values[1::2], strict=True))

    def add_items(self, values: list[Value]) -> None:
        """Add to the set on the stack."""
        target = self.stack[-1]
        match target:
            case Call(function=Global(name="builtins.set"), args=(list() as members,)):
                members.extend(values)
            case _:
                raise unsafe(self.path, "adds to something that is not a set")

    def find(self, module: Value, name: Value) -> None:
        """Note a name; nothing is looked up."""
        if type(module) is not str or type(name) is not str:
            raise unsafe(self.path, "names a global by something that is not text")
        self.push(Global(f"{'builtins' if module == '__builtin__' else module}.{name}"))

    def call(self) -> None:
        """Note a call; nothing is called."""
        args, function = self.pop(), self.pop()
        if _makes_batch(function, args):
            self.push(New(args[0], args[1:]))
            return
        if not isinstance(function, Global) or type(args) is not tuple:
            raise unsafe(self.path, "calls something that it computed itself")
        self.push(Call(function, args))

    def make(self) -> None:
        """Note an instance; nothing is made."""
        args, cls = self.pop(), self.pop()
        if not isinstance(cls, Global) or type(args) is not tuple:
            raise unsafe(self.path, "makes an instance of something that it computed itself")
        self.push(New(cls, args))

    def build(self) -> None:
        """Note the state of a call or an instance."""
        state, target = self.pop(), self.stack[-1]
        if not isinstance(target, New | Call) or target.state is not None:
            raise unsafe(self.path, "sets the state of something that has none")
        target.state = state

    def persistent(self) -> None:
        """Note a storage."""
        match self.pop():
            case ("storage", Global(name=kind), str(key), str(), int(numel)):
                self.push(StorageRef(kind, key, numel))
            case _:
                raise unsafe(self.path, "refers to something beside the pickle that is not a storage")


DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict")
BATCH = ("torch_geometric.data.batch.DynamicInheritanceGetter", "torch_geometric.data.batch.Batch")
SET = "builtins.set"


def _makes_batch(function: Value, args: Value) -> bool:
    """Tell whether PyG makes a batch: it calls an object with the class `Batch` and the class of the graphs."""
    match function, args:
        case New(cls=Global(name=getter), args=(), state=None), (Global(name=made), Global()):
            return (getter, made) == BATCH
    return False


ACTIONS: dict[str, Callable[[Any, Any], None]] = {
    "PROTO": lambda m, arg: None,
    "FRAME": lambda m, arg: None,
    "NONE": lambda m, arg: m.push(None),
    "NEWTRUE": lambda m, arg: m.push(True),
    "NEWFALSE": lambda m, arg: m.push(False),
    **{
        name: lambda m, arg: m.push(arg)
        for name in (
            "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
            "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        )
    },
    "EMPTY_TUPLE": lambda m, arg: m.push(()),
    "TUPLE": lambda m, arg: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, arg: m.pop_tuple(1),
    "TUPLE2": lambda m, arg: m.pop_tuple(2),
    "TUPLE3": lambda m, arg: m.pop_tuple(3),
    "EMPTY_LIST": lambda m, arg: m.push([]),
    "APPEND": lambda m, arg: m.append([m.pop()]),
    "APPENDS": lambda m, arg: m.append(m.pop_to_mark()),
    "EMPTY_DICT": lambda m, arg: m.push(Pairs()),
    "SETITEM": lambda m, arg: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, arg: m.set_items(m.pop_to_mark()),
    "EMPTY_SET": lambda m, arg: m.push(Call(Global(SET), ([],))),
    "ADDITEMS": lambda m, arg: m.add_items(m.pop_to_mark()),
    "MARK": lambda m, arg: m.push(_Mark()),
    "POP": lambda m, arg: (m.pop(), None)[1],
    "POP_MARK": lambda m, arg: (m.pop_to_mark(), None)[1],
    "BINPUT": lambda m, arg: m.remember(arg),
    "LONG_BINPUT": lambda m, arg: m.remember(arg),
    "MEMOIZE": lambda m, arg: m.remember(len(m.memo)),
    "BINGET": lambda m, arg: m.push(m.memo[arg]),
    "LONG_BINGET": lambda m, arg: m.push(m.memo[arg]),
    "GLOBAL": lambda m, arg: m.find(*arg.split(" ", 1)),
    "STACK_GLOBAL": lambda m, arg: m.find(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, arg: m.call(),
    "NEWOBJ": lambda m, arg: m.make(),
    "BUILD": lambda m, arg: m.build(),
    "BINPERSID": lambda m, arg: m.persistent(),
}  # fmt: skip


def read_records(data: bytes, path: Path) -> Value:
    """Read a pickle into plain values and records, running nothing.

    Raises:
        UnsafeFileError: the pickle uses an instruction that `torch.save` does not write.
        UsageError: the pickle is truncated or malformed.
    """
    return run_machine(Machine(path), data)


def run_machine(machine: Machine, data: bytes) -> Value:
    """Run a machine over a pickle and return its value.

    Raises:
        UnsafeFileError: the pickle uses an instruction that the machine does not interpret.
        UsageError: the pickle is truncated or malformed.
    """
    try:
        with warnings.catch_warnings():
            # pickletools unescapes names, and warns of what is no escape.
            warnings.simplefilter("ignore", DeprecationWarning)
            return machine.run(data)
    except (ValueError, EOFError, OverflowError, IndexError, KeyError, TypeError, struct.error) as error:
        what = f"its pickle is truncated or malformed ({quoted(str(error))})"
        raise broken(machine.path, what) from error
