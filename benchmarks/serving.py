"""What channel pruning saves when a graph network serves some nodes at a time, or the whole graph at once.

    python -m benchmarks.serving --data amazon_computers coauthor_cs github_social --seeds 5

Each seed draws a split of the nodes, trains the model of the channel pruning paper, prunes it by both schemes, and
retrains; the unpruned model is trained for as many epochs more. Selection is on validation nodes; what is reported is
F1-micro on test nodes. The first seed's models are lowered to ONNX Runtime, pruned or not by the same kernels, and
timed side by side on the same requests: neighbours are looked for, rows gathered, and all stages run within the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.figures import RESULTS, busy, markdown, options, save
from benchmarks.paper_sage import PaperSage
from benchmarks.real_data import require
from benchmarks.training import train_model
from gnnexport.bundle.writer import BundleWriter
from gnnexport.frontends.data import load_data
from gnnexport.frontends.sidecar import Sidecar
from gnnexport.measure.timing import Timing, compare, ratio
from gnnexport.passes.contract import PassContext
from gnnexport.passes.prune_channels import PruneChannels
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.run import simplify
from gnnexport.pipeline.source import Given, Source, load_source
from gnnexport.pipeline.stage_emission import cost_of_request
from gnnexport.pipeline.steps import finalise
from gnnexport.program.cost import measure_cost
from gnnexport.program.data import GraphData
from gnnexport.program.program import Program
from gnnexport.runtime.peak import peak_memory_bytes
from gnnexport.runtime.runner import Runner, load
from gnnexport.targets.ort import OrtTarget
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

KEEPS = (0.5, 0.25, 0.125)
CHOSEN = {"full": 0.25, "batched": 0.125}
"""What further seeds than the first are pruned to."""

SCHEMES = ("full", "batched")
BATCHES = (1, 32, 512)
REQUESTS = 64
"""Different requests of one size; each contender goes through them in turn."""

MACS_TARGETS = 512
TRAIN, VALIDATION = 0.6, 0.2
LARGEST = 10.0
"""Standardised features are cut off there: a word that one node in thousands has would stand far out."""


@dataclass(frozen=True)
class Pruned:
    """One model of one seed: what it answers and what it costs.

    Args:
        macs_per_node: multiply-accumulates for each node asked about, of the whole graph or of a batch without a store.
    """

    data: str
    seed: int
    scheme: str
    keep: float
    f1: float
    drop: float
    macs_per_node: float
    parameters: int
    select: str = "lasso"
    distil: float = 0.0


@dataclass(frozen=True)
class Timed:
    """One model on requests of one size, against the unpruned one on the same requests."""

    data: str
    scheme: str
    keep: float
    batch: int
    store: bool
    p50_ms: float
    p95_ms: float
    p99_ms: float
    times_unpruned: float
    times_unpruned_ci95: tuple[float | None, float | None]
    peak_memory_bytes: int | None = None


def with_split(data: GraphData, seed: int) -> GraphData:
    """Draw a split of the labelled nodes: 60 % to train on, 20 % to select by, 20 % to report."""
    assert data.y is not None
    order = torch.randperm(data.num_nodes, generator=torch.Generator().manual_seed(seed))
    order = order[data.y[order] >= 0]
    first, second = int(TRAIN * len(order)), int((TRAIN + VALIDATION) * len(order))
    masks = {}
    for split, nodes in (("train", order[:first]), ("val", order[first:second]), ("test", order[second:])):
        masks[split] = torch.zeros(data.num_nodes, dtype=torch.bool)
        masks[split][nodes] = True
    return replace(data, masks=masks)  # type: ignore[arg-type]


def prepared(name: str, seed: int, folder: Path) -> Path:
    """Write the data as the model reads it: features standardised on the nodes to train on, and the split."""
    path = folder / f"{name}-{seed}.npz"
    if not path.is_file():
        data, _ = load_data(require(name))
        data = with_split(data, seed)
        assert data.y is not None
        x, train = data.inputs["x"], data.masks["train"]
        x = ((x - x[train].mean(0)) / (x[train].std(0) + 1e-6)).clamp(-LARGEST, LARGEST)
        arrays = {"x": x, "edge_index": data.inputs["edge_index"], "y": data.y}
        arrays |= {f"{split}_mask": mask for split, mask in data.masks.items()}
        np.savez(path, allow_pickle=False, **{key: value.numpy() for key, value in arrays.items()})
    return path


def trained(name: str, seed: int, data: GraphData, given: argparse.Namespace) -> nn.Module:
    """Return a trained model, kept in a folder between runs."""
    path = given.folder / f"{name}-{seed}-{given.hidden}-{given.epochs}.pt"
    assert data.y is not None
    torch.manual_seed(seed)
    model = PaperSage(data.inputs["x"].shape[1], int(data.y.max()) + 1, given.hidden)
    if path.is_file():
        model.load_state_dict(torch.load(path))
        return model.eval()
    train_model(model, data, epochs=given.epochs, seed=seed)
    torch.save(model.state_dict(), path)
    return model


class Case:
    """One data set with one seed."""

    def __init__(self, name: str, seed: int, given: argparse.Namespace, folder: Path) -> None:
        self.name, self.seed, self.given = name, seed, given
        self.path = prepared(name, seed, given.folder)
        self.data, _ = load_data(self.path)
        self.model = trained(name, seed, self.data, given)
        self.file = folder / f"{name}-{seed}.pt"
        torch.save(self.model, self.file)
        self.task = Task(epochs=given.retrain, patience=given.retrain)
        self.programs: dict[str, Program] = {}
        self.untrained: bool = getattr(given, "no_accuracy", False)

    def source(self, mode: str) -> Source:
        """Load the model as `compress` does."""
        return load_source(Given(self.file, str(self.path), mode, trust=True), Sidecar())

    def simplified(self, mode: str) -> Program:
        """Return the captured Program."""
        if mode not in self.programs:
            self.programs[mode] = simplify(self.source(mode)).program
        return self.programs[mode]

    def pruned(self, scheme: str, keep: float, **options: Any) -> Program:
        """Prune and retrain."""
        program = self.simplified(scheme)
        data = self.data.hide("test")
        trainer = Trainer(data, self.task)
        if keep == 1 and self.untrained:
            return program
        if keep == 1:  # has as many epochs as the pruned ones
            return trainer.fit(program, seed=self.seed, lr=self.given.lr)[0]
        ctx = PassContext(data, trainer, self.seed, scheme)  # type: ignore[arg-type]
        options = {"lr": self.given.lr, "retrain": not self.untrained, **options}
        item = PruneChannels(keep=keep, scheme=scheme, **options)  # type: ignore[arg-type]
        return item.run(program, ctx)

    def f1(self, program: Program) -> float:
        """Return F1-micro on the test nodes; of one class a node that is the accuracy."""
        assert self.data.y is not None
        with torch.no_grad():
            answers = program.clone().train(False)(self.data.inputs).argmax(1)
        test = self.data.masks["test"]
        return float((answers == self.data.y)[test].float().mean())

    def macs_per_node(self, program: Program, scheme: str) -> float:
        """Count what one node's answer costs."""
        final = finalise(program, self.data, scheme).program  # type: ignore[arg-type]
        if scheme == "full":
            return measure_cost(final, self.data.inputs).macs() / self.data.num_nodes
        targets = torch.randperm(self.data.num_nodes, generator=torch.Generator().manual_seed(0))[:MACS_TARGETS]
        return cost_of_request(final, self.data.inputs, targets).macs() / len(targets)

    def figures(self, program: Program, scheme: str, keep: float, before: float, **options: Any) -> Pruned:
        """Describe one model."""
        f1 = self.f1(program)
        parameters = sum(item.numel() for item in program.body.parameters())
        macs = self.macs_per_node(program, scheme)
        return Pruned(self.name, self.seed, scheme, keep, f1, before - f1, macs, parameters, **options)

    def bundle(self, program: Program, scheme: str, folder: Path) -> Path:
        """Lower a Program for timing."""
        emitter = Emitter(self.source(scheme), OrtTarget(), self.given.threads, 10.0, 0, 0)
        final = finalise(program, self.data, scheme).program  # type: ignore[arg-type]
        with BundleWriter(folder) as writer:
            emitter.write_model(final, writer, {})
            return writer.commit()


