"""Leave out the edges whose messages are small, in each layer those of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from gnnexport.errors import Problem
from gnnexport.measure.amdahl import Kind, prediction
from gnnexport.passes.contract import Mark, Pass, PassContext, Stage, marks_of
from gnnexport.program.edge_layers import EdgeLayer, find_layers
from gnnexport.program.edge_rules import add_rules, no_rule
from gnnexport.program.program import Program
from gnnexport.training.edges.agreement import JUDGED, chances
from gnnexport.training.edges.choosing import BY_NORM, Choice, Chooser, Method, Plan, Schedule, choose
from gnnexport.training.edges.published import fit_published, why_not_published
from gnnexport.training.edges.scores import no_norm
from gnnexport.training.kinds import Rows
from gnnexport.training.parts import graphs_seen
from gnnexport.training.sparsity.densities import left_of
from gnnexport.training.sparsity.joint import without_entries
from gnnexport.training.sparsity.recipe import prunable, told, values_of
from gnnexport.training.trainer import History, why_not_trainable

DEFAULT = 0.5


@dataclass(frozen=True)
class SparsifyEdges(Pass):
    """Leave out edges by the norm of their messages (Unifews, ICML 2025), and train on the edges that are left.

    Edges of nodes to themselves stay. What a layer leaves out, later layers over the same edges leave out, too. In mode
    full each layer gets a CSR of its own, which training, accuracy and the exported model all share. In mode graphs,
    where edges are not known, each layer compares the norms of messages to a threshold in every request.
    """

    name: ClassVar[str] = "sparsify-edges"
    stage: ClassVar[Stage] = Stage.COMPRESS
    turn: ClassVar[int] = 10
    ladder: ClassVar[tuple[str, ...]] = tuple(
        f"sparsity={share},schedule=equal,rule=frozen" for share in (0.75, 0.5, 0.25)
    )  # one set for all layers: files get smaller, too
    sparsity: float | None = None
    """Share of the edges that goes, counted over all layers that can lose any, edges of nodes to themselves left out of
    the count; 0.5 unless threshold is given."""
    threshold: float | None = None
    """Norm of a message below which its edge goes, the same number in every layer."""
    method: Method = "norm"
    """norm: of the message. top-k: equally many for each node as far as it has them, those of the largest norms.
    random and effective-resistance (about 1/d + 1/d of the two ends) are drawn and do not look at features. agreement:
    equally many for each node, those to nodes that the model most likely gives the same class."""
    schedule: Schedule = "rising"
    """rising: each layer leaves out the same share of what the one before has left. equal: all layers have one set."""
    rounds: int = 1
    """In how many steps the share is reached; each chooses anew from all edges, after training on the ones before."""
    retrain: bool = True
    """Train on the edges that are left; without labels the weights stay."""
    epochs: int | None = None
    """At most this many in training, all rounds together; by default the task's."""
    lr: float | None = None
    """Step size of training; by default the task's."""
    distil: float = 0.0
    """Share of the loss of training that is the divergence from the answers of the model with all edges."""
    distil_on: Rows | None = None
    """all: its answers for every node of a graph that is trained on as a whole, with or without a label; train: those
    for training nodes. By default all."""
    rule: Literal["auto", "frozen", "runtime"] = "auto"
    """frozen: edges of the one graph of mode full are left out for good. runtime: those of any graph, in each request;
    zeros are computed with, so that this is no faster. auto: as the mode has it."""
    joint: float | None = None
    """Share of the entries of weight matrices that goes along, by magnitude times the norm of what they read on the
    edges that are left; in the same rounds and the same training."""
    published: bool = False
    """Tell the accuracy by the protocol of publications, too: another training of as many epochs, on edges chosen anew
    in each and evaluated on all of them. Nothing exported has it."""

    def __post_init__(self) -> None:
        if self.sparsity is not None and self.threshold is not None:
            raise ValueError("sparsity and threshold exclude each other. Give one of them")
        if self.sparsity is None and self.threshold is None:
            object.__setattr__(self, "sparsity", DEFAULT)
        if self.sparsity is not None and not 0 <= self.sparsity <= 1:
            raise ValueError("sparsity must be in [0, 1]. Write for example sparsity=0.5")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError("threshold must not be negative. Write for example threshold=0.02")
        if self.threshold is not None and self.method != "norm":
            raise ValueError("threshold is a norm of messages. Write method=norm, or give sparsity")
        if self.threshold is not None and (self.schedule != "rising" or self.rounds != 1):
            raise ValueError("schedule and rounds act with sparsity. Drop them, or give sparsity instead of threshold")
        if self.joint is not None and not 0 < self.joint < 1:
            raise ValueError("joint must be in (0, 1). Write for example joint=0.9, or drop it")
        if self.joint is not None and self.published:
            raise ValueError("published is of edges alone. Drop joint, or published")
        if self.rounds < 1 or (self.epochs is not None and self.epochs < 0):
            raise ValueError("rounds must be at least 1, epochs at least 0. Write for example rounds=3,epochs=60")
        if self.lr is not None and not self.lr > 0:
            raise ValueError("lr must be positive. Write for example lr=0.01")
        if not 0 <= self.distil <= 1:
            raise ValueError("distil must be in [0, 1]. Write for example distil=0.5")
        if self.distil_on and not self.distil:
            raise ValueError("distil_on acts with distil. Write for example distil=0.5, or drop distil_on")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse options that have no effect beside others."""
        idle = ", ".join(self._of_training())
        if self.epochs is not None and 0 < self.epochs < self.rounds:
            raise ValueError("each round trains for one epoch at least. Give as many epochs as rounds")
        if not idle:
            return
        if not self.retrain:
            raise ValueError(f"with retrain=false nothing is trained. Drop {idle}, or retrain=false")
        if self._leaves_all:
            name = "sparsity" if self.threshold is None else "threshold"
            raise ValueError(f"{name}=0 leaves no edge out, and then nothing is trained. Drop {idle}, or {name}=0")
        if self.epochs == 0 and idle != "epochs":
            raise ValueError("epochs=0 trains nothing. Give epochs, or drop the other options of training")

    @property
    def _leaves_all(self) -> bool:
        """Whether no edge goes, and no entry of a weight."""
        return 0 in (self.sparsity, self.threshold) and self.joint is None

    def _of_training(self) -> list[str]:
        """Name the options given that act in training alone."""
        given = {
            "rounds": self.rounds > 1, "epochs": self.epochs is not None, "lr": self.lr is not None,
            "distil": self.distil > 0, "published": self.published,
        }  # fmt: skip
        return [name for name, is_given in given.items() if is_given]

    @property
    def leaves(self) -> frozenset[Mark]:
        """Edges are left out, and entries of weights with joint."""
        edges: set[Mark] = set() if 0 in (self.sparsity, self.threshold) else {"sparse edges"}
        return frozenset(edges if self.joint is None else {*edges, "sparse weights"})

    def check_behind(self, marks: frozenset[Mark]) -> list[Problem]:
        """Refuse to leave out edges twice, and entries of weights of which some went, or that are rounded."""
        if "sparse edges" in marks:
            return [Problem(self.name, "edges are left out already", "Give one pass, with the sparsity of both")]
        if self.joint is None:
            return []
        if "quantised" in marks:
            what = "the model is quantised already, and joint leaves out entries of its weights"
            return [Problem(self.name, what, "Put sparsify-edges in front of that, or drop joint")]
        if "sparse weights" in marks:
            what = "weights are sparse already, and joint would choose their entries anew"
            return [Problem(self.name, what, "Drop joint")]
        return []

    def check(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Refuse a Program without one known graph, or without edges that can go, with the reasons."""
        if program.prepare is None:
            return [Problem(self.name, "the Program is not split yet", "Run raise-messages and split-structure first")]
        if ctx.mode == "batched":
            what = "mode 'batched' reads the neighbours of a request from a store of all edges"
            return [Problem(self.name, what, "Use --mode full, or drop this pass")]
        runtime = self._at_run_time(ctx)
        if not runtime and (ctx.mode != "full" or (ctx.data is not None and ctx.data.num_graphs is not None)):
            what = "rule=frozen leaves edges out of one fixed graph, and here are many"
            return [Problem(self.name, what, "Use rule=runtime, or drop this pass")]
        if ctx.data is None:
            return [Problem(self.name, "needs the graph whose edges it leaves out", "Give data with --data")]
        if runtime and self.method != "norm":
            what = f"at run time messages go by their norm, not by method={self.method}"
            return [Problem(self.name, what, "Use method=norm")]
        if problems := self.check_behind(marks_of(program)):
            return problems
        if self.method == "agreement" and (problem := self._unanswered(ctx)):
            return [Problem(self.name, problem, "Use another method, as top-k")]
        if problems := self._refused_joint(program):
            return problems
        program = program.clone().train(False)
        program.annotate()
        layers = self._layers(program, ctx)
        if not layers:
            return [Problem(self.name, "no layer passes messages along edges", "Drop this pass")]
        reasons = [self._reason(layer, program) for layer in layers]
        if all(reasons):
            return [Problem(self.name, reason, "Drop this pass") for reason in reasons]
        if self.joint is None and not self._leaves_all:
            chooser = self._chooser(program, layers, ctx)
            if not chooser.edges:
                return [
                    Problem(self.name, "no layer that can lose edges has any between different nodes", "Drop this pass")
                ]
            if self.sparsity is not None and not chooser.going:
                what = f"sparsity={self.sparsity} leaves out none of {chooser.edges:,} edges of all layers"
                return [Problem(self.name, what, "Give a higher sparsity, or drop this pass")]
        return self._refused_training(program, ctx)

    def _refused_joint(self, program: Program) -> list[Problem]:
        """Refuse to leave out entries of weights where there are none, or all would stay."""
        if self.joint is None:
            return []
        entries = sum(item.size for item in prunable(program))
        if not entries:
            what = "no value is multiplied by a matrix of weights that may change"
            return [Problem(self.name, what, "Drop joint")]
        if left_of(entries, self.joint) == entries:
            what = f"joint={self.joint} leaves every entry of {entries:,}"
            return [Problem(self.name, what, "Give a higher share, or drop joint")]
        return []

    def _chooser(self, program: Program, layers: list[EdgeLayer], ctx: PassContext) -> Chooser:
        """Return what knows the edges of layers; the Program is annotated."""
        plan = Plan(self.sparsity, self.threshold, self.method, self.schedule)
        return Chooser(program, _inputs(ctx), layers, plan)

    def _refused_training(self, program: Program, ctx: PassContext) -> list[Problem]:
        """Tell what keeps the Program from being trained as options say."""
        idle = ", ".join(self._of_training())
        if idle and ctx.trainer is None:
            what = f"nothing can be trained without labels, and so {idle} would have no effect"
            return [Problem(self.name, what, f"Drop {idle}, or give data with labels and masks")]
        if ctx.trainer is None or not self.retrain or self._leaves_all:
            return []
        problems = list(why_not_trainable(program))
        if self.distil_on == "all" and (what := ctx.trainer.why_not_everywhere()):
            problems.append(Problem(self.name, what, "Drop distil_on=all"))
        epochs = ctx.trainer.task.epochs if self.epochs is None else self.epochs
        if epochs < self.rounds and self.rounds > 1:
            what = f"{epochs} epochs are too few for {self.rounds} rounds, each of which trains"
            problems.append(Problem(self.name, what, "Give fewer rounds or more epochs"))
        if self.published and self._at_run_time(ctx):
            what = "published=true is a protocol for one graph whose edges are left out for good"
            problems.append(Problem(self.name, what, "Drop published=true, or use rule=frozen in mode full"))
        elif self.published and (reason := why_not_published(ctx.trainer, program)):
            problems.append(Problem(self.name, reason, "Allow more with --memory, or drop published=true"))
        return problems

    def _reason(self, layer: EdgeLayer, program: Program) -> str:
        """Tell why nothing can be left out of a layer; empty where something can."""
        return layer.blocker or (no_norm(layer, program.body) if self.method in BY_NORM else "")

    def _unanswered(self, ctx: PassContext) -> str:
        """Tell why the model's answers say nothing about edges; empty where they do."""
        if ctx.trainer is None:
            return "method=agreement reads the model's answers as classes, which takes data with labels"
        if ctx.trainer.task.loss not in JUDGED or ctx.trainer.data.level != "node":
            return "method=agreement is for models that give each node a class"
        return ""

    def _at_run_time(self, ctx: PassContext) -> bool:
        return self.rule == "runtime" or (self.rule == "auto" and ctx.mode == "graphs")

    def _layers(self, program: Program, ctx: PassContext) -> list[EdgeLayer]:
        """Find the layers, with what keeps edges from being left out in the way that is asked for."""
        layers = find_layers(program)
        if not self._at_run_time(ctx):
            return layers
        return [replace(layer, blocker=layer.blocker or no_rule(layer, program.body)) for layer in layers]

    def run(self, program: Program, ctx: PassContext) -> Program:
        """Return the Program on fewer edges."""
        given, program = program, program.clone().train(False)
        program.annotate()
        layers = self._layers(program, ctx)
        inputs = _inputs(ctx)
        self.tell_forecast(given, ctx)
        trains = self.retrain and ctx.trainer is not None
        classes = None
        if self.method == "agreement":
            assert ctx.trainer is not None
            classes = chances(given, inputs, ctx.trainer.task.loss)
        rounds = self.rounds if trains else 1
        frozen = program
        for done in range(1, rounds + 1):
            plan = Plan(self._share(done / rounds), self.threshold, self.method, self.schedule, ctx.seed, classes)
            choice = choose(program, inputs, layers, plan)
            applied = self._applied(program, layers, choice, ctx)
            if self.joint is not None:
                applied = without_entries(applied or program, [inputs], self.joint * done / rounds)
            if applied is None:
                ctx.note("no edge goes")
                if done == rounds:
                    return given.clone().train(False)
                continue
            frozen = applied
            if trains:
                frozen, history = self._trained(frozen, given, ctx, done, rounds)
                learned = frozen.body.state_dict()
                program.body.load_state_dict({name: learned[name] for name in program.body.state_dict()})
                _tell_training(history, ctx, f"round {done} of {rounds}: " if rounds > 1 else "")
        _tell_choice(choice, ctx)
        if self.joint is not None:
            ctx.note(f"along with them: {told(prunable(frozen), values_of(frozen))}")
        if not trains:
            ctx.note("not retrained" + ("" if self.retrain else ": retrain=false"))
        if self._at_run_time(ctx):
            ctx.note("these are of the graphs looked at; others go by the same thresholds, and zeros are computed with")
        if self.published and trains:
            self._tell_published(given, ctx, plan, history)
        return frozen

    def foretell(self, program: Program, ctx: PassContext) -> list[str]:
        """Say what fewer edges can gain at most, and fewer weights with them."""
        left: dict[Kind, float] = {}
        if ctx.shares is not None and self.sparsity is not None and not self._at_run_time(ctx):
            known = program.clone().train(False)
            known.annotate()
            chooser = self._chooser(known, self._layers(known, ctx), ctx)
            left["aggregation"] = 1 - chooser.going / max(chooser.slots, 1)
        if self.joint is not None:
            left["linear"] = 1 - self.joint
        if self.joint is not None and ctx.sparse_pattern is not None:
            return [
                f"joint: the target's engine may skip zeros of pattern={ctx.sparse_pattern} alone, which these are not"
            ]
        shares = ctx.shares(program) if ctx.shares is not None and left else None
        return [] if shares is None else [prediction(shares, left)]

    def _applied(self, program: Program, layers: list[EdgeLayer], choice: Choice, ctx: PassContext) -> Program | None:
        """Return a Program that leaves out what was chosen; `None` where that is nothing."""
        if not self._at_run_time(ctx):
            return choice.apply(program) if any(item.removed for item in choice.layers) else None
        found: dict[int, float] = {}
        ruled: set[str] = set()
        for place, item in enumerate(choice.layers):
            # A layer that adds nothing of its own goes without what the layers before it leave out.
            if not item.reason and (item.threshold or item.layer.structure.rowptr in ruled):
                found[place] = item.threshold
                ruled.add(item.layer.structure.rowptr)
        return add_rules(program, layers, found) if found else None

    def _share(self, part: float) -> float | None:
        return None if self.sparsity is None else self.sparsity * part

    def _trained(
        self, frozen: Program, given: Program, ctx: PassContext, done: int, rounds: int
    ) -> tuple[Program, History]:
        """Train on the edges of a round, for its part of the epochs."""
        assert ctx.trainer is not None
        total = ctx.trainer.task.epochs if self.epochs is None else self.epochs
        epochs = total * done // rounds - total * (done - 1) // rounds
        teacher = given if self.distil else None
        return ctx.trainer.fit(
            frozen, seed=ctx.seed, epochs=epochs, lr=self.lr, teacher=teacher, distil=self.distil,
            everywhere=self.distil_on != "train",
        )  # fmt: skip

    def _tell_published(self, given: Program, ctx: PassContext, plan: Plan, honest: History) -> None:
        """Train by the protocol of publications, and tell its figure next to the one of what is exported."""
        assert ctx.data is not None
        assert ctx.trainer is not None
        whole = given.clone().train(False)
        whole.annotate()
        _, history = fit_published(
            ctx.trainer, whole, ctx.data.inputs, self._layers(whole, ctx), plan, seed=ctx.seed, epochs=self.epochs,
            lr=self.lr, teacher=given if self.distil else None, distil=self.distil,
            everywhere=self.distil_on != "train",
        )  # fmt: skip
        if history.note:
            ctx.note(f"by the protocol of publications: trained {history.note}")
        found = f"validation {ctx.trainer.task.metric} {history.best:.4f}"
        ctx.note(
            "by the protocol of publications, on edges chosen anew in every epoch and evaluated with all edges: "
            f"{found} (best of {len(history.train_loss)} at epoch {history.best_epoch}), next to {honest.best:.4f} "
            "on the edges that are left; that figure is of no model that is exported"
        )


