"""ACC with the sample's own gradient taken at the shifted parameters, not linearised."""

from torch import Tensor

from benchmark.estimating import Rule, Trajectory, effects, estimator

PAPER = "ours; after Shi et al. 2025, arXiv:2510.26185, eqs. 6-8"


@estimator("self-gradient", paper=PAPER, loss_units=True, all_horizons=True, readout="linear")
@estimator("self-gradient-exact", paper=PAPER, loss_units=True, all_horizons=True, readout="exact")
def self_gradient(run: Trajectory, *, readout: str) -> Tensor:
    """Readout (H, K, Q) of ``d_i <- (I - rate H_t) d_i + [i in B_t] rate/|B_t| g_i(theta_t + d_i)``.

    ACC has ``g_i + H_i d_i`` there. This is the closer gradient but need not give the closer shift: ACC's ``H_i d_i`` cancels
    against the sample's part of ``H_t d_i``, as in the run without it, while what is bent in ``g_i(theta + d_i)`` is left over.
    Momentum and Adam step with the same gradient, ``g + H d_i - g_i(theta + d_i)/|B|``; their
    map from gradient to state is kept exact. Cost: E N + E K gradients and E K N Hessian products, for E epochs.
    """
    return effects(run, Rule("exact", exact_map=True), readout)
