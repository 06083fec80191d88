"""Hold what a manifest says of mode `batched` against itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from gnnexport.bundle.layout import MANIFEST
from gnnexport.bundle.manifest import Manifest, Tensor
from gnnexport.bundle.stages import Batched, Stage
from gnnexport.errors import UsageError
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.batched.chain import stage_name

_OF_SLOTS = ("source", "rowptr", "col", "row", "slot_values", "source_values")

_MOST_FEATURES = 1 << 31


def check_manifest(where: str, manifest: Manifest, spec: Batched) -> None:
    """Refuse stages, tables and values that name what there is not.

    Raises:
        UsageError: the first such.
    """
    for what in _faults(manifest, spec):
        raise UsageError.at(f"{where}/{MANIFEST}", what, "Make the bundle again")


def check_engine(where: str, stage: Stage, backend: Backend) -> None:
    """Refuse a model that does not read and give what the manifest says of its stage.

    Raises:
        UsageError: it has other inputs, no such output, or one of another width.
    """
    given, read = {tensor.name for tensor in stage.inputs}, {tensor.name for tensor in backend.inputs}
    output = next((tensor for tensor in backend.outputs if tensor.name == stage.output), None)
    what = None
    if not read <= given:
        what = f"reads '{min(read - given)}', of which the manifest says nothing"
    elif output is None:
        what = f"does not give '{stage.output}'"
    elif all(isinstance(size, int) for size in output.shape[1:]) and stage.width != _product(output):
        what = f"gives '{output.name}' {list(output.shape)}, and the manifest says a width of {stage.width}"
    if what is not None:
        raise UsageError.at(f"{where}/{stage.model_file}", what, "Make the bundle again")


def _product(tensor: Tensor) -> int:
    return math.prod(size for size in tensor.shape[1:] if isinstance(size, int))


def _faults(manifest: Manifest, spec: Batched) -> Iterator[str]:
    listed = {file.path for file in manifest.files}
    named = [table.file for table in spec.tables]
    named += [file for stage in spec.stages for file in (stage.model_file, stage.rows_file) if file is not None]
    yield from (f"'{file}' is not among the files listed" for file in named if file not in listed)
    for kind, things in (("table", spec.tables), ("structure", spec.structures), ("value", spec.values)):
        yield from (f"two of the {kind}s are called '{name}'" for name in _twice(thing.name for thing in things))
    if not spec.tables:
        yield "there is no table of features"
    structures = {item.name for item in spec.structures}
    for value in spec.values:
        if value.structure is not None and value.structure not in structures:
            yield f"'{value.name}' is of the structure '{value.structure}', which there is not"
    yield from _tables(spec)
    known = {table.name: table.width for table in spec.tables}
    depth = -1
    for stage in spec.stages:
        if stage.depth <= depth:
            yield f"a stage of depth {stage.depth} comes after one of depth {depth}"
        depth = stage.depth
        yield from (f"{stage_name(depth)}: {fault}" for fault in _stage(stage, spec, set(known), structures))
        known[stage_name(depth)] = stage.width
    last, output = spec.stages[-1], manifest.outputs[0]
    if (last.output, last.width) != (output.name, _product(output)):
        yield f"the last stage gives '{last.output}' of width {last.width}, not '{output.name}' {list(output.shape)}"


def _tables(spec: Batched) -> Iterator[str]:
    whole = [table.width for table in spec.tables if table.columns is None]
    width = spec.feature_width if spec.feature_width is not None else max(whole, default=None)
    for table in spec.tables:
        if table.columns is None:
            if table.width != width:
                yield f"the table '{table.name}' has {table.width} of {width} features, and does not say which"
        elif len(table.columns) != table.width:
            yield f"the table '{table.name}' has {len(table.columns)} columns and the width {table.width}"
        elif any(not 0 <= column < (_MOST_FEATURES if width is None else width) for column in table.columns):
            yield f"the table '{table.name}' holds features that there are not"


def _stage(stage: Stage, spec: Batched, rows: set[str], structures: set[str]) -> Iterator[str]:
    if stage.structure is not None and stage.structure not in structures:
        yield f"reads the structure '{stage.structure}', which there is not"
    yield from (f"two of its inputs are called '{name}'" for name in _twice(given.name for given in stage.inputs))
    of_slots = {value.name for value in spec.values if value.structure == stage.structure is not None}
    of_nodes = {value.name for value in spec.values if value.structure is None}
    there = {
        "source": rows, "target": rows, "slot_values": of_slots, "source_values": of_nodes, "target_values": of_nodes
    }  # fmt: skip
    for given in stage.inputs:
        if stage.structure is None and given.part in _OF_SLOTS:
            yield f"'{given.name}' is of neighbours, and the stage has none"
        elif given.part in there and given.value not in there[given.part]:
            yield f"'{given.name}' reads '{given.value}', which there is not"
    if stage.direct and any(given.part == "source_values" for given in stage.inputs):
        yield "is direct, and reads values of its sources"


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
