"""`golden.npz`: inputs with expected outputs, so that a machine without torch can check the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.arrays import MEND, SCHEMA, load_arrays, read_description, write_arrays
from gnnexport.bundle.features import FeatureKind, Features
from gnnexport.errors import UsageError

LIMIT_BYTES = 16_000_000
"""Largest golden file."""

_EXPECTED_BYTES = 8_000_000
_STORED_BYTES = 6_000_000
_MAX_ROWS = 4096


@dataclass(frozen=True)
class Flips:
    """How far a quantised model may differ where a value lies on the border between two levels.

    There another order of the same sums in float32 decides for the other level. See
    `docs/adr/0016-levels-on-a-border.md`.

    Args:
        share: of the rows that may differ by more than the tolerance, at least one row.
        error: the most that they may differ by, relative to the largest output.
    """

    share: float
    error: float

    def allowed(self, rows: int) -> int:
        """Return how many of some rows may differ by more than the tolerance."""
        return max(1, int(self.share * rows))


@dataclass(frozen=True)
class GoldenCase:
    """One inference and what it must give.

    Args:
        name: what the case is after.
        inputs: by input name, an array or the recipe of one.
        expected: by output name, the rows `rows` of the output.
        rows: int64, the rows of the output that are kept; `None` for all.
        sizes: nodes of each graph, where the request was made up; empty where that is not known.
        flips: what may differ because levels lie on a border; `None` where nothing is quantised.
    """

    name: str
    inputs: Mapping[str, NDArray[Any] | Features]
    expected: Mapping[str, NDArray[Any]]
    rows: NDArray[np.int64] | None = None
    sizes: tuple[int, ...] = ()
    flips: Flips | None = None

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Make the arrays to run."""
        return {name: value.make() if isinstance(value, Features) else value for name, value in self.inputs.items()}


@dataclass(frozen=True)
class LawCheck:
    """A law of `gnnexport.conformance` that the model obeys in PyTorch, and that every artefact of it has to obey.

    Args:
        law: its name.
        case: name of the golden case whose request is changed.
        seed: of the change.
        node: whose features change, where the law changes those of one node.
        features: the input that holds them; the first with features of nodes unless it is told.
        still: int64, rows of the output that the change must not reach.
    """

    law: str
    case: str
    seed: int = 0
    node: int | None = None
    still: NDArray[np.int64] | None = None
    features: str | None = None


@dataclass(frozen=True)
class Laws:
    """What `golden.npz` holds besides cases.

    Args:
        checks: laws to be checked.
        exempt: laws that the model itself does not obey, each with what was seen in PyTorch.
        unchecked: laws of which a golden case is missing, or all are, each with the reason.
    """

    checks: tuple[LawCheck, ...] = ()
    exempt: Mapping[str, str] = field(default_factory=dict)
    unchecked: Mapping[str, str] = field(default_factory=dict)


def make_features(
    shape: tuple[int, int], real: NDArray[np.float32] | None = None, *, seed: int = 0
) -> dict[str, NDArray[np.float32] | Features]:
    """Choose the node features of the golden cases, by the name of the case.

    Args:
        shape: nodes, channels.
        real: the data's own features; kept only when they take little room compressed.
        seed: seeds the noise.
    """
    kinds: dict[str, tuple[FeatureKind, float]] = {
        "noise": ("normal", 1.0),
        "zeros": ("zeros", 1.0),
        "all-negative": ("negative", 1.0),
        "large": ("normal", 1000.0),
        "one-hot": ("sparse", 1.0),
    }
    cases: dict[str, NDArray[np.float32] | Features] = {}
    if real is not None and stored_size(real) <= _STORED_BYTES:
        cases["real"] = np.asarray(real, np.float32)
    for offset, (name, (kind, scale)) in enumerate(kinds.items()):
        cases[name] = Features(kind=kind, shape=shape, seed=seed + offset, scale=scale)
    return cases


