"""Diff-In: second differences of a sample's influence along the run."""

from itertools import accumulate

import torch
from torch import Tensor

from benchmark.estimating import Problem, Trajectory, calculus, estimator

PAPER = "Tan et al. 2025, arXiv:2508.14648"
BLOCK = 256  # samples whose gradients and tangents are held at once: bounds memory


@estimator("diff-in", paper=PAPER + ", eq. 9 as in the released code", checkpoints=5)
def diff_in(run: Trajectory, *, checkpoints: int) -> Tensor:
    """``sum_t a_t <u_q(theta_t), H g_i + H_i g>`` at theta_t, ``a_t = -t rate_t^2/(N m)``, over m checkpoints t. (K, Q)

    The checkpoints are the ends of m segments of the run, as in the released code; g and H are gradient and Hessian of the
    mean training loss. Ours: over all samples and exact, where the code draws some random batches and takes finite
    differences; with L2 term, which it leaves out. Its weight t, in place of the steps still to come, its mean over
    checkpoints and its lack of a first-order term do not follow from the derivation (see `diff_in_derived`), so that at most
    its order means something. The sign is that of the derivation for removal. Where H acts as a positive number that is the
    sign opposite to the first-order term's, which it corrects: alone it may well rank the samples backwards. Momentum and
    Adam are ignored. Cost at each checkpoint: 2 N + K gradients and those of the queries, N Q + K Hessian products.
    """
    problem = run.problem
    stops = [segment.stop for segment in run.segments(checkpoints)]
    effect = run.final.new_zeros(len(problem.left_out), problem.queries)
    for t in stops:
        weight = -t * problem.optimizer.rate(t) ** 2 / (len(problem.train) * len(stops))
        effect += weight * bends(problem, run.params(t), problem.query_gradients(run.params(t)))
    return effect


@estimator(
    "diff-in-derived", paper=PAPER + "; first-order term and weights ours", loss_units=True, tuned_on="untuned", checkpoints=5
)
def diff_in_derived(run: Trajectory, *, checkpoints: int) -> Tensor:
    """``(sum_t rate_t)/N <u_q, g_i(theta_0)> - sum_{s >= 1} rate_{s-1} R_s/N <u_q, H g_i + H_i g>`` at theta_s. (K, Q)

    u_q is the query gradient at theta_T, ``R_s = sum_{t >= s} rate_t``. What the derivation gives for removal: the step D_t of
    the shift has ``D_0 = rate g_i(theta_0)/N`` and ``D_s - D_{s-1} = -rate^2/N (H g_i + H_i g)`` up to rate^3, and the shift
    ``T D_0 + sum_s (T-s) (D_s - D_{s-1})`` follows by summing twice; for rates that change, the same of ``D_t / rate_t``
    (ours). g and H are those of the mean training loss whatever the batches (ours). The terms of a segment of the run all
    stand at its middle step (ours). Momentum and Adam are ignored. Cost: that of `diff_in`, the queries once, and N gradients.
    """
    problem, query = run.problem, run.query_gradients()
    rates = [problem.optimizer.rate(t) for t in range(problem.steps)]
    left = [*accumulate(reversed(rates))][::-1]  # R_s
    effect = left[0] * products(problem, run.params(0), query)
    for segment in run.segments(checkpoints):
        weight = sum(rates[s - 1] * left[s] for s in segment if s)
        effect -= weight * bends(problem, run.params((segment.start + segment.stop) // 2), query)
    return effect / len(problem.train)


def products(problem: Problem, theta: Tensor, query: Tensor) -> Tensor:
    """``<u_q, g_i>`` at theta. (P,), (Q, P) -> (K, Q)"""
    return torch.cat([problem.gradients(theta, problem.train[rows]) @ query.T for rows in torch.split(problem.left_out, BLOCK)])


def bends(problem: Problem, theta: Tensor, query: Tensor) -> Tensor:
    """``<u_q, H g_i + H_i g>`` at theta, with ``<u_q, H g_i> = <H u_q, g_i>``. (P,), (Q, P) -> (K, Q)"""
    calculus.count(gradients=len(problem.train), hessian_products=len(problem.left_out))
    mean = calculus.gradient(lambda theta: problem.losses(theta, problem.train).mean())(theta)  # g (P,)
    curved = problem.hessian_products(theta, problem.train, query)  # H u_q (Q, P)

    def some(rows: Tensor) -> Tensor:
        samples = problem.train[rows]
        each, turned = calculus.push(lambda theta: problem.gradients(theta, samples), (theta,), (mean,))  # g_i, H_i g
        return each @ curved.T + turned @ query.T

    return torch.cat([some(rows) for rows in torch.split(problem.left_out, BLOCK)])
