"""Choose how a quantised model is computed: each form whole, by timing, so that none is taken which is slower."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from gnnexport.targets.onnx.choice import Candidate, Choices, time_candidates, winner_first
from gnnexport.targets.onnx.executed import executed, operands_of
from gnnexport.targets.onnx.narrow_fusion import fuse_narrow
from gnnexport.targets.onnx.narrow_layers import narrow_layers
from gnnexport.targets.onnx.narrow_sums import narrow_sums
from gnnexport.targets.onnx.quantised_integer import integer_layers
from gnnexport.targets.onnx.quantised_standard import expand_quantisers
from gnnexport.targets.onnx.quantised_weights import fold_weights, widen_weights
from gnnexport.targets.onnx.quantisers import quantise_nodes

Form = Literal["float", "integer", "narrow", "narrow-sums"]

KEY = "quantised operands"
"""What the choice is called in `decisions.json`."""

TIMED_SHARE = 0.3
"""Share of the time for choosing lowerings that timing forms may take."""


@dataclass
class Formed:
    """What a form made of a graph.

    Args:
        arithmetic: of each operand that is computed with as levels, by name.
        packed: bits of a number of each operand that lies packed in memory, by name; 0 where it never lies there.
    """

    arithmetic: dict[str, str] = field(default_factory=dict)
    packed: dict[str, int] = field(default_factory=dict)


def forms_for(*, native: bool, narrow: bool) -> tuple[Form, ...]:
    """Return the forms that a runtime can run, the one that is taken untimed first.

    Args:
        native: our kernels run the reductions.
        narrow: the runtime has those that compute with few bits.
    """
    if native:
        return ("narrow", "narrow-sums", "float") if narrow else ("float",)
    return ("float", "integer")


def take_form(graph: ir.Graph, form: Form, *, native: bool) -> Formed:
    """Bring the quantisers of a graph into a form, in place; none are left.

    Args:
        graph: with the dialect.
        form: one of `forms_for`.
        native: our kernels run the reductions, which read weights as floats but where they read levels.
    """
    fold_weights(graph)
    formed = Formed()
    if form in ("narrow", "narrow-sums"):
        formed.arithmetic.update(narrow_sums(graph))
        formed.packed.update({name: int(how[1]) for name, how in formed.arithmetic.items()})
    if form == "narrow":
        layers = narrow_layers(graph)
        formed.arithmetic.update(layers)
        formed.packed.update(dict.fromkeys(layers, 0))
    if form in ("narrow", "narrow-sums"):
        fuse_narrow(graph)
    if form == "integer":
        layers = integer_layers(graph)
        formed.arithmetic.update(layers)
        formed.packed.update(dict.fromkeys(layers, 8))
    if native:
        widen_weights(graph)
    expand_quantisers(graph)
    return formed


def lower_quantised(
    model: ir.Model,
    choices: Choices,
    forms: Sequence[Form],
    build: Callable[[Form], tuple[ir.Model, Formed]],
    feeds: Mapping[str, NDArray[Any]],
) -> ir.Model:
    """Return a model in the form that is fastest; what was chosen is noted in `choices`.

    Args:
        model: with its quantisers.
        choices: how to choose.
        forms: that are possible, the one that is taken untimed first.
        build: lowers the model in a form.
        feeds: a typical request; empty where there is none.
    """
    listed = operands_of(model.graph)
    candidates = _candidates(choices, forms, lambda form: build(form)[0], feeds)
    chosen = candidates[0].name
    lowered, formed = build(next(form for form in forms if form == chosen))
    choices.decisions[KEY] = chosen
    timed = [{"name": item.name, "latency_ms": item.latency_ms} for item in candidates]
    choices.rows.append({"op": KEY, "chosen": chosen, "candidates": timed})
    choices.operands += executed(listed, lowered.graph, formed.arithmetic, formed.packed)
    return lowered


def _candidates(
    choices: Choices, forms: Sequence[Form], build: Callable[[Form], ir.Model], feeds: Mapping[str, NDArray[Any]]
) -> list[Candidate]:
    """Return the forms that were considered, the best first."""
    replayed = (choices.ctx.decisions or {}).get("lowerings", {}).get(KEY)
    wanted = choices.quantised if choices.quantised != "auto" else replayed
    if choices.quantised not in ("auto", *forms):
        choices.ctx.note(f"quantised={wanted} cannot be had here; one of {', '.join(forms)} is taken")
    if wanted in forms:
        return [Candidate(str(wanted), 0.0)]
    if choices.run is None or len(forms) == 1 or not feeds:
        return [Candidate(forms[0], 0.0)]
    runs: dict[str, Callable[[], object]] = {form: choices.run(_named(build(form)), feeds) for form in forms}
    medians, noise = time_candidates(runs, choices.ctx.time_budget_s * TIMED_SHARE)
    return winner_first([Candidate(form, 0.0, medians[form]) for form in forms], noise)


def _named(model: ir.Model) -> ir.Model:
    """Give every value of a model that is only timed a name of its own."""
    passes.NameFixPass()(model)
    return model


def is_quantised(graph: ir.Graph) -> bool:
    """Tell whether a graph holds quantisers."""
    return bool(quantise_nodes(graph))
