"""What `loobench check` examines of a task of one's own: whether its effects can be known, and what it takes to know them.

A rule is broken where the truth would be wrong, or would say nothing.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.base import machine
from benchmark.base.errors import Diverged, LoobenchError
from benchmark.core import losses
from benchmark.core.losses import Own, name_of
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, Samples, in_precision
from benchmark.core.registry import registered, source_of
from benchmark.core.trajectory import Trajectory
from benchmark.core.wrapped import Module
from benchmark.retraining import chunks, engine
from benchmark.retraining.chunks import Means
from benchmark.retraining.generic import blocks
from benchmark.retraining.train import Clock, against_all, retrain, trained
from benchmark.submissions.check import Finding, Verdict, other_random_states
from benchmark.tasks import finding
from benchmark.tasks.definition import build
from benchmark.tasks.own import OwnTask
from benchmark.truths import truth
from benchmark.truths.counterfactuals import Design, design
from benchmark.truths.limits import NOISE_SAMPLES, SAMPLES, beside, deviation, evenly

MIB = 2**20
SEED = 0  # that is examined
NEAR = 1e-9  # of the largest reading, by which a plain loop may differ in float64
FIRST_STEPS = 100  # of the training that is held against a plain loop: longer ones make more of rounding
MOVED = 1e-3  # of the training loss, by which training must lower it
BLURRED, ROUGH = 0.1, 0.01  # rounding over the spread of effects: above the one nothing can be told, above the other not all
FEWEST, MINUTE = 3, 60.0  # runs that noise and time are taken from, and about the seconds that they may take
LONG = 600.0  # seconds of a truth from which it is said how to have it sooner
DECLARING = {  # what declares, by its full name
    "loobench.task": "task",
    "benchmark.tasks.finding.task": "task",
    "benchmark.estimating.estimator": "estimator",
    "benchmark.core.declaration.estimator": "estimator",
}


# ---- what a file declares ----------------------------------------------------------------------------------------------
def is_task(name: str) -> bool:
    """Whether a name means tasks of one's own: a file that declares some, which is not run here, or an entry point.

    Raises LoobenchError for a file that declares both a task and an estimator, and where there is no such file.
    """
    first = name.partition(":")[0]
    if not first.endswith(".py"):
        return first not in registered() and first in finding.packaged()
    kinds = _kinds(source_of(Path(first)))
    if len(kinds) > 1:
        raise LoobenchError(f"{first} declares a task and an estimator, which are checked apart: put each into its own file")
    return "task" in kinds


def _kinds(source: bytes) -> set[str]:
    """What the text of a file declares: "task", "estimator". Of one that declares nothing, by what it imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()  # which is said where it is read as an estimator
    names = _imports(tree)
    called = (_full(node.func, names) for node in ast.walk(tree) if isinstance(node, ast.Call))
    kinds = {DECLARING[name] for name in called if name in DECLARING}
    return kinds or ({"task"} if {one.partition(".")[0] for one in names.values()} >= {"loobench"} else set())


