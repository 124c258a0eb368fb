"""What is checked of a truth that others computed: its problem, its run by replaying it, some effects by training again.

And what it would have taken here.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from benchmark.base import machine
from benchmark.base.errors import DamagedFile, LoobenchError
from benchmark.base.files import json_digest, tensor_digest
from benchmark.base.streams import stream
from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory
from benchmark.retraining.chunks import FREE, Means
from benchmark.retraining.engine import query_losses
from benchmark.retraining.train import Clock, retrain, trained
from benchmark.truths import layout, truth
from benchmark.truths.counterfactuals import Design
from benchmark.truths.effects import GroundTruth
from benchmark.truths.layout import Checkpoints, Facts
from benchmark.truths.truth import Bar

FLOORS = 5.0  # noise floors that a retrained effect may be off
LEAST = {torch.float64: 1e-6, torch.float32: 1e-2}  # of the spread, where no noise floor is stated
STATES = {torch.float64: 1e-9, torch.float32: 1e-6}  # of its norm that a replayed state may be off, of other last bits
ROUNDED = ("train.inputs", "query.inputs", "test.inputs", "initial")  # parts of a problem whose last bits a machine decides
DECAY = 1e-6  # relative, of a weight decay that is fitted to the data
ORDERS = 4  # in which an effect is trained before it is refused
STEPS = 30  # of training on which it is measured what many runs side by side gain
ZERO = 1e-300  # in place of a norm or spread of 0
NOTHING = "nothing was kept"


# ---- the problem -----------------------------------------------------------------------------------------------------
def parts(problem: Problem) -> dict[str, str]:
    """Digests of a problem's parts by name, so that it can be said which of them differ."""
    samples = {"train": problem.train, "query": problem.query, "test": problem.test}
    tensors = {f"{name}.{part}": getattr(some, part) for name, some in samples.items() for part in ("inputs", "targets")}
    tensors |= {name: getattr(problem, name) for name in ("initial", "batches", "left_out")}
    plain = ("model", "optimizer", "horizons", "query_kind", "counterfactual", "query_function", "clip")
    return {
        **{name: tensor_digest([one]) for name, one in tensors.items()},
        **{name: json_digest(repr(getattr(problem, name))) for name in plain},
    }


def same_bits(made: dict[str, object], device: str) -> bool:
    """Whether a machine computes the same last bits as this one, as far as its record tells."""
    here = machine.provenance("", device, "")
    return device == "cpu" and all(made.get(name) == here[name] for name in ("arithmetic", "instructions", "torch"))


def check_problem(problem: Problem, facts: Facts, *, exactly: bool) -> None:
    """Raise LoobenchError where the problem built here is not the published one, but for last bits of another processor."""
    if problem.digest() == facts.problem:
        return
    differ = [name for name, one in parts(problem).items() if facts.parts.get(name) != one]
    differ += ["weight_decay"] * (problem.weight_decay != facts.weight_decay)
    may = {*ROUNDED} if problem.train.inputs.is_floating_point() else {"initial"}
    if abs(problem.weight_decay - facts.weight_decay) <= DECAY * abs(facts.weight_decay):
        may.add("weight_decay")
    if exactly or not differ or not may.issuperset(differ):
        raise LoobenchError(
            f"the problem built here is not the published one ({', '.join(differ) or 'its model'}): other data, or another "
            f"version of what prepares them; compute the truth here, without --from-hub; {NOTHING}"
        )


# ---- the run ---------------------------------------------------------------------------------------------------------
def replay(problem: Problem, states: Checkpoints, *, exactly: bool, floor: float = 0.0) -> float:
    """Train from each checkpoint to the next; how far the worst state is off, over its norm.

    Raises LoobenchError where the bits differ, if they must not; else where a state is off by more than `STATES` of its norm
    and, in float32, the noise `floor` of what the steps from the checkpoint before changed.
    """
    worst = _off(problem.start(), states.states[0], exactly, 0.0, "the start")
    rough = floor if states.states.dtype == torch.float32 else 0.0
    for number, (start, end) in enumerate(pairwise(states.steps)):
        before, after = states.states[number], states.states[number + 1]
        state = before.to(problem.initial.device)
        for t in range(start, end):
            state = problem.stepped(t, state, problem.weights(t))
        moved = rough * float((after - before).double().norm())
        worst = max(worst, _off(state, after, exactly, moved, f"the state after {end} steps"))
    return worst


