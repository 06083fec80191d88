"""The Program: what every pass takes and returns."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from gnnexport.bundle.stages import FeatureBits, StoreBits
from gnnexport.program.dialect import ops as _dialect  # noqa: F401  registers the ops that graphs refer to
from gnnexport.program.dialect import orders as _orders  # noqa: F401
from gnnexport.program.dialect import quantize as _quantize  # noqa: F401
from gnnexport.program.dialect import subsets as _subsets  # noqa: F401
from gnnexport.program.dialect import tables as _tables  # noqa: F401
from gnnexport.program.functional import set_training
from gnnexport.program.inputs import (
    NUM_EDGES,
    NUM_GRAPHS,
    NUM_NODES,
    NUM_PAIRS,
    ROWS,
    TYPES,
    Input,
    Level,
    Role,
    ends_of,
    role_of,
    suffix_of,
)
from gnnexport.program.shapes import annotate

EXAMPLE_SEED = 0
EXAMPLE_NODES = (11, 17)
_MORE = 3
"""A further kind of nodes has so many more; one edge in so many of a further kind of edges goes to the first node."""


class Program(nn.Module):
    """A captured model that can be run, trained and measured at every stage.

    Args:
        body: takes the inputs (before the split) or the features and the structure values (after it).
        inputs: the model's arguments in order.
        output: name of the result, such as `logits`.
        source: class name of the captured model.
        prepare: takes the structure inputs and the number of nodes and returns the structure values
            that `body` reads; `None` before the split.
        level: what a row of the output is about.
        target: which nodes the rows are where there are several kinds, `__paper`; else empty.
        training_blocker: why the Program cannot be retrained, or what finds it out; `None` when it can.
        store_bits: of a number in the rows that mode `batched` keeps between requests.
        feature_bits: most bits of a feature, where mode `batched` stores features packed.
        sparse_weights: names of parameters of the body whose zeros stay zero in training.
    """

    def __init__(
        self,
        body: fx.GraphModule,
        inputs: Sequence[Input],
        *,
        output: str = "logits",
        source: str = "",
        prepare: fx.GraphModule | None = None,
        level: Level = "node",
        target: str = "",
        training_blocker: str | Callable[[], str | None] | None = None,
        store_bits: StoreBits = 32,
        feature_bits: FeatureBits = 8,
        sparse_weights: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.prepare = prepare
        self.inputs = tuple(inputs)
        self.output = output
        self.source = source
        self.level = level
        self.target = target
        self._training_blocker = training_blocker
        self.store_bits = store_bits
        self.feature_bits = feature_bits
        self.sparse_weights = frozenset(sparse_weights)
        self.training = False

    @property
    def training_blocker(self) -> str | None:
        """Why the Program cannot be retrained; `None` when it can. To find out takes a capture when first asked."""
        known = self._training_blocker
        return known() if callable(known) else known

    @training_blocker.setter
    def training_blocker(self, reason: str | None) -> None:
        self._training_blocker = reason

    @property
    def features(self) -> tuple[Input, ...]:
        """The inputs that change from inference to inference."""
        return tuple(item for item in self.inputs if not item.role.is_structure)

    @property
    def rows(self) -> str:
        """Name of the number of rows of the output."""
        return ROWS[self.level] + self.target

    @property
    def structure_names(self) -> tuple[str, ...]:
        """Names of the structure values that the body reads, after the split."""
        if self.prepare is None:
            return ()
        return tuple(placeholder_names(self.body)[len(self.features) :])

    def structure(self, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Run `prepare`: everything that depends on the graph alone, in the order the body takes it."""
        if self.prepare is None:
            return ()
        with torch.no_grad():
            return tuple(self.prepare(*arguments_of(inputs, placeholder_names(self.prepare))))

    def run_body(self, inputs: Mapping[str, Tensor], structure: Sequence[Any]) -> Tensor:
        """Run the body on features and on what `structure` gave, which may be reused between calls."""
        given = self.inputs if self.prepare is None else self.features
        result: Tensor = self.body(*arguments_of(inputs, [item.name for item in given]), *structure)
        return result

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the whole Program on named inputs; returns the output, float32 [rows, channels] or [rows]."""
        return self.run_body(inputs, self.structure(inputs))

    def train(self, mode: bool = True) -> Program:
        """Set the training arguments of dropout and batch normalisation."""
        self.training = mode
        set_training(self.body, mode)
        return self

    def clone(self) -> Program:
        """Copy everything, so that a pass leaves the Program it was given as it was."""
        twin = Program(
            copy.deepcopy(self.body),
            self.inputs,
            output=self.output,
            source=self.source,
            prepare=copy.deepcopy(self.prepare),
            level=self.level,
            target=self.target,
            training_blocker=self._training_blocker,
            store_bits=self.store_bits,
            feature_bits=self.feature_bits,
            sparse_weights=self.sparse_weights,
        )
        twin.training = self.training
        return twin

    def annotate(self) -> None:
        """Record the shapes of every value in both graphs, from runs on two small graphs in evaluation mode."""
        mode = self.training
        self.train(False)
        try:
            self._annotate()
        finally:
            self.train(mode)

    def _annotate(self) -> None:
        examples = [self.example(num_nodes) for num_nodes in EXAMPLE_NODES]
        if self.prepare is None:
            names = [item.name for item in self.inputs]
            annotate(self.body, [arguments_of(example, names) for example in examples])
            return
        names = placeholder_names(self.prepare)
        annotate(self.prepare, [arguments_of(example, names) for example in examples])
        names = [item.name for item in self.features]
        annotate(self.body, [[*arguments_of(example, names), *self.structure(example)] for example in examples])

    def example(self, num_nodes: int = EXAMPLE_NODES[0], seed: int = EXAMPLE_SEED) -> dict[str, Tensor]:
        """Make inputs for a small graph to check passes with."""
        return example_inputs(self.inputs, num_nodes, seed)


def example_inputs(
    inputs: Sequence[Input], num_nodes: int = EXAMPLE_NODES[0], seed: int = EXAMPLE_SEED
) -> dict[str, Tensor]:
    """Make values for a graph with isolated nodes, self-loops, duplicates and a hub; the last of several is empty."""
    generator = torch.Generator().manual_seed(seed)
    counts = example_counts(num_nodes)
    num_graphs = counts["graph"]
    sizes = {NUM_NODES: num_nodes, NUM_GRAPHS: num_graphs, NUM_PAIRS: counts["pair"]}
    sizes |= example_nodes(inputs, num_nodes)
    edges: dict[str, Tensor] = {}
    for item in inputs:
        if item.role is Role.EDGE_INDEX:
            source, destination = ends_of(item.name)
            edges[item.name] = _edges_between(sizes[source], sizes[destination], sizes.values(), generator)
            sizes[NUM_EDGES + suffix_of(item.name)] = edges[item.name].shape[1]
    values: dict[str, Tensor] = {}
    for item in inputs:
        shape = [sizes[size] if isinstance(size, str) else size for size in item.shape]
        if item.role is Role.EDGE_INDEX:
            values[item.name] = edges[item.name]
        elif item.role is Role.EDGE_WEIGHT:
            values[item.name] = torch.rand(shape, generator=generator) + 0.1
        elif item.role in TYPES:
            values[item.name] = example_types(shape[0], item.types or 1, generator)
        elif item.role is Role.GRAPH_IDS:
            values[item.name] = torch.arange(num_nodes) * (num_graphs - 1) // num_nodes
        elif item.role is Role.NUM_GRAPHS:
            values[item.name] = torch.tensor(num_graphs)
        elif item.role is Role.LABEL_EDGES:
            values[item.name] = torch.randint(0, num_nodes, shape, generator=generator)
        else:
            values[item.name] = torch.randn(shape, generator=generator)
    return values


def example_nodes(inputs: Sequence[Input], num_nodes: int) -> dict[str, int]:
    """Return how many nodes of each kind an example has, by name: no two kinds have equally many."""
    names = [NUM_NODES + suffix_of(item.name) for item in inputs if item.role is Role.NODE_FEATURES]
    return {name: num_nodes + _MORE * place for place, name in enumerate(names)}


def _edges_between(num_src: int, num_dst: int, taken: Collection[int], generator: torch.Generator) -> Tensor:
    """Draw the edges of one kind; no two kinds have equally many, nor as many as there are of anything else."""
    if num_src == num_dst and (edges := example_edges(num_dst, generator)).shape[1] not in taken:
        return edges
    last = max(num_dst - 1, 1)
    count = next(number for number in itertools.count(3 * last + 1) if number not in taken)
    source = torch.randint(0, num_src, (count,), generator=generator)
    destination = torch.randint(0, last, (count,), generator=generator)
    destination[: len(source) // _MORE] = 0
    return torch.stack([source, destination])


def example_edges(num_nodes: int, generator: torch.Generator) -> Tensor:
    """Draw an edge index: the last node isolated, node 0 a hub, one self-loop, one duplicate."""
    last = max(num_nodes - 1, 1)
    random = torch.randint(0, last, (2, 3 * last), generator=generator)
    hub = torch.stack([torch.arange(last), torch.zeros(last, dtype=torch.int64)])
    loop = torch.zeros(2, 1, dtype=torch.int64)
    return torch.cat([random, hub, random[:, :1], loop], 1)


def example_types(count: int, kinds: int, generator: torch.Generator) -> Tensor:
    """Draw types, int64 [count], the later ones more often, so that few types have equally many rows."""
    drawn = torch.rand(count, generator=generator).sqrt() * kinds
    return drawn.to(torch.int64).clamp(max=kinds - 1)


def example_counts(num_nodes: int) -> dict[str, int]:
    """Return how many nodes, graphs and pairs an example of so many nodes has: no two counts are the same."""
    return {"node": num_nodes, "graph": num_nodes // 3 + 1, "pair": 2 * num_nodes + 1}


def example_rows(example: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many nodes, graphs and pairs inputs hold, as far as they hold any, by the names in `ROWS`.

    Of several kinds of nodes each has a number: `num_nodes__paper`.
    """
    rows = node_counts(example)
    for name, value in example.items():
        if role_of(name) is Role.NUM_GRAPHS:
            rows[NUM_GRAPHS] = int(value)
        elif role_of(name) is Role.LABEL_EDGES:
            rows[NUM_PAIRS] = value.shape[1]
    return rows


def node_counts(inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """Return how many nodes there are of each kind, by name."""
    features = {name: value for name, value in inputs.items() if role_of(name) is Role.NODE_FEATURES}
    return {NUM_NODES + suffix_of(name): len(value) for name, value in features.items()}


def arguments_of(inputs: Mapping[str, Tensor], names: Sequence[str]) -> list[Any]:
    """Return values by name as the graphs take them: counts are plain numbers."""
    counts: dict[str, Any] = {}
    if NUM_GRAPHS in inputs:
        counts[NUM_GRAPHS] = int(inputs[NUM_GRAPHS])
    if any(name.startswith(NUM_NODES) for name in names):
        counts |= node_counts(inputs)
    return [counts[name] if name in counts else inputs[name] for name in names]


def placeholder_names(module: fx.GraphModule) -> list[str]:
    """Return the names of a graph's inputs, in order."""
    return [str(node.target) for node in module.graph.nodes if node.op == "placeholder"]
