"""Choose what the numbers of a bundle are checked on, and let PyTorch say what must come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnnexport.bundle.features import FeatureKind, Features
from gnnexport.bundle.golden import Flips, GoldenCase, make_features, sample_rows, stored_size
from gnnexport.conformance.graphs import MANY, adversarial_graphs, many_nodes
from gnnexport.errors import UnsupportedError
from gnnexport.pipeline.level_flips import find_flips
from gnnexport.pipeline.model_answers import ask_model, check_capture
from gnnexport.pipeline.source import Source
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData
from gnnexport.program.generated import by_destination, generate
from gnnexport.program.inputs import NUM_EDGES, NUM_NODES, Input, Role, ends_of, suffix_of
from gnnexport.program.program import Program
from gnnexport.program.verify import TOLERANCE, relative_error
from gnnexport.validate.parity import explained

EXTREME = 10.0
"""Features this many times larger than the data's are checked only where float32 can represent the answer."""

REQUEST_BYTES = 6_000_000
"""A request of real graphs that takes no more than this, compressed, is kept."""

MANY_ENTRIES, MANY_MACS, MANY_BYTES = 8_000_000, 2_000_000_000, 400_000_000
"""What the request with many nodes may take: numbers of features, multiply-accumulates, and bytes of one op."""

FIFTY = 50
NEGATIVE = "all-negative"
"""Every feature is below zero, which shows up a maximum that starts from zero."""

FEATURES = {Role.NODE_FEATURES, Role.EDGE_FEATURES, Role.EDGE_WEIGHT}
"""What is left out of a bundle that may hold no features."""

Array = NDArray[Any]
Given = dict[str, Array | Features]


@dataclass(frozen=True)
class Made:
    """A request.

    Args:
        given: values by input name.
        made_up: the model has not answered it yet.
        sizes: nodes of each graph, where it is made up of nodes of one kind.
    """

    given: Given
    made_up: bool = False
    sizes: tuple[int, ...] = ()


Note = Callable[[str], None]


def golden_cases(
    source: Source, program: Program, note: Note, *, with_real: bool, seed: int, same: bool = True
) -> list[GoldenCase]:
    """Make the cases that suit the mode; the first is a typical request.

    Args:
        source: with the data.
        program: simplified, not yet lowered.
        note: takes a line for each case that is left out.
        with_real: the data's own features may be kept.
        seed: of everything random.
        same: the Program computes what the model computes; not so once something compressed it.

    Raises:
        ParityError: it should and does not, on one of the graphs.
        UnsupportedError: it cannot run on one of the graphs, and the model can.
    """
    if source.mode == "graphs":
        return _for_new_graphs(source, program, note, with_real, seed, same)
    return _for_one_graph(source, program, note, with_real, seed)


def _for_one_graph(source: Source, program: Program, note: Note, with_real: bool, seed: int) -> list[GoldenCase]:
    """Ask about the one graph with features of many kinds."""
    data = source.data
    asks = [item.name for item in program.features if item.role is Role.LABEL_EDGES]
    fixed = {asked: source.request.inputs[asked] for asked in asks}
    real = {item.name: data.inputs[item.name].numpy() for item in program.features if item.role is Role.NODE_FEATURES}
    structure = program.structure(data.inputs)
    made = _features(real, with_real, seed)
    count = next((value.shape[1] for value in fixed.values()), len(source.logits))
    width = (source.classes or 1) * np.dtype(np.float32).itemsize
    always = _telling_rows(data) if program.level == "node" else []
    rows = sample_rows(count, width, len(made), seed=seed, always=always)
    usual = max(float(np.abs(value).max(initial=1.0)) for value in real.values())
    cases = []
    for case, given in made.items():
        features = _tensors(given)
        asked = {**data.inputs, **fixed, **features}
        with torch.no_grad():
            output = program.run_body(asked, structure)
        flips = find_flips(program, asked, structure, output, seed=seed)
        if max(float(x.abs().max()) for x in features.values()) > EXTREME * usual:
            error = _own_error(_in_float64(program), asked, structure, output, flips)
            if error > TOLERANCE / 10:
                note(_left_out(case, error))
                continue
        inputs = {**{key: tensor.numpy() for key, tensor in fixed.items()}, **given}
        cases.append(GoldenCase(case, inputs, {program.output: _kept(output, rows)}, rows, flips=flips))
    return cases


def _features(real: Mapping[str, NDArray[np.float32]], with_real: bool, seed: int) -> dict[str, Given]:
    """Make the features of each case by the name of the input: of each kind of nodes, where there are several."""
    made = {
        name: make_features(value.shape, value if with_real else None, seed=seed + 1000 * place)
        for place, (name, value) in enumerate(real.items())
    }
    shared = [case for case in next(iter(made.values())) if all(case in cases for cases in made.values())]
    return {case: {name: cases[case] for name, cases in made.items()} for case in shared}


