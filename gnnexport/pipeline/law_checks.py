"""Find out which laws a model obeys in PyTorch; those are demanded of every artefact of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnnexport.bundle.golden import GoldenCase, LawCheck, Laws
from gnnexport.bundle.manifest import Tensor as Declared
from gnnexport.conformance import laws
from gnnexport.conformance.graphs import MIXED, ONE_WAY
from gnnexport.pipeline.model_answers import ask_model
from gnnexport.pipeline.source import Source
from gnnexport.program.inputs import Input, Role, ends_of
from gnnexport.program.program import Program
from gnnexport.program.verify import TOLERANCE, relative_error

REFUSED = "the model cannot run on the changed request"
EVERYWHERE = "features of a node reach every row of the output"

ON_NEW_GRAPHS = {
    laws.NODE_PERMUTATION: (MIXED, ONE_WAY),
    laws.EDGE_ORDER: (MIXED, ONE_WAY),
    laws.GRAPHS_ALONE: (MIXED,),
    laws.INT32_INDICES: (MIXED,),
    laws.PAIR_ORDER: (MIXED,),
}
"""The golden cases that each law is checked on in mode `graphs`."""

ON_SEVERAL_KINDS = dict.fromkeys((laws.NODE_PERMUTATION, laws.EDGE_ORDER, laws.INT32_INDICES), ("one graph",))
"""Likewise, for graphs of several kinds of nodes and edges."""


def law_checks(source: Source, program: Program, cases: Sequence[GoldenCase], *, seed: int) -> Laws:
    """Return the laws to be checked, each with the cases it is checked on, and those that the model does not obey.

    Args:
        source: with the model, which decides.
        program: as it is lowered; its answers tell how far features reach in one fixed graph.
        cases: the golden cases of the bundle.
        seed: of the changes.
    """
    if source.mode == "graphs":
        asked = ON_SEVERAL_KINDS if source.data.keys else ON_NEW_GRAPHS
        return _on_new_graphs(source, program, {case.name: case for case in cases}, asked, seed)
    if source.data.keys:
        return Laws()  # where everything is fixed but features, the one law is about the nodes of one kind
    return _on_one_graph(source, program, cases, seed)


def declared(inputs: Sequence[Input]) -> tuple[Declared, ...]:
    """Describe inputs as a manifest does."""
    return tuple(
        Declared(
            name=item.name,
            dtype=item.dtype,
            shape=item.shape,
            role=item.role.value,
            ends=ends_of(item.name) if item.role is Role.EDGE_INDEX else None,
        )
        for item in inputs
    )


def _on_new_graphs(
    source: Source,
    program: Program,
    cases: Mapping[str, GoldenCase],
    laws_asked: Mapping[str, tuple[str, ...]],
    seed: int,
) -> Laws:
    checks: list[LawCheck] = []
    exempt: dict[str, str] = {}
    for place, (law, names) in enumerate(laws_asked.items()):
        if law == laws.GRAPHS_ALONE and program.level == "pair":
            continue
        asked = [LawCheck(law, name, seed + place) for name in names if name in cases]
        why = None if law == laws.INT32_INDICES else _disobeys(source, program, asked, cases)
        if why is not None:
            exempt[law] = why
        else:
            checks += [check for check in asked if _changes(program, check, cases[check.case])]
    return Laws(tuple(checks), exempt)


def _changes(program: Program, check: LawCheck, case: GoldenCase) -> bool:
    """Tell whether a law has anything to change in a case, such as pairs whose order could be another."""
    inputs = declared(program.inputs)
    return next(laws.derive(check, case, inputs, program.rows), None) is not None


def _disobeys(
    source: Source, program: Program, checks: Sequence[LawCheck], cases: Mapping[str, GoldenCase]
) -> str | None:
    """Say how the model itself breaks a law; `None` where it obeys it on every case."""
    rows, inputs = program.rows, declared(program.inputs)
    for check in checks:
        case = cases[check.case]
        base = ask_model(source, _tensors(case.feeds()), case.sizes)
        if base is None:
            return REFUSED
        for changed in laws.derive(check, case, inputs, rows):
            answer = ask_model(source, _tensors(changed.feeds), changed.sizes or case.sizes)
            if answer is None:
                return REFUSED
            error = relative_error(_picked(base, changed.base), _picked(answer, changed.rows))
            if error > TOLERANCE / 10:
                return f"the model's own answer changes by {error:.2g} of the largest on the graph '{check.case}'"
    return None


def _on_one_graph(source: Source, program: Program, cases: Sequence[GoldenCase], seed: int) -> Laws:
    """Check how far features reach, and the order of pairs where the model is asked about pairs."""
    case = next((item for item in cases if item.name == "noise"), None)
    if case is None:
        return Laws()
    checks = []
    if any(item.role is Role.LABEL_EDGES for item in program.features):
        asked = [LawCheck(laws.PAIR_ORDER, case.name, seed), LawCheck(laws.INT32_INDICES, case.name, seed)]
        checks += [check for check in asked if _changes(program, check, case)]
    local = _locality(source, program, case)
    if local is None:
        return Laws(tuple(checks), {laws.ROW_LOCALITY: EVERYWHERE})
    return Laws((*checks, local))


def _locality(source: Source, program: Program, case: GoldenCase) -> LawCheck | None:
    """Change the features of one node of few neighbours in PyTorch, and keep which rows stay as they are."""
    inputs = source.data.inputs
    structure = program.structure(inputs)

    def run(feeds: Mapping[str, NDArray[Any]]) -> Tensor:
        with torch.no_grad():
            return program.run_body({**inputs, **_tensors(feeds)}, structure)

    feeds, node = case.feeds(), _quiet_node(inputs["edge_index"], source.data.num_nodes)
    before, after = run(feeds), run(laws.with_node_changed(feeds, declared(program.features), node))
    same = (before == after) | (before.isnan() & after.isnan())
    still = torch.nonzero(same.reshape(len(same), -1).all(1)).flatten().numpy()
    return None if len(still) == 0 else LawCheck(laws.ROW_LOCALITY, case.name, 0, node, still)


def _quiet_node(edge_index: Tensor, num_nodes: int) -> int:
    """Return a node with few edges, but with some where there are any: what it changes must reach a neighbour."""
    degree = torch.bincount(edge_index.flatten(), minlength=num_nodes)
    degree[degree == 0] = degree.max() + 1
    return int(degree.argmin())


def _tensors(feeds: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for name, array in feeds.items()}


def _picked(answer: Tensor, rows: NDArray[np.int64] | None) -> Tensor:
    return answer if rows is None else answer[torch.from_numpy(rows)]
