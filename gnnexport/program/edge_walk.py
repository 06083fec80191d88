"""Decide on the edges of one layer after the other, in one run of a body: layers below are computed once, not anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from gnnexport.program.edge_layers import EdgeLayer, structure_values
from gnnexport.program.edge_sets import Slots, freeze
from gnnexport.program.graphs import args_of, calls, output_node
from gnnexport.program.program import Program, arguments_of, placeholder_names

gnn = torch.ops.gnn

T = TypeVar("T")


def own_sets(program: Program, layers: list[EdgeLayer], slots: Mapping[str, Slots], places: Iterable[int]) -> Program:
    """Return a Program some of whose layers have a set of edges each, equal or not: at first all edges.

    Args:
        program: split, annotated, with all edges.
        layers: found in it.
        slots: of their structures.
        places: of the layers; others read what they did.
    """
    whole = {place: torch.ones_like(slots[layers[place].structure.rowptr].is_loop) for place in places}
    return freeze(program, layers, slots, whole, apart=True)


class EdgeWalk:
    """Runs the body of a Program as far as is asked for, while the edges of its layers are decided on.

    Values that no open layer has a part in are kept until nothing reads them any more; others are computed anew.

    Args:
        program: of `own_sets`, in evaluation mode whenever it is looked at.
        inputs: the graph, by name.
        sets: places of its layers, in the order in which they were given sets, each with the slots of its structure.
        wanted: nodes of the body that will be looked at.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Tensor], sets: Mapping[int, Slots], wanted: Iterable[fx.Node]
    ) -> None:
        assert program.prepare is not None
        self.body = program.body
        self._sets = sets
        self._prepare, self._body = (fx.Interpreter(item) for item in (program.prepare, program.body))
        kept = list(calls(program.prepare.graph, gnn.keep_slots.default))
        self._masks = {place: args_of(node)[2] for place, node in zip(sorted(sets), kept, strict=True)}
        self._of_prepare = _dependents(program.prepare.graph, {mask: place for place, mask in self._masks.items()})
        self._made = structure_values(program)
        self._names = program.structure_names
        nodes = {str(node.target): node for node in program.body.graph.find_nodes(op="placeholder")}
        self._places = {nodes[name]: self._of_prepare.get(self._made[name]) for name in self._names}
        self._features = {nodes[item.name]: inputs[item.name] for item in program.features}
        owners = {node: place for node, place in self._places.items() if place is not None}
        self._open_by = _all_dependents(program.body.graph, owners)
        self._wanted = _ancestors(wanted)
        self._start(inputs, program)
        self.restart()

    def _start(self, inputs: Mapping[str, Tensor], program: Program) -> None:
        """Run what no set has a part in of `prepare`."""
        assert program.prepare is not None
        graph = program.prepare.graph
        given = arguments_of(inputs, placeholder_names(program.prepare))
        self._prepare.env = dict(zip(graph.find_nodes(op="placeholder"), given, strict=True))
        with torch.no_grad():
            for node in graph.nodes:
                if node.op not in ("placeholder", "output") and node not in self._of_prepare:
                    self._prepare.env[node] = self._prepare.run_node(node)
        read = {item for node in [*self._of_prepare, output_node(graph)] for item in node.all_input_nodes}
        self._prepare.env = {node: value for node, value in self._prepare.env.items() if node in read}

    def restart(self) -> None:
        """Forget all that was decided and computed, as weights have changed."""
        self._open = set(self._sets)
        self._done: set[fx.Node] = set()
        self._body.env = dict(self._features)
        for node, place in self._places.items():
            if place is None:
                self._body.env[node] = self._prepare.env[self._made[str(node.target)]]
        self._given = {place: torch.ones_like(slots.is_loop) for place, slots in self._sets.items()}

    def let(self, place: int, stays: Tensor, *, decided: bool) -> None:
        """Give a layer edges.

        Args:
            place: of the layer.
            stays: bool [slots].
            decided: these are the ones that it keeps; else the layer is open still.
        """
        self._given[place] = stays
        for node, owner in self._places.items():
            if owner == place:
                self._body.env.pop(node, None)
        if decided:
            self._open.discard(place)

    def structure(self) -> tuple[Any, ...]:
        """Return what the body reads of the graph: of each layer the edges that it was given last, at first all."""
        self._prepare_for(self._places)
        found = {str(node.target): self._body.env[node] for node in self._places}
        return tuple(found[name] for name in self._names)

    def _prepare_for(self, nodes: Iterable[fx.Node]) -> None:
        """Make what the body reads of the edges of open layers, as far as nodes hang on it."""
        places = (self._places.get(node) for node in nodes if node not in self._body.env)
        base = self._prepare.env
        for place in {owner for owner in places if owner is not None}:
            env = {**base, self._masks[place]: self._sets[place].edges(self._given[place])}
            self._prepare.env = env
            with torch.no_grad():
                for node, owner in self._of_prepare.items():
                    if owner == place and node not in env:
                        env[node] = self._prepare.run_node(node)
            for node, of in self._places.items():
                if of == place:
                    self._body.env[node] = env[self._made[str(node.target)]]
        self._prepare.env = base

    def observe(self, looks: Mapping[fx.Node, Callable[[Any], T]]) -> dict[fx.Node, T]:
        """Return what is made of the values of some of the nodes wanted, on the edges that layers have now.

        Args:
            looks: what makes of a value what is returned.
        """
        env = self._body.env
        needed = _ancestors(looks, env)
        self._prepare_for(needed)
        order = [node for node in self.body.graph.nodes if node in needed and node not in env]
        uses = Counter(item for node in order for item in node.all_input_nodes)
        found = {node: look(env[node]) for node, look in looks.items() if node in env}
        with torch.no_grad():
            for node in order:
                env[node] = self._body.run_node(node)
                if node in looks:
                    found[node] = looks[node](env[node])
                if not self._is_open(node):
                    self._done.add(node)
                uses.subtract(node.all_input_nodes)
                for item in (node, *node.all_input_nodes):
                    if not uses[item]:
                        self._let_go(item)
        return found

    def _is_open(self, node: fx.Node) -> bool:
        return not self._open.isdisjoint(self._open_by.get(node, ()))

    def _let_go(self, node: fx.Node) -> None:
        """Drop a value that nothing reads any more in this run, unless later ones will."""
        if node.op == "placeholder" or node not in self._body.env:
            return
        read_later = any(user in self._wanted and user not in self._done for user in node.users)
        if self._is_open(node) or not read_later:
            del self._body.env[node]


def _dependents(graph: fx.Graph, sources: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """Return the nodes that hang on one of the sources, with the number of that source, in graph order."""
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:
        owner = sources.get(node, next((found[item] for item in node.all_input_nodes if item in found), None))
        if owner is not None and node.op != "output":
            found[node] = owner
    return found


def _all_dependents(graph: fx.Graph, sources: Mapping[fx.Node, int]) -> dict[fx.Node, frozenset[int]]:
    """Return the nodes that hang on any of the sources, with the numbers of all of these."""
    found = {node: frozenset([place]) for node, place in sources.items()}
    for node in graph.nodes:
        owners: frozenset[int] = frozenset().union(*(found.get(item, ()) for item in node.all_input_nodes))
        if owners:
            found[node] = found.get(node, frozenset()) | owners
    return found


def _ancestors(nodes: Iterable[fx.Node], known: Mapping[fx.Node, Any] | None = None) -> set[fx.Node]:
    """Return nodes with all that they are computed from, as far as it is not known."""
    found: set[fx.Node] = set()
    left = [node for node in nodes if known is None or node not in known]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += [item for item in node.all_input_nodes if known is None or item not in known]
    return found
