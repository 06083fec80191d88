"""Find out which laws a model obeys in PyTorch; those are demanded of every artefact of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from gnnexport.program.data import GraphData
from gnnexport.program.inputs import Input, Role, ends_of, role_of
from gnnexport.program.program import Program
from gnnexport.program.verify import TOLERANCE
from gnnexport.validate.conformance import law_error

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

ON_ONE_GRAPH = "noise"
"""The golden case that laws are checked on in mode `full`."""

_LEFT_OUT, _NOTHING = "was left out", "has nothing to change"


def law_checks(source: Source, program: Program, cases: Sequence[GoldenCase], *, seed: int) -> Laws:
    """Return the laws to be checked, each with the cases it is checked on, and those that the model does not obey.

    Args:
        source: with the model, which decides.
        program: as it is lowered; its answers tell how far features reach in one fixed graph.
        cases: the golden cases of the bundle.
        seed: of the changes.
    """
    by_name = {case.name: case for case in cases}
    if source.mode == "graphs":
        return _on_new_graphs(source, program, by_name, seed)
    return _on_one_graph(source, program, by_name.get(ON_ONE_GRAPH), seed)


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


def _on_new_graphs(source: Source, program: Program, cases: Mapping[str, GoldenCase], seed: int) -> Laws:
    checks: list[LawCheck] = []
    exempt: dict[str, str] = {}
    unchecked: dict[str, str] = {}
    laws_asked = ON_SEVERAL_KINDS if source.data.keys else ON_NEW_GRAPHS
    for place, (law, names) in enumerate(laws_asked.items()):
        if not _is_about(law, program):
            continue
        asked = [LawCheck(law, name, seed + place) for name in names if name in cases]
        why = None if law == laws.INT32_INDICES else _disobeys(source, program, asked, cases)
        if why is not None:
            exempt[law] = why
            continue
        able = [check for check in asked if _changes(program, check, cases[check.case])]
        checks += able
        idle = {check.case for check in asked} - {check.case for check in able}
        reasons = [
            f"'{name}' {_NOTHING if name in idle else _LEFT_OUT}" for name in names if name in idle or name not in cases
        ]
        if reasons:
            unchecked[law] = f"golden case {', '.join(reasons)}"
    return Laws(tuple(checks), exempt, unchecked)


def _is_about(law: str, program: Program) -> bool:
    """Tell whether a law says anything of a model: pairs may join graphs, and not every model is asked about pairs."""
    pairs = any(item.role is Role.LABEL_EDGES for item in program.inputs)
    return not (law == laws.GRAPHS_ALONE and pairs) and not (law == laws.PAIR_ORDER and not pairs)


def _changes(program: Program, check: LawCheck, case: GoldenCase) -> bool:
    """Tell whether a law has anything to change in a case, such as pairs whose order could be another."""
    inputs = declared(program.inputs)
    return next(laws.derive(check, case, inputs, program.rows), None) is not None


def _disobeys(
    source: Source, program: Program, checks: Sequence[LawCheck], cases: Mapping[str, GoldenCase]
) -> str | None:
    """Say how the model itself breaks a law; `None` where it obeys it on every case."""
    inputs = declared(program.inputs)
    for check in checks:
        case = cases[check.case]
        error = error_of_model(source, case, laws.derive(check, case, inputs, program.rows))
        if error is None:
            return REFUSED
        if error > TOLERANCE / 10:
            return f"the model's own answer changes by {error:.2g} of the largest on the graph '{check.case}'"
    return None


def error_of_model(source: Source, case: GoldenCase, changes: Iterable[laws.Derived]) -> float | None:
    """Return how far the model itself breaks the law that makes these requests of a case; `None` where it refuses one.

    Args:
        source: with the model, and with the graph where that is fixed.
        case: the original request.
        changes: the changed ones.
    """
    fixed = source.data.inputs if source.mode == "full" else {}

    def answer(feeds: Mapping[str, NDArray[Any]], sizes: Sequence[int]) -> dict[str, NDArray[Any]] | None:
        given = ask_model(source, {**fixed, **_tensors(feeds)}, sizes)
        return None if given is None else {"": given.numpy()}

    base, largest = None, 0.0
    for changed in changes:
        base = base or answer(case.feeds(), case.sizes)
        again = answer(changed.feeds, changed.sizes or case.sizes)
        if base is None or again is None:
            return None
        largest = max(largest, law_error(changed, base, again))
        if largest > TOLERANCE / 10:
            break  # it may well refuse others
    return largest


def _on_one_graph(source: Source, program: Program, case: GoldenCase | None, seed: int) -> Laws:
    """Check how far features reach, and the order of pairs where the model is asked about pairs."""
    about = [laws.PAIR_ORDER, laws.INT32_INDICES] if _is_about(laws.PAIR_ORDER, program) else []
    if case is None:
        return Laws(unchecked=dict.fromkeys((*about, laws.ROW_LOCALITY), f"golden case '{ON_ONE_GRAPH}' {_LEFT_OUT}"))
    asked = [LawCheck(law, case.name, seed) for law in about]
    able = [check for check in asked if _changes(program, check, case)]
    unchecked = {check.law: f"golden case '{case.name}' {_NOTHING}" for check in asked if check not in able}
    broken = {
        check.law: _disobeys(source, program, [check], {case.name: case})
        for check in able
        if check.law != laws.INT32_INDICES
    }
    exempt = {law: why for law, why in broken.items() if why is not None}
    checks = [check for check in able if check.law not in exempt]
    local = _locality(source, program, case)
    limited = [check for check in local if check.still is not None and len(check.still)]
    if not limited:
        return Laws(tuple(checks), {**exempt, laws.ROW_LOCALITY: EVERYWHERE}, unchecked)
    if len(limited) < len(local):
        wide = ", ".join(f"'{check.features}'" for check in local if check not in limited)
        unchecked[laws.ROW_LOCALITY] = f"not of {wide}, where {EVERYWHERE}"
    return Laws((*checks, *limited), exempt, unchecked)


def _locality(source: Source, program: Program, case: GoldenCase) -> list[LawCheck]:
    """Change the features of one node of few neighbours in PyTorch, of each kind, and keep which rows stay."""
    inputs = source.data.inputs
    structure = program.structure(inputs)

    def run(feeds: Mapping[str, NDArray[Any]]) -> Tensor:
        with torch.no_grad():
            return program.run_body({**inputs, **_tensors(feeds)}, structure)

    feeds = case.feeds()
    before = run(feeds)
    checks = []
    for item in program.features:
        if item.role is Role.NODE_FEATURES:
            node = _quiet_node(source.data, str(item.shape[0]))
            after = run(laws.with_node_changed(feeds, item.name, node))
            same = (before == after) | (before.isnan() & after.isnan())
            still = torch.nonzero(same.reshape(len(same), -1).all(1)).flatten().numpy()
            checks.append(LawCheck(laws.ROW_LOCALITY, case.name, 0, node, still, item.name))
    return checks


def _quiet_node(data: GraphData, kind: str) -> int:
    """Return a node with few edges, but with some where there are any: what it changes must reach a neighbour.

    Args:
        data: the graph.
        kind: name of the number of nodes of its kind, such as `num_nodes`.
    """
    ends = [
        row
        for name, edges in data.inputs.items()
        if role_of(name) is Role.EDGE_INDEX
        for end, row in zip(ends_of(name), edges, strict=True)
        if end == kind
    ]
    degree = torch.bincount(torch.cat([*ends, torch.zeros(0, dtype=torch.int64)]), minlength=data.sizes[kind])
    degree[degree == 0] = degree.max() + 1
    return int(degree.argmin())


def _tensors(feeds: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for name, array in feeds.items()}
