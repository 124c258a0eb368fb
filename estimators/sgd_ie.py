"""SGD-influence: the derivative of the whole run in each sample's weight."""

from functools import partial

from torch import Tensor

from benchmark.estimating import SGD_IE, Trajectory, backward, effects, estimator

PAPER = "Hara, Nitanda, Maehara 2019, arXiv:1906.08473, section 3"
variant = partial(estimator, loss_units=True, optimizers=("sgd", "momentum"))


@variant("sgd-ie", paper=PAPER, curvature=True)
@variant("sgd-ie-no-hessian", paper=PAPER + " ('nohess' of the released code)", curvature=False)
def sgd_ie(run: Trajectory, *, curvature: bool) -> Tensor:
    """``sum_t rate_t/|B_t| <u_t, g_i(theta_t)>`` over the visits of i; ``u_t = (I - rate_t H_t) u_{t+1}``, u_T = u_q. (N, Q)

    It is the derivative of the whole run in the sample's weight, times the 1/|B| that leaving it out takes away. With momentum
    it is the same derivative, of that step (ours; the paper has plain SGD). Without `curvature` H_t is left out.
    Cost: E N + Q gradients and, with curvature, E N Q Hessian products, for E epochs.
    """
    return backward(run, curvature=curvature)


@variant("sgd-ie-forward", paper=PAPER, all_horizons=True, readout="linear")
@variant("sgd-ie-logit", paper=PAPER + "; readout ours", all_horizons=True, readout="logit")
@variant("sgd-ie-exact", paper=PAPER + "; readout ours", all_horizons=True, readout="exact")
def sgd_ie_forward(run: Trajectory, *, readout: str) -> Tensor:
    """Readout of the shift ``d_i <- (I - rate H_t) d_i + [i in B_t] rate/|B_t| g_i``, carried forward. (H, K, Q)

    Linearly read it is SGD-IE again; a shift can also be read through the outputs or exactly (`readout`).
    Cost: E N gradients and E K N Hessian products, for E epochs.
    """
    return effects(run, SGD_IE, readout)
