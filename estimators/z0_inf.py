"""Z0-Inf: inner products of gradients from nothing but losses at checkpoints."""

import torch
from torch import Tensor

from benchmark.estimating import Trajectory, estimator

PAPER = "Kokhlikyan, Chaudhuri, Mahloujifar 2025, arXiv:2510.11832; formula ours, from its description"


@estimator("z0-inf", paper=PAPER, interpretation=True, tuned_on="untuned", checkpoints=10, cutoff=1e-2)
def z0_inf(run: Trajectory, *, checkpoints: int, cutoff: float) -> Tensor:
    """``(sum_t rate_t)/N a_i^T M^+ b_q`` (K, Q), a_i and b_q (C,) the changes of a loss from checkpoint to checkpoint.

    The C + 1 checkpoints are the start and the ends of C segments of the run, ``D_k = theta_k - theta_{k-1}`` their
    displacements (C, P), ``M = D D^T``, ``a_i[k] = l_i(theta_k) - l_i(theta_{k-1})`` with L2 term and b_q without. Where
    losses are linear along the path this is rate/N times the product of g_i and u_q, both projected on the span of the
    displacements. The pseudo-inverse takes eigenvalues below `cutoff` times the largest for 0: along so short a way the
    curvature and the rounding of the losses outweigh their slope. All this is ours, from the paper's idea of finite
    differences between checkpoints, joined by dot products of displacements; its exact formula is unknown to us. The
    optimiser counts only by its rates and by the path it took. Cost: C + 1 forward passes for
    each sample and query, which are not counted.
    """
    problem, segments = run.problem, run.segments(checkpoints)
    thetas = [run.params(t) for t in (0, *(segment.stop for segment in segments))]
    asked = problem.train[problem.left_out]
    train = torch.stack([problem.losses(theta, asked) for theta in thetas]).diff(dim=0)  # (C, K)
    query = torch.stack([problem.query_losses(theta) for theta in thetas]).diff(dim=0)  # (C, Q)
    ways = torch.stack(thetas).diff(dim=0)  # (C, P)
    inverse: Tensor = torch.linalg.pinv(ways @ ways.T, rtol=cutoff, hermitian=True)
    rates = sum(map(problem.optimizer.rate, range(problem.steps)))
    return rates / len(problem.train) * (train.T @ inverse @ query)
