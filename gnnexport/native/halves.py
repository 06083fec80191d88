"""Call the kernel that rounds floats to 16 bits; pointers are integers, as in `gnnexport.native.kernels`."""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_void_p

from gnnexport.native.kernels import TYPES, check, threads_of
from gnnexport.native.library import library


def round_to(x: int, count: int, out: int, *, dtype: str, threads: int = 0) -> None:
    """Round float32 [count] to `bfloat16` or `float16`; see `gnx_run_round`.

    Raises:
        KernelError: the type is another, or the arguments do not fit each other.
    """
    given = (c_void_p(x), c_int64(count), c_int32(TYPES[dtype]), c_void_p(out))
    check(library().gnx_run_round(*given, threads_of(threads)))
