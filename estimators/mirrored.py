"""Mirrored influence: what a step on the query does to the losses of the training samples."""

import torch
from torch import Tensor

from benchmark.estimating import Samples, Trajectory, calculus, estimator

PAPER = "Ko et al. 2024, arXiv:2402.08922 (Forward-INF)"
BLOCK = 256  # samples passed forward at once, for each of some queries: bounds memory


@estimator("mirrored", paper=PAPER, interpretation=True, tuned_on="untuned", step=0.01)
def mirrored(run: Trajectory, *, step: float) -> Tensor:
    """``(l_i(theta_T + step u_q) - l_i(theta_T)) / step`` (K, Q), l_i with L2 term, u_q the query gradient at theta_T.

    The paper holds that training on the query moves a sample's loss as training on the sample moves the query's. To first
    order in `step` this is grad-dot. The formula is known to us from a summary. Ours: to climb the query's loss, so that
    positive means helpful, by a plain gradient step, and to divide by its size. The optimiser and the path are ignored.
    Cost: one gradient and K forward passes a query, which are not counted.
    """
    problem, query = run.problem, run.query_gradients()  # (Q, P)
    blocks = torch.split(problem.left_out, BLOCK)
    return torch.cat([rises(run, problem.train[rows], step * query) for rows in blocks]) / step


def rises(run: Trajectory, samples: Samples, shifts: Tensor) -> Tensor:
    """``l_b(theta_T + shift_q) - l_b(theta_T)`` of some samples. (Q, P) -> (B, Q)"""
    losses = run.problem.losses

    def moved(shift: Tensor) -> Tensor:
        return losses(run.final + shift, samples) - losses(run.final, samples)

    found: Tensor = calculus.many(moved, over=(0,))(shifts)
    return found.T
