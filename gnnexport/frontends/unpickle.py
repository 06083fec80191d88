"""Files of `torch.save`, loaded without running anything they ask for.

Three steps, each of which trusts nothing of the one before: the zip file is read by our own reader, the
pickle becomes inert records, and the records become modules, graphs or weights by rules that know each
class. A name that is not on the safe list anywhere in the file refuses the whole file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gnnexport.errors import GnnExportError
from gnnexport.frontends import vocabulary
from gnnexport.frontends.archive import Archive
from gnnexport.frontends.modules import ModuleRebuilder
from gnnexport.frontends.records import Call, Global, New, Pairs, Value, read_records
from gnnexport.frontends.refusal import quoted, unsafe
from gnnexport.frontends.tensors import TensorRebuilder


def load_object(path: Path) -> object:
    """Load a pickled module of torch and PyG classes, plain values and tensors, or a PyG `Data`.

    A `Data` comes as the dictionary of its attributes.

    Raises:
        UnsafeFileError: the file names something not on the safe list, or is not what `torch.save` writes.
        UsageError: the file is missing, truncated or of another format.
    """
    with Archive(path) as archive:
        record = read_records(archive.read_pickle(), path)
        _refuse_unknown_names(record, path)
        rebuilder = ModuleRebuilder(path, TensorRebuilder(archive))
        try:
            if isinstance(record, New) and record.cls.name == vocabulary.DATA:
                return _data_attributes(record, path, rebuilder)
            return rebuilder.value(record, "the file")
        except GnnExportError:
            raise
        except RecursionError:
            raise unsafe(path, "is nested too deeply") from None
        except Exception as error:
            # Installed torch and PyG code met a state it cannot work with: the file is at fault, not we.
            raise unsafe(path, f"holds a state that does not fit its class ({quoted(str(error))})") from error


def _refuse_unknown_names(root: Value, path: Path) -> None:
    unknown = sorted({name for name in _names(root) if not vocabulary.is_known(name)})
    if unknown:
        listed = ", ".join(quoted(name) for name in unknown[:8]) + (" and more" if len(unknown) > 8 else "")
        raise unsafe(path, f"asks for {listed}, which is not on the safe list")


def _names(root: Value) -> Iterable[str]:
    pending, seen = [root], set()
    while pending:
        record = pending.pop()
        if id(record) in seen:
            continue
        seen.add(id(record))
        match record:
            case Global(name=name):
                yield name
            case list() | tuple():
                pending.extend(record)
            case Pairs(items=items):
                pending.extend(part for pair in items for part in pair)
            case Call():
                pending.extend((record.function, record.args, record.state))
                pending.extend(part for pair in record.items for part in pair)
            case New():
                pending.extend((record.cls, record.args, record.state))


def _data_attributes(record: New, path: Path, rebuilder: ModuleRebuilder) -> dict[str, Any]:
    """Read the attributes of a PyG `Data` out of its records; the object itself is not made."""
    match record:
        case New(args=(), state=Pairs(items=items)):
            fields = {name: item for name, item in items if type(name) is str}
        case _:
            raise unsafe(path, "holds a Data that torch.save does not write")
    if len(fields) != len(items) or set(fields) - {"_edge_attr_cls", "_tensor_attr_cls", "_store"}:
        raise unsafe(path, "holds a Data whose state stands in front of its methods")
    match fields.get("_store"):
        case New(cls=Global(name=vocabulary.DATA_STORE), args=(), state=Pairs(items=parts)):
            store = {name: part for name, part in parts if type(name) is str}
        case _:
            raise unsafe(path, "holds a Data without its storage")
    if len(store) != len(parts) or set(store) - {"_mapping", "_parent", "_cached_attr"}:
        raise unsafe(path, "holds a Data whose storage stands in front of its methods")
    attributes = rebuilder.value(store.get("_mapping"), "the data")
    if not isinstance(attributes, dict):
        raise unsafe(path, "holds a Data without attributes")
    return attributes
