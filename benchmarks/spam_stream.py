"""Judge reviews as they come in, while the graph grows: AUC kept, tail latency and throughput, pruned or not.

    python -m benchmarks.spam_stream

The model of the channel pruning paper is trained on the first part of `yelpchi_reviews`, pruned for requests, and
exported with the graph as it is then. The rest arrives in chunks: an update adds the reviews, who wrote them and what
they are about where a review is the first to name them, and the edges both ways; then the new reviews are judged, a
request for some of them each. The data has no dates; see `benchmarks.review_stream` for what is taken for their order.

All contenders follow the same stream side by side, and take turns in who is first. The AUC is that of all answers, each
given when its review came. It is held against that of the same model on the whole graph at the end, which knows what
came later. When the stream is over, every contender has to answer as the model on the whole graph does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.figures import busy, markdown, options, save
from benchmarks.paper_sage import PaperSage
from benchmarks.real_data import require
from benchmarks.review_stream import Growth, Stream
from gnnexport.bundle.writer import BundleWriter
from gnnexport.frontends.sidecar import Sidecar
from gnnexport.measure.metrics import evaluate
from gnnexport.measure.timing import Timing, ratio
from gnnexport.passes.contract import PassContext
from gnnexport.passes.prune_channels import PruneChannels
from gnnexport.pipeline.emission import Emitter
from gnnexport.pipeline.run import simplify
from gnnexport.pipeline.source import Given, Source, load_source
from gnnexport.pipeline.steps import finalise
from gnnexport.program.program import Program
from gnnexport.runtime.batched.backend import BatchedBackend
from gnnexport.runtime.runner import Runner, load
from gnnexport.targets.ort import OrtTarget
from gnnexport.training.task import Task
from gnnexport.training.trainer import Trainer

METRIC = "roc-auc"
SEED = 0
PAUSE_S = 0.05
"""Rest before a contender's turn, so that the threads of the one before are asleep."""

CHECKED = 512
"""Reviews whose answers are compared at the end."""

TOLERANCE = 1e-4
"""How far answers may lie apart, as a share of the largest."""

MIB = 1 << 20
QUICK = {
    "reviews": 600, "chunk": 32, "batch": 8, "hidden": 16, "epochs": 2, "retrain": 1, "store": 1, "staleness": 3,
}  # fmt: skip

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """How one contender serves.

    Args:
        keep: share of the channels that stayed; 1 for the unpruned model.
        store_bytes: memory for rows that are kept between requests; 0 for none.
        staleness: how many updates old such rows may be.
    """

    keep: float
    store_bytes: int
    staleness: int


@dataclass(frozen=True)
class Served:
    """What became of one contender.

    Args:
        setting: how it served.
        predict: times of requests.
        update: times of updates.
        reviews_per_s: judged, with updates counted.
        times_unpruned: median request of the unpruned model without a store over this one's.
        times_unpruned_ci95: interval of that.
        auc: of the answers given when the reviews came.
        auc_recomputed: of the same model on the whole graph at the end.
        found_share: of the hidden rows wanted, how many the store had.
        store_bytes: memory that the store takes when it is full.
        max_rel_error: largest difference from the whole graph when the stream was over.
    """

    setting: Setting
    predict: Timing
    update: Timing
    reviews_per_s: float
    times_unpruned: float
    times_unpruned_ci95: tuple[float | None, float | None]
    auc: float
    auc_recomputed: float
    found_share: float
    store_bytes: int
    max_rel_error: float

    def cells(self) -> list[str]:
        """Return what `COLUMNS` heads."""
        interval = "–".join("?" if bound is None else f"{bound:.2f}" for bound in self.times_unpruned_ci95)
        setting, predict, update = self.setting, self.predict, self.update
        times = [f"{value:.3g}" for value in (predict.p50_ms, predict.p95_ms, predict.p99_ms)]
        return [
            str(setting.keep), f"{self.store_bytes / MIB:.1f}", str(setting.staleness), *times,
            f"{update.p50_ms:.3g}", f"{update.p99_ms:.3g}", f"{self.reviews_per_s:,.0f}", f"{self.times_unpruned:.2f}",
            interval, f"{self.auc:.4f}", f"{self.auc - self.auc_recomputed:+.4f}", f"{self.found_share:.0%}",
            f"{self.max_rel_error:.1e}",
        ]  # fmt: skip


COLUMNS = (
    "keep", "store MiB", "staleness", "p50 ms", "p95 ms", "p99 ms", "update p50 ms", "update p99 ms",
    "reviews a second", "times as fast", "95 % interval", "AUC", "against recomputed", "rows found", "error at the end",
)  # fmt: skip


