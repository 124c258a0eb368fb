"""Accumulative SGD-influence: the shift of the whole state, carried forward for each sample left out."""

from functools import partial

from torch import Tensor

from benchmark.estimating import ACC, Trajectory, effects, estimator

PAPER = "Shi et al. 2025, arXiv:2510.26185, eqs. 6-8"
variant = partial(estimator, loss_units=True, all_horizons=True, optimizers=("sgd", "momentum"))


@variant("acc-sgd-ie", paper=PAPER, readout="linear")
@variant("acc-sgd-ie-logit", paper=PAPER + "; logit readout ours", readout="logit")
@variant("acc-sgd-ie-exact", paper=PAPER + "; exact readout ours", readout="exact")
def acc_sgd_ie(run: Trajectory, *, readout: str) -> Tensor:
    """Readout (H, K, Q) of the shift ``d_i <- (I - rate H_t) d_i + [i in B_t] rate/|B_t| (g_i + H_i d_i)``.

    With momentum the same change of the gradient goes into the velocity (ours; the paper has plain SGD). The equations are
    known to us from a summary and the released code. The paper's readout is linear, ``<u_q, d_i>``; the logit readout takes the
    exact loss of linearised outputs, the exact one the loss at the shifted parameters (`readout`).
    Cost: E N gradients and E K N Hessian products, for E epochs.
    """
    return effects(run, ACC, readout)
