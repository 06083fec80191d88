"""What PyG generates when a layer is made, made again from the installed classes.

A file carries the *text* from which PyG renders and runs `propagate` and `forward`. That text is checked,
so that a tampered file is refused and not merely defused, and then thrown away. Of a `Sequential` only
the names of its variables are kept: identifiers, bound by its arguments or by an earlier step.
"""

from __future__ import annotations

import ast
import inspect
import keyword
import random
import re
from pathlib import Path
from typing import Any

from torch import Tensor
from torch_geometric.inspector import Inspector, Parameter, Signature
from torch_geometric.nn import MessagePassing, Sequential
from torch_geometric.nn.sequential import Child

from gnnexport.frontends import vocabulary
from gnnexport.frontends.records import Call, Global, New, Pairs, Value
from gnnexport.frontends.refusal import quoted, unsafe

GENERATED_METHODS = ("collect", "edge_collect", "propagate", "edge_updater", "forward")
"""Methods that PyG puts on a class when its first instance is made."""

_SCRIPT_NAME = re.compile(r"[\w.<>-]{0,200}", re.ASCII)
_TYPE_NODES = (
    ast.Expression, ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.Load, ast.BinOp, ast.BitOr,
)  # fmt: skip


def drop_generated_propagate(fields: dict[str, Value], record: New) -> None:
    """Forget an instance's own `propagate` if it is the class's own method looked up on itself."""
    if _is_own_method(fields.get("propagate"), "propagate", record):
        del fields["propagate"]


def drop_generated_forward(fields: dict[str, Value], record: New) -> None:
    """Forget a `Sequential`'s own `forward`, which PyG generates, if it is looked up on itself."""
    if _is_own_method(fields.get("forward"), "forward", record):
        del fields["forward"]


def _is_own_method(found: Value, name: str, record: New) -> bool:
    match found:
        case Call(function=Global(name=vocabulary.GETATTR), args=(owner, method), state=None):
            return owner is record and method == name
    return False


def check_inspector(record: Value, path: Path, where: str) -> None:
    """Refuse an inspector that is not a description of signatures in names and types alone.

    Raises:
        UnsafeFileError: code where a type or a parameter name should be.
    """
    match record:
        case New(cls=Global(name=vocabulary.INSPECTOR), args=(), state=Pairs()):
            _check_description(record.state, path, f"{where}.inspector")
        case _:
            raise unsafe(path, f"{where}.inspector is not what torch.save writes there")


def _check_description(root: Value, path: Path, where: str) -> None:
    pending, seen = [root], set()
    while pending:
        record = pending.pop()
        if id(record) in seen:
            continue
        seen.add(id(record))
        match record:
            case None | bool() | int() | float() | str():
                pass
            case list() | tuple():
                pending.extend(record)
            case Pairs(items=items):
                pending.extend(part for pair in items for part in pair)
            case New(cls=Global(name=vocabulary.SIGNATURE), args=(Pairs() as arguments, kind, text), state=None):
                _require_type(text, path, where)
                pending.extend((arguments, kind))
            case New(cls=Global(name=vocabulary.ARGUMENT), args=(name, kind, text, default), state=None):
                _require_variable(name, path, where)
                _require_type(text, path, where)
                pending.extend((kind, default))
            case Global(name=name) if vocabulary.is_type_name(name) or vocabulary.module_class(name):
                pass
            case Call(function=Global(name="_operator.getitem" | "builtins.type"), args=args, state=None):
                pending.extend(args)
            case _:
                raise unsafe(path, f"{where} holds something other than names and types")


def _require_type(text: Value, path: Path, where: str) -> None:
    """Accept `Optional[torch.Tensor]` and the like: names, attributes, subscripts, nothing that is called."""
    try:
        tree = ast.parse(text, mode="eval") if type(text) is str and len(text) < 1000 and "\n" not in text else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if tree is None or not all(_is_type_node(node) for node in ast.walk(tree)):
        raise unsafe(path, f"{where} carries code where a type should stand: {quoted(text)}")


def _is_type_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return node.value is None or node.value is ...
    return isinstance(node, _TYPE_NODES)