def _imports(tree: ast.AST) -> dict[str, str]:
    """The names that a file's imports bind, and what each is in full."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname or one.name.partition(".")[0]: one.name if one.asname else "" for one in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
    return {name: full or name for name, full in found.items()}


def _full(called: ast.expr, names: dict[str, str]) -> str:
    first, _, rest = ast.unparse(called).partition(".")
    return f"{names.get(first, first)}.{rest}".removesuffix(".")


# ---- one task ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Some:
    """A few of the runs that a truth takes."""

    effect: Tensor  # (H, C, Q), of C groups or samples left out
    again: Tensor  # the same, trained with the samples of each batch in reverse
    seconds: float  # of one thread, for one run


@dataclass(frozen=True, eq=False)
class Case:
    """A task of one's own, what its function gave when it was called again, and its reference run."""

    task: OwnTask
    twin: OwnTask
    run: Trajectory
    seconds: float  # of the reference run
    means: Means
    bar: truth.MakeBar

    @property
    def problem(self) -> Problem:
        return self.run.problem

    @cached_property
    def design(self) -> Design:
        """What is trained for the truth."""
        return design(self.task, self.run, SEED)

    @cached_property
    def plan(self) -> chunks.Plan:
        """How it will be trained."""
        return truth.planned(self.design.problems[0], self.means, len(self.design.keep))

    @property
    def count(self) -> int:
        """Runs that are looked at: as many as are trained at once, so that the time of one is that of the truth, if quick."""
        quick = int(MINUTE / 2 / max(self.seconds, 1e-3))
        return min(len(self.design.keep) - 1, max(FEWEST, min(self.plan.runs - 1, NOISE_SAMPLES, quick)))

    @cached_property
    def some(self) -> Some:
        """Some runs of the truth, evenly spread, and again."""
        problem, asked, clock = self.design.problems[0], self.design.keep, Clock()
        keep = torch.cat([asked[:-1][evenly(len(asked) - 1, self.count)], asked[-1:]])
        means = Means(beside(self.run.states.nbytes, self.means).memory)
        turned = _turned(problem)
        states = truth.run_of(problem, self.run, means).states
        visits = 2 * int((problem.batches >= 0).sum()) * len(keep)
        with closing(self.bar(visits, f"{self.task.name}: some of the runs, twice", "visit")) as shown:
            effect = against_all(problem, keep, states=states, means=means, ledger=clock, progress=shown.update)
            again = against_all(turned, keep, states=trained(turned, means).states, means=means, progress=shown.update)
        return Some(effect, again, clock.seconds / len(keep))


def _turned(problem: Problem) -> Problem:
    """The problem with the samples of each batch in reverse, so that sums are taken in another order."""
    return replace(problem, batches=problem.batches.flip(1))


def check(name: str, means: Means, bar: truth.MakeBar) -> dict[str, list[Finding]]:
    """The findings of each task meant by a file ``file.py[:name]`` or an entry point; of seed 0, on the CPU, with a bar.

    Raises LoobenchError where the file cannot be run, or its function returns no training.
    """
    tasks = [*finding.found(name)]
    with other_random_states():
        twins = {one.name: one for one in finding.found(name)}
    with machine.one_thread():
        return {one.name: [*_findings(one, twins[one.name], means, bar)] for one in tasks}  # type: ignore[arg-type]


def _findings(task: OwnTask, twin: OwnTask, means: Means, bar: truth.MakeBar) -> Iterator[Finding]:
    try:
        problem = build(task, SEED, Path())
        clock = chunks.seconds("cpu")
        run = truth.reference(task, SEED, Path(), "cpu", means)
        case = Case(task, twin, run, chunks.seconds("cpu") - clock, means, bar)
    except Diverged as error:
        yield Finding("model and data", True, _described(task, problem))
        yield from _left("trains", str(error))
        return
    except LoobenchError as error:
        yield from _left("model and data", str(error))
        return
    yield Finding("model and data", True, _described(task, problem))
    for rule, examine in RULES.items():
        yield _found(rule, examine, case)


def _found(rule: str, examine: Callable[[Case], Verdict], case: Case) -> Finding:
    try:
        return Finding(rule, *examine(case))
    except LoobenchError as error:
        return Finding(rule, False, str(error))


def _left(broken: str, why: str) -> Iterator[Finding]:
    """A broken rule, and those that it leaves open."""
    yield Finding(broken, False, why)
    yield from (Finding(rule, None, "not examined") for rule in RULES if rule != broken)


def _described(task: OwnTask, problem: Problem) -> str:
    train = problem.train
    one = f"{tuple(train.inputs.shape[1:])} of {str(train.inputs.dtype).removeprefix('torch.')}"
    counts = f"{len(train)} training samples {one}, {len(problem.query)} query samples, {problem.steps} steps"
    return f"{task.module.name} with {problem.model.parameters} parameters, {counts}"


