"""Check what a caller asks of a model in mode `batched`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnnexport.errors import UsageError
from gnnexport.runtime.batched.chain import Chain
from gnnexport.runtime.batched.computation import Terms
from gnnexport.runtime.batched.growing import Ids

ALL = -1
"""A fan-out that draws nothing: every neighbour is read."""

_MOST = 2**63 - 1


def node_ids(where: str, ids: Any, num_nodes: int) -> Ids:
    """Bring ids of nodes to int64.

    Args:
        where: names them in messages.
        ids: any integers, in one dimension.
        num_nodes: of the graph.

    Raises:
        UsageError: they are no such numbers, or there is no such node.
    """
    array = any_array(where, ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        what = f"is {array.dtype} {list(array.shape)}"
        raise UsageError.at(where, what, "Give whole numbers in one dimension, one for each node")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= num_nodes):
        wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
        what = f"holds {wrong}, which is none of the {num_nodes} nodes"
        raise UsageError.at(where, what, f"Number them from 0 to {num_nodes - 1}, or add the node by 'update' first")
    return np.ascontiguousarray(array, np.int64)


def terms(
    where: str, chain: Chain, fanout: Sequence[int] | None, seed: int, staleness: int, version: int, *, rounded: bool
) -> Terms:  # fmt: skip
    """Check how a request wants its rows.

    Raises:
        UsageError: a fan-out that does not fit the stages, or that one of them does not bear; a wrong number.
    """
    seed, staleness = whole_number(f"{where}: seed", seed), whole_number(f"{where}: staleness", staleness)
    if staleness < 0:
        raise UsageError.at(
            f"{where}: staleness", f"is {staleness}", "Give how many versions old rows may be, 0 for none"
        )
    oldest = max(version - staleness, -1) if staleness else None
    return Terms({} if fanout is None else _fanouts(f"{where}: fanout", chain, fanout), seed, oldest, rounded)


def _fanouts(where: str, chain: Chain, fanout: Sequence[int]) -> dict[int, int]:
    stages = chain.sampled
    row = fanout.ndim == 1 if isinstance(fanout, np.ndarray) else isinstance(fanout, Sequence)
    if not row or isinstance(fanout, str | bytes):
        raise UsageError.at(where, f"is {fanout!r}", f"Give a list of {len(stages)} whole numbers, {ALL} for all")
    if len(fanout) != len(stages):
        what = f"has {len(fanout)} numbers, and {len(stages)} stages of the model read neighbours"
        raise UsageError.at(where, what, f"Give one for each, first the one next to the nodes asked for, {ALL} for all")
    drawn: dict[int, int] = {}
    for given, link in zip(fanout, stages, strict=True):
        count = whole_number(where, given)
        if count == ALL:
            continue
        if count < 0:
            raise UsageError.at(where, f"holds {count}", f"Give 0 or more neighbours, or {ALL} for all")
        if link.spec.sampling is not None:
            what = f"{link.name} cannot do with some neighbours: {link.spec.sampling}"
            raise UsageError.at(where, what, f"Give {ALL} there: all neighbours")
        # No node has more neighbours than there are numbers of 64 bits, which is what the kernels count in.
        drawn[link.spec.depth] = min(count, _MOST)
    return drawn


def whole_number(where: str, number: Any) -> int:
    """Return a number that is whole, of whatever type.

    Raises:
        UsageError: it is not, or stands for true or false.
    """
    try:
        if isinstance(number, bool):
            raise TypeError
        return operator.index(number)
    except TypeError:
        raise UsageError.at(where, f"holds {number!r}", "Give whole numbers") from None


def float_rows(where: str, rows: Any, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """Bring numbers to float32 of this shape, in which `None` stands for any size.

    Raises:
        UsageError: they have another shape, or are no numbers, or none that a float32 can hold.
    """
    array = any_array(where, rows)
    fits = array.ndim == len(shape) and all(
        size is None or size == given for size, given in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "fiu":
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UsageError.at(where, f"is {array.dtype} {list(array.shape)}", f"Give float32 [{wanted}]")
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(found).all():
        raise UsageError.at(where, "holds NaN or infinity, or more than a float32 can hold", "Give finite numbers")
    return found


def any_array(where: str, values: Any) -> NDArray[Any]:
    """Make an array of what a caller gave.

    Raises:
        UsageError: numpy makes none of it, as of rows of several lengths.
    """
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError.at(where, f"is no array ({error})", "Give numbers, in rows of one length") from error