def _off(found: Tensor, published: Tensor, exactly: bool, moved: float, what: str) -> float:
    """How far a state is from the published one, the worst row over its norm. Raises LoobenchError where it is too far."""
    found = found.cpu()
    if torch.equal(found, published):
        return 0.0
    norms, off = published.double().norm(dim=1), (found.double() - published.double()).norm(dim=1)
    share = float((off / norms.clamp(min=ZERO)).max())
    if exactly or not bool((off <= STATES[published.dtype] * norms + moved).all()):
        allowed = "no bit, on this kind of processor" if exactly else f"{STATES[published.dtype]:g} of it"
        raise LoobenchError(
            f"the published run is not what training gives here: {what} is off by {share:.1e} of its norm, allowed is "
            f"{allowed}. Do not use it; {NOTHING}"
        )
    return share


# ---- the effects -----------------------------------------------------------------------------------------------------
def check_effects(published: GroundTruth, left_out: Tensor, run: Trajectory, asked: Design) -> None:
    """Raise DamagedFile where effects are not of the samples or groups, queries, horizons and precision asked here."""
    problem = run.problem
    shape = (len(asked.problems[0].horizons), len(asked.keep) - 1, problem.queries)
    repeats = (len(asked.problems), *shape) if len(asked.problems) > 1 else None
    came = None if published.repeats is None else (*published.repeats.shape,)
    if (*published.effect.shape,) != shape or came != repeats or not published.effect.isfinite().all():
        raise DamagedFile(f"effects must be finite and {shape}, repeats {repeats}; got {(*published.effect.shape,)}, {came}")
    if published.effect.dtype != problem.initial.dtype:
        raise DamagedFile(f"effects must be of {problem.initial.dtype}, got {published.effect.dtype}")
    if not (_same(published.removed, asked.removed) and _same(left_out, problem.left_out)):
        raise DamagedFile("the samples or groups of the published effects are not those of this task and seed: take it anew")
    mean = published.effect if published.repeats is None else published.repeats.mean(0)
    if not torch.allclose(published.effect, mean, rtol=1e-5, atol=float(published.effect.std()) * 1e-6):
        raise DamagedFile("published effects are not the mean over their repeats: take it anew")


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(torch.equal(one, other.cpu()))


def tolerance(published: GroundTruth) -> Tensor:
    """How far an effect that is trained again may be off at each horizon, over the spread. (H,)

    `FLOORS` noise floors, the worst of those stated; in float64 never less than `LEAST`, and that where none is stated.
    """
    stated, curve = layout.worst(published.noise), published.limits.get("noise", [])
    least, double = LEAST[published.effect.dtype], published.effect.dtype == torch.float64
    found = []
    for h in range(len(published.effect)):
        floor = max((one for one in (stated, *curve[h : h + 1]) if one is not None), default=0.0)
        found.append(max(FLOORS * floor, least) if double or not floor else FLOORS * floor)
    return torch.tensor(found, dtype=torch.float64)


def check_noise(published: GroundTruth, what: str) -> None:
    """Raise LoobenchError for a noise within which no effect could be told from another."""
    if (most := float(tolerance(published).max())) >= 1:
        raise LoobenchError(
            f"{what}: {FLOORS:g} of its noise floors are {most:.2g} of the spread of its effects, so that no check could tell "
            "them from chance: take float64, or a smooth model"
        )


@dataclass(frozen=True)
class Spots:
    """How some effects compare with the published ones when they are trained again here."""

    some: Tensor  # numbers of samples asked, or groups
    asked: int  # how many there are of these
    nonce: int  # what decided which
    seconds: float  # that these and the run with all samples took
    off: float  # the largest difference, over the spread
    allowed: float  # as `tolerance` has it, at the noisiest horizon

    def __str__(self) -> str:
        what = f"{len(self.some)} of {self.asked} trained again here in {self.seconds:.2f} s (nonce {self.nonce})"
        return f"{what}, off by at most {self.off:.1e} of the spread, allowed {self.allowed:.1e}"


def check_spots(
    published: GroundTruth,
    run: Trajectory,
    asked: Design,
    means: Means,
    bar: Callable[[int], Bar],
    *,
    spots: int,
    nonce: int,
) -> Spots:
    """Really train again without `spots` of the samples or groups, which the `nonce` decides, and compare the effects.

    Raises LoobenchError where one is off by more than `tolerance` allows, and the rounding of the query loss itself. Such a one
    is trained again in `ORDERS` other orders within each batch before it is refused: what that moves it by is noise too, and
    nobody's word.
    """
    some = torch.from_numpy(stream("spot", nonce).permutation(len(asked.keep) - 1)[:spots]).sort().values
    part = _part(asked, some)
    with closing(bar(part.visits)) as shown:
        again = truth.ground_truth(run, means, asked=part, progress=shown.update)
    found, claimed = _values(again).double(), _values(published)[:, :, some].double()
    spread = published.effect.double().std(1)[:, None]  # (H, 1, Q)
    off, allowed = (found - claimed).abs(), torch.maximum(tolerance(published)[:, None, None] * spread, rounding(run))
    if bool((off > allowed).any()):
        moved = [(found - _values(one).double()).abs() for one in _reordered(asked, some, run, means, nonce)]
        allowed = torch.maximum(allowed, FLOORS * torch.stack(moved).amax(0))
    if bool((off > allowed).any()):
        worst = (off - allowed).argmax()
        values = (float(one.expand_as(off).flatten()[worst]) for one in (claimed, found, allowed))
        raise _failed(run.problem, asked, some, torch.unravel_index(worst, off.shape), *values)
    share = torch.where(spread > 0, off / spread.clamp(min=ZERO), 0)
    return Spots(some, len(asked.keep) - 1, nonce, again.seconds, float(share.max()), float(tolerance(published).max()))


