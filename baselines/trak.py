"""TRAK: regression on the projected gradients of the model's margins."""

from functools import partial

import torch
from torch import Tensor

from benchmark.estimating import Model, Problem, Samples, Trajectory, blocks, calculus, estimator, projection

PAPER = "Park et al. 2023, arXiv:2303.14186, section 3.2"
variant = partial(estimator, models="classifier", tuned_on="tuning", dimension=256, share=1.0)


@variant("trak", paper=PAPER, checkpoints=1)
@variant("trak-5", paper=PAPER + "; checkpoints of one run ours", checkpoints=5)
def trak(run: Trajectory, *, checkpoints: int, dimension: int, share: float) -> Tensor:
    """``mean_c [(1 - p_q) phi_q^T (Phi^T Phi + damping)^-1 phi_i] mean_c (1 - p_i)`` at the ends of so many segments. (N, Q)

    phi are gradients of the margin ``f = log(p/(1 - p))``, p the chance of the sample's own label, projected to k = `dimension`
    numbers, to P where there are fewer parameters; ``f_with - f_without`` is the paper's score, and ``-(1 - p_q)`` the slope of
    the query's loss in f (so that columns are in the order of effects on losses; ours). The paper has independent models for
    checkpoints and no damping, which N < k needs: `share` of the mean of Phi^T Phi's diagonal. An order, no loss: the paper
    leaves the curvature p (1 - p) out. The mean query is the mean of its columns. Cost: N + Q gradients a checkpoint.
    """
    problem = run.problem
    matrix = projection(run, min(dimension, len(run.final)))
    ends = [segment.stop for segment in run.segments(checkpoints)]
    found = [scored(problem, run.params(t), matrix, share) for t in ends]
    scores, misses = (torch.stack(each).mean(0) for each in zip(*found, strict=True))
    return scores * misses[:, None]


def scored(problem: Problem, theta: Tensor, matrix: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """``(1 - p_q) phi_q^T (Phi^T Phi + damping)^-1 phi_i`` (N, Q) and ``1 - p_i`` (N,) at one theta."""
    train, query = (features(problem.model, theta, some, matrix) for some in (problem.train, problem.query))
    gram = train.T @ train
    gram.diagonal().add_(share * gram.diagonal().mean())
    weighted = (1 - chances(problem.model, theta, problem.query))[:, None] * query
    weighted = weighted.mean(0, keepdim=True) if problem.query_kind == "mean" else weighted
    return train @ torch.linalg.solve(gram, weighted.T), 1 - chances(problem.model, theta, problem.train)


def margins(model: Model, theta: Tensor, samples: Samples) -> Tensor:
    """``log(p/(1 - p))`` (B,) of each sample's own label."""
    outputs = model.outputs(theta, samples.inputs)
    if model.classes == 1:
        return outputs[:, 0] * (2 * samples.targets - 1)
    labels = samples.targets[:, None]
    return outputs.gather(1, labels)[:, 0] - outputs.scatter(1, labels, -torch.inf).logsumexp(1)


def chances(model: Model, theta: Tensor, samples: Samples) -> Tensor:
    """Chance p (B,) of each sample's own label."""
    return margins(model, theta, samples).sigmoid()


def features(model: Model, theta: Tensor, samples: Samples, matrix: Tensor) -> Tensor:
    """Projected gradients (B, k) of the margins."""
    calculus.count(gradients=len(samples))

    def margin(theta: Tensor, inputs: Tensor, target: Tensor) -> Tensor:
        return margins(model, theta, Samples(inputs[None], target[None]))[0]

    each = calculus.many(calculus.gradient(margin), over=(None, 0, 0))
    parts = blocks(torch.arange(len(samples), device=theta.device), theta.nbytes)
    return torch.cat([each(theta, samples.inputs[rows], samples.targets[rows]) @ matrix for rows in parts])