def _for_new_graphs(
    source: Source, program: Program, note: Note, with_real: bool, seed: int, same: bool
) -> list[GoldenCase]:
    """Ask about graphs that the model has not seen: many, one, none of something, and what goes wrong most easily."""
    twin = _in_float64(program)
    width = (source.classes or 1) * np.dtype(np.float32).itemsize
    requests = {**_timed(source, program, note, with_real, seed), **_made_up(source, program, note, seed)}
    cases = []
    for name, made in requests.items():
        asked = _asked(source, program, name, made, note)
        if asked is None:
            continue
        flips = find_flips(program, asked.inputs, asked.structure, asked.output, seed=seed)
        if source.generated or any(isinstance(value, Features) for value in asked.given.values()):
            error = _own_error(twin, asked.inputs, asked.structure, asked.output, flips)
            if error > TOLERANCE / 10:
                note(_left_out(name, error))
                continue
        if same and asked.answer is not None:
            check_capture(source, name, asked.inputs, made.sizes, asked.answer, asked.output)
        rows = sample_rows(len(asked.output), width, len(requests), seed=seed)
        expected = {program.output: _kept(asked.output, rows)}
        cases.append(GoldenCase(name, asked.given, expected, rows, made.sizes, flips))
    return cases


@dataclass(frozen=True)
class _Asked:
    """A request and what came of it.

    Args:
        answer: of the model itself; `None` where it was not asked.
        output: of the Program.
    """

    given: Given
    inputs: Mapping[str, Tensor]
    structure: Sequence[Any]
    answer: Tensor | None
    output: Tensor


def _asked(source: Source, program: Program, name: str, made: Made, note: Note) -> _Asked | None:
    """Run the model and the Program; `None`, with a note, for graphs that the model itself refuses.

    Where it refuses edges in any order, it gets them sorted by destination.

    Raises:
        UnsupportedError: the Program cannot run on graphs that the model can.
    """
    given, answer = made.given, None
    inputs = _tensors(given)
    if made.made_up:
        answer = ask_model(source, inputs, made.sizes)
        if answer is None:
            given = _by_destination(program, given)
            inputs = _tensors(given)
            answer = ask_model(source, inputs, made.sizes)
        if answer is None:
            note(f"golden case '{name}' left out: the model itself cannot run on it")
            return None
    try:
        structure = program.structure(inputs)
        with torch.no_grad():
            output = program.run_body(inputs, structure)
    except (RuntimeError, IndexError, ValueError, TypeError, AssertionError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        what = f"what was captured cannot run on the graph '{name}', which the model itself can: {first}"
        mend = "Look for control flow on the number of nodes, edges or graphs in the model's forward"
        raise UnsupportedError.at(source.class_name, what, mend) from error
    return _Asked(given, inputs, structure, answer, output)


def _tensors(given: Given) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(value.make() if isinstance(value, Features) else value) for name, value in given.items()
    }


def _by_destination(program: Program, given: Given) -> Given:
    """Sort the edges of a request by destination, with all that belongs to them."""
    ordered = by_destination(program.inputs, _tensors(given))
    along_edges = {item.name for item in program.inputs if NUM_EDGES in item.shape}
    return {name: ordered[name].numpy() if name in along_edges else value for name, value in given.items()}


def _timed(source: Source, program: Program, note: Note, with_real: bool, seed: int) -> dict[str, Made]:
    """Return the request that is timed; its features are made up where its own may not be kept or take much room.

    Nothing where even its graphs take too much room.
    """
    names = [item.name for item in program.inputs]
    real = {name: source.request.inputs[name].numpy() for name in names}
    if (with_real or source.generated) and stored_size(*real.values()) <= REQUEST_BYTES:
        return {"request": Made({**real})}
    graph = {item.name for item in program.inputs if item.role not in FEATURES}
    if stored_size(*(real[name] for name in graph)) > REQUEST_BYTES:
        note("the timed request is too large to be kept: validate times a smaller one, and gives no speedup")
        return {}
    made = _with_recipes(program, generate(program.inputs, [1], seed=seed), source, seed, like=real)
    note("the timed request is kept with made-up features, which is what validate times")
    return {"request": Made({name: real[name] if name in graph else made[name] for name in names})}


