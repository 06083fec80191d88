"""Choose what the numbers of a bundle are checked on, and let PyTorch say what must come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnexport.bundle.golden import GoldenCase, make_features, sample_rows
from gnnexport.pipeline.source import Source
from gnnexport.program.data import GraphData
from gnnexport.program.generated import generate
from gnnexport.program.inputs import Role
from gnnexport.program.program import Program
from gnnexport.program.verify import TOLERANCE, relative_error

EXTREME = 10.0
"""Features this many times larger than the data's are checked only where float32 can represent the answer."""

REQUEST_BYTES = 6_000_000
"""A request of real graphs up to this size is kept."""

MOST_PAIRS = 4096
"""Pairs of nodes asked about in one case."""

FIFTY = 50

Note = Callable[[str], None]


def golden_cases(source: Source, program: Program, note: Note, *, with_real: bool, seed: int) -> list[GoldenCase]:
    """Make the cases that suit the mode; the first is a typical request.

    Args:
        source: with the data.
        program: simplified, not yet lowered.
        note: takes a line for each case that is left out.
        with_real: the data's own features may be kept.
        seed: of everything random.
    """
    if source.mode == "graphs":
        return _for_new_graphs(source, program, with_real, seed)
    return _for_one_graph(source, program, note, with_real, seed)


def _for_one_graph(source: Source, program: Program, note: Note, with_real: bool, seed: int) -> list[GoldenCase]:
    """Ask about the one graph with features of many kinds."""
    data = source.data
    features = {item.role: item.name for item in program.features}
    name = features[Role.NODE_FEATURES]
    fixed = _some_pairs(data, features, seed)
    real = data.inputs[name].numpy()
    structure = program.structure(data.inputs)
    made = make_features(real.shape, real if with_real else None, seed=seed)
    count = next((value.shape[1] for value in fixed.values()), len(source.logits))
    width = (source.classes or 1) * np.dtype(np.float32).itemsize
    always = _telling_rows(data) if program.level == "node" else []
    rows = sample_rows(count, width, len(made), seed=seed, always=always)
    usual = float(np.abs(real).max(initial=1.0))
    cases = []
    for case, value in made.items():
        x = torch.from_numpy(value if isinstance(value, np.ndarray) else value.make())
        asked = {**data.inputs, **fixed, name: x}
        with torch.no_grad():
            output = program.run_body(asked, structure)
        if float(x.abs().max()) > EXTREME * usual:
            error = relative_error(_in_float64(program, asked, structure), output)
            if error > TOLERANCE / 10:
                note(f"golden case '{case}' left out: float32 itself is off by {error:.2g} there")
                continue
        inputs = {**{key: tensor.numpy() for key, tensor in fixed.items()}, name: value}
        cases.append(GoldenCase(case, inputs, {program.output: _kept(output, rows)}, rows))
    return cases


def _some_pairs(data: GraphData, features: Mapping[Role, str], seed: int) -> dict[str, Tensor]:
    """Return the pairs that every case asks about, by input name; none where the model takes no pairs."""
    name = features.get(Role.LABEL_EDGES)
    if name is None:
        return {}
    pairs = data.inputs[name]
    chosen = torch.randperm(pairs.shape[1], generator=torch.Generator().manual_seed(seed))[:MOST_PAIRS]
    return {name: pairs[:, chosen].contiguous()}


def _for_new_graphs(source: Source, program: Program, with_real: bool, seed: int) -> list[GoldenCase]:
    """Ask about graphs that the model has not seen: many, one, none of something, and what goes wrong most easily."""
    names = [item.name for item in program.inputs]
    sizes = torch.randint(1, 30, (FIFTY,), generator=torch.Generator().manual_seed(seed)).tolist()
    requests: dict[str, dict[str, Tensor]] = {}
    real = {name: source.request.inputs[name] for name in names}
    if with_real and not source.generated and sum(value.nbytes for value in real.values()) <= REQUEST_BYTES:
        requests["request"] = real
    requests["fifty graphs"] = generate(program.inputs, sizes, seed=seed)
    requests["one graph"] = generate(program.inputs, [9], seed=seed + 1)
    requests["one node"] = generate(program.inputs, [1], seed=seed + 2)
    requests["no edges"] = generate(program.inputs, [4, 2], seed=seed + 3, edges=False)
    requests["all-negative"] = generate(program.inputs, [7, 12], seed=seed + 4, negative=True)
    requests["hub"] = generate(program.inputs, [3, 300, 5], seed=seed + 5)
    if any(item.role is Role.NUM_GRAPHS for item in program.inputs):
        requests["empty graphs"] = generate(program.inputs, [5, 0, 3, 0], seed=seed + 6)
    cases = []
    for name, inputs in requests.items():
        with torch.no_grad():
            output = program(inputs)
        width = (source.classes or 1) * np.dtype(np.float32).itemsize
        rows = sample_rows(len(output), width, len(requests), seed=seed)
        given = {key: value.numpy() for key, value in inputs.items()}
        cases.append(GoldenCase(name, given, {program.output: _kept(output, rows)}, rows))
    return cases


def _kept(output: Tensor, rows: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    values = output.numpy()
    return values if rows is None else values[rows]


def _in_float64(program: Program, inputs: Mapping[str, Tensor], structure: Sequence[Any]) -> Tensor:
    """Run the body in double precision: attention on large logits amplifies the rounding of its inputs."""

    def wide(value: Any) -> Any:
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    twin = program.clone()
    twin.body.double()
    with torch.no_grad():
        return twin.run_body({name: wide(value) for name, value in inputs.items()}, [wide(item) for item in structure])


def _telling_rows(data: GraphData, count: int = 8) -> list[int]:
    """Return the nodes most likely to go wrong: the largest hubs, isolated nodes, and both ends."""
    degree = torch.bincount(data.inputs["edge_index"][1], minlength=data.num_nodes)
    hubs = torch.topk(degree, min(count, data.num_nodes)).indices.tolist()
    isolated = torch.nonzero(degree == 0).flatten()[:count].tolist()
    return sorted({0, data.num_nodes - 1, *hubs, *isolated})