def _inputs(ctx: PassContext) -> Mapping[str, Tensor]:
    """Return the graph that edges are chosen by; of a large set a draw."""
    assert ctx.data is not None
    return graphs_seen(ctx.data, seed=ctx.seed)[0].inputs


def _tell_choice(choice: Choice, ctx: PassContext) -> None:
    losing = [item for item in choice.layers if not item.reason]
    for item in choice.layers:
        if item.reason:
            ctx.note(f"kept all edges of {item.layer.name}: {item.reason}")
    removed, edges = sum(item.removed for item in losing), sum(item.edges for item in losing)
    of_each = ", ".join(
        f"{item.layer.name} {item.removed / item.edges:.1%}" if item.edges else item.layer.name for item in losing
    )
    ctx.note(
        f"left out {removed:,} of {edges:,} edges between different nodes ({removed / max(edges, 1):.1%}), "
        f"layer by layer: {of_each}"
    )


def _tell_training(history: History, ctx: PassContext, start: str) -> None:
    assert ctx.trainer is not None
    if history.note:
        ctx.note(f"{start}retrained {history.note}")
    ctx.note(
        f"{start}validation {ctx.trainer.task.metric} {history.validation[0]:.4f} with edges left out, "
        f"{history.best:.4f} after retraining (best of {len(history.validation)} at epoch {history.best_epoch})"
    )
