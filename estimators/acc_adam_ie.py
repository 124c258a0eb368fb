"""Accumulative Adam-influence: the gradient linearised without the sample, the optimiser's map linearised or kept exact."""

from functools import partial

from torch import Tensor

from benchmark.estimating import Rule, Trajectory, effects, estimator

PAPER = "named by Shi et al. 2025, arXiv:2510.26185, without a formula; ours"
variant = partial(estimator, paper=PAPER, loss_units=True, all_horizons=True, optimizers=("adam", "adamw"), interpretation=True)


@variant("acc-adam-ie", exact_map=False, readout="linear")
@variant("acc-adam-ie-logit", exact_map=False, readout="logit")
@variant("acc-adam-ie-exact", exact_map=False, readout="exact")
@variant("acc-adam-ie-exact-map", exact_map=True, readout="linear")
@variant("acc-adam-ie-exact-map-logit", exact_map=True, readout="logit")
@variant("acc-adam-ie-exact-map-exact", exact_map=True, readout="exact")
def acc_adam_ie(run: Trajectory, *, exact_map: bool, readout: str) -> Tensor:
    """Readout (H, K, Q) of ``d_i <- Phi_t(s, w_-i) + dPhi_t(s, w_-i)/ds d_i - s_next``, w_-i the weights without sample i.

    The gradient of the run without i is linearised at the reference run, ``g_-i + H_-i d``. Adam's map from moments and that
    gradient to the next state is linearised at ``(s, g_-i)``, or with `exact_map` not at all:
    ``d_i <- step(s + d_i, g_-i + H_-i d_i) - step(s, g)``, exact where gradients are linear, as in least squares.
    Cost: E N gradients and E K N Hessian products, for E epochs.
    """
    return effects(run, Rule("curvature", exact_map), readout)