# ---- the rules -----------------------------------------------------------------------------------------------------------
def _trains(case: Case) -> Verdict:
    """Training lowers its own loss."""
    problem, ends = case.problem, (case.run.params(0), case.run.final)
    before, after = (_mean(lambda some, at=at: problem.losses(at, some), problem.train) for at in ends)  # type: ignore[misc]
    asked = [
        _mean(lambda some, at=at: problem.asked(at, some.inputs, some.targets), problem.query)  # type: ignore[misc]
        for at in ends
    ]
    what = name_of(problem.query_function)
    text = f"training loss {before:.4g} before, {after:.4g} after; {what} of the queries {asked[0]:.4g}, {asked[1]:.4g}"
    if after > before - MOVED * abs(before):
        how = "raises it: lower the rate" if after > before + MOVED * abs(before) else "hardly moves: raise rate or epochs"
        return False, f"{text}; training {how}"
    return True, text


def _mean(read: Callable[[Samples], Tensor], samples: Samples) -> float:
    parts = [read(samples[some]).sum() for some in blocks(len(samples), 256)]
    return float(torch.stack(parts).sum() / len(samples))


PARTS = {"data": "data", "module": "model", "start": "initial parameters", "loss": "loss", "query_function": "query function"}


def _deterministic(case: Case) -> Verdict:
    """The function gives the same, and training it the same bits, whatever the global random states are."""
    first, second = case.task.record(), case.twin.record()
    if changed := [PARTS.get(name, name) for name in first if first[name] != second[name]]:
        advice = "draw by a torch.Generator with a seed, and give the class of the model, not a module that is made already"
        return False, f"called twice, the function gives other {', '.join(changed)}: {advice}"
    with other_random_states():
        again = truth.reference(case.twin, SEED, Path(), "cpu", case.means)
    if torch.equal(again.final, case.run.final):
        return True, "the function called and the model trained twice: the same bits, whatever the global random states are"
    apart = float((again.final - case.run.final).abs().max())
    return False, f"trained twice, parameters differ by up to {apart:.0e}: take what is random out of model and loss"


def _plain(case: Case) -> Verdict:
    """One run with a sample left out is that of a plain loop of torch, in float64."""
    whole = in_precision(case.problem, torch.float64)
    problem = whole.until(min(FIRST_STEPS, whole.horizons[-1]))
    if _torchs(problem.optimizer, []) is None:
        return None, f"torch has no optimiser that is this {problem.optimizer.name}"
    sample = _early(problem)
    keep = torch.ones(2, len(problem.train), dtype=torch.bool)
    keep[0, sample] = False
    found = retrain(problem, keep, read=engine.query_losses, means=Means(case.means.memory))[0]  # (2, Q)
    expected = torch.stack([by_hand(problem, case.task.module, sample), by_hand(problem, case.task.module)])
    apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
    text = f"without sample {sample}, {problem.steps} steps in float64: differs by {apart:.0e} from a loop by torch.optim"
    return (
        apart <= NEAR,
        text if apart <= NEAR else f"{text}, allowed {NEAR:.0e}: does the model keep anything from call to call?",
    )


def _early(problem: Problem) -> int:
    """A sample that is asked about and among the first to be visited."""
    asked = {*problem.left_out.tolist()}
    visited = (sample for t in range(problem.steps) for sample in problem.batch(t).tolist())
    return next((sample for sample in visited if sample in asked), int(problem.left_out[0]))


def _noise(case: Case) -> Verdict:
    """Rounding is small against the spread of the effects."""
    effect, again = case.some.effect, case.some.again
    what = "groups" if case.design.removed is not None else "samples left out"
    if not (effect.isfinite().all() and again.isfinite().all()):
        return False, "a run without some samples leaves the finite numbers: lower the rate, or clip gradients"
    curve = deviation(effect, torch.arange(effect.shape[1]), again)
    spread = float(effect[-1].double().std(0).mean())
    if None in curve:
        return False, f"{effect.shape[1]} {what} all have the same effect: is there anything to learn before the first horizon?"
    worst = max(value for value in curve if value is not None)
    text = f"of {effect.shape[1]} {what}: rounding is {worst:.1e} of the spread of the effects, which is {spread:.1e}"
    if worst > BLURRED:
        return False, f"{text}; leave-one-out cannot be told from rounding: {'; or '.join(_clearer(case))}"
    told = "" if worst <= ROUGH else ", to no more than a digit or two: no estimator can agree better than that"
    return True, f"{text}; leave-one-out can be told from it{told}"


