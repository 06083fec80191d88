"""Choose how a quantised model is computed: each form whole, by timing, so that none is taken which is slower."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes

from gnnexport.targets.onnx.choice import Candidate, Choices, time_candidates, winner_first
from gnnexport.targets.onnx.executed import EXECUTED_BITS, executed, operands_of
from gnnexport.targets.onnx.narrow_fusion import fuse_narrow
from gnnexport.targets.onnx.narrow_layers import narrow_layers
from gnnexport.targets.onnx.narrow_results import narrow_results
from gnnexport.targets.onnx.narrow_sums import narrow_sums
from gnnexport.targets.onnx.quantised_integer import integer_layers
from gnnexport.targets.onnx.quantised_standard import expand_quantisers
from gnnexport.targets.onnx.quantised_weights import fold_weights, widen_weights
from gnnexport.targets.onnx.quantisers import quantise_nodes

Form = Literal["float", "integer", "narrow", "narrow-sums"]

KEY = "quantised operands"
"""What the choice is called in `decisions.json`."""

PACKED: tuple[Form, ...] = ("narrow", "narrow-sums")
"""Forms that our kernels compute."""

_BOLD = ("narrow", "narrow-sums", "integer", "float")
"""All forms, those that claim most first."""

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


def forms_for(able: Collection[Form], *, native: bool) -> tuple[Form, ...]:
    """Return the forms that a model can take, the one that is taken untimed first.

    Args:
        able: forms that the runtime computes.
        native: our kernels run the reductions.
    """
    ordered: tuple[Form, ...] = (*(PACKED if native else ()), "float", "integer")
    return tuple(form for form in ordered if form in able)


def take_form(graph: ir.Graph, form: Form, *, native: bool) -> Formed:
    """Bring the quantisers of a graph into a form, in place; none are left.

    Args:
        graph: with the dialect.
        form: one of `forms_for`.
        native: our kernels run the reductions, which read weights as floats but where they read levels.
    """
    fold_weights(graph)
    formed = Formed()
    if form in PACKED:
        formed.arithmetic.update(narrow_sums(graph))
        formed.packed.update({name: EXECUTED_BITS[how] for name, how in formed.arithmetic.items()})
    if form == "narrow":
        layers = narrow_layers(graph)
        formed.arithmetic.update(layers)
        formed.packed.update(dict.fromkeys(layers, 0))
    if form in PACKED:
        fuse_narrow(graph)
        formed.packed.update(dict.fromkeys(narrow_results(graph), 8))
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
    made: dict[str, tuple[ir.Model, Formed]] = {form: build(form) for form in _wanted(choices, forms)}
    candidates = _timed(choices, _different({form: lowered for form, (lowered, _) in made.items()}), feeds)
    chosen = candidates[0].name
    lowered, formed = made[chosen]
    choices.decisions[KEY] = chosen
    timed = [{"name": item.name, "latency_ms": item.latency_ms} for item in candidates]
    choices.rows.append({"op": KEY, "chosen": chosen, "candidates": timed})
    choices.operands += executed(listed, lowered.graph, formed.arithmetic, formed.packed)
    return lowered


def _wanted(choices: Choices, forms: Sequence[Form]) -> Sequence[Form]:
    """Return the one form that was asked for, or decided for before, or else all that there are."""
    replayed = (choices.ctx.decisions or {}).get("lowerings", {}).get(KEY)
    wanted = choices.quantised if choices.quantised != "auto" else replayed
    if choices.quantised not in ("auto", *forms):
        choices.ctx.note(f"quantised={wanted} cannot be had here; one of {', '.join(forms)} is taken")
    return [form for form in forms if form == wanted] or forms


def _different(models: Mapping[str, ir.Model]) -> dict[str, ir.Model]:
    """Return a form for each of the models that differ in their operators: the one whose name claims least."""
    claims: dict[tuple[str, ...], str] = {}
    for form in sorted(models, key=_BOLD.index):
        claims[tuple(node.op_type for node in models[form].graph)] = form
    return {form: model for form, model in models.items() if form in claims.values()}


def _timed(choices: Choices, models: Mapping[str, ir.Model], feeds: Mapping[str, NDArray[Any]]) -> list[Candidate]:
    """Return the forms that were considered, the best first."""
    forms = list(models)
    if choices.run is None or len(forms) == 1 or not feeds:
        return [Candidate(forms[0], 0.0)]
    runs = {form: choices.run(_named(model.clone()), feeds) for form, model in models.items()}
    medians, noise = time_candidates(runs, choices.ctx.time_budget_s * TIMED_SHARE)
    return winner_first([Candidate(form, 0.0, medians[form]) for form in forms], noise)


def _named(model: ir.Model) -> ir.Model:
    """Give every value of a model that is only timed a name of its own."""
    passes.NameFixPass()(model)
    return model


def is_quantised(graph: ir.Graph) -> bool:
    """Tell whether a graph holds quantisers."""
    return bool(quantise_nodes(graph))
