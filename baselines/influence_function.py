"""Influence functions of the final model."""

import torch
from torch import Tensor

from benchmark.problem import Trajectory
from benchmark.registry import estimator


@estimator("if-direct", paper="Koh and Liang 2017, arXiv:1703.04730, eq. 2", loss_units=True, max_parameters=8000, damping=0.01)
def if_direct(run: Trajectory, *, damping: float) -> Tensor:
    """``<u_q, (H + damping I)^-1 g_i> / N``, H the Hessian of the mean training loss at theta_T, L2 term included.

    Solved exactly with the explicit matrix, whatever its definiteness: off a minimum H may be indefinite, and the estimate
    is then as bad as the theory says. Cost: N P Hessian products and P^3.
    """
    problem = run.problem
    hessian = problem.hessian(run.final)  # (P, P)
    hessian.diagonal().add_(damping)
    solved: Tensor = torch.linalg.solve(hessian, run.query_gradients().T)  # (P, Q)
    return problem.gradients(run.final, problem.train) @ solved / len(problem.train)