class Server:
    """A bundle that follows the stream, and what that takes."""

    def __init__(self, bundle: Path, setting: Setting, threads: int) -> None:
        """Load it; a store is filled first."""
        self.setting = setting
        self.runner: Runner = load(bundle, threads=threads, store_bytes=setting.store_bytes)
        self.runner.warm()
        (self._output,) = (tensor.name for tensor in self.runner.outputs)
        self.predict_s: list[list[float]] = []
        self.update_s: list[float] = []
        self.scores: list[Rows] = []
        self.found = self.computed = 0

    def follow(self, growth: Growth, batch: int) -> None:
        """Take in a chunk of reviews and judge them, `batch` in a request."""
        start = time.perf_counter()
        self.runner.update(new_features=growth.nodes, edges=growth.edges)
        self.update_s.append(time.perf_counter() - start)
        seconds = []
        for begin in range(0, len(growth.reviews), batch):
            asked = growth.reviews[begin : begin + batch]
            start = time.perf_counter()
            answer = self.runner.predict(asked, staleness=self.setting.staleness)
            seconds.append(time.perf_counter() - start)
            self.scores.append(answer[self._output])
            self.found += sum(answer.found.values())
            self.computed += sum(answer.computed.values()) - len(asked)  # the last stage gives answers
        self.predict_s.append(seconds)

    def answers(self, reviews: NDArray[np.int64]) -> Rows:
        """Judge reviews on the graph as it is now, with no row out of date."""
        scores: Rows = self.runner.predict(reviews)[self._output]
        return scores

    @property
    def store_bytes(self) -> int:
        """Memory that the store takes when it is full."""
        backend = self.runner._backend
        assert isinstance(backend, BatchedBackend)
        return backend.model.store_bytes

    def served(self, unpruned: Server, y: NDArray[np.int64], recomputed: Rows, error: float) -> Served:
        """Sum up.

        Args:
            unpruned: the contender that others are set against.
            y: labels of the streamed reviews.
            recomputed: scores of these by the same model on the whole graph.
            error: largest relative difference from these at the end.
        """
        mine, base = _timing(self.predict_s), _timing(unpruned.predict_s)
        faster = ratio(base, mine)
        seconds = sum(self.update_s) + sum(map(sum, self.predict_s))
        return Served(
            self.setting, mine, _timing([self.update_s]), len(y) / seconds, faster.value, (faster.low, faster.high),
            evaluate(METRIC, y, np.concatenate(self.scores)), evaluate(METRIC, y, recomputed),
            self.found / max(self.found + self.computed, 1), self.store_bytes, error,
        )  # fmt: skip


def _timing(blocks: Sequence[Sequence[float]]) -> Timing:
    seconds = np.concatenate([np.asarray(block) for block in blocks]) * 1000
    p50, p95, p99 = (float(value) for value in np.percentile(seconds, [50, 95, 99]))
    return Timing(p50, p95, p99, len(seconds), tuple(1000 * float(np.median(block)) for block in blocks))


