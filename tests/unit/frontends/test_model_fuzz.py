from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnexport.errors import UnsupportedError, UsageError
from tests.model_files import model_seeds, read_any_model
from tests.pickle_damage import damage_pickle
from tests.unit.frontends import hostile


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Archives of `torch.save` of every kind."""
    folder = tmp_path_factory.mktemp("models") / "honest"
    folder.mkdir()
    return [path for path in model_seeds(folder) if path.suffix != ".safetensors"]


def test_the_files_to_be_damaged_load(honest: list[Path]) -> None:
    """Each is honest, so what fails below fails of the damage."""
    assert all(read_any_model(path) is not None for path in honest)


@given(number=st.integers(0, 1000), seed=st.integers(0, 2**32))
def test_a_pickle_of_other_instructions_loads_or_is_refused(honest: list[Path], number: int, seed: int) -> None:
    """Instructions dropped, repeated, exchanged or replaced end in a model or in an error with a mend."""
    source = honest[number % len(honest)]
    target = source.parent.with_name("damaged") / source.name
    target.parent.mkdir(exist_ok=True)
    chance = random.Random(seed)
    hostile.rewrite(
        source, target, lambda name, content: damage_pickle(content, chance) if name.endswith(".pkl") else content
    )
    assert_sound(target)


@given(number=st.integers(0, 1000), first=st.integers(0, 20), second=st.integers(0, 20))
def test_exchanged_records_load_or_are_refused(honest: list[Path], number: int, first: int, second: int) -> None:
    """One record of the archive in the place of another, with a sum that fits."""
    source = honest[number % len(honest)]
    target = source.parent.with_name("damaged") / source.name
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(source) as archive:
        names = archive.namelist()
        one, two = names[first % len(names)], names[second % len(names)]
        exchanged = {one: archive.read(two), two: archive.read(one)}
    hostile.rewrite(source, target, lambda name, content: exchanged.get(name, content))
    assert_sound(target)


def assert_sound(path: Path) -> None:
    """The file loads, or is refused with a mend."""
    problems = []
    try:
        read_any_model(path)
    except (UsageError, UnsupportedError) as error:
        problems = list(error.problems)
    assert all(problem.mend and str(problem).isprintable() for problem in problems)
