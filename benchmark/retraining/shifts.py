"""How far each run without a sample is from the reference run, carried forward by the step linearised at the reference."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.core import calculus
from benchmark.core.optimizers import Sgd
from benchmark.core.problem import Samples, clipping
from benchmark.core.tangents import Parts, Tangents, join, split, tangents
from benchmark.core.trajectory import Trajectory
from benchmark.retraining import chunks
from benchmark.retraining.readout import reader
from benchmark.retraining.train import departures, left_out, training_loop


@dataclass(frozen=True)
class Rule:
    """How the step of a run without sample i is linearised; ``g``, ``H`` are those of the reference run's batch.

    `own` says what becomes of the sample's own part of the gradient at the shifted parameters ``theta + d``:
    "gradient" takes away ``g_i(theta)`` alone (SGD-IE), "curvature" ``g_i + H_i d`` (ACC), "exact" ``g_i(theta + d)``.
    With `exact_map` the optimiser's map from moments and gradient to the next state is not linearised, only the gradient is.
    """

    own: str  # "gradient", "curvature" or "exact"
    exact_map: bool = False  # step the optimiser itself at the shifted state


SGD_IE = Rule("gradient")  # Hara et al. 2019, arXiv:1906.08473
ACC = Rule("curvature")  # Shi et al. 2025, arXiv:2510.26185
PAIRS = 256  # runs and samples they lack, whose gradients are held at once: bounds memory


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
        if isinstance(problem.optimizer, Sgd) and not problem.clip:
            kept = weights if self.rule.own == "curvature" else usual[None]
            self._descend(problem.optimizer, at, kept, weights - usual, batch)
        else:
            self._mapped(at, weights, batch)

    def _descend(self, optimizer: Sgd, at: Tangents, kept: Tensor, removed: Tensor, batch: Samples) -> None:
        """SGD is linear in gradient and state: in place."""
        rate, moved = optimizer.rate(self.t - 1), self.moved
        own = self._own(removed, batch, since_reference=False)
        if not optimizer.momentum:
            self._add(at, moved, moved, kept, removed, -rate)
            _add_all(moved, own, -rate)
            return
        velocity = [part[1].mul_(optimizer.momentum) for part in self.parts]
        self._add(at, velocity, moved, kept, removed, 1.0)
        _add_all(velocity, own, 1.0)
        _add_all(moved, velocity, -rate)

    def _add(self, at: Tangents, out: Parts, moved: Parts, kept: Tensor, removed: Tensor, alpha: float) -> None:
        sources = removed if self.rule.own != "exact" and bool(removed.any()) else None
        at.add(out, moved, kept, sources, alpha)

    def _own(self, removed: Tensor, batch: Samples, *, since_reference: bool) -> Parts | None:
        """The samples' own gradients at the shifted parameters, times what is taken away of them.

        With `since_reference` less those at the reference: what rounding leaves of a gradient that is 0, Adam would blow up.
        """
        pairs = removed.nonzero()
        if self.rule.own != "exact" or not len(pairs):
            return None
        found = self.parameters().zero_()
        for runs, samples in (some.unbind(1) for some in torch.split(pairs, PAIRS)):
            shift, own = join([part[runs] for part in self.moved]), batch[samples]
            gradients = self.problem.gradients(self.run.params(self.t - 1) + shift, own)
            if since_reference:
                gradients -= self.problem.gradients(self.run.params(self.t - 1) + 0 * shift, own)
            found.index_add_(0, runs, removed[runs, samples][:, None] * gradients)
        return split(self.problem.model, found)

    def _mapped(self, at: Tangents, weights: Tensor, batch: Samples) -> None:
        """Any optimiser, by the derivative of its step or by the step itself."""
        usual = self.problem.weights(self.t - 1)
        derivative = self.rule.own == "gradient" and not self.rule.exact_map
        gradient = at.gradient(usual[None] if derivative else weights)  # (1 or R, *shape), where the map is linearised
        carried = [torch.zeros_like(part) for part in self.moved]
        kept = weights if self.rule.own == "curvature" else usual[None]
        at.add(carried, self.moved, kept, weights - usual if derivative else None, 1.0)
        _add_all(carried, self._own(weights - usual, batch, since_reference=True), 1.0)
        if self.problem.clip:
            gradient, carried = self._clipped(gradient, carried, self.problem.clip)
        states = (split(self.problem.model, self.run.states[t]) for t in (self.t - 1, self.t))
        for part, state, after, at_weights, change in zip(self.parts, *states, gradient, carried, strict=True):
            part.copy_(self._through(part, state[:, None], after[:, None], at_weights.expand_as(change), change))

    def _clipped(self, gradient: Parts, change: Parts, most: float) -> tuple[Parts, Parts]:
        """Gradients clipped to the norm `most` as in each run's step, and their changes by the derivative of that.

        Where the map is exact, the changed gradient is clipped itself, and no change is left.
        """

        def clip(gradients: Tensor) -> Tensor:
            return gradients * clipping(gradients, most)

        at, moved = join(gradient), join(change)
        if self.rule.exact_map:
            clipped, moved = clip(at + moved), torch.zeros_like(moved)
        else:
            clipped, moved = calculus.push(clip, (at.expand_as(moved),), (moved,))
        return split(self.problem.model, clipped), split(self.problem.model, moved)

    def _through(self, shift: Tensor, state: Tensor, after: Tensor, gradient: Tensor, change: Tensor) -> Tensor:
        """The shift (S, R, *shape) after the step of one parameter tensor, whose gradient (R, *shape) changes by `change`.

        state, after: (S, 1, *shape) of the reference run.
        """
        optimizer, t = self.problem.optimizer, self.t - 1
        if self.rule.exact_map:
            return optimizer.step(state + shift, gradient + change, t) - after
        moved = optimizer.push(state, gradient, shift, change, t)
        return moved if self.rule.own == "gradient" else optimizer.step(state.expand_as(shift), gradient, t) - after + moved


def _add_all(out: Parts, parts: Parts | None, alpha: float) -> None:
    for target, part in zip(out, parts or [], strict=bool(parts)):
        target.add_(part, alpha=alpha)


def carry(
    run: Trajectory, keep: Tensor, rule: Rule, read: Callable[[Shifts], Tensor] = Shifts.parameters, runs: int | None = None
) -> Tensor:
    """What `read` takes of the shifts of R runs with the samples of `keep` only, at each horizon. (R, N) -> (H, R, ...)

    The masks, and `runs` advanced at once, are those of `retrain`. A run's shift is 0 until its first sample is missing.
    Cost: E N gradients and E N R Hessian products, for E epochs; one gradient more for each missing visit with "exact", two
    with Adam.
    """
    problem = run.problem
    visits = int((problem.batches[: problem.horizons[-1]] >= 0).sum())
    calculus.count(gradients=visits, hessian_products=visits * len(keep))
    if runs is None and (problem.clip or not isinstance(problem.optimizer, Sgd)):
        runs = max(1, chunks.at_once(problem, gram=False) // 4)  # derivatives of Adam's map hold several copies of a state
    return training_loop(
        problem,
        keep,
        lambda _start, count: Shifts(run, rule, count),
        read,
        starts=departures(problem, keep),
        runs=runs,
        means=replace(chunks.allowed(), workers=1),  # torch's forward mode, which convolutions use, is one for all threads
    )


def effects(run: Trajectory, rule: Rule, readout: str) -> Tensor:
    """Effects (H, K, Q) of leaving out each of the problem's K samples: the readout of its shift at each horizon.

    `readout` is "linear", "logit" or "exact", as in the function of that name. Cost: E N gradients and E N K Hessian products,
    for E epochs, and the queries' gradients for each horizon where the readout is linear. With the rule "exact" one gradient
    more for each visit of a sample that is left out, two with Adam.
    """
    readers = {cut.problem.steps: reader(cut, readout) for cut in run.at_horizons()}
    without = left_out(run.problem)[:-1]
    return carry(run, without, rule, lambda shifts: readers[shifts.t](shifts.parameters()))
