"""Files of `torch.save`, loaded without running anything they ask for.

Three steps, each of which trusts nothing of the one before: the zip file is read by our own reader, the
pickle becomes inert records, and the records become modules, graphs or weights by rules that know each
class. A name that is not on the safe list anywhere in the file refuses the whole file; of a training
checkpoint that holds for the weights, and the rest is never made.
"""

from __future__ import annotations

from pathlib import Path

from gnnexport.frontends import vocabulary
from gnnexport.frontends.archive import Archive
from gnnexport.frontends.attributes import read_data_attributes
from gnnexport.frontends.checkpoint import Part, find_part
from gnnexport.frontends.modules import ModuleRebuilder
from gnnexport.frontends.names import refuse_unknown_names
from gnnexport.frontends.records import New, read_records
from gnnexport.frontends.refusal import rebuilding
from gnnexport.frontends.tensors import TensorRebuilder


def load_object(path: Path) -> object:
    """Load what `load_part` finds, without what it tells of the rest of the file."""
    return load_part(path)[0]


def load_part(path: Path) -> tuple[object, Part | None]:
    """Load a pickled module of torch and PyG classes, plain values and tensors, or a PyG `Data`.

    Of a training checkpoint only the state dict is made, of a module in a wrapper only the module. A `Data`
    comes as the dictionary of its attributes.

    Returns:
        The object, and which part of the file it is; `None` where it is the whole.

    Raises:
        UnsafeFileError: the file names something not on the safe list, or is not what `torch.save` writes.
        UsageError: the file is missing, truncated or of another format.
    """
    with Archive(path) as archive:
        data = archive.read_pickle()
        part = find_part(data, path)
        record = read_records(data, path) if part is None else part.record
        refuse_unknown_names(record, path)
        rebuilder = ModuleRebuilder(path, TensorRebuilder(archive))
        with rebuilding(path):
            if isinstance(record, New) and record.cls.name == vocabulary.DATA:
                return read_data_attributes(record, path, rebuilder), None
            return rebuilder.value(record, "the file" if part is None else part.where), part
