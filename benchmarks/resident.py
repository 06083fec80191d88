"""Run one contender alone in this process, and print as JSON what memory it took. Free of torch where the contender is.

    python -m benchmarks.resident WAY FOLDER --threads 2 --runs 3

FOLDER holds what `benchmarks.memory` has prepared; the last answer is left there as `WAY.npy`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.room import resident_bytes, start_peak

Run = Callable[[], NDArray[Any]]
Open = Callable[[Path, int], Run]


def features(folder: Path) -> NDArray[np.float32]:
    """Read the features of all nodes."""
    return np.asarray(np.load(folder / "x.npy"), dtype=np.float32)


def _bundle(name: str) -> Open:
    """Load a bundle as a server does."""
    from gnnexport.runtime.runner import load

    if name == "openvino":
        from gnnexport.runtime.openvino import import_openvino

        import_openvino(name)
    else:
        import onnxruntime  # noqa: F401  # the bundle will import it

    def open_(folder: Path, threads: int) -> Run:
        runner, feeds = load(folder / name, threads=threads), {"x": features(folder)}
        return lambda: next(iter(runner(feeds).values()))

    return open_


def _usual(name: str) -> Open:
    """Load the usual export into ONNX Runtime as it is by default."""
    from benchmarks import usual

    def open_(folder: Path, threads: int) -> Run:
        session = usual.session(folder / f"{name}.onnx", threads)
        values = {"x": features(folder), "edge_index": np.load(folder / "edge_index.npy")}
        feeds = {item.name: values[item.name] for item in session.get_inputs()}
        return lambda: np.asarray(session.run(None, feeds)[0])

    return open_


def _pytorch(name: str) -> Open:
    """Run the model itself on a sparse matrix."""
    import torch
    import torch_geometric.nn  # noqa: F401  # the model's file will import it

    from benchmarks.sparse import adjacency

    def open_(folder: Path, threads: int) -> Run:
        torch.set_num_threads(threads)
        # Not the file of a stranger: it was saved by the process that started this one.
        model = torch.load(folder / "model.pt", weights_only=False)
        rowptr, col = (torch.from_numpy(np.load(folder / f"{part}.npy")) for part in ("rowptr", "col"))
        matrix = adjacency(rowptr, col)
        x = torch.from_numpy(features(folder))

        def run() -> NDArray[Any]:
            with torch.inference_mode():
                return np.asarray(model(x, matrix).numpy())

        return run

    return open_


WAYS: Mapping[str, Callable[[str], Open]] = {
    "ort": _bundle,
    "openvino": _bundle,
    "ort-portable": _bundle,
    "usual": _usual,
    "pytorch": _pytorch,
}
"""What imports everything a contender needs and returns how to open it."""


def measure(way: str, folder: Path, threads: int, runs: int) -> dict[str, int]:
    """Return the resident memory when all is imported, the most until all is loaded, and the most of all."""
    opener = WAYS[way](way)
    idle = start_peak()
    run = opener(folder, threads)
    loaded = resident_bytes("VmHWM")
    for _ in range(runs - 1):
        run()
    answer = run()
    found = {"idle_bytes": idle, "loaded_bytes": loaded, "peak_bytes": resident_bytes("VmHWM")}
    np.save(folder / f"{way}.npy", answer)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=list(WAYS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    given = parser.parse_args()
    print(json.dumps(measure(given.way, given.folder, given.threads, given.runs)))


if __name__ == "__main__":
    main()