def requests(num_nodes: int, batch: int) -> list[NDArray[np.int64]]:
    """Draw requests, each of distinct nodes."""
    generator = np.random.default_rng(batch)
    return [generator.permutation(num_nodes)[:batch] for _ in range(REQUESTS)]


def asking(runner: Runner, asked: list[NDArray[np.int64]]) -> Callable[[], object]:
    """Return what sends the next request."""
    turn: Iterator[NDArray[np.int64]] = cycle(asked)
    return lambda: runner.predict(next(turn))


def time_batched(case: Case, bundles: dict[float, Path], given: argparse.Namespace) -> list[Timed]:
    """Time unpruned and pruned models on requests, without rows kept between them and with all of them."""
    found = []
    for store in (False, True):
        runners = {keep: load(path, threads=given.threads, store_bytes=None if store else 0)
                   for keep, path in bundles.items()}  # fmt: skip
        if store:
            for runner in runners.values():
                runner.warm()
        for batch in BATCHES:
            asked = requests(case.data.num_nodes, batch)
            contenders = {str(keep): asking(runner, asked) for keep, runner in runners.items()}
            timings = compare(contenders, budget_s=given.budget)
            found += [_timed(case, "batched", keep, batch, store, timings) for keep in runners]
        for runner in runners.values():
            runner.close()
    return [_with_memory(row, bundles) for row in found]