def _failed(
    problem: Problem, asked: Design, some: Tensor, at: tuple[Tensor, ...], claimed: float, found: float, allowed: float
) -> LoobenchError:
    _, h, m, q = map(int, at)
    number = int(some[m])
    who = f"sample {int(problem.left_out[number])}" if asked.removed is None else f"group {number}"
    return LoobenchError(
        f"a spot check failed: the effect of {who} on query {q} at horizon {h} was published as {claimed:.6e}, and is "
        f"{found:.6e} when it is trained here; noise allows {allowed:.1e}. Do not use these effects; {NOTHING}"
    )


def _part(asked: Design, some: Tensor) -> Design:
    """What is trained for some samples or groups: as groups, whose noise is not measured."""
    keep = torch.cat([asked.keep[some.to(asked.keep.device)], asked.keep[-1:]])
    return Design(asked.problems, keep, ~keep[:-1])


def _values(one: GroundTruth) -> Tensor:
    """Effects of each repeat. (R, H, M, Q)"""
    return one.effect[None] if one.repeats is None else one.repeats


def rounding(run: Trajectory) -> Tensor:
    """What the difference of two query losses is rounded by, ``2 eps max(|loss|, |outputs|)``, at its largest horizon. (Q,)

    A loss is a difference of outputs, whose last bits it has. In a mean over n they even out: the root of the sum
    of squares, over n.
    """
    problem, found = run.problem, []
    for theta in map(run.params, problem.horizons):
        outputs = problem.model.outputs(theta, problem.query.inputs).detach().flatten(1).abs().amax(1)
        outputs = outputs.double()
        if problem.query_kind == "mean":
            outputs = outputs.norm(dim=0, keepdim=True) / len(outputs)
        found.append(torch.maximum(outputs, problem.query_losses(theta).detach().abs().double()))
    return 2 * torch.finfo(run.final.dtype).eps * torch.stack(found).amax(0).cpu()


def _reordered(asked: Design, some: Tensor, run: Trajectory, means: Means, nonce: int) -> Iterator[GroundTruth]:
    """Some effects, with the samples of each batch in other orders: sums are then rounded in another way."""
    for number in range(ORDERS):
        places = stream(f"spot/order/{number}", nonce).permutation(run.problem.batches.shape[1])
        turned = tuple(replace(one, batches=one.batches[:, torch.from_numpy(places)]) for one in asked.problems)
        whole = trained(turned[0], means) if asked.problems[0] is run.problem else run
        yield truth.ground_truth(whole, means, asked=_part(replace(asked, problems=turned), some))


# ---- the time --------------------------------------------------------------------------------------------------------
def timed(published: GroundTruth, spots: Spots, asked: Design, run: Trajectory, device: str) -> GroundTruth:
    """A published truth with what it would have taken here: the seconds of the runs trained here, scaled to all.

    A few runs side by side take longer each than many: how much, is measured on the first `STEPS` steps.
    """
    others = sum(int((one.batches >= 0).sum()) for one in asked.problems if one is not run.problem)
    runs, few = len(asked.keep), len(spots.some) + 1
    many = truth.planned(run.problem, FREE, runs).runs
    each = spots.seconds / few * (_gain(asked, few, many) if many > few else 1.0)
    return replace(published, seconds=each * runs, gradients=asked.visits + others, machine=machine.timed_on(device))


def _gain(asked: Design, few: int, many: int) -> float:
    """What one of `many` runs side by side takes, over what one of a `few` takes."""
    problem = asked.problems[0]
    begun = problem.until(min(STEPS, problem.steps))

    def seconds(count: int) -> float:
        clock = Clock()
        retrain(begun, asked.keep[:count], read=query_losses, runs=count, means=FREE, ledger=clock)
        return clock.seconds / count

    return min(seconds(many) for _ in range(3)) / min(seconds(few) for _ in range(3))
