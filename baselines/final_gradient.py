"""What losses and gradients at the final parameters tell."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.estimating import Trajectory, blocks, estimator


@estimator("loss", paper="folklore: hard samples matter")
def loss(run: Trajectory) -> Tensor:
    """Training loss ``loss_i(theta_T)`` of each sample, the same for every query. Cost: N forward passes."""
    problem = run.problem
    return problem.losses(run.final, problem.train)[:, None].expand(-1, problem.queries)


@estimator("grad-norm", paper="folklore; Paul et al. 2021, arXiv:2107.07075, use it at initialisation (GraNd)")
def grad_norm(run: Trajectory) -> Tensor:
    """Norm ``|g_i(theta_T)|`` of each sample's gradient, the same for every query. (K, Q). Cost: K gradients."""
    problem = run.problem

    def norms(rows: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(problem.gradients(run.final, problem.train[rows]), dim=1, keepdim=True)
        return found

    each = torch.cat([norms(rows) for rows in blocks(problem.left_out, run.final.nbytes)])
    return each.expand(-1, problem.queries)


@estimator("grad-dot", paper="Charpiat et al. 2019, arXiv:2102.13262", cosine=False)
@estimator("grad-cos", paper="Charpiat et al. 2019, arXiv:2102.13262", cosine=True)
def grad_dot(run: Trajectory, *, cosine: bool) -> Tensor:
    """``<g_i, u_q>`` of sample and query gradients at theta_T; with `cosine` each over its norm. (K, Q)

    Cost: K + Q gradients.
    """
    problem, query = run.problem, scaled(run.query_gradients(), cosine)  # (Q, P)

    def products(rows: Tensor) -> Tensor:
        return scaled(problem.gradients(run.final, problem.train[rows]), cosine) @ query.T

    return torch.cat([products(rows) for rows in blocks(problem.left_out, run.final.nbytes)])


def scaled(gradients: Tensor, cosine: bool) -> Tensor:
    """Gradients (B, P), with `cosine` each over its norm."""
    return normalize(gradients, dim=1) if cosine else gradients