def sample_rows(
    num_rows: int, row_bytes: int, num_cases: int, *, seed: int = 0, always: Sequence[int] = ()
) -> NDArray[np.int64] | None:
    """Choose the output rows to keep so that all cases fit; `None` when all rows do.

    Args:
        num_rows: rows of an output.
        row_bytes: bytes of one row, over all outputs.
        num_cases: number of cases.
        seed: seeds the sample.
        always: rows to keep whatever is drawn, such as hubs and isolated nodes; at most half of the room.
    """
    room = max(1, min(_MAX_ROWS, _EXPECTED_BYTES // max(1, row_bytes * num_cases)))
    if num_rows <= room:
        return None
    kept = np.unique(np.asarray(always[: room // 2], np.int64))
    drawn = np.random.default_rng(seed).permutation(num_rows)
    others = drawn[~np.isin(drawn, kept)][: room - len(kept)]
    return np.sort(np.concatenate([kept, others])).astype(np.int64)


def stored_size(*arrays: NDArray[Any]) -> int:
    """Return the bytes that arrays take compressed; does not try those that are far too large.

    One byte for each entry other than zero is about what binary features take, and far less than real numbers do.
    """
    return sum(_compressed_size(array) for array in arrays)


def write_golden(path: Path, cases: Sequence[GoldenCase], laws: Laws | None = None) -> None:
    """Write the cases and the laws.

    Raises:
        ValueError: the file came out larger than `LIMIT_BYTES`.
    """
    arrays: dict[str, NDArray[Any]] = {}
    description: dict[str, Any] = {"schema": SCHEMA, "cases": [_describe(case, arrays) for case in cases]}
    if laws is not None:
        description["laws"] = [_describe_law(check, arrays) for check in laws.checks]
        description |= {"exempt": dict(laws.exempt), "unchecked": dict(laws.unchecked)}
    write_arrays(path, description, arrays)
    if path.stat().st_size > LIMIT_BYTES:
        size = path.stat().st_size
        path.unlink()
        raise ValueError(f"golden cases take {size} bytes, more than {LIMIT_BYTES}: keep fewer rows")


def read_golden(path: Path, *, count: int | None = None) -> tuple[GoldenCase, ...]:
    """Read the cases, or only the first `count`; what the others hold is not read then.

    Raises:
        UsageError: damaged, or not such a file.
    """
    description = read_description(path)
    try:
        cases = description["cases"][:count]
        arrays = load_arrays(path, UsageError, MEND, names={name for case in cases for name in _arrays_of(case)})
        return tuple(_restore(case, arrays) for case in cases)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError.at(str(path), f"is not a golden file ({error})", MEND) from error


def read_laws(path: Path) -> Laws:
    """Read the laws; none where the bundle was made before there were any.

    Raises:
        UsageError: damaged, or not such a file.
    """
    description = read_description(path)
    try:
        described = description.get("laws", [])
        stored = {law["still"] for law in described if law["still"] is not None}
        arrays = load_arrays(path, UsageError, MEND, names=stored) if stored else {}
        checks = tuple(_restore_law(law, arrays) for law in described)
        exempt, unchecked = (
            {str(law): str(why) for law, why in description.get(key, {}).items()} for key in ("exempt", "unchecked")
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError.at(str(path), f"is not a golden file ({error})", MEND) from error
    return Laws(checks, exempt, unchecked)


def _describe_law(check: LawCheck, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Rows that stay are kept as one bit each."""
    still = None
    if check.still is not None:
        still = f"still_{len(arrays)}"
        kept = np.zeros(int(check.still.max(initial=-1)) + 1, bool)
        kept[check.still] = True
        arrays[still] = np.packbits(kept)
    described = {"law": check.law, "case": check.case, "seed": check.seed, "node": check.node, "still": still}
    return described if check.features is None else {**described, "features": check.features}


def _restore_law(law: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> LawCheck:
    still = None if law["still"] is None else np.flatnonzero(np.unpackbits(arrays[law["still"]]))
    node = None if law["node"] is None else int(law["node"])
    return LawCheck(str(law["law"]), str(law["case"]), int(law["seed"]), node, still, _name(law.get("features")))


def _name(value: Any) -> str | None:
    return None if value is None else str(value)


def _arrays_of(case: dict[str, Any]) -> set[str]:
    """Return the names of the arrays that make up a case."""
    stored = {value["array"] for value in case["inputs"].values() if "array" in value}
    rows = set() if case["rows"] is None else {case["rows"]}
    return stored | set(case["expected"].values()) | rows


def _describe(case: GoldenCase, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    def keep(array: NDArray[Any]) -> str:
        for name, known in arrays.items():
            if known is array:
                return name
        arrays[f"array_{len(arrays)}"] = array
        return f"array_{len(arrays) - 1}"

    inputs = {
        name: {"features": value.model_dump()} if isinstance(value, Features) else {"array": keep(value)}
        for name, value in case.inputs.items()
    }
    expected = {name: keep(value) for name, value in case.expected.items()}
    return {
        "name": case.name,
        "inputs": inputs,
        "expected": expected,
        "rows": None if case.rows is None else keep(case.rows),
        "sizes": list(case.sizes),
        **({} if case.flips is None else {"flips": asdict(case.flips)}),
    }


def _restore(case: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> GoldenCase:
    inputs = {
        name: Features.model_validate(value["features"]) if "features" in value else arrays[value["array"]]
        for name, value in case["inputs"].items()
    }
    expected = {name: _numbers(arrays[key], key) for name, key in case["expected"].items()}
    if not expected:
        raise ValueError(f"the case '{case['name']}' expects nothing")
    rows = None if case["rows"] is None else _row_numbers(arrays[case["rows"]], case["rows"])
    sizes = tuple(int(size) for size in case.get("sizes", ()))
    return GoldenCase(str(case["name"]), inputs, expected, rows, sizes, _flips(case.get("flips")))


def _flips(stored: Mapping[str, Any] | None) -> Flips | None:
    if stored is None:
        return None
    flips = Flips(float(stored["share"]), float(stored["error"]))
    if not (0 <= flips.share <= 1 and flips.error >= 0):
        raise ValueError(f"rows that may differ are no share, or by no error: {stored}")
    return flips


def _numbers(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} holds no real numbers, but {array.dtype}")
    return array


def _row_numbers(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.dtype.kind != "i" or array.ndim != 1 or array.min(initial=0) < 0:
        raise ValueError(f"{name} holds no numbers of rows")
    return array


def _compressed_size(array: NDArray[Any]) -> int:
    if array.nbytes > 40 * _STORED_BYTES or np.count_nonzero(array) > _STORED_BYTES:
        return array.nbytes
    buffer = BytesIO()
    np.savez_compressed(buffer, array)
    return buffer.getbuffer().nbytes
