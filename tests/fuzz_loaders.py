"""Feed damaged files to everything that reads files: each is refused with an error of our tree, or loads.

    python -m tests.fuzz_loaders --seconds 600 --loader data

A crash, a hang or too much memory leaves the file, its seed and the traceback in the folder named at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch, Data, InMemoryDataset
from torch_geometric.transforms import RandomLinkSplit

from gnnexport.bundle.digest import bundle_digest, file_sha256
from gnnexport.bundle.layout import MANIFEST, REPORT
from gnnexport.bundle.manifest import File
from gnnexport.bundle.reader import open_bundle
from gnnexport.bundle.report_schema import Latency, Measurement, Report, Result, Step
from gnnexport.errors import GnnExportError
from gnnexport.frontends import memory
from gnnexport.frontends.data import load_data
from gnnexport.frontends.sidecar import read_recipe, read_sidecar
from gnnexport.frontends.task import check_task, kind_of
from gnnexport.program.data import GraphData
from tests.model_files import model_seeds, read_any_model
from tests.mutations import mutate
from tests.unit.tiny_bundle import write_tiny_bundle

GIB = 2**30
LIMIT_S = 10
"""A file that takes longer hangs."""

SIDECAR = """schema = 1
[model]
builder = "package.module:make"
[data]
path = "graph.npz"
split = 3
[task]
kind = "node-classification"
metric = "accuracy"
[training]
loss = "cross-entropy"
lr = 0.01
weight_decay = 5e-4
epochs = 200
patience = 20
[compress]
passes = ["prune-channels{keep=0.5}", "quantize-dynamic"]
target = "ort"
max_drop = "0.5pp"
min_speedup = 2
"""
RECIPE = 'schema = 1\npasses = ["prune-channels{keep=0.5}"]\ntarget = ["ort", "onnx"]\nmax_drop = 0.5\n'


class Hang(BaseException):
    """Raised by the alarm; no loader may swallow it."""


@dataclass(frozen=True)
class Loader:
    """Say what to feed and how to read it.

    Args:
        seeds: write honest files, or folders of files, and return their paths.
        load: read one, and everything in it.
        settle: after a file of a folder was damaged, make sums fit again, so that what lies behind is reached.
    """

    seeds: Callable[[Path], Sequence[Path]]
    load: Callable[[Path], object]
    settle: Callable[[Path], None] = lambda path: None


def small_graphs() -> list[Data]:
    """Make a few honest graphs."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, size in enumerate((4, 1, 6, 3)):
        nodes = torch.arange(size)
        made.append(
            Data(
                x=torch.rand(size, 3, generator=generator),
                edge_index=torch.stack([nodes, nodes.flip(0)]),
                edge_attr=torch.rand(size, 2, generator=generator),
                y=torch.tensor([number % 2]),
            )
        )
    return made


