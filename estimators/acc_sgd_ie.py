"""Accumulative SGD-influence: the shift of the whole state, carried forward for each sample left out."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.problem import Trajectory
from benchmark.registry import estimator

PAPER = "Shi et al. 2025, arXiv:2510.26185, eqs. 6-8"


@estimator("acc-sgd-ie", paper=PAPER, loss_units=True, all_horizons=True, exact=False)
@estimator("acc-sgd-ie-exact", paper=PAPER + "; exact readout ours", loss_units=True, all_horizons=True, exact=True)
def acc_sgd_ie(run: Trajectory, *, exact: bool) -> Tensor:
    """Readout of the shift ``d_i <- Phi_t(s, w_-i) + dPhi_t(s, w_-i)/ds d_i - s_next``, w_-i without sample i, at each horizon.

    For SGD: ``d <- (I - rate H_t) d + [i in B_t] rate/|B_t| (g_i + H_i d)``. Momentum and Adam follow by the same rule
    (ours; the paper has plain SGD). Linear readout ``<u_q, d>``, or with `exact` the loss at the shifted parameters. The
    equations are known to us from a summary and the released code. Cost: E K N Hessian products, for E epochs.
    """
    return torch.stack([cut.readout(shift, exact=exact) for cut, shift in zip(run.at_horizons(), shifts(run), strict=True)])


def shifts(run: Trajectory) -> Iterator[Tensor]:
    """Shift (K, P) of the parameters at each horizon, for each sample left out."""
    problem = run.problem
    shift = run.states.new_zeros(len(problem.left_out), *run.states.shape[1:])  # (K, S, P)
    for t in range(problem.steps):
        shift = advance(run, t, shift)
        if t + 1 in problem.horizons:
            yield shift[:, 0]


def advance(run: Trajectory, t: int, shift: Tensor) -> Tensor:
    """The shifts (K, S, P) after step t from those before it."""
    problem, state = run.problem, run.states[t]
    batch, weights = problem.batch(t), problem.weights(t)
    _, moved = problem.push(t, state, weights, shift)
    absent = problem.left_out[:, None] == batch  # (K, |B|)
    here = absent.any(1)
    if here.any():
        stepped, carried = problem.push(t, state, weights * ~absent[here], shift[here])
        moved[here] = stepped + carried - run.states[t + 1]
    return moved
