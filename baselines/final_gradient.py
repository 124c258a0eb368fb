"""What losses and gradients at the final parameters tell."""

import torch
from torch import Tensor

from benchmark.estimating import Trajectory, estimator


@estimator("loss", paper="folklore: hard samples matter")
def loss(run: Trajectory) -> Tensor:
    """Training loss ``loss_i(theta_T)`` of each sample, the same for every query. Cost: N forward passes."""
    problem = run.problem
    return problem.losses(run.final, problem.train)[:, None].expand(-1, problem.queries)


@estimator("grad-norm", paper="folklore; Paul et al. 2021, arXiv:2107.07075, use it at initialisation (GraNd)")
def grad_norm(run: Trajectory) -> Tensor:
    """Norm ``|g_i(theta_T)|`` of each sample's gradient, the same for every query. Cost: N gradients."""
    problem = run.problem
    norms: Tensor = torch.linalg.vector_norm(problem.gradients(run.final, problem.train), dim=1, keepdim=True)
    return norms.expand(-1, problem.queries)


@estimator("grad-dot", paper="Charpiat et al. 2019, arXiv:2102.13262", cosine=False)
@estimator("grad-cos", paper="Charpiat et al. 2019, arXiv:2102.13262", cosine=True)
def grad_dot(run: Trajectory, *, cosine: bool) -> Tensor:
    """``<g_i, u_q>`` of sample and query gradients at theta_T; with `cosine` each over its norm. Cost: N + Q gradients."""
    train = run.problem.gradients(run.final, run.problem.train)  # (N, P)
    query = run.query_gradients()  # (Q, P)
    if cosine:
        train, query = (torch.nn.functional.normalize(gradients, dim=1) for gradients in (train, query))
    return train @ query.T
