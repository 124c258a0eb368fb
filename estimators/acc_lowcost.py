"""ACC-SGD-influence of linear models below the cost of exact retraining."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark import calculus
from benchmark.models import LOSS_CURVATURES, LOSS_SLOPES, LOSSES
from benchmark.problem import Problem, Samples, Trajectory
from benchmark.registry import estimator
from benchmark.tangents import split, tangents


@dataclass(frozen=True, eq=False)
class Features:
    """Features phi = (x, 1) of a linear model ``f = W phi``, and their coordinates in a subspace V of r directions."""

    whole: Tensor  # (N, D)
    low: Tensor  # (N, r), V^T phi

    def rest(self, other: "Features") -> Tensor:
        """Inner products of what is left of two sets of features outside V. (N, M)"""
        return self.whole @ other.whole.T - self.low @ other.low.T


def features(samples: Samples) -> Tensor:
    """``phi = (x, 1)``. (N, D)"""
    return torch.cat([samples.inputs, samples.inputs.new_ones(len(samples), 1)], dim=1)


def directions(whole: Tensor, rank: int) -> Tensor:
    """The `rank` directions (D, r) in which the features are longest."""
    gram = whole.T @ whole if whole.shape[1] <= len(whole) else whole @ whole.T
    vectors = torch.linalg.eigh(gram).eigenvectors[:, -rank:]
    return vectors if whole.shape[1] <= len(whole) else torch.nn.functional.normalize(whole.T @ vectors, dim=0)


def matrix(problem: Problem, theta: Tensor) -> Tensor:
    """Parameters as one matrix W (C, D), the bias last."""
    (weight, bias), = problem.model.parts(theta)
    return torch.cat([weight, bias[:, None]], dim=1)


@estimator("acc-lowcost", paper="ours", loss_units=True, optimizers=("sgd",), rank=128)
def acc_lowcost(run: Trajectory, *, rank: int) -> Tensor:
    problem = run.problem
    train, query = features(problem.train), features(problem.query)
    axes = directions(train, rank)
    own = Features(train, train @ axes)
    sweep = backward(run)
    return forward(run, own, Features(query, query @ axes), axes, sweep)


def backward(run: Trajectory) -> list[tuple[Tensor, Tensor]]:
    """For each step, ``J_b u_{t+1}`` (Q, B, C) and ``<g_b, u_{t+1}>`` (Q, B), u swept backward as in SGD-IE."""
    problem = run.problem
    u = split(problem.model, run.query_gradients())
    found = []
    for t in reversed(range(problem.steps)):
        batch, weights = problem.train[problem.batch(t)], problem.weights(t)[None]
        at = tangents(problem.model, run.params(t), batch.inputs, batch.targets, problem.weight_decay)
        found.append((at.outputs(u), at.slopes(u)))
        at.add(u, u, weights, None, -problem.optimizer.rate(t))
    return found[::-1]


def forward(run, own, query, axes, sweep):
    problem, outputs = run.problem, run.problem.model.classes
    count, rank = len(problem.train), own.low.shape[1]
    low = own.low.new_zeros(count, outputs, rank)
    rest = own.low.new_zeros(count, outputs)
    theta = own.low.new_zeros(count)
    effect = own.low.new_zeros(count, problem.queries)
    squares = own.whole.square().sum(1) - own.low.square().sum(1)
    alpha = problem.weight_decay
    curv, slope_of = LOSS_CURVATURES[problem.model.loss], LOSS_SLOPES[problem.model.loss]
    for t, (along, slopes) in enumerate(sweep):
        b = problem.batch(t)
        rate, size = problem.optimizer.rate(t), len(b)
        w = matrix(problem, run.params(t))
        wl = w @ axes
        f = own.whole[b] @ w.T
        e = slope_of(f, problem.train.targets[b])
        places = torch.arange(size)
        z = (own.low[b] @ low.flatten(0, 1).T).view(size, count, outputs)
        zo = z[places, b] + squares[b, None] * rest[b] + theta[b, None] * (f - own.low[b] @ wl.T)   # (B,C)
        cz = curv(f, zo[:, None])[:, 0]
        effect[b] += rate / size * (slopes.T + torch.einsum("qbc,bc->bq", along, cz) + alpha * effect[b])
        m = curv(f, z)
        m[places, b] = 0
        low *= 1 - rate * alpha
        rest *= 1 - rate * alpha
        theta *= 1 - rate * alpha
        low.flatten(0, 1).addmm_(m.flatten(1).T, own.low[b], alpha=-rate / size)
        low[b] += rate / size * (e[:, :, None] * own.low[b][:, None] + alpha * (wl + low[b]))
        rest[b] += rate / size * (e + alpha * rest[b])
        theta[b] += rate / size * alpha * (1 + theta[b])
    w = matrix(problem, run.final)
    f = query.whole @ w.T
    z = (query.low @ low.flatten(0, 1).T).view(-1, count, outputs) + query.rest(own)[:, :, None] * rest
    z += (f - query.low @ (w @ axes).T)[:, None] * theta[:, None]
    moved = LOSSES[problem.model.loss]((f[:, None] + z).transpose(0, 1), problem.query.targets.expand(count, -1))
    bent = moved - LOSSES[problem.model.loss](f, problem.query.targets) - (slope_of(f, problem.query.targets)[:, None] * z).sum(-1).T
    return effect + (bent.mean(1, keepdim=True) if problem.query_kind == "mean" else bent)