class Models:
    """The model trained on the first part of the stream, pruned or not, and lowered with the graph of then.

    Args:
        stream: of which the first part is looked at.
        given: options.
        folder: for files.
    """

    def __init__(self, stream: Stream, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        data, model = folder / "first.npz", folder / "model.pt"
        stream.write_first(data)
        torch.manual_seed(SEED)
        torch.save(PaperSage(stream.x.shape[1], 2, given.hidden).eval(), model)
        self.source: Source = load_source(Given(model, str(data), "batched", trust=True), Sidecar())
        y, masks = stream.first_labels()
        tensors = {split: torch.from_numpy(mask) for split, mask in masks.items()}
        self.data = replace(self.source.data, y=torch.from_numpy(y), masks=tensors)
        epochs = given.epochs + given.retrain
        self.trainer = Trainer(self.data, Task(metric=METRIC, epochs=epochs, patience=epochs))
        self.trained, _ = self.trainer.fit(simplify(self.source).program, seed=SEED, epochs=given.epochs)

    def program(self, keep: float) -> Program:
        """Prune and retrain; without pruning train for as many epochs more."""
        epochs, lr = self.given.retrain, self.given.lr
        if keep == 1:
            return self.trainer.fit(self.trained, seed=SEED, epochs=epochs, lr=lr)[0]
        ctx = PassContext(self.data, self.trainer, SEED, "batched")
        return PruneChannels(keep=keep, scheme="batched", epochs=epochs, lr=lr).run(self.trained, ctx)

    def bundle(self, program: Program, name: str) -> Path:
        """Lower a Program."""
        emitter = Emitter(self.source, OrtTarget(), self.given.threads, 10.0, SEED, 0)
        with BundleWriter(self.folder / name) as writer:
            emitter.write_model(finalise(program, self.source.data, "batched").program, writer, {})
            return writer.commit()


def recompute(program: Program, stream: Stream) -> Rows:
    """Return scores of all nodes on the graph as it is when everything has come."""
    whole = {"x": stream.x, "edge_index": stream.edges(0, stream.num_reviews)}
    with torch.inference_mode():
        scores: Rows = program.clone().train(False)({name: torch.from_numpy(of) for name, of in whole.items()}).numpy()
    return scores


def follow(servers: Sequence[Server], stream: Stream, chunk: int, batch: int) -> None:
    """Send the stream past all contenders."""
    for number, begin in enumerate(range(stream.first, stream.num_reviews, chunk)):
        growth = stream.growth(begin, min(begin + chunk, stream.num_reviews))
        turn = number % len(servers)
        for server in (*servers[turn:], *servers[:turn]):
            time.sleep(PAUSE_S)
            server.follow(growth, batch)


def error_at_the_end(server: Server, reviews: NDArray[np.int64], whole: Rows) -> float:
    """Hold what a contender answers when the stream is over against the whole graph.

    Raises:
        SystemExit: it answers something else.
    """
    some = np.random.default_rng(SEED).permutation(reviews)[:CHECKED]
    error = float(np.abs(server.answers(some) - whole[some]).max() / np.abs(whole).max())
    if not error <= TOLERANCE:
        raise SystemExit(f"{server.setting}: answers differ from those on the whole graph by {error:.1e}")
    return error


def run(stream: Stream, given: argparse.Namespace, folder: Path) -> list[Served]:
    """Train, lower, follow the stream, and sum up."""
    models = Models(stream, given, folder)
    programs = {keep: models.program(keep) for keep in (1, given.keep)}
    bundles = {keep: models.bundle(program, f"keep-{keep}") for keep, program in programs.items()}
    ways = ((0, 0), (given.store * MIB, 0), (given.store * MIB, given.staleness))
    servers = [Server(bundles[keep], Setting(keep, *way), given.threads) for keep in bundles for way in ways]
    follow(servers, stream, given.chunk, given.batch)
    streamed = stream.reviews[stream.first :]
    whole = {keep: recompute(program, stream) for keep, program in programs.items()}
    rows = []
    for server in servers:
        expected = whole[server.setting.keep]
        error = error_at_the_end(server, streamed, expected)
        rows.append(server.served(servers[0], stream.y[streamed], expected[streamed], error))
        server.runner.close()
    return rows


def main() -> None:
    """Run the benchmark, print its table, and write it as JSON."""
    parser = options((__doc__ or "").splitlines()[0], quick=True)
    parser.add_argument("--reviews", type=int, help="that come at all; by default those there are")
    parser.add_argument("--first", type=float, default=0.5, help="share of these that has come before training")
    parser.add_argument("--chunk", type=int, default=256, help="reviews of an update")
    parser.add_argument("--batch", type=int, default=32, help="reviews of a request")
    parser.add_argument("--keep", type=float, default=0.25, help="share of the channels that stays")
    parser.add_argument("--store", type=int, default=32, help="MiB of memory for rows kept between requests")
    parser.add_argument("--staleness", type=int, default=100, help="updates that such rows may be old, in one row")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--retrain", type=int, default=40, help="epochs of retraining")
    parser.add_argument("--lr", type=float, default=None, help="step size of retraining")
    given = parser.parse_args()
    if given.quick:
        vars(given).update(QUICK)
    torch.set_num_threads(given.threads)
    with np.load(require("yelpchi_reviews")) as arrays:
        names = ("node_type", "edge_index", "x", "y")
        stream = Stream({name: arrays[name] for name in names}, given.reviews, given.first)
    print(f"{stream.first:,} reviews before training, {stream.num_reviews - stream.first:,} streamed", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        rows = run(stream, given, Path(scratch))
    print(markdown(COLUMNS, (row.cells() for row in rows)))
    told = {key: value for key, value in vars(given).items() if key not in ("output", "quick", "threads")}
    found = {"rows": [asdict(row) for row in rows], "options": told, "notes": busy(given.threads)}
    save(found, "spam_stream", given)


if __name__ == "__main__":
    main()
