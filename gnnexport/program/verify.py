"""What must hold of a Program after every pass."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gnnexport.errors import Problem
from gnnexport.program.functional import is_mutating
from gnnexport.program.graphs import module_of
from gnnexport.program.inputs import NUM_NODES
from gnnexport.program.program import EXAMPLE_NODES, Program, example_rows

TOLERANCE = 1e-4
"""Largest error of a simplifying pass, relative to the largest output: sums are reordered in float32."""

_REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""What a graph raises that cannot run on a request."""


def verify(program: Program) -> list[Problem]:
    """Return what is wrong with a Program: ill-formed graphs, mutation, dead inputs, disagreeing shapes."""
    problems: list[Problem] = []
    for part, module in (("body", program.body), ("prepare", program.prepare)):
        if module is None:
            continue
        try:
            module.graph.lint()
        except RuntimeError as error:
            problems.append(Problem(part, f"the graph is ill-formed: {error}", "This is a bug in the last pass"))
            continue
        problems += [
            Problem(module_of(node), f"{node.target} mutates its argument", "Use its functional form")
            for node in module.graph.nodes
            if is_mutating(node)
        ]
        problems += [
            Problem(part, f"nothing reads the input '{node.target}'", "Remove the input together with its last reader")
            for node in module.graph.nodes
            if node.op == "placeholder" and not node.users
            if part == "body" or not str(node.target).startswith(NUM_NODES)
        ]
    return problems or _run(program)


def _run(program: Program) -> list[Problem]:
    """Run on graphs of two sizes: a shape literal that disagrees with a parameter or with the graph fails there."""
    program = program.clone().train(False)
    for rows in EXAMPLE_NODES:
        example = program.example(rows)
        try:
            with torch.no_grad():
                output = program(example)
        except _REFUSALS as error:
            what = f"does not run: {str(error).rstrip('.')}"
            return [Problem("body", what, "A shape in the graph disagrees with a parameter")]
        count = example_rows(example)[program.rows]
        if output.dim() not in (1, 2) or output.shape[0] != count:
            what = f"gives {list(output.shape)} for {count} {program.level}s"
            return [Problem("body", what, f"Return one row for each {program.level}")]
    return []


def largest_error(before: Program, after: Program) -> float:
    """Return the largest difference of two Programs on small graphs, relative to the largest output.

    Infinite where one gives a number and the other gives none. A graph that the first cannot run on, as one that takes
    the two largest of one node, is left out.
    """
    before, after = before.clone().train(False), after.clone().train(False)
    errors = []
    for num_nodes, seed in ((1, 1), (11, 2), (23, 3)):
        example = before.example(num_nodes, seed)
        expected = _answer(before, example)
        if expected is None:
            continue
        actual = _answer(after, example)
        errors.append(math.inf if actual is None else relative_error(expected, actual))
    return max(errors, default=math.inf)


def _answer(program: Program, example: Mapping[str, Tensor]) -> Tensor | None:
    """Run a Program; `None` where it refuses."""
    try:
        with torch.no_grad():
            answer: Tensor = program(example)
    except _REFUSALS:
        return None
    return answer


def relative_error(expected: Tensor, actual: Tensor) -> float:
    """Return the largest difference relative to the largest magnitude; infinite where only one of them is finite."""
    finite = expected.isfinite()
    if expected.shape != actual.shape or not torch.equal(finite, actual.isfinite()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    expected, actual = expected[finite], actual[finite]
    return float((expected - actual).abs().max() / expected.abs().max().clamp(min=1e-6))
