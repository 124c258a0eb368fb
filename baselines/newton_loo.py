"""The leave-one-out Newton step: the influence function with the curvature of the other samples alone."""

import torch
from torch import Tensor

from benchmark.estimating import (
    Problem,
    Product,
    Samples,
    System,
    Trajectory,
    Unsolved,
    curvature_roots,
    estimator,
    reader,
    refuse_singular,
    through,
)

PAPER = "rescaled influence function of Rubinstein and Hopkins 2025, arXiv:2506.06656; one-step Newton of Pregibon 1981"
ROWS = 64  # samples whose Jacobians (C, P) are held at once: bounds memory


@estimator(
    "newton-loo",
    paper=PAPER,
    loss_units=True,
    max_rank=2000,
    tuned_on="tuning",
    damping=0.1,
    matrix="gauss-newton",
    readout="linear",
)
@estimator(
    "newton-loo-exact",
    paper=PAPER + "; readout ours",
    loss_units=True,
    max_rank=2000,
    tuned_on="tuning",
    damping=0.1,
    matrix="gauss-newton",
    readout="exact",
)
def newton_loo(run: Trajectory, *, matrix: str, damping: float, readout: str) -> Tensor:
    """Readout of ``d_i = (N (H + damping I) - H_i)^-1 g_i``, H the mean curvature and H_i the sample's own, L2 terms included.

    H is the Gauss-Newton matrix or the Hessian; H_i is the sample's Gauss-Newton matrix, ``B_i^T B_i + weight_decay I``, B_i
    (C, P), so that Woodbury's formula gives d_i from one factorisation. For models linear in their parameters both are the
    Hessian, and at a minimum d_i is the exact leave-one-out shift of a ridge regression and ACC-SGD-IE's fixed point. For
    networks the Gauss-Newton matrix is our choice. (K, Q). Raises Unsolved where the curvature is singular, and where without a
    sample it is not positive. Cost: (2 + C) K + Q gradients, N P products, P^3 and K (C + 1) P^2; where N C < P, N C gradients
    and N^2 C^2 (P + K).
    """
    problem, read = run.problem, reader(run, readout)
    inverse = whole(System(run, matrix, damping))
    blocks = torch.split(problem.left_out, ROWS)
    return torch.cat([read(steps(problem, run.final, problem.train[rows], inverse)) for rows in blocks])


def whole(system: System) -> Product:
    """``(N (A + shift I) - weight_decay I)^-1`` on rows (K, P)."""
    problem, size = system.problem, len(system.problem.train)
    if system.low:
        return through(system.root, size * system.shift - problem.weight_decay)
    mean = system.explicit()
    if not system.damping:
        refuse_singular(mean)
    mean.diagonal().sub_(problem.weight_decay / size)
    factors = torch.linalg.lu_factor(size * mean)
    return lambda rows: torch.linalg.lu_solve(*factors, rows.T).T


def steps(problem: Problem, theta: Tensor, samples: Samples, inverse: Product) -> Tensor:
    """``(M - B_b^T B_b)^-1 g_b`` (B, P) of some samples, given the inverse of M."""
    roots = curvature_roots(problem, theta, samples)  # (B, D, P)
    rows = torch.cat([problem.gradients(theta, samples)[:, None], roots], dim=1)
    solved = inverse(rows.flatten(0, 1)).reshape(rows.shape)
    plain: Tensor = solved[:, 0]  # M^-1 g
    moved: Tensor = solved[:, 1:]  # M^-1 B^T, (B, D, P)
    left = torch.eye(roots.shape[1]).to(theta) - roots @ moved.mT  # (B, D, D)
    if (
        left.isfinite().all()
        and (lowest := float(torch.linalg.eigvalsh((left + left.mT) / 2).min())) <= 100 * torch.finfo(left.dtype).eps
    ):
        raise Unsolved(f"without a sample the curvature is not positive, {lowest:.1e} of it left in a direction: add damping")
    pulled: Tensor = torch.linalg.solve(left, roots @ plain[..., None])  # (B, D, 1)
    return plain + (moved.mT @ pulled)[..., 0]
