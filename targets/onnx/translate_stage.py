"""Translate a stage of mode `batched` to onnx_ir: targets, neighbours and slots of any number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim

from gnnexport.bundle.stages import NUM_TARGETS, Part
from gnnexport.program.inputs import Input, Role
from gnnexport.program.stage_bodies import StageProgram
from gnnexport.targets.contract import DialectModel
from gnnexport.targets.onnx import schemas
from gnnexport.targets.onnx.translate import export, name_sizes

NUM_SOURCES, NUM_SLOTS, NUM_POINTERS = "num_sources", "num_slots", "num_pointers"

ROWS = "rows"
"""Name of what a stage gives to the next."""

FIRST: dict[Part, str] = {
    "source": NUM_SOURCES,
    "target": NUM_TARGETS,
    "rowptr": NUM_POINTERS,
    "col": NUM_SLOTS,
    "row": NUM_SLOTS,
    "slot_values": NUM_SLOTS,
    "source_values": NUM_SOURCES,
    "target_values": NUM_TARGETS,
}
"""What the first dimension of each part of a stage's inputs counts."""

_EXAMPLE = {NUM_TARGETS: 5, NUM_SOURCES: 7, NUM_SLOTS: 11}


def translate_stage(
    stage: StageProgram, tails: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], output: str,
    sample: Mapping[str, NDArray[Any]],
) -> DialectModel:  # fmt: skip
    """Export one stage.

    Args:
        stage: of a cut Program.
        tails: of each input's values the type and all sizes but the first, by input name.
        output: name of the result.
        sample: a typical block by input name, for timing.

    Raises:
        UnsupportedError: an op without an ONNX translation, with the module it came from.
    """
    schemas.register()
    for parameter in stage.body.parameters():
        parameter.data = parameter.data.contiguous()
    arguments = {item.name: _example(item.part, *tails[item.name]) for item in stage.inputs}
    targets = Dim(NUM_TARGETS, min=2)
    dims = {
        NUM_TARGETS: targets,
        NUM_POINTERS: targets + 1,
        NUM_SOURCES: Dim(NUM_SOURCES, min=2),
        NUM_SLOTS: Dim(NUM_SLOTS, min=2),
    }
    model = export(stage.body, arguments, output, [{0: dims[FIRST[item.part]]} for item in stage.inputs])
    read = [
        Input(item.name, Role.NODE_FEATURES, str(tails[item.name][0]), (FIRST[item.part], *tails[item.name][1]))
        for item in stage.inputs
    ]
    name_sizes(model, read, NUM_TARGETS)
    return DialectModel(model, {}, "batched", sample)


def _example(part: Part, dtype: torch.dtype, tail: tuple[int, ...]) -> Tensor:
    """Make values of one input of a small block."""
    if part == "rowptr":
        return torch.tensor([0, 3, 3, 6, 10, _EXAMPLE[NUM_SLOTS]])
    count = _EXAMPLE[FIRST[part]]
    if part == "col":
        return torch.arange(count) % _EXAMPLE[NUM_SOURCES]
    if part == "row":
        return torch.tensor([0, 0, 0, 2, 2, 2, 3, 3, 3, 3, 4])
    return torch.ones((count, *tail), dtype=dtype)
