"""What `loobench check` examines: the rules that every estimator keeps, on problems so small that it takes seconds.

An estimator is only ever called through `evaluate.estimate`, as in a run.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import LoobenchError
from benchmark.base.streams import stream
from benchmark.core.declaration import EXACT, Estimator
from benchmark.core.models import Network, mlp
from benchmark.core.optimizers import Adam, Optimizer, Sgd
from benchmark.core.problem import Problem, Samples
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.train import leave_one_out, train
from benchmark.running.evaluate import Failure, estimate
from benchmark.sandbox import client
from benchmark.sandbox.client import Rules
from benchmark.sandbox.process import server
from benchmark.studies import costs
from benchmark.studies.speed import synthetic
from benchmark.submissions import scaffold
from benchmark.tasks.definition import batches

CLOSE = 1e-6  # of the largest effect: what reordering sums may change
INPUTS, SAMPLES, QUERIES, BATCH = 5, 12, 3, 5  # 12 samples in batches of 5: every epoch ends in a short one
MODELS: dict[str, Network] = {"logistic": mlp((INPUTS, 1)), "mlp": mlp((INPUTS, 4, 1), "softplus")}
REGRESSION = mlp((INPUTS, 1), loss="squared-error")
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Sgd(0.2),
    "momentum": Sgd(0.1, momentum=0.9),
    "adam": Adam(0.05),
    "adamw": Adam(0.05, decay=0.1),
}
FITS = [(model, optimizer) for model in MODELS for optimizer in OPTIMIZERS]
SIZE = 200  # samples of the problem that cost is measured on
EPOCHS = {"least-squares": 3, "one-epoch": 1}  # of the cases in which an estimate may be the truth itself
FIRST = {  # rules that the first call decides, and the failures that break each
    "answers": ("crashed", "out-of-memory", "unsolved", "timeout", "forbidden-access", "unsupported"),
    "shape": ("bad-shape",),
    "finite": ("non-finite",),
    "not constant": ("constant",),
    "inputs untouched": ("mutated-inputs",),
    "deterministic": ("non-deterministic",),
}


@dataclass(frozen=True)
class Finding:
    """What was found of one rule: whether it is kept, or None where it does not apply or could not be examined."""

    rule: str
    passed: bool | None
    detail: str


Verdict = tuple[bool | None, str]


def check(name: str, rules: Rules | None = None) -> dict[str, list[Finding]]:
    """The findings of each estimator meant by a registered name or ``file.py[:name]``; of a file that declares none, its own.

    `rules` say whether it runs in the sandbox, as strangers' files do unless told otherwise.

    Raises LoobenchError for a file or name that is not there, and where no sandbox works for it.
    """
    if (rules or Rules()).strangers and name.partition(":")[0].endswith(".py"):
        server()  # that there is none is no fault of the file
    try:
        chosen = client.resolve([name], rules)
    except LoobenchError as error:
        path = name.partition(":")[0]
        if not path.endswith(".py") or not Path(path).is_file():
            raise
        return {Path(path).name: [Finding("declaration", False, str(error))]}
    return {estimator.name: findings(estimator) for estimator in chosen}


def findings(estimator: Estimator) -> list[Finding]:
    """All rules in order, each with what was found; those that an earlier failure leaves open have None."""
    with machine.one_thread():
        return [_declaration(estimator), *_examined(estimator)]


def _declaration(estimator: Estimator) -> Finding:
    """What it says of itself, which is the author's and not the scaffold's."""
    left = scaffold.unfilled(estimator.paper, client.source(estimator))
    return Finding("declaration", not left, "; ".join(left) or f"version {estimator.version}, {estimator.paper}")


def broken(found: Sequence[Finding]) -> bool:
    """Whether a rule is broken."""
    return any(finding.passed is False for finding in found)


MARKS = {True: "\N{CHECK MARK} kept", False: "\N{BALLOT X} broken", None: "- does not apply"}
HEADERS = ["rule", "", "found"]


def lines(found: Sequence[Finding]) -> list[list[str]]:
    """Findings as the strings of table rows."""
    return [[finding.rule, MARKS[finding.passed], finding.detail] for finding in found]


def _examined(estimator: Estimator) -> Iterator[Finding]:
    run = next((run for fit in FITS if not estimator.unsupported((run := reference(*fit)).problem)), None)
    if run is None:
        yield Finding("models and optimisers", False, f"none of them is supported: {estimator.unsupported(_usual().problem)}")
        return
    try:
        first = answer(estimator, run)
    except Failure as failure:
        yield from _first_broken(failure)
        return
    yield from (Finding(rule, True, text) for rule, text in _first_kept(first).items())
    for rule, examine in RULES.items():
        yield _found(rule, lambda examine=examine: examine(estimator, run, first))  # type: ignore[misc]


def _usual() -> Trajectory:
    return reference(*FITS[0])


def _first_kept(first: Tensor) -> dict[str, str]:
    horizons, samples, queries = first.shape
    return {
        "answers": f"{samples} samples, {queries} queries, {horizons} horizons",
        "shape": f"({samples}, {queries}) at each horizon",
        "finite": "no NaN, no infinity",
        "not constant": "samples differ",
        "inputs untouched": "the run is as it was given",
    }


def _first_broken(failure: Failure) -> Iterator[Finding]:
    for rule, statuses in FIRST.items():
        mine = failure.status in statuses
        yield Finding(rule, False if mine else None, f"{failure.status}: {failure}" if mine else "not examined")
    yield from (Finding(rule, None, "not examined") for rule in RULES if rule not in FIRST)


def _found(rule: str, examine: Callable[[], Verdict]) -> Finding:
    try:
        return Finding(rule, *examine())
    except Failure as failure:
        return Finding(rule, False, f"{failure.status}: {failure}")


# ---- small problems --------------------------------------------------------------------------------------------------
def small(model: Network, optimizer: Optimizer, *, epochs: int = 3, query_kind: str = "each") -> Problem:
    """A random problem of 12 samples and 3 queries in float64, read off after the first epoch and the last."""
    steps = -(-SAMPLES // BATCH)
    return Problem(
        model=model,
        optimizer=optimizer,
        train=_samples(model, SAMPLES, "train"),
        query=_samples(model, QUERIES, "query"),
        test=_samples(model, QUERIES, "test"),
        initial=model.initial(stream("check/initial", 0)),
        batches=batches(SAMPLES, BATCH, epochs, stream("check/batches", 0)),
        left_out=torch.arange(SAMPLES),
        horizons=tuple(sorted({steps, epochs * steps})),
        weight_decay=0.01,
        query_kind=query_kind,
    )


def _samples(model: Network, count: int, name: str) -> Samples:
    random = stream(f"check/{name}", 0)
    inputs, values = (torch.from_numpy(random.normal(size=shape)) for shape in ((count, INPUTS), count))
    return Samples(inputs, values if model.loss == "squared-error" else (values > 0).to(values))


@cache
def reference(model: str, optimizer: str, query_kind: str = "each") -> Trajectory:
    """The run of a small problem."""
    return train(small(MODELS[model], OPTIMIZERS[optimizer], query_kind=query_kind))


@cache
def planted(model: str, optimizer: str) -> Trajectory:
    """A run whose sample 0 is nearly a copy of the one query, and sample 1 nearly the same with the opposite label."""
    given = small(MODELS[model], OPTIMIZERS[optimizer])
    inputs, labels = given.train.inputs.clone(), given.train.targets.clone()
    query = Samples(given.query.inputs[:1], torch.ones_like(labels[:1]))
    inputs[:2] = query.inputs + 0.01 * inputs[:2]
    inputs[2:] *= 0.3  # the others matter less
    labels[:2] = torch.tensor([1.0, 0.0])
    return train(replace(given, train=Samples(inputs, labels), query=query))


@cache
def exactly(case: str) -> tuple[Trajectory, Tensor]:
    """The run of a case of EXACT, linear regression by SGD, and its true effects (H, N, Q)."""
    run = train(small(REGRESSION, OPTIMIZERS["sgd"], epochs=EPOCHS[case]))
    return run, leave_one_out(run)


def answer(estimator: Estimator, run: Trajectory) -> Tensor:
    """The estimate (H, K, Q). Raises Failure."""
    return estimate(estimator, run).effect


def apart(found: Tensor, expected: Tensor, whole: Tensor) -> float:
    """The largest difference, over the largest effect of the whole estimate."""
    return float((found - expected).abs().max() / whole.abs().max())


def _agreement(found: Tensor, expected: Tensor, whole: Tensor) -> Verdict:
    difference = apart(found, expected, whole)
    return difference <= CLOSE, f"largest difference {difference:.0e} of the largest effect, at most {CLOSE:.0e} is allowed"


# ---- the rules -------------------------------------------------------------------------------------------------------
def _deterministic(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:
    with other_random_states():
        second = answer(estimator, run)
    if torch.equal(first, second):
        return True, "the same bits twice, whatever the global random states are"
    advice = "draw random numbers from run.random() alone"
    return (
        False,
        f"non-deterministic: a second call differs by {apart(second, first, first):.0e} of the largest effect; {advice}",
    )


@contextmanager
def other_random_states() -> Iterator[None]:
    """Inside the block the global random states of torch, NumPy and Python are others than before; then they are restored."""
    with machine.undisturbed():
        for name in ("random", "numpy.random"):
            importlib.import_module(name).seed(20_260_101)
        torch.default_generator.manual_seed(20_260_101)
        yield


def _rows(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:
    order = torch.from_numpy(stream("check/order", 0).permutation(SAMPLES))
    given, where = run.problem, order.argsort()
    moved = torch.where(given.batches < 0, -1, where[given.batches])
    permuted = train(replace(given, train=given.train[order], batches=moved))
    return _agreement(answer(estimator, permuted), first[:, order], first)


def _columns(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:
    """Queries in two other chunks, so that one of them lacks whichever has the largest effect."""

    def asked(columns: list[int]) -> Verdict:
        problem = replace(run.problem, query=run.problem.query[columns])
        return _agreement(answer(estimator, replace(run, problem=problem)), first[:, :, columns], first)

    return min(asked([1]), asked([2, 0, 2]))


def _some(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:
    """Two choices of samples left out, so that one of them lacks whichever has the largest effect."""

    def asked(some: list[int]) -> Verdict:
        problem = replace(run.problem, left_out=torch.tensor(some))
        return _agreement(answer(estimator, replace(run, problem=problem)), first[:, some], first)

    return min(asked([1, 4, 10]), asked([0, 7]))


def _fits(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:  # noqa: ARG001
    """One mean query on every model and optimiser that it supports."""
    done, without = [], []
    for model, optimizer in FITS:
        asked = reference(model, optimizer, "mean")
        if reason := estimator.unsupported(asked.problem):
            without.append(reason)
        elif failed := _failed(estimator, asked):
            return False, f"{model} by {optimizer}: {failed}"
        else:
            done.append(f"{model} by {optimizer}")
    return True, "; ".join([", ".join(done), *(f"unsupported: {reason}" for reason in dict.fromkeys(without))])


def _failed(estimator: Estimator, run: Trajectory) -> str | None:
    try:
        answer(estimator, run)
    except Failure as failure:
        return f"{failure.status}: {failure}"
    return None


def _sign(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:  # noqa: ARG001
    """A near copy of the query helps it, and the same with the opposite label harms it: without minus with."""
    given = next(given for fit in FITS if not estimator.unsupported((given := planted(*fit)).problem))
    copy, opposite = answer(estimator, given)[-1, :2, 0].tolist()
    text = f"effect of a near copy of the query {copy:+.1e}, of one with the opposite label {opposite:+.1e}"
    if copy <= opposite:
        return False, f"{text}: the first must be above the second, for an effect is the loss without a sample minus with it"
    if estimator.loss_units and not copy > 0 > opposite:
        return False, f"{text}: in units of loss the first must be positive, the second negative"
    return True, text


def _exact(case: str) -> Callable[[Estimator, Trajectory, Tensor], Verdict]:
    def examine(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:  # noqa: ARG001
        if case not in estimator.exact:
            return None, "not claimed"
        given, truth = exactly(case)
        difference = float((answer(estimator, given) - truth).abs().max() / truth.std(correction=0))
        return difference <= CLOSE, f"largest error {difference:.0e} of the spread of the true effects, allowed {CLOSE:.0e}"

    return examine


def _cost(estimator: Estimator, run: Trajectory, first: Tensor) -> Verdict:  # noqa: ARG001
    """Time and counts on 200 samples, against leaving each of them out exactly."""
    networks_first = reversed(FITS)
    fit = next((fit for fit in networks_first if not estimator.unsupported(sized(*fit).problem)), None)
    if fit is None:
        return None, f"what it supports leaves no model that is trained on {SIZE} samples here"
    given, (seconds, _, _) = sized(*fit), _exact_cost(*fit)
    with suppress(Failure):
        answer(estimator, costs.warm(given))  # a first call takes what is not the method's
    found = estimate(estimator, given)
    visits = len(given.problem.train) * given.problem.steps
    counts = [f"{count / visits:.2g}" for count in (found.count.gradients, found.count.hessian_products)]
    where = f"{' by '.join(fit)}, N = {SIZE}, P = {given.problem.model.parameters}"
    ratio = f"{found.seconds / seconds:.2g} of the time of exact retraining, {found.seconds:.2g} s ({where})"
    return True, f"{ratio}; for each sample and step {counts[0]} gradients, {counts[1]} Hessian products"


@cache
def sized(model: str, optimizer: str) -> Trajectory:
    """A run on 200 samples with a mean query over as many others."""
    widths = (30, 1) if model == "logistic" else (30, 8, 1)
    whole, own = (synthetic(widths, count, 20, 5) for count in (2 * SIZE, SIZE))
    given = replace(own, train=whole.train[:SIZE], query=whole.train[SIZE:], query_kind="mean")
    return train(replace(given, optimizer=OPTIMIZERS[optimizer]))


@cache
def _exact_cost(model: str, optimizer: str) -> tuple[float, int, Tensor]:
    return costs.exactly(sized(model, optimizer))


RULES: dict[str, Callable[[Estimator, Trajectory, Tensor], Verdict]] = {
    "deterministic": _deterministic,
    "rows follow samples": _rows,
    "columns follow queries": _columns,
    "some rows alone": _some,
    "models and optimisers": _fits,
    "sign": _sign,
    **{f"exact on {case}": _exact(case) for case in EXACT},
    "cost": _cost,
}
