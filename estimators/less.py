"""LESS: the angle between a query's gradient and the step that the optimiser would take on a sample alone."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.estimating import Trajectory, calculus, estimator

PAPER = "Xia et al. 2024, arXiv:2402.04333, section 3.1 and definition 3.1"
BLOCK = 256  # samples whose gradients are held at once: bounds memory


@estimator("less", paper=PAPER, optimizers=("adam", "adamw"), checkpoints=4)
def less(run: Trajectory, *, checkpoints: int) -> Tensor:
    """``sum_c rate_c cos(u_q(theta_c), Gamma_i(theta_c))`` (K, Q), Gamma_i Adam's update direction on sample i alone.

    The checkpoints c are the last steps of that many segments of the run (the paper's: ends of epochs), rate_c the mean rate
    of the segment. The released code leaves out the bias correction and has eps inside the root; here it is the paper's form.
    Ours: gradients unprojected, for the projection to 8192 dimensions is there to save memory. AdamW's decay of the weights
    is the same for all samples and no part of Gamma. Cost: K gradients and those of the queries, at each checkpoint.
    """
    problem = run.problem
    effect = run.final.new_zeros(len(problem.left_out), problem.queries)
    for segment in run.segments(checkpoints):
        last, rate = segment[-1], sum(map(problem.optimizer.rate, segment)) / len(segment)
        query = normalize(problem.query_gradients(run.params(last)), dim=1)  # (Q, P)
        blocks = torch.split(problem.left_out, BLOCK)
        effect += rate * torch.cat([normalize(directions(run, last, rows), dim=1) @ query.T for rows in blocks])
    return effect


def directions(run: Trajectory, t: int, rows: Tensor) -> Tensor:
    """``Gamma = m'/(1-b1^k) / (sqrt(v'/(1-b2^k)) + eps)`` of the samples in `rows`, k = t + 1. (B,) -> (B, P)

    ``m' = b1 m + (1-b1) g_i`` and ``v' = b2 v + (1-b2) g_i^2`` from the moments m, v of the run before step t.
    """
    problem, state = run.problem, run.states[t].clone()
    state[0] = 0  # from there the optimiser's step is -rate Gamma, without rounding of the parameters and without decay

    def moved(gradient: Tensor) -> Tensor:
        return problem.optimizer.step(state, gradient, t)[0]

    found: Tensor = calculus.many(moved, over=(0,))(problem.gradients(run.params(t), problem.train[rows]))
    return found / -problem.optimizer.rate(t)