def time_full(case: Case, bundles: dict[float, Path], given: argparse.Namespace) -> list[Timed]:
    """Time unpruned and pruned models on the whole graph."""
    runners = {keep: load(path, threads=given.threads) for keep, path in bundles.items()}
    feeds = {"x": case.data.inputs["x"].numpy()}
    contenders = {str(keep): (lambda runner=runner: runner(feeds)) for keep, runner in runners.items()}
    timings = compare(contenders, budget_s=2 * given.budget)
    for runner in runners.values():
        runner.close()
    whole = case.data.num_nodes
    return [_with_memory(_timed(case, "full", keep, whole, False, timings), bundles) for keep in bundles]


def _with_memory(row: Timed, bundles: dict[float, Path]) -> Timed:
    """Add what a process takes that does nothing else: of requests, with those of 512 nodes alone."""
    asked = row.scheme == "full" or (row.batch == BATCHES[-1] and not row.store)
    return replace(row, peak_memory_bytes=peak_memory_bytes(bundles[row.keep])) if asked else row


def _timed(case: Case, scheme: str, keep: float, batch: int, store: bool, timings: dict[str, Timing]) -> Timed:
    timing = timings[str(keep)]
    faster = ratio(timings["1"], timing)
    interval = (faster.low, faster.high)
    return Timed(
        case.name, scheme, keep, batch, store, timing.p50_ms, timing.p95_ms, timing.p99_ms, faster.value, interval
    )


def run_case(name: str, seed: int, given: argparse.Namespace, folder: Path) -> tuple[list[Pruned], list[Timed]]:
    """Prune one seed's model by both schemes; time the first seed's."""
    start = time.perf_counter()
    case = Case(name, seed, given, folder)
    unpruned = case.pruned("full", 1)
    before = case.f1(unpruned)
    print(f"{name}, seed {seed}: F1-micro {before:.4f}, trained in {time.perf_counter() - start:.0f} s", flush=True)
    pruned, timed = [], []
    for scheme in SCHEMES:
        bundles: dict[float, Path] = {}
        for keep in (1, *(given.keeps if seed == 0 else [CHOSEN[scheme]])):
            program = case.pruned(scheme, keep) if keep != 1 or given.no_accuracy else unpruned
            if not given.no_accuracy:
                pruned.append(case.figures(program, scheme, keep, before))
                print(_line(pruned[-1]), flush=True)
            if seed == 0 and not given.no_timing:
                bundles[keep] = case.bundle(program, scheme, folder / f"{name}-{scheme}-{keep}.bundle")
        if bundles:
            timed += (time_batched if scheme == "batched" else time_full)(case, bundles, given)
    return pruned, timed


def _line(row: Pruned) -> str:
    return (
        f"  {row.scheme:<8} keep {row.keep:<6} F1-micro {row.f1:.4f} (drop {row.drop:+.4f}), "
        f"{row.macs_per_node:,.0f} MACs a node"
    )


