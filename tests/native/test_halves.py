"""Floats rounded to 16 bits on every dispatch path: the bits are those of PyTorch and of ONNX Runtime's `Cast`."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from gnnexport.errors import KernelError
from gnnexport.native import halves, library
from tests.native.calls import address, into
from tests.native.twins import Array

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = {"RoundBfloat16": TensorProto.BFLOAT16, "RoundFloat16": TensorProto.FLOAT16}


def rounded(words: Array, dtype: str, threads: int = 1) -> Array:
    """Round floats, given by their bits."""
    call = {"dtype": dtype, "threads": threads}
    return into(words.shape, np.uint16, lambda out: halves.round_to(address(words), words.size, out, **call))


def by_torch(words: Array, dtype: str) -> Array:
    """Round floats, given by their bits, as PyTorch does."""
    x = torch.from_numpy(words.view(np.int32)).view(torch.float32)
    return x.to(DTYPES[dtype]).view(torch.int16).numpy().view(np.uint16)


def assert_rounded(got: Array, words: Array, dtype: str) -> None:
    """Check all bits, but those of NaN, which PyTorch makes anew."""
    none = np.isnan(words.view(np.float32))
    np.testing.assert_array_equal(got[~none], by_torch(words, dtype)[~none])
    special, shift = (0x7F80, 16) if dtype == "bfloat16" else (0x7C00, 13)
    kept = (words[none] & 0x7FFFFF) >> shift
    quiet = special | 1 << (22 - shift)
    np.testing.assert_array_equal(got[none], (words[none] >> 16 & 0x8000) | quiet | kept)


def neighbourhoods(dtype: str) -> Array:
    """Return the bits of every number of a type, of what lies halfway to the next, and of the floats beside each."""
    patterns = torch.arange(1 << 15, dtype=torch.int32).to(torch.int16).view(DTYPES[dtype])
    values = patterns.float().numpy()
    finite = values[np.isfinite(values)].astype(np.float64)
    following = np.append(finite[1:], 2 * finite[-1] - finite[-2])
    halfway = ((finite + following) / 2).astype(np.float32)
    words = np.concatenate([values, halfway]).view(np.uint32)
    beside = np.concatenate([words, words + np.uint32(1), words - np.uint32(1)])
    return np.concatenate([beside, beside ^ np.uint32(1 << 31)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_around_every_number_of_16_bits(path: str, dtype: str) -> None:
    """Ties go to even, what is too large to infinity; subnormal numbers are right, and NaN stays NaN."""
    words = neighbourhoods(dtype)
    assert_rounded(rounded(words, dtype), words, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_bits_by_several_threads(path: str, dtype: str) -> None:
    """Whatever the bits are, parts dealt out to threads are all there."""
    words = np.random.default_rng(0).integers(0, 1 << 32, (1 << 20) + 5, dtype=np.uint32)
    assert_rounded(rounded(words, dtype, threads=3), words, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_count(path: str, dtype: str) -> None:
    """Vectors of every width round alike, and nothing is written behind the last number."""
    words = neighbourhoods(dtype)
    for count in range(70):
        some = words[count * 997 :][:count].copy()
        assert_rounded(rounded(some, dtype), some, dtype)


@pytest.mark.usefixtures("native")
def test_refusals() -> None:
    """Types that are no floats of 16 bits, sizes below 0 and missing addresses are refused."""
    one, half = np.ones(1, np.float32), np.zeros(1, np.uint16)
    with pytest.raises(KernelError, match="not known"):
        halves.round_to(address(one), 1, address(half), dtype="float32")
    with pytest.raises(KernelError, match="negative"):
        halves.round_to(address(one), -1, address(half), dtype="bfloat16")
    with pytest.raises(KernelError, match="null"):
        halves.round_to(0, 1, address(half), dtype="bfloat16")


def widened(kind: str, x: Array) -> Array:
    """Round in ONNX Runtime by `kind`, or by `Cast` where it names a type, and widen again."""
    of_kernels = kind in KINDS
    to = KINDS[kind] if of_kernels else TensorProto.DataType.Value(kind)
    options = {"domain": "gnnexport"} if of_kernels else {"to": to}
    nodes = [
        helper.make_node(kind if of_kernels else "Cast", ["x"], ["half"], **options),
        helper.make_node("Cast", ["half"], ["out"], to=TensorProto.FLOAT),
    ]
    x_info, out_info = (helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "out"))
    graph = helper.make_graph(nodes, "one", [x_info], [out_info])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("gnnexport", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.register_custom_ops_library(str(library.library_path()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("kind", KINDS)
def test_operators_round_as_cast_does(kind: str) -> None:
    """In ONNX Runtime, numbers of any shape have the bits that its own `Cast` gives."""
    words = neighbourhoods("bfloat16" if kind == "RoundBfloat16" else "float16")
    x = words.view(np.float32)
    x = x[~np.isnan(x)]
    x = x[: x.size // 64 * 64].reshape(-1, 8, 8)
    cast = TensorProto.DataType.Name(KINDS[kind])
    np.testing.assert_array_equal(widened(kind, x).view(np.uint32), widened(cast, x).view(np.uint32))
    assert widened(kind, np.zeros((0, 3), np.float32)).shape == (0, 3)