def _clearer(case: Case) -> Iterator[str]:
    """What lowers the noise of effects."""
    layers = case.task.module.net.modules()
    if case.task.dtype != "float64":
        yield 'say dtype="float64"'
    if any(isinstance(layer, nn.ReLU | nn.LeakyReLU | nn.ReLU6 | nn.MaxPool1d | nn.MaxPool2d) for layer in layers):
        yield "take smooth layers, GELU or softplus in place of ReLU, means in place of maxima"
    yield "train more gently, by a lower rate or fewer epochs"
    if case.design.removed is None:
        yield "ask about groups, truth=loobench.Subsets(keep=0.5)"


def _mapped(case: Case) -> Verdict:
    if engine.native(case.problem):
        return True, f"a chain of linear layers, with a form of its own here: up to {case.plan.runs} runs are trained at once"
    if not case.task.module.mapped:
        return None, "torch cannot map this model over runs, so that each is trained alone: slower, the same numbers"
    return True, f"torch maps the model over runs: up to {case.plan.runs} are trained at once"


def _portable(case: Case) -> Verdict:
    """Whether another process can build the model by its source."""
    model = case.task.module
    own = [one for one in (model.loss, case.problem.query_function) if isinstance(one, Own)]
    lacking = ["the model"] * (model.code is None)
    lacking += [f"the function {name_of(one)}" for one in own if one.code is None]
    if lacking:
        how = "give a class or function that stands at the top of a file, with settings by functools.partial"
        return (
            None,
            f"estimators of yours run by --no-sandbox alone, and --export cannot be had: {' and '.join(lacking)}: {how}",
        )
    assert model.code
    built = model.code.built()
    if {name: part.shape for name, part in built.named_parameters() if part.requires_grad} != model.shapes:
        return False, f"built again from {model.code.module}, the model has other parameters: give all settings by partial"
    return True, f"another process can build the model by its source, {model.code.module}: {model.code.name}"


def _time(case: Case) -> Verdict:
    """What the truth takes on this machine."""
    runs, each, workers = _runs(case), case.some.seconds, case.plan.workers
    alone, here = runs * each, runs * each / workers
    gram = engine.gram_pays(case.problem)
    memory = chunks.shared_bytes(case.problem, len(case.design.keep), gram, case.means)
    memory += workers * chunks.chunk_bytes(case.problem, case.plan.runs, gram)
    what = f"truth of a seed: {runs} runs with its ceilings and floors, {_spoken(each)} each"
    text = f"{what}; {_spoken(alone)} on one thread, {_spoken(here)} on {workers}; {memory / MIB:.0f} MiB for the runs"
    return True, text if here <= LONG else f"{text}. To have it sooner: {_sooner(case, here)}"


def _runs(case: Case) -> int:
    """Runs of a whole truth, ceilings and floors included (benchmark/truths/limits.py)."""
    asked = len(case.design.problems) * len(case.design.keep)
    if len(case.design.problems) > 1:
        return asked
    least, noisy = (min(most, len(case.design.keep) - 1) + 1 for most in (SAMPLES, NOISE_SAMPLES))
    kinked = any(getattr(layer, "function", "") == "relu" for layer in case.problem.model.layers)
    return (
        asked + (3 + kinked) * least + noisy * (1 if case.task.dtype == "float64" else 4)
    )  # in float64 too, at twice the time


def _sooner(case: Case, seconds: float) -> str:
    part = LONG / seconds
    if case.design.removed is not None:
        return f"fewer subsets or repeats, fewer than {case.task.epochs} epochs, or a smaller model"
    fewer = max(10, int(part * (len(case.design.keep) - 1)))
    return f"leave_out={fewer}, fewer than {case.task.epochs} epochs, a smaller model, or more threads"


def _spoken(seconds: float) -> str:
    for most, unit, size in ((1, "ms", 1e-3), (90, "s", 1), (5400, "minutes", 60)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} hours"


RULES: dict[str, Callable[[Case], Verdict]] = {
    "trains": _trains,
    "deterministic": _deterministic,
    "plain loop": _plain,
    "noise": _noise,
    "side by side": _mapped,
    "sandbox and export": _portable,
    "time and memory": _time,
}


