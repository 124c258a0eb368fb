"""TracIn: the first-order effect of each visit, summed along the run."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.estimating import Problem, Trajectory, estimator

PAPER = "Pruthi et al. 2020, arXiv:2002.08484, section 3"
BLOCK = 256  # samples whose gradients are held at once: bounds memory


@estimator("tracin-ideal", paper=PAPER + " (TracInIdeal)", loss_units=True, checkpoints=None)
@estimator("tracin", paper=PAPER + " (TracInCP)", loss_units=True, tuned_on="untuned", checkpoints=10)
def tracin(run: Trajectory, *, checkpoints: int | None) -> Tensor:
    """``sum_t [i in B_t] rate_t/|B_t| <g_i(theta_t), u_q(theta_t)>`` (N, Q), u_q(theta_t) the query gradient at theta_t.

    With `checkpoints` (TracInCP) the run falls into that many segments, and each counts the sum of its rates over N times
    ``<g_i(theta_c), u_q(theta_c)>``: what a sample's visits in it amount to on average. Ours: c is the middle step of a
    segment, for the paper leaves the choice of checkpoints open. Momentum, Adam and what a step does to later ones are
    ignored. Cost: E N gradients, with checkpoints K each, and those of the queries at every step or checkpoint.
    """
    problem = run.problem
    effect = run.final.new_zeros(len(problem.train), problem.queries)
    for t, rows, weight in visits(run, checkpoints):
        query = problem.query_gradients(run.params(t))  # (Q, P)
        effect.index_add_(0, rows, weight * products(problem, run.params(t), rows, query))
    return effect


def visits(run: Trajectory, checkpoints: int | None) -> Iterator[tuple[int, Tensor, float]]:
    """Steps t, the samples that count there, and their weight."""
    problem, rate = run.problem, run.problem.optimizer.rate
    if checkpoints is None:
        for t in range(problem.steps):
            batch = problem.batch(t)
            yield t, batch, rate(t) / len(batch)
    else:
        for segment in run.segments(checkpoints):
            middle = (segment.start + segment.stop) // 2
            yield middle, problem.left_out, sum(map(rate, segment)) / len(problem.train)


def products(problem: Problem, theta: Tensor, rows: Tensor, query: Tensor) -> Tensor:
    """``<g_i(theta), u_q>`` of the samples i in `rows`. (P,), (B,), (Q, P) -> (B, Q)"""
    return torch.cat([problem.gradients(theta, problem.train[some]) @ query.T for some in torch.split(rows, BLOCK)])
