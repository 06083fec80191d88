"""Choose what the numbers of a bundle are checked on, and let PyTorch say what must come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnnexport.bundle.features import FeatureKind, Features
from gnnexport.bundle.golden import GoldenCase, make_features, sample_rows, stored_size
from gnnexport.pipeline.source import Source
from gnnexport.program.data import GraphData
from gnnexport.program.generated import generate
from gnnexport.program.inputs import Role
from gnnexport.program.program import Program
from gnnexport.program.verify import TOLERANCE, relative_error

EXTREME = 10.0
"""Features this many times larger than the data's are checked only where float32 can represent the answer."""

REQUEST_BYTES = 6_000_000
"""A request of real graphs that takes no more than this, compressed, is kept."""

FIFTY = 50
NEGATIVE = "all-negative"
"""Every feature is below zero, which shows up a maximum that starts from zero."""

FEATURES = {Role.NODE_FEATURES, Role.EDGE_FEATURES, Role.EDGE_WEIGHT}
"""What is left out of a bundle that may hold no features."""

Array = NDArray[Any]
Given = dict[str, Array | Features]
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
        return _for_new_graphs(source, program, note, with_real, seed)
    return _for_one_graph(source, program, note, with_real, seed)


def _for_one_graph(source: Source, program: Program, note: Note, with_real: bool, seed: int) -> list[GoldenCase]:
    """Ask about the one graph with features of many kinds."""
    data = source.data
    features = {item.role: item.name for item in program.features}
    name = features[Role.NODE_FEATURES]
    asks = [features[Role.LABEL_EDGES]] if Role.LABEL_EDGES in features else []
    fixed = {asked: source.request.inputs[asked] for asked in asks}
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
            error = relative_error(_run_wide(_in_float64(program), asked, structure), output)
            if error > TOLERANCE / 10:
                note(_left_out(case, error))
                continue
        inputs = {**{key: tensor.numpy() for key, tensor in fixed.items()}, name: value}
        cases.append(GoldenCase(case, inputs, {program.output: _kept(output, rows)}, rows))
    return cases


def _for_new_graphs(source: Source, program: Program, note: Note, with_real: bool, seed: int) -> list[GoldenCase]:
    """Ask about graphs that the model has not seen: many, one, none of something, and what goes wrong most easily."""
    twin = _in_float64(program)
    width = (source.classes or 1) * np.dtype(np.float32).itemsize
    requests = {**_timed(source, program, note, with_real, seed), **_made_up(source, program, seed)}
    cases = []
    for name, given in requests.items():
        feeds = {key: value.make() if isinstance(value, Features) else value for key, value in given.items()}
        inputs = {key: torch.from_numpy(value) for key, value in feeds.items()}
        structure = program.structure(inputs)
        with torch.no_grad():
            output = program.run_body(inputs, structure)
        if source.generated or any(isinstance(value, Features) for value in given.values()):
            error = relative_error(_run_wide(twin, inputs, structure), output)
            if error > TOLERANCE / 10:
                note(_left_out(name, error))
                continue
        rows = sample_rows(len(output), width, len(requests), seed=seed)
        cases.append(GoldenCase(name, given, {program.output: _kept(output, rows)}, rows))
    return cases


def _timed(source: Source, program: Program, note: Note, with_real: bool, seed: int) -> dict[str, Given]:
    """Return the request that is timed; its features are made up where its own may not be kept or take much room.

    Nothing where even its graphs take too much room.
    """
    names = [item.name for item in program.inputs]
    real = {name: source.request.inputs[name].numpy() for name in names}
    if (with_real or source.generated) and stored_size(*real.values()) <= REQUEST_BYTES:
        return {"request": {**real}}
    graph = {item.name for item in program.inputs if item.role not in FEATURES}
    if stored_size(*(real[name] for name in graph)) > REQUEST_BYTES:
        note("the timed request is too large to be kept: validate times a smaller one, and gives no speedup")
        return {}
    made = _with_recipes(program, generate(program.inputs, [1], seed=seed), source, seed, like=real)
    note("the timed request is kept with made-up features, which is what validate times")
    return {"request": {name: real[name] if name in graph else made[name] for name in names}}


