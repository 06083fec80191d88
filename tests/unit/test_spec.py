from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.errors import SpecError
from gnnexport.spec import Spec, build, describe, parse, parse_many


@dataclass(frozen=True)
class Sample:
    """Every kind of option that a pass or a target may have."""

    name: ClassVar[str] = "sample"
    keep: float = 0.5
    count: int = 8
    threads: int | None = None
    scheme: Literal["full", "batched"] = "full"
    exact: bool = False
    widths: tuple[int, ...] = ()
    label: str = "a"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")


def test_a_bare_name_has_no_options() -> None:
    """A name alone is a spec."""
    assert parse("prune-channels") == Spec("prune-channels")


def test_options_keep_their_order_and_text() -> None:
    """What is parsed is written back the same."""
    text = "prune-channels{keep=0.5,scheme=batched,widths=[8,16]}"
    assert str(parse(text)) == text
    assert list(parse(text).options) == ["keep", "scheme", "widths"]


def test_several_specs_are_separated_by_semicolons_or_repeated() -> None:
    """`;` separates specs, but not inside braces; empty ones are dropped."""
    specs = parse_many(["a{x=1,y=[1,2]}; b;", "c"])
    assert [str(spec) for spec in specs] == ["a{x=1,y=[1,2]}", "b", "c"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Prune", "not of the form name"),
        ("", "not of the form name"),
        ("a{b}", "'b' is not key=value"),
        ("a{b=}", "'b=' is not key=value"),
        ("a{b=1,b=2}", "option 'b' is given twice"),
    ],
)
def test_what_is_not_a_spec_is_refused(text: str, words: str) -> None:
    """The error quotes the part that is wrong."""
    with pytest.raises(SpecError, match=words):
        parse(text)


def test_the_wreck_of_an_unquoted_spec_is_recognised() -> None:
    """Shells expand `{a=1,b=2}`; the mend quotes the spec."""
    with pytest.raises(SpecError, match=r'Quote the spec: "prune-channels\{keep=0\.5,…\}"'):
        parse("prune-channelskeep=0.5", known=["prune-channels"])


def test_braces_that_are_not_closed() -> None:
    """No shell leaves a brace behind; the mend closes it."""
    with pytest.raises(SpecError, match=r'its braces are not closed. Write "ort\{threads=2\}"'):
        parse("ort{threads=2", known=["ort"])


def test_build_converts_to_the_types_of_the_fields() -> None:
    """Each option becomes the type that its field is declared with."""
    text = "sample{keep=0.25,count=4,threads=2,scheme=batched,exact=true,widths=[1,2],label=b}"
    assert build(Sample, parse(text)) == Sample(0.25, 4, 2, "batched", True, (1, 2), "b")
    assert build(Sample, parse("sample{threads=none}")).threads is None


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("kep=1", r"unknown option 'kep'\. Did you mean 'keep'\? Known: count, exact, keep"),
        ("keep=half", "'half' is not a number"),
        ("keep=nan", "'nan' is not a finite number"),
        ("count=1.5", "'1.5' is not a number"),
        ("scheme=ful", "'ful' is not a choice. Did you mean 'full'?"),
        ("exact=maybe", "'maybe' is not true or false"),
        ("count=-1", "count must not be negative"),
    ],
)
def test_wrong_options_name_the_known_ones(option: str, words: str) -> None:
    """An unknown option or value is refused with what is known."""
    with pytest.raises(SpecError, match=words):
        build(Sample, parse(f"sample{{{option}}}"))


def test_only_dataclasses_are_built() -> None:
    """Building anything else is a mistake of the programmer."""
    with pytest.raises(TypeError, match="not a dataclass"):
        build(int, Spec("int"))


def test_describe_spells_defaults_out() -> None:
    """The spec in a report says the same after a default has changed."""
    assert str(describe(Sample())) == "sample{keep=0.5,count=8,scheme=full,exact=false,widths=[],label=a}"
    spelled = "sample{keep=0.25,count=8,scheme=full,exact=false,widths=[8,16],label=a}"
    assert str(describe(Sample(keep=0.25, widths=(8, 16)))) == spelled


samples = st.builds(
    Sample,
    keep=st.floats(allow_nan=False, allow_infinity=False),
    count=st.integers(min_value=0),
    threads=st.none() | st.integers(),
    scheme=st.sampled_from(["full", "batched"]),
    exact=st.booleans(),
    widths=st.lists(st.integers()).map(tuple),
    label=st.from_regex(r"[a-z][a-z0-9_.-]*", fullmatch=True),
)


@given(samples)
def test_specs_round_trip(sample: Sample) -> None:
    """Describing an instance, writing, parsing and building it gives the instance back."""
    assert build(Sample, parse(str(describe(sample)))) == sample