def _require_variable(name: Value, path: Path, where: str) -> str:
    plain = type(name) is str and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    if not plain or name.startswith("__"):
        raise unsafe(path, f"{where} carries {quoted(name)} where a variable's name should stand")
    return str(name)


def read_sequential(fields: dict[str, Value], path: Path, where: str) -> None:
    """Check the text of a `Sequential` and leave in its fields only lists of names.

    Raises:
        UnsafeFileError: anything but the names of modules and variables.
    """
    caller = fields.pop("_caller_module", None)
    if type(caller) is not str or not _SCRIPT_NAME.fullmatch(caller):
        raise unsafe(path, f"{where} carries code in the name of its script: {quoted(caller)}")
    match fields.get("signature"):
        case New(cls=Global(name=vocabulary.SIGNATURE), args=(Pairs() as arguments, _, _), state=None) as signature:
            _check_description(signature, path, f"{where}.signature")
        case _:
            raise unsafe(path, f"{where}.signature is not what torch.save writes there")
    known = [_require_variable(name, path, where) for name, _ in arguments.items]
    names: list[Value] = list(known)
    children = fields.get("_children")
    steps: list[Value] = []
    for child in children if isinstance(children, list) else []:
        match child:
            case New(cls=Global(name=vocabulary.CHILD), args=(str(name), list(reads), list(writes)), state=None):
                _require_variable(name, path, where)
                unknown = [read for read in reads if read not in known]
                if unknown:
                    raise unsafe(path, f"{where} reads the unknown variable {quoted(unknown[0])}")
                known += [_require_variable(write, path, where) for write in writes]
                steps.append([name, list(reads), list(writes)])
            case _:
                raise unsafe(path, f"{where} has a step that torch.save does not write")
    if not steps:
        raise unsafe(path, f"{where} has no steps")
    fields["signature"], fields["_children"] = names, steps


def restore_sequential(module: Sequential, path: Path, where: str) -> None:
    """Turn the checked names back into PyG's own objects and let it generate `forward`."""
    fields: dict[str, Any] = vars(module)
    children = [Child(name, reads, writes) for name, reads, writes in fields["_children"]]
    for child in children:
        step = module._modules.get(child.name, fields.get(child.name))
        if not callable(step) or hasattr(type(module), child.name):
            raise unsafe(path, f"{where} has no step named {quoted(child.name)}")
    arguments = {name: Parameter(name, Tensor, "Tensor", inspect.Parameter.empty) for name in fields["signature"]}
    module.signature = Signature(arguments, Tensor, "Tensor")
    module._children = children
    module._caller_module = Sequential.__module__
    # PyG names the generated code by a random number and reuses code of the same name: a seeded program that loads
    # two models would run the first one's. It also writes `forward` into the class, where every Sequential without
    # code of its own would find it.
    state, forward = random.getstate(), Sequential.forward
    random.seed()
    try:
        module._set_jittable_template(raise_on_error=True)
    finally:
        random.setstate(state)
        Sequential.forward = forward


def restore_message_passing(module: MessagePassing, path: Path, where: str) -> None:
    """Inspect the installed class again, as `MessagePassing.__init__` does, and let PyG generate `propagate`."""
    fuse = vars(module).get("fuse")
    if type(fuse) is not bool or module.flow not in ("source_to_target", "target_to_source"):
        raise unsafe(path, f"{where} has a state that torch.save does not write")
    inspector = Inspector(type(module))
    inspector.inspect_signature(module.message)
    inspector.inspect_signature(module.aggregate, exclude=[0, "aggr"])
    inspector.inspect_signature(module.message_and_aggregate, [0])
    inspector.inspect_signature(module.update, exclude=[0])
    inspector.inspect_signature(module.edge_update)
    own = module.special_args
    module.inspector = inspector
    module._user_args = inspector.get_flat_param_names(["message", "aggregate", "update"], exclude=own)
    module._fused_user_args = inspector.get_flat_param_names(["message_and_aggregate", "update"], exclude=own)
    module._edge_user_args = inspector.get_param_names("edge_update", exclude=own)
    module._explain = None
    module._edge_mask = module._loop_mask = None
    module._apply_sigmoid = True
    module._decomposed_layers = 1
    module.fuse = inspector.implements("message_and_aggregate")
    module._set_jittable_templates()
    module.fuse = fuse and module.fuse