def data_seeds(folder: Path) -> list[Path]:
    """Write graphs in every form that data comes in."""
    graphs = small_graphs()
    one = graphs[2].clone()
    one.y = torch.arange(6) % 2
    for number, name in enumerate(("train_mask", "val_mask", "test_mask")):
        one[name] = torch.arange(6) % 3 == number
    torch.manual_seed(0)
    ring = torch.stack([torch.arange(12), (torch.arange(12) + 1) % 12])
    pairs = RandomLinkSplit(num_val=0.2, num_test=0.2)(Data(x=torch.ones(12, 2), edge_index=ring))
    batch = Batch.from_data_list(graphs)
    things: dict[str, Any] = {
        "one": one, "list": graphs, "batch": batch, "pairs": pairs, "tensors": one.to_dict(),
        "splits": {"train": graphs[:2], "val": graphs[2:3], "test": graphs[3:]},
    }  # fmt: skip
    for name, thing in things.items():
        torch.save(thing, folder / f"{name}.pt")
    InMemoryDataset.save(graphs, str(folder / "processed.pt"))
    arrays = {name: value.numpy() for name, value in one.to_dict().items()}
    np.savez(folder / "one.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)
    sets = {name: batch[name].numpy() for name in ("x", "edge_index", "edge_attr", "y")}
    np.savez(folder / "set.npz", **sets, node_ptr=batch.ptr.numpy(), edge_ptr=np.array([0, 4, 5, 11, 14]))
    np.savez(folder / "batch.npz", **sets, batch=batch.batch.numpy(), num_graphs=np.array(4))
    parts = {"x_data": np.ones(6, np.float32), "x_indices": np.arange(6) % 3, "x_indptr": np.arange(7)}
    rest = {name: value for name, value in arrays.items() if name != "x"}
    np.savez(folder / "sparse.npz", **rest, **parts, x_shape=np.array([6, 3]))
    np.savez(folder / "degrees.npz", **rest, num_nodes=np.array(6))
    return sorted(folder.iterdir())


def read_data(path: Path) -> object:
    """Load data without and with each kind of task, check it and select from it."""
    data, _ = load_data(path)
    assert_sound(data)
    kind = kind_of(data) if data.y is not None else "node-classification"
    loaded = load_data(path, kind=kind)[0]
    check_task(loaded, kind)
    return loaded


def assert_sound(data: GraphData) -> None:
    """Whatever loads keeps the promises of `GraphData`."""
    x, edges = data.inputs["x"], data.inputs["edge_index"]
    assert x.dtype is torch.float32
    assert x.dim() == 2
    assert bool(torch.isfinite(x).all())
    assert edges.dtype is torch.int64
    assert not edges.numel() or 0 <= int(edges.min()) <= int(edges.max()) < len(x)
    for name, width in (("edge_weight", 1), ("edge_attr", 2)):
        if name in data.inputs:
            assert data.inputs[name].dim() == width
            assert len(data.inputs[name]) == edges.shape[1]
    rows = {"node": len(x), "graph": data.num_graphs}
    if data.level == "pair":
        rows["pair"] = data.inputs["edge_label_index"].shape[1]
    if data.num_graphs is not None:
        batch = data.inputs["batch"]
        assert bool((batch[edges[0]] == batch[edges[1]]).all())
        assert bool((batch[1:] >= batch[:-1]).all())
        assert int(batch[-1]) < data.num_graphs
        if data.level != "pair":
            data.select(torch.arange(min(2, data.num_graphs)))
    if data.y is not None:
        assert len(data.y) == rows[data.level]
        assert data.y.dtype in (torch.int64, torch.float32)
    for mask in data.masks.values():
        assert mask.dtype is torch.bool
        assert mask.shape == (rows[data.level],)


def sidecar_seeds(folder: Path) -> list[Path]:
    """Write a sidecar in a folder of its own, and a recipe."""
    for name, content in (("full", SIDECAR), ("short", "schema = 1\n[data]\nsplit = 1\n"), ("empty", "")):
        (folder / name).mkdir()
        (folder / name / "gnnexport.toml").write_text(content)
    (folder / "recipe.toml").write_text(RECIPE)
    return sorted(folder.iterdir())


def read_settings(path: Path) -> object:
    """Read a recipe, or the sidecar of a model in a folder."""
    return read_sidecar(path / "model.pt") if path.is_dir() else read_recipe(path)


def bundle_seeds(folder: Path) -> list[Path]:
    """Write bundles with golden cases, data and a report."""
    for name, embed in (("features", 1 << 20), ("rows", 0)):
        path = write_tiny_bundle(folder / name, embed=embed)
        latency = Latency(p50=1, p95=2, p99=3, runs=8)
        report = Report(
            baseline=Measurement(latency_ms=latency), result=Result(size_bytes=9), steps=(Step(name="a", kept=True),)
        )
        (path / REPORT).write_text(report.to_json())
    return sorted(folder.iterdir())


def read_bundle(path: Path) -> object:
    """Read everything in a bundle."""
    bundle = open_bundle(path)
    return bundle.golden(), bundle.evaluation(), bundle.decisions(), bundle.report(), bundle.size_bytes


def seal_again(path: Path) -> None:
    """Write the sums that fit the files into the manifest, if it can still be read."""
    try:
        values = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for entry in values["files"]:
            entry["sha256"] = file_sha256(path / entry["path"])
            entry["size_bytes"] = (path / entry["path"]).stat().st_size
        values["digest"] = bundle_digest([File.model_validate(entry) for entry in values["files"]])
        (path / MANIFEST).write_text(json.dumps(values))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return


LOADERS: dict[str, Loader] = {
    "data": Loader(data_seeds, read_data),
    "sidecar": Loader(sidecar_seeds, read_settings),
    "bundle": Loader(bundle_seeds, read_bundle, seal_again),
    "model": Loader(model_seeds, read_any_model),
}


def fuzz(
    name: str, *, seconds: float | None = None, runs: int | None = None, seed: int = 0, keep: Path
) -> Counter[str]:
    """Feed damaged files to one loader until the time or the number of runs is up; returns outcomes by name.

    Args:
        name: in `LOADERS`.
        seconds: how long to go on.
        runs: how many files to feed.
        seed: of the damage; the same seed damages the same way.
        keep: folder for what crashed.
    """
    loader, outcomes = LOADERS[name], Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        honest = Path(scratch, "honest")
        honest.mkdir()
        seeds = loader.seeds(honest)
        for path in seeds:
            loader.load(path)
        started = time.monotonic()
        number = 0
        while (runs is None or number < runs) and (seconds is None or time.monotonic() - started < seconds):
            chance = random.Random(f"{name} {seed} {number}")
            victim = _victim(seeds, Path(scratch, "damaged"), loader, chance)
            outcome, report = _feed(loader, victim)
            outcomes[outcome] += 1
            if report:
                _keep(keep / f"{name}-{seed}-{number}", victim, report)
            number += 1
    return outcomes


def _victim(seeds: Sequence[Path], folder: Path, loader: Loader, chance: random.Random) -> Path:
    """Copy one honest file or folder and damage it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = chance.choice(seeds)
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    files = sorted(path for path in target.rglob("*") if path.is_file()) if target.is_dir() else [target]
    file = chance.choice(files)
    alike = [path.read_bytes() for path in seeds if path.is_file() and path.suffix == file.suffix]
    file.write_bytes(mutate(file.read_bytes(), alike, chance))
    if target.is_dir() and chance.random() < 0.8:
        loader.settle(target)
    return target


def _feed(loader: Loader, path: Path) -> tuple[str, str]:
    """Return what happened, and the traceback when it may not."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _alarm():
            loader.load(path)
        outcome = "loaded"
    except GnnExportError as error:
        outcome = type(error).__name__
        if error.exit_code == 1 or any(not problem.mend for problem in error.problems):
            return f"{outcome} without a mend", traceback.format_exc()
    except (Exception, Hang) as error:
        return f"CRASH {type(error).__name__}", traceback.format_exc()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return (f"CRASH memory {grown / GIB:.1f} GiB", "took too much memory") if grown > GIB else (outcome, "")


@contextmanager
def _alarm() -> Any:
    def ring(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _keep(folder: Path, victim: Path, report: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    copy = shutil.copytree if victim.is_dir() else shutil.copy
    copy(victim, folder / victim.name)
    (folder / "traceback.txt").write_text(report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz as the command line says; exit code 1 when anything crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--loader", choices=sorted(LOADERS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    keep = Path(tempfile.mkdtemp(prefix="fuzz-"))
    # The loaders refuse what does not fit into memory; here a sixteenth of a workstation is all there is.
    memory.memory_bytes = lambda: GIB  # type: ignore[assignment]
    torch.set_num_threads(1)
    crashed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in given.loader or sorted(LOADERS):
            outcomes = fuzz(name, seconds=given.seconds, seed=given.seed, keep=keep)
            bad = {kind: count for kind, count in outcomes.items() if kind.startswith("CRASH") or "mend" in kind}
            crashed += sum(bad.values())
            counts = ", ".join(f"{kind} {count}" for kind, count in outcomes.most_common())
            print(f"{name}: {outcomes.total()} files: {counts}", flush=True)
    print(f"{crashed} crashes" + (f" in {keep}" if crashed else ""))
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
