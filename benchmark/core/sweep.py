"""The derivative of the whole run in each sample's weight, swept backward for all queries at once."""

from torch import Tensor

from benchmark.core.problem import Problem
from benchmark.core.trajectory import Trajectory


def backward(run: Trajectory, *, curvature: bool = True, before: int | None = None) -> Tensor:
    """``-sum_t w_it dL_q(theta_T)/dw_it`` over the visits t of sample i, (N, Q); w_it = 1/|B_t| is what leaving out takes away.

    Where the counterfactual is `renormalised`, what leaving out adds to the weights of the others is taken away too.
    With ``c_T = (u_q, 0 ...)`` each step adds ``-1/|B_t| c_{t+1} dPhi_t/dw_i`` to the samples it visits and pulls
    ``c_t = c_{t+1} dPhi_t/ds``: the derivative through every optimiser's own step. Without `curvature` the Hessian is left out
    of dPhi_t/ds. Only visits at steps before `before` count, by default all. Cost: E N + Q gradients and, with curvature,
    E N Q Hessian products, for E epochs.
    """
    problem = run.problem
    cotangents = run.final.new_zeros(problem.queries, *run.states.shape[1:])  # (Q, S, P)
    cotangents[:, 0] = run.query_gradients()
    effect = run.final.new_zeros(len(problem.train), problem.queries)
    for t in reversed(range(problem.steps)):
        weights = problem.weights(t)
        cotangents, slope = problem.pull(t, run.states[t], weights, cotangents, curvature=curvature)
        if before is None or t < before:
            effect.index_add_(0, problem.batch(t), -taken_away(problem, weights * slope).T)
    return effect


def taken_away(problem: Problem, slope: Tensor) -> Tensor:
    """What leaving out each sample of a batch takes away, of slopes (Q, |B|) in the weights, times the weights 1/|B|.

    The sample's own, or, `renormalised`, ``(s_i - mean_b s_b) |B| / (|B| - 1)``: its weight goes to the others, if there are.
    """
    size = slope.shape[1]
    if problem.counterfactual == "zero-weight" or size == 1:
        return slope
    return (slope - slope.mean(1, keepdim=True)) * (size / (size - 1))
