"""ACC-SGD-influence of linear models, read exactly, with fewer Hessian products.

It takes 0.28 of exact retraining's time at 2,000 samples, and more than it at some hundred (docs/acc-lowcost.md).
"""

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.estimating import LOSS_CURVATURES, LOSS_SLOPES, LOSSES, Samples, Trajectory, calculus, estimator, split, tangents

BLOCK = 1024  # left-out samples whose bases are held at once: bounds memory


@estimator(
    "acc-lowcost",
    paper="ours; see docs/acc-lowcost.md",
    loss_units=True,
    optimizers=("sgd",),
    models="linear",
    tuned_on="speed",
    rank=32,
    share=8,
    most=0.5,
    nodes=2,
)
def acc_lowcost(run: Trajectory, *, rank: int, share: int, most: float, nodes: int) -> Tensor:
    """ACC-SGD-IE with its linear readout from one backward sweep and the rest from few numbers a sample. (K, Q)

    For a linear model ``f = W phi``, phi = (x, 1), the sample's Hessian is ``Lambda_i`` in the outputs times ``phi_i phi_i^T``,
    so that ACC is SGD-IE with other coefficients: its visit at step t adds ``rate/|B| <u_{t+1}, g_i + Lambda_i z_i phi_i^T>``,
    where u is SGD-IE's sweep and ``z_i = d_i phi_i`` (C,) the sample's own output under its shift. The exact readout is the
    linear one and ``L(f_q + z_q) - L(f_q) - <l'_q, z_q>``, z_q the query's outputs. Only z_i and z_q ask for shifts, which are
    carried in two parts. In the `rank` or D/`share` directions V, whichever are more but at most a share `most` of D, in which
    the features are longest, they move as in ACC. Outside V they move by the curvature of all other samples on average, from
    `nodes` Lanczos steps begun at phi_i. With all D directions, or as many as there are samples, it is ACC with exact readout.
    Cost: 2 E N + Q gradients, E N Q Hessian products for the sweep and E N K r/D for the carrying, for E epochs and r
    directions; at most `nodes` K N more where features reach out of V.
    """
    features = run.problem.model.inputs + 1  # D
    line = Line.of(run, min(max(rank, features // share), ceil(most * features)))
    carried = Carried(line, Outside.of(line, nodes))
    effect = run.final.new_zeros(len(run.problem.left_out), run.problem.queries)  # of the visits so far, read linearly
    for t, swept in enumerate(backward(run, carried.row)):
        visits = carried.step(t)
        if swept is None:
            continue
        along, slopes = swept
        rate, decay = run.problem.optimizer.rate(t), run.problem.weight_decay
        part = rate / len(run.problem.batch(t))
        before = effect[visits.rows] + part * torch.einsum("qbc,vbc->vq", along, visits.pulled)
        own = torch.einsum("qvc,vc->vq", along[:, visits.places], visits.own)
        effect[visits.rows] += part * (slopes[:, visits.places].T + own + again(rate, decay) * before)
    return effect + carried.bend()


def again(rate: float, decay: float) -> float:
    """``decay / (1 - rate decay)``, over what the L2 term leaves of a parameter; 0 where it leaves less than half.

    What was shifted before is then as good as gone, and the errors of a division by little would outlast it.
    """
    return decay / (1 - rate * decay) if abs(1 - rate * decay) > 0.5 else 0.0


def backward(run: Trajectory, row: Tensor) -> list[tuple[Tensor, Tensor] | None]:
    """For each step ``u_{t+1} phi_b`` (Q, B, C) and ``<u_{t+1}, g_b>`` (Q, B), with ``u_t = (I - rate H_t) u_{t+1}``.

    None where no sample b of the batch is left out, that is, where `row` (N,) is negative for all.
    """
    problem = run.problem
    found: list[tuple[Tensor, Tensor] | None] = []
    u = split(problem.model, run.query_gradients())
    visits = int((problem.batches >= 0).sum())
    calculus.count(gradients=visits, hessian_products=visits * problem.queries)
    for t in reversed(range(problem.steps)):
        batch, theta = problem.train[problem.batch(t)], run.params(t)
        at = tangents(problem.model, theta, batch.inputs, batch.targets, problem.weight_decay)
        asked = bool((row[problem.batch(t)] >= 0).any())
        found.append((at.outputs(u), at.slopes(u)) if asked else None)
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
    def of(run: Trajectory, rank: int) -> "Line":
        """The run with `rank` directions, or as many as span the features."""
        features = extended(run.problem.train)
        axes = longest(features, rank)
        visits = int((run.problem.batches >= 0).sum())
        carried = visits * len(run.problem.left_out) * axes.shape[1] / features.shape[1]
        calculus.count(gradients=visits, hessian_products=round(carried))
        return Line(run, features, axes, features @ axes)

    def weights(self, t: int) -> Tensor:
        """W (C, D) before step t, the bias last."""
        ((weight, bias),) = self.run.problem.model.parts(self.run.params(t))
        return torch.cat([weight, bias[:, None]], dim=1)

    def outside(self, t: int) -> Tensor:
        """What W has outside V before step t. (C, D)"""
        weights = self.weights(t)
        return weights - weights @ self.axes @ self.axes.T

    def turned(self, t: int) -> float:
        """How often what W has outside V after step t goes into what it had before; 0 where nothing is left."""
        before, after = self.outside(t), self.outside(t + 1)
        length = float(after.square().sum())
        return float((before * after).sum()) / length if length > 1e-20 * float(before.square().sum()) else 0.0


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
class Outside:
    """What K features have outside V: Lanczos bases of m vectors, the first along phi_i, for the Gram matrix without phi_i."""

    lengths: Tensor  # (K,) of phi_i outside V
    gram: Tensor  # (K, m, m), sum over j != i of phi_j phi_j^T outside V in the basis, over N
    query: Tensor  # (Q, K, m), the queries' features in the basis

    @staticmethod
    def of(line: Line, nodes: int) -> "Outside":
        """Bases of `nodes` vectors; of lengths 0 where V spans the features."""
        left_out, rest = line.run.problem.left_out, line.features - line.low @ line.axes.T
        query = extended(line.run.problem.query)
        query = query - query @ line.axes @ line.axes.T
        if rest.square().sum() <= 100 * torch.finfo(rest.dtype).eps * line.features.square().sum():
            nothing = rest.new_zeros(len(left_out))
            return Outside(nothing, nothing[:, None, None], nothing[:, None].expand(len(query), -1, 1))
        calculus.count(hessian_products=nodes * len(left_out) * min(len(rest), rest.shape[1] // 2))
        wide = rest.T @ rest if rest.shape[1] < 2 * len(rest) else None
        parts = [_lanczos(rest[some], rest, wide, query, nodes) for some in torch.split(left_out, BLOCK)]
        lengths, gram, products = (list(part) for part in zip(*parts, strict=True))
        return Outside(torch.cat(lengths), torch.cat(gram), torch.cat(products, dim=1))


def _lanczos(own: Tensor, rest: Tensor, wide: Tensor | None, query: Tensor, nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths (K,), Gram matrices (K, m, m) and query products (Q, K, m) of the bases begun by `own` (K, D)."""
    basis = [normalize(own, dim=1)]
    gram = own.new_zeros(len(own), nodes, nodes)
    for k in range(nodes):
        image = basis[k] @ wide if wide is not None else basis[k] @ rest.T @ rest
        image = (image - own * (own * basis[k]).sum(1, keepdim=True)) / len(rest)  # without the sample itself
        gram[:, k, k] = (image * basis[k]).sum(1)
        for vector in [*basis, *basis]:  # twice, as once leaves rounding
            image = image - (image * vector).sum(1, keepdim=True) * vector
        if k + 1 < nodes:
            gram[:, k, k + 1] = gram[:, k + 1, k] = image.norm(dim=1)
            basis.append(normalize(image, dim=1))
    return own.norm(dim=1), gram, torch.stack([query @ vector.T for vector in basis], dim=2)


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
    """Shifts of K runs, each without one sample i: in V (K, C, r), outside it in the basis (K, C, m) and along theta (K,)."""

    def __init__(self, line: Line, outside: Outside) -> None:
        self.line, self.outside, self.problem = line, outside, line.run.problem
        left_out, outputs = self.problem.left_out, self.problem.model.classes
        self.low = line.low.new_zeros(len(left_out), outputs, line.low.shape[1])
        self.rest = self.low.new_zeros(len(left_out), outputs, outside.gram.shape[1])
        self.theta = self.low.new_zeros(len(left_out))
        self.row = left_out.new_full((len(line.features),), -1)
        self.row[left_out] = torch.arange(len(left_out), device=left_out.device)

    def step(self, t: int) -> Visits:
        """Carry the shifts over step t; what is returned is of the shifts before it."""
        line, batch, loss = self.line, self.problem.batch(t), self.problem.model.loss
        weights, low = line.weights(t), line.low[batch]
        at_low = weights @ line.axes  # (C, r)
        outputs = line.features[batch] @ weights.T  # (B, C)
        places = (self.row[batch] >= 0).nonzero()[:, 0]
        rows = self.row[batch][places]
        moved = (low @ self.low.flatten(0, 1).T).view(len(batch), *self.rest.shape[:2])  # (B, K, C)
        moved[places, rows] += self.outside.lengths[rows, None] * self.rest[rows, :, 0]
        moved[places, rows] += self.theta[rows, None] * (outputs - low @ at_low.T)[places]
        pulled = LOSS_CURVATURES[loss](outputs, moved)
        found = Visits(places, rows, pulled[:, rows].transpose(0, 1))
        pulled[places, rows] = 0  # no run feels the curvature of the sample that it lacks
        one = torch.eye(outputs.shape[1]).to(outputs).expand(len(batch), -1, -1)
        outward = self._outward(self.problem.optimizer.rate(t) * LOSS_CURVATURES[loss](outputs, one).mean(0))
        slope = LOSS_SLOPES[loss](outputs, self.problem.train.targets[batch])[places]
        self._descend(t, rows, (low, pulled), (slope, low[places], at_low))
        for part, change in zip((self.low, self.rest), outward, strict=True):
            part += change
        return found

    def _outward(self, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """Changes by the mean curvature (C, C) of the other samples, times the rate: between V and outside it, and outside.

        In all samples' Gram matrix the two do not mix; without ``phi_i phi_i^T`` they do.
        """
        lengths, low = self.outside.lengths[:, None], self.line.low[self.problem.left_out]  # (K, 1), (K, r)
        inside = torch.einsum("kcr,kr->kc", self.low, low) @ curvature / len(self.line.features)
        outer = self.rest[:, :, 0] * lengths @ curvature / len(self.line.features)
        rest = -torch.einsum("kij,kdj,dc->kci", self.outside.gram, self.rest, curvature)
        rest[:, :, 0] += lengths * inside
        return outer[:, :, None] * low[:, None], rest

    def _descend(self, t: int, rows: Tensor, felt: tuple[Tensor, Tensor], missing: tuple[Tensor, Tensor, Tensor]) -> None:
        """The step by the curvature that is felt, features in V and slopes (B, K, C), and by the gradients that are missing."""
        rate, decay, size = self.problem.optimizer.rate(t), self.problem.weight_decay, len(self.problem.batch(t))
        for part in (self.low, self.rest):
            own = part[rows]
            part *= 1 - rate * decay
            part[rows] += rate * decay / size * own  # nor does a run feel the L2 term of the sample that it lacks
        low, pulled = felt
        self.low.flatten(0, 1).addmm_(pulled.flatten(1).T, low, alpha=-rate / size)
        slope, low, at_low = missing
        self.low[rows] += rate / size * (slope[:, :, None] * low[:, None] + decay * at_low)
        self.rest[rows, :, 0] += rate / size * slope * self.outside.lengths[rows, None]
        own = self.theta[rows]
        self.theta *= 1 - rate * decay
        self.theta[rows] += rate * decay / size * (1 + own)
        self.theta *= self.line.turned(t)

    def bend(self) -> Tensor:
        """What the exact readout has over the linear one, ``L(f_q + z_q) - L(f_q) - <l'_q, z_q>``. (K, Q)"""
        line, problem, loss = self.line, self.problem, LOSSES[self.problem.model.loss]
        query, weights, targets = extended(problem.query), line.weights(problem.steps), problem.query.targets
        low, outputs = query @ line.axes, query @ weights.T
        moved = (low @ self.low.flatten(0, 1).T).view(-1, *self.rest.shape[:2])  # (Q, K, C)
        moved += torch.einsum("qkm,kcm->qkc", self.outside.query, self.rest)
        moved += (outputs - low @ (weights @ line.axes).T)[:, None] * self.theta[:, None]
        moved = moved.transpose(0, 1)
        linear = (LOSS_SLOPES[problem.model.loss](outputs, targets) * moved).sum(-1)
        found = loss(outputs + moved, targets.expand(len(moved), -1)) - loss(outputs, targets) - linear
        return found.mean(1, keepdim=True) if problem.query_kind == "mean" else found
