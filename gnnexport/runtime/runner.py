"""Load a bundle and run it: named arrays in, named arrays out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from gnnexport.bundle.manifest import KERNELS, Manifest, NativeLibrary, Tensor
from gnnexport.bundle.processor import MOST_THREADS, this_processor
from gnnexport.bundle.reader import Bundle, open_bundle
from gnnexport.bundle.stages import StoreBits
from gnnexport.errors import MissingExtraError, NotRunnableError, UnsupportedError, UsageError
from gnnexport.native.library import ABI, how_to_mend, why_missing
from gnnexport.runtime.backend import Backend
from gnnexport.runtime.batched.backend import BatchedBackend
from gnnexport.runtime.batched.change import Update
from gnnexport.runtime.batched.model import BatchedModel
from gnnexport.runtime.batched.opening import open_chain
from gnnexport.runtime.batched.prediction import Prediction
from gnnexport.runtime.batched.request import whole_number
from gnnexport.runtime.request import RequestForm
from gnnexport.runtime.requirements import check_requirements


def load(
    bundle: Bundle | Path | str,
    *,
    threads: int | None = None,
    store_bytes: int | None = None,
    store_bits: StoreBits | None = None,
) -> Runner:
    """Load a bundle; every file is verified first.

    Args:
        bundle: its folder, or a bundle already open.
        threads: overrides the thread count the bundle was measured with.
        store_bytes: overrides the memory for rows that are kept between requests, in mode `batched`.
        store_bits: overrides the bits of a number in such rows, 8 or 32.

    Raises:
        UsageError: not a bundle, damaged, or of a newer schema; `threads`, `store_bytes` or `store_bits` that cannot
            be, or one of the latter two in another mode.
        UnsupportedError: it needs something this installation does not have.
        MissingExtraError: the engine is not installed, or too old.
        NotRunnableError: this machine lacks what the engine runs on; `load_to_prove` may still do.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    manifest = opened.manifest
    where = str(opened.path)
    if manifest.native_library is not None:
        _check_kernels(manifest.native_library, manifest.target.runtime, where)
    for name, given in (("store_bytes", store_bytes), ("store_bits", store_bits)):
        if given is not None and manifest.mode != "batched":
            raise UsageError.at(where, f"mode '{manifest.mode}' keeps no rows between requests", f"Leave {name} out")
    make = _BACKENDS.get(manifest.target.runtime)
    if make is None:
        what = f"needs the runtime '{manifest.target.runtime}'; this version has {', '.join(_BACKENDS)}"
        raise UnsupportedError.at(where, what, "Run: pip install --upgrade gnnexport")
    if threads is not None and whole_number(f"{where}: threads", threads) not in range(1, MOST_THREADS + 1):
        raise UsageError.at(f"{where}: threads", f"is {threads}", f"Give 1 to {MOST_THREADS} threads")
    check_requirements(manifest.target, where)
    _warn_of_other_processor(opened)
    count = manifest.target.threads if threads is None else int(threads)
    backend = (
        _batched(opened, make, count, store_bytes, store_bits)
        if manifest.mode == "batched"
        else make(opened, opened.model_file, count)
    )
    return Runner(backend, where=where, manifest=manifest)