def _made_up(source: Source, program: Program, seed: int) -> dict[str, Given]:
    """Make the requests that data seldom holds, the most usual first."""
    inputs = program.inputs
    sizes = torch.randint(1, 30, (FIFTY,), generator=torch.Generator().manual_seed(seed)).tolist()
    made = {
        "fifty graphs": generate(inputs, sizes, seed=seed),
        "one graph": generate(inputs, [9], seed=seed + 1),
        "one node": generate(inputs, [1], seed=seed + 2),
        "no edges": generate(inputs, [4, 2], seed=seed + 3, edges=False),
        NEGATIVE: generate(inputs, [7, 12], seed=seed + 4),
        "hub": generate(inputs, [3, 300, 5], seed=seed + 5),
    }
    if any(item.role is Role.NUM_GRAPHS for item in inputs):
        made["empty graphs"] = generate(inputs, [5, 0, 3, 0], seed=seed + 6)
    return {
        name: _with_recipes(program, values, source, seed + offset, kind="negative" if name == NEGATIVE else "normal")
        for offset, (name, values) in enumerate(made.items())
    }


def _with_recipes(
    program: Program,
    made: Mapping[str, Tensor],
    source: Source,
    seed: int,
    *,
    kind: FeatureKind = "normal",
    like: Mapping[str, Array] | None = None,
) -> Given:
    """Replace features by recipes, of the magnitude of the data's: wide ones would not fit into a bundle.

    Args:
        program: whose inputs these are.
        made: values of its inputs.
        source: with the data.
        seed: of the recipes.
        kind: of noise.
        like: what has the shapes that are wanted; `made` itself unless given.
    """
    shapes = {name: value.shape for name, value in (like or made).items()}
    given: Given = {name: value.numpy() for name, value in made.items()}
    for offset, item in enumerate(program.inputs):
        shape = shapes[item.name]
        if item.role in FEATURES and len(shape) == 2:
            scale = 1.0 if source.generated else _magnitude(source.request.inputs[item.name])
            given[item.name] = Features(kind=kind, shape=(shape[0], shape[1]), seed=seed + 100 * offset, scale=scale)
        elif item.role in FEATURES and given[item.name].shape != shape:
            draw = np.random.default_rng(seed + offset).random(shape, np.float32)
            given[item.name] = draw + np.float32(0.1)
    return given


def _magnitude(values: Tensor) -> float:
    """Return the root mean square of all entries but zeros; 1 where there are none, or one is not finite."""
    entries = values[values != 0].double()
    found = float(entries.square().mean().sqrt()) if len(entries) else 1.0
    return found if math.isfinite(found) else 1.0


def _kept(output: Tensor, rows: Array | None) -> Array:
    values = output.numpy()
    return values if rows is None else values[rows]


def _left_out(name: str, error: float) -> str:
    return f"golden case '{name}' left out: float32 itself is off by {error:.2g} there"


def _in_float64(program: Program) -> Program:
    """Return a twin whose body runs in double precision: attention on large logits amplifies rounding."""
    twin = program.clone()
    twin.body.double()
    return twin


def _run_wide(twin: Program, inputs: Mapping[str, Tensor], structure: Sequence[Any]) -> Tensor:
    """Run what `_in_float64` returned on values of single precision."""

    def wide(value: Any) -> Any:
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    with torch.no_grad():
        return twin.run_body({name: wide(value) for name, value in inputs.items()}, [wide(item) for item in structure])


def _telling_rows(data: GraphData, count: int = 8) -> list[int]:
    """Return the nodes most likely to go wrong: the largest hubs, isolated nodes, and both ends."""
    degree = torch.bincount(data.inputs["edge_index"][1], minlength=data.num_nodes)
    hubs = torch.topk(degree, min(count, data.num_nodes)).indices.tolist()
    isolated = torch.nonzero(degree == 0).flatten()[:count].tolist()
    return sorted({0, data.num_nodes - 1, *hubs, *isolated})
