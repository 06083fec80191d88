"""Write a Program for mode `batched`: a model for each stage, the graph, and the tables of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnnexport.bundle import layout
from gnnexport.bundle.arrays import write_arrays
from gnnexport.bundle.packed_rows import write_packed
from gnnexport.bundle.stages import Batched, FeatureTable, Stage, StoreBits
from gnnexport.errors import ParityError, Problem
from gnnexport.native.packed import pack_bytes, unpack
from gnnexport.pipeline.graph_forms import raw_weights, recognise
from gnnexport.program.cost import Cost
from gnnexport.program.inputs import Mode
from gnnexport.program.program import Program
from gnnexport.program.run_stages import (
    Arguments,
    Known,
    known_of,
    request_blocks,
    request_cost,
    rows_of_all,
    run_stages,
)
from gnnexport.program.stage_bodies import StageProgram, write_stages
from gnnexport.program.stages import STRUCTURE, CutProgram, check_stages, cut_program
from gnnexport.program.verify import TOLERANCE, relative_error
from gnnexport.runtime.batched.kept_rows import row_bytes
from gnnexport.targets.contract import Artefact, EmitContext, Target
from gnnexport.targets.onnx.translate_stage import ROWS, translate_stage

SAMPLE_TARGETS = 32
"""Nodes of the block that lowerings are timed on."""


@dataclass(frozen=True)
class StagesWritten:
    """What was written of a Program.

    Args:
        artefact: of all stages together.
        batched: for the manifest.
    """

    artefact: Artefact
    batched: Batched


def refusals(target: Target, program: Program, mode: Mode) -> list[Problem]:
    """Tell what a mode or a target cannot do with a finalised Program."""
    of_mode = check_stages(program) if mode == "batched" else []
    return [*of_mode, *target.check(program, mode)]


def cost_of_request(program: Program, inputs: Mapping[str, Tensor], targets: Tensor) -> Cost:
    """Count what a request for some nodes costs of which no row is known before; the Program is finalised."""
    cut = cut_program(program)
    return request_cost(cut, write_stages(cut), known_of(cut, program, inputs), targets)


def write_batched(
    program: Program, inputs: Mapping[str, Tensor], target: Target, folder: Path, ctx: EmitContext, store_bytes: int
) -> StagesWritten:  # fmt: skip
    """Write all files that answers are computed from.

    Args:
        program: finalised.
        inputs: the graph with its features.
        target: that lowers each stage.
        folder: of the bundle.
        ctx: of the run; its decisions are those of all stages.
        store_bytes: memory that rows may take between requests.

    Raises:
        UnsupportedError: the Program cannot be cut, or the target cannot do a stage.
        ParityError: the stages compute something else than the Program.
    """
    cut = cut_program(program)
    stages = write_stages(cut)
    known = known_of(cut, program, inputs)
    _check_stages(cut, stages, program)
    values = _read(stages, "slot_values")
    of_nodes = _read(stages, "source_values") | _read(stages, "target_values")
    structure, described = recognise(cut, inputs, sorted(values), sorted(of_nodes))
    raw = raw_weights(cut, inputs, structure, described)
    if raw is not None:
        described = (*described, raw[0])
        known = replace(known, values={**known.values, raw[0].name: raw[1]})
    scaled = frozenset(name for stage in stages for name in stage.scaled)
    described = tuple(item.model_copy(update={"scales": item.name in scaled}) for item in described)
    tables = _write_tables(cut, known, folder)
    _write_graph(known, [item.name for item in described], folder)
    artefacts = _emit(stages, cut, known, target, folder, ctx)
    rows = _write_rows(stages, known, folder, ctx, store_bytes, program.store_bits)
    batched = Batched(
        features=program.features[0].name,
        tables=tables,
        structures=(structure,),
        values=described,
        stages=tuple(
            _described(stage, artefact, _output(stage, cut), rows.get(stage.depth))
            for stage, artefact in zip(stages, artefacts, strict=True)
        ),
        store_bytes=store_bytes,
        store_bits=program.store_bits,
    )
    files = [layout.GRAPH, *(table.file for table in tables), *rows.values()]
    return StagesWritten(_together(artefacts, folder, files), batched)


def _check_stages(cut: CutProgram, stages: Sequence[StageProgram], program: Program) -> None:
    """Hold the stages against the Program on small graphs with everything odd in them."""
    for seed in range(2):
        graph = program.example(seed=seed)
        with torch.no_grad():
            expected = program(graph)
        answer = run_stages(stages, known_of(cut, program, graph), torch.arange(len(expected)))
        error = relative_error(expected, answer)
        if error > TOLERANCE:
            what = f"the stages differ from the model by {error:.2g} of the largest output"
            raise ParityError.at("mode batched", what, "This is a bug: report it with the model")


def _read(stages: Sequence[StageProgram], part: str) -> set[str]:
    return {item.value for stage in stages for item in stage.inputs if item.part == part}


def _write_tables(cut: CutProgram, known: Known, folder: Path) -> tuple[FeatureTable, ...]:
    written = []
    for table in cut.tables:
        rows = known.tables[table.name]
        file = f"{table.name}{'.npy' if cut.stored is None else layout.PACKED}"
        if cut.stored is None:
            np.save(folder / file, np.ascontiguousarray(rows.numpy()), allow_pickle=False)
        else:
            write_packed(folder / file, cut.stored.packed(rows))
        bits = None if cut.stored is None else cut.program.feature_bits
        written.append(FeatureTable(name=table.name, file=file, width=rows.shape[1], columns=table.columns, bits=bits))
    return tuple(written)


def _write_graph(known: Known, names: Sequence[str], folder: Path) -> None:
    arrays = {f"{STRUCTURE}.rowptr": known.rowptr.numpy(), f"{STRUCTURE}.col": known.col.numpy()}
    arrays |= {name: known.values[name].numpy() for name in names}
    write_arrays(folder / layout.GRAPH, {"schema": 1}, arrays)


def _write_rows(
    stages: Sequence[StageProgram], known: Known, folder: Path, ctx: EmitContext, store_bytes: int,
    store_bits: StoreBits,
) -> dict[int, str]:  # fmt: skip
    """Write the rows of all nodes where the store has room for them; return the files by depth."""
    kept = stages[:-1]
    num_nodes = len(known.rowptr) - 1
    needed = sum(row_bytes(stage.width, store_bits) for stage in kept) * num_nodes
    if not kept or not num_nodes or needed > store_bytes:
        if needed > store_bytes > 0:
            ctx.note(f"the store begins empty: rows of all nodes take {needed / 1e6:,.0f} MB, more than --store gives")
        return {}
    files = {}

    def keep(stage: StageProgram, rows: Tensor) -> Tensor:
        files[stage.depth] = f"{layout.ROWS}{stage.depth}{'.npy' if store_bits == 32 else layout.PACKED}"
        path, numbers = folder / files[stage.depth], np.ascontiguousarray(rows.numpy(), np.float32)
        if store_bits == 32:
            np.save(path, numbers, allow_pickle=False)
            return rows
        packed = pack_bytes(numbers)
        write_packed(path, packed)
        return torch.from_numpy(unpack(packed))

    rows_of_all(kept, known, keep)
    return files


def _emit(
    stages: Sequence[StageProgram], cut: CutProgram, known: Known, target: Target, folder: Path, ctx: EmitContext
) -> list[Artefact]:  # fmt: skip
    """Lower each stage into a folder of its own."""
    replayed = (ctx.decisions or {}).get("stages", {})
    samples = _samples(stages, cut, known, ctx.seed)
    share = replace(ctx, time_budget_s=ctx.time_budget_s / len(stages))
    found = []
    for stage, sample in zip(stages, samples, strict=True):
        name = f"stage-{stage.depth}"
        (folder / name).mkdir()
        tails = {key: (value.dtype, tuple(value.shape[1:])) for key, value in sample.items()}
        feeds = {key: value.contiguous().numpy() for key, value in sample.items()}
        dialect = translate_stage(stage, tails, _output(stage, cut), feeds)
        decisions = None if ctx.decisions is None else replayed.get(name, {})
        artefact = target.emit(dialect, folder / name, replace(share, decisions=decisions))
        found.append(
            replace(
                artefact,
                model_file=f"{name}/{artefact.model_file}",
                files=tuple(f"{name}/{file}" for file in artefact.files),
                lowering=tuple({**row, "op": f"{name}: {row['op']}"} for row in artefact.lowering),
            )
        )
    return found


def _output(stage: StageProgram, cut: CutProgram) -> str:
    return cut.program.output if stage.depth == cut.depth else ROWS


def _samples(stages: Sequence[StageProgram], cut: CutProgram, known: Known, seed: int) -> list[Arguments]:
    """Make a block for each stage as a request for some nodes leads to."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randperm(len(known.rowptr) - 1, generator=generator)[:SAMPLE_TARGETS]
    return request_blocks(stages, cut, known, targets)