# ---- the loop that a person would write ------------------------------------------------------------------------------------
def by_hand(problem: Problem, module: Module, without: int | None = None) -> Tensor:
    """What is read off the queries (Q,) after the steps of a plain loop: the module itself, autograd and `torch.optim`."""
    net = _with(module, problem.initial)
    parameters = [part for part in net.parameters() if part.requires_grad]
    optimizer = _torchs(problem.optimizer, parameters)
    assert optimizer
    for t in range(problem.steps):
        optimizer.param_groups[0]["lr"] = problem.optimizer.rate(t)
        optimizer.zero_grad()
        _loss(problem, net, parameters, problem.batch(t), without).backward()  # type: ignore[no-untyped-call]
        if problem.clip:
            nn.utils.clip_grad_norm_(parameters, problem.clip)
        optimizer.step()
    return _read(problem, net)


def _with(model: Module, theta: Tensor) -> nn.Module:
    """The module in the precision of its parameters (P,), which it is given."""
    net = copy.deepcopy(model.net).to(theta)
    parts = torch.split(theta, [shape.numel() for shape in model.shapes.values()])
    with torch.no_grad():
        for (name, shape), part in zip(model.shapes.items(), parts, strict=True):
            net.get_parameter(name).copy_(part.view(shape))
    return net


def _loss(problem: Problem, net: nn.Module, parameters: Sequence[Tensor], batch: Tensor, without: int | None) -> Tensor:
    """The loss of a batch of which a sample may be left out; it is divided by the whole batch unless `renormalised`."""
    kept = batch if without is None else batch[batch != without]
    size = max(1, len(kept)) if problem.counterfactual == "renormalised" else len(batch)
    total = len(kept) * problem.weight_decay / 2 * torch.stack([part.square().sum() for part in parameters]).sum()
    if len(kept):
        some = problem.train[kept]
        total = total + _torch_loss(problem.model.loss, net(some.inputs), some.targets).sum()
    return total / size


def _torch_loss(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each sample (B,), by torch's own function of that name."""
    functional = nn.functional
    if loss == "cross-entropy":
        return functional.cross_entropy(outputs, targets, reduction="none")
    if loss == "binary-cross-entropy":
        return functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets, reduction="none")
    if loss == "squared-error":
        return functional.mse_loss(outputs.squeeze(-1), targets, reduction="none") / 2
    if loss == "mean-squared-error":
        return functional.mse_loss(outputs, targets.view_as(outputs), reduction="none").flatten(1).mean(1)
    if loss == "token-cross-entropy":
        each = functional.cross_entropy(outputs.transpose(1, 2), targets, reduction="none", ignore_index=losses.NO_TOKEN)
        return each.sum(1) / (targets != losses.NO_TOKEN).sum(1).clamp(min=1)
    found: Tensor = loss(outputs, targets)
    return found


def _read(problem: Problem, net: nn.Module) -> Tensor:
    asked, whole = problem.query_function, problem.query
    read = _torch_loss if asked == "loss" else lambda loss, *given: losses.asked(loss, asked)(*given)
    parts = [whole[some] for some in blocks(len(whole), 256)]
    found = torch.cat([read(problem.model.loss, net(part.inputs), part.targets).detach() for part in parts])
    return found.mean(0, keepdim=True) if problem.query_kind == "mean" else found


def _torchs(optimizer: Optimizer, parameters: Sequence[Tensor]) -> torch.optim.Optimizer | None:
    """The optimiser of torch that is this one; None where it has none."""
    of = [*parameters] or [torch.zeros(1, requires_grad=True)]
    if isinstance(optimizer, Adam):
        betas = (optimizer.beta1, optimizer.beta2)
        return torch.optim.AdamW(of, lr=optimizer.lr, betas=betas, eps=optimizer.eps, weight_decay=optimizer.decay)
    if isinstance(optimizer, Sgd):
        return torch.optim.SGD(of, lr=optimizer.lr, momentum=optimizer.momentum)
    return None
