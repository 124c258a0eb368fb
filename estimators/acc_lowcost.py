"""ACC-SGD-influence of linear models, read exactly, below the cost of exact retraining."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import calculus
from benchmark.models import LOSS_CURVATURES, LOSS_SLOPES, LOSSES
from benchmark.problem import Samples, Trajectory
from benchmark.registry import estimator
from benchmark.tangents import split, tangents


@estimator(
    "acc-lowcost",
    paper="ours; see docs/acc-lowcost.md",
    loss_units=True,
    optimizers=("sgd",),
    linear_models=True,
    rank=32,
    share=8,
)
def acc_lowcost(run: Trajectory, *, rank: int, share: int) -> Tensor:
    """ACC-SGD-IE with its own-sample term from a subspace and its linear readout from one backward sweep. (K, Q)

    For a linear model ``f = W phi``, phi = (x, 1), the sample's Hessian is ``Lambda_i`` in the outputs times ``phi_i phi_i^T``,
    so that ACC is SGD-IE with other coefficients: its visit at step t adds ``rate/|B| <u_{t+1}, g_i + Lambda_i z_i phi_i^T>``,
    where u is SGD-IE's sweep and ``z_i = d_i phi_i`` (C,) the sample's own output under its shift. Only z_i asks for the shift
    of every sample. It is carried in the `rank` or D/`share` directions V, whichever are more, in which the features are
    longest (exact there); what a visit leaves outside V is taken to stay where it was put. The exact readout is the linear
    one, exact, and the rest of it, ``L(f_q + z_q) - L(f_q) - <l'_q, z_q>``, with z_q from the carried shift. With all D
    directions, or as many as there are samples, it is ACC with exact readout. Cost: 2 E N + Q gradients, E N Q Hessian
    products for the sweep, and E N K r/D for the carrying, for E epochs and r directions.
    """
    carried = Carried(Line.of(run, rank, share))
    effect = run.final.new_zeros(len(run.problem.left_out), run.problem.queries)  # of the visits so far, read linearly
    for t, (along, slopes) in enumerate(backward(run)):
        visits = carried.step(t)
        rate, decay = run.problem.optimizer.rate(t), run.problem.weight_decay
        part = rate / len(run.problem.batch(t))
        before = effect[visits.rows] + part * torch.einsum("qbc,vbc->vq", along, visits.pulled)
        own = torch.einsum("qvc,vc->vq", along[:, visits.places], visits.own)
        effect[visits.rows] += part * (slopes[:, visits.places].T + own + decay / (1 - rate * decay) * before)
    return effect + carried.bend()


def backward(run: Trajectory) -> list[tuple[Tensor, Tensor]]:
    """For each step ``u_{t+1} phi_b`` (Q, B, C) and ``<u_{t+1}, g_b>`` (Q, B), with ``u_t = (I - rate H_t) u_{t+1}``."""
    problem, found = run.problem, []
    u = split(problem.model, run.query_gradients())
    visits = int((problem.batches >= 0).sum())
    calculus.count(gradients=visits, hessian_products=visits * problem.queries)
    for t in reversed(range(problem.steps)):
        batch, theta = problem.train[problem.batch(t)], run.params(t)
        at = tangents(problem.model, theta, batch.inputs, batch.targets, problem.weight_decay)
        found.append((at.outputs(u), at.slopes(u)))
        at.add(u, u, problem.weights(t)[None], None, -problem.optimizer.rate(t))
    return found[::-1]


@dataclass(frozen=True, eq=False)
class Line:
    """A linear model's run, and the directions V (D, r) in which the features of its training samples are longest."""

    run: Trajectory
    features: Tensor  # (N, D), phi = (x, 1)
    axes: Tensor  # (D, r), orthonormal
    low: Tensor  # (N, r), features in V

    @staticmethod
    def of(run: Trajectory, rank: int, share: int) -> "Line":
        """The run with at least `rank` and at least D/`share` directions, at most as many as span the features."""
        features = extended(run.problem.train)
        axes = longest(features, max(rank, features.shape[1] // share))
        visits = int((run.problem.batches >= 0).sum())
        reduced = visits * len(run.problem.left_out) * axes.shape[1] / features.shape[1]
        calculus.count(gradients=visits, hessian_products=round(reduced))
        return Line(run, features, axes, features @ axes)

    def weights(self, t: int) -> Tensor:
        """W (C, D) before step t, the bias last."""
        ((weight, bias),) = self.run.problem.model.parts(self.run.params(t))
        return torch.cat([weight, bias[:, None]], dim=1)


def extended(samples: Samples) -> Tensor:
    """``phi = (x, 1)``, (N, D)"""
    return torch.cat([samples.inputs, samples.inputs.new_ones(len(samples), 1)], dim=1)


def longest(features: Tensor, rank: int) -> Tensor:
    """The `rank` right singular vectors (D, r) of the largest singular values, from the smaller of the two Gram matrices."""
    tall = len(features) >= features.shape[1]
    values, vectors = torch.linalg.eigh(features.T @ features if tall else features @ features.T)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps  # the others are noise
    chosen: Tensor = vectors[:, kept][:, -rank:]
    return chosen if tall else features.T.matmul(chosen / values[kept][-rank:].sqrt())


@dataclass(frozen=True, eq=False)
class Visits:
    """The V samples left out that a batch of B holds, and ``Lambda_b d_i phi_b`` of its samples b under the shift of each."""

    places: Tensor  # (V,) in the batch
    rows: Tensor  # (V,) among the K
    pulled: Tensor  # (V, B, C)

    @property
    def own(self) -> Tensor:
        """``Lambda_i d_i phi_i`` (V, C)"""
        return self.pulled[torch.arange(len(self.places), device=self.places.device), self.places]


class Carried:
    """Shifts of K runs, each without one sample i: in V (K, C, r), and outside it along phi_i (K, C) and theta (K,)."""

    def __init__(self, line: Line) -> None:
        self.line, self.problem = line, line.run.problem
        left_out, outputs = self.problem.left_out, self.problem.model.classes
        self.low = line.low.new_zeros(len(left_out), outputs, line.low.shape[1])
        self.rest, self.theta = self.low.new_zeros(len(left_out), outputs), self.low.new_zeros(len(left_out))
        self.squares = line.features.square().sum(1) - line.low.square().sum(1)  # (N,), |phi|^2 outside V
        self.row = left_out.new_full((len(line.features),), -1)
        self.row[left_out] = torch.arange(len(left_out), device=left_out.device)

    def step(self, t: int) -> Visits:
        """Carry the shifts over step t; what is returned is of the shifts before it."""
        line, batch = self.line, self.problem.batch(t)
        weights, low = line.weights(t), line.low[batch]
        at_low = weights @ line.axes  # (C, r)
        outputs = line.features[batch] @ weights.T  # (B, C)
        places = (self.row[batch] >= 0).nonzero()[:, 0]
        rows, own = self.row[batch][places], batch[places]
        moved = (low @ self.low.flatten(0, 1).T).view(len(batch), *self.rest.shape)  # (B, K, C)
        moved[places, rows] += self.squares[own, None] * self.rest[rows]
        moved[places, rows] += self.theta[rows, None] * (outputs - low @ at_low.T)[places]
        pulled = LOSS_CURVATURES[self.problem.model.loss](outputs, moved)
        found = Visits(places, rows, pulled[:, rows].transpose(0, 1))
        pulled[places, rows] = 0  # no run feels the curvature of the sample that it lacks
        slope = LOSS_SLOPES[self.problem.model.loss](outputs, self.problem.train.targets[batch])[places]
        self._descend(t, rows, (low, pulled), (slope, low[places], at_low))
        return found

    def _descend(self, t: int, rows: Tensor, felt: tuple[Tensor, Tensor], missing: tuple[Tensor, Tensor, Tensor]) -> None:
        rate, decay, size = self.problem.optimizer.rate(t), self.problem.weight_decay, len(self.problem.batch(t))
        for part in (self.low, self.rest):
            own = part[rows]
            part *= 1 - rate * decay
            part[rows] += rate * decay / size * own  # nor its L2 term
        low, pulled = felt
        self.low.flatten(0, 1).addmm_(pulled.flatten(1).T, low, alpha=-rate / size)
        slope, low, at_low = missing
        self.low[rows] += rate / size * (slope[:, :, None] * low[:, None] + decay * at_low)
        self.rest[rows] += rate / size * slope
        # outside V theta itself shrinks by the L2 term, and so does what lies along it: the coefficient stays
        self.theta[rows] += rate / size * decay * (1 + self.theta[rows]) / (1 - rate * decay)

    def bend(self) -> Tensor:
        """What the exact readout has over the linear one, ``L(f_q + z_q) - L(f_q) - <l'_q, z_q>``. (K, Q)"""
        line, problem, loss = self.line, self.problem, LOSSES[self.problem.model.loss]
        query, weights, targets = extended(problem.query), line.weights(problem.steps), problem.query.targets
        low = query @ line.axes
        rest = query @ line.features[problem.left_out].T - low @ line.low[problem.left_out].T  # (Q, K), products outside V
        outputs = query @ weights.T
        moved = (low @ self.low.flatten(0, 1).T).view(-1, *self.rest.shape) + rest[:, :, None] * self.rest
        moved += (outputs - low @ (weights @ line.axes).T)[:, None] * self.theta[:, None]
        moved = moved.transpose(0, 1)  # (K, Q, C)
        linear = (LOSS_SLOPES[problem.model.loss](outputs, targets) * moved).sum(-1)
        found = loss(outputs + moved, targets.expand(len(moved), -1)) - loss(outputs, targets) - linear
        return found.mean(1, keepdim=True) if problem.query_kind == "mean" else found
