"""Put zeros into weights: by pruning after training, or by training them sparse."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from gnnexport.errors import Problem
from gnnexport.measure.amdahl import prediction
from gnnexport.measure.sparse_speed import Setting, recommend
from gnnexport.passes.contract import Mark, Pass, PassContext, Stage, marks_of
from gnnexport.program.program import Program
from gnnexport.training.kinds import Rows
from gnnexport.training.parts import graphs_seen
from gnnexport.training.sparsity.densities import Distribution
from gnnexport.training.sparsity.patterns import Axis, Pattern, parse_pattern
from gnnexport.training.sparsity.projection import Entries, WholeChannels
from gnnexport.training.sparsity.recipe import Method, Recipe, Score, Start, prunable, sparsify, values_of
from gnnexport.training.sparsity.weights import dense_parameters, find_weights
from gnnexport.training.trainer import why_not_trainable

SPARSITY = 0.9
ROUNDS = 4

SPARSE_TRAINING = ("rigl", "set")
SPLITTING = ("slr", "admm")


@dataclass(frozen=True)
class SparsifyWeights(Pass):
    """Bring most entries of weight matrices to zero, and train those that are left.

    `magnitude` keeps the largest entries; `admm` and `slr` pull weights towards sparse ones before that ("Towards
    Sparsification of Graph Neural Networks", ICCD 2022). `rigl` and `set` train sparse weights whose places change.
    """

    name: ClassVar[str] = "sparsify-weights"
    stage: ClassVar[Stage] = Stage.COMPRESS
    turn: ClassVar[int] = 20
    ladder: ClassVar[tuple[str, ...]] = ("sparsity=0.9,pattern=16x1", "sparsity=0.9", "sparsity=0.75,pattern=16x1")
    method: Method = "magnitude"
    """`magnitude`, `slr` and `admm` prune and train what is left; `rigl` and `set` train sparse."""
    score: Score = "magnitude"
    """What entries are told apart by. norm: their magnitude times the norm of what they are multiplied by on the
    training graphs (Unifews, ICML 2025); with method=magnitude."""
    sparsity: float | None = None
    """Share of entries that become zero, of channels with pattern=column or row; 0.9 unless the pattern says it."""
    threshold: float | None = None
    """Magnitude times norm below which entries go, the same number for all weights, in place of a share; each keeps its
    largest. With score=norm."""
    pattern: str = "unstructured"
    """`unstructured`; `2:4`: of 4 inputs in a row 2; `16x1`: blocks of 16 outputs by 1 input; `column` and `row`: whole
    channels, which shrinks the model, judged by what reads or makes them."""
    distribution: Distribution | None = None
    """`global`: chosen among all weights; `uniform`: the same share of each; `erk`: more of small ones. By default
    global, with rigl and set erk."""
    schedule: Literal["oneshot", "gradual"] = "oneshot"
    """Whether magnitude prunes at once, or in rounds with training in between."""
    rounds: int | None = None
    """Of schedule=gradual; 4 by default."""
    start: Start | None = None
    """Of rigl and set: the trained model, by default, or weights drawn anew."""
    update_every: int | None = None
    """Steps between changes of places, with rigl and set; by default some twenty changes in a run."""
    death: float | None = None
    """Share of entries that change places at first, with rigl and set, falling along a cosine; 0.5 by default."""
    stop: float | None = None
    """Share of the steps after which places stay, with rigl and set; 0.75 by default."""
    rho: float | None = None
    """Strength of the pull of slr and admm; 0.1 by default."""
    step: float | None = None
    """First step of slr's multipliers; 0.01 by default."""
    epochs: int | None = None
    """Of slr, admm, rigl, set, and of all rounds but the last of schedule=gradual; by default the task's."""
    retrain: bool = True
    """Train what is left after pruning; without labels it stays as pruned."""
    retrain_epochs: int | None = None
    """At most this many in that; by default the task's."""
    lr: float | None = None
    """Step size of training; by default the task's."""
    distil: float = 0.0
    """Share of the loss that is the divergence from the answers of the model as it was."""
    distil_on: Rows | None = None
    """all: its answers for every node of a graph that is trained on as a whole, with or without a label; train: those
    for training nodes. By default all."""

    @classmethod
    def settings(cls, sparse_pattern: str | None) -> tuple[str, ...]:
        """Return the one pattern that a runtime may skip, where no other zeros gain anything, else the ladder."""
        return cls.ladder if sparse_pattern is None else (f"pattern={sparse_pattern}",)

    def __post_init__(self) -> None:
        pattern = parse_pattern(self.pattern)
        self._check_effects(pattern)
        for name, value in self._defaults(pattern).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check_ranges()

    def _defaults(self, pattern: Pattern | Axis) -> dict[str, object]:
        """Return what options are that have an effect and were not given."""
        found: dict[str, object] = {}
        if self.threshold is not None:
            return found
        if not isinstance(pattern, Pattern) or not pattern.group:
            found["sparsity"] = SPARSITY
        if isinstance(pattern, Pattern) and not pattern.group:
            found["distribution"] = "erk" if self.method in SPARSE_TRAINING else "global"
        if self.schedule == "gradual":
            found["rounds"] = ROUNDS
        if self.method in SPARSE_TRAINING:
            found |= {"start": "trained", "death": 0.5, "stop": 0.75}
        if self.method in SPLITTING:
            found["rho"] = 0.1
        if self.method == "slr":
            found["step"] = 0.01
        return found

    def _check_effects(self, pattern: Pattern | Axis) -> None:
        """Refuse options that would do nothing beside others."""
        sparse_training = self.method in SPARSE_TRAINING
        untrained = not self.retrain and self.method == "magnitude" and self.schedule == "oneshot"
        idle = {
            "method=rigl and set": [] if sparse_training else ["start", "update_every", "death", "stop"],
            "method=slr and admm": [] if self.method in SPLITTING else ["rho"],
            "method=slr": [] if self.method == "slr" else ["step"],
            "schedule=gradual": [] if self.schedule == "gradual" else ["rounds"],
            "method=magnitude": ["schedule", "score"] if self.method != "magnitude" else [],
            "score=norm": ["threshold"] if self.score != "norm" else [],
            "sparsity": ["distribution", "schedule"] if self.threshold is not None else [],
            "method=magnitude, slr and admm": ["retrain", "retrain_epochs"] if sparse_training else [],
            "another method than one-shot magnitude": ["epochs"]
            if self.method == "magnitude" and self.schedule == "oneshot"
            else [],
            "retrain=true": [] if self.retrain else ["retrain_epochs", *(["lr", "distil"] if untrained else [])],
            "distil": [] if self.distil else ["distil_on"],
            "patterns that leave the sparsity open": ["sparsity", "threshold", "distribution", "schedule"]
            if isinstance(pattern, Pattern) and pattern.group
            else [],
            "patterns of entries": [] if isinstance(pattern, Pattern) else ["distribution", "score"],
        }
        if self.threshold is not None and self.sparsity is not None:
            raise ValueError("sparsity and threshold exclude each other. Give one of them")
        given = {item.name for item in fields(self) if getattr(self, item.name) != item.default}
        for condition, names in idle.items():
            for name in names:
                if name in given:
                    raise ValueError(f"{name} acts with {condition} alone. Drop {name}")
        if sparse_training and not isinstance(pattern, Pattern):
            raise ValueError(f"pattern={self.pattern} shrinks the model, which {self.method} does not. Use magnitude")
        if self.start == "scratch" and self.distribution == "global":
            raise ValueError("distribution=global compares trained weights. Use erk or uniform, or start=trained")

    def _check_ranges(self) -> None:
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise ValueError("sparsity must be in (0, 1). Write for example sparsity=0.9")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError("threshold must not be negative. Write for example threshold=0.5")
        for name in ("death", "stop"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1]. Write for example {name}=0.5")
        for name in ("rho", "step", "lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive. Write for example {name}=0.01")
        if self.rounds is not None and self.rounds < 2:
            raise ValueError("rounds must be at least 2. Write for example rounds=4; schedule=oneshot prunes at once")
        if self.update_every is not None and self.update_every < 1:
            raise ValueError("update_every must be at least 1. Write for example update_every=10")
        for name in ("epochs", "retrain_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                other = ", or retrain=false" if name == "retrain_epochs" else ""
                raise ValueError(f"{name} must be at least 1. Write for example {name}=60{other}")
        if not 0 <= self.distil <= 1:
            raise ValueError("distil must be in [0, 1]. Write for example distil=0.5")

    @property
    def leaves(self) -> frozenset[Mark]:
        """Weights are sparse, unless whole channels go."""
        return frozenset({"sparse weights"}) if isinstance(parse_pattern(self.pattern), Pattern) else frozenset()

    def check_behind(self, marks: frozenset[Mark]) -> list[Problem]:
        """Refuse rounded weights, and to take channels out of sparse ones."""
        if "quantised" in marks:
            return [Problem(self.name, "the model is quantised already", "Put sparsify-weights in front of that")]
        if "sparse weights" in marks and not isinstance(parse_pattern(self.pattern), Pattern):
            what = f"weights are sparse already, and pattern={self.pattern} would take channels out of them"
            return [Problem(self.name, what, "Put it in front of what made them sparse")]
        return []

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program without weights that may change, one that is quantised, and training without labels."""
        if program.prepare is None:
            return [Problem(self.name, "the Program is not split yet", "Run raise-messages and split-structure first")]
        if problem := self._refused_training(ctx):
            return [problem]
        if self.score == "norm" and ctx.data is None:
            mend = "Give data with --data, or use score=magnitude"
            return [Problem(self.name, "score=norm looks at what weights are multiplied by on a graph", mend)]
        if problems := self.check_behind(marks_of(program)):
            return problems
        if not find_weights(program):
            return [Problem(self.name, "no value is multiplied by a matrix of weights", "Drop this pass")]
        if not prunable(program):
            what = "no matrix of weights requires a gradient"
            return [Problem(self.name, what, "Unfreeze some, or drop this pass")]
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, Pattern):
            problems = self._check_entries(program, pattern)
        else:
            problems = self._check_channels(program, pattern)
        trains = self.retrain or self.method != "magnitude" or self.schedule == "gradual"
        return [*problems, *(why_not_trainable(program) if trains and ctx.trainer is not None else ())]

    def _refused_training(self, ctx: PassContext) -> Problem | None:
        """Tell which options of training would have no effect, if any."""
        if ctx.trainer is not None:
            what = ctx.trainer.why_not_everywhere() if self.distil_on == "all" else ""
            return Problem(self.name, what, "Drop distil_on=all") if what else None
        if self.method != "magnitude":
            mend = "Give data with labels, or use method=magnitude"
            return Problem(self.name, f"method={self.method} needs labels to train with", mend)
        given = {
            "schedule": self.schedule == "gradual", "epochs": self.epochs, "retrain_epochs": self.retrain_epochs,
            "lr": self.lr, "distil": self.distil,
        }  # fmt: skip
        idle = ", ".join(name for name, is_given in given.items() if is_given)
        if not idle:
            return None
        what = f"nothing can be trained without labels, and so {idle} would have no effect"
        return Problem(self.name, what, f"Drop {idle}, or give data with labels and masks")

    def _check_entries(self, program: Program, pattern: Pattern) -> list[Problem]:
        """Refuse what would leave every entry."""
        weights = prunable(program)
        if not any(pattern.can_leave_out(item.shape) for item in weights):
            what = f"pattern={pattern} leaves every entry, for no matrix of weights is larger than what stays of it"
            return [Problem(self.name, what, "Give smaller numbers, as pattern=2:4 or 4x1, or drop this pass")]
        if self.sparsity is None:
            return []
        masks = Entries(weights, pattern, self.distribution or "global").masks(values_of(program), self.sparsity)
        if not all(bool(mask.all()) for mask in masks.values()):
            return []
        what = f"sparsity={self.sparsity} leaves every entry of {sum(item.size for item in weights):,}"
        return [Problem(self.name, what, "Give a higher sparsity, or drop this pass")]

    def _check_channels(self, program: Program, axis: Axis) -> list[Problem]:
        """Refuse what would leave every channel."""
        assert self.sparsity is not None
        channels = WholeChannels(program, axis)
        if not channels.groups:
            return [Problem(self.name, "no group of hidden channels can shrink", "Use pattern=unstructured")]
        if not channels.kept(values_of(program), self.sparsity).all():
            return []
        groups = "; ".join(map(str, channels.groups))
        what = f"pattern={axis} leaves every channel at sparsity={self.sparsity}: {groups}"
        return [Problem(self.name, what, "Give a higher sparsity, or use pattern=unstructured")]

    def foretell(self, program: Program, ctx: PassContext) -> list[str]:
        """Say what zeros can gain at most, and what they do to the very products of this model."""
        pattern = parse_pattern(self.pattern)
        if ctx.sparse_pattern not in (None, self.pattern):
            told = f"recommendation: pattern={ctx.sparse_pattern}, the only zeros that the target's engine may skip"
            return [told] if isinstance(pattern, Pattern) else []
        left = self._left()
        shares = None if ctx.shares is None or left is None else ctx.shares(program)
        if shares is None or left is None:
            return []
        lines = [prediction(shares, {"linear": left})]
        if isinstance(pattern, Pattern) and ctx.speeds is not None:
            lines += recommend(shares, Setting(self.pattern, 1 - left), ctx.speeds())
        return lines

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program with sparse weights."""
        self.tell_forecast(program, ctx)
        frozen = dict.fromkeys(item.name for item in find_weights(program) if not item.learned)
        if frozen:
            ctx.note(f"left as they are, for they require no gradient: {', '.join(frozen)}")
        dense = dense_parameters(program)
        if dense:
            parts = (f"{name} ({program.body.get_parameter(name).numel():,} numbers)" for name in dense)
            ctx.note(f"left dense, for no product reads a matrix of them as it is stored: {', '.join(parts)}")
        seen = [] if ctx.data is None or self.score == "magnitude" else graphs_seen(ctx.data)
        return sparsify(program, ctx.trainer, self._recipe(ctx), ctx.note, graphs=[piece.inputs for piece in seen])

    def _left(self) -> float | None:
        """Return the share of the work of linear maps that is left, about; `None` where that hangs on a threshold."""
        if self.threshold is not None:
            return None
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, Pattern) and pattern.group:
            return pattern.most / pattern.group
        assert self.sparsity is not None
        return 1 - self.sparsity

    def _recipe(self, ctx: PassContext) -> Recipe:
        task = 0 if ctx.trainer is None else ctx.trainer.task.epochs
        given = {
            "sparsity": self.sparsity, "threshold": self.threshold, "distribution": self.distribution,
            "rounds": self.rounds, "start": self.start, "death": self.death, "stop": self.stop, "rho": self.rho,
            "step": self.step,
        }  # fmt: skip
        return Recipe(
            method=self.method, score=self.score, pattern=parse_pattern(self.pattern), every=self.update_every,
            epochs=self.epochs or task, retrain_epochs=(self.retrain_epochs or task) if self.retrain else 0,
            lr=self.lr, distil=self.distil, everywhere=self.distil_on != "train", seed=ctx.seed,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )  # fmt: skip
