"""Choose how data is fed to a Program so that no step takes more memory than a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gnnexport.errors import UnsupportedError
from gnnexport.program.data import GraphData, Split
from gnnexport.program.footprint import value_bytes
from gnnexport.program.neighbourhoods import find_neighbourhoods
from gnnexport.program.program import Program
from gnnexport.training.feeding import Feed, WholeFeed
from gnnexport.training.parts import rows_of, whole_part
from gnnexport.training.sampling import SampledFeed, choose_batches, describe, forward_footprint, step_footprint

Pieces = Callable[[Split, int | None], Sequence[GraphData]]
"""Gives the pieces of a split of a set, of no more nodes than told."""

VALUES_IN_STEP = 3
"""A step holds no more than each value, its gradient and what their ops need: this many times all values."""


def plan_feed(program: Program, data: GraphData, pieces: Pieces, limit: int | None, *, training: bool) -> Feed:
    """Return how data is fed to a Program.

    One graph is fed as a whole where that fits, which a bound on the sizes of all values tells in most cases, and
    else a measurement.

    Args:
        program: to be trained or judged.
        data: with labels.
        pieces: of the data, where it is a set of graphs.
        limit: bytes; `None` for none.
        training: whether there will be training steps.

    Raises:
        UnsupportedError: the limit is too small for a single node.
    """
    if data.num_graphs is not None or data.level == "pair":
        return _feed_set(program, pieces, limit)
    structure = program.structure(data.inputs)
    whole = WholeFeed(lambda split: [whole_part(program, data, split, structure)])
    times = VALUES_IN_STEP if training else 1
    if limit is None or times * value_bytes(program, data.inputs, structure) <= limit:
        return whole
    try:
        neighbourhoods = find_neighbourhoods(program, data.inputs, structure)
    except UnsupportedError as error:
        note = f"on the whole graph, which may take more than is allowed: {error.problems[0].what}"
        return WholeFeed(whole.made, note)
    size = neighbourhoods.num_nodes, neighbourhoods.num_slots
    step = step_footprint(program, neighbourhoods) if training else None
    if step is not None and step.bytes(*size) <= limit:
        return whole
    forward = forward_footprint(program, neighbourhoods)
    fits = forward.bytes(*size) <= limit
    if step is None:
        return whole if fits else SampledFeed(data, neighbourhoods, limit, forward, None)
    batches = choose_batches(neighbourhoods, rows_of(data, "train"), step, limit)
    at_once = (lambda split: whole_part(program, data, split, structure)) if fits else None
    note = describe(batches, neighbourhoods, limit)
    return SampledFeed(data, neighbourhoods, limit, forward, at_once, batches, note)


def _feed_set(program: Program, pieces: Pieces, limit: int | None) -> WholeFeed:
    """Cut a set of graphs so that all values of a piece fit, as far as single graphs do."""

    def made(most: int | None) -> WholeFeed:
        return WholeFeed(lambda split: [whole_part(program, piece, split) for piece in pieces(split, most)])

    if limit is None:
        return made(None)
    sample = pieces("val", None)[0]
    needed = VALUES_IN_STEP * value_bytes(program, sample.inputs, program.structure(sample.inputs))
    of_node = needed / max(sample.num_nodes, 1)
    return made(max(int(limit / of_node), 1) if of_node else None)
