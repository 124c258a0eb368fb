"""How far each run without a sample is from the reference run, carried forward by the step linearised at the reference."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import calculus
from benchmark.optimizers import Sgd
from benchmark.problem import Samples, Trajectory
from benchmark.readout import reader
from benchmark.tangents import Parts, Tangents, join, split, tangents
from benchmark.train import departures, fold, left_out


@dataclass(frozen=True)
class Rule:
    """How the step of a run without sample i is linearised; ``g``, ``H`` are those of the reference run's batch.

    `own` says what becomes of the sample's own part of the gradient at the shifted parameters ``theta + d``:
    "gradient" takes away ``g_i(theta)`` alone (SGD-IE), "curvature" ``g_i + H_i d`` (ACC), "exact" ``g_i(theta + d)``.
    With `exact_map` the optimiser's map from moments and gradient to the next state is not linearised, only the gradient is.
    """

    own: str
    exact_map: bool = False


SGD_IE = Rule("gradient")
ACC = Rule("curvature")


class Shifts:
    """Shifts (S, R, *shape) of R runs' states, one tensor for each parameter tensor."""

    def __init__(self, run: Trajectory, rule: Rule, runs: int) -> None:
        self.run, self.rule, self.problem, self.t = run, rule, run.problem, 0
        state = run.states[0]
        self.parts = [
            state.new_zeros(len(state), runs, *part.shape) for layer in self.problem.model.parts(state[0]) for part in layer
        ]

    @property
    def moved(self) -> Parts:
        """Shifts of the parameters, as parts."""
        return [part[0] for part in self.parts]

    def parameters(self) -> Tensor:
        """Shifts of the parameters (R, P)."""
        return join(self.moved)

    def step(self, t: int, rows: Tensor, weights: Tensor) -> None:
        """Carry the shifts over step t on the samples `rows`, which weigh (R, B) in the runs."""
        problem, self.t = self.problem, t + 1
        batch, usual = problem.train[rows], problem.weights(t)
        at = tangents(problem.model, self.run.params(t), batch.inputs, batch.targets, problem.weight_decay)
        removed = weights - usual
        kept = weights if self.rule.own == "curvature" else usual[None]
        if isinstance(problem.optimizer, Sgd):
            self._descend(problem.optimizer, at, kept, removed, batch)
        else:
            self._mapped(at, kept, removed, batch)

    def _descend(self, optimizer: Sgd, at: Tangents, kept: Tensor, removed: Tensor, batch: Samples) -> None:
        """SGD is linear in gradient and state: in place."""
        rate, moved = optimizer.rate(self.t - 1), self.moved
        if not optimizer.momentum:
            source = self._source(removed, batch)
            self._add(at, moved, moved, kept, removed, -rate)
            _add_all(moved, source, -rate)
            return
        velocity = [part[1].mul_(optimizer.momentum) for part in self.parts]
        self._add(at, velocity, moved, kept, removed, 1.0)
        _add_all(velocity, self._source(removed, batch), 1.0)
        _add_all(moved, velocity, -rate)

    def _add(self, at: Tangents, out: Parts, moved: Parts, kept: Tensor, removed: Tensor, alpha: float) -> None:
        sources = removed if self.rule.own != "exact" and bool(removed.any()) else None
        at.add(out, moved, kept, sources, alpha)

    def _source(self, removed: Tensor, batch: Samples) -> Parts | None:
        """The samples' own gradients at the shifted parameters, times what is taken away of them."""
        pairs = removed.nonzero()
        if self.rule.own != "exact" or not len(pairs):
            return None
        runs, samples = pairs.unbind(1)
        thetas = self.run.params(self.t - 1) + join([part[runs] for part in self.moved])
        own = removed[runs, samples][:, None] * self.problem.gradients_at(thetas, batch[samples])
        found = self.parameters().zero_().index_add_(0, runs, own)
        return split(self.problem.model, found)

    def _mapped(self, at: Tangents, kept: Tensor, removed: Tensor, batch: Samples) -> None:
        """Any optimiser, by the derivative of its step or by the step itself."""
        nothing = [torch.zeros_like(part) for part in self.moved]
        carried = [torch.zeros_like(part) for part in nothing]
        at.add(carried, self.moved, kept, None, 1.0)
        own = self._source(removed, batch)
        source = own or (at.gradient(removed) if bool(removed.any()) else nothing)
        model, states = self.problem.model, self.run.states
        before, after = (split(model, states[t]) for t in (self.t - 1, self.t))
        usual = at.gradient(self.problem.weights(self.t - 1)[None])
        for place, part in enumerate(self.parts):
            part.copy_(self._through(part, before[place], after[place], usual[place], source[place], carried[place]))

    def _through(self, shift: Tensor, state: Tensor, after: Tensor, usual: Tensor, source: Tensor, carried: Tensor) -> Tensor:
        """The shift (S, R, *shape) after the step of one parameter tensor; state, after (S, *shape), the rest (R, *shape)."""
        step: Callable[..., Tensor] = lambda state, gradient: self.problem.optimizer.step(state, gradient, self.t - 1)  # noqa: E731
        state, after = state[:, None], after[:, None]
        if self.rule.exact_map:
            return step(state + shift, usual + source + carried) - after
        if self.rule.own == "gradient":
            gradient, carried = usual.expand_as(carried), source + carried
            return calculus.push(step, (state.expand_as(shift), gradient), (shift, carried))[1]
        value, moved = calculus.push(step, (state.expand_as(shift), usual + source), (shift, carried))
        return value - after + moved


def _add_all(out: Parts, parts: Parts | None, alpha: float) -> None:
    for target, part in zip(out, parts or [], strict=bool(parts)):
        target.add_(part, alpha=alpha)


def carry(
    run: Trajectory, keep: Tensor, rule: Rule, read: Callable[[Shifts], Tensor] = Shifts.parameters, runs: int | None = None
) -> Tensor:
    """What `read` takes of the shifts of R runs with the samples of `keep` only, at each horizon. (R, N) -> (H, R, ...)

    The masks, and `runs` advanced at once, are those of `train.retrain`. A run's shift is 0 until its first sample is missing.
    Cost: E N gradients and E N R Hessian products, for E epochs.
    """
    problem = run.problem
    visits = int((problem.batches[: problem.horizons[-1]] >= 0).sum())
    calculus.count(gradients=visits, hessian_products=visits * len(keep))
    starts = departures(problem, keep)
    return fold(problem, keep, lambda _start, count: Shifts(run, rule, count), read, starts=starts, runs=runs)


def effects(run: Trajectory, rule: Rule, readout: str) -> Tensor:
    """Effects (H, K, Q) of leaving out each of the problem's K samples: the readout of its shift at each horizon."""
    readers = {cut.problem.steps: reader(cut, readout) for cut in run.at_horizons()}
    without = left_out(run.problem)[:-1]
    return carry(run, without, rule, lambda shifts: readers[shifts.t](shifts.parameters()))
