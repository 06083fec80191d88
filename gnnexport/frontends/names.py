"""The names that a file asks for, held against the safe list before anything is made."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from gnnexport.errors import UnsupportedError, UsageError
from gnnexport.frontends import vocabulary
from gnnexport.frontends.records import Call, Global, New, Pairs, Value
from gnnexport.frontends.refusal import OWN_CLASS_MEND, TRUST_MEND, quoted, unsafe

QUANTISED = ("torch.ao.", "torch.nn.quantized.", "torch.quantization.", "torch._utils._rebuild_qtensor")
LAZY = ("torch.nn.parameter.UninitializedParameter", "torch.nn.parameter.UninitializedBuffer")
META = "torch._utils._rebuild_meta_tensor_no_storage"
LAZY_MEND = "Run the model once on its data, train it, and save it then"
QUANTISED_MEND = "Give the model as it was before it was quantised"
LIBRARIES = {"torch", "torch_geometric", "builtins", "posix", "nt", "numpy", *sys.stdlib_module_names} - {"__main__"}
"""Whose names are not classes of the user's own."""
META_MEND = "Load the weights first, then save the model"


def refuse_unknown_names(root: Value, path: Path) -> None:
    """Refuse a file that asks for anything not on the safe list; one message names all of it.

    Raises:
        UnsafeFileError: it does.
        UsageError: weights that were never initialised, or have no values.
        UnsupportedError: a quantised model.
    """
    unknown = sorted({name for name in names_in(root) if not vocabulary.is_known(name)})
    if not unknown:
        return
    for name in unknown if all(name.startswith("torch.") for name in unknown) else ():
        if name.startswith(QUANTISED):
            raise UnsupportedError.at(str(path), "holds a model that is quantised already", QUANTISED_MEND)
        if name in LAZY:
            raise UsageError.at(str(path), "holds a model whose weights were never initialised", LAZY_MEND)
        if name == META:
            raise UsageError.at(str(path), "holds weights without values, on the device 'meta'", META_MEND)
    listed = ", ".join(quoted(name) for name in unknown[:8]) + (" and more" if len(unknown) > 8 else "")
    mend = OWN_CLASS_MEND if all(name.partition(".")[0] not in LIBRARIES for name in unknown) else TRUST_MEND
    raise unsafe(path, f"asks for {listed}, which is not on the safe list", mend)


def names_in(root: Value) -> Iterable[str]:
    """List every name of a module's member that a record mentions, repeats included."""
    return (record.name for record in records_in(root) if isinstance(record, Global))


def records_in(root: Value) -> Iterable[Value]:
    """List a record and all that it holds, each once."""
    pending, seen = [root], set()
    while pending:
        record = pending.pop()
        if id(record) in seen:
            continue
        seen.add(id(record))
        yield record
        match record:
            case list() | tuple():
                pending.extend(record)
            case Pairs(items=items):
                pending.extend(part for pair in items for part in pair)
            case Call():
                pending.extend((record.function, record.args, record.state))
                pending.extend(part for pair in record.items for part in pair)
            case New():
                pending.extend((record.cls, record.args, record.state))
