from __future__ import annotations

import re

import pytest

from gnnexport import errors
from gnnexport.errors import GnnExportError, Problem, SpecError, UsageError, nearest


def every_error(root: type[GnnExportError] = GnnExportError) -> list[type[GnnExportError]]:
    """List a class and all that derive from it."""
    return [root, *(below for child in root.__subclasses__() for below in every_error(child))]


def test_the_drawn_tree_is_the_tree() -> None:
    """The docstring of the module names every error class with its exit code."""
    drawn = dict(re.findall(r"(\w+(?:Error|Failure))\s+(\d+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in every_error() if kind.__module__ == errors.__name__}


def test_exit_codes_are_told_apart() -> None:
    """No two endings of a run share a code."""
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert sorted(codes) == [0, 1, 2, 3, 4, 5, 6, 7, 130, 143]


def test_a_problem_reads_where_what_mend() -> None:
    """A problem is one line; the mend may be missing."""
    assert str(Problem("x", "holds NaN", "Remove it")) == "x: holds NaN. Remove it."
    assert str(Problem("x", "holds NaN")) == "x: holds NaN."


def test_at_keeps_the_class_and_the_parts() -> None:
    """`at` builds an error of the class it is called on, and full stops are not doubled."""
    error = SpecError.at("passes", "unknown.", "Look.")
    assert type(error) is SpecError
    assert list(error.problems) == [Problem("passes", "unknown", "Look")]
    with pytest.raises(UsageError, match=r"^passes: unknown\. Look\.$"):
        raise error


def test_an_error_carries_all_its_problems() -> None:
    """Several problems make one error with a line for each."""
    assert str(UsageError(Problem("a", "one"), Problem("b", "two"))) == "a: one.\nb: two."


def test_nearest_guesses_and_lists() -> None:
    """The mend for an unknown name is the closest one and the list."""
    assert nearest("prune-chanels", ["prune-channels", "fold-norms"]) == (
        "Did you mean 'prune-channels'? Known: fold-norms, prune-channels"
    )
    assert nearest("zzz", ["ort"]) == "Known: ort"
    assert nearest("zzz", []) == "Known: none"
