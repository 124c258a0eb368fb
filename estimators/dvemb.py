"""DVEmb: how what a sample did to the parameters at each visit is carried to the end of the run."""

import torch
from torch import Tensor

from benchmark.estimating import PRODUCTS, Trajectory, calculus, estimator, projection

PAPER = "Wang et al. 2025, arXiv:2412.09538, theorem 2"
ACC_PAPER = "named without formula in Shi et al. 2025, arXiv:2510.26185"
ROWS = 1024  # samples left out whose shifts (ROWS, P) are held at once


@estimator("dvemb", paper=PAPER, loss_units=True, curvature="fisher", last=False)
@estimator("dvemb-last", paper=PAPER, loss_units=True, curvature="fisher", last=True)
@estimator("dvemb-hessian", paper=PAPER + ", before its approximation", loss_units=True, curvature="hessian", last=False)
@estimator("dvemb-gauss-newton", paper=PAPER + "; curvature ours", loss_units=True, curvature="gauss-newton", last=False)
def dvemb(run: Trajectory, *, curvature: str, last: bool) -> Tensor:
    """``sum_t [i in B_t] <u_q, rate_t/|B_t| prod_{k>t} (I - rate_k C_k) g_i(theta_t)>``, later factors on the left. (N, Q)

    C_k is the empirical Fisher matrix ``1/|B_k| sum_b g_b g_b^T`` of the batch, which the paper calls the generalised
    Gauss-Newton matrix, or the batch's Hessian or true Gauss-Newton matrix. The paper has a sum of losses, and carries an
    embedding of each visit; the mean loss has rate/|B| for its rate, and the query's gradient carried backward,
    ``w <- w - rate C w``, gives the same (both ours). With `last` only each sample's last visit counts, the paper's removal in
    the last epoch. Momentum and Adam are taken for plain SGD of the same rate, as the paper does with AdamW.
    Cost: E N gradients and E N Q curvature products, which for the Fisher matrix are of rank one; N and N Q with `last`.
    """
    return sweep(run, run.query_gradients(), curvature=curvature, last=last)


@estimator("dvemb-projected", paper=PAPER + ", with a dense projection", loss_units=True, tuned_on="untuned", dimension=256)
def dvemb_projected(run: Trajectory, *, dimension: int) -> Tensor:
    """`dvemb` of gradients ``g R/sqrt(k)`` in `dimension` k, R (P, k) standard normal and the same for all steps. (N, Q)

    Where there are no more than k parameters it is `dvemb`.

    The Fisher matrix is then that of the projected gradients. One dense R for all parameters is ours: the paper projects each
    layer by factors of its own. Cost: E N gradients, E N P k flops, and E N Q rank-one products in k dimensions.
    """
    return projected(run, projection(run, min(dimension, len(run.final))))


def projected(run: Trajectory, matrix: Tensor) -> Tensor:
    """The sweep with all gradients times a matrix (P, k). (N, Q)"""
    return sweep(run, run.query_gradients() @ matrix, matrix=matrix)


def sweep(
    run: Trajectory, vectors: Tensor, *, curvature: str = "fisher", last: bool = False, matrix: Tensor | None = None
) -> Tensor:
    """Backward through the run: ``effect_i += rate/|B| <w, g_i>`` for the batch, then ``w <- w - rate C w``. (N, Q)"""
    problem = run.problem
    effect = run.final.new_zeros(len(problem.train), problem.queries)
    waiting = torch.ones(len(problem.train), dtype=torch.bool, device=effect.device)  # (N,) whose last visit is still to come
    for t in reversed(range(problem.steps)):
        batch, rate = problem.batch(t), problem.optimizer.rate(t)
        gradients = gradients_of(run, t, matrix)  # (B, P) or (B, k)
        slopes = rate / len(batch) * vectors @ gradients.T  # (Q, B)
        effect.index_add_(0, batch, (slopes * waiting[batch] if last else slopes).T)
        waiting[batch] = False
        if last and not waiting.any():
            break
        if curvature == "fisher":
            calculus.count(hessian_products=slopes.numel())
            vectors = vectors - slopes @ gradients
        else:
            vectors = vectors - rate * PRODUCTS[curvature](problem, run.params(t), problem.train[batch], vectors)
    return effect


def gradients_of(run: Trajectory, t: int, matrix: Tensor | None) -> Tensor:
    """Gradients (B, P) of the batch of step t, or their projections (B, k)."""
    gradients = run.problem.gradients(run.params(t), run.problem.train[run.problem.batch(t)])
    return gradients if matrix is None else gradients @ matrix


@estimator("acc-dvemb", paper=ACC_PAPER, loss_units=True, all_horizons=True, interpretation=True)
def acc_dvemb(run: Trajectory) -> Tensor:
    """``<u_q, d_i>, d_i <- d_i - rate/|B| sum_{b in B without i} g_b <g_b, d_i> + [i in B] rate/|B| g_i``. (H, K, Q)

    ACC-SGD-IE with the empirical Fisher matrix of the batch for its Hessian, without i in the batches that i is in: the paper
    gives the name alone, the formula is ours. Momentum and Adam are taken for plain SGD of the same rate. Cost: E N gradients
    for every 1024 of the K samples, and E N K curvature products of rank one.
    """
    return torch.cat([shifted(run, samples) for samples in torch.split(run.problem.left_out, ROWS)], dim=1)


def shifted(run: Trajectory, samples: Tensor) -> Tensor:
    """Effects (H, K, Q) of leaving out some K samples, by their shifts (K, P) carried forward."""
    problem, readings = run.problem, []
    shift = run.final.new_zeros(len(samples), len(run.final))
    for t in range(problem.horizons[-1]):
        batch = problem.batch(t)
        calculus.count(hessian_products=len(batch) * len(samples))
        gradients = gradients_of(run, t, None)  # (B, P)
        own = samples[:, None] == batch  # (K, B)
        slopes = torch.where(own, -1.0, shift @ gradients.T)
        shift.addmm_(slopes, gradients, alpha=-problem.optimizer.rate(t) / len(batch))
        if t + 1 in problem.horizons:
            readings.append(shift @ run.until(t + 1).query_gradients().T)
    return torch.stack(readings)