def accuracy_table(rows: list[Pruned]) -> str:
    """Give mean and spread over the seeds."""
    heads = ("data", "scheme", "keep", "F1-micro", "drop", "seeds", "kMACs a node", "parameters")
    cells = []
    for key in dict.fromkeys((row.data, row.scheme, row.keep) for row in rows):
        of = [row for row in rows if (row.data, row.scheme, row.keep) == key]
        drops = [row.drop for row in of]
        spread = f" ± {statistics.stdev(drops):.4f}" if len(of) > 1 else ""
        f1 = statistics.mean(row.f1 for row in of)
        kmacs = statistics.mean(row.macs_per_node for row in of) / 1000
        cells.append([
            *map(str, key), f"{f1:.4f}", f"{statistics.mean(drops):+.4f}{spread}", str(len(of)), f"{kmacs:,.1f}",
            f"{of[0].parameters:,}",
        ])  # fmt: skip
    return markdown(heads, cells)


def timing_table(rows: list[Timed]) -> str:
    """Give the times of each model."""
    heads = ("data", "scheme", "keep", "nodes", "store", "p50 ms", "p95 ms", "p99 ms", "times as fast", "95 % interval")
    cells = []
    for row in rows:
        interval = "–".join("?" if bound is None else f"{bound:.2f}" for bound in row.times_unpruned_ci95)
        cells.append([
            row.data, row.scheme, str(row.keep), str(row.batch), "warm" if row.store else "off", f"{row.p50_ms:.3g}",
            f"{row.p95_ms:.3g}", f"{row.p99_ms:.3g}", f"{row.times_unpruned:.2f}", interval,
        ])  # fmt: skip
    return markdown(heads, cells)


def training_options(parser: argparse.ArgumentParser, retrain: int) -> None:
    """Add how models are trained and retrained, and where they are kept."""
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--retrain", type=int, default=retrain, help="epochs of retraining")
    parser.add_argument("--lr", type=float, default=None, help="step size of retraining")
    parser.add_argument("--folder", type=Path, default=None, help="where trained models are kept between runs")


def _earlier(path: Path, given: argparse.Namespace) -> list[Pruned]:
    """Return what was found before of seeds or data that this run leaves out."""
    if not given.first_seed or not path.is_file():
        return []
    rows = [Pruned(**row) for row in json.loads(path.read_text())["pruned"]]
    again = range(given.first_seed, given.seeds)
    return [row for row in rows if row.data not in given.data or row.seed not in again]


def main() -> None:
    """Run all data sets and seeds asked for, print the tables, and write them as JSON."""
    parser = options((__doc__ or "").splitlines()[0], budget_s=10.0)
    parser.add_argument("--data", nargs="+", default=["amazon_computers", "coauthor_cs", "github_social"])
    parser.add_argument("--seeds", type=int, default=1, help="all but the first at the chosen point alone")
    parser.add_argument("--first-seed", type=int, default=0, help="rows of other seeds stay as they were written")
    parser.add_argument("--keeps", nargs="+", type=float, default=list(KEEPS))
    training_options(parser, retrain=40)
    parser.add_argument("--no-timing", action="store_true", help="measure accuracy alone")
    parser.add_argument(
        "--no-accuracy", action="store_true", help="time alone, without retraining: widths are the same"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    name = "serving_timing" if given.no_accuracy else "serving"
    pruned = _earlier(given.output or RESULTS / f"{name}.json", given)
    timed: list[Timed] = []
    with tempfile.TemporaryDirectory() as scratch:
        given.folder = given.folder or Path(scratch)
        given.folder.mkdir(parents=True, exist_ok=True)
        for data in given.data:
            for seed in range(given.first_seed, given.seeds):
                more = run_case(data, seed, given, Path(scratch))
                pruned, timed = pruned + more[0], timed + more[1]
    print(accuracy_table(pruned) if pruned else "accuracy not measured")
    print(timing_table(timed) if timed else "latency not measured")
    notes = busy(given.threads)
    found = {"pruned": [asdict(row) for row in pruned], "timed": [asdict(row) for row in timed], "notes": notes}
    save(found, name, argparse.Namespace(output=given.output, threads=given.threads))


if __name__ == "__main__":
    main()