def _described(stage: StageProgram, artefact: Artefact, output: str, rows_file: str | None) -> Stage:
    read = {item.name: item for item in stage.inputs}
    return Stage(
        model_file=artefact.model_file,
        depth=stage.depth,
        output=output,
        width=stage.width,
        structure=stage.structure,
        direct=stage.direct and artefact.native,  # other lowerings copy the table that they are given
        sampling=stage.sampling,
        rows_file=rows_file,
        inputs=tuple(read[name] for name in artefact.inputs),
    )


def _together(artefacts: Sequence[Artefact], folder: Path, files: Sequence[str]) -> Artefact:
    """Describe all stages as one artefact; the graph and the features count as such."""
    sizes: dict[str, int] = {}
    for artefact in artefacts:
        for origin, count in artefact.sizes.items():
            sizes[origin] = sizes.get(origin, 0) + count
    bytes_of = {name: (folder / name).stat().st_size for name in files}
    sizes["graph_bytes"] = bytes_of.pop(layout.GRAPH)
    sizes["features_bytes"] = sum(bytes_of.values())
    last = artefacts[-1]
    return replace(
        last,
        files=tuple(file for artefact in artefacts for file in artefact.files),
        decisions={"stages": {a.model_file.partition("/")[0]: dict(a.decisions) for a in artefacts}},
        sizes=sizes,
        lowering=tuple(row for artefact in artefacts for row in artefact.lowering),
        halves=tuple(gathered for artefact in artefacts for gathered in artefact.halves),
        operands=tuple(operand for artefact in artefacts for operand in artefact.operands),
        weights=tuple(
            replace(weight, name=f"{artefact.model_file.partition('/')[0]}: {weight.name}")
            for artefact in artefacts
            for weight in artefact.weights
        ),
        prepare="runtime",
        native=any(artefact.native for artefact in artefacts),
    )