def load_to_prove(bundle: Bundle | Path | str, *, threads: int | None = None) -> Runner:
    """Load a bundle as `load` does, or where its engine cannot run the model that the engine was built from.

    In mode `batched` no rows are kept between requests: each costs what it costs without them.

    What runs then has the numbers of the bundle but not its speed: `Runner.engine_not_run` says why.

    Raises:
        GnnExportError: as for `load`; `NotRunnableError` only when nothing can stand in for the engine.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    try:
        return load(opened, threads=threads, store_bytes=0 if opened.manifest.mode == "batched" else None)
    except NotRunnableError as error:
        target = opened.manifest.target
        stand_in = _STAND_INS.get(target.runtime)
        if stand_in is None:
            raise
        backend = stand_in(opened, opened.model_file, threads or target.threads)
        why = error.problems[0].what
        return Runner(backend, where=str(opened.path), engine_not_run=why, manifest=opened.manifest)


def _check_kernels(needed: NativeLibrary, target: str, where: str) -> None:
    """Hold the kernels that a model calls against those installed."""
    portable = f"'--target={target}{{portable=true}}'"
    if needed.name != KERNELS or needed.abi != ABI:
        what = f"needs the kernel library '{needed.name}' with interface {needed.abi}; this version has {ABI}"
        mend = f"Install the gnnexport it was made with, or make it again with {portable}"
        raise UnsupportedError.at(where, what, mend)
    missing = why_missing()
    if missing is not None:
        mend = f"{how_to_mend()}. Or make the bundle again with {portable}"
        raise MissingExtraError.at(where, f"calls the native kernels, and {missing}", mend)


class Runner:
    """Run a loaded model: `runner({"x": x})["logits"]`. A context manager that releases the engine."""

    def __init__(
        self,
        backend: Backend,
        *,
        where: str = "runner",
        engine_not_run: str | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        """Take over a backend.

        Args:
            backend: with the model loaded.
            where: names it in messages.
            engine_not_run: why this is not the engine of the bundle but stands in for it; `None` when it is.
            manifest: of the bundle; tells what the inputs mean, and without one they only have shapes.
        """
        self.engine_not_run = engine_not_run
        self._backend = backend
        self._where = where
        self._form = RequestForm.of(manifest, backend.inputs, where)
        self._open = True

    @property
    def inputs(self) -> Sequence[Tensor]:
        """What the model reads."""
        return self._form.tensors

    @property
    def outputs(self) -> Sequence[Tensor]:
        """What the model gives."""
        return self._backend.outputs

    @property
    def name(self) -> str:
        """Name of the engine, for reports."""
        return self._backend.name

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model.

        Args:
            feeds: an array for every input, by name. In `graphs` mode a request of a single graph may leave out
                `batch` and `num_graphs`, which may also be a plain number.

        Raises:
            UsageError: an input is missing, unknown, of another dtype or shape, disagrees with another about a
                size, or holds the number of a node or graph that there is not; all problems at once.
        """
        self._check_open()
        request = self._form.complete(feeds)
        problems = self._form.problems(request)
        if problems:
            raise UsageError(*problems)
        return self._backend.run({tensor.name: _contiguous(request[tensor.name]) for tensor in self.inputs})

    run = __call__

    @property
    def version(self) -> int:
        """How many updates the graph has seen, in mode `batched`.

        Raises:
            UsageError: the bundle is in another mode.
        """
        return self._batched().version

    def unrounded(self) -> Runner:
        """Return what answers as this does, but leaves rows between stages as the models of the stages give them.

        Only in mode `batched`, where rows are kept with 8 bits, is that another one.
        """
        if not isinstance(self._backend, BatchedBackend):
            return self
        twin = copy.copy(self)
        twin._backend = self._backend.unrounded()
        return twin

    def predict(
        self,
        node_ids: Any,
        *,
        fanout: Sequence[int] | None = None,
        seed: int = 0,
        staleness: int = 0,
        rounded: bool = True,
    ) -> Prediction:
        """Answer for some nodes, in mode `batched`; see `BatchedModel.predict`.

        Raises:
            UsageError: the bundle is in another mode, or the request does not fit.
        """
        return self._batched().predict(node_ids, fanout=fanout, seed=seed, staleness=staleness, rounded=rounded)

    def update(self, **change: Unpack[Update]) -> int:
        """Change the graph, in mode `batched`, and return its version from now on.

        Args:
            change: `edges`, `edge_weight`, `edge_attr`, `removed_edges`, `features`, `new_features`, as far as they
                change; see `Update`.

        Raises:
            UsageError: the bundle is in another mode, or the change does not fit; nothing is changed then.
        """
        return self._batched().update(**change)

    def warm(self, node_ids: Any = None) -> int:
        """Fill the store, in mode `batched`, and return how many rows were computed; see `BatchedModel.warm`.

        Raises:
            UsageError: the bundle is in another mode, or there is no such node.
        """
        return self._batched().warm(node_ids)

    def _batched(self) -> BatchedModel:
        self._check_open()
        if not isinstance(self._backend, BatchedBackend):
            what = "answers for the whole graph, or for graphs that a request brings"
            raise UsageError.at(self._where, what, "Call it with arrays, or make the bundle with --mode batched")
        return self._backend.model

    def _check_open(self) -> None:
        if not self._open:
            raise UsageError.at(self._where, "the runner is closed", "Load the bundle again")

    def request_sizes(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Return the dynamic sizes of a request that `run` accepts, by name: `{"num_nodes": 17, …}`."""
        return self._form.dynamic(feeds)

    def close(self) -> None:
        """Release the engine; closing twice does nothing."""
        if self._open:
            self._backend.close()
        self._open = False

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ort(bundle: Bundle, model_file: Path, threads: int | None) -> Backend:
    from gnnexport.runtime.ort import OrtBackend

    return OrtBackend(model_file, threads)


def _openvino(bundle: Bundle, model_file: Path, threads: int | None) -> Backend:
    from gnnexport.runtime.openvino import OpenVinoBackend

    return OpenVinoBackend(model_file, threads, native=bundle.manifest.native_library is not None)


def _trt(bundle: Bundle, model_file: Path, threads: int | None) -> Backend:
    from gnnexport.runtime.trt import open_engine

    return open_engine(bundle.manifest.target, str(bundle.path))


def _trt_stand_in(bundle: Bundle, model_file: Path, threads: int | None) -> Backend:
    from gnnexport.runtime.trt import open_onnx

    return open_onnx(bundle.path, threads, prepared=bundle.manifest.prepare == "runtime")


_Opener = Callable[[Bundle, Path, int | None], Backend]


def _batched(
    bundle: Bundle, make: _Opener, threads: int | None, store_bytes: int | None, store_bits: StoreBits | None
) -> Backend:
    chain = open_chain(bundle, lambda model_file: make(bundle, model_file, threads), store_bytes, store_bits)
    return BatchedBackend(chain, str(bundle.path), threads)


_BACKENDS: dict[str, _Opener] = {"ort": _ort, "openvino": _openvino, "trt": _trt}

_STAND_INS: dict[str, _Opener] = {"trt": _trt_stand_in}
"""What runs the same model on any machine where the engine of a bundle cannot run."""


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    # `numpy.ascontiguousarray` makes a vector of a number.
    return np.asarray(array, order="C")


def _warn_of_other_processor(bundle: Bundle) -> None:
    decided = bundle.manifest.decided_on
    if decided is None or decided == this_processor():
        return
    message = (
        f"{bundle.path}: lowerings were chosen on {decided.name}, this is {this_processor().name}. "
        "Results are the same, speed may not be. Make the bundle here to choose again."
    )
    warnings.warn(message, RuntimeWarning, stacklevel=3)
