"""The nouns: samples, a problem to train on, the trajectory of its training, and the truth about it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from threading import local
from typing import Any

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError, Withheld
from benchmark.base.files import digest, stack_digest, tensor_digest
from benchmark.core import calculus
from benchmark.core.models import Network
from benchmark.core.optimizers import Optimizer
from benchmark.core.tangents import Tangents, join, split, tangents

SAMPLES = 256  # samples whose tangents are held at once: bounds memory


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (N, d) and targets (N,): class numbers or real values."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Any) -> "Samples":
        return Samples(self.inputs[rows], self.targets[rows])

    def by_content(self) -> Tensor:
        """Numbers (N,) of the samples in the order of their digests, so that what is drawn in it does not depend on theirs."""
        digests = [tensor_digest([row, target]) for row, target in zip(self.inputs, self.targets, strict=True)]
        return torch.tensor(sorted(range(len(digests)), key=digests.__getitem__), device=self.inputs.device)


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that fixes a training run, and its step ``Phi_t(s, w)``.

    ``Phi_t(s, w) = step(s, grad_theta sum_b w_b (loss_b(theta) + weight_decay/2 |theta|^2), t)`` over the batch of step t.
    The reference run has ``w_b = 1/|B_t|``; a run without sample i has weight 0 for it and still 1/|B_t| for the others.
    """

    model: Network
    optimizer: Optimizer
    train: Samples
    query: Samples
    test: Samples  # for judging cleansed models only
    initial: Tensor  # (P,)
    batches: Tensor  # (T, B) sample numbers; -1 pads a short batch
    left_out: Tensor  # (K,) numbers of the samples whose effects are asked, rising; all N, or some of a large N
    horizons: tuple[int, ...]  # H numbers of steps after which effects are read off, rising, the last at most T
    weight_decay: float = 0.0
    query_kind: str = "mean"  # "mean": one query, the mean loss; "each": one query per sample
    counterfactual: str = "zero-weight"  # a batch keeps its 1/|B|; "renormalised": it is divided by what is kept of it

    @property
    def steps(self) -> int:
        """T."""
        return len(self.batches)

    @property
    def queries(self) -> int:
        """Q."""
        return 1 if self.query_kind == "mean" else len(self.query)

    def until(self, steps: int) -> "Problem":
        """The problem of the first `steps` steps alone, after which its one horizon is."""
        return replace(self, batches=beginning(self.batches, steps), horizons=(steps,))

    def start(self) -> Tensor:
        """The state (S, P) before the first step: initial parameters, moments 0."""
        state = self.initial.new_zeros(self.optimizer.rows, self.model.parameters)
        state[0] = self.initial
        return state

    def batch(self, t: int) -> Tensor:
        """The |B_t| sample numbers of step t."""
        row = self.batches[t]
        return row[row >= 0]

    def weights(self, t: int) -> Tensor:
        """The weights (|B_t|,) of the reference run at step t: 1/|B_t| each."""
        size = len(self.batch(t))
        return self.initial.new_full((size,), 1 / size)

    def shares(self, keep: Tensor) -> Tensor:
        """Weights (R, B) of the samples of a batch in R runs that keep so much of each, under the counterfactual. (R, B)

        ``keep_b / |B|``, or, `renormalised`, ``keep_b / sum_b keep_b``, and 0 where nothing is kept.
        """
        if self.counterfactual == "zero-weight":
            return keep * (1 / keep.shape[1])
        total = keep.sum(1, keepdim=True)
        return keep * torch.where(total > 0, 1 / total, 0)

    # ---- losses and their derivatives ----------------------------------------------------------------------------
    def losses(self, theta: Tensor, samples: Samples) -> Tensor:
        """Training losses with L2 term, ``loss_b(theta) + weight_decay/2 |theta|^2``. (P,) -> (B,)"""
        return self.model.losses(theta, samples.inputs, samples.targets) + self.weight_decay / 2 * (theta @ theta)

    def gradients(self, theta: Tensor, samples: Samples) -> Tensor:
        """Gradient of each sample's training loss, L2 term included. (P,) for all, or (B, P) one for each -> (B, P)"""
        calculus.count(gradients=len(samples))

        def loss(theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
            return self.losses(theta, Samples(inputs[None], targets[None]))[0]

        each = calculus.many(calculus.gradient(loss), over=(None if theta.ndim == 1 else 0, 0, 0))
        gradients: Tensor = each(theta, samples.inputs, samples.targets)
        return gradients

    def hessian(self, theta: Tensor) -> Tensor:
        """Hessian of the mean training loss, L2 term included. (P,) -> (P, P)"""
        calculus.count(gradients=len(self.train), hessian_products=len(self.train) * len(theta))
        mean = calculus.gradient(lambda theta: self.losses(theta, self.train).mean())
        return calculus.pull(mean, (theta,), torch.eye(len(theta), dtype=theta.dtype, device=theta.device))[0]

    def hessian_products(self, theta: Tensor, samples: Samples, vectors: Tensor) -> Tensor:
        """``H v_k`` with the Hessian H of the mean training loss of some samples, L2 term included. (P,), (K, P) -> (K, P)"""
        return self._mean_products(theta, samples, vectors, bent=True)

    def gauss_newton_products(self, theta: Tensor, samples: Samples, vectors: Tensor) -> Tensor:
        """``G v_k``, ``G = mean_b J_b^T l''_b J_b + weight_decay I``: the Hessian but for the curvature of the outputs.

        J_b (C, P) is the derivative of the outputs, l''_b (C, C) that of the loss twice in them. (P,), (K, P) -> (K, P)
        """
        return self._mean_products(theta, samples, vectors, bent=False)

    def _mean_products(self, theta: Tensor, samples: Samples, vectors: Tensor, *, bent: bool) -> Tensor:
        calculus.count(gradients=len(samples), hessian_products=len(samples) * len(vectors))
        found = torch.zeros_like(vectors)
        for rows in torch.split(torch.arange(len(samples)), SAMPLES):
            mean = theta.new_full((1, len(rows)), 1 / len(samples))
            found += _products(self.model, self._tangents(theta, samples[rows]), vectors, mean, bent=bent)
        return found

    def _tangents(self, theta: Tensor, samples: Samples) -> Tangents:
        return tangents(self.model, theta, samples.inputs, samples.targets, self.weight_decay)

    def query_losses(self, theta: Tensor) -> Tensor:
        """Query losses, without L2 term. (P,) -> (Q,)"""
        losses = self.model.losses(theta, self.query.inputs, self.query.targets)
        return losses.mean(0, keepdim=True) if self.query_kind == "mean" else losses

    def query_gradients(self, theta: Tensor) -> Tensor:
        """Gradients of the query losses. (P,) -> (Q, P)"""
        calculus.count(gradients=len(self.query))
        ones = torch.eye(self.queries, dtype=theta.dtype, device=theta.device)
        return calculus.pull(self.query_losses, (theta,), ones)[0]

    # ---- the one verb, and its derivative ------------------------------------------------------------------------
    def step(self, t: int, state: Tensor, weights: Tensor) -> Tensor:
        """``Phi_t(state, weights)``. (S, P), (|B_t|,) -> (S, P). Cost: |B_t| gradients."""
        calculus.count(gradients=len(weights))
        return self.stepped(t, state, weights)

    def stepped(self, t: int, state: Tensor, weights: Tensor) -> Tensor:
        """`step`, of a run whose steps were counted before."""
        batch = self.train[self.batch(t)]
        gradient = calculus.gradient(lambda theta: weights @ self.losses(theta, batch))(state[0])
        return self.optimizer.step(state, gradient, t)

    def pull(
        self, t: int, state: Tensor, weights: Tensor, cotangents: Tensor, *, curvature: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Cotangents of the state after step t, pulled back to the state and weights before it.

        (S, P), (|B_t|,), (K, S, P) -> (K, S, P), (K, |B_t|). First through the optimiser, then through the
        gradient; without `curvature` the gradient counts as constant in the parameters, and the Hessian is left out.
        """
        calculus.count(gradients=len(weights), hessian_products=len(weights) * len(cotangents) if curvature else 0)
        at = self._tangents(state[0], self.train[self.batch(t)])
        gradient = join(at.gradient(weights[None]))[0]
        before, along = calculus.pull(
            lambda state, gradient: self.optimizer.step(state, gradient, t), (state, gradient), cotangents
        )
        slopes = torch.cat([at.slopes(split(self.model, some)) for some in torch.split(along, calculus.CHUNK)])
        if curvature:
            before[:, 0] += _products(self.model, at, along, weights[None])
        return before, slopes

    def digest(self) -> str:
        """Content digest of every field."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        plain = {name: value for name, value in plain.items() if not isinstance(value, Tensor | Samples)}
        return digest(tensor_digest(tensors(self)).encode(), repr(plain).encode())


def _products(model: Network, at: Tangents, vectors: Tensor, weights: Tensor, *, bent: bool = True) -> Tensor:
    """``sum_b w_b H_b v_k``. (K, P), (1, B) -> (K, P)"""

    def some(vectors: Tensor) -> Tensor:
        shift = split(model, vectors)
        found = [torch.zeros_like(part) for part in shift]
        at.add(found, shift, weights, None, 1.0, bent=bent)
        return join(found)

    return torch.cat([some(part) for part in torch.split(vectors, calculus.CHUNK)])


def beginning(values: Any, count: int) -> Any:
    """The first `count` rows of a tensor, or steps of a run's states, in memory of their own: a view would carry the others."""
    first = values[:count]
    return first.clone() if isinstance(first, Tensor) and len(first) < len(values) else first


@dataclass(frozen=True, eq=False)
class Replay:
    """States (T + 1, S, P) of a run, kept every so many steps: those between are computed again when asked for, bit for bit.

    About ``T/every + every`` states are held at a time, by each thread that reads them, fewest where `every` is sqrt(T). Each
    pass over all of them, forward or backward, costs one more training run. It is indexed by a step, by a step and more, or up
    to one, ``[:n]``.
    """

    problem: Problem
    kept: Tensor  # (C, S, P), before steps 0, every, 2 every ...
    every: int
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_held", local())  # of each thread, the states from one that is kept to the next

    @property
    def shape(self) -> torch.Size:
        """(T + 1, S, P)"""
        return torch.Size((self.steps + 1, *self.kept.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes held, the states between two that are kept included."""
        return self.kept.nbytes + self.kept[0].nbytes * self.every

    def __len__(self) -> int:
        return self.steps + 1

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            if at.start or at.step:
                raise LoobenchError(
                    "states that are replayed are read by step, or up to one: take run.params(t) or run.whole()"
                )
            steps = range(self.steps + 1)[at][-1]
            return self.until(steps, self.problem.until(steps))
        t, *rest = at if isinstance(at, tuple) else (at,)
        return self._state(range(self.steps + 1)[t]).clone()[tuple(rest)]

    def until(self, steps: int, problem: Problem) -> "Replay":
        """The first `steps` steps, of the problem that ends with them."""
        return Replay(problem, beginning(self.kept, steps // self.every + 1), self.every, steps)

    def _state(self, t: int) -> Tensor:
        start, states = getattr(self._held, "between", (0, []))  # type: ignore[attr-defined]
        if not start <= t < start + len(states):
            self._held.between = 0, []  # type: ignore[attr-defined]  # the old ones go before the new ones come
            start = t - t % self.every
            states = [self.kept[start // self.every]]
            for step in range(start, min(start + self.every, self.problem.steps)):
                states.append(self.problem.stepped(step, states[-1], self.problem.weights(step)))
            self._held.between = start, states  # type: ignore[attr-defined]
        found: Tensor = states[t - start]
        return found


@dataclass(frozen=True, eq=False)
class FinalState:
    """States (T + 1, S, P) of a run of which only the last is shown: to ask for another raises Withheld, and is noted."""

    last: Tensor  # (S, P)
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_asked", [])  # of this record alone: a copy begins with none

    @property
    def refused(self) -> bool:
        """Whether a state that is not shown was asked for."""
        return bool(self._asked)  # type: ignore[attr-defined]

    @property
    def shape(self) -> torch.Size:
        """(T + 1, S, P)"""
        return torch.Size((self.steps + 1, *self.last.shape))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.last.nbytes)

    def __len__(self) -> int:
        return self.steps + 1

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice) and range(self.steps + 1)[at] == range(self.steps + 1):
            return self
        first, *rest = at if isinstance(at, tuple) else (at,)
        if not isinstance(first, int) or range(self.steps + 1)[first] != self.steps:
            self._asked.append(at)  # type: ignore[attr-defined]
            raise Withheld("this task shows the final model alone, not the states before it")
        return self.last.clone()[tuple(rest)]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The reference run: all that an estimator may look at."""

    problem: Problem
    states: Tensor  # (T + 1, S, P), or a Replay or FinalState, which are indexed alike
    key: str = ""  # of random numbers, where the initial parameters are not shown

    def params(self, t: int) -> Tensor:
        """Parameters (P,) before step t; at t = T the final ones."""
        return self.states[t, 0]

    @property
    def final(self) -> Tensor:
        """Parameters (P,) after the last step."""
        return self.params(self.problem.steps)

    @property
    def final_alone(self) -> bool:
        """Whether no state but the last is shown."""
        return isinstance(self.states, FinalState)

    @property
    def refused(self) -> bool:
        """Whether a state that is not shown was asked for, of this record or a cut of it, not of a copy."""
        return self.final_alone and self.states.refused  # type: ignore[attr-defined]

    def until(self, steps: int) -> "Trajectory":
        """The run cut after `steps` steps: what a run with that one horizon would have been, and nothing of what came after."""
        problem, states = self.problem.until(steps), self.states
        begun: Any = states.until(steps, problem) if isinstance(states, Replay) else beginning(states, steps + 1)
        return replace(self, problem=problem, states=begun)

    def at_horizons(self) -> Iterator["Trajectory"]:
        """The run cut at each of its horizons."""
        return map(self.until, self.problem.horizons)

    def segments(self, count: int) -> list[range]:
        """The T steps in `count` stretches of nearly equal length, T of them where there are fewer steps."""
        steps, count = self.problem.steps, min(count, self.problem.steps)
        cuts = [steps * k // count for k in range(count + 1)]
        return [range(*ends) for ends in pairwise(cuts)]

    def final_only(self) -> "Trajectory":
        """The run with no state but the last to be seen, nor what the others could be computed from.

        The problem's initial parameters are the final ones, and its batches go through the samples by number. Random numbers
        stay those of the whole run: the last bits of final parameters are not the same on every processor.
        """
        last = self.states[self.problem.steps].clone()
        hidden: Any = FinalState(last, self.problem.steps)
        samples, size = len(self.problem.train), self.problem.batches.shape[1]
        epoch = -(-samples // size)
        rows = torch.arange(epoch * size, device=self.final.device)
        once = torch.where(rows < samples, rows, -1).view(epoch, size)
        problem = replace(self.problem, initial=last[0].clone(), batches=once[torch.arange(self.problem.steps) % epoch])
        return replace(self, problem=problem, states=hidden, key=self._key())

    def query_gradients(self) -> Tensor:
        """Gradients (Q, P) of the query losses at the final parameters."""
        return self.problem.query_gradients(self.final)

    def random(self) -> torch.Generator:
        """A fresh generator on the CPU for the estimator's own random numbers, keyed by the initial parameters."""
        return torch.Generator().manual_seed(int(self._key()[:15], 16))

    def _key(self) -> str:
        return self.key or tensor_digest([self.problem.initial])

    def whole(self) -> Tensor:
        """All states (T + 1, S, P) as one tensor."""
        return torch.stack([self.states[t] for t in range(self.problem.steps + 1)])

    def digest(self) -> str:
        """Content digest of the states, as of one tensor."""
        return stack_digest((self.states[t] for t in range(self.problem.steps + 1)), self.problem.steps + 1)


@dataclass(frozen=True)
class Noise:
    """How far a truth in float32 or from a GPU is from the same retrained, over the standard deviation of the effects.

    Root mean square of the difference over `samples` of its samples, mean over queries, at the worst horizon; queries that no
    sample has an effect on are left out, and None says that there is no other.
    """

    repeat: float | None  # on the same device in the same precision, sums taken in another order
    float64: float | None  # on the same device in float64
    samples: int


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Exact effects: ``effect[h, m, q]`` = loss of query q without the m-th sample, or group, minus with it, at horizon h."""

    effect: Tensor  # (H, M, Q)
    seconds: float  # of one thread, or of the GPU, for the retraining
    gradients: int  # per-sample gradients it took
    machine: str = ""  # where it was timed
    noise: Noise | None = None  # None: float64 on a CPU
    removed: Tensor | None = None  # (M, N) bool, the members of each group; None: the samples asked, one at a time
    repeats: Tensor | None = None  # (R, H, M, Q) where the effect is their mean
    limits: dict[str, list[float | None]] = field(default_factory=dict)  # ceilings and floors, at each horizon

    def predicted(self, estimate: Tensor) -> Tensor:
        """What an estimate for single samples says of each group: the sum over its members. (H, N, Q) -> (H, M, Q)

        An estimate of one horizon is the same for all.
        """
        single = estimate if self.removed is None else self.removed.to(estimate) @ estimate
        return single.expand(len(self.effect), *single.shape[1:])

    def digest(self) -> str:
        """Content digest of the effects."""
        return tensor_digest([self.effect])


def map_tensors(value: Any, change: Any) -> Any:
    """A copy of a record of ours, nested ones included, with `change` applied to each tensor."""
    if isinstance(value, Tensor):
        return change(value)
    if not isinstance(value, Samples | Problem | Trajectory | Replay | FinalState):
        return value
    return replace(value, **{part.name: map_tensors(getattr(value, part.name), change) for part in fields(value)})


def in_precision(problem: Problem, dtype: torch.dtype) -> Problem:
    """The problem with its real numbers in another precision."""
    changed: Problem = map_tensors(problem, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return changed


def tensors(value: Any) -> list[Tensor]:
    """All tensors of a record of ours, nested ones included, in the order of the fields."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(value, note)
    return found
