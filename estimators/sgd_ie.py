"""SGD-influence: the derivative of the whole run in each sample's weight."""

from torch import Tensor

from benchmark.problem import Trajectory
from benchmark.registry import estimator

PAPER = "Hara, Nitanda, Maehara 2019, arXiv:1906.08473, section 3"


@estimator("sgd-ie", paper=PAPER, loss_units=True, curvature=True)
@estimator("sgd-ie-no-hessian", paper=PAPER + " ('nohess' of the released code)", loss_units=True, curvature=False)
def sgd_ie(run: Trajectory, *, curvature: bool) -> Tensor:
    """``-d L_q(theta_T) / d(weight of i at each of its visits)``, times the 1/|B| that leaving it out takes away.

    Backward through the run: with ``c_T = (u_q, 0 ...)``, each step adds ``-1/|B_t| c_{t+1} dPhi_t/dw_i`` to the visited
    samples and pulls ``c_t = c_{t+1} dPhi_t/ds``. For SGD that is the paper's sum of ``rate/|B| <u_t, g_i(theta_t)>`` with
    ``u_t = (I - rate H_t) u_{t+1}``; momentum and Adam follow by the same rule (ours; the paper has plain SGD). Without
    `curvature` H is left out of the rule. Cost: E N gradients and, with curvature, E N Q Hessian products, for E epochs.
    """
    problem = run.problem
    cotangents = run.states.new_zeros(problem.queries, *run.states.shape[1:])  # (Q, S, P)
    cotangents[:, 0] = run.query_gradients()
    effect = run.final.new_zeros(len(problem.train), problem.queries)
    for t in reversed(range(problem.steps)):
        weights = problem.weights(t)
        cotangents, slope = problem.pull(t, run.states[t], weights, cotangents, curvature=curvature)
        effect.index_add_(0, problem.batch(t), -(weights * slope).T)
    return effect