def _made_up(source: Source, program: Program, note: Note, seed: int) -> dict[str, Made]:
    """Make the requests that data seldom holds, the most usual first."""
    inputs = program.inputs
    fifty = torch.randint(1, 30, (FIFTY,), generator=torch.Generator().manual_seed(seed)).tolist()
    sizes: dict[str, list[int]] = {
        "fifty graphs": fifty,
        "one graph": [9],
        "one node": [1],
        "no edges": [4, 2],
        NEGATIVE: [7, 12],
        "hub": [3, 300, 5],
    }
    if any(item.role is Role.NUM_GRAPHS for item in inputs):
        sizes["empty graphs"] = [5, 0, 3, 0]
    drawn = {
        name: (counts, generate(inputs, counts, seed=seed + offset, edges=name != "no edges"))
        for offset, (name, counts) in enumerate(sizes.items())
    }
    roles = [item.role for item in inputs]
    if roles.count(Role.EDGE_INDEX) == roles.count(Role.NODE_FEATURES) == 1:
        for name, graph in adversarial_graphs().items():
            edges = torch.from_numpy(graph.edges)
            drawn[name] = list(graph.sizes), generate(inputs, graph.sizes, seed=seed + len(drawn), edges=edges)
        drawn |= _many(program, note, seed)
    for kind in (suffix_of(item.name) for item in inputs if item.role is Role.NODE_FEATURES and source.data.keys):
        if kind != program.target:
            made = generate(inputs, [6, 5], seed=seed + len(drawn))
            drawn[f"no {kind.strip('_')}"] = [6, 5], _without_kind(inputs, made, NUM_NODES + kind)
    return {
        name: Made(
            _with_recipes(program, values, source, seed + offset, kind="negative" if name == NEGATIVE else "normal"),
            made_up=True,
            sizes=() if source.data.keys else tuple(counts),
        )
        for offset, (name, (counts, values)) in enumerate(drawn.items())
    }


def _without_kind(inputs: Sequence[Input], made: Mapping[str, Tensor], nodes: str) -> dict[str, Tensor]:
    """Take all nodes of a kind out of a graph of several kinds, and every edge from or to one."""
    gone = {nodes} | {
        NUM_EDGES + suffix_of(item.name)
        for item in inputs
        if item.role is Role.EDGE_INDEX and nodes in ends_of(item.name)
    }
    found = dict(made)
    for item in inputs:
        for axis, size in enumerate(item.shape):
            if size in gone:
                found[item.name] = found[item.name].narrow(axis, 0, 0).contiguous()
    return found


def _many(program: Program, note: Note, seed: int) -> dict[str, tuple[list[int], dict[str, Tensor]]]:
    """Make the request with the largest indices, unless the model is too wide for it."""
    graph = many_nodes()
    inputs = program.inputs
    width = sum(size for item in inputs if item.role in FEATURES for size in item.shape if isinstance(size, int))
    if width * graph.num_nodes <= MANY_ENTRIES:
        made = generate(inputs, graph.sizes, seed=seed, edges=torch.from_numpy(graph.edges))
        if _affordable(program, made):
            return {MANY: (list(graph.sizes), made)}
    note(f"golden case '{MANY}' left out: {graph.num_nodes:,} nodes may take too long with this model")
    return {}


def _affordable(program: Program, made: Mapping[str, Tensor]) -> bool:
    """Tell whether one inference takes a moment; not where nothing can be told without running it."""
    try:
        cost = measure_cost(program, made)
    except RuntimeError:  # sizes that depend on values
        return False
    largest = max((op.bytes_moved for op in cost.ops), default=0)
    return cost.macs() <= MANY_MACS and largest <= MANY_BYTES


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


def _own_error(
    twin: Program, inputs: Mapping[str, Tensor], structure: Sequence[Any], output: Tensor, flips: Flips | None
) -> float:
    """Return how far float32 is off by itself; zero where a model computes in float32 whatever it is given.

    Args:
        twin: what `_in_float64` returned.
        inputs: in single precision, as the structure values.
        structure: values of the graph.
        output: of the Program.
        flips: rows that levels on a border explain.
    """

    def wide(value: Any) -> Any:
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    try:
        with torch.no_grad():
            exact = twin.run_body({name: wide(value) for name, value in inputs.items()}, [*map(wide, structure)])
    except RuntimeError:  # float32 is written into the model, as in the first state of a recurrent cell
        return 0.0
    rows = explained(exact.numpy(), output.numpy(), exact.numpy(), flips)
    held = np.flatnonzero(rows if rows.all() else ~rows)
    return relative_error(exact[held], output[held])


def _telling_rows(data: GraphData, count: int = 8) -> list[int]:
    """Return the nodes most likely to go wrong: the largest hubs, isolated nodes, and both ends."""
    if data.keys:
        return [0, data.sizes[NUM_NODES + data.target] - 1]
    degree = torch.bincount(data.inputs["edge_index"][1], minlength=data.num_nodes)
    hubs = torch.topk(degree, min(count, data.num_nodes)).indices.tolist()
    isolated = torch.nonzero(degree == 0).flatten()[:count].tolist()
    return sorted({0, data.num_nodes - 1, *hubs, *isolated})
